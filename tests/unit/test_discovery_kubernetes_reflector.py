"""When the API is asked again: backoff, jitter, `Retry-After`, 410. On a clock of its own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gc_bootstrap.discovery.kubernetes.api import ApiError, GoneError, SilentError
from gc_bootstrap.discovery.kubernetes.options import Options
from gc_bootstrap.discovery.kubernetes.reflector import Reflector
from gc_bootstrap.discovery.kubernetes.resources import RESOURCES, Resource
from gc_bootstrap.discovery.kubernetes.store import Store
from gc_bootstrap.errors import DiscoveryError
from tests.kube import fixture
from tests.unit.helpers import eventually

OPTIONS = Options(service="cpu", namespace="pools")
EMPTY = json.dumps({"metadata": {"resourceVersion": "7"}, "items": None}).encode()


class Script:
    """A server that does, call by call, what the test says, and a clock that only waits move.

    Attributes
    ----------
    asked
        ``(when, verb)`` of each call.
    """

    def __init__(self, lists: list[Any], watches: list[Any], random: float = 0.0) -> None:
        self.lists, self.watches = lists, watches
        self.now = 1000.0
        self.asked: list[tuple[float, str]] = []
        self.seconds: list[int] = []
        self.done = False
        self.reflector = Reflector(
            self,
            RESOURCES["endpointslices"],
            lambda resource: Store(lambda obj: resource.read(obj, OPTIONS), None, "ipv4"),
            lambda: "pools",
            lambda: None,
            clock=lambda: self.now,
            sleep=self._sleep,
            random=lambda: random,
        )

    async def _sleep(self, seconds: float) -> None:
        self.now += seconds
        await asyncio.sleep(0)

    async def _next(self, verb: str, script: list[Any]) -> Any:
        self.asked.append((round(self.now - 1000.0, 3), verb))
        if not script:
            self.done = True
            await asyncio.Event().wait()
        step = script.pop(0)
        if isinstance(step, Exception):
            raise step
        return step

    async def page(self, resource: Resource, limit: int | None, token: str | None) -> bytes:
        found: bytes = await self._next("list", self.lists)
        return found

    @asynccontextmanager
    async def watch(
        self, resource: Resource, version: str, seconds: int
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        self.seconds.append(seconds)
        lasts = await self._next("watch", self.watches)

        async def lines() -> AsyncIterator[bytes]:
            duration, ends = lasts
            self.now += duration
            if isinstance(ends, Exception):
                raise ends
            for line in ends:
                yield line

        yield lines()

    async def run(self) -> list[tuple[float, str]]:
        """Until the script is at its end."""
        task = asyncio.create_task(self.reflector.run())
        await eventually(lambda: self.done)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return self.asked


def times(asked: list[tuple[float, str]], verb: str) -> list[float]:
    return [when for when, which in asked if which == verb]


@pytest.mark.parametrize(
    ("error", "random", "expected"),
    [
        # 0.8 s, doubled, 10 s at most; between half of that and all of it.
        (lambda: ApiError("x"), 0.0, [0, 0.4, 1.2, 2.8, 6.0, 11.0, 16.0]),
        (lambda: ApiError("x"), 1.0, [0, 0.8, 2.4, 5.6, 12.0, 22.0, 32.0]),
        # 30 s at most where somebody has to do something.
        (lambda: ApiError("x", lasting=True), 1.0, [0, 0.8, 2.4, 5.6, 12.0, 24.8, 50.4, 80.4]),
        (lambda: DiscoveryError("no kubeconfig"), 1.0, [0, 0.8, 2.4, 5.6, 12.0, 24.8, 50.4, 80.4]),
        # What the server says, whatever the backoff is; never less.
        (lambda: ApiError("x", retry_after=7.0), 0.0, [0, 7, 14, 21]),
        (lambda: ApiError("x", retry_after=7.0), 1.0, [0, 7.7, 15.4]),
        (lambda: ApiError("x", retry_after=9999.0), 0.0, [0, 300]),
    ],
)
async def test_when_a_list_is_asked_for_again(
    error: Callable[[], Exception], random: float, expected: list[float]
) -> None:
    script = Script([error() for _ in expected[1:]], [], random)
    assert times(await script.run(), "list") == expected


async def test_failures_are_forgotten_when_a_watch_has_lasted() -> None:
    broken = ApiError("x")
    script = Script([broken, broken, broken, EMPTY, EMPTY], [(10.0, broken)])
    asked = await script.run()
    # 0.4, 0.8, 1.6 s; a watch of 10 s; and 0.4 s again.
    assert times(asked, "list") == [0, 0.4, 1.2, 2.8, 13.2]


async def test_failures_are_not_forgotten_by_a_list_alone() -> None:
    broken = ApiError("x")
    script = Script([EMPTY] * 4, [(1.0, broken)] * 3)
    assert times(await script.run(), "list") == [0, 1.4, 3.2, 5.8]


async def test_a_version_that_is_gone_again_and_again_is_backed_off() -> None:
    gone = GoneError("x")
    script = Script([EMPTY] * 5, [(0.0, gone), (0.0, gone), (0.0, gone), (60.0, gone)])
    asked = await script.run()
    # At once the first time, then as any failure; and at once again when it was long ago.
    assert times(asked, "list") == [0, 0, 0.4, 1.2, 61.2]


async def test_a_recorded_410_is_listed_anew_at_once() -> None:
    recorded = json.dumps(fixture("endpointslices-watch-410.jsonl")[0]).encode()
    script = Script([EMPTY, EMPTY], [(5.0, [recorded])])
    assert times(await script.run(), "list") == [0, 5]
    assert script.reflector.error is None


async def test_any_other_error_in_a_watch_is_a_failure() -> None:
    event = {"type": "ERROR", "object": fixture("error-403.json")}
    script = Script([EMPTY, EMPTY], [(5.0, [json.dumps(event).encode()])])
    assert times(await script.run(), "list") == [0, 5.4]
    assert "watch endpointslices in namespace pools: 403" in str(script.reflector.error)


async def test_a_silent_watch_is_listed_anew_at_once() -> None:
    script = Script([EMPTY] * 3, [(90.0, SilentError("x")), (90.0, SilentError("x"))])
    assert times(await script.run(), "list") == [0, 90, 180]
    assert script.reflector.error is None


async def test_a_watch_that_ends_in_good_order_is_followed_by_the_next() -> None:
    script = Script([EMPTY], [(300.0, []), (300.0, [])])
    assert await script.run() == [(0, "list"), (0, "watch"), (300, "watch"), (600, "watch")]


@pytest.mark.parametrize(("random", "seconds"), [(0.0, 300), (0.5, 450)])
async def test_watches_do_not_all_end_together(random: float, seconds: int) -> None:
    script = Script([EMPTY], [], random)
    await script.run()
    assert script.seconds == [seconds]


@pytest.mark.parametrize(
    "answer", [b"", b"[]", b"{}", b'{"metadata": {}}', b'{"metadata": 1}', b'{"items": [1]}']
)
async def test_what_is_no_list_is_an_error(answer: bytes) -> None:
    script = Script([answer], [])
    await script.run()
    assert str(script.reflector.error).startswith("list endpointslices: the answer is no list: ")
    assert script.reflector.store is None
