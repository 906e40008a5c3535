"""One refresh of a pool over 100, 1,000 and 10,000 peers of which nothing has changed.

The parts are real: a :class:`Pool`, the dist ``dask`` and a ``Scheduler`` whose worker table holds
a ``WorkerState`` for each member, with the tag that our workers report. Only the workers
themselves are missing. The cases:

- *members*: a static list of peers, all of them attached.
- *new objects*: the same, from a discovery that makes its :class:`Peer` objects anew at each look,
  as one that asks a name server does.
- *backoff*: none is attached and all are backing off after a failed connect.
- *size*: 10 are wanted and attached, the others are not needed.
- *adapt*: the same, as many as the work needs, and what all the others can do is known.

Printed: the time of one refresh, of each 1,000 peers in it, and the longest uninterrupted stretch
on the event loop while the pool's own loop refreshes (which a busy machine can only make longer;
judged by the median of the refreshes). Garbage collection passes over what was there before.
Targets: linear, under 5 ms per 1,000 peers, no stretch over 10 ms.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import time
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import dask.config
from common import TIMES_HEADER, Ticker, Times, isolated, run, table, verdict
from distributed import Scheduler
from distributed.core import Status
from distributed.scheduler import WorkerState

from gc_bootstrap import Discovery, DistError, Outcome, Peer, Pool, Snapshot
from gc_bootstrap.config import DEFAULT_POOL, AdaptOptions, PoolOptions, ReconnectOptions
from gc_bootstrap.discovery.static import StaticDiscovery
from gc_bootstrap.dist import Needed, Owner
from gc_bootstrap.scheduler.dask import DaskDist
from gc_bootstrap.stake import Capacity, Survey
from gc_bootstrap.wire.tag import KEY as TAG

TARGET = 0.005
"""Seconds per 1,000 peers."""
STRETCH = 0.010
"""Seconds that a refresh may keep the event loop at a time."""
WANTED = 10
"""Members of a pool of a size."""
LONG = 3600.0
"""Seconds; no backoff ends within a benchmark."""


class NewObjects(Discovery):
    """Answers with peers that are equal at each look, but new objects; made beforehand."""

    def __init__(self, names: list[tuple[str, int]], looks: int) -> None:
        made = (frozenset(Peer(host, port) for host, port in names) for _ in range(looks))
        self._answers = [Snapshot(peers) for peers in made]

    async def peers(self) -> Snapshot:
        """The next answer."""
        return self._answers.pop()


class Unreachable(DaskDist):
    """The dist `dask`, on a network where nobody answers."""

    async def connect(self, peer: Peer) -> Outcome:
        """Fail as a connection would, only sooner."""
        await asyncio.sleep(0)
        raise DistError("is not reachable: Connection refused")


class Free(DaskDist):
    """The dist `dask`, on a network where every peer says at once that it is free."""

    async def survey(self, peer: Peer) -> Survey:
        """Answer as an idle agent would."""
        await asyncio.sleep(0)
        return Survey()

    async def needed(
        self,
        capacities: Mapping[Peer, Capacity],
        held: AbstractSet[Peer],
        adapt: AdaptOptions,
    ) -> Needed:
        """Answer as for work that is what those members can do."""
        await super().needed(capacities, held, adapt)
        return Needed(WANTED)


DISTS: dict[str, type[DaskDist]] = {"backoff": Unreachable, "size": Free, "adapt": Free}


@dataclass
class Result:
    """What one case gave."""

    times: Times
    stretches: Times


def names_of(count: int) -> list[tuple[str, int]]:
    """So many addresses."""
    return [(f"10.{i >> 16 & 255}.{i >> 8 & 255}.{i & 255}", 8791) for i in range(count)]


def add_members(scheduler: Scheduler, names: list[tuple[str, int]]) -> None:
    """Put a worker of each peer into the scheduler's table, as it is after an attach."""
    for host, port in names:
        address = f"tcp://{host}:34567"
        scheduler.workers[address] = WorkerState(
            address=address,
            status=Status.running,
            pid=0,
            name=address,
            nthreads=1,
            memory_limit=0,
            local_directory="",
            nanny=None,
            server_id=address,
            extra={
                TAG: {
                    "scheduler_id": scheduler.id,
                    "peer": f"{host}:{port}",
                    "pool": DEFAULT_POOL,
                }
            },
            scheduler=scheduler,
        )


