"""Why a worker that is to leave goes on working for now."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Set as AbstractSet
from itertools import chain
from typing import TYPE_CHECKING, Any

from gc_bootstrap.scheduler import _dask

if TYPE_CHECKING:
    from distributed import Scheduler
    from distributed.scheduler import WorkerState

TASKS_SHARE = 0.5
"""Share of the deadline in which running tasks and shuffles may finish; the rest is for their
results."""
BOUND_SHARE = 0.9
"""Share of the deadline in which tasks that no other worker can run may begin."""
AT_WORK = 0.5
"""Seconds that a worker works for such tasks before it is asked again which it has begun."""


class Needed:
    """Whether one worker that drains is still needed at work.

    A P2P shuffle starts again, all of it, when a worker goes that takes part in it, and it cannot
    end without the tasks that it has bound to that worker. Tasks that are bound by their
    restrictions can run nowhere else.

    Parameters
    ----------
    scheduler
        Whose worker.
    ws
        The worker.
    leaving
        All workers that drain now, this one included.
    may_leave
        Whether all plugins would have let a worker go a moment ago; Dask's own one for shuffles is
        among them.
    clock
        Monotonic seconds.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        ws: WorkerState,
        leaving: AbstractSet[WorkerState],
        may_leave: Callable[[WorkerState], bool],
        clock: Callable[[], float],
    ) -> None:
        self._scheduler = scheduler
        self._ws = ws
        self._leaving = leaving
        self._may_leave = may_leave
        self._clock = clock
        self._since: float | None = None

    @property
    def at_work(self) -> bool:
        """Whether it is at work because it is needed."""
        return self._since is not None

    def put_to_work(self) -> None:
        """Note that it is at work from now on."""
        self._since = self._clock()

    def taken_off_work(self) -> None:
        """Note that it is not."""
        self._since = None

    def why(self, spent: float, begun: frozenset[Any] | None) -> str:
        """What it is needed for, or an empty text.

        Parameters
        ----------
        spent
            The share of its time that is over.
        begun
            The keys of the tasks that it has begun; None where it has not said.
        """
        if spent < TASKS_SHARE and not self._may_leave(self._ws):
            why = _by_whom(self._scheduler, self._ws)
        elif spent < BOUND_SHARE and self._has_bound_tasks(begun):
            why = "it has tasks that no other worker can run"
        else:
            return ""
        # Somebody else's retirement takes it off work, too.
        return "" if _dask.is_retired(self._scheduler, self._ws.address) else why

    @property
    def by_plugin(self) -> str:
        """Why a plugin would not let it go at this very moment, or an empty text."""
        return needed_by(self._scheduler, self._ws)

    def _has_bound_tasks(self, begun: frozenset[Any] | None) -> bool:
        """Whether there are tasks that it has not begun, and that no other worker can run."""
        ws = self._ws
        bound = _dask.bound_here(self._scheduler, ws.processing, self._leaving)
        if self._since is not None:
            # It is taken off work to say what it has begun, once it may have begun them all.
            settles = self._clock() - self._since < AT_WORK
            return sum(1 for _ in bound) > (0 if settles else ws.nthreads)
        if begun is None:
            return False
        waiting = (ts for ts in bound if ts.key not in begun)
        return any(True for _ in chain(waiting, _dask.waits_for(self._scheduler, ws)))


def needed_by(scheduler: Scheduler, ws: WorkerState) -> str:
    """Why a plugin would not let a worker go at this very moment, or an empty text."""
    return "" if _dask.may_leave(scheduler, [ws]) else _by_whom(scheduler, ws)


def _by_whom(scheduler: Scheduler, ws: WorkerState) -> str:
    if _dask.shuffles(scheduler, ws.address):
        return "it takes part in a P2P shuffle"
    return "a plugin wants it to stay"
