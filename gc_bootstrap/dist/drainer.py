"""All drains of a scheduler's workers, whoever asks for them: a pool that drops a peer, or an agent
that got SIGTERM. The same worker is drained once, for both."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from distributed.core import Status

from gc_bootstrap.dist.drain import REPORT_HANDLER, Drain, Loss, cancel_and_wait
from gc_bootstrap.errors import DistError
from gc_bootstrap.peer import WORKER_EXTRA
from gc_bootstrap.wire import DRAIN_HANDLER

if TYPE_CHECKING:
    from distributed import Scheduler
    from distributed.scheduler import WorkerState


class Drainer:
    """Drains the workers of one scheduler; get it with :meth:`open`.

    Parameters
    ----------
    scheduler
        Whose workers.
    clock
        Monotonic seconds.
    """

    _of: ClassVar[dict[Scheduler, Drainer]] = {}

    def __init__(
        self, scheduler: Scheduler, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._scheduler = scheduler
        self._clock = clock
        self._drains: dict[str, Drain] = {}
        self._before: dict[str, tuple[WorkerState, Status]] = {}
        self._users = 0

    @classmethod
    def open(cls, scheduler: Scheduler) -> Drainer:
        """The only one of a scheduler, for as long as it is open: :meth:`close` it once per call.

        While it is open it takes requests from agents, too.
        """
        if scheduler not in cls._of:
            made = cls._of[scheduler] = cls(scheduler)
            scheduler.handlers[DRAIN_HANDLER] = made.drain_for_agent
            scheduler.stream_handlers[REPORT_HANDLER] = made._reported
        drainer = cls._of[scheduler]
        drainer._users += 1
        return drainer

    async def close(self) -> None:
        """Take no more requests once everybody has closed it; what runs then is cancelled."""
        self._users -= 1
        if self._users > 0:
            return
        del self._of[self._scheduler]
        del self._scheduler.handlers[DRAIN_HANDLER]
        del self._scheduler.stream_handlers[REPORT_HANDLER]
        await cancel_and_wait([drain.task for drain in self._drains.values()])

    async def drain(self, workers: Iterable[str], timeout: float) -> dict[str, Loss]:
        """Drain workers, together; returns when the scheduler knows none of them any more.

        A worker that is being drained already is not drained twice; the earlier deadline counts.
        If this is cancelled, those that nobody else wants drained take tasks again.

        Parameters
        ----------
        workers
            Addresses. Who is not in the scheduler's worker table is drained already.
        timeout
            Seconds for all phases.

        Returns
        -------
        dict
            What was lost, by the address of each worker that was drained.

        Raises
        ------
        DistError
            The drains were cancelled by :meth:`close`.
        """
        deadline = self._clock() + timeout
        drains = [
            self._join(address, deadline)
            for address in workers
            if address in self._scheduler.workers
        ]
        try:
            if drains:
                await asyncio.wait([drain.task for drain in drains])
            if any(drain.task.cancelled() for drain in drains):
                raise DistError("the drain was cancelled, as its pool was closed")
            return {drain.address: drain.task.result() for drain in drains}
        finally:
            for drain in drains:
                drain.waiters -= 1
            await cancel_and_wait([drain.task for drain in drains if drain.waiters == 0])

    def progress(self, worker: str) -> str:
        """What is left of a worker's drain, in one line; empty where none runs."""
        drain = self._drains.get(worker)
        return drain.progress if drain is not None else ""

    async def drain_for_agent(self, workers: Sequence[str], timeout: float) -> dict[str, str]:
        """RPC of an agent that wants to end its workers: :meth:`drain`, in types that msgpack has.

        Returns
        -------
        dict
            For each worker what was lost, or an empty text.
        """
        ours = [address for address in workers if self._is_ours(address)]
        lost = await self.drain(ours, max(0.0, float(timeout)))
        return {address: str(loss) if loss else "" for address, loss in lost.items()}

    def _is_ours(self, address: str) -> bool:
        ws = self._scheduler.workers.get(address)
        return ws is not None and WORKER_EXTRA in ws.extra

    def _join(self, address: str, deadline: float) -> Drain:
        drain = self._drains.get(address)
        if drain is None or drain.task.done():
            before = self._status_before(address)
            drain = Drain(self._scheduler, address, before, deadline, self._clock)
            self._drains[address] = drain
            drain.task.add_done_callback(lambda _: self._forget(drain))
        drain.deadline = min(drain.deadline, deadline)
        drain.waiters += 1
        return drain

    def _forget(self, drain: Drain) -> None:
        if self._drains.get(drain.address) is drain:
            del self._drains[drain.address]

    def _status_before(self, address: str) -> Status:
        """What a worker goes back to when its drain is cancelled.

        After a cancelled drain the worker's answer to the first order may still be on its way, and
        makes it look as if somebody else were retiring it.
        """
        workers = self._scheduler.workers
        self._before = {a: kept for a, kept in self._before.items() if workers.get(a) is kept[0]}
        ws = workers[address]
        if ws.status != Status.closing_gracefully or address not in self._before:
            self._before[address] = (ws, ws.status)
        return self._before[address][1]

    def _reported(self, worker: str, drain: str, paused: bool, keys: Sequence[Any]) -> None:
        """Stream handler: it comes after all that the worker said before about its tasks."""
        if worker in self._drains:
            self._drains[worker].reported(drain, paused, keys)
