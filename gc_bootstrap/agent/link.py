"""An agent's scheduler, as seen from the agent: whether it is there, and is the same."""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

from distributed.comm.addressing import parse_address
from distributed.comm.core import connect
from distributed.core import rpc
from distributed.security import Security

from gc_bootstrap.agent import _dask
from gc_bootstrap.errors import one_line, os_reason
from gc_bootstrap.wire.claims import ClaimCall, FreeCall
from gc_bootstrap.wire.messages import HolderReply, WireError
from gc_bootstrap.wire.names import (
    CLAIM_HANDLER,
    DRAIN_HANDLER,
    FREE_HANDLER,
    REFILL_HANDLER,
    REFILL_YES,
)
from gc_bootstrap.wire.tag import Tag

logger = logging.getLogger(__name__)

DIAL_TIMEOUT = 5.0
"""Seconds to connect."""
CONNECT_PATIENCE = 0.5
"""Seconds that a connection may take that nobody waits for any more."""
PATIENCE = 0.1
"""Seconds for an answer, after which it is found out whether anybody is there to give it."""
LOOKS = 5
"""How often a scheduler is asked for a sign of life within the time that it may be silent."""
ANSWER_TIMEOUT = 10.0
"""Seconds for an answer that takes a scheduler no time."""
ANSWER_MARGIN = 2.0
"""Seconds, or a tenth of the time where that is less, for the answer to a drain to come."""


