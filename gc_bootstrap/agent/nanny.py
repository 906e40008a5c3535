"""A nanny for workers that come and go with their schedulers.

Each override says which behaviour of ``distributed`` 2026.8 it is for.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Literal

from distributed import Worker

from gc_bootstrap.agent import _dask
from gc_bootstrap.agent.link import Link
from gc_bootstrap.agent.state import Life
from gc_bootstrap.wire.messages import WireError

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
ON_PURPOSE = ("scheduler-close-worker", "worker-close-gracefully", "worker-lifetime-reached")
"""Why a worker closes that nobody wants replaced: ``retire_workers`` without ``remove``, and what
the worker does by itself (distributed 2026.1 to 2026.8). ``retire_workers`` with ``remove`` gives
the same reason as any other removal; its scheduler knows which it was."""
QUIET_TIMEOUT = 1.0
"""Seconds for telling a worker that it is about to be closed."""


def _end_alone(dask_worker: Worker) -> bool:
    """Runs in the worker's process, in its last moments; returns whether it closes already.

    ``Worker.close`` does not wait for the heartbeat that is under way, which logs a traceback then.
    Where it closes because its scheduler goes at the same time, it tells its nanny, and waits for
    it: a nanny that is closing listens no more.
    """

    def interesting(record: logging.LogRecord) -> bool:
        return "during heartbeat" not in record.getMessage()

    logging.getLogger("distributed.worker").addFilter(interesting)
    dask_worker.nanny = None
    return bool(dask_worker.status == _dask.Status.closing)  # not: is being drained


class AgentNanny(_dask.HookedNanny):
    """A nanny that minds one scheduler's worker, and is done when that scheduler is.

    Parameters
    ----------
    link
        Whose worker it minds: one that is restarted for another scheduler would be nobody's.
    life
        Says whether a worker that dies is restarted.

    Attributes
    ----------
    was_at
        Address of the worker when it said that it closes for good; empty where it did not.
    ended_on_purpose
        Whether that was for a reason by which none is to take its place.
    """

    def __init__(self, *args: Any, link: Link, life: Life, **kwargs: Any) -> None:
        self._link = link
        self._life = life
        self._close_timeout = OWN_TIMEOUT
        self._on_ending: Callable[[], None] | None = None
        self._told = asyncio.Event()
        self.was_at = ""
        self.ended_on_purpose = False
        super().__init__(*args, **kwargs)

    def on_ending(self, listener: Callable[[], None]) -> None:
        """Call somebody when the worker ends for good; at once where it does so already."""
        self._on_ending = listener
        if self.is_ending:
            listener()

    def close_gracefully(self, reason: str = "nanny-close-gracefully") -> None:
        """Say that the worker closes for good; Dask's nanny says so only when it has closed."""
        super().close_gracefully(reason)
        self.was_at = self.was_at or self.worker_address or ""
        self.ended_on_purpose = self.ended_on_purpose or reason in ON_PURPOSE
        gone = reason == "worker-handle-scheduler-connection-broken"
        self._close_timeout = ABANDONED_TIMEOUT if gone else GRACEFUL_TIMEOUT
        self._told.set()
        if self._on_ending is not None:
            self._on_ending()

    def abandon(self) -> None:
        """Give the worker little time to close; also one that has been given more."""
        self._close_timeout = ABANDONED_TIMEOUT
        if self.is_ending:
            # As long as Dask waits for it that is told so from the first.
            asyncio.get_running_loop().call_later(0.8 * ABANDONED_TIMEOUT, self.kill_at_once)

    async def close(  # type: ignore[override]  # as Nanny.close does
        self, timeout: float | None = None, reason: str = "nanny-close"
    ) -> Literal["OK"]:
        """End the worker and then the nanny.

        Dask's nanny gives a worker that does not start the whole death timeout to end.
        """
        if self.has_started and self.is_running and self._close_timeout == OWN_TIMEOUT:
            await self._expect_the_end()
        limit = self._close_timeout if self.has_started else ABANDONED_TIMEOUT
        return await super().close(timeout=limit, reason=reason)

    async def _expect_the_end(self) -> None:
        """Have the worker neither log a traceback when it ends nor wait for this nanny."""
        try:
            async with asyncio.timeout(QUIET_TIMEOUT):
                if await _dask.run_in_worker(self, _end_alone):
                    await self._told.wait()  # it may be about to say so
        except (OSError, TimeoutError) as exc:
            logger.debug("The worker at %s cannot be told: %s", self.worker_address, exc)

    def restart_failed(self) -> None:
        """Be done: Dask's nanny would be there for ever, without a worker."""
        self.close_gracefully("gc_bootstrap-restart-failed")

    async def worker_exited(self) -> None:
        """Let the worker be restarted for the same scheduler only.

        Dask's nanny would let it join whichever scheduler has that address now, or try for ever.
        """
        if not self._life.restarts_workers:
            self.close_gracefully("gc_bootstrap-agent")
        elif not await self._link.answers(IDENTITY_TIMEOUT):
            logger.info("Its scheduler does not answer: the worker is not restarted")
            self.close_gracefully("worker-handle-scheduler-connection-broken")

    async def worker_restarted(self) -> None:
        """End a worker whose scheduler was replaced while it started.

        At work for the new one it would be nobody's member, and be lost when its lease ends.
        """
        try:
            async with asyncio.timeout(IDENTITY_TIMEOUT):
                await self._link.check_same()
        except WireError as exc:
            logger.info("The worker that was restarted is ended: %s", exc)
            self.close_gracefully("worker-handle-scheduler-connection-broken")
        except (OSError, TimeoutError) as exc:
            logger.debug("Whose the restarted worker is cannot be seen: %s", exc)  # its lease minds
