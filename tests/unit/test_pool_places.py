"""Who gets a place to be connected: dead and hanging peers keep no new one waiting."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace

import pytest

from gc_bootstrap.config import ConnectOptions
from gc_bootstrap.errors import DistError
from gc_bootstrap.peer import Outcome, Peer
from gc_bootstrap.pool import Plan, Pool, enact
from gc_bootstrap.testing import FakeDist, ManualDiscovery
from tests.unit.helpers import HANGS, QUICK, RARELY, eventually, opened

A, B = (Peer("10.0.0.1", port) for port in (1, 2))
MANY = [Peer("10.0.0.2", port) for port in range(1, 101)]
FOUR = replace(QUICK, connect=ConnectOptions(timeout=600.0, concurrency=4))
NEVER = 3600.0


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enact, "PATIENCE", 0.005)


@pytest.fixture
def no_end_of_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enact, "PATIENCE", NEVER)


@pytest.mark.usefixtures("no_end_of_patience")
async def test_half_of_the_places_are_kept_for_peers_that_never_failed() -> None:
    dist = FakeDist()
    dist.behaviour = dict.fromkeys(MANY, DistError("is not reachable"))
    discovery = ManualDiscovery(MANY)
    async with Pool(discovery, dist, options=FOUR) as pool:
        await eventually(lambda: pool._record.history.attempts.keys() == set(MANY))
        dist.behaviour = dict.fromkeys(MANY, HANGS)
        await eventually(lambda: len(pool._enactor.connecting) == 2)
        discovery.set([*MANY, A])
        await eventually(lambda: dist.connected == {A} and A not in pool._enactor.connecting)
        assert len(pool._enactor.connecting) == 2


@pytest.mark.usefixtures("no_end_of_patience")
async def test_who_appears_last_gets_the_next_free_place() -> None:
    dist = FakeDist()
    dist.behaviour = dict.fromkeys(MANY, HANGS)
    discovery = ManualDiscovery(MANY)
    options = replace(FOUR, refresh_interval=NEVER)
    async with opened(discovery, dist, options) as pool:
        await pool.refresh()
        await eventually(lambda: len(dist.calls) == 4)
        discovery.set([*MANY, A])
        await pool.refresh()
        next(iter(pool._enactor.connecting.values())).cancel()
        await eventually(lambda: dist.connected == {A})


@pytest.mark.usefixtures("patience")
async def test_who_hangs_gives_its_place_to_the_next_and_is_waited_for_all_the_same() -> None:
    dist = FakeDist()
    hanging = MANY[:20]
    answered = asyncio.Event()

    async def connect(peer: Peer) -> Outcome:
        if peer in hanging:
            await answered.wait()
        dist.connected.add(peer)
        return Outcome.DONE

    dist.connect = connect  # type: ignore[method-assign]
    discovery = ManualDiscovery(hanging)
    async with Pool(discovery, dist, options=FOUR) as pool:
        await eventually(lambda: len(pool._enactor.connecting) == 20)
        discovery.set([*hanging, A, B])
        await eventually(lambda: dist.connected == {A, B})
        assert pool._enactor.connecting.keys() == set(hanging)
        answered.set()
        await eventually(lambda: dist.connected == {*hanging, A, B})


@pytest.mark.usefixtures("patience")
@pytest.mark.parametrize("tried", [False, True], ids=["not tried yet", "tried before"])
async def test_there_is_an_end_to_how_many_hang_at_once(tried: bool) -> None:
    dist = FakeDist()
    discovery = ManualDiscovery(MANY)
    most = FOUR.connect.most // (2 if tried else 1)
    async with Pool(discovery, dist, options=FOUR) as pool:
        if tried:
            dist.behaviour = dict.fromkeys(MANY, DistError("is not reachable"))
            await eventually(lambda: pool._record.history.attempts.keys() == set(MANY))
        dist.behaviour = dict.fromkeys(MANY, HANGS)
        await eventually(lambda: len(pool._enactor.connecting) == most)
        if tried:  # the other half is for new ones
            discovery.set([*MANY, A])
            await eventually(lambda: dist.connected == {A})
        await asyncio.sleep(10 * enact.PATIENCE)
        assert len(pool._enactor.connecting) == most
    assert dist.most_at_once <= FOUR.connect.most


@pytest.mark.usefixtures("no_end_of_patience")
async def test_everybody_that_failed_has_a_turn_though_others_are_due_again_before() -> None:
    calls: Counter[Peer] = Counter()
    dist = FakeDist()

    async def connect(peer: Peer) -> Outcome:
        calls[peer] += 1
        return Outcome.refused("is busy")

    dist.connect = connect  # type: ignore[method-assign]
    options = replace(FOUR, connect=ConnectOptions(concurrency=1))
    async with Pool(ManualDiscovery(MANY), dist, options=options):
        await eventually(lambda: len(calls) == len(MANY) and min(calls.values()) >= 4)
    assert max(calls.values()) <= 10 * min(calls.values())


@pytest.mark.usefixtures("no_end_of_patience")
async def test_status_does_not_call_a_peer_that_waits_for_a_place_backing_off() -> None:
    now = [0.0]
    dist = FakeDist()
    dist.behaviour = {A: DistError("is not reachable"), B: DistError("is not reachable")}
    options = replace(RARELY, connect=ConnectOptions(concurrency=1))
    pool = Pool(ManualDiscovery([A, B]), dist, options=options, clock=lambda: now[0])
    await pool.open()
    try:
        await pool.run_once()
        dist.behaviour = {A: HANGS, B: HANGS}
        now[0] = 10.0
        await pool.refresh()
        (waiting,) = (await pool.status()).held.items()
        assert waiting[0] in {A, B}
        assert waiting[1] == "waits for its turn after 1 failures: is not reachable"
    finally:
        await pool.close()


@pytest.mark.usefixtures("no_end_of_patience")
async def test_who_was_started_since_the_plan_was_made_is_not_started_twice() -> None:
    dist = FakeDist()
    dist.behaviour = {A: HANGS, B: HANGS}
    options = replace(FOUR, connect=ConnectOptions(concurrency=1))
    async with opened(ManualDiscovery(), dist, options) as pool:
        await pool._enactor.enact(Plan(connect=(A, B)))
        await eventually(lambda: dist.calls == [("connect", A)])
        pool._enactor.connecting[A].cancel()
        await eventually(lambda: dist.calls == [("connect", A), ("connect", B)])
        await pool._enactor.enact(Plan(connect=(B,)))  # made while B was still waiting
        pool._enactor.connecting[B].cancel()
        await eventually(lambda: not pool._enactor.connecting)
        assert dist.calls == [("connect", A), ("connect", B)]


async def test_a_peer_that_may_be_had_soon_is_asked_again_soon() -> None:
    now = [0.0]
    dist = FakeDist()
    dist.behaviour = {
        A: DistError("is not reachable: Connection refused", soon=True),
        B: DistError("is not reachable: no connection within 5 s"),
    }
    options = replace(RARELY, reconnect=replace(RARELY.reconnect, initial=1.0, max=120.0))
    pool = Pool(
        ManualDiscovery([A, B]), dist, options=options, clock=lambda: now[0], random=lambda: 0.5
    )
    await pool.open()
    try:
        for _ in range(20):
            await pool.run_once()
            now[0] += 200.0
        await pool.run_once()
        held = (await pool.status()).held
        assert held[A].startswith("backing off for 5.0 s after 21 failures")
        assert held[B].startswith("backing off for 120.0 s after 21 failures")
    finally:
        await pool.close()
