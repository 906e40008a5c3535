"""The Dask workers of one attachment: started together, watched, ended together."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from functools import partial
from typing import Any

from distributed import Nanny, Worker
from distributed.core import Status, rpc
from distributed.security import Security
from distributed.worker import DEFAULT_STARTUP_INFORMATION

from gc_bootstrap.agent.nanny import ABANDONED_TIMEOUT, AgentNanny
from gc_bootstrap.agent.options import WorkerOptions
from gc_bootstrap.agent.reports import Reports
from gc_bootstrap.errors import one_line, os_reason
from gc_bootstrap.wire import tag as tags
from gc_bootstrap.wire.messages import WireError
from gc_bootstrap.wire.names import DRAIN_HANDLER
from gc_bootstrap.wire.tag import Tag

logger = logging.getLogger(__name__)

READY_POLL = 0.02
CONNECT_PATIENCE = 0.5
"""Seconds that a worker in this process may take to finish a connection before it is closed."""
ASK_AGAIN = 0.2
"""Seconds after which a drain is asked for again."""
UNDER_WAY_TIMEOUT = 5.0
"""Seconds that a drain waits for workers whose start is under way."""
ANSWER_MARGIN = 2.0
"""Seconds, or a tenth of the time where that is less, for the answer to a drain to come."""


_ALIVE = (Status.running, Status.paused, Status.closing_gracefully)


def _constant(value: Any, worker: Worker) -> Any:
    return value


class WorkerGroup:
    """Workers for one scheduler.

    Parameters
    ----------
    options
        What to start.
    scheduler, scheduler_id
        The scheduler's address, and which one it is.
    tag
        Who attached them; reported to the scheduler as ``WorkerState.extra``.
    death_timeout
        Seconds after which a worker that finds no scheduler gives up, unless the options say.
    """

    def __init__(
        self,
        options: WorkerOptions,
        scheduler: str,
        scheduler_id: str,
        tag: Tag,
        death_timeout: float,
    ) -> None:
        self._options = options
        self._scheduler = scheduler
        self._scheduler_id = scheduler_id
        self._tag = tag
        self._death_timeout = death_timeout
        security = options.security or Security()
        self._rpc = rpc(scheduler, connection_args=security.get_connection_args("worker"))
        self._servers: list[Nanny | Worker] = []
        self._watchers: list[asyncio.Task[None]] = []
        self._closing: asyncio.Task[None] | None = None
        self._left: list[asyncio.Future[Any]] = []
        self.abandoned = False
        self.ending = asyncio.Event()

    async def start(self) -> None:
        """Start all workers; returns when each has registered with the scheduler.

        Raises
        ------
        Exception
            Whatever kept one from starting. The others are closed.
        """
        information = {
            **DEFAULT_STARTUP_INFORMATION,
            tags.KEY: partial(_constant, self._tag.encode()),
        }
        kind: type[Nanny | Worker] = self._options.worker_class
        more: dict[str, Any] = {"startup_information": information, "plugins": (Reports(),)}
        if self._options.nanny:
            kind = AgentNanny
            more["scheduler_id"] = self._scheduler_id
        starting: list[asyncio.Task[None]] = []
        try:
            for own in self._options.workers:
                arguments = {**own, **more}
                if arguments.get("death_timeout") is None:
                    arguments["death_timeout"] = self._death_timeout
                self._servers.append(kind(self._scheduler, **arguments))
            # Before, so that another scheduler that is at this address by now never sees a worker;
            # and after, for one that came meanwhile.
            await self._check_scheduler()
            starting += [asyncio.create_task(_started(server)) for server in self._servers]
            await asyncio.gather(*starting)
            await self._check_scheduler()
        except BaseException:
            # The others first: closing a nanny that starts waits until it has started.
            for task in starting:
                task.cancel()
            await asyncio.gather(*starting, return_exceptions=True)
            await self.close()
            raise
        self._watchers = [asyncio.create_task(self._watch(server)) for server in self._servers]

    async def ready(self) -> None:
        """Return when each worker that has not ended runs; a nanny may be restarting one."""
        while not all(map(_runs, self._servers)):
            await asyncio.sleep(READY_POLL)

    async def finished(self) -> None:
        """Return when all workers have ended, for whatever reason."""
        await asyncio.gather(*self._watchers, return_exceptions=True)

    @property
    def addresses(self) -> list[str]:
        """Addresses of the running workers, as their scheduler knows them."""
        if self._options.contact_address:
            return [self._options.contact_address]
        addresses = []
        for server in self._servers:
            if _runs(server) and server.status != Status.closed:
                address = server.worker_address if isinstance(server, Nanny) else server.address
                addresses.append(address)
        return [address for address in addresses if address is not None]

    async def drain(self, timeout: float) -> bool:
        """Have the scheduler take the workers' tasks and data, and forget them.

        Returns
        -------
        bool
            Whether it answered. If not, nobody waits for the workers any more.

        Parameters
        ----------
        timeout
            Seconds. After it, or if the scheduler cannot be asked, the workers are as they were.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout
        await self._stop_restarts(timeout)
        try:
            async with asyncio.timeout_at(until):
                while not await self._try_to_drain(max(0.0, until - loop.time())):
                    await asyncio.sleep(ASK_AGAIN)
        except TimeoutError:
            logger.warning("Not drained within %g s", timeout)
        except OSError as exc:
            logger.warning("The scheduler could not be asked to take the data: %s", os_reason(exc))
            return False
        return True

    async def _try_to_drain(self, timeout: float) -> bool:
        """Ask for a drain; False where the asking failed and the scheduler is there all the same.

        Asking again joins the drain that runs.

        Raises
        ------
        OSError
            The scheduler is not there any more.
        """
        if not self.addresses:
            return True
        try:
            await self._drain(timeout)
        except Exception as exc:
            # The connection broke, or somebody has cancelled the drain.
            if not await self.scheduler_answers(ANSWER_MARGIN):
                if isinstance(exc, OSError):
                    raise
                raise OSError(one_line(exc)) from exc
            logger.info("Asking the scheduler again for a drain: %s", one_line(exc))
            return False
        return True

    async def _stop_restarts(self, timeout: float) -> None:
        """Let nannies restart nobody from now on, and what is being restarted come up.

        It would register, be given tasks, and be ended with them, as nobody drained it.
        """
        for server in self._servers:
            if isinstance(server, AgentNanny):
                server.restarts = False
        try:
            async with asyncio.timeout(min(UNDER_WAY_TIMEOUT, timeout)):
                await self.ready()
        except TimeoutError:
            logger.warning("A worker that is being restarted does not come up, and is not drained")

    async def _drain(self, timeout: float) -> None:
        addresses = self.addresses
        own = timeout - min(ANSWER_MARGIN, timeout / 10)
        lost = await getattr(self._rpc, DRAIN_HANDLER)(
            peer=self._tag.peer, pool=self._tag.pool, timeout=own
        )
        if lost is None:
            # It has never had a pool of ours: Dask answers so what it does not know.
            retired = await self._rpc.retire_workers(
                workers=addresses, close_workers=False, remove=True
            )
            lost = {address: "its data" for address in addresses if address not in retired}
        for address, loss in lost.items():
            if loss:
                logger.warning("The time was over: %s goes with %s", address, loss)

    async def scheduler_answers(self, timeout: float) -> bool:
        """Whether the scheduler that the workers are for gives a sign of life.

        Parameters
        ----------
        timeout
            Seconds to wait for it.
        """
        try:
            async with asyncio.timeout(timeout):
                return await self._scheduler_id_now() == self._scheduler_id
        except Exception as exc:
            # Whatever it is, it is no sign of life.
            logger.debug("No sign of life of the scheduler: %s", one_line(exc))
            return False

    async def _check_scheduler(self) -> None:
        try:
            found = await self._scheduler_id_now()
        except (ValueError, RuntimeError) as exc:
            # It wants TLS and this agent has no certificate, or its protocol is not installed here.
            raise WireError(
                502, f"cannot reach the scheduler at {self._scheduler}: {one_line(exc)}"
            ) from exc
        if found != self._scheduler_id:
            raise WireError(502, f"another scheduler is at {self._scheduler}: {found}")

    async def _scheduler_id_now(self) -> str:
        """Which scheduler is at the address that the workers are for."""
        identity = await self._rpc.identity(n_workers=0)
        return str(identity["id"])

    async def close(self, *, abandon: bool = False) -> None:
        """End all workers, and wait until no process is left. May be called more than once.

        Parameters
        ----------
        abandon
            Give the workers little time: nobody waits for them.
        """
        self.ending.set()
        for server in self._servers:
            if abandon and isinstance(server, AgentNanny):
                server.abandon()
        if self._closing is None:
            # A task of its own, which a cancelled caller does not cancel: half closed, a nanny
            # forgets its process.
            self._closing = asyncio.create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        results = await asyncio.gather(*map(self._close_one, self._servers), return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                logger.error("Closing a worker failed", exc_info=result)
        for watcher in self._watchers:
            watcher.cancel()
        await asyncio.gather(*self._watchers, return_exceptions=True)
        await self._rpc.close_rpc()

    async def _close_one(self, server: Nanny | Worker) -> None:
        if isinstance(server, Nanny):
            await server.close(reason="gc_bootstrap-agent")
            return
        if server.status in (Status.closed, Status.failed):
            return
        await _let_connect(server)
        closing = asyncio.ensure_future(
            server.close(
                timeout=ABANDONED_TIMEOUT, executor_wait=False, reason="gc_bootstrap-agent"
            )
        )
        await asyncio.wait([closing], timeout=ABANDONED_TIMEOUT)
        if closing.done():
            closing.result()
            return
        # It is closing already, and waits for a task that nothing can stop.
        self.abandoned = True
        self._left.append(closing)
        logger.warning("A worker still runs a task, and is left to itself")

    async def _watch(self, server: Nanny | Worker) -> None:
        """Wait until a worker has ended; see to it that one that is ending ends soon."""
        finished = asyncio.ensure_future(server.finished())  # type: ignore[no-untyped-call]
        ending: asyncio.Future[Any] | None = None
        try:
            if isinstance(server, AgentNanny):
                ending = asyncio.ensure_future(server.ending.wait())
                await asyncio.wait([finished, ending], return_when=asyncio.FIRST_COMPLETED)
                if len(self._servers) == 1:
                    self.ending.set()
                # Left alone, a worker process waits for 2 s at its end for word from its nanny
                # (distributed 2026.8, nanny.py, the join of "Nanny stop queue watch").
                await self._close_one(server)
            await finished
        finally:
            for future in (finished, ending):
                if future is not None:
                    future.cancel()
        if not self.ending.is_set():
            logger.warning("One of %d workers has ended for good", len(self._servers))


async def _let_connect(server: Worker) -> None:
    """Let the first heartbeat get its connection: cut off in the middle, Dask loses the socket."""
    server.periodic_callbacks["heartbeat"].stop()
    with suppress(TimeoutError):
        async with asyncio.timeout(CONNECT_PATIENCE):
            while any(server.rpc._connecting.values()):
                await asyncio.sleep(READY_POLL)


async def _started(server: Nanny | Worker) -> None:
    await server


def _runs(server: Nanny | Worker) -> bool:
    if server.status in (Status.closed, Status.failed):
        return True  # it has ended: there is nothing to wait for
    if isinstance(server, Nanny):
        return server.process is not None and server.process.status == Status.running
    return server.status in _ALIVE
