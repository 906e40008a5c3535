"""Drains that somebody else meddles with: other retirements, closing pools, broken connections."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack
from typing import Any

import pytest
from distributed import Client, Scheduler
from distributed.core import Status
from distributed.diagnostics.plugin import SchedulerPlugin

from gc_bootstrap.errors import DistError
from gc_bootstrap.scheduler._dask import is_retired
from gc_bootstrap.scheduler.drains import Drainer
from gc_bootstrap.scheduler.plugin import BootstrapPlugin
from gc_bootstrap.wire.names import DRAIN_HANDLER, REPORT_ANSWER
from tests.integration.clusters import (
    Cluster,
    Form,
    Ledger,
    cancelled,
    draining,
    in_order,
    looks_on,
    results,
    running,
    takes_again,
    takes_nothing,
    works_again,
)
from tests.integration.harness import agent_here, until


def retiring(cluster: Cluster) -> bool:
    """Whether somebody retires a worker by Dask's own means."""
    return any(is_retired(cluster.scheduler, address) for address in cluster.scheduler.workers)


async def retire(cluster: Cluster, number: int) -> asyncio.Task[dict[str, Any]]:
    """Begin a retirement as an adaptive cluster, or a client, does it."""
    retirement = asyncio.create_task(
        cluster.scheduler.retire_workers([cluster.address(number)], close_workers=False)
    )
    await until(lambda: retiring(cluster), "the retirement is under way")
    return retirement


