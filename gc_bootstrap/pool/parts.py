"""A pool's discovery and dist: starting them, again where that fails, and closing them."""

from __future__ import annotations

import asyncio
import logging
from asyncio import sleep
from collections.abc import Callable

from gc_bootstrap.discovery import Discovery
from gc_bootstrap.dist import Dist
from gc_bootstrap.errors import ConfigError, GcBootstrapError, one_line
from gc_bootstrap.pool.supervise import ends_task, reason_of

logger = logging.getLogger(__name__)

START_TIMEOUT = 30.0
"""Seconds that a discovery or a dist may take to start."""

CLOSE_TIMEOUT = 10.0
"""Seconds that a discovery or a dist may take to close."""


class StartError(GcBootstrapError):
    """A discovery or a dist has not started; it may at the next attempt."""


class Parts:
    """Starts and closes both.

    Parameters
    ----------
    name
        The pool's, for logs.

    Attributes
    ----------
    started
        Which of ``dist`` and ``discovery`` have started.
    opened
        Set once both have.
    """

    def __init__(self, name: str, discovery: Discovery, dist: Dist) -> None:
        self.started: set[str] = set()
        self.opened = asyncio.Event()
        self._tried = asyncio.Event()
        self._misconfigured: ConfigError | None = None
        self._name = name
        self._parts: dict[str, Discovery | Dist] = {"dist": dist, "discovery": discovery}

    async def open(self) -> None:
        """Start what has not been started yet.

        Raises
        ------
        ConfigError
            One of them cannot work as it is configured.
        StartError
            One of them raised something else, or took longer than :data:`START_TIMEOUT`.
        """
        for what, part in self._parts.items():
            if what in self.started:
                continue
            try:
                async with asyncio.timeout(START_TIMEOUT) as deadline:
                    await part.start()
            except ConfigError:
                raise
            except BaseException as exc:
                if ends_task(exc):
                    raise
                late = isinstance(exc, TimeoutError) and deadline.expired()
                reason = f"not within {START_TIMEOUT:g} s" if late else reason_of(exc)
                raise StartError(f"{what} does not start: {reason}") from exc
            self.started.add(what)
        self.opened.set()

    async def open_at_last(self, delay: Callable[[int], float], say: Callable[[str], None]) -> None:
        """Start both, however often it takes.

        Parameters
        ----------
        delay
            Seconds to wait after the n-th failure.
        say
            Called with each failure, in one line.
        """
        failures = 0
        while not self.opened.is_set():
            try:
                await self.open()
            except (ConfigError, StartError) as exc:
                if isinstance(exc, ConfigError):
                    self._misconfigured = exc
                self._tried.set()
                failures += 1
                say(one_line(exc))
                await sleep(delay(failures))
        self._tried.set()

    async def tried(self, patience: float) -> None:
        """Wait some seconds for the first attempt of :meth:`open_at_last` to have ended.

        Raises
        ------
        ConfigError
            As :meth:`open`.
        """
        try:
            async with asyncio.timeout(patience):
                await self._tried.wait()
        except TimeoutError:
            return
        if self._misconfigured is not None:
            raise self._misconfigured

    async def close(self) -> None:
        """Close both, whatever goes wrong with one of them."""
        for what, part in reversed(self._parts.items()):
            try:
                async with asyncio.timeout(CLOSE_TIMEOUT):
                    await part.close()
            except BaseException as exc:
                if ends_task(exc):
                    raise
                logger.error(
                    "Pool %s: closing its %s: %s", self._name, what, reason_of(exc), exc_info=exc
                )
