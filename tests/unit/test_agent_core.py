"""An agent between its schedulers: who may attach it, when, and what becomes of it.

Its workers run in this process, for a real scheduler that runs here, too.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest
from distributed import Scheduler
from distributed.security import Security

from gc_bootstrap.agent import lease as lease_module
from gc_bootstrap.agent.core import Agent
from gc_bootstrap.agent.lease import Lease
from gc_bootstrap.agent.link import Link
from gc_bootstrap.agent.state import Event, Life, State
from gc_bootstrap.wire.messages import AttachRequest, DetachRequest, WireError
from gc_bootstrap.wire.tag import Tag
from tests.unit.agents import PEER, attach_by, options, refused
from tests.unit.helpers import eventually

# -- warming up ------------------------------------------------------------------------------------


async def test_an_agent_that_warms_up_is_not_ready_and_says_so(scheduler: Scheduler) -> None:
    agent, warm = Agent(options()), asyncio.Event()

    async def warming() -> None:
        await warm.wait()

    warming_up = asyncio.create_task(agent.warm_up(warming))
    assert (agent.state, agent.life.ready) == ("warming", False)
    assert await refused(agent.attach(attach_by(scheduler))) == (503, "is warming up")
    warm.set()
    await warming_up
    assert (agent.state, agent.life.ready) == ("idle", True)
    await agent.close()


async def test_what_keeps_it_from_warming_up_is_raised() -> None:
    agent = Agent(options())

    async def fails() -> None:
        raise ImportError("no such module")

    with pytest.raises(ImportError, match="no such module"):
        await agent.warm_up(fails)
    assert agent.state == "warming"
    await agent.close()


# -- attaching -------------------------------------------------------------------------------------


async def test_it_is_the_schedulers_with_workers_that_carry_its_tag(
    agent: Agent, scheduler: Scheduler
) -> None:
    reply = await agent.attach(attach_by(scheduler, pool="gpu"))
    assert agent.state == "attached"
    assert (reply.scheduler_id, reply.peer, reply.pool) == (scheduler.id, PEER, "gpu")
    assert list(reply.workers) == list(scheduler.workers)
    (ws,) = scheduler.workers.values()
    assert Tag.decode(ws.extra) == Tag(scheduler.id, PEER, "gpu", agent=agent.id)
    status = agent.status()
    assert (status.state, status.scheduler, status.pool) == ("attached", scheduler.address, "gpu")
    assert status.workers == reply.workers


async def test_attaching_again_changes_nothing(agent: Agent, scheduler: Scheduler) -> None:
    both = [agent.attach(attach_by(scheduler)) for _ in range(2)]
    first, second = await asyncio.gather(*both)
    third = await agent.attach(attach_by(scheduler, peer="localhost:8791"))
    assert first == second == third, "another name, or other workers"
    assert (agent.attaches, agent.failures) == (1, 0)


async def test_another_scheduler_is_told_whose_it_is(agent: Agent, scheduler: Scheduler) -> None:
    await agent.attach(attach_by(scheduler))
    assert await refused(agent.attach(attach_by(scheduler, scheduler_id="another"))) == (
        409,
        f"held by scheduler {scheduler.id} at {scheduler.address}",
    )
    assert agent.state == "attached"


async def test_other_versions_are_refused_before_anything_is_started(
    agent: Agent, scheduler: Scheduler
) -> None:
    request = attach_by(scheduler, versions={"distributed": "1.0"})
    status, reason = await refused(agent.attach(request))
    assert status == 409
    assert reason.startswith("incompatible versions: distributed ")
    assert (agent.state, agent.attaches, agent.failures) == ("idle", 0, 0)


async def test_an_attach_that_fails_leaves_an_idle_agent_and_is_counted(
    agent: Agent, scheduler: Scheduler
) -> None:
    request = attach_by(scheduler, scheduler_id="Scheduler-of-before")
    assert await refused(agent.attach(request)) == (
        502,
        f"another scheduler is at {scheduler.address}: {scheduler.id}",
    )
    await eventually(lambda: agent.state == "idle")
    assert (agent.attaches, agent.failures) == (0, 1)
    await agent.attach(attach_by(scheduler))
    assert (agent.attaches, agent.failures) == (1, 1)


async def test_an_agent_that_cannot_make_a_link_stays_attachable(
    agent: Agent, scheduler: Scheduler
) -> None:
    missing = Security(tls_ca_file="/nowhere/ca.pem", tls_worker_cert="/nowhere/cert.pem")
    usual, agent.options = agent.options, replace(agent.options, security=missing)
    with pytest.raises(OSError, match="No such file"):
        await agent.attach(attach_by(scheduler))
    agent.options = usual
    assert agent.state == "idle"
    await agent.attach(attach_by(scheduler))


async def test_a_scheduler_that_gives_up_waiting_does_not_stop_its_workers_start(
    agent: Agent, scheduler: Scheduler
) -> None:
    attaching = asyncio.create_task(agent.attach(attach_by(scheduler)))
    await asyncio.sleep(0)
    attaching.cancel()
    await asyncio.gather(attaching, return_exceptions=True)
    await eventually(lambda: agent.state == "attached")
    assert len(scheduler.workers) == 1


@pytest.mark.parametrize(
    ("asked", "death_timeout", "given"),
    [(None, None, 29.0), (10.0, None, 9.0), (1.0, None, 0.9), (10.0, "20s", 20.0)],
)
def test_workers_have_a_moment_less_to_start_than_the_scheduler_waits(
    asked: float | None, death_timeout: str | None, given: float
) -> None:
    arguments = [] if death_timeout is None else ["--death-timeout", death_timeout]
    request = AttachRequest("tcp://127.0.0.1:1", "me", PEER, timeout=asked)
    assert Agent(options(*arguments))._start_timeout(request) == given


# -- letting go ------------------------------------------------------------------------------------


async def test_its_holder_lets_it_go_and_nobody_else(agent: Agent, scheduler: Scheduler) -> None:
    await agent.detach(DetachRequest("anybody", PEER))  # it is nobody's
    await agent.attach(attach_by(scheduler))
    assert await refused(agent.detach(DetachRequest("another", PEER))) == (
        409,
        f"held by scheduler {scheduler.id}, not by you",
    )
    assert await refused(agent.detach(DetachRequest(scheduler.id, "10.0.0.9:1"))) == (
        409,
        f"held as {PEER}",
    )
    assert agent.state == "attached"
    await agent.detach(DetachRequest(scheduler.id, PEER))
    assert (agent.state, agent.life.ready) == ("idle", True)
    assert not scheduler.workers


async def test_an_attach_waits_for_the_workers_of_the_last_scheduler(
    agent: Agent, scheduler: Scheduler
) -> None:
    first = await agent.attach(attach_by(scheduler))
    going = asyncio.create_task(agent.detach(DetachRequest(scheduler.id, PEER)))
    await eventually(lambda: agent.life.frees_itself)
    assert (agent.state, agent.life.ready) == ("draining", True)
    second = await agent.attach(attach_by(scheduler))
    await going
    assert agent.state == "attached"
    assert set(first.workers).isdisjoint(second.workers)
    assert list(second.workers) == list(scheduler.workers)


async def test_who_leaves_takes_no_attach_any_more(scheduler: Scheduler) -> None:
    agent = Agent(options())
    await agent.warm_up(None)
    await agent.attach(attach_by(scheduler))
    leaving = asyncio.create_task(agent.drain())
    await eventually(lambda: agent.life.leaves)
    assert (agent.state, agent.life.ready) == ("draining", False)
    assert await refused(agent.attach(attach_by(scheduler))) == (503, "is draining")
    await leaving
    assert agent.life.state is State.ENDED
    assert not scheduler.workers
    await agent.close()
    await agent.close()


async def test_an_agent_that_closes_while_its_workers_start_leaves_none(
    scheduler: Scheduler,
) -> None:
    agent = Agent(options())
    await agent.warm_up(None)
    attaching = asyncio.create_task(agent.attach(attach_by(scheduler)))
    await eventually(lambda: agent.state == "attaching")
    await agent.close()
    assert await refused(attaching) == (503, "the attach was cut short")
    assert agent.life.state is State.ENDED
    await eventually(lambda: not scheduler.workers)
    assert not agent.has_left_a_task


# -- leases ----------------------------------------------------------------------------------------


class SteeredLink(Link):
    """A way to a scheduler whose silence and whose hanging a test decides."""

    def __init__(self, request: AttachRequest, *, hangs: bool) -> None:
        super().__init__(request.scheduler, request.scheduler_id, None)
        self.silent = asyncio.Event()
        self.hangs = hangs
        self.drains: list[float] = []
        self.gone = False

    async def silence(self, seconds: float) -> None:
        await self.silent.wait()

    async def check_same(self) -> None:
        if self.hangs:
            await asyncio.Event().wait()
        await super().check_same()

    async def drain(
        self, tag: Tag, addresses: Any, deadline: float, *, alone: bool = False
    ) -> bool:
        self.drains.append(deadline)
        if self.gone:
            raise ConnectionRefusedError(111, "Connection refused")
        return await super().drain(tag, addresses, deadline, alone=alone)


Hold = Callable[..., tuple[Lease, SteeredLink]]


@pytest.fixture
async def hold(scheduler: Scheduler) -> AsyncIterator[Hold]:
    held: list[Lease] = []

    def make(
        life: Life, *, within: float = 20.0, address: str | None = None, hangs: bool = False
    ) -> tuple[Lease, SteeredLink]:
        request = attach_by(scheduler)
        if address is not None:
            request = replace(request, scheduler=address)
        link = SteeredLink(request, hangs=hangs)
        deadline = asyncio.get_running_loop().time() + within
        times = {"deadline": deadline, "silence": 7.0, "drain_timeout": 60.0}
        held.append(Lease(request, options(), life, link, agent="", **times))
        return held[-1], link

    yield make
    for lease in held:
        await lease.end(abandon=True)
        assert lease.task.done()


def attaching_life() -> Life:
    life = Life()
    life.tell(Event.WARMED)
    life.tell(Event.ATTACH)
    return life


async def test_a_lease_lasts_until_its_scheduler_has_been_silent_for_too_long(
    hold: Hold, scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    life = attaching_life()
    lease, link = hold(life)
    await lease.started
    assert life.state.word == "attached"
    link.silent.set()
    await asyncio.wait([lease.task])
    assert life.state is State.ENDING
    assert "has given no sign of life for 7 s: its lease ends" in caplog.text
    await eventually(lambda: not scheduler.workers)


async def test_workers_that_do_not_start_in_time_are_ended(hold: Hold) -> None:
    life = attaching_life()
    lease, _ = hold(life, within=0.05, hangs=True)
    with pytest.raises(WireError, match=r"no worker has registered within 0\.0\d+ s") as caught:
        await lease.started
    assert caught.value.status == 500
    await asyncio.wait([lease.task])
    assert life.state is State.ENDING


async def test_what_is_no_schedulers_address_is_a_422(hold: Hold) -> None:
    lease, _ = hold(attaching_life(), address="nonsense")
    with pytest.raises(WireError, match="is not a scheduler's address") as caught:
        await lease.started
    assert caught.value.status == 422


async def test_an_unreachable_scheduler_is_said_before_its_workers_have_given_up(
    hold: Hold, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "PATIENCE", 0.0)
    lease, _ = hold(attaching_life(), address="tcp://127.0.0.1:1", hangs=True)
    with pytest.raises(WireError, match=r"cannot reach the scheduler at tcp://127\.0\.0\.1:1"):
        await lease.started


async def test_callers_share_a_drain_and_the_first_ones_deadline(
    hold: Hold, scheduler: Scheduler
) -> None:
    life = attaching_life()
    lease, link = hold(life)
    await lease.started
    now = asyncio.get_running_loop().time()
    await asyncio.gather(lease.drain(now + 10.0), lease.drain(now + 20.0))
    assert link.drains == [now + 10.0]
    assert life.state is State.ENDING
    assert lease.task.done()
    assert not scheduler.workers


async def test_a_drain_waits_for_a_start_that_is_under_way(
    hold: Hold, scheduler: Scheduler
) -> None:
    life = attaching_life()
    lease, link = hold(life)
    await lease.drain(asyncio.get_running_loop().time() + 10.0)
    assert lease.started.exception() is None, "its worker had begun, and may have tasks"
    assert len(link.drains) == 1
    assert not scheduler.workers


async def test_workers_of_a_scheduler_that_is_gone_are_not_waited_for(
    hold: Hold, caplog: pytest.LogCaptureFixture
) -> None:
    lease, link = hold(attaching_life())
    await lease.started
    link.gone = True
    with caplog.at_level(logging.WARNING, "gc_bootstrap.agent"):
        await lease.drain(asyncio.get_running_loop().time() + 3600.0)
    assert "could not be asked to take the data: Connection refused" in caplog.text
    assert lease.task.done()
