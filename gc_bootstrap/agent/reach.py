"""Whether a scheduler can be reached. Dask goes on trying for half a minute, and says little."""

from __future__ import annotations

import asyncio

from distributed.comm.addressing import parse_address, parse_host_port
from distributed.comm.core import connect
from distributed.security import Security

from gc_bootstrap.errors import one_line, os_reason
from gc_bootstrap.wire.messages import WireError

DIAL_TIMEOUT = 5.0
"""Seconds to connect."""


def check_address(scheduler: str) -> tuple[str, int] | None:
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


async def check_reachable(
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
