"""Moving data away from a worker, as a policy of Dask's active memory manager."""

from __future__ import annotations

from collections.abc import Callable, Container
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any

from distributed.active_memory_manager import ActiveMemoryManagerPolicy, Suggestion

from gc_bootstrap.scheduler import _dask
from gc_bootstrap.scheduler._dask import Status

if TYPE_CHECKING:
    from distributed.active_memory_manager import SuggestionGenerator
    from distributed.scheduler import TaskState, WorkerState

ASK_AGAIN = 2.0
"""Seconds after which a replica that has not come is asked for again, perhaps of another worker;
the interval of Dask's own active memory manager."""


class MoveAway(ActiveMemoryManagerPolicy):
    """Has other workers take what is on one worker, actors excepted.

    Parameters
    ----------
    ws
        The worker.
    leaving
        All that drain now, this one included: they are given nothing, also while they still work.
    clock
        Monotonic seconds.
    """

    def __init__(
        self, ws: WorkerState, leaving: AbstractSet[WorkerState], clock: Callable[[], float]
    ) -> None:
        self._ws = ws
        self._leaving = leaving
        self._clock = clock
        self._asked: dict[Any, float] = {}

    def run(self) -> SuggestionGenerator:
        """Called by the manager, whose choice each ``yield`` returns."""
        now = self._clock()
        self._asked = {key: at for key, at in self._asked.items() if now - at < ASK_AGAIN}
        takers = _dask.takers(self.manager.scheduler, self._leaving)
        for ts in list(self._ws.has_what):
            if is_safe(ts, self._leaving):
                # Here it only takes up memory, which others may need to be unspilled and sent.
                yield Suggestion("drop", ts, {self._ws})
            elif not ts.actor and ts.key not in self._asked:
                # Another worker that leaves may have it, too, and have had it asked for.
                is_asked = _dask.is_asked_for(self.manager, ts)
                if is_asked or (yield Suggestion("replicate", ts, takers)) is not None:
                    self._asked[ts.key] = now


def is_safe(ts: TaskState, leaving: Container[WorkerState]) -> bool:
    """Whether a worker that stays has the data of a task, too; a paused one counts."""
    return any(
        ws not in leaving and ws.status != Status.closing_gracefully for ws in ts.who_has or ()
    )
