"""One scheduler's hold on an agent: from its attach until the last worker has ended."""

from __future__ import annotations

import asyncio
import logging

from gc_bootstrap.agent.link import Link
from gc_bootstrap.agent.options import WorkerOptions
from gc_bootstrap.agent.state import Event, Life
from gc_bootstrap.agent.workers import UNDER_WAY_TIMEOUT, WorkerGroup
from gc_bootstrap.errors import one_line
from gc_bootstrap.wire.messages import AttachRequest, WireError
from gc_bootstrap.wire.tag import Tag

logger = logging.getLogger(__name__)

PATIENCE = 0.5
"""Seconds that workers may take to start before the agent looks whether the scheduler is there."""


class Lease:
    """Owns the workers for one scheduler from first to last; begins at once.

    Parameters
    ----------
    request
        Whose it is.
    options
        The workers to start.
    life
        Of the agent; told of all that happens.
    link
        The way to the scheduler; closed in the end.
    deadline
        When the workers have to run, on the event loop's clock.
    silence
        Seconds that the scheduler may give no sign of life before the lease ends.
    drain_timeout
        Seconds for the drain of a worker whose lifetime is over.

    Attributes
    ----------
    started
        Done when the workers run; otherwise it holds the :class:`WireError` that says why not.
    task
        Over when no worker is left.
    link
        As given.
    """

    def __init__(
        self,
        request: AttachRequest,
        options: WorkerOptions,
        life: Life,
        link: Link,
        *,
        deadline: float,
        silence: float,
        drain_timeout: float,
        agent: str,
    ) -> None:
        self.request = request
        self._life = life
        self._deadline = deadline
        self._limit = max(0.0, deadline - asyncio.get_running_loop().time())
        self._silence = silence
        self.link = link
        count = len(options.workers)
        tag = Tag(request.scheduler_id, request.peer, request.pool, nworkers=count, agent=agent)
        self.group = WorkerGroup(options, link, tag, life, drain_timeout)
        self.started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # Retrieved here, so that a start nobody waits for any more is not reported as unseen.
        self.started.add_done_callback(lambda f: f.cancelled() or f.exception())
        self._starting: asyncio.Task[None] | None = None
        self._drain: asyncio.Task[bool] | None = None
        self.task = asyncio.create_task(self._hold(), name="gc_bootstrap agent: lease")

    async def drain(self, deadline: float) -> None:
        """Have the scheduler take the workers' data, then end them.

        Several callers share one drain, and the first one's deadline.

        Parameters
        ----------
        deadline
            When the data has to be elsewhere, on the event loop's clock.
        """
        self._life.tell(Event.DRAIN)
        moved = True
        if not self.started.done():
            # Its workers may have registered, and have tasks, before that is known here.
            left = deadline - asyncio.get_running_loop().time()
            await asyncio.wait([self.started], timeout=max(0.0, min(UNDER_WAY_TIMEOUT, left)))
        if self.started.done() and not (self.task.done() or self._life.workers_end):
            if self._drain is None:
                self._drain = asyncio.create_task(self._move_away(deadline))
            await asyncio.wait([self._drain])
            moved = not self._drain.cancelled() and self._drain.result()
        await self.end(abandon=not moved)

    async def end(self, *, abandon: bool = False) -> None:
        """End the workers and wait for it. The task is not cancelled: it closes what it started.

        Parameters
        ----------
        abandon
            Give the workers little time: nobody waits for them.
        """
        if self.task.done():
            return
        self._life.tell(Event.END)
        if self._drain is not None:
            self._drain.cancel()
        if self.started.done():
            await self.group.close(abandon=abandon)
        elif self._starting is not None:
            self._starting.cancel()
        await asyncio.wait([self.task])

    async def _move_away(self, deadline: float) -> bool:
        """Have the data moved; False where the scheduler is gone, or the workers end first."""
        draining = asyncio.create_task(self.group.drain(deadline))
        try:
            await asyncio.wait([draining, self.task], return_when=asyncio.FIRST_COMPLETED)
            return draining.done() and await draining
        finally:
            draining.cancel()
            await asyncio.gather(draining, return_exceptions=True)

    async def _hold(self) -> None:
        scheduler = self.request.scheduler
        logger.debug("Attaching to %s as %s", scheduler, self.request.peer)
        minding: asyncio.Task[None] | None = None
        try:
            await self._start()
            if self._life.workers_end:
                raise WireError(503, "the attach was cut short")
        except WireError as exc:
            logger.warning("Not attached to %s: %s", scheduler, exc)
            if not self.started.done():
                self.started.set_exception(exc)
        else:
            workers = ", ".join(self.group.addresses)
            logger.info("Attached to %s as %s with %s", scheduler, self.request.peer, workers)
            self._life.tell(Event.STARTED)
            self.started.set_result(None)
            minding = asyncio.create_task(self._mind(), name="gc_bootstrap agent: mind the lease")
            await self.group.finished()
            logger.info("The workers for %s have ended", scheduler)
        finally:
            if minding is not None:
                minding.cancel()
                await asyncio.gather(minding, return_exceptions=True)
            # Nobody waits for a worker that has not got so far as to be one.
            await self.group.close(abandon=minding is None)
            await self.link.close()
            if not self.started.done():
                self.started.set_exception(WireError(500, "internal error; see the agent's log"))

    async def _start(self) -> None:
        """Start the workers; where that takes long, find out whether it can succeed."""
        self.link.check_address()
        if self._life.workers_end:
            raise WireError(503, "the attach was cut short")
        starting = self._starting = asyncio.create_task(self.group.start(self._limit))
        checking = asyncio.create_task(self._check_later())
        try:
            async with asyncio.timeout_at(self._deadline):
                await asyncio.wait([starting, checking], return_when=asyncio.FIRST_COMPLETED)
                if not starting.done():
                    checking.result()
                await asyncio.wait([starting])
        except TimeoutError:
            reason = f"no worker has registered within {self._limit:.3g} s"
            late = WireError(500, f"a worker does not start: {reason}")
            # At once: ending what has been started takes longer than the scheduler waits.
            self.started.set_exception(late)
            raise late from None
        finally:
            for task in (starting, checking):
                task.cancel()
            await asyncio.gather(starting, checking, return_exceptions=True)
        if starting.cancelled():
            raise WireError(503, "the attach was cut short")
        if (exc := starting.exception()) is not None:
            if isinstance(exc, WireError):
                raise exc
            cause: BaseException = exc
            while cause.__cause__ is not None:  # Dask wraps it: "Nanny failed to start."
                cause = cause.__cause__
            raise WireError(500, f"a worker does not start: {one_line(cause)}") from exc

    async def _check_later(self) -> None:
        await asyncio.sleep(PATIENCE)
        await self.link.check_reachable()

    async def _mind(self) -> None:
        """End the lease of a scheduler that hangs, or that this agent is cut off from."""
        await self.link.silence(self._silence)
        logger.warning(
            "The scheduler at %s has given no sign of life for %g s: its lease ends",
            self.request.scheduler,
            self._silence,
        )
        await self.group.close(abandon=True)
