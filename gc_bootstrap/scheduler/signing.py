"""Asking agents with requests that this scheduler signs: by its key, or each one's cookie."""

from __future__ import annotations

import asyncio
import ipaddress
import math
import ssl
import time
from collections import OrderedDict
from collections.abc import Callable

from gc_bootstrap.config import PoolOptions
from gc_bootstrap.errors import ConfigError, DistError
from gc_bootstrap.peer import Peer
from gc_bootstrap.scheduler.client import AgentClient, Answer
from gc_bootstrap.wire import cookie as cookies
from gc_bootstrap.wire import keys, registrations, tokens
from gc_bootstrap.wire.cookie import Cookie
from gc_bootstrap.wire.keys import Signer
from gc_bootstrap.wire.messages import Message

OWN_COOKIES_FOR = 2.0
"""Seconds for which the cookies of this user's agents are not read again, unless one is refused."""
FRESH = 0.1
"""Seconds after which a refused cookie may be one that has been replaced since it was read."""
MOST_NONCES = 16384
"""Peers whose nonce is remembered; asking one more costs the oldest a second request next time."""


class SignedClient:
    """Sends messages to agents, signed as the agent expects.

    Parameters
    ----------
    signer
        The scheduler's key or the shared cookie, if there is one.
    tls
        As for :class:`AgentClient`.
    concurrency
        As for :class:`AgentClient`.
    clock
        Seconds since the epoch, for tokens.
    """

    def __init__(
        self,
        signer: Signer | None,
        tls: ssl.SSLContext | None,
        concurrency: int,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.signer = signer
        self._client = AgentClient(tls, concurrency)
        self._own_cookies = _OwnCookies()
        self._nonces: OrderedDict[Peer, str] = OrderedDict()
        self._clock = clock

    def start(self) -> None:
        """Open the session; needs a running event loop."""
        self._client.start()

    async def close(self) -> None:
        """Close the session. May be called more than once."""
        await self._client.close()

    async def ask(self, peer: Peer, path: str, message: Message | None, deadline: float) -> Answer:
        """Post one message, and return the agent's answer whatever it is, but for a refused token.

        None for a message is a GET.

        At most three requests: one that carries no nonce of this agent's, or an old one, is
        repeated once, and so is one that was signed with a cookie which has been replaced since.

        Parameters
        ----------
        deadline
            When the answer must be there, on the event loop's clock.

        Raises
        ------
        DistError
            There is no answer, or the agent does not trust this scheduler's key or cookie.
        """
        method, body = ("GET", b"") if message is None else ("POST", message.encode())
        knows_nonce = knows_cookie = False
        signer, read_at = await self._signer_for(peer)
        while True:
            nonce = self._nonces.get(peer)
            header = signer and tokens.sign(signer, method, path, body, self._clock(), nonce)
            answer = await self._send(peer, method, path, body, header or None, deadline)
            if answer.status not in (401, 403):
                return answer
            if signer and not knows_nonce and answer.nonce not in (None, nonce):
                knows_nonce = True
                continue
            if knows_cookie or not self._own_cookies.forget(read_at):
                break
            # An agent that was started a moment ago has made one that has not been read yet.
            knows_cookie = True
            before, (signer, read_at) = signer, await self._signer_for(peer)
            if _is_same(before, signer):
                break
        with_what = f"signed with {signer!r}" if signer else "not signed: no cookie is known"
        raise DistError(f"refuses this scheduler: {answer.error} (the request was {with_what})")

    async def _send(
        self,
        peer: Peer,
        method: str,
        path: str,
        body: bytes,
        header: str | None,
        deadline: float,
    ) -> Answer:
        """Ask, and remember the peer's nonce for as long as it answers."""
        try:
            answer = await self._client.ask(peer, method, path, body, header, deadline)
        except DistError:
            self._nonces.pop(peer, None)
            raise
        if answer.nonce is not None:
            self._nonces[peer] = answer.nonce
            self._nonces.move_to_end(peer)
            if len(self._nonces) > MOST_NONCES:
                self._nonces.popitem(last=False)
        return answer

    async def _signer_for(self, peer: Peer) -> tuple[Signer | None, float]:
        """What to sign with, and when it was read if it may be out of date, else infinity.

        For a peer on this host the cookie that the agent made itself, if it did.
        """
        if not _is_local(peer):
            return self.signer, math.inf
        hosts = ("127.0.0.1", "::1") if peer.host == "localhost" else (peer.host,)
        try:
            own, read_at = await self._own_cookies.get()
        except registrations.RuntimeFolderError as exc:
            if self.signer is None:
                raise DistError(f"its cookie cannot be read: {exc}") from exc
            return self.signer, math.inf
        for host in hosts:
            secret = own.get(Peer(host, peer.port))
            if secret is not None:
                return Cookie(secret, f"the registration of {peer}"), read_at
        return self.signer, read_at


class _OwnCookies:
    """What :func:`registrations.own_cookies` reads, once for all the connects of a moment."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._found: dict[Peer, str] = {}
        self._read_at = -math.inf

    async def get(self) -> tuple[dict[Peer, str], float]:
        """The cookies, and when they were read."""
        async with self._lock:
            now = time.monotonic()
            if now - self._read_at > OWN_COOKIES_FOR:
                self._found = await asyncio.to_thread(registrations.own_cookies)
                self._read_at = now
            return self._found, self._read_at

    def forget(self, read_at: float) -> bool:
        """Have the next :meth:`get` read again; False if what was read then is fresh anyway."""
        stale = time.monotonic() - read_at > FRESH
        if stale and self._read_at == read_at:
            self._read_at = -math.inf
        return stale


def find_signer(options: PoolOptions) -> Signer | None:
    """What a pool's requests are signed with: what its options name, else the environment.

    Raises
    ------
    ConfigError
        It cannot be read or is no good, or the environment names a key and a cookie.
    """
    if options.cookie_file is not None:
        return cookies.find(options.cookie_file, key=options.cookie_key)
    key = keys.find_private(options.key_file, key=options.key_key)
    if options.key_file is not None:
        return key
    cookie = cookies.find(None)
    if key is not None and cookie is not None:
        raise ConfigError(f"{key.where}: contradicts the cookie from {cookie.where}; keep one")
    return key or cookie


def _is_same(one: Signer | None, other: Signer | None) -> bool:
    """Whether the agent would refuse the other as it has refused the one."""
    return one is other or (
        isinstance(one, Cookie) and isinstance(other, Cookie) and one.key == other.key
    )


def _is_local(peer: Peer) -> bool:
    try:
        return ipaddress.ip_address(peer.host).is_loopback
    except ValueError:
        return peer.host == "localhost"
