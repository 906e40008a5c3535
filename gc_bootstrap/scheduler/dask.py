"""Attaching agents to a Dask scheduler as workers, and draining them."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Self

from gc_bootstrap.config import AdaptOptions
from gc_bootstrap.dist import Dist, Needed, Owner
from gc_bootstrap.errors import ConfigError, DistError, PeerError
from gc_bootstrap.peer import Outcome, Peer
from gc_bootstrap.scheduler import surveys
from gc_bootstrap.scheduler.claims import Claims
from gc_bootstrap.scheduler.client import Answer
from gc_bootstrap.scheduler.demand import Demand
from gc_bootstrap.scheduler.drains import Drainer
from gc_bootstrap.scheduler.dropping import Drains, Dropping
from gc_bootstrap.scheduler.members import Members
from gc_bootstrap.scheduler.release import CalledOffError
from gc_bootstrap.scheduler.signing import SignedClient, find_signer
from gc_bootstrap.stake import Capacity, Claim, Stake, Survey
from gc_bootstrap.wire import messages, names, versions
from gc_bootstrap.wire.messages import (
    AttachClaim,
    AttachReply,
    AttachRequest,
    DetachClaim,
    DetachRequest,
    Message,
    StatusReply,
)

if TYPE_CHECKING:
    from distributed import Scheduler

logger = logging.getLogger(__name__)

REGISTRATION_TIMEOUT = 1.0
"""Seconds from an agent's answer until its worker must be in the scheduler's worker table. The
agent answers when the worker has registered, so there is hardly anything to wait for."""
REGISTRATION_POLL = 0.02
NAMES_KEPT = 1000
"""Other names of members that are remembered."""
SURVEY_TIMEOUT = 5.0
"""Seconds for an agent to say what it is. It takes no time; who hangs is not waited for."""
DETACH_TIMEOUT = 10.0
"""Seconds for an agent to end its workers. Their data is safe by then and the scheduler has
forgotten them, so that nothing but the log depends on it."""

_RANKS = itertools.count()
"""Of dists, in the order in which they are bound: that in which their pools are configured."""


class DaskDist(Dist):
    """Members are the peers that have a worker in this scheduler's worker table, put there by us.

    Each worker that an agent starts carries the scheduler's id, the peer and the pool in
    ``WorkerState.extra``: there is no second copy of membership, and workers of other origin, or
    of the scheduler that had this address before, are never touched.
    """

    def __init__(self) -> None:
        self._owner: Owner | None = None
        self._client: SignedClient | None = None
        self._members: Members | None = None
        self._drainer: Drainer | None = None
        self._demand: Demand | None = None
        self._rank = 0
        self._claims: Claims | None = None
        self._stop_listening: list[Callable[[], None]] = []
        self._hint = asyncio.Event()
        self._names: dict[Peer, Peer] = {}
        self._dropping: Dropping | None = None

    def __repr__(self) -> str:
        return "dask"

    @classmethod
    def for_scheduler(cls, owner: Owner) -> Self:
        """Make one and bind it; see :meth:`bind`."""
        dist = cls()
        dist.bind(owner)
        return dist

    def bind(self, owner: Owner) -> None:
        """Learn the scheduler, and read the key or cookie and the TLS settings.

        Raises
        ------
        ConfigError
            The key, the cookie or a certificate cannot be read, or agents cannot dial this
            scheduler.
        """
        signer = find_signer(owner.options)
        try:
            tls = owner.scheduler.security.get_connection_args("scheduler")["ssl_context"]
        except (OSError, ValueError) as exc:
            raise ConfigError(f"distributed.comm.tls: {exc}") from exc
        self._client = SignedClient(signer, tls, owner.options.connect.most)
        self._owner = owner
        self._rank = next(_RANKS)

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
        self._members = Members.of(self._scheduler)
        self._drainer = Drainer.of(self._scheduler)
        self._claims = Claims.of(self._scheduler)
        self._demand = Demand.of(self._scheduler)
        pool = self.owner.pool
        self._dropping = Dropping(
            self._members, pool, lambda peer, to: self._detach(peer, str(peer), to)
        )
        self._stop_listening = [
            self._members.on_loss(pool, self._hint.set),
            self._claims.open(pool, self._hint.set),
            self._demand.join(pool, self._rank, self._hint.set),
        ]

    async def close(self) -> None:
        while self._stop_listening:
            self._stop_listening.pop()()
        if self._dropping is not None:
            await self._dropping.close()
        if self._client is not None:
            await self._client.close()

    async def members(self) -> frozenset[Peer]:
        assert self._members is not None, "start() comes first"
        return self._members.peers(self.owner.pool)

    async def changed(self) -> None:
        await self._hint.wait()
        self._hint.clear()

    async def survey(self, peer: Peer) -> Survey | Outcome:
        deadline = _now() + min(SURVEY_TIMEOUT, self.owner.options.connect.timeout)
        answer = await self._ask(peer, names.STATUS, None, deadline)
        if answer.status != 200:
            return answer.outcome
        try:
            status = StatusReply.decode(answer.body)
        except messages.WireError as exc:
            raise DistError(f"is no gc_bootstrap agent: {exc}") from exc
        found = surveys.judge(status, peer, self._scheduler.id, self.owner.pool, self._versions)
        if isinstance(found, Outcome) and found.same_as is not None:
            self._note_name(peer, found.same_as)
        elif status.agent is not None and status.agent == self._retired_agent(peer):
            return Outcome.refused(messages.RETIRED, expected=True, soon=True)
        return found

    # -- how many there should be ----------------------------------------------------------------

    async def needed(
        self,
        capacities: Mapping[Peer, Capacity],
        held: AbstractSet[Peer],
        adapt: AdaptOptions,
    ) -> Needed:
        assert self._demand is not None, "start() comes first"
        pool = self.owner.pool
        return await self._demand.needed(pool, capacities, held, adapt)

    async def order(self, members: AbstractSet[Peer]) -> Sequence[Peer]:
        assert self._demand is not None, "start() comes first"
        return await self._demand.order(self.owner.pool, members)

    # -- claims ----------------------------------------------------------------------------------

    async def claim(self, peer: Peer, stake: Stake, wants: int) -> Outcome:
        most = messages.MOST
        claim = AttachClaim(min(most, stake.holds), stake.weight, min(most, wants))
        return await self._connect(peer, claim)

    def claims(self) -> Sequence[Claim]:
        return () if self._claims is None else self._claims.current(self.owner.pool)

    def freed(self) -> AbstractSet[Peer]:
        return frozenset() if self._claims is None else self._claims.freed(self.owner.pool)

    def tell(self, stake: Stake) -> None:
        if self._claims is not None:
            self._claims.tell(self.owner.pool, stake)

    # -- attaching -------------------------------------------------------------------------------

    async def connect(self, peer: Peer) -> Outcome:
        return await self._connect(peer)

    async def _connect(self, peer: Peer, claim: AttachClaim | None = None) -> Outcome:
        owner = self.owner
        deadline = _now() + owner.options.connect.timeout
        if self._dropping is not None:
            await self._dropping.ended(peer)  # else it would be found with workers that end
        reply = await self._attach(peer, deadline, claim)
        if isinstance(reply, AttachReply) and not await self._registered(reply):
            # The scheduler has given these workers up, and they do not know it yet.
            logger.info("%s still has workers that are none here: they are ended", peer)
            await self._detach(peer, reply.peer)
            reply = await self._attach(peer, deadline, claim)
            if isinstance(reply, AttachReply) and not await self._registered(reply):
                raise DistError(
                    f"says that it is attached with {', '.join(reply.workers) or 'no workers'}, but"
                    f" none has registered with this scheduler within {REGISTRATION_TIMEOUT:g} s"
                )
        if isinstance(reply, Outcome):
            return reply
        self._compare_versions(peer, reply)
        refused = surveys.not_so(reply.peer, reply.pool, peer, owner.pool)
        if refused is not None and refused.same_as is not None:
            self._note_name(peer, refused.same_as)
        return Outcome.DONE if refused is None else refused

    async def _attach(
        self, peer: Peer, deadline: float, claim: AttachClaim | None
    ) -> AttachReply | Outcome:
        """Post an attach; what the agent answers, or the refusal that it comes to."""
        options = self.owner.options
        least, most = messages.TIMEOUTS
        request = AttachRequest(
            scheduler=options.scheduler_address or self._scheduler.address,
            scheduler_id=self._scheduler.id,
            peer=str(peer),
            pool=self.owner.pool,
            versions=self._versions,
            timeout=min(most, max(least, deadline - _now())),
            retired=self._retired_agent(peer),
            claim=claim,
        )
        answer = await self._ask(peer, names.ATTACH, request, deadline)
        if answer.status != 200:
            refused = answer.outcome
            is_expected = request.retired is not None and refused.holder is None
            return replace(refused, expected=True) if is_expected else refused
        try:
            reply = AttachReply.decode(answer.body)
        except messages.WireError as exc:
            raise DistError(f"is no gc_bootstrap agent: {exc}") from exc
        if reply.scheduler_id != self._scheduler.id:
            raise DistError(f"says that it is held by scheduler {reply.scheduler_id}")
        return reply

    @property
    def _versions(self) -> dict[str, str]:
        """What an agent's have to match."""
        return versions.installed() if self.owner.options.versions == "refuse" else {}

    def _note_name(self, peer: Peer, same_as: Peer) -> None:
        if len(self._names) >= NAMES_KEPT:
            del self._names[next(iter(self._names))]
        self._names[peer] = same_as

    def _retired_agent(self, peer: Peer) -> str | None:
        """Which start of a peer's agent is not to be attached, by whichever name it was."""
        assert self._members is not None, "start() comes first"
        find = self._members.retired_agent
        return (
            find(self.owner.pool, peer)
            or find(self.owner.pool, self._names.get(peer, peer))
            or None
        )

    async def _registered(self, reply: AttachReply) -> bool:
        """Whether the workers of a reply are in the worker table, or come soon."""
        assert self._members is not None, "start() comes first"
        until = _now() + REGISTRATION_TIMEOUT
        # By whose they are, not by address: a --contact-address may be a name.
        while not self._members.workers(reply.pool, _parse(reply.peer)):
            if _now() >= until:
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
        return await self._let_go(peer, self._drains.drain_peer)

    async def release(self, peer: Peer, to: Claim | None = None) -> Outcome:
        try:
            return await self._let_go(peer, self._drains.release_peer, to)
        except CalledOffError as exc:
            return Outcome.refused(f"called off: {exc}", expected=True)

    async def _let_go(self, peer: Peer, drain: Drains, to: Claim | None = None) -> Outcome:
        assert self._dropping is not None, "start() comes first"
        deadline = self._drains.within(self.owner.options.drain.timeout)
        return await self._dropping.let_go(peer, drain, deadline, to)

    @property
    def _drains(self) -> Drainer:
        assert self._drainer is not None, "start() comes first"
        return self._drainer

    def progress(self, peer: Peer) -> str:
        return self._drains.progress(peer, self.owner.pool)

    async def abandon(self, peer: Peer) -> Outcome:
        """End a member's workers at once; no data is moved.

        Raises
        ------
        DistError
            As for :meth:`disconnect`.
        """
        answer = await self._detach(peer, str(peer), abandon=True)
        return Outcome.DONE if answer.status == 200 else answer.outcome

    @asynccontextmanager
    async def opened_again(self) -> AsyncIterator[None]:
        """Have a way to the agents once more, after :meth:`close`: for :meth:`abandon` alone."""
        assert self._client is not None, "bind() comes first"
        self._client.start()
        try:
            yield
        finally:
            await self._client.close()

    async def _detach(
        self, peer: Peer, name: str, to: Claim | None = None, *, abandon: bool = False
    ) -> Answer:
        """Have an agent end its workers, that this scheduler holds under a name.

        Parameters
        ----------
        to
            Who is told when it is free.
        abandon
            At once, with what they hold.
        """
        claim = None if to is None else DetachClaim(to.scheduler, to.scheduler_id, to.pool)
        request = DetachRequest(self._scheduler.id, name, claim, abandon)
        return await self._ask(peer, names.DETACH, request, _now() + DETACH_TIMEOUT)

    # -- what all need ---------------------------------------------------------------------------

    async def _ask(self, peer: Peer, path: str, message: Message | None, deadline: float) -> Answer:
        assert self._client is not None, "bind() comes first"
        return await self._client.ask(peer, path, message, deadline)


def _now() -> float:
    """On the clock by which asyncio's timeouts run."""
    return asyncio.get_running_loop().time()


def _parse(text: str) -> Peer:
    try:
        return Peer.parse(text)
    except PeerError as exc:
        raise DistError(f"is no gc_bootstrap agent: {exc}") from exc
