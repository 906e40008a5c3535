"""Schedulers that share agents, each a process of its own, and what they compute."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from distributed import Client, Future

from gc_bootstrap.cli.processes import ProcessGroup
from gc_bootstrap.peer import Peer
from tests.integration.counted import executions
from tests.integration.harness import Processes, SchedulerProcess, until

TASK = 0.05
"""Seconds that a task takes."""
ADAPT = {"minimum": 0, "maximum": 6, "interval": 0.2, "wait-count": 3, "target-duration": 1}


def work(number: int, ledger: str) -> int:
    """Write down that it runs, and take some time."""
    with Path(ledger).open("a") as file:
        file.write(f"{number}\n")
    time.sleep(TASK)
    return number


class Party:
    """One scheduler, and its work."""

    def __init__(
        self, name: str, scheduler: SchedulerProcess, client: Client, folder: Path
    ) -> None:
        self.name = name
        self.scheduler = scheduler
        self._client = client
        self._ledger = folder / f"{name}.ledger"
        self._futures: list[Future[int]] = []
        self._asked = 0
        self._done: dict[int, int] = {}

    def compute(self, count: int) -> None:
        """Have that much work."""
        numbers = range(self._asked, self._asked + count)
        self._asked += count
        self._futures += self._client.map(work, numbers, ledger=str(self._ledger), pure=False)

    @property
    def finished(self) -> int:
        """How many of the tasks at hand are done."""
        return sum(future.done() for future in self._futures)

    async def rest(self) -> None:
        """Have no work any more, and fetch what has been done."""
        done = [future for future in self._futures if future.done()]
        for number in await self._client.gather(done):
            self._done[number] = self._done.get(number, 0) + 1
        for future in self._futures:
            future.release()
        self._futures = []

    def check(self) -> int:
        """See to it that nothing ran twice and each result is there; return how many there are."""
        runs = executions(self._ledger)
        assert {number for number, times in runs.items() if times > 1} == set()
        assert set(self._done.values()) <= {1}
        assert self._done.keys() <= runs.keys()
        return len(self._done)

    async def status(self) -> dict[str, Any]:
        """Of its pool."""
        return await self.scheduler.status()

    async def holds(self) -> int:
        """How many agents it has; none when it has been killed."""
        return 0 if self.scheduler.group.ended else len((await self.status())["members"])

    async def kill(self) -> None:
        """End its scheduler as abruptly as a machine that fails."""
        self.scheduler.group.signal(signal.SIGKILL)
        await self.scheduler.group.wait()
        await self.close()

    async def close(self) -> None:
        """Leave the scheduler. May be called more than once."""
        await self._client.close()


class Sharing:
    """Agents, the schedulers that share them, and who held how many at what time."""

    def __init__(self, processes: Processes, agents: dict[Peer, ProcessGroup]) -> None:
        self._processes = processes
        self.agents = agents
        self.parties: list[Party] = []
        self.timeline: list[tuple[float, str, tuple[int, ...]]] = []
        self._began = time.monotonic()

    async def party(self, name: str, **options: Any) -> Party:
        """One more scheduler, whose pool has such options; by default it adapts."""
        options = options or {"adapt": ADAPT}
        environ = {
            f"DASK_GC_BOOTSTRAP__{key.upper()}": json.dumps(value) for key, value in options.items()
        }
        scheduler = await self._processes.scheduler(
            self.agents, "--refresh-interval", "200ms", environ=environ
        )
        client = await Client(scheduler.address, asynchronous=True)
        party = Party(name, scheduler, client, self._processes.folder)
        self.parties.append(party)
        return party

    async def held(self, what: str = "") -> tuple[int, ...]:
        """How many agents each holds now; it is noted where it is something new."""
        found = tuple(await asyncio.gather(*(party.holds() for party in self.parties)))
        if what or not self.timeline or self.timeline[-1][2] != found:
            self.timeline.append((time.monotonic() - self._began, what, found))
        return found

    async def until(self, *counts: int) -> None:
        """Wait until each holds so many."""

        async def check() -> bool:
            return await self.held() == counts

        try:
            await until(check, f"they hold {counts}")
        except AssertionError as exc:
            status = [await party.status() for party in self.parties]
            told = [
                {k: s[k] for k in ("members", "wanted", "claims", "held", "counters")}
                for s in status
            ]
            raise AssertionError(f"{exc}\n{self}\n{json.dumps(told, indent=1)}") from None

    async def stays(self, *counts: int, looks: int = 5) -> None:
        """See to it that it stays so while each pool looks some more times."""
        alive = [party for party in self.parties if not party.scheduler.group.ended]
        before = [(await party.status())["refreshes"] for party in alive]

        async def enough() -> bool:
            assert await self.held() == counts, str(self)
            now = [(await party.status())["refreshes"] for party in alive]
            return all(n - b >= looks for n, b in zip(now, before, strict=True))

        await until(enough, "they have looked")

    async def close(self) -> None:
        """Leave the schedulers."""
        for party in self.parties:
            await party.close()

    def __str__(self) -> str:
        names = " / ".join(party.name for party in self.parties)
        rows = [
            f"{at:6.2f} s  {' / '.join(map(str, held)):12} {what}"
            for at, what, held in self.timeline
        ]
        return "\n".join([f"held by {names}", *rows])


@asynccontextmanager
async def sharing(processes: Processes, agents: int, *arguments: str) -> AsyncIterator[Sharing]:
    """So many agents to share."""
    found = Sharing(processes, await processes.agents(agents, *arguments))
    try:
        yield found
    finally:
        await found.close()
