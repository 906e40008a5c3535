"""Asking an agent over HTTP, with everything that can go wrong turned into one line."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from gc_bootstrap.errors import DistError, os_reason
from gc_bootstrap.peer import Outcome, Peer
from gc_bootstrap.wire import names
from gc_bootstrap.wire.messages import MAX_BODY, ErrorReply, WireError

DIAL_TIMEOUT = 5.0
"""Seconds to get a TCP and TLS connection to a peer. A host that is gone answers nothing at all."""
ANSWER_TIMEOUT = 10.0
"""Seconds for the first byte of an answer. An agent that works on a request says so every second;
one that hangs is not waited for as long as one whose workers start."""
LONGEST_NONCE = 128
"""Most characters of a nonce that are remembered; real ones have 22."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An agent's answer: the status and the body, not yet looked into, and its nonce."""

    status: int
    body: bytes
    nonce: str | None = None

    @property
    def error(self) -> str:
        """What an answer with an error status says; one line."""
        return self.refusal.error

    @property
    def refusal(self) -> ErrorReply:
        """All that an answer with an error status says."""
        try:
            return ErrorReply.decode(self.body)
        except WireError as exc:
            raise DistError(f"is no gc_bootstrap agent: it answers HTTP {self.status}") from exc

    @property
    def outcome(self) -> Outcome:
        """An answer that is not a success, as an outcome.

        Raises
        ------
        DistError
            To ask again makes no sense.
        """
        said = self.refusal
        if self.status in (409, 503):
            # 409: another scheduler holds it; 503: it is warming up, or draining.
            holder = said.holder.holder if said.holder is not None else None
            is_expected = self.status == 503
            return Outcome.refused(said.error, expected=is_expected, soon=True, holder=holder)
        raise DistError(said.error)


