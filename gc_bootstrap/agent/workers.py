"""The Dask workers of one attachment: started together, watched, ended together."""

from __future__ import annotations

import asyncio
import logging
import random
from functools import partial
from typing import Any

from distributed import Nanny, Worker

from gc_bootstrap.agent import _dask
from gc_bootstrap.agent.link import Link
from gc_bootstrap.agent.nanny import ABANDONED_TIMEOUT, AgentNanny
from gc_bootstrap.agent.options import WorkerOptions
from gc_bootstrap.agent.state import Event, Life
from gc_bootstrap.agent.worker import OwnWorker
from gc_bootstrap.errors import one_line, os_reason
from gc_bootstrap.wire.names import REFILL_NO, REFILL_YES
from gc_bootstrap.wire.tag import Tag

logger = logging.getLogger(__name__)

READY_POLL = 0.02
CONNECT_PATIENCE = 0.5
"""Seconds that a worker in this process may take to finish a connection before it is closed."""
ASK_AGAIN = 0.2
"""Seconds after which a drain is asked for again."""
UNDER_WAY_TIMEOUT = 5.0
"""Seconds that a drain waits for workers whose start is under way."""
REFILL_FIRST, REFILL_FACTOR, REFILL_MOST, REFILL_JITTER = 1.0, 1.6, 30.0, 0.2
"""Seconds until a worker that has ended for good is replaced, and after failures; gRPC's
connection-backoff numbers, with a lower cap."""
REASON = "gc_bootstrap-agent"
"""Why a worker closes, for its log."""
_RANDOM = random.SystemRandom()


