"""Attaching agents to a Dask scheduler as workers."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import math
import time
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Self

from distributed.core import Status
from distributed.diagnostics.plugin import SchedulerPlugin

from gc_bootstrap import cookie as cookies
from gc_bootstrap import runtime, wire
from gc_bootstrap.cookie import Cookie
from gc_bootstrap.dist.base import Dist, Owner
from gc_bootstrap.dist.client import AgentClient, Answer
from gc_bootstrap.errors import ConfigError, DistError, PeerError
from gc_bootstrap.peer import WORKER_EXTRA, Outcome, Peer

if TYPE_CHECKING:
    from distributed import Scheduler
    from distributed.scheduler import WorkerState

logger = logging.getLogger(__name__)

OWN_COOKIES_FOR = 2.0
"""Seconds for which the cookies of this user's agents are not read again, unless one is refused."""
FRESH = 0.1
"""Seconds after which a refused cookie may be one that has been replaced since it was read."""
MEMBERS_AT_ONCE = 1000
"""Workers of the scheduler's table to read before the event loop gets a turn: about a millisecond."""
REGISTRATION_TIMEOUT = 5.0
"""Seconds from an agent's answer until its worker must be in the scheduler's worker table. The
agent answers when the worker says that it has registered, so there is hardly anything to wait for."""


