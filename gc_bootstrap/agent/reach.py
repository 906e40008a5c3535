"""Which schedulers can be reached from here: nothing is given to one that could not have it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from distributed.security import Security

from gc_bootstrap.agent.link import Link
from gc_bootstrap.errors import os_reason
from gc_bootstrap.wire.messages import WireError

TIMEOUT = 1.0
"""Seconds for a scheduler to say who it is."""
KNOWN_FOR = 15.0
"""Seconds for which one that has answered is not asked again: as long as a claim is kept."""
MOST = 64
"""Schedulers that are remembered."""


class Reach:
    """Finds out whether schedulers answer.

    Parameters
    ----------
    security
        TLS, if there is any.
    clock
        Monotonic seconds.
    """

    def __init__(
        self, security: Security | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._security = security
        self._clock = clock
        self._answered: dict[tuple[str, str], float] = {}

    async def check(self, address: str, scheduler_id: str) -> None:
        """See to it that a scheduler is at an address, and answers.

        Raises
        ------
        WireError
            422: the address is none. 502: nobody is there, or another one.
        """
        key, now = (address, scheduler_id), self._clock()
        if now - self._answered.get(key, -KNOWN_FOR) < KNOWN_FOR:
            return
        link = Link(address, scheduler_id, self._security)
        try:
            async with asyncio.timeout(TIMEOUT):
                await link.check_same_soon()
        except OSError as exc:  # TimeoutError is one
            late = isinstance(exc, TimeoutError)
            reason = f"no answer within {TIMEOUT:g} s" if late else os_reason(exc)
            raise WireError(502, f"cannot reach the scheduler at {address}: {reason}") from exc
        finally:
            await link.close()
        self._answered.pop(key, None)
        if len(self._answered) >= MOST:
            del self._answered[next(iter(self._answered))]
        self._answered[key] = now
