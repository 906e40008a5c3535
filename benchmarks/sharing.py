"""From "another scheduler's agent is freed" to "attached here".

Two real schedulers and one ``dask pool agent`` process. One scheduler holds the agent, the other
one's pool wants one and claims it. The first gives it away, as by the rule of fair shares: the
agent's workers end, it is idle, tells the claimant, and is attached there.

- *freed*: from the answer of the agent that its workers have ended (it is idle then) to the
  registration of its worker with the claimant.
- *given*: the same from the holder's decision: drain, end of the workers, and *freed*.
- *plain*: what there is to compare with: the same agent waits, and a pool is told of it.

All clocks stop in ``SchedulerPlugin.add_worker``. Target: *freed* takes at most 100 ms (median),
and at most twice of *plain*.
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

from attach import LIMIT, SETTLE, WORKER_OPTIONS, Registered
from common import TIMES_HEADER, Times, isolated, process, ready_agent, run, table, verdict
from distributed import Scheduler

from gc_bootstrap import Peer, Pool
from gc_bootstrap.config import PoolOptions
from gc_bootstrap.dist import Owner
from gc_bootstrap.scheduler.dask import DaskDist
from gc_bootstrap.stake import Stake
from gc_bootstrap.testing import ManualDiscovery

TARGET = 0.1
PLAIN_TARGET = 2.0


class Bench:
    """The holder, the claimant and the agent."""

    def __init__(self, holder: Scheduler, claimant: Scheduler, peer: Peer) -> None:
        self.claimant = claimant
        self.peer = peer
        self.registered = Registered()
        claimant.add_plugin(self.registered)
        self.holding = DaskDist()
        self.holding.bind(Owner(holder))

    @asynccontextmanager
    async def pool(self, size: int | None) -> AsyncIterator[ManualDiscovery]:
        """A pool of the claimant's, which knows no peer yet; what it attaches is let go at last."""
        discovery, dist = ManualDiscovery(), DaskDist()
        options = PoolOptions(size=size)
        dist.bind(Owner(self.claimant, options=options))
        self.registered.happened.clear()
        async with Pool(discovery, dist, options=options):
            yield discovery
            discovery.set([])
            async with asyncio.timeout(LIMIT):
                while not await dist.disconnect(self.peer):
                    await asyncio.sleep(0.05)
        await asyncio.sleep(SETTLE)

    async def plain(self) -> float:
        """Attach the agent, which waits."""
        async with self.pool(None) as discovery:
            await asyncio.sleep(SETTLE)
            began = time.perf_counter()
            discovery.set([self.peer])
            return await self.registered.since(began)

    async def shared(self) -> tuple[float, float]:
        """Take the agent over from the other scheduler; since it was freed and given."""
        async with asyncio.timeout(LIMIT):
            while not await self.holding.connect(self.peer):
                await asyncio.sleep(0.05)
            self.holding.tell(Stake(holds=2))
            async with self.pool(1) as discovery:
                discovery.set([self.peer])
                while not (claims := self.holding.claims()):
                    await self.holding.changed()
                await asyncio.sleep(SETTLE)
                given = time.perf_counter()
                outcome = await self.holding.release(self.peer, claims[0])
                freed = time.perf_counter()
                assert outcome, outcome.reason
                return await self.registered.since(freed), await self.registered.since(given)


async def measure(runs: int, folder: Path) -> dict[str, Times]:
    """Measure all of it in turn."""
    found = {name: Times() for name in ("plain", "freed", "given")}
    log = folder / "agent.log"
    command = (sys.executable, "-m", "dask", "pool", "agent", "--listen", "127.0.0.1:0")
    async with AsyncExitStack() as stack:
        file = stack.enter_context(log.open("a"))
        stack.enter_context(
            process(*command, *WORKER_OPTIONS, stdout=file, stderr=subprocess.STDOUT)
        )
        holder, claimant = [
            await stack.enter_async_context(
                Scheduler(host="127.0.0.1", port=0, dashboard=False, dashboard_address=":0")
            )
            for _ in range(2)
        ]
        bench = Bench(holder, claimant, await ready_agent(LIMIT))
        await bench.holding.start()
        stack.push_async_callback(bench.holding.close)
        try:
            await bench.plain()  # imports and caches of both processes
            for _ in range(runs):
                found["plain"].add(await bench.plain())
                freed, given = await bench.shared()
                found["freed"].add(freed)
                found["given"].add(given)
        except TimeoutError:
            sys.exit(f"nothing within {LIMIT:g} s; the agent said:\n{log.read_text()}")
    return found


def main() -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=20)
    given = parser.parse_args()
    with isolated() as folder:
        found = asyncio.run(measure(given.runs, folder))
    plain, freed = found["plain"].median, found["freed"].median
    rows = [[name, *times.cells(), f"{times.median / plain:.2f}"] for name, times in found.items()]
    table(["until registered", *TIMES_HEADER, "x plain"], rows)
    print(
        f"ratio: an agent that another scheduler has freed is attached in {freed / plain:.2f} times"
        f" a plain attach (target: at most {PLAIN_TARGET:g}:"
        f" {verdict(freed / plain <= PLAIN_TARGET)}), in {1000 * freed:.0f} ms (target: at most"
        f" {1000 * TARGET:g} ms: {verdict(freed <= TARGET)})"
    )


if __name__ == "__main__":
    run(main)