class DaskDist(Dist):
    """Members are the peers that have a worker in this scheduler's worker table, put there by us.

    Each worker that an agent starts carries the peer and the pool in ``WorkerState.extra``: there
    is no second copy of membership, and workers of other origin are never touched.
    """

    def __init__(self) -> None:
        self._owner: Owner | None = None
        self._cookie: Cookie | None = None
        self._own_cookies = _OwnCookies()
        self._client: AgentClient | None = None
        self._watcher: _Watcher | None = None
        self._lost = asyncio.Event()
        self._clock: Callable[[], float] = time.time

    def __repr__(self) -> str:
        return "dask"

    @classmethod
    def for_scheduler(cls, owner: Owner) -> Self:
        """Make one and bind it; see :meth:`bind`."""
        dist = cls()
        dist.bind(owner)
        return dist

    def bind(self, owner: Owner) -> None:
        """Learn the scheduler, and read the cookie and the TLS settings.

        Raises
        ------
        ConfigError
            The cookie or a certificate cannot be read, or agents cannot dial this scheduler.
        """
        self._cookie = cookies.find(owner.options.cookie_file, key=owner.options.cookie_key)
        try:
            tls = owner.scheduler.security.get_connection_args("scheduler")["ssl_context"]
        except (OSError, ValueError) as exc:
            raise ConfigError(f"distributed.comm.tls: {exc}") from exc
        self._client = AgentClient(tls, owner.options.connect.concurrency)
        self._owner = owner

    @property
    def owner(self) -> Owner:
        """For whom this works; :meth:`bind` comes first."""
        if self._owner is None:
            raise RuntimeError("the dask dist works inside a scheduler: bind() comes first")
        return self._owner

    @property
    def _scheduler(self) -> Scheduler:
        return self.owner.scheduler

    async def start(self) -> None:
        assert self._client is not None, "bind() comes first"
        self._client.start()
        self._watcher = _Watcher(self)
        self._scheduler.add_plugin(self._watcher, name=self._watcher.name)

    async def close(self) -> None:
        watcher, self._watcher = self._watcher, None
        if watcher is not None and watcher.name in self._scheduler.plugins:
            self._scheduler.remove_plugin(name=watcher.name)
        if self._client is not None:
            await self._client.close()

    async def members(self) -> frozenset[Peer]:
        found: set[Peer] = set()
        for number, ws in enumerate(list(self._scheduler.workers.values())):
            tag = _tag(ws)
            if tag is not None and tag[1] == self.owner.pool:
                found.add(tag[0])
            if number % MEMBERS_AT_ONCE == MEMBERS_AT_ONCE - 1:
                await asyncio.sleep(0)
        return frozenset(found)

    async def changed(self) -> None:
        await self._lost.wait()
        self._lost.clear()

    async def connect(self, peer: Peer) -> Outcome:
        owner = self.owner
        request = wire.AttachRequest(
            scheduler=owner.options.scheduler_address or self._scheduler.address,
            scheduler_id=self._scheduler.id,
            peer=str(peer),
            pool=owner.pool,
            versions=wire.versions() if owner.options.versions == "refuse" else {},
            timeout=min(3600.0, max(1.0, owner.options.connect.timeout)),
        )
        assert self._watcher is not None, "start() comes first"
        with self._watcher.expecting(peer) as registered:
            answer = await self._ask(peer, wire.ATTACH, request, owner.options.connect.timeout)
            if answer.status != 200:
                return _refusal(answer)
            reply = _reply(answer)
            if reply.scheduler_id != self._scheduler.id:
                raise DistError(f"says that it is held by scheduler {reply.scheduler_id}")
            self._compare_versions(peer, reply)
            if reply.peer != str(peer):
                return Outcome.refused(
                    f"is the same agent as {reply.peer}", same_as=_parse(reply.peer)
                )
            if reply.pool != owner.pool:
                return Outcome.refused(f"is attached by the pool {reply.pool!r}")
            if not registered.is_set() and not self._workers(peer):
                await self._until(registered, reply)
        return Outcome.DONE

    async def _until(self, registered: asyncio.Event, reply: wire.AttachReply) -> None:
        try:
            async with asyncio.timeout(REGISTRATION_TIMEOUT):
                await registered.wait()
        except TimeoutError:
            raise DistError(
                f"says that it is attached with {', '.join(reply.workers) or 'no workers'}, but"
                f" none has registered here within {REGISTRATION_TIMEOUT:g} s"
            ) from None

    async def disconnect(self, peer: Peer) -> Outcome:
        workers = self._workers(peer)
        if workers:
            retired: dict[str, object] = {}
            try:
                retired = await self._scheduler.retire_workers(workers, close_workers=False)
            finally:
                kept = sorted(set(workers) - set(retired))
                self._put_back_to_work(kept)
            if kept:
                return Outcome.refused(
                    f"data of {', '.join(kept)} could not be moved to another worker"
                )
        request = wire.DetachRequest(self._scheduler.id, str(peer))
        answer = await self._ask(peer, wire.DETACH, request, self.owner.options.drain.timeout)
        return Outcome.DONE if answer.status == 200 else _refusal(answer)

    def _put_back_to_work(self, workers: list[str]) -> None:
        """Let workers take tasks again. Dask forgets that where a retirement is cut off."""
        stimulus_id = f"gc_bootstrap-kept-{time.time()}"
        for address in workers:
            worker = self._scheduler.workers.get(address)
            if worker is not None and worker.status == Status.closing_gracefully:
                change = {"op": "worker-status-change", "status": "running"}
                self._scheduler.worker_send(address, {**change, "stimulus_id": stimulus_id})

    def _workers(self, peer: Peer) -> list[str]:
        """The addresses of the workers that ``peer`` runs for this pool."""
        mine = (peer, self.owner.pool)
        return [address for address, ws in self._scheduler.workers.items() if _tag(ws) == mine]

    async def _ask(
        self, peer: Peer, path: str, message: wire.AttachRequest | wire.DetachRequest, limit: float
    ) -> Answer:
        assert self._client is not None, "bind() comes first"
        body = wire.encode(message)
        while True:
            cookie, read_at = await self._cookie_for(peer)
            header = cookie and wire.sign(cookie, "POST", path, body, self._clock())
            answer = await self._client.post(peer, path, body, header or None, limit)
            if answer.status not in (401, 403):
                return answer
            if not self._own_cookies.forget(read_at):
                break
            # An agent that was started a moment ago has made a cookie that has not been read yet.
        with_what = f"signed with {cookie!r}" if cookie else "not signed: no cookie is known"
        raise DistError(f"refuses this scheduler: {answer.error} (the request was {with_what})")

    async def _cookie_for(self, peer: Peer) -> tuple[Cookie | None, float]:
        """The cookie to sign with, and when it was read if it may be out of date, else infinity.

        For a peer on this host the one that the agent made itself, if it did; else the shared one.
        """
        if not _is_local(peer):
            return self._cookie, math.inf
        hosts = ("127.0.0.1", "::1") if peer.host == "localhost" else (peer.host,)
        try:
            own, read_at = await self._own_cookies.get()
        except runtime.RuntimeFolderError as exc:
            if self._cookie is None:
                raise DistError(f"its cookie cannot be read: {exc}") from exc
            return self._cookie, math.inf
        for host in hosts:
            secret = own.get(Peer(host, peer.port))
            if secret is not None:
                return Cookie(secret, f"the registration of {peer}"), read_at
        return self._cookie, read_at

    def _compare_versions(self, peer: Peer, reply: wire.AttachReply) -> None:
        if self.owner.options.versions == "warn":
            differ = wire.mismatch(reply.versions, wire.versions())
            if differ:
                logger.warning("%s attached, though its versions differ: %s", peer, differ)


