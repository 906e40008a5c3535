"""Looks at a scheduler that has very much to do, and what wakes pools."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from distributed import Scheduler
from distributed.scheduler import WorkerState

from gc_bootstrap.agent._dask import Status
from gc_bootstrap.config import AdaptOptions
from gc_bootstrap.dist import Needed
from gc_bootstrap.errors import DistError
from gc_bootstrap.peer import Peer
from gc_bootstrap.scheduler import work as reading
from gc_bootstrap.scheduler.demand import Demand
from gc_bootstrap.scheduler.kinds import ANYWHERE, Kind
from gc_bootstrap.scheduler.work import WINDOW, Reader
from gc_bootstrap.stake import Capacity
from tests.unit.helpers import eventually

ADAPTS = AdaptOptions()
CPU = {Peer("a", port): Capacity() for port in range(1, 9)}


@pytest.fixture
async def scheduler() -> AsyncIterator[Scheduler]:
    async with Scheduler(host="127.0.0.1", port=0, dashboard_address=":0") as scheduler:
        yield scheduler
        # What tests have put there is none of its business.
        scheduler.unrunnable.clear()
        scheduler.tasks.clear()
        scheduler.workers.clear()


def add_unrunnable(scheduler: Scheduler, count: int, resources: dict[str, float] | None) -> None:
    for _ in range(count):
        ts = scheduler.new_task(f"x-{len(scheduler.tasks)}", None, "no-worker")
        ts.resource_restrictions = resources
        scheduler.unrunnable[ts] = 0.0


def add_worker(scheduler: Scheduler, port: int, count: int, nthreads: int = 4) -> WorkerState:
    """A worker of other origin that has so many tasks."""
    address = f"tcp://10.0.0.1:{port}"
    ws = WorkerState(
        address=address, status=Status.running, pid=0, name=address, nthreads=nthreads,
        memory_limit=0, local_directory="", nanny=None, server_id=address, scheduler=scheduler,
    )  # fmt: skip
    scheduler.workers[address] = ws
    for _ in range(count):
        ws.add_to_processing(scheduler.new_task(f"x-{len(scheduler.tasks)}", None, "processing"))
    return ws


async def test_one_task_behind_very_many_is_found_at_last(
    scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "WINDOW", 100)
    add_unrunnable(scheduler, 350, None)
    add_unrunnable(scheduler, 1, {"GPU": 1})
    add_unrunnable(scheduler, 600, None)
    reader = Reader(scheduler)
    rare = Kind(resources=frozenset({("GPU", 1.0)}))
    looks = 0
    while rare not in (found := (await reader.work())[0]):
        looks += 1
        assert looks < 12
        assert found[ANYWHERE].tasks == pytest.approx(len(scheduler.unrunnable))
        if looks == 2:  # what comes meanwhile is no hindrance
            add_unrunnable(scheduler, 150, None)
    for _ in range(30):
        found, _ = await reader.work()
        assert found[rare].tasks == pytest.approx(1, abs=0.5)
        assert sum(amount.tasks for amount in found.values()) == pytest.approx(
            len(scheduler.unrunnable)
        )
    scheduler.unrunnable.clear()
    assert await reader.work() == ({}, {})


async def test_the_newest_tasks_are_seen_at_once(scheduler: Scheduler) -> None:
    add_unrunnable(scheduler, 3 * WINDOW + 7, None)
    reader = Reader(scheduler)
    await reader.work()
    add_unrunnable(scheduler, 1, {"GPU": 1})
    found, _ = await reader.work()
    assert Kind(resources=frozenset({("GPU", 1.0)})) in found


async def test_a_worker_is_sampled_and_scaled_up(scheduler: Scheduler) -> None:
    ws = add_worker(scheduler, 1, 50_000)
    waiting, begun = await Reader(scheduler).work()
    assert begun[""][ANYWHERE].tasks == pytest.approx(4)
    assert waiting[ANYWHERE].tasks == pytest.approx(49_996)
    assert begun[""][ANYWHERE].seconds + waiting[ANYWHERE].seconds == pytest.approx(ws.occupancy)


@pytest.mark.parametrize("amount", ["1", None, [1], float("nan")])
async def test_a_task_that_asks_for_no_sensible_amount_can_run_nowhere(
    scheduler: Scheduler, amount: Any
) -> None:
    demand = Demand(scheduler)
    demand.join("gpu", 0, lambda: None)
    gpu = {Peer("b", port): Capacity(resources={"GPU": 1.0}) for port in range(1, 9)}
    add_unrunnable(scheduler, 3, {"GPU": amount})
    assert await demand.needed("gpu", gpu, frozenset(), ADAPTS) == Needed(0)
    add_unrunnable(scheduler, 20, {"GPU": 1})
    demand.update_graph(scheduler)
    assert await demand.needed("gpu", gpu, frozenset(), ADAPTS) == Needed(2)
    await demand.before_close()


async def test_tasks_that_go_while_they_are_looked_at_are_no_hindrance(
    scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "WINDOW", 100)
    add_unrunnable(scheduler, 1050, None)
    look = asyncio.create_task(Reader(scheduler).work())
    await asyncio.sleep(0)
    for ts in list(scheduler.unrunnable)[30:]:
        del scheduler.unrunnable[ts]
    found, _ = await look
    assert sum(amount.tasks for amount in found.values()) <= 1050


async def test_a_worker_that_goes_while_it_is_looked_at_is_not_there(scheduler: Scheduler) -> None:
    for port in range(1, 1001):
        add_worker(scheduler, port, 0)
    look = asyncio.create_task(Reader(scheduler).workers())
    await asyncio.sleep(0)
    scheduler.workers.clear()
    agents, holdings = await look
    assert len(agents.get("", ())) == len(holdings) < 1000


async def test_a_task_that_begins_during_a_look_is_counted_once(scheduler: Scheduler) -> None:
    """It would bring one agent more than it needs: its own has just come."""
    add_unrunnable(scheduler, 1, {"GPU": 1.0})
    ws = add_worker(scheduler, 1, 0)
    (ts,) = scheduler.unrunnable

    def begin() -> None:
        del scheduler.unrunnable[ts]
        ws.add_to_processing(ts)

    loop = asyncio.get_running_loop()
    loop.call_soon(loop.call_soon, begin)  # two turns from now
    waiting, begun = await Reader(scheduler).work()
    counted = [*waiting.values(), *(it for found in begun.values() for it in found.values())]
    assert sum(amount.tasks for amount in counted) == 1
    await eventually(lambda: ws.processing)


async def test_a_look_gives_way_to_others(scheduler: Scheduler) -> None:
    add_unrunnable(scheduler, 2 * WINDOW, None)
    for port in range(1, 201):
        add_worker(scheduler, port, 20)
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    task = asyncio.create_task(others())
    reader = Reader(scheduler)
    await reader.work()
    await reader.workers()
    assert turns >= 2 * WINDOW / reading.SLICE
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_pools_that_look_together_share_the_look(scheduler: Scheduler) -> None:
    demand = Demand(scheduler)
    reads = 0
    read = demand._work._read

    async def counted() -> object:
        nonlocal reads
        reads += 1
        return await read()

    demand._work._read = counted  # type: ignore[assignment]
    demand._clock = demand._work._clock = demand._workers._clock = lambda: 0.0
    for rank, name in enumerate("ab"):
        demand.join(name, rank, lambda: None)
    await asyncio.gather(*(demand.needed(name, CPU, frozenset(), ADAPTS) for name in "ab"))
    assert reads == 1
    # New work makes it old.
    demand.update_graph(scheduler)
    await demand.needed("a", CPU, frozenset(), ADAPTS)
    assert reads == 2
    await demand.before_close()


async def test_new_work_wakes_the_pools_that_adapt(scheduler: Scheduler) -> None:
    demand = Demand.of(scheduler)
    assert Demand.of(scheduler) is demand
    woken: list[str] = []
    for rank, name in enumerate(("adapts", "fixed", "leaves")):
        leave = demand.join(name, rank, lambda name=name: woken.append(name))  # type: ignore[misc]
    for name in ("adapts", "leaves"):
        await demand.needed(name, {}, frozenset(), ADAPTS)
    leave()
    demand.update_graph(scheduler)
    demand.update_graph(scheduler)
    assert woken == [], "it has not been taken in yet"
    await eventually(lambda: woken)
    assert woken == ["adapts"]
    # One that has been given a size asks no more.
    now = demand._clock()
    demand._clock = lambda: now + 1000
    demand.update_graph(scheduler)
    assert demand._waking is None


async def test_a_flood_of_new_work_causes_looks_for_a_share_of_the_time_only(
    scheduler: Scheduler,
) -> None:
    now = 0.0
    demand = Demand(scheduler, clock=lambda: now)
    demand.join("a", 0, lambda: None)
    read = demand._work._read

    async def slow() -> object:
        nonlocal now
        now += 0.05
        return await read()

    demand._work._read = slow  # type: ignore[assignment]
    await demand.needed("a", CPU, frozenset(), ADAPTS)
    loop = asyncio.get_running_loop()
    demand.update_graph(scheduler)
    assert demand._waking is not None
    assert demand._waking.when() > loop.time() + 0.3, "ten times what the look has cost"
    await demand.before_close()
    assert demand._waking is None


async def test_a_pool_that_is_closed_meanwhile_is_told_so(scheduler: Scheduler) -> None:
    add_unrunnable(scheduler, 5_000, None)
    demand = Demand(scheduler)
    leave = demand.join("a", 0, lambda: None)
    look = asyncio.create_task(demand.needed("a", CPU, frozenset(), ADAPTS))
    await asyncio.sleep(0)
    leave()
    with pytest.raises(DistError, match="closed"):
        await look


async def test_pools_are_filled_by_rank_and_known_when_they_are_empty(scheduler: Scheduler) -> None:
    demand = Demand(scheduler)
    gpu = {Peer("b", port): Capacity(resources={"GPU": 1.0}) for port in range(1, 9)}
    demand.join("gpu", 2, lambda: None)
    demand.join("cpu", 1, lambda: None)
    await demand.needed("gpu", gpu, frozenset(), ADAPTS)
    add_unrunnable(scheduler, 100, None)  # 50 s of work
    demand.update_graph(scheduler)
    assert (await demand.needed("cpu", CPU, frozenset(), ADAPTS)).count == 10
    assert (await demand.needed("gpu", gpu, frozenset(), ADAPTS)).count == 2
    add_unrunnable(scheduler, 10, {"GPU": 1})
    demand.update_graph(scheduler)
    # Both are at zero now, and it is known what they were like.
    assert (await demand.needed("gpu", {}, frozenset(), ADAPTS)).count == 3
    assert (await demand.needed("cpu", {}, frozenset(), ADAPTS)).count == 10
    assert (await demand.needed("gpu", {}, frozenset(), ADAPTS)).count == 11
    await demand.before_close()