class WorkerGroup:
    """Workers for one scheduler.

    Parameters
    ----------
    options
        What to start.
    link
        The scheduler.
    tag
        Who attached them; each worker tells its scheduler.
    life
        Of the agent; told when the workers end.
    drain_timeout
        Seconds for the drain of a worker whose lifetime is over.
    """

    def __init__(
        self, options: WorkerOptions, link: Link, tag: Tag, life: Life, drain_timeout: float
    ) -> None:
        self._options = options
        self._link = link
        self._tag = tag
        self._life = life
        self._drain_timeout = drain_timeout
        self._servers: list[Nanny | Worker] = []
        self._minders: list[asyncio.Task[None]] = []
        self._closings: set[asyncio.Task[None]] = set()
        self._timeout = 0.0
        self._over = asyncio.Event()
        self._closing: asyncio.Task[None] | None = None
        self.left: list[asyncio.Future[None]] = []

    async def start(self, timeout: float) -> None:
        """Start all workers; returns when each has registered with the scheduler.

        Parameters
        ----------
        timeout
            Seconds after which a worker that finds no scheduler gives up, unless the options say.

        Raises
        ------
        Exception
            Whatever kept one from starting. The others are closed.
        """
        self._timeout = timeout
        starting: list[asyncio.Task[None]] = []
        try:
            for own in self._options.workers:
                self._servers.append(self._make(own))
            # Before, so that another scheduler that is at this address by now never sees a worker;
            # and after, for one that came meanwhile.
            await self._link.check_same()
            starting += [asyncio.create_task(_started(server)) for server in self._servers]
            await asyncio.gather(*starting)
            await self._link.check_same()
        except BaseException:
            # The others first: closing a nanny that starts waits until it has started.
            for task in starting:
                task.cancel()
            await asyncio.gather(*starting, return_exceptions=True)
            await self.close()
            raise
        for place, server in enumerate(self._servers):
            self._minders.append(asyncio.create_task(self._mind(place)))
            if isinstance(server, AgentNanny):
                server.on_ending(partial(self._ends, server))

    def _make(self, own: Any) -> Nanny | Worker:
        nanny = self._options.nanny
        make = OwnWorker(self._options.worker_class, self._tag, nanny, self._drain_timeout)
        arguments = dict(own)
        if arguments.get("death_timeout") is None:
            arguments["death_timeout"] = self._timeout
        if not nanny:
            return make(self._link.address, **arguments)
        arguments["worker_class"] = make
        return AgentNanny(self._link.address, link=self._link, life=self._life, **arguments)

    async def ready(self) -> None:
        """Return when each worker that has not ended runs; a nanny may be restarting one."""
        while not all(_dask.has_ended(s) or _dask.runs(s) for s in self._servers):
            await asyncio.sleep(READY_POLL)

    async def finished(self) -> None:
        """Return when all workers have ended, for whatever reason."""
        await self._over.wait()

    @property
    def addresses(self) -> list[str]:
        """Addresses of the running workers, as their scheduler knows them."""
        if self._options.contact_address:
            return [self._options.contact_address]
        running = [s for s in self._servers if _dask.runs(s) and not _dask.has_ended(s)]
        return [address for address in map(_dask.worker_address, running) if address is not None]

    async def drain(self, deadline: float) -> bool:
        """Have the scheduler take the workers' tasks and data, and forget them.

        Parameters
        ----------
        deadline
            On the event loop's clock. After it, or if the scheduler cannot be asked, the workers
            are as they were.

        Returns
        -------
        bool
            Whether it answered. If not, nobody waits for the workers any more.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            # One that is being restarted would register, be given tasks, and be ended with them,
            # as nobody drained it. From now on none is restarted.
            async with asyncio.timeout_at(min(began + UNDER_WAY_TIMEOUT, deadline)):
                await self.ready()
        except TimeoutError:
            logger.warning("A worker that is being restarted does not come up, and is not drained")
        try:
            async with asyncio.timeout_at(deadline):
                while (addresses := self.addresses) and not await self._link.drain(
                    self._tag, addresses, deadline
                ):
                    await asyncio.sleep(ASK_AGAIN)
        except TimeoutError:
            logger.warning("Not drained within %.3g s", deadline - began)
        except OSError as exc:
            logger.warning("The scheduler could not be asked to take the data: %s", os_reason(exc))
            return False
        return True

    async def close(self, *, abandon: bool = False) -> None:
        """End all workers, and wait until no process is left. May be called more than once.

        Parameters
        ----------
        abandon
            Give the workers little time: nobody waits for them.
        """
        self._life.tell(Event.END)
        for server in self._servers:
            if abandon and isinstance(server, AgentNanny):
                server.abandon()
        if self._closing is None:
            # A task of its own, which a cancelled caller does not cancel: half closed, a nanny
            # forgets its process.
            self._closing = asyncio.create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        for minder in self._minders:
            minder.cancel()
        await asyncio.gather(*self._minders, return_exceptions=True)
        closings = [*self._closings, *map(self._close_one, self._servers)]
        for result in await asyncio.gather(*closings, return_exceptions=True):
            if isinstance(result, Exception):
                logger.error("Closing a worker failed", exc_info=result)
        self._over.set()

    async def _close_one(self, server: Nanny | Worker) -> None:
        if isinstance(server, Nanny):
            await server.close(reason=REASON)
            return
        if _dask.has_ended(server):
            return
        await _dask.let_connect(server, CONNECT_PATIENCE)
        closing = asyncio.ensure_future(_dask.close_worker(server, ABANDONED_TIMEOUT, REASON))
        await asyncio.wait([closing], timeout=ABANDONED_TIMEOUT)
        if closing.done():
            closing.result()
            return
        # It is closing already, and waits for a task that nothing can stop.
        self.left.append(closing)
        logger.warning("A worker still runs a task, and is left to itself")

    def _ends(self, nanny: AgentNanny) -> None:
        """See to it that a worker that is ending ends soon.

        Left alone, a worker process waits for 2 s at its end for word from its nanny (distributed
        2026.8, nanny.py, the join of "Nanny stop queue watch").
        """
        if self._closing is not None:
            return  # so does every worker
        if all(s is nanny or _dask.has_ended(s) or _dask.is_ending(s) for s in self._servers):
            self._life.tell(Event.END)
        closing = asyncio.create_task(self._close_one(nanny))
        self._closings.add(closing)
        closing.add_done_callback(self._closings.discard)

    # -- one that ends for good while others run -------------------------------------------------

    async def _mind(self, place: int) -> None:
        """Wait until a worker has ended, and put another in its place."""
        while True:
            server = self._servers[place]
            await server.finished()  # type: ignore[no-untyped-call]
            if all(map(_dask.has_ended, self._servers)):
                self._over.set()  # the agent is free; the next attach starts all of them
                return
            if not await self._refill(place, server):
                return

    async def _refill(self, place: int, ended: Nanny | Worker) -> bool:
        """Start a worker in place of one that has ended; False where none is to be."""
        on_purpose = isinstance(ended, AgentNanny) and ended.ended_on_purpose
        address = ended.was_at if isinstance(ended, AgentNanny) else ""
        logger.warning("Worker %s, one of %d, has ended for good", address, len(self._servers))
        wait = REFILL_FIRST
        while self._life.restarts_workers and not on_purpose:
            await asyncio.sleep(wait * _RANDOM.uniform(1 - REFILL_JITTER, 1 + REFILL_JITTER))
            try:
                answer = await self._link.refill(self._tag, address)
                on_purpose = answer == REFILL_NO
                if answer == REFILL_YES and self._life.restarts_workers:
                    await self._start_one(place)
                    return True
            except Exception as exc:
                wait = min(wait * REFILL_FACTOR, REFILL_MOST)
                logger.warning("No worker in place of %s yet: %s", address, one_line(exc))
        if on_purpose:
            logger.info("It ended on purpose: none takes its place while the agent is attached")
        return False

    async def _start_one(self, place: int) -> None:
        server = self._servers[place] = self._make(self._options.workers[place])
        try:
            await self._link.check_same()
            await _started(server)
            await self._link.check_same()
        except Exception:
            await self._close_one(server)
            raise
        if isinstance(server, AgentNanny):
            server.on_ending(partial(self._ends, server))
        logger.info("Worker %s has taken its place", _dask.worker_address(server))


async def _started(server: Nanny | Worker) -> None:
    await server
