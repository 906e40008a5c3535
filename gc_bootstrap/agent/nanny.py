"""A nanny for workers that come and go with their schedulers.

Each override says which behaviour of ``distributed`` 2026.8 it is for.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Literal

from distributed import Nanny
from distributed.core import Status
from distributed.protocol.pickle import dumps

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
QUIET_TIMEOUT = 1.0
"""Seconds for telling a worker that it is about to be closed."""


def _silence_heartbeat() -> None:
    """Runs in the worker's process, in its last moments."""

    def interesting(record: logging.LogRecord) -> bool:
        return "during heartbeat" not in record.getMessage()

    logging.getLogger("distributed.worker").addFilter(interesting)


class AgentNanny(Nanny):
    """A nanny that minds one scheduler's worker, and is done when that scheduler is.

    Parameters
    ----------
    scheduler_id
        Whose worker it minds: one that is restarted for another scheduler would be nobody's.

    Attributes
    ----------
    ending
        Set when the worker is ending for good.
    restarts
        Whether a worker that dies is restarted.
    """

    def __init__(self, *args: Any, scheduler_id: str, **kwargs: Any) -> None:
        self.ending = asyncio.Event()
        self._scheduler_id = scheduler_id
        self._close_timeout = OWN_TIMEOUT
        self.restarts = True
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
        if started and self.status == Status.running and limit == OWN_TIMEOUT:
            await self._expect_the_end()
        return await super().close(timeout=limit, reason=reason)

    async def _expect_the_end(self) -> None:
        """Have the worker not log a traceback of a heartbeat that its end interrupts.

        ``Worker.close`` does not wait for the one that is under way.
        """
        try:
            async with asyncio.timeout(QUIET_TIMEOUT):
                await self.rpc(self.worker_address).run(function=dumps(_silence_heartbeat))
        except (OSError, TimeoutError) as exc:
            logger.debug("The worker at %s cannot be told: %s", self.worker_address, exc)

    async def _on_worker_exit(self, exitcode: int) -> None:
        """Restart the worker for the same scheduler only.

        Dask's nanny would let it join whichever scheduler has that address now, or try for ever.
        """
        if self.status != Status.running:
            pass
        elif not self.restarts:
            self.close_gracefully("gc_bootstrap-agent")
        elif not await self._scheduler_is_the_same():
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
