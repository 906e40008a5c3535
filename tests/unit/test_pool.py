"""The pool's loop: forming, healing, hints, pausing, closing."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from gc_bootstrap.config import ConnectOptions
from gc_bootstrap.errors import ConfigError, DistError
from gc_bootstrap.peer import Peer
from gc_bootstrap.pool import Pool
from gc_bootstrap.testing import FakeDist, ManualDiscovery
from tests.unit.helpers import HANGS, QUICK, RARELY, eventually, opened

A, B, C = (Peer("10.0.0.1", port) for port in (1, 2, 3))

ONCE = replace(QUICK, refresh_interval=None)


async def test_a_cluster_forms_and_follows_discovery() -> None:
    discovery, dist = ManualDiscovery([A, B]), FakeDist()
    async with Pool(discovery, dist, options=QUICK):
        await eventually(lambda: dist.connected == {A, B})
        discovery.set([A, B, C])
        await eventually(lambda: dist.connected == {A, B, C})


async def test_a_lost_member_is_connected_again() -> None:
    discovery, dist = ManualDiscovery([A, B]), FakeDist()
    async with Pool(discovery, dist, options=QUICK):
        await eventually(lambda: dist.connected == {A, B})
        dist.lose(A)
        await eventually(lambda: dist.connected == {A, B})


async def test_run_once_waits_for_all_that_it_began() -> None:
    discovery, dist = ManualDiscovery([A, B, C]), FakeDist()
    dist.behaviour = {A: 0.02, B: DistError("is not reachable")}
    async with opened(discovery, dist) as pool:
        plan = await pool.run_once()
        assert set(plan.connect) == {A, B, C}
        assert dist.connected == {A, C}
        assert discovery.looks == 1


async def test_refresh_does_not_wait_for_what_it_began() -> None:
    dist = FakeDist()
    dist.behaviour = {A: HANGS}
    async with opened(ManualDiscovery([A]), dist) as pool:
        await pool.refresh()
        assert (await pool.status()).connecting == (A,)
        assert (await pool.refresh()).connect == ()


async def test_refreshes_never_overlap() -> None:
    running = most = 0

    async def look() -> list[Peer]:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.005)
        running -= 1
        return [A]

    async with Pool(look, FakeDist(), options=QUICK) as pool:
        await asyncio.gather(*(pool.refresh() for _ in range(5)))
        assert most == 1


async def test_a_plain_async_function_is_a_discovery() -> None:
    async def look() -> list[str]:
        return ["10.0.0.1:1"]

    dist = FakeDist()
    async with Pool(look, dist, options=QUICK):
        await eventually(lambda: dist.connected == {A})


async def test_what_is_no_discovery_is_refused() -> None:
    with pytest.raises(ConfigError, match="neither a Discovery nor"):
        Pool("static:10.0.0.1", FakeDist())  # type: ignore[arg-type]


async def test_pools_do_not_disturb_one_another() -> None:
    first, second = FakeDist(), FakeDist()
    second.behaviour = {B: HANGS}
    async with (
        Pool(ManualDiscovery([A]), first, name="first", options=QUICK),
        Pool(ManualDiscovery([B, C]), second, name="second", options=QUICK),
    ):
        await eventually(lambda: first.connected == {A} and second.connected == {C})


# -- hints and waking ------------------------------------------------------------------------------


async def test_a_hint_of_the_discovery_wakes_the_loop_early() -> None:
    discovery, dist = ManualDiscovery(), FakeDist()
    async with Pool(discovery, dist, options=RARELY):
        await eventually(lambda: discovery.looks == 1)
        discovery.set([A])
        await eventually(lambda: dist.connected == {A})


async def test_a_hint_of_the_dist_wakes_the_loop_early() -> None:
    discovery, dist = ManualDiscovery([A]), FakeDist()
    async with Pool(discovery, dist, options=RARELY):
        await eventually(lambda: dist.connected == {A})
        dist.lose(A)
        await eventually(lambda: dist.connected == {A} and dist.calls.count(("connect", A)) == 2)


async def test_the_end_of_a_backoff_wakes_the_loop_before_the_interval() -> None:
    dist = FakeDist()
    dist.behaviour = {A: DistError("is not reachable")}
    async with Pool(ManualDiscovery([A]), dist, options=RARELY):
        await eventually(lambda: len(dist.calls) >= 3)
        dist.behaviour = {}
        await eventually(lambda: dist.connected == {A})


async def test_many_hints_make_few_refreshes() -> None:
    discovery, dist = ManualDiscovery(), FakeDist()
    async with Pool(discovery, dist, options=RARELY) as pool:
        await eventually(lambda: discovery.looks == 1)
        for _ in range(1000):
            pool.hint()
            await asyncio.sleep(0)
        await eventually(lambda: discovery.looks >= 2)
        assert discovery.looks < 50


async def test_a_bug_in_changed_leaves_the_interval(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(ManualDiscovery):
        async def changed(self) -> None:
            raise ValueError("no such stream")

    discovery = Broken()
    async with Pool(discovery, FakeDist(), options=QUICK):
        await eventually(lambda: discovery.looks >= 3)
    assert "no hints for now: ValueError: no such stream" in caplog.text


async def test_without_an_interval_the_pool_looks_once() -> None:
    discovery, dist = ManualDiscovery([A]), FakeDist()
    async with Pool(discovery, dist, options=ONCE) as pool:
        await eventually(lambda: dist.connected == {A})
        await eventually(lambda: all(task.done() for task in pool._supervisor._tasks.values()))
        discovery.set([A, B])
        dist.lose(A)
        pool.hint()
        await asyncio.sleep(0)
        assert discovery.looks == 1


# -- pausing ---------------------------------------------------------------------------------------


async def test_a_paused_pool_neither_looks_nor_acts_until_it_is_resumed() -> None:
    discovery, dist = ManualDiscovery(), FakeDist()
    async with Pool(discovery, dist, options=QUICK) as pool:
        await eventually(lambda: discovery.looks >= 2)
        pool.pause()
        await eventually(lambda: pool._alarm.until == float("inf"))
        looks = discovery.looks
        discovery.set([A])
        plan = await pool.run_once()
        assert plan.connect == (A,)
        assert dist.calls == []
        assert discovery.looks == looks + 1
        assert (await pool.status()).paused
        pool.resume()
        await eventually(lambda: dist.connected == {A})


async def test_pausing_starts_no_more_of_what_was_planned() -> None:
    dist = FakeDist()
    dist.behaviour = {A: 0.02, B: 0.02}
    options = replace(RARELY, connect=ConnectOptions(5.0, concurrency=1))
    async with opened(ManualDiscovery([A, B]), dist, options) as pool:
        waiting = asyncio.create_task(pool.run_once())
        await eventually(lambda: len(dist.calls) == 1)
        pool.pause()
        await waiting
        assert len(dist.connected) == len(dist.calls) == 1


async def test_a_resumed_pool_does_not_wait_for_its_interval() -> None:
    discovery, dist = ManualDiscovery(), FakeDist()
    async with Pool(discovery, dist, options=RARELY) as pool:
        await eventually(lambda: discovery.looks == 1)
        pool.pause()
        discovery.set([A])
        pool.resume()
        await eventually(lambda: dist.connected == {A})


# -- starting and closing --------------------------------------------------------------------------


async def test_closing_cancels_what_is_under_way_and_closes_both_and_keeps_members() -> None:
    discovery, dist = ManualDiscovery([A, B]), FakeDist()
    dist.behaviour = {B: HANGS}
    pool = Pool(discovery, dist, options=QUICK)
    await pool.start()
    await eventually(lambda: dist.connected == {A} and ("connect", B) in dist.calls)
    await pool.close()
    await pool.close()
    assert discovery.closed
    assert dist.closed
    assert dist.connected == {A}
    assert dist._running == 0


async def test_closing_without_starting_is_harmless() -> None:
    await Pool(ManualDiscovery(), FakeDist()).close()


async def test_closing_ends_a_run_once_that_is_under_way() -> None:
    dist = FakeDist()
    dist.behaviour = {A: HANGS}
    pool = Pool(ManualDiscovery([A]), dist, options=RARELY)
    await pool.open()
    running = asyncio.create_task(pool.run_once())
    try:
        await eventually(lambda: dist.calls)
        await pool.close()
        await eventually(running.done, seconds=1.0)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_a_refresh_that_closing_overtakes_connects_nobody() -> None:
    answer, asked = asyncio.Event(), asyncio.Event()

    async def look() -> list[Peer]:
        asked.set()
        await answer.wait()
        return [A]

    dist = FakeDist()
    pool = Pool(look, dist, options=RARELY)
    await pool.open()
    refresh = asyncio.create_task(pool.run_once())
    await asked.wait()
    closing = asyncio.create_task(pool.close())
    await eventually(lambda: pool._closed)
    answer.set()
    await closing
    await asyncio.gather(refresh, return_exceptions=True)
    assert dist.calls == []


async def test_a_pool_starts_once() -> None:
    async with Pool(ManualDiscovery(), FakeDist()) as pool:
        with pytest.raises(RuntimeError, match="started already"):
            await pool.start()


async def test_what_fails_to_close_does_not_keep_the_other_open(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken(ManualDiscovery):
        async def close(self) -> None:
            raise OSError("no such device")

    dist = FakeDist()
    async with Pool(Broken(), dist):
        pass
    assert dist.closed
    assert "closing its discovery: OSError: no such device" in caplog.text
