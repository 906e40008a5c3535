"""The agent's HTTP control API: routes, authentication, and what it does about bad requests.

Each connection serves one request and is closed: there is then one deadline for a connection, and
nothing that a slow or a hostile client could keep open.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

from aiohttp import web

from gc_bootstrap.agent import metrics
from gc_bootstrap.agent.claims import HeldError
from gc_bootstrap.agent.connections import Connection, Connections, allowed_files, limit_of
from gc_bootstrap.agent.core import Agent
from gc_bootstrap.agent.protocol import Protocol, say, say_error, say_json
from gc_bootstrap.wire import messages, names
from gc_bootstrap.wire.keys import Trusted
from gc_bootstrap.wire.messages import (
    AttachRequest,
    DetachRequest,
    ErrorReply,
    StateReply,
    WireError,
)
from gc_bootstrap.wire.tokens import Verifier

REQUEST_TIMEOUT = 10.0
"""Seconds for a client to send its headers, and again for its body."""
PROCESSING = 1.0
"""Seconds between two interim answers to a request that is being worked on: whoever waits for
workers to start can tell an agent that does so from one that hangs."""
SHUTDOWN_TIMEOUT = 1.0
"""Seconds for what is being answered when the server closes."""
MAX_HEADER = 8190
"""Most bytes of the request line and of one header; aiohttp's default."""

Handler = Callable[[web.BaseRequest, bytes], Awaitable[web.StreamResponse]]


class _Server(web.Server):
    """aiohttp's low-level server, speaking :class:`Protocol`."""

    def protocol(self, connection: Connection) -> Protocol:
        return Protocol(connection, self, loop=self._loop, **self._kwargs)


