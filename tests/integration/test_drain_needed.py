"""Drains of workers that are needed: by a P2P shuffle, or by tasks that no other worker can run."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
from distributed import Future, Scheduler
from distributed.core import Status
from distributed.diagnostics.plugin import SchedulerPlugin
from distributed.scheduler import WorkerState

from gc_bootstrap.peer import Outcome
from gc_bootstrap.scheduler import _dask
from gc_bootstrap.scheduler.drains import Drainer
from tests.integration.clusters import (
    SOON,
    Cluster,
    Form,
    Hands,
    Ledger,
    draining,
    form_by,
    looks_on,
    results,
    run,
    run_held,
    running,
)
from tests.integration.harness import until

SOURCES = 12
Array = np.ndarray[Any, Any]


def source(block: Array, block_info: Any = None) -> Array:
    number = block_info[0]["chunk-location"][0]
    (run_held if number == 0 else run)(number)
    return np.full_like(block, number)


async def shuffling(cluster: Cluster, ledger: Ledger) -> tuple[Future[Array], int]:
    """A P2P shuffle that waits for its first source; every worker takes part in it.

    Returns it and the number of a worker that has done what there is to do for now.
    """
    settings = {"array.rechunk.method": "p2p", "array.chunk-size": "1B"}
    with dask.config.set(settings):
        rows = da.zeros((SOURCES, SOURCES), chunks=(1, SOURCES)).map_blocks(source, dtype=float)
        columns = rows.rechunk((SOURCES, 1)).map_blocks(np.add, 1, dtype=float)
        future: Future[Array] = cluster.client.compute(columns)

    def busy() -> set[str]:
        return {ws.address for ws in cluster.scheduler.workers.values() if ws.processing}

    def others() -> bool:
        return len(ledger.runs) == SOURCES and len(busy()) == 1

    await until(others, "all other sources have been sent to where they belong")
    shuffles = cluster.scheduler.plugins["shuffle"].active_shuffles  # type: ignore[attr-defined]
    (shuffle,) = shuffles.values()
    assert shuffle.participating_workers == set(cluster.scheduler.workers)
    (at_rest, *_) = (n for n in range(len(cluster.agents)) if cluster.address(n) not in busy())
    return future, at_rest


async def check(future: Future[Array]) -> None:
    expected = np.repeat(np.arange(SOURCES)[:, None], SOURCES, axis=1) + 1
    assert np.array_equal(await future, expected)


async def test_a_shuffle_goes_on_with_a_worker_that_drains_and_nothing_runs_twice(
    form: Form, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    cluster = await form(3)
    future, number = await shuffling(cluster, ledger)
    with caplog.at_level(logging.INFO, "gc_bootstrap"):
        drop = asyncio.create_task(cluster.drop(number))
        await looks_on(cluster, number)
        progress = cluster.dist.progress(cluster.agents[number].peer)
        assert progress.startswith("draining: goes on working, as it takes part in a P2P shuffle; ")
        assert cluster.worker(number).status == Status.running
        ledger.open.set()
        assert await drop == Outcome.DONE
    await check(future)
    assert set(ledger.runs.values()) == {1}
    assert len(cluster.scheduler.workers) == 2


async def test_a_shuffle_that_outlasts_its_share_keeps_its_worker_until_the_deadline(
    form: Form, ledger: Ledger, hands: Hands, caplog: pytest.LogCaptureFixture
) -> None:
    cluster = await form_by(form, hands, 3)
    future, number = await shuffling(cluster, ledger)
    worker = cluster.worker(number)
    with caplog.at_level(logging.INFO, "gc_bootstrap"):
        drop = asyncio.create_task(cluster.drop(number))
        await looks_on(cluster, number)
        hands.now = 31.0
        await until(lambda: worker.status == Status.closing_gracefully, "it is taken off work")
        await looks_on(cluster, number)
        assert not drop.done()
        assert "it takes part in a P2P shuffle; it is kept for 29 s more" in caplog.text
        ledger.open.set()

        async def time_passes() -> bool:
            hands.now = min(53.0, hands.now + 0.1)
            return drop.done()

        await until(time_passes, "its own parts of the shuffle are done")
    assert await drop == Outcome.DONE
    await check(future)
    assert set(ledger.runs.values()) == {1}


async def test_a_shuffle_that_outlasts_the_drain_is_named_in_the_loss(
    form: Form, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    cluster = await form(3, SOON)
    future, number = await shuffling(cluster, ledger)
    (name,) = _dask.shuffles(cluster.scheduler, cluster.address(number))
    with caplog.at_level(logging.INFO, "gc_bootstrap"):
        outcome = await cluster.drop(number)
    assert "lost 1 P2P shuffles, which start again (0 B) at" in outcome.reason
    assert f"it takes part in P2P shuffles, which start again: {name}" in caplog.text
    ledger.open.set()
    await check(future)
    assert min(ledger.runs.values()) == 2


class Stays(SchedulerPlugin):
    """Lets no worker go, or cannot say which."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    def valid_workers_downscaling(
        self, scheduler: Scheduler, workers: list[WorkerState]
    ) -> list[WorkerState]:
        if self.error is not None:
            raise self.error
        return []


