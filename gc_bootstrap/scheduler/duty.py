"""Taking a worker off work, and putting it back."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any

from gc_bootstrap.scheduler import _dask
from gc_bootstrap.scheduler._dask import Status
from gc_bootstrap.wire.names import REPORT_REQUEST

if TYPE_CHECKING:
    from distributed import Scheduler
    from distributed.scheduler import WorkerState

OTHERS_POLL = 0.5
"""Seconds between two looks at whether somebody else's retirement of the worker is over."""


class Duty:
    """Whether one worker begins tasks.

    Parameters
    ----------
    scheduler, ws
        Whose worker, and which.
    reports
        Whether the worker can say what it runs.
    before
        Returns what it goes back to.
    later
        Takes what is left to do after the drain, and owns it.
    is_last
        Whether no other drain of the worker has begun since.

    Attributes
    ----------
    id
        Of the last order, for Dask's log.
    begun
        The keys of the tasks that the worker has begun; None where it has not said since.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        ws: WorkerState,
        *,
        reports: bool,
        before: Callable[[], Status],
        later: Callable[[Coroutine[Any, Any, None]], None],
        is_last: Callable[[], bool],
    ) -> None:
        self._scheduler = scheduler
        self._ws = ws
        self._reports = reports
        self._before = before
        self._later = later
        self._is_last = is_last
        self.id = _new_id()
        self.begun: frozenset[Any] | None = None

    @property
    def off(self) -> bool:
        """Whether it is off work, whoever has seen to that."""
        return self._ws.status == Status.closing_gracefully

    def take_off(self) -> None:
        """Have the worker begin no more tasks, and ask it which it has begun.

        Both travel in order, as does its answer with all that it says about its tasks.
        """
        self.id = _new_id()
        self.begun = None
        self._set_status(Status.closing_gracefully)
        if self._reports:
            request = {"op": REPORT_REQUEST, "report": self.id}
            self._scheduler.worker_send(self._ws.address, request)

    def reported(self, report: str, keys: Sequence[Any]) -> None:
        """Take in what the worker says that it runs; it begins nothing more."""
        if report == self.id:
            self.begun = frozenset(keys)

    def put_back(self) -> None:
        """Have it take tasks again."""
        before = self._before()
        self._set_status(before if before == Status.paused else Status.running)

    def put_back_for_good(self) -> None:
        """The same, at the end of a drain: somebody else may retire it."""
        if _dask.is_retired(self._scheduler, self._ws.address):
            self._later(self._put_back_after_others())
        else:
            self.put_back()

    async def _put_back_after_others(self) -> None:
        """Wait for the end of somebody else's retirement.

        Given up, it puts the worker back to what it was at its begin: that may be our doing. Dask
        gives it no deadline, so there is none here; it ends with the worker or the scheduler.
        """
        while not self._gone and _dask.is_retired(self._scheduler, self._ws.address):
            await asyncio.sleep(OTHERS_POLL)
        # Its own word comes up to half a second after its end.
        await asyncio.sleep(2 * OTHERS_POLL)
        if not self._gone and self.off and self._is_last():
            self.put_back()

    @property
    def _gone(self) -> bool:
        return self._scheduler.workers.get(self._ws.address) is not self._ws

    def _set_status(self, status: Status) -> None:
        _dask.set_status(self._scheduler, self._ws, status, self.id)


def _new_id() -> str:
    return f"gc_bootstrap-drain-{uuid.uuid4().hex}"