async def measure(case: str, count: int, runs: int) -> Result:
    """Measure one case at one size."""
    names = names_of(count)
    discovery: Discovery = StaticDiscovery([f"{host}:{port}" for host, port in names])
    if case == "new objects":
        discovery = NewObjects(names, 2 * runs + 5)
    dist = DISTS.get(case, DaskDist)()
    options = PoolOptions(
        size=WANTED if case == "size" else None,
        adapt=AdaptOptions(interval=LONG) if case == "adapt" else None,
        refresh_interval=LONG,
        reconnect=ReconnectOptions(initial=LONG, max=2 * LONG),
    )
    scheduler = Scheduler(host="127.0.0.1", port=0, dashboard_address=":0")  # never started
    sized = case in ("size", "adapt")
    if case != "backoff":
        add_members(scheduler, names[:WANTED] if sized else names)
    dist.bind(Owner(scheduler, options=options))
    times, ticker = Times(), Ticker()
    async with Pool(discovery, dist, options=options) as pool:
        if case == "adapt":
            for host, port in names[WANTED:]:
                pool._record.surveyed(Peer(host, port), Survey())
        await pool.run_once()
        plan = await pool.refresh()
        held = count if case == "backoff" else count - WANTED if sized else 0
        assert len(plan.held) == held, "not the case it should be"
        gc.collect()
        gc.freeze()  # what is measured is the refresh, not this benchmark's 10,000 workers
        for _ in range(runs):
            await asyncio.sleep(0.01)
            began = time.perf_counter()
            await pool.refresh()
            times.add(time.perf_counter() - began)
        stretches = Times()
        for _ in range(runs):
            ticker.longest, seen = 0.0, pool._refreshes
            with ticker.watching():
                pool.hint()
                while pool._refreshes == seen:
                    await asyncio.sleep(0.02)
                await asyncio.sleep(0.05)  # for what the loop does after a refresh
            stretches.add(ticker.longest)
        gc.unfreeze()
    return Result(times, stretches)


def report(found: dict[tuple[str, int], Result], cases: list[str], sizes: list[int]) -> None:
    """Print the figures and, at the end, the ratios."""
    rows = []
    for (case, count), result in found.items():
        per_1000 = 1e6 * result.times.median / count
        stretches = [f"{1000 * s:.1f}" for s in (result.stretches.median, *result.stretches.range)]
        cells = result.times.cells()
        rows.append([f"{case}, {count:,}", *cells, f"{per_1000:.2f}", *stretches])
    header = ["case, peers", *TIMES_HEADER, "ms per 1,000", "stretch ms", "min", "max"]
    table(header, rows)
    few, many = min(sizes), max(sizes)
    said = []
    for case in cases:
        cost = {n: found[case, n].times.median / n for n in sizes}
        said.append(f"{cost[many] / cost[few]:.2f} ({case})")
    worst = max(result.times.median / count for (_, count), result in found.items())
    longest = max(result.stretches.median for result in found.values())
    print(
        f"most per 1,000: {1e6 * worst:.2f} ms (target: under {1000 * TARGET:g}:"
        f" {verdict(1000 * worst < TARGET)}); longest stretch: {1000 * longest:.1f} ms"
        f" (target: at most {1000 * STRETCH:g}: {verdict(longest <= STRETCH)})"
    )
    print(f"ratio: cost per peer, {many:,} against {few:,}: {', '.join(said)}; 1 is linear")


def main() -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 1000, 10000], metavar="N")
    given = parser.parse_args()
    cases = ["members", "new objects", "backoff", "size", "adapt"]
    found: dict[tuple[str, int], Result] = {}
    # It looks at what workers report with their heartbeats, and these workers send none.
    dask.config.set({"distributed.scheduler.active-memory-manager.start": False})
    with isolated():
        for case in cases:
            for count in given.sizes:
                found[case, count] = asyncio.run(measure(case, count, given.runs))
    report(found, cases, given.sizes)


if __name__ == "__main__":
    run(main)