async def test_a_report_that_comes_after_its_drain_is_over_does_no_harm(
    form: Form, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = await form(2)
    futures = await results(cluster, 10, workers=[cluster.address(0)])
    worker, late = cluster.worker(0), []
    send = worker.batched_send

    def slowly(message: dict[str, Any]) -> None:
        if message["op"] == REPORT_ANSWER:
            late.append(message)
        else:
            send(message)

    monkeypatch.setattr(worker, "batched_send", slowly)
    drop = await draining(cluster, 0)
    await until(lambda: late, "the worker reports")
    await cancelled(drop)
    await cluster.dist.close()
    for message in late:
        send(message)
    await works_again(cluster, 0)
    assert await cluster.client.gather(futures) == list(range(10))
    assert set(ledger.runs.values()) == {1}


# -- the plugin ------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Scheduler already contains a plugin")
@pytest.mark.parametrize("what", ["replaced", "unregistered"])
async def test_the_drain_of_an_agent_outlives_the_plugin_and_loses_nothing(
    scheduler: Scheduler, ledger: Ledger, stack: AsyncExitStack, what: str
) -> None:
    agents = [await stack.enter_async_context(agent_here(insecure=True)) for _ in range(2)]
    discovery = "static:" + ",".join(str(agent.peer) for agent in agents)
    client = await Client(scheduler.address, asynchronous=True)
    stack.push_async_callback(client.close)
    await client.register_plugin(BootstrapPlugin(discovery=discovery))

    def attached() -> bool:
        return all(agent.agent.state == "attached" for agent in agents)

    await until(attached, "the cluster is complete")
    cluster = Cluster(scheduler, client, None, agents)  # type: ignore[arg-type]
    gone = cluster.address(0)
    futures = await results(cluster, 10, workers=[gone])
    held = await running(cluster, ledger, 0)
    drain = asyncio.create_task(agents[0].drain())
    worker = cluster.worker(0)
    await until(lambda: worker.status == Status.closing_gracefully, "the worker drains")
    before = scheduler.plugins[BootstrapPlugin.name]
    assert isinstance(before, BootstrapPlugin)
    if what == "replaced":
        await client.register_plugin(BootstrapPlugin(discovery=discovery, refresh_interval="2s"))
        assert scheduler.plugins[BootstrapPlugin.name] is not before
    else:
        await client.unregister_scheduler_plugin(BootstrapPlugin.name)
    await until(lambda: before._closed, "the first plugin is closed")
    await looks_on(cluster, 0)
    assert not drain.done()
    assert worker.status == Status.closing_gracefully
    ledger.open.set()
    await drain
    assert gone not in scheduler.workers
    assert await client.gather([*futures, held]) == [*range(10), "held"]
    assert set(ledger.runs.values()) == {1}


# -- the agent's connection ------------------------------------------------------------------------


async def test_an_agent_whose_connection_breaks_asks_again_and_joins_the_drain(
    form: Form, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    cluster = await form(2)
    futures = await results(cluster, 10, workers=[cluster.address(0)])
    held = await running(cluster, ledger, 0)

    def asking() -> list[Any]:
        comms = cluster.scheduler._comms.items()
        return [comm for comm, op in comms if op == DRAIN_HANDLER and not comm.closed()]

    with caplog.at_level(logging.INFO, "gc_bootstrap"):
        drain = asyncio.create_task(cluster.agents[0].drain())
        await until(asking, "the agent asks for its drain")
        for comm in asking():
            comm.abort()
        assert not asking()
        await until(asking, "the agent asks again")
        assert not drain.done()
        ledger.open.set()
        await drain
    assert "Asking the scheduler again for a drain" in caplog.text
    assert caplog.text.count("draining, for up to") == 1
    assert await cluster.client.gather([*futures, held]) == [*range(10), "held"]
    assert set(ledger.runs.values()) == {1}


# -- retirements by others -------------------------------------------------------------------------


async def test_a_cancelled_drain_leaves_the_retirement_by_somebody_else_alone(
    form: Form, ledger: Ledger
) -> None:
    cluster = await form(1)
    futures = await results(cluster, 10)
    await form.add(cluster)
    takes_nothing(cluster.worker(1))
    gone = cluster.address(0)
    retirement = await retire(cluster, 0)
    drop = await draining(cluster, 0)
    await looks_on(cluster, 0)
    await cancelled(drop)
    assert retiring(cluster)
    await in_order(cluster, 0)
    assert not retirement.done()
    assert cluster.state(0).status == Status.closing_gracefully
    takes_again(cluster.worker(1))
    assert list(await retirement) == [gone]
    assert await cluster.client.gather(futures) == list(range(10))
    assert set(ledger.runs.values()) == {1}


@pytest.mark.parametrize("first", ["theirs", "ours"])
async def test_a_worker_whose_retirement_was_given_up_works_after_a_cancelled_drain(
    form: Form, ledger: Ledger, first: str
) -> None:
    cluster = await form(1, None, "--memory-limit", "0")  # or it would unpause by itself
    futures = await results(cluster, 10)
    await form.add(cluster, "--memory-limit", "0")
    takes_nothing(cluster.worker(1))
    if first == "theirs":
        retirement = await retire(cluster, 0)
        drop = await draining(cluster, 0)
    else:
        drop = await draining(cluster, 0)
        retirement = await retire(cluster, 0)
    other = cluster.state(1)
    cluster.worker(1).status = Status.paused
    await until(lambda: other.status == Status.paused, "the scheduler knows")
    cluster.scheduler.extensions["amm"].run_once()
    assert await retirement == {}
    await looks_on(cluster, 0)
    assert not drop.done()
    assert cluster.state(0).status == Status.closing_gracefully
    await cancelled(drop)
    await works_again(cluster, 0)
    assert await cluster.client.gather(futures) == list(range(10))


@pytest.mark.parametrize("manager", ["running", "stopped"])
async def test_a_retirement_that_began_after_a_drain_goes_on_without_it_and_may_be_given_up(
    form: Form, ledger: Ledger, manager: str
) -> None:
    cluster = await form(1, None, "--memory-limit", "0")
    futures = await results(cluster, 10)
    await form.add(cluster, "--memory-limit", "0")
    if manager == "stopped":
        cluster.scheduler.extensions["amm"].stop()
    takes_nothing(cluster.worker(1))
    drop = await draining(cluster, 0)
    retirement = await retire(cluster, 0)
    await cancelled(drop)
    await in_order(cluster, 0)
    assert not retirement.done()
    assert cluster.state(0).status == Status.closing_gracefully, "put back in the middle of theirs"
    other = cluster.state(1)
    cluster.worker(1).status = Status.paused
    await until(lambda: other.status == Status.paused, "the scheduler knows")
    assert await retirement == {}
    await works_again(cluster, 0)
    assert await cluster.client.gather(futures) == list(range(10))


# -- cancelled drains ------------------------------------------------------------------------------


async def test_a_drain_cancelled_before_its_first_step_puts_the_worker_back_to_work(
    form: Form, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    cluster = await form(2)
    drainer = Drainer.of(cluster.scheduler)
    with caplog.at_level(logging.INFO, "gc_bootstrap.scheduler"):
        peer = cluster.agents[0].peer
        asked = asyncio.create_task(drainer.drain_peer(peer, "default", drainer.within(10.0)))
        await asyncio.sleep(0)
        assert cluster.state(0).status == Status.closing_gracefully
        await drainer.before_close()
        with pytest.raises(DistError, match="the drain was cancelled"):
            await asked
    assert "draining, for up to" not in caplog.text, "it did take its first step"
    await works_again(cluster, 0)


@pytest.mark.parametrize("turns", range(5))
async def test_who_comes_while_a_drain_is_being_cancelled_gets_one_of_its_own(
    form: Form, ledger: Ledger, turns: int
) -> None:
    cluster = await form(1)
    futures = await results(cluster, 10)
    await form.add(cluster)
    takes_nothing(cluster.worker(1))
    gone = cluster.address(0)
    drop = await draining(cluster, 0)
    drop.cancel()
    for _ in range(turns):
        await asyncio.sleep(0)
    drainer = Drainer.of(cluster.scheduler)
    second = asyncio.create_task(
        drainer.drain_for_agent(str(cluster.agents[0].peer), "default", 30.0)
    )
    await asyncio.gather(drop, return_exceptions=True)
    assert drop.cancelled()
    takes_again(cluster.worker(1))
    assert await second == {gone: ""}
    assert await cluster.client.gather(futures) == list(range(10))
    assert set(ledger.runs.values()) == {1}


@pytest.mark.parametrize("phase", ["tasks", "data"])
@pytest.mark.parametrize("who", ["pool", "scheduler"])
async def test_a_cancelled_drain_logs_no_error_and_no_traceback(
    form: Form, ledger: Ledger, caplog: pytest.LogCaptureFixture, phase: str, who: str
) -> None:
    cluster = await form(1)
    futures = await results(cluster, 5)
    await form.add(cluster)
    takes_nothing(cluster.worker(1))
    if phase == "tasks":
        futures.append(await running(cluster, ledger, 0))
    agent = asyncio.create_task(asyncio.sleep(0))
    with caplog.at_level(logging.DEBUG):
        drop = await draining(cluster, 0)
        if who == "pool":
            await cancelled(drop)
            await cluster.dist.close()
        else:
            agent = asyncio.create_task(cluster.agents[0].drain())
            await until(lambda: cluster.agents[0].agent.life.leaves, "the agent drains, too")
            await looks_on(cluster, 0)
            ledger.open.set()
            await cluster.scheduler.close()
            await asyncio.gather(drop, return_exceptions=True)
        await agent
    loud = [
        (record.name, record.getMessage(), record.exc_info)
        for record in caplog.records
        if record.levelno >= logging.ERROR
        or (record.exc_info and record.name.startswith("gc_bootstrap"))
    ]
    assert loud == []


# -- what a drain does to the worker's status ------------------------------------------------------


class Actor:
    pass


async def test_a_worker_is_told_that_its_drain_is_cancelled_whatever_dask_raises(
    form: Form, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    cluster = await form(1)
    futures = await results(cluster, 3)  # which nobody can take
    drop = await draining(cluster, 0)
    # Where Dask validates, it asserts that an actor has never waited for a worker.
    actor = cluster.client.submit(Actor, actor=True)
    unrunnable = cluster.scheduler.unrunnable
    await until(lambda: actor.key in {ts.key for ts in unrunnable}, "the actor waits")
    cluster.scheduler.validate = True
    with caplog.at_level(logging.ERROR, "gc_bootstrap"):
        await cancelled(drop)
    cluster.scheduler.validate = False
    worker = cluster.worker(0)
    await until(lambda: worker.status == Status.running, "the worker is told")
    assert "Dask fails to take in that worker" in caplog.text
    assert await cluster.client.gather(futures) == [0, 1, 2]


class Statuses(SchedulerPlugin):
    """Notes what the scheduler learns of its workers' statuses."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def log_event(self, topic: str, msg: Any) -> None:
        if isinstance(msg, dict) and msg.get("action") == "worker-status-change":
            self.seen.append(msg["status"])


@pytest.mark.parametrize("last", [Status.running, Status.paused])
async def test_what_a_worker_last_said_of_itself_counts_when_its_drain_is_cancelled(
    form: Form, ledger: Ledger, last: Status
) -> None:
    cluster = await form(1, None, "--memory-limit", "0")  # or it would unpause by itself
    futures = await results(cluster, 3)
    statuses = Statuses()
    cluster.scheduler.add_plugin(statuses)
    worker, ws = cluster.worker(0), cluster.state(0)
    worker.status = Status.paused if last == Status.running else Status.running
    await until(lambda: ws.status == worker.status, "the scheduler knows")
    drop = await draining(cluster, 0)
    await in_order(cluster, 0)
    statuses.seen.clear()
    worker.status = last
    await until(lambda: last.name in statuses.seen, "the scheduler knows that, too")
    await until(lambda: worker.status == Status.closing_gracefully, "it is to drain all the same")
    await cancelled(drop)
    await in_order(cluster, 0)
    await until(lambda: (ws.status, worker.status) == (last, last), "it is as it said")
    assert await cluster.client.gather(futures) == [0, 1, 2]
