"""The pool where peers, the discovery or the dist fail: nobody is delayed, nothing is dropped."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

import pytest

from gc_bootstrap.config import ConnectOptions, ReconnectOptions
from gc_bootstrap.errors import DiscoveryError, DistError
from gc_bootstrap.peer import Outcome, Peer, Snapshot
from gc_bootstrap.pool import Pool
from gc_bootstrap.testing import FakeDist, ManualDiscovery
from tests.unit.helpers import HANGS, QUICK, RARELY, eventually, opened

A, B, C = (Peer("10.0.0.1", port) for port in (1, 2, 3))
MANY = [Peer("10.0.0.2", port) for port in range(1, 31)]


# -- connects --------------------------------------------------------------------------------------


async def test_connects_run_at_once_but_not_more_than_configured() -> None:
    dist = FakeDist()
    dist.behaviour = dict.fromkeys(MANY, 0.005)
    options = replace(QUICK, connect=ConnectOptions(5.0, concurrency=7))
    async with Pool(ManualDiscovery(MANY), dist, options=options):
        await eventually(lambda: dist.connected == set(MANY))
    assert dist.most_at_once == 7
    assert len(dist.calls) == len(MANY), "somebody was connected twice"


async def test_a_hanging_peer_delays_neither_the_others_nor_the_next_refresh() -> None:
    dist = FakeDist()
    dist.behaviour = {A: HANGS, B: DistError("is not reachable")}
    discovery = ManualDiscovery([A, B])
    async with Pool(discovery, dist, options=QUICK):
        await eventually(lambda: ("connect", A) in dist.calls)
        discovery.set([A, B, C])
        await eventually(lambda: dist.connected == {C})
        assert dist.calls.count(("connect", A)) == 1


async def test_with_one_place_a_peer_that_failed_still_gets_it() -> None:
    dist = FakeDist()
    dist.behaviour = {A: DistError("is not reachable")}
    options = replace(QUICK, connect=ConnectOptions(5.0, concurrency=1))
    async with Pool(ManualDiscovery([A]), dist, options=options):
        await eventually(lambda: len(dist.calls) >= 2)
        dist.behaviour = {}
        await eventually(lambda: dist.connected == {A})


async def test_a_connect_ends_at_its_deadline_and_is_tried_again() -> None:
    dist = FakeDist()
    dist.behaviour = {A: HANGS}
    options = replace(QUICK, connect=ConnectOptions(timeout=0.01))
    async with Pool(ManualDiscovery([A]), dist, options=options) as pool:
        await eventually(lambda: len(dist.calls) >= 2)
        await eventually(lambda: not pool._enactor.connecting)
        assert "no outcome within 0.01 s" in (await pool.status()).held[A]
        dist.behaviour = {}
        await eventually(lambda: dist.connected == {A})


async def test_a_connect_that_its_dist_cancels_does_not_occupy_its_peer_for_good() -> None:
    class Cancelling(FakeDist):
        async def connect(self, peer: Peer) -> Outcome:
            if len(self.calls) == 0:
                self.calls.append(("connect", peer))
                raise asyncio.CancelledError
            return await super().connect(peer)

    dist = Cancelling()
    async with Pool(ManualDiscovery([A]), dist, options=QUICK):
        await eventually(lambda: dist.connected == {A}, seconds=2.0)


async def test_a_bug_in_the_dist_is_held_against_its_peer_only(
    caplog: pytest.LogCaptureFixture,
) -> None:
    dist = FakeDist()
    dist.behaviour = {A: ValueError("not enough values")}
    async with Pool(ManualDiscovery([A, B]), dist, options=RARELY) as pool:
        await eventually(lambda: dist.connected == {B})
        await eventually(lambda: ("connect", A) in dist.calls and not pool._enactor.connecting)
        assert "ValueError: not enough values" in (await pool.status()).held[A]
    assert "a bug in its dist, at 10.0.0.1:1" in caplog.text


async def test_status_shows_who_is_held_and_why() -> None:
    dist = FakeDist()
    dist.behaviour = {
        A: DistError("is not reachable"),
        B: Outcome.ignored("is a printer"),
        C: HANGS,
    }
    options = replace(RARELY, reconnect=ReconnectOptions(initial=100.0, jitter=0.0))
    pool = Pool(
        ManualDiscovery([A, B, C]), dist, options=options, clock=lambda: 7.0, random=lambda: 0.5
    )
    async with pool:
        await eventually(lambda: len(dist.calls) == 3 and set(pool._enactor.connecting) == {C})
        status = await pool.status()
        assert status.held == {
            A: "backing off for 100.0 s after 1 failures: is not reachable",
            B: "is a printer",
        }
        assert status.connecting == (C,)
        assert status.peers == (A, B, C)
        assert status.members == ()
        assert status.to_json()["held"] == {str(peer): text for peer, text in status.held.items()}


async def test_clock_and_random_decide_when_a_peer_is_tried_again() -> None:
    now = 1000.0
    dist = FakeDist()
    dist.behaviour = {A: DistError("is not reachable")}
    options = replace(RARELY, reconnect=ReconnectOptions(initial=10.0, max=1000.0, jitter=0.5))
    pool = Pool(ManualDiscovery([A]), dist, options=options, clock=lambda: now, random=lambda: 0.25)
    await pool.open()
    try:
        await pool.run_once()
        now = 1007.4  # 10 s * (1 - 0.5 / 2)
        assert (await pool.run_once()).connect == ()
        now = 1007.5
        assert (await pool.run_once()).connect == (A,)
        now = 1007.5 + 11.9  # 16 s * 0.75
        assert (await pool.run_once()).connect == ()
    finally:
        await pool.close()


# -- the discovery and the list of members ---------------------------------------------------------


async def test_the_first_answer_may_be_an_error_and_the_loop_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    discovery, dist = ManualDiscovery(), FakeDist()
    discovery.set(DiscoveryError("the name server is not there"))
    async with Pool(discovery, dist, options=QUICK) as pool:
        with pytest.raises(DiscoveryError, match="the name server is not there"):
            await pool.refresh()
        await eventually(lambda: discovery.looks >= 3)
        assert (await pool.status()).error == "discovery failed: the name server is not there"
        discovery.set([A])
        await eventually(lambda: dist.connected == {A})
        assert (await pool.status()).error is None
    warnings = [r for r in caplog.records if "the name server is not there" in r.getMessage()]
    assert len(warnings) == 1, "an error that lasts is said once"


async def test_an_error_keeps_members_and_a_known_peer_is_still_connected_again() -> None:
    discovery, dist = ManualDiscovery([A, B]), FakeDist()
    async with Pool(discovery, dist, options=QUICK):
        await eventually(lambda: dist.connected == {A, B})
        discovery.set(DiscoveryError("the name server is not there"))
        looks = discovery.looks
        await eventually(lambda: discovery.looks >= looks + 2)
        assert dist.connected == {A, B}
        dist.lose(A)
        await eventually(lambda: dist.connected == {A, B})


async def test_an_error_is_not_an_empty_answer() -> None:
    dist = FakeDist()
    dist.behaviour = {A: DistError("is not reachable")}
    discovery = ManualDiscovery([A])
    options = replace(RARELY, reconnect=ReconnectOptions(initial=100.0))
    async with opened(discovery, dist, options) as pool:
        await pool.run_once()
        discovery.set(DiscoveryError("the name server is not there"))
        await pool.run_once()
        status = await pool.status()
        assert status.peers == (A,)
        assert "after 1 failures" in status.held[A], "its backoff has been forgotten"


async def test_a_bug_in_the_discovery_does_not_end_the_loop(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken(ManualDiscovery):
        broken = True

        async def peers(self) -> Snapshot:
            found = await super().peers()
            if self.broken:
                raise ValueError("not enough values")
            return found

    discovery, dist = Broken([A]), FakeDist()
    async with Pool(discovery, dist, options=QUICK) as pool:
        await eventually(lambda: discovery.looks >= 3)
        assert (await pool.status()).error == "discovery failed: ValueError: not enough values"
        discovery.broken = False
        await eventually(lambda: dist.connected == {A})
    said = [r for r in caplog.records if "not enough values" in r.getMessage()]
    assert len(said) == 1
    assert said[0].exc_info, "a bug is logged with its traceback"


async def test_a_discovery_that_returns_no_snapshot_is_an_error_and_the_loop_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken(ManualDiscovery):
        broken = True

        async def peers(self) -> Snapshot:
            found = await super().peers()
            return [A] if self.broken else found  # type: ignore[return-value]

    discovery, dist = Broken([A]), FakeDist()
    async with Pool(discovery, dist, options=QUICK) as pool:
        await eventually(lambda: discovery.looks >= 4)
        assert (await pool.status()).error
        discovery.broken = False
        await eventually(lambda: dist.connected == {A})
    assert len([r for r in caplog.records if r.levelno >= logging.WARNING]) == 1


@pytest.mark.parametrize("error", [ValueError("not enough values"), DistError("no scheduler")])
async def test_members_that_cannot_be_read_stop_nothing_but_this_refresh(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(FakeDist):
        looks = 0
        broken = True

        async def members(self) -> frozenset[Peer]:
            self.looks += 1
            if self.broken:
                raise error
            return await super().members()

    dist = Broken()
    async with Pool(ManualDiscovery([A]), dist, options=QUICK) as pool:
        await eventually(lambda: dist.looks >= 3)
        assert dist.calls == []
        with pytest.raises(type(error), match=str(error)):
            await pool.refresh()
        dist.broken = False
        await eventually(lambda: dist.connected == {A})
        assert (await pool.status()).error is None
    assert len([r for r in caplog.records if str(error) in r.getMessage()]) == 1


# -- what is said ----------------------------------------------------------------------------------


async def test_each_new_reason_is_one_warning_and_its_repeats_are_for_debugging(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "gc_bootstrap")
    dist = FakeDist()
    dist.behaviour = {A: DistError("is not reachable: Connection refused")}
    async with Pool(ManualDiscovery([A, B]), dist, name="gpu", options=QUICK):
        await eventually(lambda: dist.calls.count(("connect", A)) >= 4)
        dist.behaviour = {A: Outcome.refused("is held by another scheduler")}
        seen = dist.calls.count(("connect", A))
        await eventually(lambda: dist.calls.count(("connect", A)) >= seen + 3)
    about = [r for r in caplog.records if "10.0.0.1:1" in r.getMessage()]
    warnings = [r.getMessage() for r in about if r.levelno == logging.WARNING]
    assert len(warnings) == 2
    assert warnings[0].startswith(
        "Pool gpu: 10.0.0.1:1 not attached: is not reachable: Connection refused; next try in 0.0"
    )
    assert "10.0.0.1:1 not attached: is held by another scheduler" in warnings[1]
    assert len([r for r in about if r.levelno == logging.DEBUG]) >= 3
    assert all("\n" not in r.getMessage() for r in about)


async def test_an_attached_peer_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "gc_bootstrap")
    dist = FakeDist()
    async with Pool(ManualDiscovery([A]), dist, options=QUICK):
        await eventually(lambda: dist.connected == {A})
    assert caplog.text.count("attached 10.0.0.1:1") == 1