class Link:
    """One scheduler, and the way to it. Makes no connection before it is asked something.

    Parameters
    ----------
    address
        Where it is.
    scheduler_id
        Which one it is: another may have the address by now.
    security
        TLS, if there is any.
    clock
        Monotonic seconds.
    sleep
        Waits for so many of them.
    """

    def __init__(
        self,
        address: str,
        scheduler_id: str,
        security: Security | None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self.address = address
        self._scheduler_id = scheduler_id
        self._arguments = (security or Security()).get_connection_args("worker")
        self._rpc: Any = rpc(address, connection_args=self._arguments)
        self._clock = clock
        self._sleep = sleep
        self._left: list[asyncio.Task[Any]] = []

    async def close(self) -> None:
        """Hang up. May be called more than once."""
        for call in self._left:
            call.cancel()
        await asyncio.gather(*self._left, return_exceptions=True)
        await self._rpc.close_rpc()

    # -- is it there? ----------------------------------------------------------------------------

    def check_address(self) -> tuple[str, int] | None:
        """Host and port of the scheduler; None where its protocol is not TCP.

        Raises
        ------
        WireError
            422: the address is none.
        """
        return check_address(self.address)

    async def check_reachable(self) -> None:
        """Find out at once whether a Dask scheduler answers: Dask goes on trying for half a minute.

        Raises
        ------
        WireError
            422: the address is none. 502: nobody answers there, with the reason.
        """
        self.check_address()
        try:
            await self._dial()
            comm = await connect(self.address, timeout=DIAL_TIMEOUT, **self._arguments)
        except (OSError, ValueError, RuntimeError) as exc:
            raise self._unreachable(exc) from exc
        await comm.close()

    async def _dial(self) -> None:
        """Find out at once whether somebody listens there: Dask tries again and again.

        With TLS where that is spoken: a server that is hung up on before would warn of it.

        Raises
        ------
        OSError
            Nobody does, or the certificates do not fit.
        """
        if (location := self.check_address()) is not None:
            tls = self.address.startswith("tls:")
            await _dial(*location, self._arguments["ssl_context"] if tls else None)

    # -- is it the same? -------------------------------------------------------------------------

    async def check_same_soon(self) -> None:
        """:meth:`check_same` that says at once where nobody listens."""
        call = asyncio.create_task(self.check_same())
        try:
            await asyncio.wait([call], timeout=PATIENCE)
            if not call.done():
                await self._dial()
            await call
        finally:
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)

    async def check_same(self) -> None:
        """See to it that the scheduler there is the one that attached the agent.

        Raises
        ------
        WireError
            502: it is another one, or speaks otherwise than this agent does.
        OSError
            It cannot be reached now.
        """
        try:
            found = await self._who_is_there()
        except (ValueError, RuntimeError) as exc:
            raise self._unreachable(exc) from exc
        if found != self._scheduler_id:
            raise WireError(502, f"another scheduler is at {self.address}: {found}")

    async def answers(self, timeout: float) -> bool:
        """Whether it gives a sign of life.

        Parameters
        ----------
        timeout
            Seconds to wait for it.
        """
        try:
            async with asyncio.timeout(timeout):
                return await self._who_is_there() == self._scheduler_id
        except Exception as exc:
            # Whatever it is, it is no sign of life.
            logger.debug("No sign of life of the scheduler: %s", one_line(exc))
            return False

    async def silence(self, seconds: float) -> None:
        """Return when it has given no sign of life for so long.

        A scheduler that dies is noticed by its workers; one that is stopped still holds its
        connections, and would hold the agent for ever.
        """
        interval = seconds / LOOKS
        heard = self._clock()
        while True:
            await self._sleep(interval)
            if await self.answers(interval):
                heard = self._clock()
            elif self._clock() - heard >= seconds:
                return

    async def _who_is_there(self) -> str:
        identity = await self._answered(self._rpc.identity(n_workers=0))
        return str(identity["id"])

    async def _answered(self, call: Awaitable[Any]) -> Any:
        asking = asyncio.ensure_future(call)
        asking.add_done_callback(lambda a: a.cancelled() or a.exception())  # it has been seen
        try:
            return await asyncio.shield(asking)
        except asyncio.CancelledError:
            # Cut off while it connects, Dask loses the socket.
            await asyncio.wait([asking], timeout=CONNECT_PATIENCE)
            raise
        finally:
            asking.cancel()

    def _unreachable(self, exc: Exception) -> WireError:
        # OSError: nobody, or somebody else, answers there. The others: the scheduler wants TLS
        # and this agent has no certificate, or the protocol is not installed here.
        reason = os_reason(exc) if isinstance(exc, OSError) else one_line(exc)
        return WireError(502, f"cannot reach the scheduler at {self.address}: {reason}")

    # -- what it is asked for --------------------------------------------------------------------

    async def refill(self, tag: Tag, worker: str) -> str:
        """Ask whether to start a worker in place of one that has ended.

        Parameters
        ----------
        tag
            Whose the workers are.
        worker
            The address of the one that has ended.

        Returns
        -------
        str
            One of the ``REFILL_`` answers; yes where the scheduler has no pool of ours.

        Raises
        ------
        OSError
            It is not there, or is another one by now.
        """
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT):
                await self.check_same()
                refill = getattr(self._rpc, REFILL_HANDLER)
                answer: str | None = await refill(peer=tag.peer, pool=tag.pool, worker=worker)
        except TimeoutError:
            raise OSError(f"no answer from its scheduler within {ANSWER_TIMEOUT:g} s") from None
        except Exception as exc:
            raise OSError(one_line(exc)) from exc
        return REFILL_YES if answer is None else answer

    async def drain(
        self, tag: Tag, addresses: Sequence[str], deadline: float, *, alone: bool = False
    ) -> bool:
        """Have it take the workers' tasks and data, and forget them.

        Parameters
        ----------
        tag
            Whose the workers are.
        addresses
            Theirs.
        deadline
            When that has to be over, on the event loop's clock.
        alone
            Only these, and not all workers of their agent.

        Returns
        -------
        bool
            False where the asking failed and the scheduler is there all the same. Asking again
            joins the drain that runs.

        Raises
        ------
        OSError
            It is not there any more.
        """
        try:
            lost = await self._drain(tag, addresses, deadline, alone)
        except Exception as exc:
            # The connection broke, or somebody has cancelled the drain.
            if not await self.answers(ANSWER_MARGIN):
                if isinstance(exc, OSError):
                    raise
                raise OSError(one_line(exc)) from exc
            logger.info("Asking the scheduler again for a drain: %s", one_line(exc))
            return False
        for address, loss in lost.items():
            if loss:
                logger.warning("The time was over: %s goes with %s", address, loss)
        return True

    async def _drain(
        self, tag: Tag, addresses: Sequence[str], deadline: float, alone: bool
    ) -> dict[str, str]:
        left = max(0.0, deadline - asyncio.get_running_loop().time())
        own = left - min(ANSWER_MARGIN, left / 10)
        drain = getattr(self._rpc, DRAIN_HANDLER)
        only = {"workers": list(addresses)} if alone else {}
        lost: dict[str, str] | None = await drain(peer=tag.peer, pool=tag.pool, timeout=own, **only)
        if lost is not None:
            return lost
        # It has never had a pool of ours: Dask answers so what it does not know.
        retired = await self._rpc.retire_workers(
            workers=list(addresses), close_workers=False, remove=True
        )
        for address in addresses:
            if address not in retired:
                logger.warning("%s goes with its data: its scheduler has not retired it", address)
        return {}

    async def claim(self, call: ClaimCall) -> HolderReply | None:
        """Tell it that somebody claims the agent.

        Returns
        -------
        HolderReply or None
            What it says of its pool; None where it has none that takes part in this.

        Raises
        ------
        OSError
            It is not there, or is another one by now.
        """
        try:
            claim = getattr(self._rpc, CLAIM_HANDLER)
            answer = await self._answered(claim(claim=call.content()))
            reply = None if answer is None else HolderReply.read(answer)
        except Exception as exc:
            raise OSError(one_line(exc)) from exc
        if reply is None:
            return None
        if reply.scheduler_id != self._scheduler_id:
            raise OSError(f"another scheduler is at {self.address}: {reply.scheduler_id}")
        return replace(reply, scheduler=self.address)

    async def free(self, peer: str, pool: str) -> bool:
        """Tell it that the agent, which its pool has claimed, is free.

        Parameters
        ----------
        peer
            The agent, as it knows it.

        Returns
        -------
        bool
            Whether it is the same, and has such a pool.

        Raises
        ------
        WireError
            The address is none.
        OSError
            It is not there, which is known at once. What is under way ends with :meth:`close`.
        """
        self.check_address()
        free = getattr(self._rpc, FREE_HANDLER)
        content = FreeCall(self._scheduler_id, peer, pool).content()
        call = asyncio.create_task(self._answered(free(free=content)))
        self._left.append(call)
        try:
            await asyncio.wait([call], timeout=PATIENCE)
            if not call.done():
                await self._dial()
            return await asyncio.shield(call) is True
        except Exception as exc:
            raise OSError(one_line(exc)) from exc


def check_address(address: str) -> tuple[str, int] | None:
    """Host and port of a scheduler; None where its protocol is not TCP.

    Raises
    ------
    WireError
        422: the address is none.
    """
    try:
        scheme, location = parse_address(address, strict=True)
        if scheme not in ("tcp", "tls"):
            return None
        host, port = _dask.parse_host_port(location)
        if not 0 < port < 65536:
            raise ValueError("no such port")
    except ValueError:
        raise WireError(422, f"{address!r} is not a scheduler's address") from None
    return host, port


async def _dial(host: str, port: int, tls: ssl.SSLContext | None) -> None:
    """Connect and hang up; OSError where that does not work."""
    try:
        async with asyncio.timeout(DIAL_TIMEOUT):
            _, writer = await asyncio.open_connection(host, port, ssl=tls)
    except TimeoutError:
        raise OSError(f"no connection within {DIAL_TIMEOUT:g} s") from None
    writer.close()
