"""What a pool lets go, and when: leaving, drained, or kept."""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import replace

import pytest

from gc_bootstrap.config import DrainOptions, ReconnectOptions, RemovalOptions
from gc_bootstrap.errors import DiscoveryError
from gc_bootstrap.peer import Outcome, Peer, Snapshot
from gc_bootstrap.pool import Pool, enact
from gc_bootstrap.testing import FakeDist, ManualDiscovery
from tests.unit.helpers import HANGS, QUICK, RARELY, eventually, opened, refreshed

A, B, C, D = (Peer("10.0.0.1", port) for port in (1, 2, 3, 4))


async def test_keep_keeps_a_member_that_left_discovery_and_forgets_it_once_lost() -> None:
    discovery, dist = ManualDiscovery([A, B]), FakeDist()
    async with Pool(discovery, dist, options=QUICK) as pool:
        await eventually(lambda: dist.connected == {A, B})
        discovery.set([B])
        await eventually(refreshed(pool, 4))
        assert dist.connected == {A, B}
        dist.lose(A)
        await eventually(refreshed(pool, 4))
        assert dist.connected == {B}
        assert ("disconnect", A) not in dist.calls


async def test_a_leaving_member_is_dropped_and_stays_away() -> None:
    discovery, dist = ManualDiscovery([A, B]), FakeDist()
    async with Pool(discovery, dist, options=QUICK) as pool:
        await eventually(lambda: dist.connected == {A, B})
        discovery.set(Snapshot(frozenset({A, B}), leaving=frozenset({A})))
        await eventually(lambda: dist.connected == {B})
        await eventually(refreshed(pool))
        assert (await pool.status()).held == {A: "is leaving"}
        assert dist.connected == {B}


async def test_drain_drops_after_as_many_absences_as_configured() -> None:
    removal = RemovalOptions("drain", after=3, grace=0.0, panic_threshold=1.0)
    discovery, dist = ManualDiscovery([A, B]), FakeDist()
    async with opened(discovery, dist, replace(RARELY, removal=removal)) as pool:
        await pool.run_once()
        discovery.set([B])
        for absences in (1, 2):
            await pool.run_once()
            assert (await pool.status()).held == {A: f"absent {absences} of 3 times"}
        await pool.run_once()
        assert dist.connected == {B}


@pytest.mark.parametrize("last", [[A], []], ids=["named", "absent"])
async def test_errors_of_the_discovery_never_count_as_absence(last: list[Peer]) -> None:
    removal = RemovalOptions("drain", after=2, grace=0.0, panic_threshold=1.0)
    discovery, dist = ManualDiscovery([A]), FakeDist()
    async with opened(discovery, dist, replace(RARELY, removal=removal)) as pool:
        await pool.run_once()
        discovery.set(last)
        await pool.run_once()
        discovery.set(DiscoveryError("the name server is not there"))
        for _ in range(5):
            await pool.run_once()
        assert dist.connected == {A}


async def test_beyond_the_panic_threshold_the_pool_says_so_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    removal = RemovalOptions("drain", after=1, grace=0.0)
    discovery, dist = ManualDiscovery([A, B, C, D]), FakeDist()
    async with opened(discovery, dist, replace(RARELY, removal=removal)) as pool:
        await pool.run_once()
        discovery.set([A])
        await pool.run_once()
        await pool.run_once()
        assert dist.connected == {A, B, C, D}
        assert caplog.text.count("panic threshold: 3 of 4 members are missing") == 1
        assert "panic threshold" in str((await pool.status()).warning)


async def test_a_drop_that_hangs_ends_at_its_deadline(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enact, "DROP_MARGIN", 0.0)
    dist = FakeDist()
    discovery = ManualDiscovery([A])
    options = replace(RARELY, drain=DrainOptions(timeout=0.01))
    async with opened(discovery, dist, options) as pool:
        await pool.run_once()
        dist.behaviour = {A: HANGS}
        discovery.set(Snapshot(frozenset({A}), leaving=frozenset({A})))
        await pool.run_once()
        assert dist.connected == {A}
    assert "10.0.0.1:1 not dropped: no outcome within 0.01 s" in caplog.text


async def test_a_refused_drop_backs_off_and_is_tried_again() -> None:
    now = [0.0]
    discovery, dist = ManualDiscovery([A]), FakeDist()
    options = replace(RARELY, reconnect=ReconnectOptions(initial=10.0, jitter=0.0))
    pool = Pool(discovery, dist, options=options, clock=lambda: now[0])
    await pool.open()
    try:
        await pool.run_once()
        dist.behaviour = {A: Outcome.refused("holds the only copy")}
        discovery.set(Snapshot(frozenset({A}), leaving=frozenset({A})))
        now[0] = 20.0
        await pool.run_once()
        dist.behaviour = {}
        now[0] = 29.9
        plan = await pool.run_once()
        assert plan.disconnect == ()
        assert plan.held[A].describe(now[0]).startswith("backing off for 0.1 s after 1 failures")
        assert dist.connected == {A}
        now[0] = 30.1
        await pool.run_once()
        assert dist.connected == set()
        assert (await pool.status()).counters["drop-failures"] == 1
    finally:
        await pool.close()