class AgentClient:
    """HTTP requests to agents; one per pool.

    Parameters
    ----------
    tls
        The scheduler's side of mutual TLS, or None for plain HTTP.
    concurrency
        How many requests run at once at most.
    """

    def __init__(self, tls: ssl.SSLContext | None, concurrency: int) -> None:
        self._tls = tls
        self._concurrency = concurrency
        self._session: aiohttp.ClientSession | None = None
        self._resolver: _Resolver | None = None

    def start(self) -> None:
        """Open the session; needs a running event loop."""
        self._resolver = _Resolver(self._concurrency)
        self._session = aiohttp.ClientSession(
            # An agent closes each connection: there is nothing to pool. The pool bounds the count.
            connector=aiohttp.TCPConnector(
                limit=0, force_close=True, ttl_dns_cache=0, resolver=self._resolver
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
        )

    async def ask(
        self,
        peer: Peer,
        method: str,
        path: str,
        body: bytes,
        authorization: str | None,
        deadline: float,
    ) -> Answer:
        """Send one request and read at most :data:`MAX_BODY` bytes of the answer.

        Parameters
        ----------
        method
            GET, with an empty body, or POST.
        deadline
            When all of it has to be over, on the event loop's clock.

        Raises
        ------
        DistError
            With the reason, in one line without the peer's name.
        """
        assert self._session is not None, "start() comes first"
        headers = {"Accept-Encoding": "identity", "Prefer": names.PROCESSING}
        if method == "POST":
            headers["Content-Type"] = "application/json"
        if authorization is not None:
            headers["Authorization"] = authorization
        timeout = max(0.001, deadline - asyncio.get_running_loop().time())  # 0 is none to aiohttp
        scheme = "http" if self._tls is None else "https"
        try:
            async with self._session.request(
                method,
                f"{scheme}://{peer}{path}",
                data=body or None,
                headers=headers,
                allow_redirects=False,
                ssl=True if self._tls is None else self._tls,
                timeout=aiohttp.ClientTimeout(
                    total=timeout, connect=DIAL_TIMEOUT, sock_read=ANSWER_TIMEOUT
                ),
            ) as response:
                nonce = response.headers.get(names.NONCE, "")
                good = 0 < len(nonce) <= LONGEST_NONCE and nonce.isascii()
                return Answer(response.status, await _read(response), nonce if good else None)
        except aiohttp.ConnectionTimeoutError:
            raise DistError(f"is not reachable: no connection within {DIAL_TIMEOUT:g} s") from None
        except TimeoutError as exc:
            silent = isinstance(exc, aiohttp.SocketTimeoutError)
            seconds = ANSWER_TIMEOUT if silent else timeout
            raise DistError(f"is connected, but gave no answer within {seconds:.3g} s") from None
        except (aiohttp.ClientError, ValueError) as exc:
            # The host is there, and whoever starts an agent on it wants it soon.
            refused = isinstance(exc, aiohttp.ClientConnectorError) and (
                exc.os_error.errno == errno.ECONNREFUSED
            )
            raise DistError(_reason(exc, tls=self._tls is not None), soon=refused) from exc

    async def close(self) -> None:
        """Close the session and what it has open."""
        if self._session is not None:
            await self._session.close()
        if self._resolver is not None:
            await self._resolver.close()
            # aiohttp closes TLS transports in the background; give the loop the turns it needs.
            await asyncio.sleep(0)


class _Resolver(AbstractResolver):
    """The system's resolver, in threads of its own.

    The event loop's default ones are few and everybody's, and a thread that waits for a name server
    cannot be stopped: a handful of names that resolve slowly would hold up every other peer.
    """

    def __init__(self, concurrency: int) -> None:
        self._executor = ThreadPoolExecutor(concurrency, "gc_bootstrap-resolver")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Look a name up, as :class:`aiohttp.ThreadedResolver` does."""
        look = partial(socket.getaddrinfo, host, port, family, socket.SOCK_STREAM)
        found = await asyncio.get_running_loop().run_in_executor(self._executor, look)
        return [
            ResolveResult(
                hostname=host,
                host=str(address[0]),
                port=int(address[1]),
                family=found_family,
                proto=protocol,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for found_family, _, protocol, _, address in found
        ]

    async def close(self) -> None:
        """Forget what has not begun; what has ends by itself."""
        self._executor.shutdown(wait=False, cancel_futures=True)


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """Read the body, whatever length it claims, up to the limit."""
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > MAX_BODY:
            response.close()
            raise DistError(f"is no gc_bootstrap agent: it answers with more than {MAX_BODY} bytes")
    return bytes(body)


def _reason(exc: aiohttp.ClientError | ValueError, *, tls: bool) -> str:
    """What is wrong with a peer, in the order of how much an exception's type says."""
    match exc:
        case aiohttp.ClientConnectorCertificateError():
            return f"its certificate is not trusted: {exc.certificate_error}"
        case aiohttp.ClientSSLError():
            return f"does not speak TLS as the scheduler is configured to: {os_reason(exc)}"
        case aiohttp.ClientConnectorDNSError():
            return f"its name does not resolve: {os_reason(exc)}"
        case aiohttp.ClientConnectorError():
            return f"is not reachable: {os_reason(exc)}"
        case aiohttp.ServerDisconnectedError():
            hint = "" if tls else "; does it expect TLS?"
            return f"closed the connection without an HTTP answer{hint}"
        case aiohttp.ClientOSError():
            return f"broke the connection off: {os_reason(exc)}"
        case _:
            return f"is no gc_bootstrap agent: {_brief(exc)}"


def _brief(exc: Exception) -> str:
    """The first part of what aiohttp says: it quotes what was received, which may be anything."""
    text = getattr(exc, "message", None) or str(exc)
    text = " ".join(str(text).splitlines()[0].split()) if str(text).strip() else type(exc).__name__
    printable = "".join(c if c.isprintable() else "?" for c in text)
    return printable.removesuffix(":")[:120]
