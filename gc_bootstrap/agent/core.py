"""The agent's states and its lease, without any HTTP."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Literal

from dask.utils import parse_timedelta
from distributed.comm.addressing import parse_address, parse_host_port
from distributed.comm.core import connect
from distributed.security import Security

from gc_bootstrap import wire
from gc_bootstrap.agent.options import WorkerOptions
from gc_bootstrap.agent.workers import WorkerGroup
from gc_bootstrap.errors import one_line, os_reason
from gc_bootstrap.wire import AttachReply, AttachRequest, DetachRequest, WireError

logger = logging.getLogger(__name__)

State = Literal["warming", "idle", "attaching", "attached", "draining"]
STATES: tuple[State, ...] = ("warming", "idle", "attaching", "attached", "draining")

START_TIMEOUT = 30.0
"""Seconds for the workers of one attach to start and register, where the scheduler says nothing."""
PATIENCE = 0.5
"""Seconds that workers may take to start before the agent looks whether the scheduler is there."""
DIAL_TIMEOUT = 5.0
"""Seconds for that look."""
RELEASE_TIMEOUT = 5.0
"""Seconds that an attach waits for the workers of the last scheduler to be gone."""


class Lease:
    """One scheduler's hold on the agent, from its attach until the last worker has ended."""

    def __init__(self, request: AttachRequest, group: WorkerGroup) -> None:
        self.request = request
        self.group = group
        self.starting: asyncio.Task[None] | None = None
        self.started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # Retrieved here, so that a start nobody waits for any more is not reported as unseen.
        self.started.add_done_callback(lambda f: f.cancelled() or f.exception())
        self.task: asyncio.Task[None] | None = None