async def test_a_plugin_that_lets_no_worker_go_is_asked_and_one_that_raises_has_no_say(
    form: Form, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    cluster = await form(2)
    stays = Stays()
    cluster.scheduler.add_plugin(stays)
    drop = asyncio.create_task(cluster.drop(0))
    await looks_on(cluster, 0)
    assert cluster.worker(0).status == Status.running
    progress = cluster.dist.progress(cluster.agents[0].peer)
    assert progress.startswith("draining: goes on working, as a plugin wants it to stay; ")
    stays.error = RuntimeError("a bug of mine")
    assert await drop == Outcome.DONE
    assert caplog.text.count("cannot say which workers may leave") == 1
    assert "a bug of mine" in caplog.text


# -- bound tasks -----------------------------------------------------------------------------------


async def test_tasks_that_no_other_worker_can_run_are_all_finished(
    form: Form, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    cluster = await form(2)
    held = await running(cluster, ledger, 0, only_there=True)
    there = [cluster.address(0)]
    first = cluster.client.map(run, range(5), workers=there, pure=False)
    chain = first[0]
    for number in range(10, 15):
        chain = cluster.client.submit(
            lambda key, before: run(key), number, chain, workers=there, pure=False
        )
    free = cluster.client.map(
        run, range(20, 25), workers=there, allow_other_workers=True, pure=False
    )
    await until(lambda: len(cluster.scheduler.tasks) == 16, "all are there")
    with caplog.at_level(logging.INFO, "gc_bootstrap"):
        drop = asyncio.create_task(cluster.drop(0))
        text = "it goes on working for now: it has tasks that no other worker can run"
        await until(lambda: text in caplog.text, "it is put back to work")
        ledger.open.set()
        assert await drop == Outcome.DONE
    assert await cluster.client.gather([held, *first, chain, *free]) == [
        "held", *range(5), 14, *range(20, 25),
    ]  # fmt: skip
    assert set(ledger.runs.values()) == {1}


async def test_a_chain_of_tasks_that_no_other_worker_can_run_is_finished(
    form: Form, ledger: Ledger
) -> None:
    cluster = await form(1)
    await form.add(cluster, "--resources", "GPU=1")
    held = cluster.client.submit(run_held, "held", resources={"GPU": 1}, pure=False)
    await until(lambda: ledger.entered.acquire(blocking=False), "the task runs")
    chain: Future[object] = held
    for number in range(3):
        chain = cluster.client.submit(
            lambda key, before: run(key), number, chain, resources={"GPU": 1}, pure=False
        )
    await until(lambda: len(cluster.scheduler.tasks) == 4, "all are there")
    drop = await draining(cluster, 1)
    await looks_on(cluster, 1)
    ledger.open.set()
    assert await drop == Outcome.DONE
    assert await chain == 2
    assert set(ledger.runs.values()) == {1}


async def test_tasks_that_no_other_worker_can_run_and_that_cannot_be_finished_are_named(
    form: Form, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    cluster = await form(2, SOON)
    held = await running(cluster, ledger, 0, only_there=True)
    waiting = cluster.client.map(run, range(5), workers=[cluster.address(0)], pure=False)
    await until(lambda: len(cluster.state(0).processing) == 6, "all are there")
    with caplog.at_level(logging.INFO, "gc_bootstrap"):
        outcome = await cluster.drop(0)
    ledger.open.set()
    assert "lost 6 tasks that no other worker can run, which wait for one (0 B)" in outcome.reason
    assert "5 tasks wait for another worker that can run them" in caplog.text
    assert "elsewhere" not in caplog.text
    assert {future.status for future in (held, *waiting)} == {"pending"}


async def test_the_tasks_of_the_last_worker_are_not_said_to_go_elsewhere(
    form: Form, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    cluster = await form(1)
    held = await running(cluster, ledger, 0)
    waiting = cluster.client.map(run, range(5), pure=False)
    await until(lambda: len(cluster.scheduler.tasks) == 6, "all are there")
    with caplog.at_level(logging.INFO, "gc_bootstrap"):
        drop = asyncio.create_task(cluster.drop(0))
        await until(lambda: "tasks wait for another worker" in caplog.text, "they are handed back")
    assert "elsewhere" not in caplog.text
    await form.add(cluster)
    assert await cluster.client.gather(waiting) == list(range(5))
    ledger.open.set()
    assert await drop == Outcome.DONE
    assert await held == "held"
    assert set(ledger.runs.values()) == {1}


async def test_a_worker_that_is_still_needed_is_given_no_data_of_others_that_drain(
    form: Form, ledger: Ledger
) -> None:
    cluster = await form(3)
    needed, other, stays = (cluster.address(number) for number in range(3))
    held = await running(cluster, ledger, 0, only_there=True)
    bound = cluster.client.submit(run, "bound", workers=[needed], pure=False)
    futures = await results(cluster, 40, workers=[other])
    drainer = Drainer.of(cluster.scheduler)
    first = asyncio.create_task(cluster.drop(0))
    await until(lambda: drainer.progress(cluster.agents[0].peer, "default").count("goes on"), "it")
    assert await cluster.drop(1) == Outcome.DONE
    assert {ws.address for f in futures for ws in cluster.scheduler.tasks[f.key].who_has or ()} == {
        stays
    }
    ledger.open.set()
    assert await first == Outcome.DONE
    assert await cluster.client.gather([held, bound, *futures]) == ["held", "bound", *range(40)]
    assert set(ledger.runs.values()) == {1}
