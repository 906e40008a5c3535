"""Attaching agents to a Dask scheduler as workers, and draining them."""

from __future__ import annotations

import asyncio
import logging
import uuid
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from distributed.diagnostics.plugin import SchedulerPlugin

from gc_bootstrap.dist import Dist, Owner
from gc_bootstrap.errors import ConfigError, DistError, PeerError
from gc_bootstrap.peer import Outcome, Peer, held_as
from gc_bootstrap.scheduler.client import Answer
from gc_bootstrap.scheduler.drains import Drainer
from gc_bootstrap.scheduler.signing import SignedClient
from gc_bootstrap.wire import cookie as cookies
from gc_bootstrap.wire import messages, names, versions
from gc_bootstrap.wire.messages import AttachReply, AttachRequest, DetachRequest

if TYPE_CHECKING:
    from distributed import Scheduler

logger = logging.getLogger(__name__)

MEMBERS_AT_ONCE = 1000
"""Workers of the scheduler's table to read before the event loop gets a turn: about 1 ms."""
REGISTRATION_TIMEOUT = 1.0
"""Seconds from an agent's answer until its worker must be in the scheduler's worker table. The
agent answers when the worker has registered, so there is hardly anything to wait for."""
REGISTRATION_POLL = 0.02
DETACH_TIMEOUT = 10.0
"""Seconds for an agent to end its workers. Their data is safe by then and the scheduler has
forgotten them, so that nothing but the log depends on it."""


