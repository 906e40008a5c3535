"""What ends a pool's tasks, or keeps it from starting, does not end the pool."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial

import pytest

from gc_bootstrap.config import ReconnectOptions
from gc_bootstrap.errors import ConfigError, DiscoveryError
from gc_bootstrap.peer import Outcome, Peer, Snapshot
from gc_bootstrap.pool import Pool, loop, parts, supervise
from gc_bootstrap.pool.parts import StartError
from gc_bootstrap.testing import FakeDist, ManualDiscovery
from tests.unit.helpers import QUICK, RARELY, eventually, refreshed

A, B = (Peer("10.0.0.1", port) for port in (1, 2))

NEVER_AGAIN = replace(QUICK, reconnect=ReconnectOptions(initial=3600.0, max=3600.0))


class Escaping(BaseException):
    """As some libraries make them, so that `except Exception` lets them through."""


ESCAPES = [
    asyncio.CancelledError(),
    Escaping("the stream is gone"),
    ValueError("the stream is gone"),
]
escapes = pytest.mark.parametrize("error", ESCAPES, ids=lambda exc: type(exc).__name__)


class Escapes(ManualDiscovery):
    """Raises something in one of its methods, until it is healed."""

    def __init__(self, where: str, error: BaseException) -> None:
        super().__init__([A])
        self.where, self.error = where, error
        self.raised = 0
        self.starts = 0

    def _escape(self, where: str) -> None:
        if self.where == where:
            self.raised += 1
            raise self.error

    async def start(self) -> None:
        self.starts += 1
        self._escape("start")
        await super().start()

    async def peers(self) -> Snapshot:
        found = await super().peers()
        self._escape("peers")
        return found

    async def changed(self) -> None:
        self._escape("changed")
        await super().changed()

    async def close(self) -> None:
        self._escape("close")
        await super().close()


class EscapingDist(FakeDist):
    """The same for a dist."""

    def __init__(self, where: str, error: BaseException) -> None:
        super().__init__()
        self.where, self.error = where, error
        self.raised = 0

    def _escape(self, where: str) -> None:
        if self.where == where:
            self.raised += 1
            raise self.error

    async def start(self) -> None:
        self._escape("start")
        await super().start()

    async def members(self) -> frozenset[Peer]:
        self._escape("members")
        return await super().members()

    async def changed(self) -> None:
        self._escape("changed")
        await super().changed()

    async def connect(self, peer: Peer) -> Outcome:
        self._escape("connect")
        return await super().connect(peer)


# -- while it runs ---------------------------------------------------------------------------------


@escapes
async def test_whatever_a_discovery_raises_is_an_error_and_the_pool_looks_again(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    discovery, dist = Escapes("peers", error), FakeDist()
    async with Pool(discovery, dist, options=QUICK) as pool:
        await eventually(lambda: discovery.raised >= 3)
        assert str((await pool.status()).error).startswith("discovery failed: ")
        discovery.where = ""
        await eventually(lambda: dist.connected == {A})
        assert (await pool.status()).error is None
    assert len([r for r in caplog.records if "discovery failed" in r.getMessage()]) == 1


@escapes
@pytest.mark.parametrize("where", ["members", "connect"])
async def test_whatever_a_dist_raises_is_an_error_and_the_pool_goes_on(
    where: str, error: BaseException
) -> None:
    dist = EscapingDist(where, error)
    async with Pool(ManualDiscovery([A]), dist, options=QUICK):
        await eventually(lambda: dist.raised >= 3)
        dist.where = ""
        await eventually(lambda: dist.connected == {A})


@escapes
@pytest.mark.parametrize("side", ["discovery", "dist"])
async def test_whatever_a_wait_for_hints_raises_there_are_hints_again(
    side: str, error: BaseException
) -> None:
    discovery = Escapes("changed" if side == "discovery" else "", error)
    dist = EscapingDist("changed" if side == "dist" else "", error)
    broken = discovery if side == "discovery" else dist
    async with Pool(discovery, dist, options=RARELY):
        await eventually(lambda: broken.raised >= 2 and dist.connected == {A})
        broken.where = ""
        discovery.set([A, B])
        await eventually(lambda: B in dist.connected)
        dist.lose(A)
        await eventually(lambda: A in dist.connected)


@pytest.mark.parametrize("what", ["refresh loop", "discovery hints", "dist hints"])
async def test_a_task_that_somebody_cancels_is_said_and_started_anew(
    what: str, caplog: pytest.LogCaptureFixture
) -> None:
    said = f"Pool gpu: {what} ended: cancelled by somebody else; started anew in"

    def said_so_often(times: int) -> bool:
        return caplog.text.count(said) == times

    discovery, dist = ManualDiscovery([A]), FakeDist()
    async with Pool(discovery, dist, name="gpu", options=RARELY) as pool:
        await eventually(lambda: dist.connected == {A})
        for times in (1, 2, 3):
            pool._supervisor._tasks[what].cancel()
            # Not on its being down: it may be up again before anybody looks.
            await eventually(partial(said_so_often, times))
            await eventually(lambda: not pool._supervisor.down)
        discovery.set([A, B])
        await eventually(lambda: B in dist.connected)
        dist.lose(A)
        await eventually(lambda: A in dist.connected)
    assert said_so_often(3)


async def test_a_task_that_is_down_is_an_error_in_the_status() -> None:
    dist = FakeDist()
    async with Pool(ManualDiscovery([A]), dist, options=NEVER_AGAIN) as pool:
        await eventually(lambda: dist.connected == {A})
        pool._supervisor._tasks["refresh loop"].cancel()
        await eventually(lambda: pool._supervisor.down)
        assert (await pool.status()).error == "refresh loop ended: cancelled by somebody else"


async def test_restarts_back_off_and_a_task_that_was_well_for_long_begins_anew() -> None:
    now = [0.0]
    delays: list[int] = []

    def delay(ends: int) -> float:
        delays.append(ends)
        return 0.0

    began = 0

    async def work() -> None:
        nonlocal began
        began += 1
        await asyncio.sleep(0)
        if began == 4:
            now[0] += 1000.0
        raise ValueError("no such stream")

    supervisor = supervise.Supervisor("gpu", delay, steady=120.0, clock=lambda: now[0])
    supervisor.run("refresh loop", work)
    await eventually(lambda: len(delays) >= 6)
    await supervisor.close()
    assert delays[:6] == [1, 2, 3, 1, 2, 3]
    ended = began
    await asyncio.sleep(0.01)
    assert began == ended, "started anew after close"


async def test_close_does_not_wait_for_ever_for_a_task_that_ignores_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(supervise, "CLOSE_TIMEOUT", 0.05)
    free, looking = asyncio.Event(), asyncio.Event()

    class Stubborn(ManualDiscovery):
        async def peers(self) -> Snapshot:
            looking.set()
            while not free.is_set():
                try:
                    await free.wait()
                except asyncio.CancelledError:
                    continue
            return await super().peers()

    discovery = Stubborn()
    pool = Pool(discovery, FakeDist(), options=QUICK)
    await pool.start()
    await looking.wait()
    task = pool._supervisor._tasks["refresh loop"]
    await pool.close()
    assert discovery.closed
    assert "refresh loop does not end although it is cancelled" in caplog.text
    free.set()
    await asyncio.gather(task, return_exceptions=True)


@escapes
async def test_whatever_closing_a_discovery_raises_its_dist_is_closed(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    dist = FakeDist()
    async with Pool(Escapes("close", error), dist, options=QUICK):
        pass
    assert dist.closed
    assert "closing its discovery: " in caplog.text


# -- the start -------------------------------------------------------------------------------------


@escapes
@pytest.mark.parametrize("side", ["discovery", "dist"])
async def test_a_start_that_fails_is_an_error_in_the_status_and_is_tried_again(
    side: str, error: BaseException
) -> None:
    discovery = Escapes("start" if side == "discovery" else "", error)
    dist = EscapingDist("start" if side == "dist" else "", error)
    broken = discovery if side == "discovery" else dist
    async with Pool(discovery, dist, options=QUICK) as pool:
        await eventually(lambda: broken.raised >= 3)
        status = await pool.status()
        assert str(status.error).startswith(f"{side} does not start: ")
        assert (status.members, status.complete) == ((), False)
        assert discovery.looks == 0, "asked before it has started"
        with pytest.raises(DiscoveryError, match="has not been started"):
            await pool.refresh()
        broken.where = ""
        await eventually(lambda: dist.connected == {A})
        assert (await pool.status()).error is None


async def test_starts_back_off_as_connects_do_and_what_has_started_is_not_started_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 4:
            discovery.where = ""

    monkeypatch.setattr(parts, "sleep", sleep)
    discovery, dist = Escapes("start", OSError("no such device")), FakeDist()
    starts = 0

    async def start() -> None:
        nonlocal starts
        starts += 1

    monkeypatch.setattr(dist, "start", start)
    options = replace(RARELY, reconnect=ReconnectOptions(1.0, 2.0, 5.0, 0.0))
    async with Pool(discovery, dist, options=options):
        await eventually(lambda: dist.connected == {A})
    assert slept == [1.0, 2.0, 4.0, 5.0]
    assert (discovery.starts, starts) == (5, 1)


async def test_a_start_that_hangs_has_a_deadline_and_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(parts, "START_TIMEOUT", 0.01)
    hangs = True

    class Hanging(ManualDiscovery):
        tries = 0

        async def start(self) -> None:
            self.tries += 1
            if hangs:
                await asyncio.Event().wait()

    discovery, dist = Hanging([A]), FakeDist()
    async with Pool(discovery, dist, options=QUICK) as pool:
        await eventually(lambda: discovery.tries >= 3)
        error = (await pool.status()).error
        assert error == "discovery does not start: not within 0.01 s"
        hangs = False
        await eventually(lambda: dist.connected == {A})


async def test_starting_a_pool_does_not_wait_for_a_start_that_hangs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loop, "START_PATIENCE", 0.01)
    ready = asyncio.Event()

    class Slow(ManualDiscovery):
        async def start(self) -> None:
            await ready.wait()

    dist = FakeDist()
    async with Pool(Slow([A]), dist, options=QUICK):
        ready.set()
        await eventually(lambda: dist.connected == {A})


async def test_closing_ends_a_start_that_hangs_or_waits_to_be_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loop, "START_PATIENCE", 0.01)

    class Hanging(ManualDiscovery):
        async def start(self) -> None:
            await asyncio.Event().wait()

    for discovery in (Hanging(), Escapes("start", OSError("no such device"))):
        dist = FakeDist()
        pool = Pool(discovery, dist, options=NEVER_AGAIN)
        await pool.start()
        await pool.close()
        assert discovery.closed
        assert dist.closed
        assert all(task.done() for task in pool._supervisor._tasks.values())


@pytest.mark.parametrize("side", ["discovery", "dist"])
async def test_a_start_that_finds_a_bad_configuration_is_fatal_and_closes_both(side: str) -> None:
    error = ConfigError("kubeconfig: there is none")
    discovery = Escapes("start" if side == "discovery" else "", error)
    dist = EscapingDist("start" if side == "dist" else "", error)
    for begin in (Pool.start, Pool.open):
        pool = Pool(discovery, dist, options=QUICK)
        with pytest.raises(ConfigError, match="there is none"):
            await begin(pool)
        assert discovery.closed
        assert dist.closed
        assert all(task.done() for task in pool._supervisor._tasks.values())


async def test_without_a_loop_a_start_that_fails_is_an_exception_and_closes_both() -> None:
    discovery, dist = Escapes("start", OSError("no such device")), FakeDist()
    with pytest.raises(StartError, match="discovery does not start: OSError: no such device"):
        await Pool(discovery, dist).open()
    assert discovery.closed
    assert dist.closed


async def test_a_pool_that_is_paused_and_whose_loop_ended_is_still_paused() -> None:
    discovery, dist = ManualDiscovery([A]), FakeDist()
    async with Pool(discovery, dist, options=QUICK) as pool:
        await eventually(refreshed(pool))
        pool.pause()
        pool._supervisor._tasks["refresh loop"].cancel()
        await eventually(lambda: pool._alarm.until == float("inf"))
        await eventually(lambda: not pool._supervisor.down)
        looks = discovery.looks
        await asyncio.sleep(0.02)
        assert discovery.looks == looks
        pool.resume()
        await eventually(lambda: discovery.looks > looks)
