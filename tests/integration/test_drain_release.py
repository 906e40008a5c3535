"""Releases: drains at no cost, of workers that are not needed."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from distributed import Future

from gc_bootstrap.peer import Outcome, Peer
from gc_bootstrap.scheduler.drains import Drainer
from gc_bootstrap.scheduler.members import Members
from tests.integration.clusters import (
    Cluster,
    Form,
    Hands,
    Ledger,
    form_by,
    idle,
    looks_on,
    results,
    run,
    running,
    takes_nothing,
    works_again,
)
from tests.integration.harness import Processes, request, until
from tests.integration.test_drain_needed import Stays, check, shuffling


async def release(cluster: Cluster, number: int) -> Outcome:
    return await cluster.dist.release(cluster.agents[number].peer)


async def releasing(cluster: Cluster, number: int) -> asyncio.Task[Outcome]:
    """A release that is under way: it has looked, and goes on."""
    task = asyncio.create_task(release(cluster, number))
    await looks_on(cluster, number)
    assert not task.done()
    return task


def off_work(cluster: Cluster, number: int) -> bool:
    return cluster.state(number) not in cluster.scheduler.running


# -- what is released ------------------------------------------------------------------------------


async def test_data_moves_and_nothing_runs_twice(form: Form, ledger: Ledger) -> None:
    cluster = await form(3)
    futures = await results(cluster, 30)
    gone = cluster.address(0)
    assert await release(cluster, 0) == Outcome.DONE
    assert gone not in cluster.scheduler.workers
    assert idle(cluster, 0)
    assert await cluster.client.gather(futures) == list(range(30))
    assert set(ledger.runs.values()) == {1}


async def test_a_released_agent_is_attached_again_at_once(form: Form, ledger: Ledger) -> None:
    cluster = await form(2)
    futures = await results(cluster, 10)
    for _ in range(3):
        assert await release(cluster, 0) == Outcome.DONE
        assert await cluster.dist.connect(cluster.agents[0].peer) == Outcome.DONE
        await works_again(cluster, 0)
    assert await cluster.client.gather(futures) == list(range(10))
    assert {ledger.runs[number] for number in range(10)} == {1}


async def test_the_last_worker_goes_where_there_is_neither_work_nor_data(form: Form) -> None:
    cluster = await form(1)
    assert await release(cluster, 0) == Outcome.DONE
    assert not cluster.scheduler.workers
    assert idle(cluster, 0)


async def test_what_runs_ends_there_and_what_has_not_begun_runs_elsewhere(
    form: Form, ledger: Ledger
) -> None:
    cluster = await form(2)
    held = await running(cluster, ledger, 0)
    waiting = cluster.client.map(
        run, range(5), workers=[cluster.address(0)], allow_other_workers=True, pure=False
    )
    await until(lambda: len(cluster.scheduler.tasks) == 6, "all are there")
    task = await releasing(cluster, 0)
    assert await cluster.client.gather(waiting) == list(range(5))
    progress = cluster.dist.progress(cluster.agents[0].peer)
    assert progress.startswith("releasing: 1 tasks, ")
    assert not task.done()
    ledger.open.set()
    assert await task == Outcome.DONE
    assert await held == "held"
    assert set(ledger.runs.values()) == {1}


@asynccontextmanager
async def of_two_workers(cluster: Cluster, folder: Path) -> AsyncIterator[TwoWorkers]:
    """A member whose first worker runs a task until there is a gate; the other one is released."""
    gate = folder / "gate"
    async with Processes(folder) as processes:
        (peer,) = await processes.agents(1, "--insecure", "--nworkers", "2")
        assert await cluster.dist.connect(peer) == Outcome.DONE
        first, second = Members.of(cluster.scheduler).workers("default", peer)
        held = cluster.client.submit(_until_there, str(gate), workers=[first])
        state = cluster.scheduler.workers[first]
        await until(lambda: state.processing, "the task runs")
        task = asyncio.create_task(cluster.dist.release(peer))
        drains = Drainer.of(cluster.scheduler)._drains
        await until(lambda: second in drains and drains[second].empty, "the other one is ready")
        yield TwoWorkers(peer, first, second, gate, held, task)
        gate.touch()
        await held


@dataclass
class TwoWorkers:
    peer: Peer
    first: str
    second: str
    gate: Path
    held: Future[str]
    task: asyncio.Task[Outcome]


async def test_workers_of_one_agent_go_together(form: Form, tmp_path: Path) -> None:
    cluster = await form(1)
    async with of_two_workers(cluster, tmp_path) as it:
        assert it.second in cluster.scheduler.workers, "it waits for the first"
        it.gate.touch()
        assert await it.task == Outcome.DONE
        assert list(cluster.scheduler.workers) == [cluster.address(0)]
        assert (await request(it.peer, "GET", "/readyz")) == (200, {"state": "idle"})


def _until_there(gate: str) -> str:
    while not Path(gate).exists():
        time.sleep(0.01)
    return gate


async def test_where_all_workers_are_released_one_is_kept_and_has_all_data(
    form: Form, ledger: Ledger
) -> None:
    cluster = await form(4)
    futures = await results(cluster, 40)
    outcomes = await asyncio.gather(*(release(cluster, number) for number in range(4)))
    assert sorted(outcome.kind for outcome in outcomes) == ["done"] * 3 + ["refused"]
    (kept,) = (number for number in range(4) if not outcomes[number])
    await works_again(cluster, kept)
    assert await cluster.client.gather(futures) == list(range(40))
    assert {ledger.runs[number] for number in range(40)} == {1}


# -- what is called off ----------------------------------------------------------------------------


async def test_the_only_copy_without_another_place_calls_it_off_at_once(
    form: Form, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    cluster = await form(1)
    futures = await results(cluster, 1)
    with caplog.at_level(logging.INFO, "gc_bootstrap"):
        outcome = await release(cluster, 0)
    assert (outcome.kind, outcome.expected) == ("refused", True)
    assert outcome.reason == "called off: 1 result (28 B) has no other place"
    assert "releasing" not in caplog.text, "it has been kept off work for that"
    await works_again(cluster, 0)
    assert await cluster.client.gather(futures) == [0]
    assert ledger.runs[0] == 1


class Actor:
    pass


@pytest.mark.parametrize("what", ["actor", "plugin", "task"])
async def test_a_worker_that_is_needed_is_not_even_taken_off_work(
    form: Form, ledger: Ledger, what: str
) -> None:
    cluster = await form(1 if what == "task" else 2)
    there = [cluster.address(0)]
    reason = {
        "actor": "1 actor cannot be moved",
        "plugin": "a plugin wants it to stay",
        "task": "1 running task would have no place for what comes of it",
    }[what]
    kept: list[Any] = []
    if what == "actor":
        kept.append(await cluster.client.submit(Actor, actor=True, workers=there))
    elif what == "plugin":
        cluster.scheduler.add_plugin(Stays())
    else:
        kept.append(await running(cluster, ledger, 0))
    assert await release(cluster, 0) == Outcome.refused(f"called off: {reason}", expected=True)
    assert not off_work(cluster, 0)
    ledger.open.set()
    await works_again(cluster, 0)
    assert max(ledger.runs.values()) == 1
    del kept


async def test_a_shuffle_calls_it_off_and_is_not_disturbed(form: Form, ledger: Ledger) -> None:
    cluster = await form(3)
    future, number = await shuffling(cluster, ledger)
    outcome = await release(cluster, number)
    assert outcome.reason == "called off: it takes part in a P2P shuffle"
    ledger.open.set()
    await check(future)
    assert set(ledger.runs.values()) == {1}


async def test_tasks_that_no_other_worker_can_run_call_it_off(form: Form, ledger: Ledger) -> None:
    cluster = await form(2)
    held = await running(cluster, ledger, 0, only_there=True)
    bound = cluster.client.map(run, range(3), workers=[cluster.address(0)], pure=False)
    await until(lambda: len(cluster.state(0).processing) == 4, "all are there")
    outcome = await release(cluster, 0)
    assert outcome.reason == "called off: 3 tasks can run on no other worker"
    ledger.open.set()
    assert await cluster.client.gather([held, *bound]) == ["held", 0, 1, 2]
    assert set(ledger.runs.values()) == {1}


async def test_work_that_comes_meanwhile_and_that_nobody_else_takes_calls_it_off(
    form: Form, ledger: Ledger
) -> None:
    cluster = await form(2)
    held = await running(cluster, ledger, 0)
    task = await releasing(cluster, 0)
    await cluster.drop(1)
    outcome = await task
    assert "1 running task would have no place for what comes of it" in outcome.reason
    waiting = cluster.client.map(run, range(5), pure=False)
    ledger.open.set()
    assert await cluster.client.gather([held, *waiting]) == ["held", *range(5)]
    assert set(ledger.runs.values()) == {1}


@pytest.mark.parametrize("what", ["task", "data"])
async def test_what_is_left_at_the_deadline_calls_it_off_and_nothing_is_lost(
    form: Form, ledger: Ledger, hands: Hands, what: str
) -> None:
    cluster = await form_by(form, hands, 1)
    if what == "task":
        await form.add(cluster)
        futures = [await running(cluster, ledger, 0)]
        reason = "1 task had not finished in time"
    else:
        futures = await results(cluster, 3)
        await form.add(cluster)
        takes_nothing(cluster.worker(1))
        reason = "3 results (84 B) have not been moved in time"
    task = await releasing(cluster, 0)
    hands.now = 59.0
    await looks_on(cluster, 0)
    assert not task.done()
    hands.now = 61.0
    assert await task == Outcome.refused(f"called off: {reason}", expected=True)
    ledger.open.set()
    await works_again(cluster, 0)
    await cluster.client.gather(futures)
    assert set(ledger.runs.values()) == {1}


async def test_an_agent_whose_workers_cannot_all_go_keeps_them_all(
    form: Form, hands: Hands, tmp_path: Path
) -> None:
    cluster = await form_by(form, hands, 1)
    async with of_two_workers(cluster, tmp_path) as it:
        hands.now = 61.0
        assert (await it.task).reason == "called off: 1 task had not finished in time"
        both = [it.first, it.second]
        assert {*both} <= {ws.address for ws in cluster.scheduler.running}
        it.gate.touch()
        there = cluster.client.map(_there, range(4), workers=both, pure=False)
        assert await cluster.client.gather(there) == list(range(4))


def _there(number: int) -> int:
    return number
