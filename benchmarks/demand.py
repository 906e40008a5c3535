"""One look at what pools need, against ``Scheduler.adaptive_target()`` in the same run.

A real ``Scheduler`` that has a million tasks and 1,000 workers with a tag, that are not there; two
pools that adapt, each with 1,000 surveyed peers. Four cases:

- *queued*: all tasks wait for a thread.
- *unrunnable*: no worker can run them, half of them for their resources; one looks for a GPU.
- *processing*: they are shared out among the workers.
- *pinned*: the same, and each is bound to its worker.

Printed: the time of one look of both pools, and of ``adaptive_target()``, which looks at 100 tasks
for a whole cluster; the longest uninterrupted stretch on the event loop in a look, by the clock and
by the processor's time (other processes make the clock's longer). Target: no stretch over 5 ms of
processor time.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import time
from dataclasses import dataclass

import dask.config
from common import TIMES_HEADER, BothClocks, Times, isolated, run, table, verdict
from distributed import Scheduler
from distributed.core import Status
from distributed.scheduler import WorkerState

from gc_bootstrap import Peer
from gc_bootstrap.config import AdaptOptions
from gc_bootstrap.scheduler.demand import Demand
from gc_bootstrap.stake import Capacity
from gc_bootstrap.wire.tag import KEY, Tag

STRETCH = 0.005
"""Seconds that a look may keep the event loop at a time."""
CASES = ("queued", "unrunnable", "processing", "pinned")
POOLS = ("cpu", "gpu")
GPU = {"GPU": 1.0}


@dataclass
class Result:
    """What one case gave."""

    looks: Times
    targets: Times
    stretches: Times
    cpu: Times


def add_workers(scheduler: Scheduler, count: int) -> list[WorkerState]:
    """Put workers of both pools into the table."""
    made = []
    for number in range(count):
        pool = POOLS[number % 2]
        host = f"10.0.{number >> 8}.{number & 255}"
        tag = Tag(scheduler.id, f"{host}:8791", pool)
        ws = WorkerState(
            address=f"tcp://{host}:34567",
            status=Status.running,
            pid=0,
            name=host,
            nthreads=4,
            memory_limit=2**30,
            local_directory="",
            nanny=None,
            server_id=host,
            extra={KEY: tag.encode()},
            scheduler=scheduler,
        )
        ws.resources = GPU if pool == "gpu" else {}
        scheduler.workers[ws.address] = ws
        scheduler.running.add(ws)
        made.append(ws)
    return made


def add_tasks(scheduler: Scheduler, case: str, count: int, workers: list[WorkerState]) -> None:
    """Put tasks into the state of a case."""
    state = {"queued": "queued", "unrunnable": "no-worker"}.get(case, "processing")
    for number in range(count):
        ts = scheduler.new_task(f"task-{number}", None, state)  # type: ignore[arg-type]
        ts.priority = (number,)
        if case == "queued":
            scheduler.queued.add(ts)
        elif case == "unrunnable":
            ts.resource_restrictions = {"TPU": 1.0} if number % 2 else None
            if number == count // 2:
                ts.resource_restrictions = GPU
            scheduler.unrunnable[ts] = 0.0
        else:
            ws = workers[number % len(workers)]
            ws.add_to_processing(ts)
            if case == "pinned":
                ts.worker_restrictions = {ws.address}


async def measure(case: str, tasks: int, workers: int, runs: int) -> Result:
    """Measure one case."""
    scheduler = Scheduler(host="127.0.0.1", port=0, dashboard_address=":0")  # never started
    there = add_workers(scheduler, workers)
    add_tasks(scheduler, case, tasks, there)
    demand = Demand.of(scheduler)
    peers = {}
    for rank, pool in enumerate(POOLS):
        demand.join(pool, rank, lambda: None)
        able = Capacity(nthreads=4, resources=GPU if pool == "gpu" else {})
        peers[pool] = {Peer(f"10.{rank + 1}.{n >> 8}.{n & 255}"): able for n in range(workers)}
    found = Result(Times(), Times(), Times(), Times())
    clocks = BothClocks()
    gc.collect()
    gc.freeze()  # what is measured is the look, not this benchmark's million tasks
    for number in range(runs + 1):
        demand.update_graph(scheduler)
        with clocks.watching():
            await asyncio.sleep(0)
            clocks.take()
            began = time.perf_counter()
            for pool in POOLS:
                await demand.needed(pool, peers[pool], frozenset(), AdaptOptions())
            took = time.perf_counter() - began
            await asyncio.sleep(0)
            stretch, cpu = clocks.take()
        began = time.perf_counter()
        scheduler.adaptive_target()
        if number:  # the first one warms up
            found.looks.add(took)
            found.stretches.add(stretch)
            found.cpu.add(cpu)
            found.targets.add(time.perf_counter() - began)
    await demand.before_close()
    gc.unfreeze()
    return found


def report(found: dict[str, Result]) -> None:
    """Print the figures and, at the end, the ratios."""
    rows = []
    for case, result in found.items():
        rows.append([f"{case}: look of two pools", *result.looks.cells()])
        rows.append(["  longest stretch", *result.stretches.cells()])
        rows.append(["  the same, processor time", *result.cpu.cells()])
        rows.append(["  adaptive_target()", *result.targets.cells()])
    table(["case", *TIMES_HEADER], rows)
    longest = max(result.cpu.median for result in found.values())
    ratios = [f"{r.looks.median / r.targets.median:.1f} ({case})" for case, r in found.items()]
    print(
        f"longest stretch: {1000 * longest:.1f} ms of processor time (target: at most"
        f" {1000 * STRETCH:g}: {verdict(longest <= STRETCH)})"
    )
    print(f"ratio: a look against adaptive_target(): {', '.join(ratios)}")


def main() -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--tasks", type=int, default=1_000_000, metavar="N")
    parser.add_argument("--workers", type=int, default=1000, metavar="N")
    given = parser.parse_args()
    dask.config.set({"distributed.scheduler.active-memory-manager.start": False})
    with isolated():
        found = {
            case: asyncio.run(measure(case, given.tasks, given.workers, given.runs))
            for case in CASES
        }
    report(found)


if __name__ == "__main__":
    run(main)
