"""Whose an agent is: leases of silent schedulers, replaced schedulers, workers given up."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from distributed import Scheduler, Worker
from distributed.diagnostics.plugin import SchedulerPlugin

from gc_bootstrap.agent.link import LOOKS
from gc_bootstrap.agent.listen import Listen
from gc_bootstrap.agent.run import AgentOptions, AgentServer
from gc_bootstrap.errors import DistError
from gc_bootstrap.peer import Outcome, Peer
from gc_bootstrap.scheduler.dask import DaskDist
from gc_bootstrap.wire import names
from gc_bootstrap.wire.messages import AttachRequest
from gc_bootstrap.wire.tag import KEY, Tag
from tests.integration.clusters import DistFactory
from tests.integration.harness import (
    agent_here,
    free_port,
    options_of,
    request,
    scheduler_here,
    until,
)


@asynccontextmanager
async def impatient_agent(lease_timeout: float) -> AsyncIterator[AgentServer]:
    options = AgentOptions(
        options_of("--no-nanny"), Listen.parse("127.0.0.1:0"), None, lease_timeout=lease_timeout
    )
    async with AgentServer(options) as agent:
        yield agent


async def _never(**keywords: object) -> None:
    await asyncio.Event().wait()


# -- leases ----------------------------------------------------------------------------------------


async def test_a_scheduler_that_answers_keeps_its_lease(
    scheduler: Scheduler, dists: DistFactory
) -> None:
    asked = 0

    async def identity(**keywords: Any) -> Any:
        nonlocal asked
        asked += 1
        return scheduler.identity(**keywords)

    async with impatient_agent(1.0) as agent:
        assert await (await dists()).connect(agent.peer)
        scheduler.handlers["identity"] = identity
        await until(lambda: asked >= 2 * LOOKS, "twice as long as it may be silent")
        assert agent.agent.state == "attached"


async def test_the_lease_of_a_silent_scheduler_ends_and_another_can_attach(
    scheduler: Scheduler, dists: DistFactory, caplog: pytest.LogCaptureFixture
) -> None:
    async with impatient_agent(0.5) as agent, scheduler_here() as second:
        first, other = await dists(), await dists(scheduler=second)
        assert await first.connect(agent.peer)
        scheduler.handlers["identity"] = _never
        assert (await other.connect(agent.peer)).kind == "refused"
        await until(lambda: agent.agent.state == "idle", "the lease has ended")
        assert "has given no sign of life for 0.5 s: its lease ends" in caplog.text
        assert await other.connect(agent.peer)
        # It wakes up.
        del scheduler.handlers["identity"]
        scheduler.handlers["identity"] = scheduler.identity
        assert await first.members() == frozenset()
        outcome = await first.connect(agent.peer)
        assert outcome.reason == f"held by scheduler {second.id} at {second.address}"
        assert await other.members() == {agent.peer}


# -- replaced schedulers ---------------------------------------------------------------------------


async def test_an_attach_for_a_scheduler_that_was_replaced_at_its_address_fails(
    scheduler: Scheduler,
) -> None:
    registered: list[str] = []

    class Registrations(SchedulerPlugin):
        def add_worker(self, scheduler: Scheduler, worker: str) -> None:
            registered.append(worker)

    scheduler.add_plugin(Registrations())
    async with agent_here(insecure=True) as agent:
        late = AttachRequest(scheduler.address, "Scheduler-of-before", str(agent.peer))
        status, answer = await request(agent.peer, "POST", names.ATTACH, late.encode())
        assert status == 502
        assert answer["error"] == f"another scheduler is at {scheduler.address}: {scheduler.id}"
        await until(lambda: agent.agent.state == "idle", "the agent is idle")
        assert not registered


async def test_workers_of_the_scheduler_of_before_are_no_members(
    scheduler: Scheduler, dists: DistFactory
) -> None:
    tag = Tag("Scheduler-of-before", "127.0.0.1:8791", "default")
    information = {KEY: lambda worker: tag.encode()}
    dist = await dists()
    async with Worker(scheduler.address, nthreads=1, startup_information=information) as worker:
        assert worker.address in scheduler.workers
        assert await dist.members() == frozenset()


# -- workers that the scheduler has given up -------------------------------------------------------


@pytest.fixture
async def given_up(
    scheduler: Scheduler, dists: DistFactory
) -> AsyncIterator[tuple[DaskDist, AgentServer]]:
    """An agent that says it is attached, while its scheduler does not know the worker any more."""
    async with agent_here() as agent:
        dist = await dists()
        assert await dist.connect(agent.peer)
        (address,) = scheduler.workers
        await scheduler.remove_worker(address, stimulus_id="test", close=False)
        assert agent.agent.state == "attached"
        assert await dist.members() == frozenset()
        yield dist, agent


async def test_a_worker_that_was_given_up_is_ended_and_the_agent_attached_anew(
    given_up: tuple[DaskDist, AgentServer], scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    dist, agent = given_up
    with caplog.at_level(logging.INFO, "gc_bootstrap"):
        assert await dist.connect(agent.peer) == Outcome.DONE
    assert await dist.members() == {agent.peer}
    assert len(scheduler.workers) == 1
    assert "still has workers that are none here: they are ended" in caplog.text


async def test_a_worker_that_was_given_up_is_settled_under_another_name_too(
    given_up: tuple[DaskDist, AgentServer], scheduler: Scheduler
) -> None:
    dist, agent = given_up
    other_name = Peer("localhost", agent.peer.port)
    assert await dist.connect(other_name) == Outcome.DONE
    assert await dist.members() == {other_name}
    assert len(scheduler.workers) == 1


async def test_a_worker_that_was_given_up_is_settled_by_another_pool_too(
    given_up: tuple[DaskDist, AgentServer], dists: DistFactory
) -> None:
    _, agent = given_up
    second = await dists(pool="second")
    assert await second.connect(agent.peer) == Outcome.DONE
    assert await second.members() == {agent.peer}


async def test_dropping_who_has_no_worker_here_and_cannot_be_reached_is_an_error(
    dists: DistFactory,
) -> None:
    with pytest.raises(DistError, match="is not reachable"):
        await (await dists()).disconnect(Peer("127.0.0.1", free_port()))
