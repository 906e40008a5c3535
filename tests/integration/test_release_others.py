"""Releases that others meddle with, cancelled ones, and how they show."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack
from typing import Any

import pytest
from distributed import Client, Scheduler, wait
from distributed.diagnostics.plugin import SchedulerPlugin

from gc_bootstrap.cli.report import drained, troubles
from gc_bootstrap.peer import Outcome
from gc_bootstrap.scheduler.dask import DaskDist
from gc_bootstrap.scheduler.drains import Drainer
from gc_bootstrap.scheduler.plugin import BootstrapPlugin
from tests.integration.clusters import (
    Cluster,
    Form,
    Hands,
    Ledger,
    cancelled,
    form_by,
    idle,
    in_order,
    looks_on,
    results,
    running,
    takes_again,
    takes_nothing,
    works_again,
)
from tests.integration.harness import agent_here, until
from tests.integration.test_drain_release import off_work, release, releasing


async def test_a_peer_that_is_needed_again_works_on_at_once(form: Form, ledger: Ledger) -> None:
    cluster = await form(2)
    futures = await results(cluster, 10)
    held = await running(cluster, ledger, 0)
    task = await releasing(cluster, 0)
    await cancelled(task)
    assert not off_work(cluster, 0)
    ledger.open.set()
    await works_again(cluster, 0)
    assert await cluster.client.gather([*futures, held]) == [*range(10), "held"]
    assert set(ledger.runs.values()) == {1}


async def test_a_peer_that_is_needed_again_while_its_workers_end_is_attached_again(
    form: Form, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cluster = await form(1)
    agent = cluster.agents[0].agent
    detach, asked, answer = agent.detach, asyncio.Event(), asyncio.Event()

    async def slowly(request: Any) -> None:
        asked.set()
        await answer.wait()
        await detach(request)

    monkeypatch.setattr(agent, "detach", slowly)
    task = asyncio.create_task(release(cluster, 0))
    await asked.wait()
    await cancelled(task)
    connect = asyncio.create_task(cluster.dist.connect(cluster.agents[0].peer))
    with caplog.at_level(logging.INFO, "gc_bootstrap"):
        answer.set()
        assert await connect == Outcome.DONE
    assert "are none here" not in caplog.text
    await works_again(cluster, 0)


class Cancels(SchedulerPlugin):
    """Cancels a task in the turn in which a worker is forgotten."""

    task: asyncio.Task[Any]

    def remove_worker(self, scheduler: Scheduler, worker: str, **kwargs: Any) -> None:
        self.task.cancel()


@pytest.mark.parametrize("how", ["disconnect", "release"])
async def test_a_peer_that_is_needed_again_when_its_worker_is_just_gone_is_attached_again(
    form: Form, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    cluster = await form(1)
    cancels = Cancels()
    cluster.scheduler.add_plugin(cancels, name="cancels")
    peer = cluster.agents[0].peer
    cancels.task = asyncio.create_task(getattr(cluster.dist, how)(peer))
    await asyncio.wait([cancels.task])
    assert cancels.task.cancelled()
    assert not cluster.scheduler.workers
    with caplog.at_level(logging.INFO, "gc_bootstrap"):
        assert await cluster.dist.connect(peer) == Outcome.DONE
    assert "are none here" not in caplog.text
    await works_again(cluster, 0)


@pytest.mark.parametrize("first", ["release", "force"])
async def test_who_wants_it_in_any_case_has_the_say(
    form: Form, ledger: Ledger, hands: Hands, first: str
) -> None:
    cluster = await form_by(form, hands, 2)
    held = await running(cluster, ledger, 0)
    drainer, peer = Drainer.of(cluster.scheduler), cluster.agents[0].peer
    if first == "release":
        task = await releasing(cluster, 0)
        hands.now = 50.0
    force = asyncio.create_task(drainer.drain_peer(peer, "default", drainer.within(20.0), "agent"))
    await looks_on(cluster, 0)
    if first == "force":
        task = await releasing(cluster, 0)
    left = drainer.progress(peer, "default")
    assert left.startswith("draining: 1 tasks, ")
    assert left.endswith(", 20 s left")
    assert ledger.runs == {"held": 1}, "it has the half of its time, from now on"
    hands.now += 11.0
    await until(lambda: ledger.entered.acquire(blocking=False), "the task starts again elsewhere")
    ledger.open.set()
    assert list(map(str, (await force).values())) == ["1 running tasks, which start again (0 B)"]
    assert "lost 1 running tasks" in (await task).reason
    assert await held == "held"


async def test_sigterm_of_the_agent_takes_a_release_over(form: Form, ledger: Ledger) -> None:
    cluster = await form(2)
    futures = await results(cluster, 10)
    held = await running(cluster, ledger, 0)
    task = await releasing(cluster, 0)
    drain = asyncio.create_task(cluster.agents[0].drain())
    peer, drainer = cluster.agents[0].peer, Drainer.of(cluster.scheduler)
    await until(lambda: drainer.progress(peer, "default").startswith("draining"), "it has joined")
    await cancelled(task)
    await looks_on(cluster, 0)
    assert not drain.done()
    ledger.open.set()
    await drain
    assert len(cluster.scheduler.workers) == 1
    assert await cluster.client.gather([*futures, held]) == [*range(10), "held"]
    assert set(ledger.runs.values()) == {1}


async def test_a_drain_of_which_a_release_is_left_goes_on_as_one(
    form: Form, ledger: Ledger, hands: Hands
) -> None:
    cluster = await form_by(form, hands, 2)
    held = await running(cluster, ledger, 0)
    drainer, peer = Drainer.of(cluster.scheduler), cluster.agents[0].peer
    force = asyncio.create_task(drainer.drain_peer(peer, "default", drainer.within(20.0)))
    await looks_on(cluster, 0)
    task = await releasing(cluster, 0)
    await cancelled(force)
    hands.now = 59.0
    await looks_on(cluster, 0)
    assert drainer.progress(peer, "default").startswith("releasing: 1 tasks, ")
    ledger.open.set()
    assert await task == Outcome.DONE
    assert await held == "held"
    assert ledger.runs == {"held": 1}


async def test_the_end_of_the_scheduler_ends_a_release_and_frees_the_agent(
    form: Form, ledger: Ledger
) -> None:
    cluster = await form(2)
    await running(cluster, ledger, 0)
    task = await releasing(cluster, 0)
    ledger.open.set()
    await cluster.scheduler.close()
    await asyncio.gather(task, return_exceptions=True)
    assert task.done()
    await until(lambda: idle(cluster, 0) and idle(cluster, 1), "the agents are free")


async def test_data_that_nobody_takes_yet_is_moved_once_somebody_does(
    form: Form, ledger: Ledger
) -> None:
    cluster = await form(1)
    futures = await results(cluster, 10)
    await form.add(cluster)
    takes_nothing(cluster.worker(1))
    task = await releasing(cluster, 0)
    takes_again(cluster.worker(1))
    assert await task == Outcome.DONE
    assert await cluster.client.gather(futures) == list(range(10))
    assert set(ledger.runs.values()) == {1}


# -- the status ------------------------------------------------------------------------------------


async def test_releases_show_as_such_and_are_no_trouble(
    scheduler: Scheduler, ledger: Ledger, stack: AsyncExitStack
) -> None:
    agents = [await stack.enter_async_context(agent_here(insecure=True)) for _ in range(2)]
    discovery = "static:" + ",".join(str(agent.peer) for agent in agents)
    client = await Client(scheduler.address, asynchronous=True)
    stack.push_async_callback(client.close)
    plugin = BootstrapPlugin(discovery=discovery, refresh_interval="1h")
    await scheduler.register_scheduler_plugin(plugin, idempotent=False)
    await until(lambda: len(scheduler.workers) == 2, "the cluster is complete")
    dist = plugin.pools["default"].dist
    assert isinstance(dist, DaskDist)
    cluster = Cluster(scheduler, client, dist, agents)
    futures = await results(cluster, 4)
    await wait(futures)
    peers = [str(agent.peer) for agent in agents]
    assert await release(cluster, 0)
    assert not await release(cluster, 1)
    status = await plugin.status()
    (pool,) = status["pools"]
    assert [drain["state"] for drain in pool["drains"]] == ["done", "called-off"]
    (off, off_colour), (on, on_colour) = drained(pool)
    assert on.startswith(f"{peers[0]}: released in ")
    assert off.startswith(f"{peers[1]}: release called off after 0.0 s: 4 results (112 B) have no ")
    assert (off_colour, on_colour) == ("dim", "dim")
    assert pool["counters"]["drains"] == 0
    assert not any("drain" in trouble for trouble in troubles(status))
    await in_order(cluster, 1)
