"""When a pool's loop wakes: at its interval, at the end of a hold, or at a hint."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable


class Alarm:
    """Sleeps until a time that may change meanwhile, or until it is rung.

    Parameters
    ----------
    clock
        Monotonic seconds.

    Attributes
    ----------
    rung
        Whether somebody has rung since :meth:`reset`.
    until
        When the sleep that runs ends by itself.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.rung = False
        self.until = math.inf
        self._clock = clock
        self._nudge = asyncio.Event()

    def ring(self) -> None:
        """End the sleep that runs, or the next one."""
        self.rung = True
        self._nudge.set()

    def reset(self) -> None:
        """Forget that somebody has rung."""
        self.rung = False

    def consider(self, time: float) -> None:
        """Have a sleep that runs ask again when it ends, if it goes beyond a time."""
        if time < self.until:
            self._nudge.set()

    async def sleep(self, until: Callable[[], float], earliest: float) -> None:
        """Sleep.

        Parameters
        ----------
        until
            Answers when to wake; asked again after :meth:`consider`.
        earliest
            The sleep does not end before this, not even when rung.
        """
        while not self.rung:
            self._nudge.clear()
            self.until = until()
            delay = self.until - self._clock()
            try:
                async with asyncio.timeout(None if delay == math.inf else max(0.0, delay)):
                    await self._nudge.wait()
            except TimeoutError:
                break
        await asyncio.sleep(max(0.0, earliest - self._clock()))
