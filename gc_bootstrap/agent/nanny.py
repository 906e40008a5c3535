"""A nanny for workers that come and go with their schedulers.

Each override says which behaviour of ``distributed`` 2026.8 it is for.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Literal

from distributed import Nanny
from distributed.core import Status

logger = logging.getLogger(__name__)

ABANDONED_TIMEOUT = 2.5
"""Seconds for a worker to close whose scheduler is gone; it is killed after 0.8 of them. Nobody
waits for what it still runs."""
OWN_TIMEOUT = 10.0
"""Seconds for a worker to close because this agent wants it to; what ``dask worker`` gives."""
GRACEFUL_TIMEOUT = 37.5
"""Seconds for a worker that closes because its scheduler wants it to: 0.8 of them are the 30 s of
``Worker.close``."""
IDENTITY_TIMEOUT = 5.0
"""Seconds for a scheduler to say who it is."""


class AgentNanny(Nanny):
    """A nanny that minds one scheduler's worker, and is done when that scheduler is.

    Parameters
    ----------
    scheduler_id
        Whose worker it minds: one that is restarted for another scheduler would be nobody's.
    """

    def __init__(self, *args: Any, scheduler_id: str, **kwargs: Any) -> None:
        self.ending = asyncio.Event()
        self._scheduler_id = scheduler_id
        self._close_timeout = OWN_TIMEOUT
        super().__init__(*args, **kwargs)

    def close_gracefully(self, reason: str = "nanny-close-gracefully") -> None:
        """Note that the worker closes for good; Dask's nanny says so only when it has closed."""
        super().close_gracefully(reason)
        gone = reason == "worker-handle-scheduler-connection-broken"
        self._close_timeout = ABANDONED_TIMEOUT if gone else GRACEFUL_TIMEOUT
        self.ending.set()

    def abandon(self) -> None:
        """Give the worker little time to close."""
        self._close_timeout = ABANDONED_TIMEOUT

    async def kill(self, timeout: float = 5, reason: str = "nanny-kill") -> None:
        """End the process, also one whose start was cut short.

        ``WorkerProcess.kill`` asserts that this cannot be, and the process would be lost.
        """
        worker = self.process
        if worker is not None and worker.status == Status.starting and worker.running.is_set():
            worker.status = Status.failed
            while worker.process is not None and worker.process.pid is None:
                await asyncio.sleep(0.01)  # its thread is starting it
        await super().kill(timeout=timeout, reason=reason)

    async def close(  # type: ignore[override]  # as Nanny.close does
        self, timeout: float | None = None, reason: str = "nanny-close"
    ) -> Literal["OK"]:
        """End the worker and then the nanny.

        Dask's nanny gives a worker that does not start the whole death timeout to end.
        """
        started = self.process is not None and self.process.worker_address is not None
        limit = self._close_timeout if started else ABANDONED_TIMEOUT
        return await super().close(timeout=limit, reason=reason)

    async def _on_worker_exit(self, exitcode: int) -> None:
        """Restart the worker for the same scheduler only.

        Dask's nanny would let it join whichever scheduler has that address now, or try for ever.
        """
        if self.status == Status.running and not await self._scheduler_is_the_same():
            self.close_gracefully("worker-handle-scheduler-connection-broken")
        await super()._on_worker_exit(exitcode)

    async def _scheduler_is_the_same(self) -> bool:
        try:
            async with asyncio.timeout(IDENTITY_TIMEOUT):
                identity = await self.scheduler.identity(n_workers=0)
        except (OSError, TimeoutError) as exc:
            logger.info("The scheduler does not answer, its worker is not restarted: %s", exc)
            return False
        return bool(identity["id"] == self._scheduler_id)
