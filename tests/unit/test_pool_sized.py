"""Pools of a size: how many they hold, whom they ask first, what they let go and claim."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gc_bootstrap.config import AdaptOptions, ShareOptions
from gc_bootstrap.errors import DistError
from gc_bootstrap.peer import Peer, Snapshot
from gc_bootstrap.pool import Pool
from gc_bootstrap.stake import Claim, Holder, Stake
from gc_bootstrap.testing import FakeDist, ManualDiscovery
from tests.unit.helpers import HANGS, QUICK, RARELY, eventually, opened

PEERS = tuple(Peer("10.0.0.1", port) for port in range(1, 9))
A, B, C, D, E, F, G, H = PEERS
FOUR = replace(RARELY, size=4)
ADAPT = replace(RARELY, adapt=AdaptOptions(interval=0.01))
DEAD = DistError("is not reachable: Connection refused")
OTHER = Holder("tcp://10.0.0.2:8786", "Scheduler-2", Stake(6))
THEIRS = Claim("tcp://10.0.0.3:8786", "Scheduler-3", "default", Stake(0), 3)


def calls(dist: FakeDist, what: str) -> list[Peer]:
    return [peer for call, peer in dist.calls if call == what]


# -- size ------------------------------------------------------------------------------------------


async def test_a_pool_holds_as_many_peers_as_its_size_says() -> None:
    discovery, dist = ManualDiscovery(PEERS), FakeDist()
    async with opened(discovery, dist, FOUR) as pool:
        await pool.run_once()
        assert len(dist.connected) == 4
        await pool.run_once()
        assert len(dist.connected) == 4
        status = (await pool.status()).to_json()
        assert len(status["spare"]) == 4
        assert {status["held"][peer] for peer in status["spare"]} == {"not needed: 4 of 4 wanted"}
        assert (status["size"], status["wanted"]) == (4, 4)


async def test_a_peer_is_asked_before_it_is_connected_and_a_dead_one_takes_no_place() -> None:
    discovery, dist = ManualDiscovery(PEERS[:6]), FakeDist()
    dist.behaviour = {A: DEAD, B: DEAD}
    async with opened(discovery, dist, FOUR) as pool:
        await pool.run_once()
        assert dist.connected == {C, D, E, F}
        assert set(calls(dist, "connect")) == {C, D, E, F}
        assert {A, B} <= set(calls(dist, "survey"))


async def test_of_thousands_of_peers_not_all_are_asked() -> None:
    many = [Peer("10.0.0.2", port) for port in range(1, 5001)]
    discovery, dist = ManualDiscovery(many), FakeDist()
    async with opened(discovery, dist, FOUR) as pool:
        await pool.run_once()
        assert len(dist.connected) == 4
        assert len(calls(dist, "survey")) < 100


async def test_a_pool_of_all_peers_asks_and_releases_nobody() -> None:
    discovery, dist = ManualDiscovery(PEERS), FakeDist()
    dist.wanted = [THEIRS]
    async with opened(discovery, dist, RARELY) as pool:
        await pool.run_once()
        await pool.run_once()
        assert dist.connected == set(PEERS)
        assert {what for what, _ in dist.calls} == {"connect"}
        assert dist.told[-1] == Stake(8, keeps=8), "says that it gives"


async def test_a_lost_member_is_replaced_by_one_that_was_not_needed() -> None:
    discovery, dist = ManualDiscovery(PEERS[:5]), FakeDist()
    async with Pool(discovery, dist, options=FOUR):
        await eventually(lambda: len(dist.connected) == 4)
        (spare,) = set(PEERS[:5]) - dist.connected
        lost = min(dist.connected)
        dist.behaviour[lost] = DEAD
        dist.lose(lost)
        await eventually(lambda: spare in dist.connected)
        assert len(dist.connected) == 4


async def test_a_leaving_member_is_replaced_while_it_drains() -> None:
    discovery, dist = ManualDiscovery([A]), FakeDist()
    async with Pool(discovery, dist, options=replace(RARELY, size=1)):
        await eventually(lambda: dist.connected == {A})
        dist.behaviour[A] = HANGS
        discovery.set(Snapshot(frozenset([A, B]), frozenset([A])))
        await eventually(lambda: dist.connected == {A, B})
        assert calls(dist, "disconnect") == [A]


async def test_another_size_is_taken_up_at_once() -> None:
    discovery, dist = ManualDiscovery(PEERS), FakeDist()
    dist.busy = [H, G, F, E, D, C, B, A]
    async with Pool(discovery, dist, options=FOUR) as pool:
        await eventually(lambda: len(dist.connected) == 4)
        pool.resize(6)
        await eventually(lambda: len(dist.connected) == 6)
        pool.resize(2)
        await eventually(lambda: len(dist.connected) == 2)
        pool.resize()
        await eventually(lambda: len(dist.connected) == 8)
        pool.resize(0)
        await eventually(lambda: not dist.connected)
        assert (await pool.status()).counters["releases"] == 12


async def test_a_pool_that_has_looked_once_can_be_resized() -> None:
    discovery, dist = ManualDiscovery(PEERS), FakeDist()
    once = replace(QUICK, refresh_interval=None)
    async with Pool(discovery, dist, options=once) as pool:
        await eventually(lambda: len(dist.connected) == 8)
        await eventually(lambda: all(task.done() for task in pool._supervisor._tasks.values()))
        pool.resize(3)
        await eventually(lambda: len(dist.connected) == 3)
        assert discovery.looks == 1


@pytest.mark.parametrize(
    ("size", "adapt", "problem"),
    [
        (-1, None, "size: -1 is not a whole number of at least 0"),
        (3, AdaptOptions(), "size: 3 contradicts adapt; give one of them"),
        (None, AdaptOptions(5, 4), "minimum: 5 is not between 0 and maximum, 4"),
        (1, None, "size: 1 is less than share.guaranteed, 2"),
        (None, AdaptOptions(0, 1), "maximum: 1 is less than share.guaranteed, 2"),
    ],
)
async def test_a_wrong_size_is_refused_in_one_line(
    size: int | None, adapt: AdaptOptions | None, problem: str
) -> None:
    pool = Pool(
        ManualDiscovery(), FakeDist(), options=replace(FOUR, share=ShareOptions(guaranteed=2))
    )
    with pytest.raises(ValueError, match=f"^{problem}$"):
        pool.resize(size, adapt)
    assert pool.options.size == 4
    await pool.close()
