"""Pools of a size: how many they hold, whom they ask first, what they let go and claim."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import replace

import pytest

from gc_bootstrap.config import AdaptOptions, ConnectOptions, PoolOptions, ShareOptions
from gc_bootstrap.dist import Needed
from gc_bootstrap.errors import DistError
from gc_bootstrap.peer import Outcome, Peer, Snapshot
from gc_bootstrap.pool import Pool
from gc_bootstrap.stake import Capacity, Claim, Holder, Stake, Survey
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


async def test_a_paused_pool_says_once_what_it_would_ask() -> None:
    dist = FakeDist()
    async with opened(ManualDiscovery(PEERS), dist, FOUR) as pool:
        pool.pause()
        async with asyncio.timeout(5):
            plan = await pool.run_once()
        assert plan.survey
        assert not dist.calls


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
        (None, AdaptOptions(-1), "adapt.minimum: -1 is not a whole number of at least 0"),
        (3, AdaptOptions(), "size: 3 contradicts adapt; keep one of them"),
        (None, AdaptOptions(5, 4), "adapt.minimum: 5 is more than maximum, 4"),
        (1, None, "share.guaranteed: 2 is more than size, 1"),
        (None, AdaptOptions(0, 1), "share.guaranteed: 2 is more than adapt.maximum, 1"),
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


# -- release ---------------------------------------------------------------------------------------


async def test_idle_members_are_released_before_busy_ones() -> None:
    discovery, dist = ManualDiscovery(PEERS[:4]), FakeDist()
    async with opened(discovery, dist, FOUR) as pool:
        await pool.run_once()
        dist.busy = [A, B]
        pool.resize(1)
        await pool.run_once()
        assert set(calls(dist, "release")) == {A, C, D}
        assert dist.connected == {B}
        assert not calls(dist, "disconnect")


async def test_who_must_stay_is_not_released() -> None:
    discovery, dist = ManualDiscovery(PEERS[:4]), FakeDist()
    async with opened(discovery, dist, FOUR) as pool:
        await pool.run_once()
        dist.staying = {A, B, C}
        pool.resize(0)
        await pool.run_once()
        assert dist.connected == {A, B, C}


async def test_a_release_that_is_called_off_is_tried_again_after_its_backoff() -> None:
    discovery, dist, now = ManualDiscovery([A]), FakeDist(), 0.0
    dist.connected = {A}
    dist.behaviour[A] = Outcome.refused("its data finds no place")
    pool = Pool(
        discovery, dist, options=replace(FOUR, size=0), clock=lambda: now, random=lambda: 0.5
    )
    await pool.open()
    await pool.run_once()
    status = await pool.status()
    assert status.held == {
        A: "backing off for 0.0 s after 1 failures: its data finds no place",
    }
    assert status.counters["releases-called-off"] == 1
    await pool.run_once()
    assert calls(dist, "release") == [A], "does not wait"
    now += 1.0
    dist.behaviour.clear()
    await pool.run_once()
    assert not dist.connected
    await pool.close()


async def test_a_release_is_cancelled_when_the_peer_is_needed_again() -> None:
    discovery, dist = ManualDiscovery(PEERS[:4]), FakeDist()
    async with Pool(discovery, dist, options=FOUR) as pool:
        await eventually(lambda: len(dist.connected) == 4)
        dist.behaviour = dict.fromkeys(PEERS, HANGS)
        pool.resize(1)
        await eventually(lambda: len(calls(dist, "release")) == 3)
        assert set((await pool.status()).releasing) == {A, B, C}
        pool.resize(3)
        await eventually(lambda: len(pool._enactor.releasing) == 1)
        status = await pool.status()
        assert status.counters["releases-called-off"] == 2
        # The last that was begun comes back first: least of it has been moved.
        assert status.releasing == (A,)
        assert len(dist.connected) == 4
        dist.behaviour.clear()


async def test_a_peer_is_not_connected_while_another_one_can_be_called_back() -> None:
    discovery, dist = ManualDiscovery(PEERS), FakeDist()
    async with Pool(discovery, dist, options=replace(FOUR, size=2)) as pool:
        await eventually(lambda: len(dist.connected) == 2)
        dist.behaviour = dict.fromkeys(dist.connected, HANGS)
        before = set(dist.connected)
        pool.resize(1)
        await eventually(lambda: pool._enactor.releasing)
        pool.resize(2)
        await eventually(lambda: not pool._enactor.releasing)
        assert dist.connected == before
        assert len(calls(dist, "connect")) == 2


# -- as many as the work needs ---------------------------------------------------------------------


class Clocked:
    """A pool without a loop, on a clock of its own, that looks each second."""

    def __init__(self, dist: FakeDist, options: PoolOptions, *peers: Peer) -> None:
        self.now = 1000.0
        self.dist = dist
        self.pool = Pool(
            ManualDiscovery(peers or PEERS),
            dist,
            options=options,
            clock=lambda: self.now,
            random=lambda: 0.5,
        )

    async def look(self, work: int | Needed | DistError | None = None) -> int:
        """What is held after a look at so much work, a second later."""
        self.now += 1.0
        if work is not None:
            self.dist.work = work
        await self.pool.run_once()
        return len(self.dist.connected)

    async def __aenter__(self) -> Clocked:
        await self.pool.open()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.pool.close()


def adapting(**adapt: int) -> PoolOptions:
    return replace(RARELY, adapt=AdaptOptions(**adapt))


async def test_more_work_is_answered_at_once_and_less_only_when_three_looks_agree() -> None:
    async with Clocked(FakeDist(), adapting()) as clocked:
        assert [await clocked.look(n) for n in (0, 5, 2, 2)] == [0, 5, 5, 5]
        assert [await clocked.look(n) for n in (2, 1, 1, 1)] == [2, 2, 2, 1]


async def test_a_demand_that_alternates_moves_nobody() -> None:
    async with Clocked(FakeDist(), adapting()) as clocked:
        assert [await clocked.look(n) for n in (6, 0, 6, 0, 6, 0, 0, 6)] == [6] * 8
        assert not calls(clocked.dist, "release")


async def test_hints_do_not_make_less_work_count_sooner() -> None:
    async with Clocked(FakeDist(), adapting()) as clocked:
        await clocked.look(5)
        clocked.dist.work = 0
        for _ in range(20):
            clocked.now += 0.05
            clocked.pool._hint_at_work()
            await clocked.pool.run_once()
        assert len(clocked.dist.connected) == 5


async def test_minimum_and_maximum_bound_what_the_work_needs() -> None:
    async with Clocked(FakeDist(), adapting(minimum=2, maximum=4, wait_count=1)) as clocked:
        assert [await clocked.look(n) for n in (0, 100, 3, 0)] == [2, 4, 3, 2]


async def test_work_that_is_not_known_is_not_taken_for_none() -> None:
    lost = DistError("the scheduler does not answer")
    async with Clocked(FakeDist(), adapting(wait_count=1)) as clocked:
        assert [await clocked.look(n) for n in (4, lost, lost, lost)] == [4, 4, 4, 4]
        status = await clocked.pool.status()
        assert status.error == (
            "how many peers are needed is not known: the scheduler does not answer"
        )
        assert await clocked.look(1) == 1
        assert (await clocked.pool.status()).error is None


async def test_a_pool_that_starts_with_members_does_not_let_them_go_at_its_first_look() -> None:
    dist = FakeDist()
    dist.connected = {A, B, C}
    async with Clocked(dist, adapting()) as clocked:
        assert [await clocked.look(0) for _ in range(4)] == [3, 3, 0, 0]


async def test_a_dist_that_does_not_know_the_work_keeps_what_it_has_and_says_so() -> None:
    lost = DistError("this dist does not know how many peers the work needs")
    dist = FakeDist()
    dist.connected = {A, B, C}
    async with Clocked(dist, adapting(maximum=2)) as clocked:
        assert await clocked.look(lost) == 2
        assert str(lost) in ((await clocked.pool.status()).error or "")


async def test_peers_that_only_can_do_some_of_the_work_come_first() -> None:
    async with Clocked(FakeDist(), adapting(maximum=2)) as clocked:
        await clocked.look(2)
        assert len(clocked.dist.connected) == 2
        special = max(set(PEERS) - clocked.dist.connected)
        await clocked.look(Needed(2, (special,)))
        assert special in clocked.dist.connected
        assert len(clocked.dist.connected) == 2
        await clocked.look(Needed(1, (special,)))
        await clocked.look()
        await clocked.look()
        assert clocked.dist.connected == {special}, "is let go last"


async def test_what_idle_peers_can_do_is_known_before_they_are_needed() -> None:
    class Curious(FakeDist):
        seen: frozenset[Peer] = frozenset()
        held: frozenset[Peer] = frozenset()

        async def needed(
            self,
            capacities: Mapping[Peer, Capacity],
            held: AbstractSet[Peer],
            adapt: AdaptOptions,
        ) -> Needed:
            self.seen, self.held = frozenset(capacities), frozenset(held)
            return await super().needed(capacities, held, adapt)

    dist = Curious()
    dist.behaviour[B] = DEAD
    dist.holders[A] = OTHER
    async with Clocked(dist, adapting(), A, B, C, D) as clocked:
        assert await clocked.look(0) == 0
        assert dist.seen == {A, C, D}
        assert dist.held == {A}
        asked = len(calls(dist, "survey"))
        await clocked.look()
        assert len(calls(dist, "survey")) <= asked + 1, "only who is due is asked again"


# -- what others hold and want ---------------------------------------------------------------------


async def test_peers_that_somebody_else_holds_are_claimed_and_no_more_than_the_rule_gives() -> None:
    dist = FakeDist()
    dist.holders = dict.fromkeys(PEERS[:6], OTHER)
    async with Clocked(dist, FOUR, *PEERS[:6]) as clocked:
        assert await clocked.look() == 0
        ((_, stake, wants),) = dist.claimed
        assert (stake, wants) == (Stake(0), 3), "of six, three are ours"
        status = await clocked.pool.status()
        assert status.held[F] == "held by scheduler tcp://10.0.0.2:8786, which holds 6"
        assert status.counters["claims"] == 1
        assert status.counters["attach-failures"] == 0
        await clocked.look()
        await clocked.look()
        assert len(dist.claimed) == 3
        assert dist.claimed[2][0] != dist.claimed[0][0], "asks the same one again and again"


async def test_a_pool_that_keeps_claims_and_gives_nothing() -> None:
    dist = FakeDist()
    dist.connected, dist.wanted = {A, B}, [THEIRS]
    dist.holders = dict.fromkeys(PEERS[2:], OTHER)
    keep = replace(FOUR, share=ShareOptions("keep"))
    async with Clocked(dist, keep) as clocked:
        assert await clocked.look() == 2
        assert not dist.claimed
        assert dist.told[-1] == Stake(2, keeps=2)


async def test_a_holder_gives_one_at_a_time_until_both_have_their_share() -> None:
    dist = FakeDist()
    async with Clocked(dist, FOUR, *PEERS[:4]) as clocked:
        await clocked.look()
        dist.wanted = [THEIRS]
        assert [await clocked.look() for _ in range(4)] == [3, 2, 2, 2]
        assert [to for _, to in dist.given] == [THEIRS, THEIRS]
        status = await clocked.pool.status()
        assert status.counters["gives"] == 2
        given = min(peer for peer, _ in dist.given)
        assert status.held[given].startswith("given to scheduler tcp://10.0.0.3:8786, ")
        clocked.now += 10.0
        dist.wanted = []
        assert await clocked.look() == 4


async def test_a_gift_counts_once_however_late_the_claims_are() -> None:
    dist = FakeDist()
    async with Clocked(dist, replace(FOUR, size=8)) as clocked:
        await clocked.look()
        dist.wanted = [THEIRS]
        assert await clocked.look() == 7
        dist.wanted = [replace(THEIRS, stake=Stake(1), wants=1)]
        assert [await clocked.look() for _ in range(3)] == [6, 6, 6]


async def test_what_is_guaranteed_is_never_given() -> None:
    dist = FakeDist()
    kept = replace(FOUR, share=ShareOptions(guaranteed=3))
    async with Clocked(dist, kept, *PEERS[:4]) as clocked:
        await clocked.look()
        dist.wanted = [THEIRS]
        assert [await clocked.look() for _ in range(3)] == [3, 3, 3]
        assert dist.told[-1] == Stake(3, keeps=3)


async def test_what_is_not_needed_goes_to_who_needs_it_most() -> None:
    dist = FakeDist()
    async with Clocked(dist, FOUR, *PEERS[:4]) as clocked:
        await clocked.look()
        rich = replace(THEIRS, scheduler_id="Scheduler-4", stake=Stake(9))
        dist.wanted = [rich, THEIRS]
        clocked.pool.resize(0)
        await clocked.look()
        assert [to for _, to in dist.given] == [THEIRS] * 4
        assert (await clocked.pool.status()).counters["gives"] == 0, "needs none of them"


async def test_who_may_have_nothing_by_the_rule_asks_now_and_then_to_hear_of_what_is_free() -> None:
    dist = FakeDist()
    dist.connected = set(PEERS[:3])
    equal = Holder("tcp://10.0.0.2:8786", "Scheduler-2", Stake(3))
    dist.holders = dict.fromkeys(PEERS[3:6], equal)
    async with Clocked(dist, replace(FOUR, size=6), *PEERS[:6]) as clocked:
        for _ in range(11):
            await clocked.look()
        assert [(stake, wants) for _, stake, wants in dist.claimed] == [(Stake(3), 0)] * 3


async def test_a_peer_that_was_taken_since_it_was_asked_is_asked_again_and_is_no_failure() -> None:
    dist = FakeDist()
    async with Clocked(dist, adapting(), A) as clocked:
        await clocked.look(0)
        dist.holders[A] = OTHER
        clocked.now += 10.0
        await clocked.look(1)
        clocked.now -= 0.99  # hardly any time goes by
        await clocked.look(1)
        assert dist.claimed, "has not found out whose it is"
        assert (await clocked.pool.status()).counters["attach-failures"] == 0


async def test_a_gift_is_not_called_back_while_it_is_claimed() -> None:
    discovery, dist = ManualDiscovery(PEERS[:2]), FakeDist()
    async with Pool(discovery, dist, options=replace(FOUR, size=2)) as pool:
        await eventually(lambda: len(dist.connected) == 2)
        dist.behaviour = dict.fromkeys(PEERS, HANGS)
        dist.wanted = [THEIRS]
        dist.hint()
        await eventually(lambda: pool._enactor.releasing)
        await pool.refresh()
        assert pool._enactor.releasing
        dist.wanted = []
        dist.hint()
        await eventually(lambda: not pool._enactor.releasing)
        assert len(dist.connected) == 2
        assert len(calls(dist, "connect")) == 2


async def test_a_peer_that_says_it_is_free_is_connected_without_waiting() -> None:
    discovery, dist = ManualDiscovery([A]), FakeDist()
    dist.holders[A] = OTHER
    async with Pool(discovery, dist, options=FOUR):
        await eventually(lambda: dist.claimed)
        surveys = len(calls(dist, "survey"))
        dist.free(A)
        await eventually(lambda: dist.connected == {A})
        assert len(calls(dist, "survey")) == surveys, "it has said so"


# -- surveys ---------------------------------------------------------------------------------------


class Silent(FakeDist):
    """Some peers never answer, whatever they are asked."""

    silent: frozenset[Peer] = frozenset()

    async def survey(self, peer: Peer) -> Survey | Outcome:
        if peer in self.silent:
            self.calls.append(("survey", peer))
            await asyncio.sleep(HANGS)
        return await super().survey(peer)


async def test_peers_that_never_answer_keep_nobody_waiting() -> None:
    silent = [Peer("10.0.0.9", port) for port in range(1, 121)]
    discovery, dist = ManualDiscovery([*silent, A, B]), Silent()
    dist.silent = frozenset(silent)
    options = PoolOptions(size=2, refresh_interval=3600.0, connect=ConnectOptions(concurrency=32))
    async with Pool(discovery, dist, options=options) as pool:
        await eventually(lambda: dist.connected == {A, B})
        assert not pool._record.history.attempts.keys() & dist.silent, "has waited for one"


async def test_closing_a_pool_ends_its_surveys_and_releases() -> None:
    discovery, dist = ManualDiscovery([A, B]), Silent()
    dist.connected, dist.silent = {C}, frozenset({A, B})
    dist.behaviour[C] = HANGS
    options = replace(FOUR, size=0)
    async with Pool(discovery, dist, options=options) as pool:
        await eventually(lambda: pool._enactor.releasing)
        pool.resize(3)
        await eventually(lambda: len(pool._enactor.surveyor.running) == 2)
        pool.resize(0)
        await eventually(lambda: pool._enactor.releasing)
    assert not pool._enactor.surveyor.running
    assert not pool._enactor.releasing
    assert dist.connected == {C}


async def test_a_pool_of_a_size_asks_the_discovery_no_more_often_than_its_interval() -> None:
    discovery, dist = ManualDiscovery(PEERS), FakeDist()
    dist.work = 1
    async with Pool(discovery, dist, options=ADAPT) as pool:
        await eventually(lambda: len(dist.connected) == 1)
        for count in (3, 5, 8):
            dist.work = count
            dist.hint()
            await eventually(lambda: len(dist.connected) == count)  # noqa: B023
        assert discovery.looks == 1
        discovery.set(PEERS[:7])
        await eventually(lambda: discovery.looks == 2)
        pool.hint()
        await eventually(lambda: discovery.looks == 3)


async def test_looks_at_the_work_count_no_absence() -> None:
    discovery, dist = ManualDiscovery([A, B]), FakeDist()
    dist.work = 2
    options = replace(ADAPT, removal=replace(ADAPT.removal, policy="drain", after=2, grace=0.0))
    async with Pool(discovery, dist, options=options) as pool:
        await eventually(lambda: len(dist.connected) == 2)
        discovery.set([A])
        await eventually(lambda: discovery.looks == 2)
        plan = pool._refresher.plan
        for _ in range(5):
            dist.hint()
            await eventually(lambda: pool._refresher.plan is not plan)  # noqa: B023
            plan = pool._refresher.plan
        assert dist.connected == {A, B}
        pool.hint()
        await eventually(lambda: dist.connected == {A})
