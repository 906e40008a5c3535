"""What a real scheduler's work asks of its pools, and which members it could do without."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from distributed import Client, Event, Scheduler, Worker, worker_client
from distributed.core import Status
from distributed.diagnostics.plugin import SchedulerPlugin

from gc_bootstrap.agent.worker import OwnWorker
from gc_bootstrap.config import AdaptOptions
from gc_bootstrap.dist import Needed
from gc_bootstrap.peer import Peer
from gc_bootstrap.scheduler import demand
from gc_bootstrap.scheduler.dask import DaskDist
from gc_bootstrap.stake import Capacity
from gc_bootstrap.wire.tag import Tag
from tests.integration.clusters import DistFactory, Form, Ledger, results, run, running
from tests.integration.harness import until

CPU, GPU = Capacity(nthreads=1), Capacity(nthreads=1, resources={"GPU": 1.0})
NEAR, FAR = Peer("127.0.0.1", 1), Peer("10.0.0.9", 1)


@pytest.fixture(autouse=True)
def looks_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """No look serves twice."""
    monkeypatch.setattr(demand, "FRESH", 0.0)


@pytest.fixture
async def client(scheduler: Scheduler) -> AsyncIterator[Client]:
    async with Client(scheduler.address, asynchronous=True) as client:
        yield client


def waiting(scheduler: Scheduler, count: int) -> bool:
    """Whether so many tasks wait."""
    return len(scheduler.queued) + len(scheduler.unrunnable) == count


async def needed(dist: DaskDist, peers: dict[Peer, Capacity], maximum: int | None = None) -> Needed:
    return await dist.needed(peers, frozenset(), AdaptOptions(maximum=maximum))


async def test_work_that_waits_counts_for_who_can_run_it(
    scheduler: Scheduler, client: Client, dists: DistFactory
) -> None:
    cpu, gpu = await dists(pool="cpu"), await dists(pool="gpu")
    cpus = {Peer("127.0.0.1", port): CPU for port in range(1, 9)}
    gpus = {Peer("127.0.0.1", port): GPU for port in range(11, 19)}

    async def both() -> tuple[int, int]:
        await needed(gpu, gpus)
        return (await needed(cpu, cpus)).count, (await needed(gpu, gpus)).count

    assert await both() == (0, 0)
    first = client.map(run, range(40), pure=False)  # of unknown duration: half a second each
    await until(lambda: waiting(scheduler, 40), "the tasks wait")
    assert await both() == (4, 0)
    second = client.map(run, range(20), pure=False, resources={"GPU": 1})
    await until(lambda: waiting(scheduler, 60), "more tasks wait")
    assert await both() == (4, 2)
    more = client.map(run, range(80), pure=False)
    await until(lambda: waiting(scheduler, 140), "more than the first pool can have waits")
    assert await both() == (12, 6)
    del first, more
    await until(lambda: waiting(scheduler, 20), "only tasks for a GPU wait")
    assert await both() == (0, 2)
    del second


async def test_work_for_a_host_asks_for_who_is_there(
    scheduler: Scheduler, client: Client, dists: DistFactory
) -> None:
    dist = await dists()
    there = client.submit(run, 1, workers=["127.0.0.1"], pure=False)
    await until(lambda: waiting(scheduler, 1), "the task waits")
    assert await needed(dist, {FAR: CPU, NEAR: CPU}) == Needed(1, first=(NEAR,))
    assert await needed(dist, {FAR: CPU}) == Needed(0)
    loose = client.submit(run, 2, workers=["127.0.0.1"], allow_other_workers=True, pure=False)
    await until(lambda: waiting(scheduler, 2), "both tasks wait")
    assert await needed(dist, {FAR: CPU}) == Needed(1)
    del there, loose


async def test_a_worker_of_other_origin_takes_its_part_first(
    scheduler: Scheduler, client: Client, dists: DistFactory
) -> None:
    dist = await dists()
    async with Worker(scheduler.address, nthreads=1, resources={"GPU": 1}):
        gate = Event("gate")
        work = client.map(lambda _: gate.wait(), range(40), pure=False)
        await until(lambda: len(scheduler.queued) >= 38, "the tasks wait")
        # 20 s of work, of which it does 5 s.
        assert (await needed(dist, {NEAR: CPU})).count == 3
        await gate.set()
        await client.gather(work)
    await client.cancel(work)


async def test_what_runs_keeps_its_agent_and_what_only_waits_there_may_go_elsewhere(
    form: Form, ledger: Ledger
) -> None:
    cluster = await form(1)
    held = await running(cluster, ledger, 0)
    assert (await needed(cluster.dist, {FAR: CPU})).count == 1
    more = cluster.client.map(run, range(49), pure=False)
    await until(lambda: len(cluster.scheduler.tasks) == 50, "the tasks are there")
    assert (await needed(cluster.dist, {FAR: CPU})).count == 5
    assert (await needed(cluster.dist, {FAR: CPU}, 2)).count == 2
    ledger.open.set()
    assert await held == "held"
    await cluster.client.gather(more)


async def test_who_has_no_memory_left_takes_no_work_and_others_are_asked_for(form: Form) -> None:
    cluster = await form(1)
    cluster.worker(0).status = Status.paused
    await until(lambda: cluster.state(0).status == Status.paused, "the worker has paused")
    task = cluster.client.submit(run, 1, pure=False)
    await until(lambda: waiting(cluster.scheduler, 1), "the task waits")
    assert await needed(cluster.dist, {FAR: CPU}) == Needed(2)
    cluster.worker(0).status = Status.running
    assert await task == 1


async def test_idle_members_are_not_needed_and_data_keeps_one(form: Form) -> None:
    cluster = await form(2)
    first, second = (agent.peer for agent in cluster.agents)
    assert await needed(cluster.dist, {}) == Needed(0)
    assert set(await cluster.dist.order({first, second})) == {first, second}
    kept = await results(cluster, 1, [cluster.address(0)])
    assert await needed(cluster.dist, {}) == Needed(1)
    assert await cluster.dist.order({first, second}) == [second]
    await cluster.client.cancel(kept)
    await until(lambda: not cluster.state(0).has_what, "the data is gone")
    await until(lambda: cluster.scheduler.tasks == {}, "the task is forgotten")
    assert await needed(cluster.dist, {}) == Needed(0)


async def test_an_agent_with_several_workers_is_idle_when_all_of_them_are(
    scheduler: Scheduler, client: Client, dists: DistFactory
) -> None:
    dist = await dists()
    many, one = Peer("127.0.0.1", 1), Peer("127.0.0.1", 2)

    def worker_of(peer: Peer) -> Worker:
        tag = Tag(scheduler.id, str(peer), "default", nworkers=2 if peer == many else 1)
        made: Worker = OwnWorker(Worker, tag, False, 1.0)(scheduler.address, nthreads=1)
        return made

    async with worker_of(many) as first, worker_of(many), worker_of(one):
        assert set(await dist.order({many, one})) == {many, one}
        kept = client.submit(run, 1, workers=[first.address], pure=False)
        await kept
        assert await dist.order({many, one}) == [one]
        assert await needed(dist, {}) == Needed(1)
        work = client.map(str, range(60), pure=False, resources={"GPU": 1})
        await until(lambda: waiting(scheduler, 60), "the tasks wait")
        # 30 s of work for a peer of two workers that have two GPUs each
        several = Capacity(nworkers=2, nthreads=4, resources={"GPU": 2.0})
        found = await needed(dist, {Peer("127.0.0.1", port): several for port in range(3, 9)})
        assert found == Needed(2, first=(Peer("127.0.0.1", 3), Peer("127.0.0.1", 4)))
        await client.cancel([kept, *work])


async def test_who_runs_a_task_that_has_seceded_stays(form: Form, ledger: Ledger) -> None:
    cluster = await form(2)

    def outer() -> object:
        with worker_client():
            return ledger.held("outer")

    task = cluster.client.submit(outer, workers=[cluster.address(0)], pure=False)
    await until(lambda: cluster.state(0).long_running, "the task has seceded")
    members = {agent.peer for agent in cluster.agents}
    assert await cluster.dist.order(members) == [cluster.agents[1].peer]
    assert (await needed(cluster.dist, {})).count == 1
    ledger.open.set()
    assert await task == "outer"


async def test_whom_a_plugin_wants_to_stay_stays(form: Form) -> None:
    cluster = await form(2)
    stays, goes = cluster.state(0), cluster.agents[1].peer

    class Keeper(SchedulerPlugin):
        def valid_workers_downscaling(self, scheduler: Scheduler, workers: list[Any]) -> list[Any]:
            return [ws for ws in workers if ws is not stays]

    cluster.scheduler.add_plugin(Keeper(), name="keeper")
    members = {agent.peer for agent in cluster.agents}
    assert await cluster.dist.order(members) == [goes]
    assert await needed(cluster.dist, {}) == Needed(1)
    cluster.scheduler.remove_plugin(name="keeper")


async def test_an_actor_keeps_its_agent(form: Form) -> None:
    cluster = await form(2)
    actor = await cluster.client.submit(dict, actor=True, workers=[cluster.address(0)])
    members = {agent.peer for agent in cluster.agents}
    assert await cluster.dist.order(members) == [cluster.agents[1].peer]
    assert await needed(cluster.dist, {}) == Needed(1)
    del actor
