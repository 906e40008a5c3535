"""A function as a discovery.

The three outcomes are the function's: what it returns is the complete answer (a :class:`Snapshot`
may say otherwise), and whatever it raises means "cannot know". So does a plain function that has
not returned.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Any

from gc_bootstrap.discovery.base import Discovery
from gc_bootstrap.errors import ConfigError, DiscoveryError, one_line
from gc_bootstrap.peer import Peer, Snapshot

CLOSE_TIMEOUT = 1.0
"""Seconds that a plain function may take to return when nobody waits for it any more."""

Answer = Snapshot | Iterable[Peer | str]
PeersFunction = Callable[[], Answer | Awaitable[Answer]]


class FunctionDiscovery(Discovery):
    """A function as a discovery: an async one, or a plain one, which runs in a thread of its own.

    Parameters
    ----------
    function
        Takes nothing, returns a :class:`Snapshot` or a collection of peers or addresses.
    """

    def __init__(self, function: PeersFunction) -> None:
        self._function = function
        self._call: _Call | None = None

    def __repr__(self) -> str:
        return getattr(self._function, "__qualname__", repr(self._function))

    async def peers(self) -> Snapshot:
        try:
            if _is_async(self._function):
                return Snapshot.of(await self._function())  # type: ignore[misc]
            found = await self._in_thread()
            return found if isinstance(found, Snapshot) else Snapshot.of(await found)
        except DiscoveryError:
            raise
        except Exception as exc:
            raise DiscoveryError(f"{self!r} raised {one_line(exc)}") from exc

    async def _in_thread(self) -> Any:
        if self._call is not None and self._call.runs:
            # Without the seconds: an error that changes is one more line in the log at each look.
            raise DiscoveryError(f"{self!r} has not returned since it was last called")
        self._call = _Call(self._function)
        return await self._call.answer

    async def close(self) -> None:
        """Give a plain function a moment to return. Nothing can stop its thread."""
        call, self._call = self._call, None
        if call is not None and call.runs:
            await asyncio.wait([call.ended], timeout=CLOSE_TIMEOUT)


class _Call:
    """One call in a thread of its own.

    Not ``asyncio.to_thread``: the loop's own threads are the whole scheduler's, and a function that
    hangs would keep one of them, and the process from ending.
    """

    def __init__(self, function: PeersFunction) -> None:
        self._loop = asyncio.get_running_loop()
        self.answer: asyncio.Future[Any] = self._loop.create_future()
        self.ended: asyncio.Future[None] = self._loop.create_future()
        self._function = function
        name = f"gc_bootstrap discovery: {getattr(function, '__qualname__', function)}"
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def runs(self) -> bool:
        """Whether the function has not returned."""
        return not self.ended.done()

    def _run(self) -> None:
        found: Any = None
        failure: BaseException | None = None
        try:
            found = self._function()
            if not inspect.isawaitable(found):
                # In here: a generator does its work when it is gone through.
                found = Snapshot.of(found)
        except BaseException as exc:  # SystemExit, too: it means this thread only
            failure = exc
        with suppress(RuntimeError):  # the loop has been closed meanwhile
            self._loop.call_soon_threadsafe(self._done, found, failure)

    def _done(self, found: Any, failure: BaseException | None) -> None:
        if not self.ended.done():
            self.ended.set_result(None)
        if self.answer.done():  # nobody waits for it any more
            if inspect.iscoroutine(found):
                found.close()
        elif failure is None:
            self.answer.set_result(found)
        else:
            wrapped = failure if isinstance(failure, Exception) else RuntimeError(repr(failure))
            self.answer.set_exception(wrapped)


def _is_async(function: Any) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        type(function).__call__
    )


DiscoveryLike = Discovery | PeersFunction


def as_discovery(value: DiscoveryLike | object) -> Discovery:
    """Return a discovery as it is, and a function wrapped.

    Raises
    ------
    ConfigError
        It is neither.
    """
    if isinstance(value, Discovery):
        return value
    if not isinstance(value, type) and callable(value):
        return FunctionDiscovery(value)
    raise ConfigError(f"{value!r} is neither a Discovery nor a function that returns peers")
