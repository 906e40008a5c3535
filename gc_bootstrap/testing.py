"""For tests of discoveries, dists and pools: doubles that can be steered, and contract suites.

The doubles are honest implementations of the contracts, without a network. The suites hold any
implementation to its contract: subclass one in your tests, say how to make your implementation,
and pytest (with pytest-asyncio in ``auto`` mode) runs it.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
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


async def _hangs(seconds: float, coroutine: asyncio.Task[None]) -> bool:
    """Whether a task is still running after some time; it is cancelled then."""
    _, pending = await asyncio.wait([coroutine], timeout=seconds)
    coroutine.cancel()
    await asyncio.gather(coroutine, return_exceptions=True)
    return bool(pending)


class DiscoveryContract:
    """What every discovery has to do. Subclass it and say how to bring about each situation.

    Attributes
    ----------
    patience
        Seconds that a hint may take.
    """

    patience: float = 5.0

    @abstractmethod
    async def discovery_of(self, peers: frozenset[Peer]) -> Discovery:
        """Make a discovery, not started, that finds exactly these."""
        raise NotImplementedError

    @abstractmethod
    async def discovery_that_cannot_know(self) -> Discovery | None:
        """Make a discovery, not started, that cannot know; None if that cannot happen to it."""
        raise NotImplementedError

    async def discovery_that_knows_a_part(self) -> Discovery | None:
        """Make a discovery, not started, that knows a part; None if that cannot happen to it."""
        return None

    some = frozenset({Peer("127.0.0.1", 18791), Peer("127.0.0.1", 18792)})

    async def test_peers_are_found(self) -> None:
        discovery = await self.discovery_of(self.some)
        await discovery.start()
        try:
            snapshot = await discovery.peers()
            assert snapshot.peers == self.some
            assert snapshot.complete
            assert snapshot.leaving <= snapshot.peers
            assert snapshot.labels.keys() <= snapshot.peers
        finally:
            await discovery.close()

    async def test_no_peers_is_an_answer(self) -> None:
        discovery = await self.discovery_of(frozenset())
        await discovery.start()
        try:
            assert (await discovery.peers()).peers == frozenset()
        finally:
            await discovery.close()

    async def test_not_knowing_is_an_error_and_not_an_empty_answer(self) -> None:
        discovery = await self.discovery_that_cannot_know()
        if discovery is None:
            return
        await discovery.start()
        try:
            error: DiscoveryError | None = None
            try:
                answer = await discovery.peers()
            except DiscoveryError as exc:
                error = exc
            assert error is not None, f"answered {answer} instead of raising"
            assert str(error), "the error says nothing"
            assert "\n" not in str(error), "the error is more than one line"
        finally:
            await discovery.close()

    async def test_a_part_of_the_truth_says_why_it_is_one(self) -> None:
        discovery = await self.discovery_that_knows_a_part()
        if discovery is None:
            return
        await discovery.start()
        try:
            snapshot = await discovery.peers()
            assert snapshot.peers, "who knows nobody has to raise"
            assert not snapshot.complete
            assert snapshot.reason, "does not say why it is not complete"
            assert "\n" not in snapshot.reason, "the reason is more than one line"
        finally:
            await discovery.close()

    async def test_the_same_question_gets_the_same_answer(self) -> None:
        discovery = await self.discovery_of(self.some)
        await discovery.start()
        try:
            assert (await discovery.peers()).peers == (await discovery.peers()).peers
        finally:
            await discovery.close()

    async def test_changed_can_be_cancelled(self) -> None:
        discovery = await self.discovery_of(self.some)
        await discovery.start()
        try:
            await discovery.peers()
            waiting = asyncio.ensure_future(discovery.changed())
            assert await _hangs(0.2, waiting), "hinted at a change where there was none"
        finally:
            await discovery.close()

    async def test_close_may_be_called_twice_and_without_start(self) -> None:
        discovery = await self.discovery_of(self.some)
        await discovery.close()
        await discovery.close()


class DistContract:
    """What every dist has to do. Subclass it and say how to bring about each situation."""

    @abstractmethod
    async def dist(self) -> Dist:
        """Make a dist, bound and not started, without members."""
        raise NotImplementedError

    @abstractmethod
    async def peer(self) -> Peer:
        """Bring up a peer that can be connected."""
        raise NotImplementedError

    @abstractmethod
    async def dead_peer(self) -> Peer:
        """Name a peer where nobody answers."""
        raise NotImplementedError

    async def test_a_connected_peer_is_a_member(self) -> None:
        dist, peer = await self.dist(), await self.peer()
        await dist.start()
        try:
            assert await dist.members() == frozenset()
            assert await dist.connect(peer) == Outcome.DONE
            assert await dist.members() == {peer}
        finally:
            await dist.close()

    async def test_connecting_a_member_again_is_harmless(self) -> None:
        dist, peer = await self.dist(), await self.peer()
        await dist.start()
        try:
            assert await dist.connect(peer)
            assert await dist.connect(peer)
            assert await dist.members() == {peer}
        finally:
            await dist.close()

    async def test_a_disconnected_peer_is_no_member(self) -> None:
        dist, peer = await self.dist(), await self.peer()
        await dist.start()
        try:
            assert await dist.connect(peer)
            assert await dist.disconnect(peer) == Outcome.DONE
            assert await dist.members() == frozenset()
            assert await dist.connect(peer), "it cannot come back"
        finally:
            await dist.close()

    async def test_a_cancelled_disconnect_leaves_a_peer_that_can_be_a_member(self) -> None:
        dist, peer = await self.dist(), await self.peer()
        await dist.start()
        try:
            assert await dist.connect(peer)
            going = asyncio.create_task(dist.disconnect(peer))
            await asyncio.sleep(0)
            going.cancel()
            await asyncio.gather(going, return_exceptions=True)
            assert await dist.connect(peer) == Outcome.DONE
            assert await dist.members() == {peer}
        finally:
            await dist.close()

    async def test_a_dead_peer_is_an_error_or_a_refusal_with_a_reason(self) -> None:
        dist, peer = await self.dist(), await self.dead_peer()
        await dist.start()
        try:
            try:
                outcome = await dist.connect(peer)
                reason, kind = outcome.reason, outcome.kind
            except DistError as exc:
                reason, kind = str(exc), "refused"
            assert kind == "refused"
            assert reason, "the reason is missing"
            assert "\n" not in reason, "the reason is more than one line"
            assert await dist.members() == frozenset()
        finally:
            await dist.close()

    # What a dist need not have of its own: its defaults keep this as well.

    async def test_a_survey_attaches_nobody(self) -> None:
        dist, peer = await self.dist(), await self.peer()
        await dist.start()
        try:
            found = await dist.survey(peer)
            assert isinstance(found, Survey), f"a free peer is refused: {found}"
            assert found.holder is None
            assert await dist.members() == frozenset()
            assert await dist.connect(peer)
        finally:
            await dist.close()

    async def test_a_survey_of_a_dead_peer_is_no_success_that_says_nothing(self) -> None:
        dist, peer = await self.dist(), await self.dead_peer()
        await dist.start()
        try:
            try:
                found = await dist.survey(peer)
            except DistError as exc:
                reason = str(exc)
            else:
                # The default asks nobody.
                assert isinstance(found, Survey) or not found
                reason = "not asked" if isinstance(found, Survey) else found.reason
            assert reason, "the reason is missing"
            assert "\n" not in reason, "the reason is more than one line"
            assert await dist.members() == frozenset()
        finally:
            await dist.close()

    async def test_a_claim_connects_a_peer_that_is_nobodys(self) -> None:
        dist, peer = await self.dist(), await self.peer()
        await dist.start()
        try:
            assert await dist.claim(peer, Stake(), 1) == Outcome.DONE
            assert await dist.members() == {peer}
        finally:
            await dist.close()

    async def test_a_released_peer_is_no_member_and_can_come_back(self) -> None:
        dist, peer = await self.dist(), await self.peer()
        await dist.start()
        try:
            assert await dist.connect(peer)
            assert await dist.release(peer) == Outcome.DONE
            assert await dist.members() == frozenset()
            assert await dist.connect(peer), "it cannot come back"
        finally:
            await dist.close()

    async def test_a_cancelled_release_leaves_a_peer_that_can_be_a_member(self) -> None:
        dist, peer = await self.dist(), await self.peer()
        await dist.start()
        try:
            assert await dist.connect(peer)
            going = asyncio.create_task(dist.release(peer))
            await asyncio.sleep(0)
            going.cancel()
            await asyncio.gather(going, return_exceptions=True)
            assert await dist.connect(peer) == Outcome.DONE
            assert await dist.members() == {peer}
        finally:
            await dist.close()

    async def test_the_order_of_release_names_members_each_once(self) -> None:
        dist, peer = await self.dist(), await self.peer()
        await dist.start()
        try:
            assert await dist.connect(peer)
            order = await dist.order(await dist.members())
            assert list(order) in ([], [peer])
            assert list(await dist.order(frozenset())) == []
        finally:
            await dist.close()

    async def test_how_many_are_needed_is_a_number_or_an_error_of_one_line(self) -> None:
        dist = await self.dist()
        await dist.start()
        try:
            said = "a number"
            try:
                needed = await dist.needed({}, frozenset(), AdaptOptions())
            except DistError as exc:
                said = str(exc)
            else:
                assert needed.count >= len(needed.first)
            assert said, "the error says nothing"
            assert "\n" not in said, "the error is more than one line"
        finally:
            await dist.close()

    async def test_nobody_claims_and_nobody_is_freed_out_of_nothing(self) -> None:
        dist = await self.dist()
        await dist.start()
        try:
            dist.tell(Stake(3))
            assert not dist.claims()
            assert not dist.freed()
        finally:
            await dist.close()

    async def test_close_leaves_members_and_may_be_called_twice(self) -> None:
        dist, peer = await self.dist(), await self.peer()
        await dist.start()
        assert await dist.connect(peer)
        await dist.close()
        await dist.close()
        assert await dist.members() == {peer}