class ControlServer:
    """Serves one agent on one listening socket.

    Parameters
    ----------
    agent
        Whose API this is.
    sock
        Bound already; the server listens on it and closes it.
    trusted
        What requests to ``/v1/`` must be signed with; None: they need not be.
    tls
        The agent's side of mutual TLS, or None for plain HTTP.
    clock
        Seconds since the epoch, for tokens.
    """

    def __init__(
        self,
        agent: Agent,
        sock: socket.socket,
        *,
        trusted: Trusted | None = None,
        tls: ssl.SSLContext | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._agent = agent
        self._refusals = agent.refusals
        self._sock = sock
        nonce = secrets.token_urlsafe(16)
        self._verifier = Verifier(trusted, nonce) if trusted is not None else None
        self._tls = tls
        self._clock = clock
        self._metrics = metrics.AgentMetrics(agent)
        self._server: _Server | None = None
        self._connections: Connections | None = None
        self._routes: dict[str, tuple[str, Handler]] = {
            "/healthz": ("GET", self._healthz),
            "/readyz": ("GET", self._readyz),
            "/metrics": ("GET", self._get_metrics),
            names.STATUS: ("GET", self._status),
            names.ATTACH: ("POST", self._attach),
            names.DETACH: ("POST", self._detach),
        }
        if tls is not None:
            # Probes and metrics come without a certificate: a kubelet has none. One that is
            # presented is checked all the same, and /v1/ asks for it.
            tls.verify_mode = ssl.CERT_OPTIONAL

    async def start(self) -> None:
        """Listen.

        Raises
        ------
        OSError
            The socket cannot be listened on.
        """
        server = self._server = _Server(
            self._handle,
            request_factory=self._request,
            access_log=None,
            # From the first byte, or the TLS handshake, to the end of the headers.
            keepalive_timeout=REQUEST_TIMEOUT,
            max_line_size=MAX_HEADER,
            max_field_size=MAX_HEADER,
            lingering_time=0,  # that is Protocol's
            auto_decompress=False,
        )
        limit = limit_of(allowed_files(), len(self._agent.options.workers))
        self._connections = Connections(
            self._sock,
            server.protocol,
            limit=limit,
            refusals=self._refusals,
            tls=self._tls,
            timeout=REQUEST_TIMEOUT,
        )
        self._connections.start()

    async def close(self) -> None:
        """Stop listening and close every connection. May be called more than once."""
        if self._server is not None and self._connections is not None:
            self._connections.stop()
            self._server.pre_shutdown()
            await self._server.shutdown(SHUTDOWN_TIMEOUT)
            await self._connections.close()
        self._sock.close()

    def _request(
        self, message: Any, payload: Any, protocol: Any, writer: Any, task: Any
    ) -> web.BaseRequest:
        protocol.has_headers()
        loop = asyncio.get_running_loop()
        return web.BaseRequest(
            message, payload, protocol, writer, task, loop, client_max_size=messages.MAX_BODY
        )

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            response = await self._route(request)
        except HeldError as exc:
            response = say(ErrorReply(str(exc), exc.holder), exc.status)
        except WireError as exc:
            response = say_error(exc.status, str(exc))
        if self._verifier is not None:
            # On each: who asks next need not ask for it.
            response.headers[names.NONCE] = self._verifier.nonce
        response.force_close()
        return response

    async def _route(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.path
        if path not in self._routes:
            raise WireError(404, f"there is no {path[:100]!r} here")
        method, handler = self._routes[path]
        if request.method != method and (method, request.method) != ("GET", "HEAD"):
            response = say_error(405, f"{path} takes {method} only")
            response.headers["Allow"] = method if method != "GET" else "GET, HEAD"
            return response
        with self._refusals.of(_address(request)):
            if method == "POST":
                _refuse_web_pages(request)
            body = await _read(request)
            if path.startswith("/v1/"):
                self._authenticate(request, body)
        with cast(Protocol, request.protocol).connection.served():
            return await handler(request, body)

    def _authenticate(self, request: web.BaseRequest, body: bytes) -> None:
        if self._tls is not None:
            transport = request.transport
            if transport is None or not transport.get_extra_info("peercert"):
                raise WireError(403, "no client certificate; this agent wants mutual TLS")
        if self._verifier is not None:
            header = request.headers.get("Authorization")
            self._verifier.check(header, request.method, request.path, body, self._clock())

    async def _healthz(self, request: web.BaseRequest, body: bytes) -> web.StreamResponse:
        return say_json(messages.to_json({"status": "ok"}))

    async def _readyz(self, request: web.BaseRequest, body: bytes) -> web.StreamResponse:
        return say(StateReply(self._agent.state), 200 if self._agent.life.ready else 503)

    async def _get_metrics(self, request: web.BaseRequest, body: bytes) -> web.StreamResponse:
        text, content_type = self._metrics.render()
        return web.Response(body=text, headers={"Content-Type": content_type})

    async def _status(self, request: web.BaseRequest, body: bytes) -> web.StreamResponse:
        return say(self._agent.status())

    async def _attach(self, request: web.BaseRequest, body: bytes) -> web.StreamResponse:
        address = _address(request)
        with self._refusals.of(address):
            asked = AttachRequest.decode(body)
        scheduler = f"scheduler {asked.scheduler_id} at {asked.scheduler}"
        with self._refusals.of(scheduler), _signs_of_life(request):
            reply = await self._agent.attach(asked)
        self._refusals.forget(address, scheduler)
        return say(reply)

    async def _detach(self, request: web.BaseRequest, body: bytes) -> web.StreamResponse:
        with self._refusals.of(_address(request)):
            asked = DetachRequest.decode(body)
        with self._refusals.of(f"scheduler {asked.scheduler_id}"), _signs_of_life(request):
            await self._agent.detach(asked)
        return say(StateReply(self._agent.state))


def _address(request: web.BaseRequest) -> str:
    return request.remote or "somebody who is gone"


@contextmanager
def _signs_of_life(request: web.BaseRequest) -> Iterator[None]:
    """Answer ``102 Processing`` (RFC 2518, 10.1) now and then, until the answer is there.

    To a client that asks for it: many take an interim answer for the last one.
    """
    loop = asyncio.get_running_loop()
    timer: asyncio.TimerHandle | None = None

    def process() -> None:
        nonlocal timer
        timer = loop.call_later(PROCESSING, process)
        if request.transport is not None and not request.transport.is_closing():
            request.transport.write(b"HTTP/1.1 102 Processing\r\n\r\n")

    if request.headers.get("Prefer") == names.PROCESSING:
        timer = loop.call_later(PROCESSING, process)
    try:
        yield
    finally:
        if timer is not None:
            timer.cancel()


async def _read(request: web.BaseRequest) -> bytes:
    """Read the body."""
    if request.headers.get("Content-Encoding", "identity") != "identity":
        raise WireError(415, "the body must not be compressed", "request")
    try:
        async with asyncio.timeout(REQUEST_TIMEOUT):
            return await request.read()
    except TimeoutError:
        raise WireError(408, f"the body has not come within {REQUEST_TIMEOUT:g} s") from None
    except web.HTTPRequestEntityTooLarge:
        raise WireError(413, f"the body is larger than {messages.MAX_BODY} bytes") from None
    except web.RequestPayloadError:
        raise WireError(400, "the body is not sent as the headers say") from None
    except ConnectionError:
        raise WireError(400, "the client is gone", "") from None  # there is nobody to read it


def _refuse_web_pages(request: web.BaseRequest) -> None:
    """Refuse what a browser may send for any page: its user is on this host, or has a certificate.

    Without asking first, a browser sends no other types than those of HTML forms and no type, and
    names the page's origin.
    """
    if "Origin" in request.headers:
        raise WireError(403, "the request has an Origin header; web pages may not ask this", "web")
    if request.content_type != "application/json" or "Content-Type" not in request.headers:
        given = request.headers.get("Content-Type", "missing")
        raise WireError(415, f"the Content-Type is {given[:100]!r}, not 'application/json'")
