"""What a release may do: a drain at no cost, of a worker that works well and is not needed.

Nothing that has begun is started again, and nothing is lost. A release that cannot have that is
called off: at once where waiting would not help, and else at its deadline.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dask.utils import format_bytes

from gc_bootstrap.scheduler import _dask
from gc_bootstrap.scheduler.move import is_safe

if TYPE_CHECKING:
    from distributed import Scheduler
    from distributed.scheduler import WorkerState


class CalledOffError(Exception):
    """A release was called off; its text says why."""


@dataclass(frozen=True, slots=True)
class Rest:
    """What is left on a worker that is to be released.

    Parameters
    ----------
    others
        Whether another worker, one that stays, takes tasks and data.
    begun
        Tasks that it runs, or may run: it has not said.
    bound
        Tasks that it has not begun, and that no other worker can run.
    waits
        Whether tasks wait that it could run, and nobody else.
    results, nbytes
        Results that are nowhere else, and their size; counted where it matters.
    actors
        Actors.
    needed
        Why a plugin would not let it go, or an empty text.
    """

    others: bool = True
    begun: int = 0
    bound: int = 0
    waits: bool = False
    results: int = 0
    nbytes: int = 0
    actors: int = 0
    needed: str = ""


def hopeless(rest: Rest) -> str:
    """Why to wait would not help, or an empty text.

    Others may come, tasks end and shuffles, but the worker would be kept off work until then.
    """
    if rest.actors:
        return f"{_count(rest.actors, 'actor')} cannot be moved"
    if rest.needed:
        return rest.needed
    if rest.bound:
        return f"{_count(rest.bound, 'task')} can run on no other worker"
    if not rest.others:
        if rest.begun:
            return f"{_count(rest.begun, 'running task')} would have no place for what comes of it"
        if rest.results:
            return f"{_results(rest)} {_have(rest)} no other place"
    return "no other worker takes the tasks that wait" if rest.waits else ""


def unfinished(rest: Rest) -> str:
    """What was not done in time, or an empty text."""
    if why := hopeless(rest):
        return why
    if rest.begun:
        return f"{_count(rest.begun, 'task')} had not finished in time"
    return f"{_results(rest)} {_have(rest)} not been moved in time" if rest.results else ""


def rest_of(
    scheduler: Scheduler,
    ws: WorkerState,
    leaving: Container[WorkerState],
    begun: frozenset[Any] | None,
    needed: str,
    *,
    count: bool = False,
) -> Rest:
    """What is left on a worker now.

    Parameters
    ----------
    leaving
        All workers that go, this one included.
    begun
        The keys of the tasks that it has begun; None where it has not said.
    needed
        Why a plugin would not let it go.
    count
        Count its results, which takes time, even where others may take them.
    """
    others = _dask.anybody_takes(scheduler, leaving)
    waiting = [ts for ts in ws.processing if begun is not None and ts.key not in begun]
    bound = sum(1 for _ in _dask.bound_here(scheduler, waiting, leaving))
    waits = any(True for _ in _dask.waits_for(scheduler, ws)) or (
        not others and (bool(waiting) or _dask.work_waits(scheduler))
    )
    results, nbytes = (0, 0) if others and not count else _unsafe(ws, leaving)
    return Rest(
        others=others,
        begun=len(ws.processing) - len(waiting),
        bound=bound,
        waits=waits,
        results=results,
        nbytes=nbytes,
        actors=len(ws.actors),
        needed=needed,
    )


def is_empty(ws: WorkerState, leaving: Container[WorkerState]) -> bool:
    """Whether a worker runs nothing, and has nothing that is nowhere else."""
    return not (ws.processing or ws.actors) and all(is_safe(ts, leaving) for ts in ws.has_what)


def _unsafe(ws: WorkerState, leaving: Container[WorkerState]) -> tuple[int, int]:
    sizes = [max(0, ts.nbytes) for ts in _moved(ws) if not is_safe(ts, leaving)]
    return len(sizes), sum(sizes)


def _moved(ws: WorkerState) -> Iterable[Any]:
    return (ts for ts in ws.has_what if not ts.actor)


def _results(rest: Rest) -> str:
    return f"{_count(rest.results, 'result')} ({format_bytes(rest.nbytes)})"


def _have(rest: Rest) -> str:
    return "has" if rest.results == 1 else "have"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
