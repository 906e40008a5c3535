"""N agents attached through one pool, against N plain Dask workers that register.

Both in one process, on 127.0.0.1, each measurement in a process of its own, the two kinds in turn:

- *pool*: N agents (``--no-nanny``: the worker runs in the agent's process) listen and are ready;
  the clock runs from the moment a :class:`Pool` (dist ``dask``) is told of all of them.
- *plain*: N ``distributed.Worker`` objects with the same arguments, started together; the clock
  runs from before the first is made.

Both clocks stop when the last worker is in the scheduler (``SchedulerPlugin.add_worker``). What
the pool adds: a signed HTTP request per agent, and the agent's own look whether the scheduler can
be reached. Target: at most 1.2 times.

The timers of Dask's workers (ticks every 20 ms, system and memory monitor, profiler) are off on
both sides: on as many machines they are free, but in one process those of the workers that have
registered already slow down the attach of the others, and most of what would be measured is them.
``--timers`` leaves them on.

Each agent has a cookie of its own, as agents on one host have unless they are given one;
``--shared-cookie`` gives all of them the same, as agents on many hosts have.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import resource
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NoReturn

import click
import dask.config
from common import TIMES_HEADER, Times, in_subprocess, isolated, run, table, verdict
from distributed import Scheduler, Worker
from distributed.diagnostics.plugin import SchedulerPlugin

from gc_bootstrap import Pool
from gc_bootstrap.agent.listen import Listen
from gc_bootstrap.agent.options import WorkerOptions, click_parameters, worker_options
from gc_bootstrap.agent.run import AgentOptions, AgentServer
from gc_bootstrap.config import PoolOptions
from gc_bootstrap.dist import Owner
from gc_bootstrap.scheduler.dask import DaskDist
from gc_bootstrap.testing import ManualDiscovery
from gc_bootstrap.wire.cookie import Cookie, generate

TARGET = 1.2
LIMIT = 120.0
"""Seconds after which something has gone wrong."""
SETTLE = 0.5
"""Seconds of rest before the clock starts."""
FILES = 20_000
"""Open files that 200 workers in one process may need at most."""


NO_TIMERS = {
    "distributed.admin.tick.interval": "1h",
    "distributed.admin.system-monitor.interval": "1h",
    "distributed.worker.memory.monitor-interval": "1h",
    "distributed.worker.profile.enabled": False,
}


class Counter(SchedulerPlugin):
    """Notes the moment at which the last of so many workers registers."""

    name = "benchmark"

    def __init__(self, expected: int) -> None:
        self.missing = expected
        self.at = 0.0
        self.complete = asyncio.Event()

    def add_worker(self, scheduler: Scheduler, worker: str) -> None:
        """Count one."""
        self.missing -= 1
        if not self.missing:
            self.at = time.perf_counter()
            self.complete.set()

    async def since(self, began: float) -> float:
        """Seconds until all were there."""
        async with asyncio.timeout(LIMIT):
            await self.complete.wait()
        return self.at - began


def options() -> WorkerOptions:
    """What `dask pool agent --no-nanny --no-dashboard --nthreads 1 --host 127.0.0.1` would run."""
    arguments = ["--no-nanny", "--no-dashboard", "--nthreads", "1", "--host", "127.0.0.1"]
    parser = click.Command("agent", params=click_parameters())
    return worker_options(parser.make_context("agent", arguments).params)


async def pool(scheduler: Scheduler, n: int, stack: AsyncExitStack, cookie: Cookie | None) -> float:
    """Attach N agents, each from its own process' point of view an agent like any other."""
    peers = []
    for _ in range(n):
        own = AgentOptions(options(), Listen("127.0.0.1", 0, fixed=True), cookie)
        peers.append((await stack.enter_async_context(AgentServer(own))).peer)
    discovery, dist, policy = ManualDiscovery(), DaskDist(), PoolOptions()
    dist.bind(Owner(scheduler, options=policy))
    assert dist._client is not None
    dist._client.signer = cookie
    await stack.enter_async_context(Pool(discovery, dist, options=policy))
    counter = Counter(n)
    scheduler.add_plugin(counter)
    await asyncio.sleep(SETTLE)
    began = time.perf_counter()
    discovery.set(peers)
    seconds = await counter.since(began)
    while len(await dist.members()) < n:
        await asyncio.sleep(0.01)
    return seconds


async def plain(scheduler: Scheduler, n: int, stack: AsyncExitStack) -> float:
    """Start N workers."""
    arguments: dict[str, Any] = {**options().workers[0], "death_timeout": LIMIT}
    counter = Counter(n)
    scheduler.add_plugin(counter)
    await asyncio.sleep(SETTLE)
    began = time.perf_counter()
    workers = [Worker(scheduler.address, **arguments) for _ in range(n)]
    starting = asyncio.gather(*(stack.enter_async_context(worker) for worker in workers))
    seconds = await counter.since(began)
    await starting
    return seconds


async def once(kind: str, n: int, shared: bool) -> NoReturn:
    """Measure one kind once, print the seconds, and end this process."""
    cookie = Cookie(generate(), "the benchmark") if shared else None
    async with AsyncExitStack() as stack:
        scheduler = await stack.enter_async_context(
            Scheduler(host="127.0.0.1", port=0, dashboard=False, dashboard_address=":0")
        )
        # The very first worker of a process pays for caches that all others find filled.
        async with Worker(scheduler.address, **options().workers[0]):
            pass
        if kind == "pool":
            seconds = await pool(scheduler, n, stack, cookie)
        else:
            seconds = await plain(scheduler, n, stack)
        # All of it is in this process, and taking 200 workers down in good order takes a minute.
        print(seconds, flush=True)
        os._exit(0)


def main() -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--sizes", type=int, nargs="+", default=[50, 100, 200], metavar="N")
    parser.add_argument("--shared-cookie", action="store_true")
    parser.add_argument("--timers", action="store_true")
    parser.add_argument("--once", choices=("pool", "plain"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.once:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
        if not given.timers:
            dask.config.set(NO_TIMERS)
        # As `dask scheduler` and `dask worker` do.
        gc.set_threshold(*(3 * threshold for threshold in gc.get_threshold()))
        asyncio.run(once(given.once, given.sizes[0], given.shared_cookie))
    flags = {"--shared-cookie": given.shared_cookie, "--timers": given.timers}
    extra = [flag for flag, wanted in flags.items() if wanted]
    script = os.fspath(Path(__file__))
    found: dict[tuple[int, str], Times] = {}
    for n in given.sizes:
        for _ in range(given.runs):
            for kind in ("plain", "pool"):
                with isolated():
                    said = in_subprocess(script, "--once", kind, "--sizes", str(n), *extra)
                found.setdefault((n, kind), Times()).add(float(said))
    ratios = {n: found[n, "pool"].median / found[n, "plain"].median for n in given.sizes}
    rows = [
        [f"{n} {kind}", *times.cells(), f"{ratios[n]:.2f}" if kind == "pool" else ""]
        for (n, kind), times in found.items()
    ]
    table(["workers", *TIMES_HEADER, "ratio"], rows)
    said = ", ".join(f"{ratio:.2f} for {n}" for n, ratio in ratios.items())
    good = max(ratios.values()) <= TARGET
    print(f"ratio: pool / plain: {said} (target: at most {TARGET}: {verdict(good)})")


if __name__ == "__main__":
    run(main)
