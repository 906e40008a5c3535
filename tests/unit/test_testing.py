"""The doubles keep the contracts that they stand in for, and can be steered."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from gc_bootstrap.config import AdaptOptions
from gc_bootstrap.dist import Dist
from gc_bootstrap.errors import DiscoveryError, DistError
from gc_bootstrap.peer import Outcome, Peer, Snapshot
from gc_bootstrap.testing import DiscoveryContract, DistContract, FakeDist, ManualDiscovery
from tests.unit.helpers import HANGS, RARELY, eventually, opened

A = Peer("10.0.0.1", 1)


class TestFakeDist(DistContract):
    async def dist(self) -> Dist:
        self.fake = FakeDist()
        return self.fake

    async def peer(self) -> Peer:
        return A

    async def dead_peer(self) -> Peer:
        dead = Peer("10.0.0.1", 2)
        self.fake.behaviour[dead] = DistError("is not reachable")
        return dead


class Plain(Dist):
    """A dist of a third party that has what it must have, and nothing more."""

    def __init__(self) -> None:
        self.here: set[Peer] = set()

    async def members(self) -> frozenset[Peer]:
        return frozenset(self.here)

    async def connect(self, peer: Peer) -> Outcome:
        if peer != A:
            raise DistError("is not reachable")
        self.here.add(peer)
        return Outcome.DONE

    async def disconnect(self, peer: Peer) -> Outcome:
        self.here.discard(peer)
        return Outcome.DONE


class TestPlainDist(TestFakeDist):
    async def dist(self) -> Dist:
        return Plain()

    async def dead_peer(self) -> Peer:
        return Peer("10.0.0.1", 2)


async def test_a_pool_of_a_size_works_with_a_dist_that_knows_nothing_of_sizes() -> None:
    dist = Plain()
    async with opened(ManualDiscovery([A]), dist, replace(RARELY, size=1)) as pool:
        await pool.run_once()
        assert dist.here == {A}
        pool.resize(adapt=AdaptOptions())
        await pool.run_once()
        assert dist.here == {A}, "takes what is not known for nothing"
        assert "does not know how many peers" in ((await pool.status()).error or "")
        pool.resize(0)
        await pool.run_once()
        assert not dist.here


async def test_a_behaviour_is_an_outcome_an_error_or_a_time() -> None:
    dist = FakeDist()
    dist.behaviour[A] = Outcome.refused("is busy")
    assert await dist.connect(A) == Outcome.refused("is busy")
    assert await dist.members() == frozenset()
    dist.behaviour[A] = ValueError("a bug")
    with pytest.raises(ValueError, match="a bug"):
        await dist.connect(A)
    dist.behaviour[A] = 0.001
    assert await dist.connect(A)
    assert dist.calls == [("connect", A)] * 3


async def test_connects_at_the_same_time_are_counted() -> None:
    dist = FakeDist()
    peers = [Peer("10.0.0.1", port) for port in range(1, 6)]
    dist.behaviour = dict.fromkeys(peers, HANGS)
    tasks = [asyncio.create_task(dist.connect(peer)) for peer in peers]
    await eventually(lambda: dist.most_at_once == 5)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    dist.behaviour = {}
    await dist.connect(A)
    assert dist.most_at_once == 5, "the cancelled ones still count"


async def test_a_loss_is_hinted_at() -> None:
    dist = FakeDist()
    await dist.connect(A)
    hint = asyncio.create_task(dist.changed())
    await asyncio.sleep(0)
    assert not hint.done()
    dist.lose(A)
    await hint
    assert await dist.members() == frozenset()


async def test_a_manual_discovery_answers_what_was_set_and_hints() -> None:
    discovery = ManualDiscovery(["10.0.0.1:1"])
    assert await discovery.peers() == Snapshot(frozenset({A}))
    hint = asyncio.create_task(discovery.changed())
    await asyncio.sleep(0)
    assert not hint.done()
    discovery.set(DiscoveryError("nobody knows"))
    await hint
    with pytest.raises(DiscoveryError, match="nobody knows"):
        await discovery.peers()
    assert discovery.looks == 2


async def test_the_contract_finds_a_discovery_that_answers_nobody_for_an_error() -> None:
    class Wrong(DiscoveryContract):
        async def discovery_of(self, peers: frozenset[Peer]) -> ManualDiscovery:
            return ManualDiscovery(peers)

        async def discovery_that_cannot_know(self) -> ManualDiscovery:
            return ManualDiscovery()

    with pytest.raises(AssertionError, match="instead of raising"):
        await Wrong().test_not_knowing_is_an_error_and_not_an_empty_answer()


async def test_the_contract_finds_a_discovery_that_does_not_say_what_is_missing() -> None:
    class Wrong(DiscoveryContract):
        async def discovery_of(self, peers: frozenset[Peer]) -> ManualDiscovery:
            return ManualDiscovery(peers)

        async def discovery_that_cannot_know(self) -> None:
            return None

        async def discovery_that_knows_a_part(self) -> ManualDiscovery:
            return ManualDiscovery(Snapshot(self.some, complete=False))

    with pytest.raises(AssertionError, match="does not say why"):
        await Wrong().test_a_part_of_the_truth_says_why_it_is_one()


async def test_the_contract_finds_a_dist_that_forgets_its_members_on_close() -> None:
    class Forgetful(FakeDist):
        async def close(self) -> None:
            self.connected.clear()

    class Wrong(TestFakeDist):
        async def dist(self) -> Dist:
            return Forgetful()

    with pytest.raises(AssertionError):
        await Wrong().test_close_leaves_members_and_may_be_called_twice()
