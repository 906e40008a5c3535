"""A client that computes all through a storm, keeps every result in memory, and checks them."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distributed import Client, Future
from distributed.core import rpc

from tests.chaos import work
from tests.chaos.ledger import Loss

SIZE = 20_000
"""Bytes of the largest result."""
AHEAD = 8
"""Tasks that are under way at the same time at most."""
INTERVAL = 0.1
"""Seconds from one submission to the next."""
LONG = 0.25
"""Share of tasks that take long."""
RESULTS = 120.0
"""Seconds for all results to be there, all of them computed again if need be."""
CLOSE_TIMEOUT = 2.0
"""Seconds for a client to close whose scheduler may be gone."""


@dataclass(frozen=True, slots=True)
class Task:
    """One task, and what has to come of it. A combination names its parts."""

    number: int
    seconds: float
    size: int
    parts: tuple[int, ...] = ()

    @property
    def key(self) -> str:
        return f"{'sum' if self.parts else 'leaf'}-{self.number}"


def make_task(seed: int, number: int) -> Task:
    """Decide on a task: every fourth one combines two earlier results."""
    rng = random.Random(f"task {seed} {number}")
    seconds = round(rng.uniform(0.3, 0.6) if rng.random() < LONG else rng.uniform(0.0, 0.1), 2)
    size = rng.randrange(SIZE)
    if number % 4 == 3:
        return Task(number, seconds, size, tuple(rng.sample(range(number), 2)))
    return Task(number, seconds, size)


class Workload:
    """Submits one task after the other, to whichever scheduler there is.

    Parameters
    ----------
    seed
        Decides on the tasks.
    ledger
        File for their executions.
    """

    def __init__(self, seed: int, ledger: Path) -> None:
        self.losses: list[Loss] = []
        self._seed = seed
        self._ledger = str(ledger)
        self._tasks: list[Task] = []
        self._futures: dict[int, Future[Any]] = {}
        self._client: Client | None = None
        self._submitting = asyncio.Lock()
        self._loop: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to submit; :meth:`attach` comes first."""
        self._loop = asyncio.create_task(self._submit_all(), name="chaos workload")

    async def stop(self) -> None:
        """Submit no more. May be called more than once."""
        loop, self._loop = self._loop, None
        if loop is not None:
            loop.cancel()
            await asyncio.wait([loop])
            if not loop.cancelled():
                loop.result()  # what has ended it

    async def close(self) -> None:
        """End all of it. May be called more than once."""
        await self.stop()
        await self._detach()

    @property
    def keys(self) -> frozenset[str]:
        """All that has been submitted so far."""
        return frozenset(task.key for task in self._tasks)

    async def attach(self, address: str) -> None:
        """Submit to this scheduler from now on, all that was submitted before included."""
        await self._detach()
        self._client = await Client(address, asynchronous=True)
        for task in self._tasks:
            self._submit(task)

    @asynccontextmanager
    async def without_scheduler(self) -> AsyncIterator[None]:
        """Submit nothing while the scheduler is killed, up to the :meth:`attach` to the next."""
        async with self._submitting:
            self.note_loss("the scheduler was killed", self.keys)
            yield

    def note_loss(
        self, what: str, keys: frozenset[str], pids: frozenset[int] = frozenset()
    ) -> None:
        """Note what a fault takes, which is about to happen."""
        self.losses.append(Loss(what, time.monotonic(), keys, pids))

    async def results_are_right(self) -> int:
        """Wait for every result, compare it, and return how many there are."""
        assert self._client is not None, "attach() comes first"
        futures = [self._futures[task.number] for task in self._tasks]
        async with asyncio.timeout(RESULTS):
            results = await self._client.gather(futures)
        expected: dict[int, work.Result] = {}
        for task, result in zip(self._tasks, results, strict=True):
            if task.parts:
                parts = [expected[number] for number in task.parts]
                expected[task.number] = sum(number for number, _ in parts), parts[-1][1]
            else:
                expected[task.number] = task.number, bytes([task.number % 256]) * task.size
            assert result == expected[task.number], f"{task.key} has a wrong result"
        return len(results)

    async def _submit_all(self) -> None:
        while True:
            async with self._submitting:
                pending = sum(not future.done() for future in self._futures.values())
                if pending < AHEAD:
                    task = make_task(self._seed, len(self._tasks))
                    self._tasks.append(task)
                    self._submit(task)
            await asyncio.sleep(INTERVAL)

    def _submit(self, task: Task) -> None:
        assert self._client is not None, "attach() comes first"
        if task.parts:
            parts = [self._futures[number] for number in task.parts]
            arguments: tuple[Any, ...] = (work.combine, self._ledger, task.key, task.seconds)
            future = self._client.submit(*arguments, *parts, key=task.key)
        else:
            arguments = (work.leaf, self._ledger, task.key, task.number, task.seconds, task.size)
            future = self._client.submit(*arguments, key=task.key)
        self._futures[task.number] = future

    async def _detach(self) -> None:
        client, self._client = self._client, None
        self._futures.clear()
        if client is not None:
            with suppress(TimeoutError):  # it waits for a scheduler that may be gone
                await client.close(timeout=CLOSE_TIMEOUT)


async def held_by(scheduler: str, workers: frozenset[str]) -> frozenset[str]:
    """What these workers process or have in memory, by the scheduler's tables."""
    async with rpc(scheduler) as ask:
        who_has, processing = await ask.who_has(), await ask.processing()
    kept = {str(key) for key, where in who_has.items() if workers & set(where)}
    return frozenset(kept.union(*({str(k) for k in processing.get(w, ())} for w in workers)))
