"""What every discovery and every dist has to do, as suites of tests."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from gc_bootstrap.config import AdaptOptions
from gc_bootstrap.discovery import Discovery
from gc_bootstrap.dist import Dist
from gc_bootstrap.errors import DiscoveryError, DistError
from gc_bootstrap.peer import Outcome, Peer
from gc_bootstrap.stake import Stake, Survey

LetGo = Callable[[Peer], Awaitable[Outcome]]


@asynccontextmanager
async def _started(backend: Discovery | Dist) -> AsyncIterator[None]:
    await backend.start()
    try:
        yield
    finally:
        await backend.close()


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
        async with _started(discovery):
            snapshot = await discovery.peers()
            assert snapshot.peers == self.some
            assert snapshot.complete
            assert snapshot.leaving <= snapshot.peers
            assert snapshot.labels.keys() <= snapshot.peers

    async def test_no_peers_is_an_answer(self) -> None:
        discovery = await self.discovery_of(frozenset())
        async with _started(discovery):
            assert (await discovery.peers()).peers == frozenset()

    async def test_not_knowing_is_an_error_and_not_an_empty_answer(self) -> None:
        discovery = await self.discovery_that_cannot_know()
        if discovery is None:
            return
        async with _started(discovery):
            error: DiscoveryError | None = None
            try:
                answer = await discovery.peers()
            except DiscoveryError as exc:
                error = exc
            assert error is not None, f"answered {answer} instead of raising"
            assert str(error), "the error says nothing"
            assert "\n" not in str(error), "the error is more than one line"

    async def test_a_part_of_the_truth_says_why_it_is_one(self) -> None:
        discovery = await self.discovery_that_knows_a_part()
        if discovery is None:
            return
        async with _started(discovery):
            snapshot = await discovery.peers()
            assert snapshot.peers, "who knows nobody has to raise"
            assert not snapshot.complete
            assert snapshot.reason, "does not say why it is not complete"
            assert "\n" not in snapshot.reason, "the reason is more than one line"

    async def test_the_same_question_gets_the_same_answer(self) -> None:
        discovery = await self.discovery_of(self.some)
        async with _started(discovery):
            assert (await discovery.peers()).peers == (await discovery.peers()).peers

    async def test_changed_can_be_cancelled(self) -> None:
        discovery = await self.discovery_of(self.some)
        async with _started(discovery):
            await discovery.peers()
            waiting = asyncio.ensure_future(discovery.changed())
            assert await _hangs(0.2, waiting), "hinted at a change where there was none"

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
        async with _started(dist):
            assert await dist.members() == frozenset()
            assert await dist.connect(peer) == Outcome.DONE
            assert await dist.members() == {peer}

    async def test_connecting_a_member_again_is_harmless(self) -> None:
        dist, peer = await self.dist(), await self.peer()
        async with _started(dist):
            assert await dist.connect(peer)
            assert await dist.connect(peer)
            assert await dist.members() == {peer}

    async def test_a_disconnected_peer_is_no_member(self) -> None:
        dist = await self.dist()
        await self._goes_and_comes_back(dist, dist.disconnect)

    async def test_a_cancelled_disconnect_leaves_a_peer_that_can_be_a_member(self) -> None:
        dist = await self.dist()
        await self._is_called_back(dist, dist.disconnect)

    async def test_a_dead_peer_is_an_error_or_a_refusal_with_a_reason(self) -> None:
        dist, peer = await self.dist(), await self.dead_peer()
        async with _started(dist):
            try:
                outcome = await dist.connect(peer)
                reason, kind = outcome.reason, outcome.kind
            except DistError as exc:
                reason, kind = str(exc), "refused"
            assert kind == "refused"
            assert reason, "the reason is missing"
            assert "\n" not in reason, "the reason is more than one line"
            assert await dist.members() == frozenset()

    # What a dist need not have of its own: its defaults keep this as well.

    async def test_a_survey_attaches_nobody(self) -> None:
        dist, peer = await self.dist(), await self.peer()
        async with _started(dist):
            found = await dist.survey(peer)
            assert isinstance(found, Survey), f"a free peer is refused: {found}"
            assert found.holder is None
            assert await dist.members() == frozenset()
            assert await dist.connect(peer)

    async def test_a_survey_of_a_dead_peer_is_no_success_that_says_nothing(self) -> None:
        dist, peer = await self.dist(), await self.dead_peer()
        async with _started(dist):
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

    async def test_a_claim_connects_a_peer_that_is_nobodys(self) -> None:
        dist, peer = await self.dist(), await self.peer()
        async with _started(dist):
            assert await dist.claim(peer, Stake(), 1) == Outcome.DONE
            assert await dist.members() == {peer}

    async def test_a_released_peer_is_no_member_and_can_come_back(self) -> None:
        dist = await self.dist()
        await self._goes_and_comes_back(dist, dist.release)

    async def test_a_cancelled_release_leaves_a_peer_that_can_be_a_member(self) -> None:
        dist = await self.dist()
        await self._is_called_back(dist, dist.release)

    async def test_the_order_of_release_names_members_each_once(self) -> None:
        dist, peer = await self.dist(), await self.peer()
        async with _started(dist):
            assert await dist.connect(peer)
            order = await dist.order(await dist.members())
            assert list(order) in ([], [peer])
            assert list(await dist.order(frozenset())) == []

    async def test_how_many_are_needed_is_a_number_or_an_error_of_one_line(self) -> None:
        dist = await self.dist()
        async with _started(dist):
            said = "a number"
            try:
                needed = await dist.needed({}, frozenset(), AdaptOptions())
            except DistError as exc:
                said = str(exc)
            else:
                assert needed.count >= len(needed.first)
            assert said, "the error says nothing"
            assert "\n" not in said, "the error is more than one line"

    async def test_nobody_claims_and_nobody_is_freed_out_of_nothing(self) -> None:
        dist = await self.dist()
        async with _started(dist):
            dist.tell(Stake(3))
            assert not dist.claims()
            assert not dist.freed()

    async def test_close_leaves_members_and_may_be_called_twice(self) -> None:
        dist, peer = await self.dist(), await self.peer()
        await dist.start()
        assert await dist.connect(peer)
        await dist.close()
        await dist.close()
        assert await dist.members() == {peer}

    async def _goes_and_comes_back(self, dist: Dist, let_go: LetGo) -> None:
        peer = await self.peer()
        async with _started(dist):
            assert await dist.connect(peer)
            assert await let_go(peer) == Outcome.DONE
            assert await dist.members() == frozenset()
            assert await dist.connect(peer), "it cannot come back"

    async def _is_called_back(self, dist: Dist, let_go: LetGo) -> None:
        peer = await self.peer()
        async with _started(dist):
            assert await dist.connect(peer)
            going = asyncio.ensure_future(let_go(peer))
            await asyncio.sleep(0)
            going.cancel()
            await asyncio.gather(going, return_exceptions=True)
            assert await dist.connect(peer) == Outcome.DONE
            assert await dist.members() == {peer}