class Agent:
    """Waits for a scheduler, runs workers for it, and waits again.

    Parameters
    ----------
    options
        The workers to start.
    """

    def __init__(self, options: WorkerOptions) -> None:
        self.options = options
        self.versions = wire.versions()
        self.abandoned = False
        self.attaches = 0
        self.failures = 0
        self.warm = False
        self._draining = False
        self._lease: Lease | None = None

    @property
    def state(self) -> State:
        """One of :data:`STATES`."""
        if self._draining:
            return "draining"
        if not self.warm:
            return "warming"
        if self._lease is None:
            return "idle"
        if not self._lease.started.done():
            return "attaching"
        return "draining" if self._lease.group.ending.is_set() else "attached"

    @property
    def ready(self) -> bool:
        """Whether it can be attached, or is."""
        return self.warm and not self._draining

    async def warm_up(self, warm: Callable[[], Awaitable[None]] | None) -> None:
        """Get ready to be attached.

        Parameters
        ----------
        warm
            Does it; None where there is nothing to do.

        Raises
        ------
        Exception
            Whatever ``warm`` raised.
        """
        if warm is not None:
            await warm()
        self.warm = True

    async def attach(self, request: AttachRequest) -> AttachReply:
        """Be the scheduler's, with workers that have registered there.

        Attaching again for the same scheduler id changes nothing, and answers when all runs.

        Raises
        ------
        WireError
            409 held by another or incompatible, 502 the scheduler cannot be reached, 500 a worker
            does not start, 503 warming up or draining.
        """
        self._check_ready()
        lease = self._lease
        if lease is not None and lease.group.ending.is_set():
            await self._released(lease)
            self._check_ready()
            lease = self._lease
        if lease is None:
            if differ := wire.mismatch(self.versions, request.versions):
                raise WireError(409, f"incompatible versions: {differ}")
            lease = self._take(request)
        elif lease.request.scheduler_id != request.scheduler_id:
            holder = lease.request
            raise WireError(409, f"held by scheduler {holder.scheduler_id} at {holder.scheduler}")
        # Shielded: a scheduler that gives up waiting does not stop the start of its workers.
        await asyncio.shield(lease.started)
        limit = self._start_timeout(request)
        try:
            async with asyncio.timeout(limit):
                await lease.group.ready()
        except TimeoutError:
            raise WireError(500, f"a worker has not come back within {limit:g} s") from None
        held = lease.request
        return AttachReply(
            held.scheduler_id,
            held.peer,
            held.pool,
            tuple(lease.group.addresses),
            self.versions,
        )

    async def detach(self, request: DetachRequest) -> None:
        """End the workers and be nobody's.

        Raises
        ------
        WireError
            409 where another scheduler holds the agent.
        """
        lease = self._lease
        if lease is None:
            return
        if lease.request.scheduler_id != request.scheduler_id:
            raise WireError(409, f"held by scheduler {lease.request.scheduler_id}, not by you")
        if lease.request.peer != request.peer:
            raise WireError(409, f"held as {lease.request.peer}")
        await self._end(lease)

    def status(self) -> dict[str, Any]:
        """What ``GET /v1/status`` answers."""
        lease = self._lease
        return {
            "state": self.state,
            "scheduler": lease and lease.request.scheduler,
            "scheduler_id": lease and lease.request.scheduler_id,
            "peer": lease and lease.request.peer,
            "pool": lease and lease.request.pool,
            "workers": [
                {"address": address} for address in (lease.group.addresses if lease else ())
            ],
            "nworkers": len(self.options.workers),
            "nthreads": self.options.nthreads,
            "memory_limit": str(self.options.workers[0].get("memory_limit")),
            "versions": self.versions,
        }

    async def drain(self, timeout: float) -> None:
        """Have the scheduler take the workers' data, end them, and take no attach any more.

        Parameters
        ----------
        timeout
            Seconds for the data to be moved.
        """
        self._draining = True
        lease = self._lease
        abandon = False
        if lease is not None:
            if lease.started.done() and not lease.group.ending.is_set():
                abandon = not await self._retire(lease, timeout)
            await self._end(lease, abandon=abandon)

    async def _retire(self, lease: Lease, timeout: float) -> bool:
        """Have the data moved; False where the scheduler is gone, or the workers end first."""
        retiring = asyncio.create_task(lease.group.retire(timeout))
        waiting = [retiring] if lease.task is None else [retiring, lease.task]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            return retiring.done() and await retiring
        finally:
            retiring.cancel()
            await asyncio.gather(retiring, return_exceptions=True)

    async def close(self) -> None:
        """End everything now. May be called more than once."""
        self._draining = True
        if self._lease is not None:
            await self._end(self._lease, abandon=True)

    # -- the lease -------------------------------------------------------------------------------

    def _check_ready(self) -> None:
        if self._draining:
            raise WireError(503, "is draining")
        if not self.warm:
            raise WireError(503, "is warming up")

    def _take(self, request: AttachRequest) -> Lease:
        tag = {"peer": request.peer, "pool": request.pool}
        group = WorkerGroup(
            self.options, request.scheduler, request.scheduler_id, tag, self._start_timeout(request)
        )
        lease = self._lease = Lease(request, group)
        lease.task = asyncio.create_task(self._hold(lease), name="gc_bootstrap agent: lease")
        return lease

    async def _hold(self, lease: Lease) -> None:
        """Own the lease's workers from first to last."""
        scheduler = lease.request.scheduler
        logger.debug("Attaching to %s as %s", scheduler, lease.request.peer)
        try:
            await self._start(lease)
        except WireError as exc:
            self.failures += 1
            logger.warning("Not attached to %s: %s", scheduler, exc)
            if not lease.started.done():
                lease.started.set_exception(exc)
        else:
            self.attaches += 1
            workers = ", ".join(lease.group.addresses)
            logger.info("Attached to %s as %s with %s", scheduler, lease.request.peer, workers)
            lease.started.set_result(None)
            await lease.group.finished()
            logger.info("The workers for %s have ended", scheduler)
        finally:
            await lease.group.close()
            if not lease.started.done():
                lease.started.set_exception(WireError(500, "internal error; see the agent's log"))
            if self._lease is lease:
                self._lease = None

    def _start_timeout(self, request: AttachRequest) -> float:
        """Seconds for the workers to start: a moment less than the scheduler waits for them."""
        asked = START_TIMEOUT if request.timeout is None else request.timeout
        given = self.options.workers[0].get("death_timeout")
        own = 0.0 if given is None else float(parse_timedelta(given))
        return max(asked - min(1.0, asked / 10), own)

    async def _start(self, lease: Lease) -> None:
        """Start the lease's workers; where that takes long, find out whether it can succeed."""
        location = _parse_address(lease.request.scheduler)
        starting = lease.starting = asyncio.create_task(lease.group.start())
        checking = asyncio.create_task(self._check_later(lease.request.scheduler, location))
        limit = self._start_timeout(lease.request)
        try:
            async with asyncio.timeout(limit):
                await asyncio.wait([starting, checking], return_when=asyncio.FIRST_COMPLETED)
                if not starting.done():
                    checking.result()
                await asyncio.wait([starting])
        except TimeoutError:
            reason = f"no worker has registered within {limit:g} s"
            late = WireError(500, f"a worker does not start: {reason}")
            # At once: ending what has been started takes longer than the scheduler waits.
            lease.started.set_exception(late)
            raise late from None
        finally:
            for task in (starting, checking):
                task.cancel()
            await asyncio.gather(starting, checking, return_exceptions=True)
        if starting.cancelled():
            raise WireError(503, "the attach was cut short")
        if (exc := starting.exception()) is not None:
            cause: BaseException = exc
            while cause.__cause__ is not None:  # Dask wraps it: "Nanny failed to start."
                cause = cause.__cause__
            raise WireError(500, f"a worker does not start: {one_line(cause)}") from exc

    async def _check_later(self, scheduler: str, location: tuple[str, int] | None) -> None:
        """Dask goes on trying to connect for half a minute, and then says little."""
        await asyncio.sleep(PATIENCE)
        await _check_reachable(scheduler, location, self.options.security)

    async def _end(self, lease: Lease, *, abandon: bool = False) -> None:
        """End a lease and wait for it. Its task is not cancelled: it closes what it has started."""
        lease.group.ending.set()
        if lease.started.done():
            await lease.group.close(abandon=abandon)
        elif lease.starting is not None:
            lease.starting.cancel()
        if lease.task is not None:
            await asyncio.wait([lease.task])
        self.abandoned = self.abandoned or lease.group.abandoned

    async def _released(self, lease: Lease) -> None:
        """Wait until a lease that is ending has ended: its workers close, or are being killed."""
        if lease.task is not None:
            await asyncio.wait([lease.task], timeout=RELEASE_TIMEOUT)
            if not lease.task.done():
                raise WireError(503, "the workers of its last scheduler have not ended yet")


