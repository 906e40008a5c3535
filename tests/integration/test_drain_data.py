"""How the data of a worker that drains gets to others, and what counts as safe."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from typing import Any

import dask
import pytest
from distributed.core import Status

from gc_bootstrap.peer import Outcome
from tests.integration.clusters import (
    SOON,
    Form,
    Ledger,
    in_order,
    results,
    takes_again,
    takes_nothing,
)
from tests.integration.harness import until


class Actor:
    def add(self) -> int:
        return 1


async def test_beside_an_actor_the_other_data_moves_all_the_same(
    form: Form, ledger: Ledger
) -> None:
    cluster = await form(2, SOON)
    actor = cluster.client.submit(Actor, actor=True, workers=[cluster.address(0)])
    await actor
    futures = await results(cluster, 10, workers=[cluster.address(0)])
    (scattered,) = await cluster.client.scatter([b"x" * 100], workers=[cluster.address(0)])
    outcome = await cluster.drop(0)
    assert "lost 1 actors (0 B)" in outcome.reason
    assert await cluster.client.gather(futures) == list(range(10))
    assert set(ledger.runs.values()) == {1}
    assert await scattered == b"x" * 100


async def test_a_replica_on_a_paused_worker_is_safe(form: Form, ledger: Ledger) -> None:
    cluster = await form(2, SOON, "--memory-limit", "0")  # or it would unpause by itself
    futures = await results(cluster, 5, workers=[cluster.address(0)])
    await cluster.client.replicate(futures, n=2)
    ws = cluster.state(1)
    cluster.worker(1).status = Status.paused
    await until(lambda: ws.status == Status.paused, "the scheduler knows")
    assert {len(ts.who_has or ()) for ts in cluster.state(0).has_what} == {2}
    assert await cluster.drop(0) == Outcome.DONE
    assert await cluster.client.gather(futures) == list(range(5))
    assert set(ledger.runs.values()) == {1}


@pytest.mark.parametrize("replicas", [1, 2])
async def test_drains_that_run_together_ask_for_each_replica_once(
    form: Form, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, replicas: int
) -> None:
    cluster = await form(5)
    leaving = [cluster.address(number) for number in range(3)]
    futures = await results(cluster, 60, workers=leaving)
    if replicas > 1:
        await cluster.client.replicate(futures, n=replicas, workers=leaving)
    asked: Counter[Any] = Counter()
    request = cluster.scheduler.request_acquire_replicas

    def acquire(address: str, keys: list[Any], *, stimulus_id: str) -> None:
        asked.update(keys)
        request(address, keys, stimulus_id=stimulus_id)

    monkeypatch.setattr(cluster.scheduler, "request_acquire_replicas", acquire)
    for number in (3, 4):
        takes_nothing(cluster.worker(number))
    drops = [asyncio.create_task(cluster.drop(number)) for number in range(3)]
    await until(lambda: len(asked) == 60, "all data is asked for")
    for _ in range(3):
        # As for each drain that begins to move data after these, and every 2 s.
        cluster.scheduler.extensions["amm"].run_once()
        await asyncio.sleep(0)
    for number in (3, 4):
        takes_again(cluster.worker(number))
    assert await asyncio.gather(*drops) == [Outcome.DONE] * 3
    assert await cluster.client.gather(futures) == list(range(60))
    assert set(asked.values()) == {1}
    assert set(ledger.runs.values()) == {1}


@pytest.fixture(params=["config", "client"])
def how(request: pytest.FixtureRequest) -> Iterator[str]:
    """How the manager is switched off: before the scheduler starts, or later."""
    start = request.param != "config"
    with dask.config.set({"distributed.scheduler.active-memory-manager.start": start}):
        yield request.param


async def test_data_moves_where_the_active_memory_manager_is_off(
    how: str, form: Form, ledger: Ledger
) -> None:
    cluster = await form(4)
    if how == "client":
        await cluster.client.amm.stop()
    assert not await cluster.client.amm.running()
    leaving = [cluster.address(0), cluster.address(1)]
    futures = await results(cluster, 20, workers=leaving)
    await cluster.client.replicate(futures[:10], n=2, workers=leaving)
    twice = await results(cluster, 5, workers=[cluster.address(2)])
    await cluster.client.replicate(twice, n=2, workers=[cluster.address(2), cluster.address(3)])
    outcomes = tuple(await asyncio.gather(cluster.drop(0), cluster.drop(1)))
    assert outcomes == (Outcome.DONE, Outcome.DONE)
    assert await cluster.client.gather(futures) == list(range(20))
    assert sum(ledger.runs.values()) == 25
    # What the manager would do besides is not done: it was switched off.
    assert not await cluster.client.amm.running()
    for number in (2, 3):
        await in_order(cluster, number)
    holders = [cluster.scheduler.tasks[future.key].who_has or () for future in twice]
    assert set(map(len, holders)) == {2}
