"""What a drain saves, what it waits for, and what it says when the time is over."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack
from typing import ClassVar

import pytest
from distributed import Scheduler, Worker
from distributed.core import Status
from distributed.diagnostics.plugin import SchedulerPlugin, WorkerPlugin
from distributed.worker_state_machine import PauseEvent, UnpauseEvent

from gc_bootstrap.peer import Outcome
from gc_bootstrap.scheduler.move import MoveAway
from gc_bootstrap.wire.names import DRAIN_HANDLER
from tests.integration.clusters import (
    SOON,
    Form,
    Ledger,
    idle,
    in_order,
    looks_on,
    results,
    run,
    run_held,
    takes_again,
    takes_nothing,
)
from tests.integration.harness import agent_here, until


async def test_results_move_and_nothing_runs_twice(form: Form, ledger: Ledger) -> None:
    cluster = await form(3)
    futures = await results(cluster, 30)
    gone = cluster.address(0)
    assert await cluster.drop(0) == Outcome.DONE
    assert gone not in cluster.scheduler.workers
    assert idle(cluster, 0)
    assert await cluster.client.gather(futures) == list(range(30))
    assert set(ledger.runs.values()) == {1}


async def test_a_running_task_finishes(form: Form, ledger: Ledger) -> None:
    cluster = await form(2)
    future = cluster.client.submit(run_held, 1, workers=[cluster.address(0)], pure=False)
    await until(lambda: ledger.entered.acquire(blocking=False), "the task runs")
    drop = asyncio.create_task(cluster.drop(0))
    await looks_on(cluster, 0)
    assert not drop.done()
    progress = cluster.dist.progress(cluster.agents[0].peer)
    assert progress.startswith("draining: 1 tasks, 0 results (0 B) are there, ")
    ledger.open.set()
    assert await drop == Outcome.DONE
    assert cluster.dist.progress(cluster.agents[0].peer) == ""
    assert await future == 1
    assert ledger.runs == {1: 1}


async def test_tasks_that_have_not_begun_go_elsewhere_at_once(form: Form, ledger: Ledger) -> None:
    cluster = await form(1)
    running = cluster.client.submit(run_held, "held", pure=False)
    await until(lambda: ledger.entered.acquire(blocking=False), "the task runs")
    waiting = cluster.client.map(run, range(20), pure=False)
    await until(lambda: len(cluster.scheduler.tasks) == 21, "the tasks are there")
    drop = asyncio.create_task(cluster.drop(0))
    await form.add(cluster)
    assert await cluster.client.gather(waiting) == list(range(20))
    assert not drop.done()
    ledger.open.set()
    assert await drop == Outcome.DONE
    assert await running == "held"
    assert set(ledger.runs.values()) == {1}


async def test_a_task_that_outlasts_its_share_starts_again_elsewhere(
    form: Form, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    cluster = await form(2, SOON)
    future = cluster.client.submit(
        run_held, 1, workers=[cluster.address(0)], allow_other_workers=True, pure=False
    )
    await until(lambda: ledger.entered.acquire(blocking=False), "the task runs")
    with caplog.at_level(logging.INFO, "gc_bootstrap"):
        drop = asyncio.create_task(cluster.drop(0))
        await until(lambda: ledger.entered.acquire(blocking=False), "it runs again")
        ledger.open.set()
        outcome = await drop
    assert outcome.kind == "done"
    assert "lost 1 running tasks, which start again" in outcome.reason
    assert await future == 1
    assert ledger.runs == {1: 2}
    assert "1 tasks have not finished in time; they start again elsewhere" in caplog.text


async def test_the_last_worker_is_kept_until_the_deadline_and_the_loss_is_said(
    form: Form, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    cluster = await form(1, SOON)
    futures = await results(cluster, 5)
    scattered = await cluster.client.scatter([b"x" * 1000])
    began = cluster.dist.owner.scheduler.workers[cluster.address(0)]
    with caplog.at_level(logging.INFO, "gc_bootstrap"):
        outcome = await cluster.drop(0)
    assert outcome.kind == "done"
    assert "lost 5 results, which are computed again, 1 scattered values (" in outcome.reason
    assert "no other worker can take its data; it is kept for" in caplog.text
    assert began.address not in cluster.scheduler.workers
    assert idle(cluster, 0)
    assert scattered[0].status in ("lost", "cancelled", "error", "pending")
    await form.add(cluster)
    assert await cluster.client.gather(futures) == list(range(5))


async def test_a_worker_that_comes_in_time_takes_the_data_of_the_last_one(
    form: Form, ledger: Ledger
) -> None:
    cluster = await form(1)
    futures = await results(cluster, 5)
    drop = asyncio.create_task(cluster.drop(0))
    await looks_on(cluster, 0)
    await form.add(cluster)
    assert await drop == Outcome.DONE
    assert await cluster.client.gather(futures) == list(range(5))
    assert set(ledger.runs.values()) == {1}


class Count:
    value = 0

    def add(self) -> int:
        self.value += 1
        return self.value


async def test_an_actor_keeps_its_worker_until_the_deadline(form: Form) -> None:
    cluster = await form(2, SOON)
    counter = await cluster.client.submit(Count, actor=True, workers=[cluster.address(0)])
    assert await counter.add() == 1
    outcome = await cluster.drop(0)
    assert "lost 1 actors" in outcome.reason
    assert idle(cluster, 0)


async def test_an_idle_worker_without_data_goes_at_once_even_as_the_last(form: Form) -> None:
    cluster = await form(1)
    assert await cluster.drop(0) == Outcome.DONE
    assert idle(cluster, 0)


async def test_a_cancelled_drain_puts_the_worker_back_to_work(form: Form, ledger: Ledger) -> None:
    cluster = await form(2)
    held = cluster.client.submit(run_held, "held", workers=[cluster.address(0)], pure=False)
    await until(lambda: ledger.entered.acquire(blocking=False), "the task runs")
    drop = asyncio.create_task(cluster.drop(0))
    worker = cluster.worker(0)
    await until(lambda: worker.status == Status.closing_gracefully, "the worker is draining")
    assert cluster.scheduler.workers[worker.address] not in cluster.scheduler.running
    drop.cancel()
    await asyncio.gather(drop, return_exceptions=True)
    await until(lambda: worker.status == Status.running, "the worker runs again")
    ledger.open.set()
    assert await held == "held"
    futures = await results(cluster, 10, workers=[worker.address])
    assert len(futures) == 10
    assert set(ledger.runs.values()) == {1}


async def test_a_drain_that_is_cancelled_while_data_moves_keeps_the_rest(
    form: Form, ledger: Ledger
) -> None:
    cluster = await form(1)
    futures = await results(cluster, 10)
    await form.add(cluster)
    # The other one takes nothing, and the scheduler does not know that.
    cluster.worker(1).handle_stimulus(PauseEvent(stimulus_id="test"))

    def retiring() -> list[MoveAway]:
        policies = cluster.scheduler.extensions["amm"].policies
        return [policy for policy in policies if isinstance(policy, MoveAway)]

    drop = asyncio.create_task(cluster.drop(0))
    await until(retiring, "data is to be moved")
    drop.cancel()
    await asyncio.gather(drop, return_exceptions=True)
    assert not retiring()
    cluster.worker(1).handle_stimulus(UnpauseEvent(stimulus_id="test"))
    ws = cluster.scheduler.workers[cluster.address(0)]
    await until(lambda: ws.status == Status.running, "the scheduler gives it tasks")
    assert await cluster.client.gather(futures) == list(range(10))
    assert set(ledger.runs.values()) == {1}


async def test_drained_again_at_once_and_cancelled_again_it_still_works(
    form: Form, ledger: Ledger
) -> None:
    cluster = await form(2)
    worker = cluster.worker(0)
    futures = await results(cluster, 10, workers=[worker.address])
    takes_nothing(cluster.worker(1))  # else a drain is over at once when the last has moved all
    for _ in range(5):
        drop = asyncio.create_task(cluster.drop(0))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        drop.cancel()
        await asyncio.gather(drop, return_exceptions=True)
    takes_again(cluster.worker(1))
    ws = cluster.scheduler.workers[worker.address]
    await in_order(cluster, 0)
    await until(lambda: (ws.status, worker.status) == (Status.running,) * 2, "both say it runs")
    assert len(await results(cluster, 3, workers=[worker.address])) == 3
    assert await cluster.client.gather(futures) == list(range(10))


async def test_workers_that_drain_together_give_nothing_to_each_other(
    form: Form, ledger: Ledger
) -> None:
    cluster = await form(4)
    futures = await results(cluster, 80)
    outcomes = await asyncio.gather(*(cluster.drop(number) for number in range(3)))
    assert outcomes == [Outcome.DONE] * 3
    assert list(cluster.scheduler.workers) == [cluster.address(3)]
    assert await cluster.client.gather(futures) == list(range(80))
    assert set(ledger.runs.values()) == {1}


async def test_scheduler_and_agent_share_one_drain(
    form: Form, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    cluster = await form(2)
    futures = await results(cluster, 20)
    with caplog.at_level(logging.INFO, "gc_bootstrap.scheduler"):
        outcome, _ = await asyncio.gather(cluster.drop(0), cluster.agents[0].drain())
    assert outcome == Outcome.DONE
    assert caplog.text.count("draining, for up to") == 1
    assert await cluster.client.gather(futures) == list(range(20))
    assert set(ledger.runs.values()) == {1}


async def test_sigterm_waits_for_running_tasks_and_moves_data(form: Form, ledger: Ledger) -> None:
    cluster = await form(2)
    futures = await results(cluster, 20)
    held = cluster.client.submit(run_held, "held", workers=[cluster.address(0)], pure=False)
    await until(lambda: ledger.entered.acquire(blocking=False), "the task runs")
    drain = asyncio.create_task(cluster.agents[0].drain())
    await looks_on(cluster, 0)
    assert not drain.done()
    assert cluster.agents[0].agent.state == "draining"
    ledger.open.set()
    await drain
    assert await cluster.client.gather([*futures, held]) == [*range(20), "held"]
    assert set(ledger.runs.values()) == {1}


async def test_an_agent_is_drained_after_its_pool_was_closed(form: Form, ledger: Ledger) -> None:
    cluster = await form(2)
    futures = await results(cluster, 20)
    await cluster.dist.close()
    await cluster.agents[0].drain()
    assert await cluster.client.gather(futures) == list(range(20))
    assert set(ledger.runs.values()) == {1}


async def test_an_agent_of_a_scheduler_that_cannot_drain_is_retired_by_dask_alone(
    form: Form, ledger: Ledger
) -> None:
    cluster = await form(2)
    futures = await results(cluster, 20)
    del cluster.scheduler.handlers[DRAIN_HANDLER]
    await cluster.agents[0].drain()
    assert await cluster.client.gather(futures) == list(range(20))
    assert set(ledger.runs.values()) == {1}


async def test_what_such_a_scheduler_does_not_retire_goes_with_its_data_and_that_is_said(
    form: Form, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    cluster = await form(1)
    futures = await results(cluster, 3)
    address = cluster.address(0)
    del cluster.scheduler.handlers[DRAIN_HANDLER]
    with caplog.at_level(logging.WARNING, "gc_bootstrap"):
        await cluster.agents[0].drain()
    assert f"{address} goes with its data: its scheduler has not retired it" in caplog.text
    assert "The time was over" not in caplog.text
    assert len(futures) == 3, "they are wanted"


class PutsBack(WorkerPlugin):
    """Delivers, while its worker closes, what a retirement that is given up has on its way."""

    found: ClassVar[list[Status]] = []

    def teardown(self, worker: Worker) -> None:
        worker.stream_handlers["worker-status-change"](status="running", stimulus_id="test")
        self.found.append(worker.status)


async def test_a_worker_that_closes_is_not_put_back_to_work(form: Form) -> None:
    cluster = await form(1)
    PutsBack.found.clear()
    await cluster.worker(0).plugin_add(PutsBack(), name="puts-back")
    await cluster.agents[0].close()
    assert PutsBack.found == [Status.closing]


async def test_a_worker_that_dies_while_it_drains_is_done(form: Form, ledger: Ledger) -> None:
    cluster = await form(2)
    future = cluster.client.submit(
        run_held, 1, workers=[cluster.address(0)], allow_other_workers=True, pure=False
    )
    await until(lambda: ledger.entered.acquire(blocking=False), "the task runs")
    drop = asyncio.create_task(cluster.drop(0))
    await looks_on(cluster, 0)
    await cluster.scheduler.remove_worker(cluster.address(0), stimulus_id="test", close=False)
    ledger.open.set()
    assert await drop == Outcome.DONE
    assert await future == 1


async def test_a_drained_member_whose_agent_cannot_be_told_is_gone_all_the_same(
    form: Form, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    cluster = await form(2)
    futures = await results(cluster, 20)
    server = cluster.agents[0]._server
    assert server is not None
    await server.close()
    with caplog.at_level(logging.INFO, "gc_bootstrap"):
        assert await cluster.drop(0) == Outcome.DONE
    assert "is drained; it could not be told: is not reachable" in caplog.text
    assert await cluster.dist.members() == {cluster.agents[1].peer}
    assert await cluster.client.gather(futures) == list(range(20))
    assert set(ledger.runs.values()) == {1}


async def test_a_paused_worker_is_paused_again_after_a_cancelled_drain(
    form: Form, ledger: Ledger
) -> None:
    cluster = await form(0)
    await form.add(cluster, "--memory-limit", "0")  # or its memory monitor would unpause it
    futures = await results(cluster, 3)
    worker = cluster.worker(0)
    worker.status = Status.paused
    ws = cluster.scheduler.workers[worker.address]
    await until(lambda: ws.status == Status.paused, "the scheduler knows")
    drop = asyncio.create_task(cluster.drop(0))
    await asyncio.sleep(0)
    drop.cancel()
    await asyncio.gather(drop, return_exceptions=True)
    await in_order(cluster, 0)
    await until(lambda: (ws.status, worker.status) == (Status.paused,) * 2, "both say it is paused")
    assert await cluster.client.gather(futures) == [0, 1, 2]


async def test_a_drain_while_the_worker_registers_drains_it(
    form: Form, ledger: Ledger, stack: AsyncExitStack
) -> None:
    cluster = await form(1)
    agent = await stack.enter_async_context(agent_here(insecure=True))
    held = cluster.client.map(run_held, range(2), pure=False)
    answer = asyncio.Event()

    async def slowly(**keywords: object) -> object:
        await answer.wait()
        return cluster.scheduler.identity()

    class Registration(SchedulerPlugin):
        def add_worker(self, scheduler: Scheduler, worker: str) -> None:
            scheduler.handlers["identity"] = slowly  # so that the agent does not know yet

    cluster.scheduler.add_plugin(Registration())
    attaching = asyncio.create_task(cluster.dist.connect(agent.peer))
    for _ in range(2):
        await until(lambda: ledger.entered.acquire(blocking=False), "both tasks run")
    assert agent.agent.state == "attaching"
    drain = asyncio.create_task(agent.drain())
    await until(lambda: agent.agent.life.leaves, "the agent drains")
    answer.set()
    ledger.open.set()
    await asyncio.gather(drain, attaching, return_exceptions=True)
    assert await cluster.client.gather(held) == [0, 1]
    assert set(ledger.runs.values()) == {1}
