"""Dists, and clusters of agents in this process whose tasks a test can count and hold back."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from distributed import Client, Future, Scheduler, Worker
from distributed.core import Status
from distributed.scheduler import WorkerState
from distributed.worker import WORKER_ANY_RUNNING
from distributed.worker_state_machine import PauseEvent, UnpauseEvent

from gc_bootstrap.agent.run import AgentServer
from gc_bootstrap.config import DrainOptions, PoolOptions
from gc_bootstrap.dist import Owner
from gc_bootstrap.peer import Outcome
from gc_bootstrap.scheduler.dask import DaskDist
from gc_bootstrap.scheduler.drains import Drainer
from gc_bootstrap.wire.names import REPORT_ANSWER, REPORT_REQUEST
from tests.integration.harness import DEADLINE, agent_here, until

SOON = PoolOptions(drain=DrainOptions(timeout=1.0))


class Ledger:
    """Counts executions; workers share it, for they run in this process."""

    def __init__(self) -> None:
        self.runs: Counter[object] = Counter()
        self.open = threading.Event()
        self.entered = threading.Semaphore(0)

    def __reduce__(self) -> str:
        return "LEDGER"

    def __call__(self, key: object) -> object:
        self.runs[key] += 1
        return key

    def held(self, key: object) -> object:
        self.runs[key] += 1
        self.entered.release()
        assert self.open.wait(30)
        return key


LEDGER = Ledger()


def run(key: object) -> object:
    return LEDGER(key)


def run_held(key: object) -> object:
    return LEDGER.held(key)


def new_ledger() -> Ledger:
    """Begin a new one, for one test."""
    global LEDGER
    LEDGER = Ledger()
    return LEDGER


@dataclass
class Cluster:
    scheduler: Scheduler
    client: Client
    dist: DaskDist
    agents: list[AgentServer] = field(default_factory=list)

    def address(self, number: int) -> str:
        (worker,) = self.agents[number].agent.status().workers
        return worker

    def worker(self, number: int) -> Worker:
        # Others are there, too, that have been closed and have no address.
        running = [w for w in Worker._instances if w.status in WORKER_ANY_RUNNING]
        (worker,) = (w for w in running if w.address == self.address(number))
        return worker

    def state(self, number: int) -> WorkerState:
        return self.scheduler.workers[self.address(number)]

    async def drop(self, number: int) -> Outcome:
        return await self.dist.disconnect(self.agents[number].peer)


class Form:
    """Makes a cluster of so many agents."""

    def __init__(self, scheduler: Scheduler, dists: DistFactory, stack: AsyncExitStack) -> None:
        self._scheduler, self._dists, self._stack = scheduler, dists, stack

    async def __call__(
        self, count: int, options: PoolOptions | None = None, *arguments: str
    ) -> Cluster:
        # Not entered: a Client has to be left in the context in which it was entered.
        client = await Client(self._scheduler.address, asynchronous=True)
        self._stack.push_async_callback(client.close)
        cluster = Cluster(self._scheduler, client, await self._dists(options))
        for _ in range(count):
            await self.add(cluster, *arguments)
        return cluster

    async def add(self, cluster: Cluster, *arguments: str) -> None:
        agent = await self._stack.enter_async_context(agent_here(*arguments, insecure=True))
        assert await cluster.dist.connect(agent.peer)
        cluster.agents.append(agent)


class Hands:
    """A clock that only the test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


async def form_by(form: Form, hands: Hands, count: int) -> Cluster:
    """A cluster whose drains go by the test's clock; their deadline is 60 s."""
    cluster = await form(count)
    Drainer.of(cluster.scheduler)._clock = hands
    return cluster


async def results(
    cluster: Cluster, count: int, workers: list[str] | None = None
) -> list[Future[object]]:
    """So many results in memory, each computed once."""
    futures = cluster.client.map(run, range(count), pure=False, workers=workers)
    assert await cluster.client.gather(futures) == list(range(count))
    return futures


async def running(
    cluster: Cluster, ledger: Ledger, number: int, key: object = "held", *, only_there: bool = False
) -> Future[object]:
    """A task that runs on a worker until the ledger is open."""
    future = cluster.client.submit(
        run_held,
        key,
        workers=[cluster.address(number)],
        allow_other_workers=not only_there,
        pure=False,
    )
    await until(lambda: ledger.entered.acquire(blocking=False), f"the task {key!r} runs")
    return future


async def draining(cluster: Cluster, number: int) -> asyncio.Task[Outcome]:
    """A drop of a worker that is under way: the worker knows."""
    drop = asyncio.create_task(cluster.drop(number))
    worker = cluster.worker(number)
    await until(lambda: worker.status == Status.closing_gracefully, "the worker drains")
    return drop


async def looks_on(cluster: Cluster, number: int, times: int = 3) -> None:
    """Wait until the drain of a worker has begun, and has looked some more times, or is over."""
    drains = Drainer.of(cluster.scheduler)._drains
    address = cluster.address(number)
    await until(lambda: address in drains, "the drain has begun")
    drain = drains[address]
    enough = drain.looks + times
    await until(lambda: drain.looks >= enough or drain.ending, "the drain goes on")


async def in_order(cluster: Cluster, number: int) -> None:
    """Wait until a worker has taken in all that its scheduler has sent it so far."""
    handlers = cluster.scheduler.stream_handlers
    before, answered = handlers[REPORT_ANSWER], asyncio.Event()

    def answer(worker: str, report: str, keys: Any) -> None:
        if report == "in order":
            answered.set()
        else:
            before(worker, report, keys)

    handlers[REPORT_ANSWER] = answer
    message = {"op": REPORT_REQUEST, "report": "in order"}
    cluster.scheduler.worker_send(cluster.address(number), message)
    async with asyncio.timeout(DEADLINE):
        await answered.wait()
    handlers[REPORT_ANSWER] = before


async def cancelled(task: asyncio.Task[Any]) -> None:
    """Cancel a task and wait for it."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()


async def works_again(cluster: Cluster, number: int) -> None:
    """Wait until a worker takes tasks, and both it and its scheduler say so."""
    worker = cluster.worker(number)
    ws = cluster.scheduler.workers[worker.address]
    both = (Status.running, Status.running)
    await until(lambda: (ws.status, worker.status) == both, "the worker works again")
    assert ws in cluster.scheduler.running
    task = cluster.client.submit(run, "once more", workers=[worker.address], pure=False)
    assert await task == "once more"


def takes_nothing(worker: Worker) -> None:
    """Have a worker fetch no data; its scheduler does not know."""
    worker.handle_stimulus(PauseEvent(stimulus_id="test"))


def takes_again(worker: Worker) -> None:
    """Undo :func:`takes_nothing`."""
    worker.handle_stimulus(UnpauseEvent(stimulus_id="test"))


def idle(cluster: Cluster, number: int) -> bool:
    return cluster.agents[number].agent.state == "idle"


class DistFactory:
    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._made: list[DaskDist] = []

    async def __call__(
        self,
        options: PoolOptions | None = None,
        *,
        pool: str = "default",
        scheduler: Scheduler | None = None,
    ) -> DaskDist:
        owner = Owner(scheduler or self._scheduler, pool, options or PoolOptions())
        dist = await asyncio.to_thread(DaskDist.for_scheduler, owner)  # it reads files
        self._made.append(dist)
        await dist.start()
        return dist

    async def close(self) -> None:
        for dist in self._made:
            await dist.close()