class _OwnCookies:
    """What :func:`runtime.own_cookies` reads, once for all the connects of a moment."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._found: dict[Peer, str] = {}
        self._read_at = -math.inf

    async def get(self) -> tuple[dict[Peer, str], float]:
        """The cookies, and when they were read."""
        async with self._lock:
            now = time.monotonic()
            if now - self._read_at > OWN_COOKIES_FOR:
                self._found = await asyncio.to_thread(runtime.own_cookies)
                self._read_at = now
            return self._found, self._read_at

    def forget(self, read_at: float) -> bool:
        """Have the next :meth:`get` read again; False if what was read then is fresh anyway."""
        stale = time.monotonic() - read_at > FRESH
        if stale and self._read_at == read_at:
            self._read_at = -math.inf
        return stale


class _Watcher(SchedulerPlugin):
    """Hears of workers that come and go. It only raises hints: the worker table is the truth."""

    def __init__(self, dist: DaskDist) -> None:
        self.name = f"gc_bootstrap-{dist.owner.pool}-{uuid.uuid4().hex[:8]}"
        self._dist = dist
        self._expected: dict[Peer, asyncio.Event] = {}

    def expecting(self, peer: Peer) -> _Expectation:
        return _Expectation(self._expected, peer)

    def add_worker(self, scheduler: Scheduler, worker: str) -> None:
        tag = _tag(scheduler.workers[worker])
        if tag is not None and tag[1] == self._dist.owner.pool and tag[0] in self._expected:
            self._expected[tag[0]].set()

    def remove_worker(self, scheduler: Scheduler, worker: str, **kwargs: object) -> None:
        # The worker is out of the table already, so whose it was cannot be told: hint anyway.
        self._dist._lost.set()


class _Expectation:
    """A context in which the registration of one peer's worker sets an event."""

    def __init__(self, expected: dict[Peer, asyncio.Event], peer: Peer) -> None:
        self._expected, self._peer = expected, peer

    def __enter__(self) -> asyncio.Event:
        event = self._expected[self._peer] = asyncio.Event()
        return event

    def __exit__(self, *exc: object) -> None:
        del self._expected[self._peer]


def _tag(ws: WorkerState) -> tuple[Peer, str] | None:
    """Who attached a worker: the peer and the pool, or None where it was not one of us."""
    tag = ws.extra.get(WORKER_EXTRA)
    if tag is None:
        return None
    try:
        return Peer.parse(tag["peer"]), str(tag["pool"])
    except (KeyError, TypeError, PeerError):
        return None  # somebody else's use of the key


def _refusal(answer: Answer) -> Outcome:
    """An answer that is not a success, as an outcome or an error."""
    if answer.status in (409, 503):
        return Outcome.refused(answer.error)
    raise DistError(answer.error)


def _reply(answer: Answer) -> wire.AttachReply:
    try:
        return wire.parse_reply(answer.body)
    except wire.WireError as exc:
        raise DistError(f"is no gc_bootstrap agent: {exc}") from exc


def _parse(text: str) -> Peer:
    try:
        return Peer.parse(text)
    except PeerError as exc:
        raise DistError(f"is no gc_bootstrap agent: {exc}") from exc


def _is_local(peer: Peer) -> bool:
    try:
        return ipaddress.ip_address(peer.host).is_loopback
    except ValueError:
        return peer.host == "localhost"
