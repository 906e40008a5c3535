"""A discovery and a dist that do what a test says."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet

from gc_bootstrap.config import AdaptOptions
from gc_bootstrap.discovery import Discovery
from gc_bootstrap.dist import Dist, Needed
from gc_bootstrap.errors import DiscoveryError, DistError
from gc_bootstrap.peer import Outcome, Peer, Snapshot
from gc_bootstrap.stake import Capacity, Claim, Holder, Stake, Survey


class ManualDiscovery(Discovery):
    """Answers what the test says.

    Parameters
    ----------
    peers
        The first answer.

    Attributes
    ----------
    looks
        How often :meth:`peers` has been called.
    """

    def __init__(self, peers: Snapshot | Iterable[Peer | str] = ()) -> None:
        self._answer: Snapshot | DiscoveryError = Snapshot.of(peers)
        self._changed = asyncio.Event()
        self.looks = 0
        self.started = False
        self.closed = False

    def __repr__(self) -> str:
        return "manual"

    def set(self, answer: Snapshot | Iterable[Peer | str] | DiscoveryError) -> None:
        """Answer this from now on, and hint that it has changed."""
        self._answer = answer if isinstance(answer, DiscoveryError) else Snapshot.of(answer)
        self._changed.set()

    async def start(self) -> None:
        """Note it."""
        self.started = True

    async def peers(self) -> Snapshot:
        """Answer, or raise, what was set."""
        self.looks += 1
        self._changed.clear()
        if isinstance(self._answer, DiscoveryError):
            raise self._answer
        return self._answer

    async def changed(self) -> None:
        """Return after the next :meth:`set`."""
        await self._changed.wait()

    async def close(self) -> None:
        """Note it."""
        self.closed = True


class FakeDist(Dist):
    """Keeps members in a set, and behaves towards each peer as the test says.

    Attributes
    ----------
    connected
        The members; a test may take one out to play a loss, and then call :meth:`lose`.
    behaviour
        What connecting, disconnecting or releasing a peer does: an outcome, an error to raise, or
        a number of seconds to take before it succeeds. Default: success at once. Errors and
        refusals are those of surveys as well.
    calls
        ``("connect" | "disconnect" | "survey" | "claim" | "release", peer)`` in the order of the
        calls.
    most_at_once
        How many connects have run at the same time at most.
    capacities
        What peers can do. Default: a :class:`.Capacity`.
    holders
        Which peers another scheduler holds; they refuse.
    work
        How many peers the work needs, or why that is not known.
    busy
        Members that come last in the order of release, in this order.
    staying
        Members that are not released.
    wanted
        What others claim.
    claimed
        What was claimed, and with how many wants.
    given
        Who was released, and for whom.
    told
        What the pool has said that it holds.
    """

    def __init__(self) -> None:
        self.connected: set[Peer] = set()
        self.behaviour: dict[Peer, Outcome | Exception | float] = {}
        self.calls: list[tuple[str, Peer]] = []
        self.most_at_once = 0
        self.started = False
        self.closed = False
        self.capacities: dict[Peer, Capacity] = {}
        self.holders: dict[Peer, Holder] = {}
        self.work: int | Needed | DistError = 0
        self.busy: list[Peer] = []
        self.staying: set[Peer] = set()
        self.wanted: list[Claim] = []
        self.claimed: list[tuple[Peer, Stake, int]] = []
        self.given: list[tuple[Peer, Claim | None]] = []
        self.told: list[Stake] = []
        self._freed: set[Peer] = set()
        self._running = 0
        self._changed = asyncio.Event()

    def __repr__(self) -> str:
        return "fake"

    async def start(self) -> None:
        """Note it."""
        self.started = True

    async def members(self) -> frozenset[Peer]:
        """The members."""
        return frozenset(self.connected)

    async def connect(self, peer: Peer) -> Outcome:
        """Do what :attr:`behaviour` says."""
        self.calls.append(("connect", peer))
        return await self._join(peer)

    async def disconnect(self, peer: Peer) -> Outcome:
        """Do what :attr:`behaviour` says."""
        self.calls.append(("disconnect", peer))
        return await self._leave(peer)

    async def changed(self) -> None:
        """Return after the next :meth:`hint`."""
        await self._changed.wait()
        self._changed.clear()

    async def survey(self, peer: Peer) -> Survey | Outcome:
        """Answer from :attr:`capacities` and :attr:`holders`, or as :attr:`behaviour` says."""
        self.calls.append(("survey", peer))
        await asyncio.sleep(0)
        behaviour = self.behaviour.get(peer)
        if isinstance(behaviour, Exception):
            raise behaviour
        if isinstance(behaviour, Outcome) and not behaviour:
            return behaviour
        return Survey(self.capacities.get(peer, Capacity()), self.holders.get(peer))

    async def claim(self, peer: Peer, stake: Stake, wants: int) -> Outcome:
        """Note it, and connect who is nobody's."""
        self.calls.append(("claim", peer))
        self.claimed.append((peer, stake, wants))
        return await self._join(peer)

    async def release(self, peer: Peer, to: Claim | None = None) -> Outcome:
        """Do what :attr:`behaviour` says."""
        self.calls.append(("release", peer))
        outcome = await self._leave(peer)
        if outcome:
            self.given.append((peer, to))
        return outcome

    async def order(self, members: AbstractSet[Peer]) -> Sequence[Peer]:
        """Those that are not busy first, each by address."""
        idle = sorted(members - set(self.busy) - self.staying)
        return [*idle, *(p for p in self.busy if p in members and p not in self.staying)]

    async def needed(
        self,
        capacities: Mapping[Peer, Capacity],
        held: AbstractSet[Peer],
        adapt: AdaptOptions,
    ) -> Needed:
        """Answer, or raise, what :attr:`work` says."""
        if isinstance(self.work, DistError):
            raise self.work
        return self.work if isinstance(self.work, Needed) else Needed(self.work)

    def claims(self) -> Sequence[Claim]:
        """Answer :attr:`wanted`."""
        return tuple(self.wanted)

    def freed(self) -> AbstractSet[Peer]:
        """Who was set free since the last call."""
        freed, self._freed = frozenset(self._freed), set()
        return freed

    def tell(self, stake: Stake) -> None:
        """Note it."""
        self.told.append(stake)

    def lose(self, peer: Peer) -> None:
        """Play the loss of a member."""
        self.connected.discard(peer)
        self.hint()

    def free(self, peer: Peer) -> None:
        """Play that a peer whom somebody held is free, and says so."""
        self.holders.pop(peer, None)
        self._freed.add(peer)
        self.hint()

    def hint(self) -> None:
        """Play that something has changed."""
        self._changed.set()

    async def close(self) -> None:
        """Note it."""
        self.closed = True

    async def _join(self, peer: Peer) -> Outcome:
        self._running += 1
        self.most_at_once = max(self.most_at_once, self._running)
        try:
            outcome = await self._behave(peer)
        finally:
            self._running -= 1
        if outcome and (holder := self.holders.get(peer)) is not None:
            reason = f"is held by scheduler {holder.scheduler}"
            return Outcome.refused(reason, soon=True, holder=holder)
        if outcome:
            self.connected.add(peer)
        return outcome

    async def _leave(self, peer: Peer) -> Outcome:
        outcome = await self._behave(peer)
        if outcome:
            self.connected.discard(peer)
        return outcome

    async def _behave(self, peer: Peer) -> Outcome:
        await asyncio.sleep(0)
        behaviour = self.behaviour.get(peer, Outcome.DONE)
        if isinstance(behaviour, Exception):
            raise behaviour
        if isinstance(behaviour, Outcome):
            return behaviour
        await asyncio.sleep(behaviour)
        return Outcome.DONE