def _parse_address(scheduler: str) -> tuple[str, int] | None:
    """Host and port of a scheduler's address; None where its protocol is not TCP.

    Raises
    ------
    WireError
        422: it is no address.
    """
    try:
        scheme, location = parse_address(scheduler, strict=True)
        if scheme not in ("tcp", "tls"):
            return None
        host, port = parse_host_port(location)
        if not 0 < port < 65536:
            raise ValueError("no such port")
    except ValueError:
        raise WireError(422, f"{scheduler!r} is not a scheduler's address") from None
    return host, port


async def _check_reachable(
    scheduler: str, location: tuple[str, int] | None, security: Security | None
) -> None:
    """Find out whether a Dask scheduler answers at an address.

    Raises
    ------
    WireError
        502: none does, with the reason.
    """
    arguments = (security or Security()).get_connection_args("worker")
    try:
        if location is not None:
            await _dial(*location)  # says at once what is wrong; Dask tries again and again
        comm = await connect(scheduler, timeout=DIAL_TIMEOUT, **arguments)
    except (OSError, ValueError, RuntimeError) as exc:
        # OSError: nobody, or somebody else, answers there. The others: the scheduler wants TLS
        # and this agent has no certificate, or the protocol is not installed here.
        reason = os_reason(exc) if isinstance(exc, OSError) else one_line(exc)
        raise WireError(502, f"cannot reach the scheduler at {scheduler}: {reason}") from exc
    await comm.close()


async def _dial(host: str, port: int) -> None:
    """Connect and hang up; OSError where that does not work."""
    try:
        async with asyncio.timeout(DIAL_TIMEOUT):
            _, writer = await asyncio.open_connection(host, port)
    except TimeoutError:
        raise OSError(f"no connection within {DIAL_TIMEOUT:g} s") from None
    writer.close()
