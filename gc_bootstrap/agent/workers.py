"""The Dask workers of one attachment: started together, watched, ended together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

from distributed import Nanny, Worker
from distributed.core import Status, rpc
from distributed.worker import DEFAULT_STARTUP_INFORMATION

from gc_bootstrap.agent.options import WorkerOptions
from gc_bootstrap.peer import WORKER_EXTRA

logger = logging.getLogger(__name__)

CLOSE_TIMEOUT = 2.5
"""Seconds for a worker to close, be it asked to or on its way already. A nanny kills it after 0.8
of that. Its scheduler is gone or has let go of it: nobody waits for what it still runs."""
READY_POLL = 0.02


def _constant(value: Any, worker: Worker) -> Any:
    return value


class _Nanny(Nanny):
    """A nanny that says when its worker closes for good, and not only when it has closed."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.ending = asyncio.Event()
        super().__init__(*args, **kwargs)

    def close_gracefully(self, reason: str = "nanny-close-gracefully") -> None:
        super().close_gracefully(reason)
        self.ending.set()

    async def kill(self, timeout: float = 5, reason: str = "nanny-kill") -> None:
        process = self.process
        if process is not None and process.status == Status.starting and process.running.is_set():
            # A start that was cut short by a timeout. WorkerProcess.kill of distributed 2026.8
            # asserts that this cannot be, and the process would be lost to everybody.
            process.status = Status.failed
        await super().kill(timeout=timeout, reason=reason)

    async def close(  # type: ignore[override]  # as Nanny.close does
        self, timeout: float | None = None, reason: str = "nanny-close"
    ) -> Literal["OK"]:
        # A nanny whose worker does not start would close itself with the whole death timeout.
        return await super().close(timeout=CLOSE_TIMEOUT, reason=reason)


class WorkerGroup:
    """Workers for one scheduler.

    Parameters
    ----------
    options
        What to start.
    scheduler
        The scheduler's address.
    tag
        Who attached them; reported to the scheduler as ``WorkerState.extra``.
    death_timeout
        Seconds after which a worker that finds no scheduler gives up, unless the options say.
    """

    def __init__(
        self, options: WorkerOptions, scheduler: str, tag: Mapping[str, str], death_timeout: float
    ) -> None:
        self._options = options
        self._scheduler = scheduler
        self._tag = dict(tag)
        self._death_timeout = death_timeout
        self._servers: list[Nanny | Worker] = []
        self._watchers: list[asyncio.Task[None]] = []
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
            WORKER_EXTRA: partial(_constant, self._tag),
        }
        kind = _Nanny if self._options.nanny else self._options.worker_class
        try:
            for own in self._options.workers:
                arguments = {**own, "startup_information": information}
                if arguments.get("death_timeout") is None:
                    arguments["death_timeout"] = self._death_timeout
                self._servers.append(kind(self._scheduler, **arguments))
            await asyncio.gather(*(_started(server) for server in self._servers))
        except BaseException:
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

    async def retire(self, timeout: float) -> None:
        """Ask the scheduler to move the workers' data elsewhere and to forget them.

        Parameters
        ----------
        timeout
            Seconds. After it, or if the scheduler cannot be asked, the workers are as they were.
        """
        addresses = self.addresses
        if not addresses:
            return
        security = self._servers[0].security
        arguments = security.get_connection_args("worker")
        try:
            async with (
                asyncio.timeout(timeout),
                rpc(self._scheduler, connection_args=arguments) as scheduler,
            ):
                retired = await scheduler.retire_workers(
                    workers=addresses, close_workers=False, remove=True
                )
        except TimeoutError:
            logger.warning("Not all data was moved away within %g s", timeout)
        except OSError as exc:
            logger.warning("The scheduler could not be asked to take the data: %s", exc)
        else:
            if kept := set(addresses) - set(retired):
                logger.warning("No other worker could take the data of %s", ", ".join(sorted(kept)))

    async def close(self) -> None:
        """End all workers, and wait until no process is left. May be called more than once."""
        self.ending.set()
        results = await asyncio.gather(*map(_close, self._servers), return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                logger.error("Closing a worker failed", exc_info=result)
        for watcher in self._watchers:
            watcher.cancel()
        await asyncio.gather(*self._watchers, return_exceptions=True)

    async def _watch(self, server: Nanny | Worker) -> None:
        """Wait until a worker has ended; see to it that one that is ending ends soon."""
        finished = asyncio.ensure_future(server.finished())  # type: ignore[no-untyped-call]
        ending: asyncio.Future[Any] | None = None
        try:
            if isinstance(server, _Nanny):
                ending = asyncio.ensure_future(server.ending.wait())
                await asyncio.wait([finished, ending], return_when=asyncio.FIRST_COMPLETED)
                if len(self._servers) == 1:
                    self.ending.set()
                # Left alone, a worker process waits for 2 s at its end for word from its nanny
                # (distributed 2026.8, nanny.py, the join of "Nanny stop queue watch").
                await _close(server)
            await finished
        finally:
            for future in (finished, ending):
                if future is not None:
                    future.cancel()


async def _started(server: Nanny | Worker) -> None:
    await server


def _runs(server: Nanny | Worker) -> bool:
    if server.status in (Status.closed, Status.failed):
        return True  # it has ended: there is nothing to wait for
    if isinstance(server, Nanny):
        return server.process is not None and server.process.status == Status.running
    return server.status in (Status.running, Status.paused)


async def _close(server: Nanny | Worker) -> None:
    if server.status in (Status.closed, Status.failed) and not isinstance(server, Nanny):
        return
    if isinstance(server, Nanny):
        await server.close(reason="gc_bootstrap-agent")
    else:
        await server.close(timeout=CLOSE_TIMEOUT, executor_wait=False, reason="gc_bootstrap-agent")
