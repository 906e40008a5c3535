"""One connection of the agent's HTTP API: aiohttp's protocol, with our answers and our ending."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Any

from aiohttp import web

from gc_bootstrap.agent.connections import Connection
from gc_bootstrap.wire.messages import ErrorReply, Message

logger = logging.getLogger(__name__)

LINGER_TIME = 2.0
"""Seconds for a client to notice an answer that came before it had sent all of its request."""
LINGER_BYTES = 1024 * 1024
"""Most bytes that are read and thrown away meanwhile."""


class Protocol(web.RequestHandler):
    """aiohttp's protocol; its own error pages become JSON, and it closes as RFC 9112 asks.

    A socket that is closed while something is unread resets the connection, and the answer is lost
    with it. So an answer that comes early is followed by a half-close, and what the client still
    sends is thrown away for a while (RFC 9112, section 9.6).

    Parameters
    ----------
    connection
        Told what happens.
    server, options
        As for aiohttp's own.
    """

    __slots__ = ("_headers", "_is_malformed", "_lingers", "_unread", "connection")

    def __init__(self, connection: Connection, server: web.Server, **options: Any) -> None:
        super().__init__(server, **options)
        self.connection = connection
        self._is_malformed = False
        self._unread = LINGER_BYTES
        self._lingers: asyncio.Future[None] | None = None
        self._headers: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        self.connection.made(transport)
        if isinstance(transport, asyncio.WriteTransport):
            # aiohttp 3.14.3 waits for ever for the first request of a connection.
            loop = asyncio.get_running_loop()
            self._headers = loop.call_later(self.keepalive_timeout, transport.abort)
        super().connection_made(transport)

    def has_headers(self) -> None:
        """The request's headers have come, or something that is none."""
        if self._headers is not None:
            self._headers.cancel()
            self._headers = None

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        if self._lingers is None:
            super().data_received(data)
            return
        self._unread -= len(data)
        if self._unread < 0:
            self._leave()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Called by the event loop."""
        self.has_headers()
        self.connection.lost()
        super().connection_lost(exc)
        self._leave()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what is no HTTP, or what a handler raised."""
        if status >= 500:
            logger.error("A request failed", exc_info=exc)
            return say_error(status, "internal error; see the agent's log")
        self._is_malformed = True
        text = " ".join((message or "malformed request").split())
        return say_error(status, text[:200] or "malformed request")

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send the answer, and wait until it can have arrived."""
        answered, is_lost = await super().finish_response(request, resp, start_time)
        transport = self.transport
        is_early = self._is_malformed or not request.content.is_eof()
        if is_early and not is_lost and transport is not None:
            self._lingers = asyncio.get_running_loop().create_future()
            transport.resume_reading()
            if transport.can_write_eof():
                transport.write_eof()
            with suppress(TimeoutError):
                async with asyncio.timeout(LINGER_TIME):
                    await self._lingers
        return answered, is_lost

    def _leave(self) -> None:
        if self._lingers is not None and not self._lingers.done():
            self._lingers.set_result(None)


def say(message: Message, status: int = 200) -> web.Response:
    """An answer with a message."""
    return say_json(message.encode(), status)


def say_json(body: bytes, status: int = 200) -> web.Response:
    """An answer that is JSON already."""
    return web.Response(status=status, body=body, content_type="application/json")


def say_error(status: int, reason: str) -> web.Response:
    """An answer that says why not."""
    response = say(ErrorReply(reason), status)
    if status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    if status == 503:
        response.headers["Retry-After"] = "1"
    response.force_close()
    return response
