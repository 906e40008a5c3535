"""An agent's scheduler as seen from the agent; the other end is a real Dask server."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from distributed.core import Server

from gc_bootstrap.agent import link as link_module
from gc_bootstrap.agent.link import LOOKS, Link
from gc_bootstrap.wire.messages import WireError
from gc_bootstrap.wire.names import DRAIN_HANDLER, REFILL_HANDLER, REFILL_LATER, REFILL_YES
from gc_bootstrap.wire.tag import Tag

ID = "Scheduler-1"
TAG = Tag(ID, "10.0.0.5:8791", "default")
WORKERS = ["tcp://10.0.0.5:1", "tcp://10.0.0.5:2"]


class Scheduler:
    """What a scheduler answers, for a test to change."""

    def __init__(self) -> None:
        self.identity: Any = {"id": ID}
        self.drained: Any = {}
        self.retired: Any = {address: {} for address in WORKERS}
        self.refill: Any = REFILL_YES
        self.asked: list[dict[str, Any]] = []

    async def answer_identity(self, **keywords: Any) -> Any:
        return self._answer(self.identity)

    async def answer_drain(self, **keywords: Any) -> Any:
        self.asked.append(keywords)
        return self._answer(self.drained)

    async def answer_refill(self, **keywords: Any) -> Any:
        self.asked.append(keywords)
        return self._answer(self.refill)

    async def answer_retire(self, **keywords: Any) -> Any:
        self.asked.append(keywords)
        return self._answer(self.retired)

    @staticmethod
    def _answer(answer: Any) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def scheduler() -> Scheduler:
    return Scheduler()


@pytest.fixture
async def address(scheduler: Scheduler) -> AsyncIterator[str]:
    handlers: dict[str, Callable[..., Any]] = {
        "identity": scheduler.answer_identity,
        DRAIN_HANDLER: scheduler.answer_drain,
        REFILL_HANDLER: scheduler.answer_refill,
        "retire_workers": scheduler.answer_retire,
    }
    server = Server(handlers)
    await server.listen("tcp://127.0.0.1:0")
    yield server.address
    await server.close()


@asynccontextmanager
async def linked(address: str, **keywords: Any) -> AsyncIterator[Link]:
    link = Link(address, ID, None, **keywords)
    try:
        yield link
    finally:
        await link.close()


def closed_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def soon() -> float:
    return asyncio.get_running_loop().time() + 10.0


# -- is it there? ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "location"),
    [
        ("tcp://10.0.0.1:8786", ("10.0.0.1", 8786)),
        ("tls://scheduler:8786", ("scheduler", 8786)),
        ("tcp://[fd00::1]:8786", ("fd00::1", 8786)),
        ("ws://10.0.0.1:8786", None),
    ],
)
async def test_an_address_is_taken_apart(address: str, location: tuple[str, int] | None) -> None:
    async with linked(address) as link:
        assert link.check_address() == location


@pytest.mark.parametrize(
    "address", ["10.0.0.1:8786", "tcp://10.0.0.1", "tcp://10.0.0.1:0", "tcp://10.0.0.1:70000"]
)
async def test_what_is_no_address_is_a_422_that_quotes_it(address: str) -> None:
    async with linked(address) as link:
        with pytest.raises(WireError, match="is not a scheduler's address") as caught:
            await link.check_reachable()
    assert caught.value.status == 422
    assert repr(address) in str(caught.value)


async def test_a_server_that_answers_is_reachable(address: str) -> None:
    async with linked(address) as link:
        await link.check_reachable()
        await link.check_same()


async def test_a_closed_port_is_said_at_once() -> None:
    address = f"tcp://127.0.0.1:{closed_port()}"
    async with linked(address) as link:
        with pytest.raises(WireError) as caught:
            await link.check_reachable()
    assert caught.value.status == 502
    assert str(caught.value) == f"cannot reach the scheduler at {address}: Connection refused"


# -- is it the same? -------------------------------------------------------------------------------


async def test_another_scheduler_at_the_same_address_is_not_the_same(
    scheduler: Scheduler, address: str
) -> None:
    scheduler.identity = {"id": "Scheduler-2"}
    async with linked(address) as link:
        with pytest.raises(WireError, match=f"another scheduler is at {address}: Scheduler-2"):
            await link.check_same()
        assert not await link.answers(5.0)


@pytest.mark.parametrize(
    "identity",
    [{}, {"id": None}, "nonsense", None, ValueError("a bug"), KeyError("another")],
    ids=["nothing", "none", "text", "nil", "ValueError", "KeyError"],
)
async def test_nonsense_is_no_sign_of_life(
    scheduler: Scheduler, address: str, identity: Any
) -> None:
    async with linked(address) as link:
        assert await link.answers(5.0)
        scheduler.identity = identity
        assert not await link.answers(5.0)


async def test_nobody_gives_no_sign_of_life() -> None:
    async with linked(f"tcp://127.0.0.1:{closed_port()}") as link:
        assert not await link.answers(0.05)


class Time:
    """Passes only while somebody sleeps, and calls whoever is due then."""

    def __init__(self, changes: dict[float, Callable[[], None]]) -> None:
        self.now = 0.0
        self._changes = changes

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        for due in [at for at in self._changes if at <= self.now]:
            self._changes.pop(due)()


async def test_a_scheduler_is_asked_whether_to_start_another_worker(
    scheduler: Scheduler, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with linked(address) as link:
        scheduler.refill = REFILL_LATER
        assert await link.refill(TAG, WORKERS[0]) == REFILL_LATER
        assert scheduler.asked == [{"peer": TAG.peer, "pool": TAG.pool, "worker": WORKERS[0]}]
        scheduler.refill = None  # what Dask answers that has no pool of ours
        assert await link.refill(TAG, WORKERS[0]) == REFILL_YES
        scheduler.identity = {"id": "Scheduler-2"}
        with pytest.raises(OSError, match="another scheduler"):
            await link.refill(TAG, WORKERS[0])
    monkeypatch.setattr(link_module, "ANSWER_TIMEOUT", 0.1)
    async with linked(f"tcp://127.0.0.1:{closed_port()}") as link:
        with pytest.raises(OSError, match="no answer from its scheduler"):
            await link.refill(TAG, WORKERS[0])


async def test_silence_is_noticed_when_it_has_lasted(scheduler: Scheduler, address: str) -> None:
    def fail() -> None:
        scheduler.identity = ValueError("hangs")

    time = Time({1000.0: fail})
    async with linked(address, clock=time.clock, sleep=time.sleep) as link:
        await link.silence(10.0)
    # Heard for the last time before it failed; looked at five times as often as it may be silent.
    assert 1000.0 - 10.0 / LOOKS + 10.0 <= time.now <= 1000.0 + 10.0


async def test_a_sign_of_life_in_between_ends_the_silence(
    scheduler: Scheduler, address: str
) -> None:
    def silent() -> None:
        scheduler.identity = "nonsense"

    def talks() -> None:
        scheduler.identity = {"id": ID}

    time = Time({21.0: silent, 29.0: talks, 41.0: silent, 49.0: talks, 100.0: silent})
    async with linked(address, clock=time.clock, sleep=time.sleep) as link:
        await link.silence(10.0)
    assert time.now >= 100.0


# -- drains ----------------------------------------------------------------------------------------


async def test_a_drain_is_asked_for_with_a_margin_for_the_answer(
    scheduler: Scheduler, address: str
) -> None:
    async with linked(address) as link:
        assert await link.drain(TAG, WORKERS, soon())
    ((asked,)) = scheduler.asked
    assert (asked["peer"], asked["pool"]) == (TAG.peer, TAG.pool)
    assert 0 < asked["timeout"] <= 9.0


async def test_what_is_lost_is_said(
    scheduler: Scheduler, address: str, caplog: pytest.LogCaptureFixture
) -> None:
    scheduler.drained = {WORKERS[0]: "", WORKERS[1]: "2 results, which are computed again (8 B)"}
    async with linked(address) as link:
        assert await link.drain(TAG, WORKERS, soon())
    (line,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert line == (
        f"The time was over: {WORKERS[1]} goes with 2 results, which are computed again (8 B)"
    )


async def test_a_scheduler_that_never_had_a_pool_of_ours_retires_the_workers(
    scheduler: Scheduler, address: str, caplog: pytest.LogCaptureFixture
) -> None:
    scheduler.drained = None
    scheduler.retired = {WORKERS[0]: {}}
    async with linked(address) as link:
        assert await link.drain(TAG, WORKERS, soon())
    _, asked = scheduler.asked
    assert list(asked["workers"]) == WORKERS
    assert f"{WORKERS[1]} goes with its data" in caplog.text
    assert WORKERS[0] not in caplog.text


async def test_a_drain_that_fails_is_asked_for_again_where_the_scheduler_is_there(
    scheduler: Scheduler, address: str
) -> None:
    scheduler.drained = RuntimeError("somebody has cancelled it")
    async with linked(address) as link:
        assert not await link.drain(TAG, WORKERS, soon())
        scheduler.drained = {}
        assert await link.drain(TAG, WORKERS, soon())


async def test_a_drain_that_fails_is_an_error_where_another_scheduler_is_there(
    scheduler: Scheduler, address: str
) -> None:
    scheduler.drained = RuntimeError("it does not know these workers")
    scheduler.identity = {"id": "Scheduler-2"}
    async with linked(address) as link:
        with pytest.raises(OSError, match="it does not know these workers"):
            await link.drain(TAG, WORKERS, soon())
