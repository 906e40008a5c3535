"""From "the agent is in discovery" to "its worker is registered in the scheduler".

One real scheduler; three ways for a worker to get there, in turn, each in a fresh process or
object every time:

- *agent*: a ``dask pool agent`` process that is ready and has never been attached. The clock runs
  from the moment a real :class:`Pool` (dist ``dask``) is told of the peer. *agent, again* is the
  same agent's second attach, after a drop.
- *cold*: a ``dask worker`` process with the same options, from ``Popen``. What users have today.
- *floor*: a ``distributed.Worker`` object in the scheduler's own process. No process, no request:
  what Dask itself needs to register a worker.

All clocks stop in ``SchedulerPlugin.add_worker``. Target: the agent takes at most 1/15 of cold.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from common import (
    TERMINATE_TIMEOUT,
    TIMES_HEADER,
    Times,
    isolated,
    process,
    ready_agent,
    run,
    table,
    verdict,
)
from distributed import Scheduler, Worker
from distributed.diagnostics.plugin import SchedulerPlugin

from gc_bootstrap import Peer, Pool
from gc_bootstrap.config import PoolOptions
from gc_bootstrap.dist import Owner
from gc_bootstrap.scheduler.dask import DaskDist
from gc_bootstrap.testing import ManualDiscovery

TARGET = 1 / 15
LIMIT = 60.0
"""Seconds after which something has gone wrong."""
SETTLE = 0.5
"""Seconds of rest before each clock starts."""
WORKER_OPTIONS = ("--nthreads", "1", "--host", "127.0.0.1")


class Registered(SchedulerPlugin):
    """Notes the moment at which a worker registers."""

    name = "benchmark"

    def __init__(self) -> None:
        self.at = 0.0
        self.happened = asyncio.Event()

    def add_worker(self, scheduler: Scheduler, worker: str) -> None:
        """Stop the clock."""
        self.at = time.perf_counter()
        self.happened.set()

    async def since(self, began: float) -> float:
        """Seconds until the next registration, which may have happened already."""
        async with asyncio.timeout(LIMIT):
            await self.happened.wait()
        return self.at - began


class Bench:
    """The scheduler and the three ways to it."""

    def __init__(self, scheduler: Scheduler, folder: Path) -> None:
        self.scheduler = scheduler
        self.log = folder / "processes.log"
        self.registered = Registered()
        scheduler.add_plugin(self.registered)

    async def rest(self) -> None:
        """Wait until no worker is left, and then some."""
        async with asyncio.timeout(LIMIT):
            while self.scheduler.workers:
                await asyncio.sleep(0.05)
        await asyncio.sleep(SETTLE)
        self.registered.happened.clear()

    @asynccontextmanager
    async def command(self, *arguments: str) -> AsyncIterator[None]:
        """Run a command of Dask, whose output goes to the log file."""
        command = (sys.executable, "-m", "dask", *arguments, *WORKER_OPTIONS)
        with (
            self.log.open("a") as log,
            process(*command, stdout=log, stderr=subprocess.STDOUT) as child,
        ):
            try:
                yield
            finally:
                # The scheduler has to go on while its worker says good-bye to it.
                child.terminate()
                await asyncio.to_thread(child.wait, TERMINATE_TIMEOUT)

    async def cold(self) -> float:
        """A `dask worker` process, from nothing."""
        await self.rest()
        began = time.perf_counter()
        async with self.command("worker", self.scheduler.address):
            return await self.registered.since(began)

    async def floor(self) -> float:
        """A worker object."""
        await self.rest()
        began = time.perf_counter()
        async with Worker(
            self.scheduler.address,
            nthreads=1,
            host="127.0.0.1",
            dashboard=True,
            dashboard_address=":0",
        ):
            return await self.registered.since(began)

    async def agent(self) -> tuple[float, float]:
        """A waiting agent process, twice."""
        async with self.command("pool", "agent", "--listen", "127.0.0.1:0"):
            peer = await ready_agent(LIMIT)
            return await self.attach(peer), await self.attach(peer)

    async def attach(self, peer: Peer) -> float:
        """Have a pool attach the peer, and drop it afterwards."""
        discovery, dist = ManualDiscovery(), DaskDist()
        options = PoolOptions()
        dist.bind(Owner(self.scheduler, options=options))
        async with Pool(discovery, dist, options=options):
            await self.rest()
            began = time.perf_counter()
            discovery.set([peer])
            seconds = await self.registered.since(began)
            discovery.set([])
            async with asyncio.timeout(LIMIT):
                while not await dist.disconnect(peer):
                    await asyncio.sleep(0.05)
            return seconds


async def measure(runs: int, folder: Path) -> dict[str, Times]:
    """Measure the three ways in turn."""
    found = {name: Times() for name in ("cold", "agent", "agent, again", "floor")}
    async with AsyncExitStack() as stack:
        scheduler = await stack.enter_async_context(
            Scheduler(host="127.0.0.1", port=0, dashboard=False, dashboard_address=":0")
        )
        bench = Bench(scheduler, folder)
        try:
            await bench.floor()  # imports and caches of this process
            for _ in range(runs):
                found["cold"].add(await bench.cold())
                first, second = await bench.agent()
                found["agent"].add(first)
                found["agent, again"].add(second)
                found["floor"].add(await bench.floor())
        except TimeoutError:
            sys.exit(f"nothing within {LIMIT:g} s; the processes said:\n{bench.log.read_text()}")
    return found


def main() -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=7)
    given = parser.parse_args()
    with isolated() as folder:
        found = asyncio.run(measure(given.runs, folder))
    cold, agent, floor = (found[name].median for name in ("cold", "agent", "floor"))
    rows = [
        [name, *times.cells(), f"1/{cold / times.median:.1f}", f"{times.median / floor:.1f}"]
        for name, times in found.items()
    ]
    table(["until registered", *TIMES_HEADER, "of cold", "x floor"], rows)
    print(
        f"ratio: a warm agent takes 1/{cold / agent:.1f} of a cold `dask worker`"
        f" (target: at most 1/{1 / TARGET:.0f}: {verdict(agent / cold <= TARGET)})"
        f" and {agent / floor:.1f} times the floor"
    )


if __name__ == "__main__":
    run(main)