class DaskDist(Dist):
    """Members are the peers that have a worker in this scheduler's worker table, put there by us.

    Each worker that an agent starts carries the scheduler's id, the peer and the pool in
    ``WorkerState.extra``: there is no second copy of membership, and workers of other origin, or
    of the scheduler that had this address before, are never touched.
    """

    def __init__(self) -> None:
        self._owner: Owner | None = None
        self._client: SignedClient | None = None
        self._watcher: _Watcher | None = None
        self._drainer: Drainer | None = None
        self._lost = asyncio.Event()

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
        cookie = cookies.find(owner.options.cookie_file, key=owner.options.cookie_key)
        try:
            tls = owner.scheduler.security.get_connection_args("scheduler")["ssl_context"]
        except (OSError, ValueError) as exc:
            raise ConfigError(f"distributed.comm.tls: {exc}") from exc
        self._client = SignedClient(cookie, tls, owner.options.connect.concurrency)
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
        self._drainer = Drainer.of(self._scheduler)

    async def close(self) -> None:
        watcher, self._watcher = self._watcher, None
        if watcher is not None and watcher.name in self._scheduler.plugins:
            self._scheduler.remove_plugin(name=watcher.name)
        if self._client is not None:
            await self._client.close()

    async def members(self) -> frozenset[Peer]:
        found: set[Peer] = set()
        for number, ws in enumerate(list(self._scheduler.workers.values())):
            held = held_as(ws.extra, self._scheduler.id)
            if held is not None and held[1] == self.owner.pool:
                with suppress(PeerError):  # somebody else's use of the key
                    found.add(Peer.parse(held[0]))
            if number % MEMBERS_AT_ONCE == MEMBERS_AT_ONCE - 1:
                await asyncio.sleep(0)
        return frozenset(found)

    async def changed(self) -> None:
        await self._lost.wait()
        self._lost.clear()

    # -- attaching -------------------------------------------------------------------------------

    async def connect(self, peer: Peer) -> Outcome:
        owner = self.owner
        request = AttachRequest(
            scheduler=owner.options.scheduler_address or self._scheduler.address,
            scheduler_id=self._scheduler.id,
            peer=str(peer),
            pool=owner.pool,
            versions=versions.installed() if owner.options.versions == "refuse" else {},
            timeout=min(3600.0, max(1.0, owner.options.connect.timeout)),
        )
        reply = await self._attach(peer, request)
        if isinstance(reply, AttachReply) and not await self._registered(reply):
            # The scheduler has given these workers up, and they do not know it yet.
            logger.info("%s still has workers that are none here: they are ended", peer)
            await self._detach(peer, reply.peer)
            reply = await self._attach(peer, request)
            if isinstance(reply, AttachReply) and not await self._registered(reply):
                raise DistError(
                    f"says that it is attached with {', '.join(reply.workers) or 'no workers'}, but"
                    f" none has registered here within {REGISTRATION_TIMEOUT:g} s"
                )
        if isinstance(reply, Outcome):
            return reply
        self._compare_versions(peer, reply)
        if reply.peer != str(peer):
            return Outcome.refused(f"is the same agent as {reply.peer}", same_as=_parse(reply.peer))
        if reply.pool != owner.pool:
            return Outcome.refused(f"is attached by the pool {reply.pool!r}")
        return Outcome.DONE

    async def _attach(self, peer: Peer, request: AttachRequest) -> AttachReply | Outcome:
        """Post an attach; what the agent answers, or the refusal that it comes to."""
        limit = self.owner.options.connect.timeout
        answer = await self._ask(peer, names.ATTACH, request, limit)
        if answer.status != 200:
            return _refusal(answer)
        reply = _reply(answer)
        if reply.scheduler_id != self._scheduler.id:
            raise DistError(f"says that it is held by scheduler {reply.scheduler_id}")
        return reply

    async def _registered(self, reply: AttachReply) -> bool:
        """Whether the workers of a reply are in the worker table, or come soon."""
        assert self._drainer is not None, "start() comes first"
        until = asyncio.get_running_loop().time() + REGISTRATION_TIMEOUT
        # By whose they are, not by address: a --contact-address may be a name.
        while not self._drainer.workers(reply.peer, reply.pool):
            if asyncio.get_running_loop().time() >= until:
                return False
            await asyncio.sleep(REGISTRATION_POLL)
        return True

    def _compare_versions(self, peer: Peer, reply: AttachReply) -> None:
        if self.owner.options.versions == "warn":
            differ = versions.mismatch(reply.versions, versions.installed())
            if differ:
                logger.warning("%s attached, though its versions differ: %s", peer, differ)

    # -- dropping --------------------------------------------------------------------------------

    async def disconnect(self, peer: Peer) -> Outcome:
        assert self._drainer is not None, "start() comes first"
        timeout = self.owner.options.drain.timeout
        drained = await self._drainer.drain_peer(str(peer), self.owner.pool, timeout)
        logger.info("%s is to end its workers", peer)
        try:
            answer = await self._detach(peer, str(peer))
            if answer.status != 200:
                refused = _refusal(answer)
                if not drained:
                    return refused
                logger.info("%s is drained; it answers: %s", peer, refused.reason)
        except DistError as exc:
            if not drained:
                raise
            logger.info("%s is drained; it could not be told: %s", peer, exc)
        losses = "; ".join(f"{loss} at {address}" for address, loss in drained.items() if loss)
        if losses:
            return Outcome("done", f"the time was over, lost {losses}")
        return Outcome.DONE

    def progress(self, peer: Peer) -> str:
        assert self._drainer is not None, "start() comes first"
        return self._drainer.progress(str(peer), self.owner.pool)

    async def _detach(self, peer: Peer, name: str) -> Answer:
        """Have an agent end its workers, that this scheduler holds under a name."""
        request = DetachRequest(self._scheduler.id, name)
        return await self._ask(peer, names.DETACH, request, DETACH_TIMEOUT)

    # -- what both need --------------------------------------------------------------------------

    async def _ask(
        self, peer: Peer, path: str, message: AttachRequest | DetachRequest, limit: float
    ) -> Answer:
        assert self._client is not None, "bind() comes first"
        return await self._client.ask(peer, path, message, limit)


class _Watcher(SchedulerPlugin):
    """Hears of workers that go. It only raises hints: the worker table is the truth."""

    def __init__(self, dist: DaskDist) -> None:
        self.name = f"gc_bootstrap-{dist.owner.pool}-{uuid.uuid4().hex[:8]}"
        self._dist = dist

    def remove_worker(self, scheduler: Scheduler, worker: str, **kwargs: object) -> None:
        # The worker is out of the table already, so whose it was cannot be told: hint anyway.
        self._dist._lost.set()


def _refusal(answer: Answer) -> Outcome:
    """An answer that is not a success, as an outcome or an error."""
    if answer.status in (409, 503):
        # 503: it is warming up, or draining.
        return Outcome.refused(answer.error, expected=answer.status == 503)
    raise DistError(answer.error)


def _reply(answer: Answer) -> messages.AttachReply:
    try:
        return messages.parse_reply(answer.body)
    except messages.WireError as exc:
        raise DistError(f"is no gc_bootstrap agent: {exc}") from exc


def _parse(text: str) -> Peer:
    try:
        return Peer.parse(text)
    except PeerError as exc:
        raise DistError(f"is no gc_bootstrap agent: {exc}") from exc
