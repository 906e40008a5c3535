"""Having other workers run the tasks of one that is to leave."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING

from gc_bootstrap.scheduler import _dask
from gc_bootstrap.scheduler.duty import Duty

if TYPE_CHECKING:
    from distributed import Scheduler
    from distributed.scheduler import TaskState, WorkerState

AT_ONCE = 100
"""Tasks that start again elsewhere in one go; about 7 ms."""


class HandBack:
    """Takes tasks from one worker.

    Parameters
    ----------
    scheduler, ws
        Whose worker, and which.
    leaving
        All workers that drain now, this one included.
    duty
        Knows what it has begun.
    log
        Says something of the worker.

    Attributes
    ----------
    restarted
        How many tasks have been started again that it had begun.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        ws: WorkerState,
        leaving: AbstractSet[WorkerState],
        duty: Duty,
        log: Callable[[str, int], None],
    ) -> None:
        self._scheduler = scheduler
        self._ws = ws
        self._leaving = leaving
        self._duty = duty
        self._log = log
        self.restarted = 0

    async def what_has_not_begun(self, *, bound: bool) -> None:
        """Have others run what the worker has not begun, once it has said what that is.

        Parameters
        ----------
        bound
            Also what no other worker can run.
        """
        begun = self._duty.begun
        if begun is None:
            return
        waiting = [ts for ts in self._ws.processing if ts.key not in begun]
        if not bound:
            here = set(_dask.bound_here(self._scheduler, waiting, self._leaving))
            waiting = [ts for ts in waiting if ts not in here]
        if waiting:
            elsewhere = sum(map(self._can_run_elsewhere, waiting))
            if elsewhere:
                self._log(f"{elsewhere} tasks that it has not begun go elsewhere", logging.INFO)
            if elsewhere < len(waiting):
                rest = len(waiting) - elsewhere
                self._log(f"{rest} tasks wait for another worker that can run them", logging.INFO)
            await self._reschedule(waiting)

    async def what_is_overdue(self) -> None:
        """Have others run what the worker runs, where they can."""
        overdue = [ts for ts in self._ws.processing if self._can_run_elsewhere(ts)]
        if overdue:
            self.restarted += len(overdue)
            self._log(
                f"{len(overdue)} tasks have not finished in time; they start again elsewhere",
                logging.WARNING,
            )
            await self._reschedule(overdue)

    def _can_run_elsewhere(self, ts: TaskState) -> bool:
        return _dask.can_run_elsewhere(self._scheduler, ts, self._leaving)

    async def _reschedule(self, tasks: Sequence[TaskState]) -> None:
        for start in range(0, len(tasks), AT_ONCE):
            here = [ts for ts in tasks[start : start + AT_ONCE] if ts.processing_on is self._ws]
            _dask.release(self._scheduler, here, self._duty.id)
            await asyncio.sleep(0)