async def test_a_drop_is_cancelled_when_the_peer_is_wanted_again() -> None:
    discovery, dist = ManualDiscovery([A]), FakeDist()
    async with opened(discovery, dist) as pool:
        await pool.run_once()
        dist.behaviour = {A: HANGS}
        discovery.set(Snapshot(frozenset({A}), leaving=frozenset({A})))
        await pool.refresh()
        assert (await pool.status()).disconnecting == (A,)
        discovery.set([A])
        assert (await pool.refresh()).cancel == (A,)
        await eventually(lambda: not pool._enactor.disconnecting)
        status = await pool.status()
        assert (status.members, status.counters["drops-cancelled"]) == ((A,), 1)


async def test_a_panic_cancels_the_drops_that_run_and_their_end_is_no_reason_to_drop_again() -> (
    None
):
    removal = RemovalOptions("drain", after=1, grace=0.0, panic_threshold=0.5)
    discovery, dist = ManualDiscovery([A, B, C, D]), FakeDist()
    async with opened(discovery, dist, replace(RARELY, removal=removal)) as pool:
        await pool.run_once()
        dist.behaviour = dict.fromkeys((A, B, C, D), HANGS)
        discovery.set(Snapshot(frozenset({B, C, D}), leaving=frozenset({B})))
        await pool.refresh()
        assert (await pool.status()).disconnecting == (A, B)
        discovery.set(Snapshot(frozenset({B}), leaving=frozenset({B})))
        assert (await pool.refresh()).cancel == (A,)
        await eventually(lambda: pool._enactor.disconnecting.keys() == {B})
        assert (await pool.refresh()).disconnect == ()
        status = await pool.status()
        assert status.members == (A, B, C, D)
        assert (status.counters["drops-cancelled"], status.counters["panics"]) == (1, 1)


async def test_a_peer_that_leaves_while_it_is_attached_is_dropped_right_after() -> None:
    discovery, dist = ManualDiscovery([A]), FakeDist()
    dist.behaviour = {A: 0.05}
    async with Pool(discovery, dist, options=RARELY) as pool:
        await eventually(lambda: dist.calls == [("connect", A)])
        discovery.set(Snapshot(frozenset({A}), leaving=frozenset({A})))
        await eventually(refreshed(pool, 1))
        await eventually(lambda: ("disconnect", A) in dist.calls)


async def test_a_refusal_that_is_part_of_a_peers_life_is_no_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    discovery, dist = ManualDiscovery([A, B]), FakeDist()
    dist.behaviour = {
        A: Outcome.refused("is draining", expected=True),
        B: Outcome.refused("is held by another"),
    }
    with caplog.at_level(logging.INFO, "gc_bootstrap"):
        async with opened(discovery, dist) as pool:
            await pool.run_once()
    levels = {record.getMessage().split(": ")[2]: record.levelname for record in caplog.records}
    assert levels["is draining; next try in 0.0 s"] == "INFO"
    assert levels["is held by another; next try in 0.0 s"] == "WARNING"


async def test_status_says_why_the_last_answer_was_not_the_whole_one_and_for_how_long() -> None:
    now = 100.0
    discovery, dist = ManualDiscovery([A]), FakeDist()
    pool = Pool(discovery, dist, options=RARELY, clock=lambda: now)
    await pool.open()

    async def seen(answer: Snapshot | DiscoveryError) -> tuple[bool, str | None, float | None]:
        discovery.set(answer)
        with suppress(DiscoveryError):
            await pool.run_once()
        said = (await pool.status()).to_json()
        return said["complete"], said["incomplete"], said["incomplete-for"]

    def part(reason: str = "") -> Snapshot:
        return Snapshot(frozenset({A}), complete=False, reason=reason)

    try:
        now = 101.0
        status = await pool.status()
        assert not status.complete
        assert (status.incomplete, status.incomplete_for) == ("there is no answer yet", 1.0)
        assert await seen(DiscoveryError("no route")) == (False, "no route", 1.0)
        assert await seen(Snapshot(frozenset({A}))) == (True, None, None)
        now = 200.0
        assert await seen(part("one of two\n is silent")) == (False, "one of two is silent", 0.0)
        now = 275.0
        assert await seen(DiscoveryError("403 Forbidden")) == (False, "403 Forbidden", 75.0)
        assert (await pool.status()).error == "discovery failed: 403 Forbidden"
        assert await seen(part()) == (False, "the discovery does not say why", 75.0)
        assert await seen(Snapshot(frozenset({A}))) == (True, None, None)
    finally:
        await pool.close()


async def test_a_panic_is_counted_and_said_to_be_over(caplog: pytest.LogCaptureFixture) -> None:
    removal = RemovalOptions("drain", after=1, grace=0.0)
    discovery, dist = ManualDiscovery([A, B, C, D]), FakeDist()
    with caplog.at_level(logging.INFO, "gc_bootstrap"):
        async with opened(discovery, dist, replace(RARELY, removal=removal)) as pool:
            await pool.run_once()
            for _ in range(3):
                discovery.set([A])
                await pool.run_once()
                discovery.set([A, B, C, D])
                await pool.run_once()
            status = await pool.status()
    assert status.counters["panics"] == 3
    assert status.warning is None
    assert caplog.text.count("over: panic threshold: 3 of 4 members are missing") == 3
