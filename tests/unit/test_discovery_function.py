"""A plain function is a discovery: it runs in a thread of its own, whatever it does there."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from gc_bootstrap.discovery import Discovery, FunctionDiscovery
from gc_bootstrap.errors import DiscoveryError
from gc_bootstrap.peer import Peer, Snapshot
from gc_bootstrap.testing import DiscoveryContract
from tests.unit.helpers import eventually

A = Peer("10.0.0.5")


class TestPlainFunction(DiscoveryContract):
    async def discovery_of(self, peers: frozenset[Peer]) -> Discovery:
        def function() -> list[str]:
            return [str(peer) for peer in peers]

        return FunctionDiscovery(function)

    async def discovery_that_cannot_know(self) -> Discovery:
        def function() -> list[str]:
            raise OSError("the database is\nnot there")

        return FunctionDiscovery(function)


async def answer(function: Callable[[], Any]) -> frozenset[Peer]:
    discovery = FunctionDiscovery(function)
    found = await discovery.peers()
    await discovery.close()
    return found.peers


def yields() -> Iterator[str]:
    assert threading.current_thread() is not threading.main_thread()
    yield "10.0.0.5"


async def asynchronous(host: str = "10.0.0.5") -> list[str]:
    assert threading.current_thread() is threading.main_thread()
    return [host]


class PlainCallable:
    def __call__(self) -> list[str]:
        return ["10.0.0.5"]


class AsyncCallable:
    async def __call__(self) -> list[str]:
        return await asynchronous()


@pytest.mark.parametrize(
    "function",
    [
        lambda: ["10.0.0.5"],
        lambda: Snapshot(frozenset({A})),
        lambda: asynchronous(),
        yields,
        asynchronous,
        partial(asynchronous, "10.0.0.5"),
        PlainCallable(),
        AsyncCallable(),
    ],
)
async def test_whatever_can_be_called_and_returns_peers_will_do(
    function: Callable[[], Any],
) -> None:
    assert await answer(function) == {A}


async def test_the_event_loop_goes_on_while_it_works() -> None:
    release = threading.Event()

    def function() -> list[str]:
        assert release.wait(30)
        return ["10.0.0.5"]

    looking = asyncio.create_task(answer(function))
    await asyncio.sleep(0)
    release.set()
    assert await looking == {A}


async def test_one_that_hangs_is_called_once_and_cannot_know() -> None:
    release, calls = threading.Event(), []

    def function() -> list[str]:
        calls.append(1)
        assert release.wait(30)
        return ["10.0.0.5"]

    discovery = FunctionDiscovery(function)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await discovery.peers()
    for _ in range(3):
        with pytest.raises(DiscoveryError) as caught:
            await discovery.peers()
        # The same each time: a new error is one more line in the log.
        assert str(caught.value).endswith("function has not returned since it was last called")
    assert len(calls) == 1
    release.set()
    assert discovery._call is not None
    await asyncio.wait([discovery._call.ended], timeout=30)
    assert (await discovery.peers()).peers == {A}
    await discovery.close()


async def test_closing_waits_a_moment_for_one_that_returns() -> None:
    threads = threading.active_count()
    release = threading.Event()

    def function() -> list[str]:
        assert release.wait(30)
        return []

    discovery = FunctionDiscovery(function)
    looking = asyncio.create_task(discovery.peers())
    await eventually(lambda: threading.active_count() > threads)
    looking.cancel()
    release.set()
    await discovery.close()
    await discovery.close()
    await eventually(lambda: threading.active_count() == threads)


async def test_an_exit_of_its_own_is_an_error_and_no_end() -> None:
    discovery = FunctionDiscovery(lambda: sys.exit(3))
    with pytest.raises(DiscoveryError, match=r"raised RuntimeError: SystemExit\(3\)"):
        await discovery.peers()
    await discovery.close()


@pytest.mark.parametrize("found", [None, "10.0.0.5", 5, ["a b"], [None]])
async def test_what_is_no_answer_is_an_error(found: Any) -> None:
    discovery = FunctionDiscovery(lambda: found)
    with pytest.raises(DiscoveryError, match="raised "):
        await discovery.peers()
    await discovery.close()
