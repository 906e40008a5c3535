"""What a worker takes with it when it goes."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dask.utils import format_bytes

from gc_bootstrap.scheduler import _dask
from gc_bootstrap.scheduler.move import is_safe

if TYPE_CHECKING:
    from distributed import Scheduler
    from distributed.scheduler import WorkerState


@dataclass(frozen=True, slots=True)
class Loss:
    """What went with a worker whose drain took too long.

    Parameters
    ----------
    tasks
        Tasks that ran, and have started again elsewhere.
    bound
        Tasks that no other worker can run: they wait for one.
    shuffles
        P2P shuffles that it took part in, and that have started again.
    results
        Results that were nowhere else, and are computed again.
    scattered
        Data that a client had scattered: it cannot be computed again.
    actors
        Actors.
    nbytes
        Size of the results and the data.
    """

    tasks: int = 0
    bound: int = 0
    shuffles: int = 0
    results: int = 0
    scattered: int = 0
    actors: int = 0
    nbytes: int = 0

    def __bool__(self) -> bool:
        data = self.results or self.scattered or self.actors
        return bool(self.tasks or self.bound or self.shuffles or data)

    def __str__(self) -> str:
        parts = [
            (self.tasks, "running tasks, which start again"),
            (self.bound, "tasks that no other worker can run, which wait for one"),
            (self.shuffles, "P2P shuffles, which start again"),
            (self.results, "results, which are computed again"),
            (self.scattered, "scattered values"),
            (self.actors, "actors"),
        ]
        what = ", ".join(f"{count} {name}" for count, name in parts if count)
        return f"{what} ({format_bytes(self.nbytes)})"


def loss_of(
    scheduler: Scheduler, ws: WorkerState, leaving: Container[WorkerState], restarted: int
) -> Loss:
    """What would go with a worker now.

    Parameters
    ----------
    leaving
        Workers that go as well, or this one alone.
    restarted
        How many of its tasks have been started again elsewhere already.
    """
    results = scattered = nbytes = 0
    for ts in ws.has_what:
        if not ts.actor and not is_safe(ts, leaving):
            nbytes += max(0, ts.nbytes)
            if ts.run_spec is None:
                scattered += 1
            else:
                results += 1
    waiting = sum(1 for _ in _dask.waits_for(scheduler, ws))
    bound = sum(1 for _ in _dask.bound_here(scheduler, ws.processing, leaving))
    return Loss(
        tasks=restarted + len(ws.processing) - bound,
        bound=bound + waiting,
        shuffles=len(_dask.shuffles(scheduler, ws.address)),
        results=results,
        scattered=scattered,
        actors=len(ws.actors),
        nbytes=nbytes,
    )
