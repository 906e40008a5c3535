"""Asking a scheduler for what its pools know, and finding out why it does not answer."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress
from typing import Any

from distributed.comm.addressing import parse_address
from distributed.core import rpc
from distributed.security import Security

from gc_bootstrap.errors import ConfigError, GcBootstrapError, one_line, os_reason
from gc_bootstrap.wire.names import STATUS_HANDLER

PATIENCE = 0.5
"""Seconds for an answer before it is looked at who is there: Dask tries again and again, also where
that is of no use."""
HTTP = "answers in HTTP: it is no Dask scheduler, but perhaps an agent or a dashboard"
NEEDS_TLS = "expects TLS: give tls://HOST:PORT, --tls-ca-file, --tls-cert and --tls-key"

_QUESTION = (1000).to_bytes(8, "little") + b"\r\n\r\n"
"""What nobody takes amiss: to Dask the beginning of a message that does not follow, to HTTP and TLS
something to complain about."""
_LARGEST = 2**32
"""Bytes that a first message of Dask's has less than."""


async def ask(address: str, security: Security, timeout: float) -> dict[str, Any]:
    """Ask a scheduler.

    Parameters
    ----------
    timeout
        Seconds.

    Raises
    ------
    ConfigError
        The address is none, or certificates are missing or cannot be read.
    GcBootstrapError
        There is no answer, or no pools.
    """
    scheme, place = _parse(address)
    try:
        arguments = security.get_connection_args("client")
    except (OSError, ValueError) as exc:
        raise ConfigError(f"TLS: {one_line(exc)}") from exc
    tls: ssl.SSLContext | None = arguments["ssl_context"]
    if scheme in ("tls", "wss") and tls is None:
        raise ConfigError(
            f"{address}: TLS needs --tls-ca-file, --tls-cert and --tls-key, or Dask's settings"
            " distributed.comm.tls"
        )
    asking = asyncio.create_task(_call(address, arguments, timeout))
    try:
        async with asyncio.timeout(timeout):
            await asyncio.wait([asking], timeout=PATIENCE)
            failed = asking.done() and asking.exception() is not None
            if (failed or not asking.done()) and place is not None:
                reason = await _who_is_there(*place, tls if scheme == "tls" else None)
                if reason:
                    raise GcBootstrapError(f"cannot ask the scheduler at {address}: {reason}")
            status = await asking
    except TimeoutError:
        raise GcBootstrapError(f"no answer from {address} within {timeout:g} s") from None
    except GcBootstrapError:
        raise
    except Exception as exc:  # Dask makes no promise of what a strange answer raises
        raise GcBootstrapError(f"cannot ask the scheduler at {address}: {one_line(exc)}") from exc
    finally:
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    if not isinstance(status, dict) or "pools" not in status:
        # What Dask answers to an operation that it does not know.
        raise GcBootstrapError(f"the scheduler at {address} has no pools; its log says why")
    return status


def _parse(address: str) -> tuple[str, tuple[str, int] | None]:
    """The scheme of an address; host and port, where it is TCP."""
    expected = f"{address!r} is not an address such as tcp://10.0.0.1:8786"
    try:
        scheme, rest = parse_address(address)
    except ValueError:
        raise ConfigError(expected) from None
    if not scheme:
        raise ConfigError(expected)
    if scheme not in ("tcp", "tls"):
        return scheme, None
    host, colon, port = rest.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    number = int(port) if port.isascii() and port.isdigit() and len(port) < 6 else 0
    if not (colon and host) or not 0 < number < 65536:
        raise ConfigError(expected)
    return scheme, (host, number)


async def _call(address: str, arguments: dict[str, Any], timeout: float) -> Any:
    async with rpc(address, timeout=timeout, connection_args=arguments) as scheduler:
        return await getattr(scheduler, STATUS_HANDLER)()


async def _who_is_there(host: str, port: int, tls: ssl.SSLContext | None) -> str:
    """Why nobody who is at an address can be asked; empty where that is not clear."""
    try:
        words = await _first_words(host, port, tls)
    except ssl.SSLCertVerificationError as exc:
        return f"its certificate is not trusted: {exc.verify_message}"
    except ssl.SSLError as exc:
        return f"does not speak TLS as configured: {exc.reason or one_line(exc)}"
    except ConnectionResetError:
        words = b""
    except OSError as exc:
        return os_reason(exc)
    except UnicodeError:  # what encodes host names
        return f"{host!r} is no host"
    if words.startswith(b"HTTP"):
        return HTTP
    if tls is None and (words[:2] == b"\x15\x03" or (not words and await _has_tls(host, port))):
        return NEEDS_TLS
    if not words:
        return "it closes the connection without a word"
    if int.from_bytes(words, "little") >= _LARGEST:
        return "what answers there is no Dask scheduler"
    return ""


async def _first_words(host: str, port: int, tls: ssl.SSLContext | None) -> bytes:
    """The first 8 bytes that somebody says; Dask says the length of a message."""
    name = None if tls is None or not tls.check_hostname else host
    reader, writer = await asyncio.open_connection(host, port, ssl=tls, server_hostname=name)
    try:
        writer.write(_QUESTION)
        return await reader.readexactly(8)
    except asyncio.IncompleteReadError as exc:
        return exc.partial
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def _has_tls(host: str, port: int) -> bool:
    """Whether somebody talks TLS; who it is does not matter, nothing is said to them."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        _, writer = await asyncio.open_connection(host, port, ssl=context)
    except ssl.SSLError as exc:
        return "ALERT" in (exc.reason or "")
    except OSError:
        return False
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return True
