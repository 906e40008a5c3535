"""An event loop whose time passes when nobody has anything to do: hours take a moment."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _Selector(selectors.DefaultSelector):
    """Lets the loop's time pass, in place of waiting for it."""

    def __init__(self, sleep: Callable[[float], None]) -> None:
        super().__init__()
        self._sleep = sleep

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("everybody waits, and for nothing that will ever happen")
        self._sleep(timeout)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop for what neither has threads nor sockets. Begins at 0 s."""

    def __init__(self) -> None:
        self._now = 0.0
        super().__init__(_Selector(self._sleep))

    def time(self) -> float:
        return self._now

    def _sleep(self, seconds: float) -> None:
        self._now += max(0.0, seconds)


def in_virtual_time(main: Coroutine[Any, Any, T]) -> T:
    """Run to the end, in as little time as it computes."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
