"""One query to one name server, over UDP or TCP. Everything here ends by its deadline.

Sockets of asyncio rather than ``dns.asyncquery``: that reads each answer on the event loop, and
its UDP sockets are not connected, so that a server that is gone is noticed by the timeout only.
"""

from __future__ import annotations

import asyncio
import struct
from contextlib import suppress

from gc_bootstrap.discovery.dns import message
from gc_bootstrap.errors import os_reason
from gc_bootstrap.peer import Peer

_LENGTH = struct.Struct("!H")
"""Over TCP, each message is preceded by its length (RFC 1035 section 4.2.2)."""


class NoAnswerError(Exception):
    """A server did not answer; the message says why, after the server's name."""


class SilentError(NoAnswerError):
    """It let the time pass: the query or its answer may have been lost on the way."""


class _OneAnswer(asyncio.DatagramProtocol):
    """Waits for the datagram that answers a query, and ignores all others."""

    def __init__(self, sent: bytes) -> None:
        self._sent = sent
        loop = asyncio.get_running_loop()
        self.answer: asyncio.Future[bytes] = loop.create_future()
        self.closed: asyncio.Future[None] = loop.create_future()

    def datagram_received(self, data: bytes, addr: object) -> None:
        if not self.answer.done() and message.is_answer(data, self._sent):
            self.answer.set_result(data)

    def error_received(self, exc: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(exc)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.answer.done():
            self.answer.cancel()
        if not self.closed.done():
            self.closed.set_result(None)


async def udp(server: Peer, sent: bytes, timeout: float) -> bytes:
    """Ask over UDP.

    The socket is connected and has a random port: only the server's own answer is taken (RFC
    5452), and a refused connection is an error at once.

    Parameters
    ----------
    server
        Its host is an IP address.
    sent
        The query.
    timeout
        Seconds.

    Returns
    -------
    bytes
        The answer, to this query.

    Raises
    ------
    NoAnswerError
        There is none.
    """
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout):
            transport, protocol = await loop.create_datagram_endpoint(
                lambda: _OneAnswer(sent), remote_addr=(server.host, server.port)
            )
            try:
                transport.sendto(sent)
                return await protocol.answer
            finally:
                transport.close()
                if not protocol.answer.cancel() and not protocol.answer.cancelled():
                    protocol.answer.exception()  # looked at, also where the time was over first
                await protocol.closed
    except TimeoutError:
        raise SilentError("did not answer in time") from None
    except OSError as exc:
        raise NoAnswerError(f"cannot be reached: {os_reason(exc)}") from exc


async def tcp(server: Peer, sent: bytes, timeout: float) -> bytes:
    """Ask over TCP; as :func:`udp` otherwise.

    Raises
    ------
    NoAnswerError
        There is no answer, or something else was answered.
    """
    try:
        async with asyncio.timeout(timeout):
            reader, writer = await asyncio.open_connection(server.host, server.port)
            try:
                writer.write(_LENGTH.pack(len(sent)) + sent)
                (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
                data = await reader.readexactly(length)
            finally:
                writer.close()
                with suppress(OSError):
                    await writer.wait_closed()
    except TimeoutError:
        raise SilentError("did not answer over TCP in time") from None
    except EOFError:
        raise NoAnswerError("closed the TCP connection instead of answering") from None
    except OSError as exc:
        raise NoAnswerError(f"cannot be reached over TCP: {os_reason(exc)}") from exc
    if not message.is_answer(data, sent):
        raise NoAnswerError("answered another question over TCP")
    return data
