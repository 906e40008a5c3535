"""Tasks that are not let end: whatever ends one is said, and it is started anew."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from gc_bootstrap.errors import one_line

logger = logging.getLogger(__name__)

Work = Callable[[], Coroutine[Any, Any, None]]

CLOSE_TIMEOUT = 10.0
"""Seconds for cancelled tasks to end. A discovery or a dist may swallow the cancellation."""


def ends_task(exc: BaseException) -> bool:
    """Whether an exception that came up in the current task is meant for the task itself.

    A :class:`~asyncio.CancelledError` that nobody asked this task for has leaked out of what it
    awaited, and is an error of that like any other; so is whatever somebody derives from
    :class:`BaseException`.
    """
    if isinstance(exc, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is not None and task.cancelling() > 0
    return isinstance(exc, KeyboardInterrupt | SystemExit | GeneratorExit)


def reason_of(exc: BaseException) -> str:
    """Describe in one line what was not meant for the task."""
    if isinstance(exc, asyncio.CancelledError):
        return "cancelled by somebody else"
    return one_line(exc)


class Supervisor:
    """Runs tasks, and starts each anew however it ends, unless it returned.

    Parameters
    ----------
    name
        The pool's, for logs.
    delay
        Seconds to wait before the n-th restart in a row.
    steady
        Seconds after which a task that ends is taken to have been well before.
    clock
        Monotonic seconds.

    Attributes
    ----------
    down
        Tasks that have ended and are not running again yet, and why.
    """

    def __init__(
        self,
        name: str,
        delay: Callable[[int], float],
        steady: float,
        clock: Callable[[], float],
    ) -> None:
        self.down: dict[str, str] = {}
        self._name = name
        self._delay = delay
        self._steady = steady
        self._clock = clock
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._closed = False

    def run(self, what: str, work: Work, ends: int = 0) -> None:
        """Start a task.

        Parameters
        ----------
        what
            Its name, for people.
        work
            Makes what it runs; called for every start.
        ends
            How often in a row it has ended already.
        """
        self.down.pop(what, None)
        self._timers.pop(what, None)
        began = self._clock()
        task = asyncio.create_task(work(), name=f"gc_bootstrap pool {self._name}: {what}")
        self._tasks[what] = task

        # A callback and no second task: nothing can cancel it.
        def ended(task: asyncio.Task[None]) -> None:
            if self._closed or not (task.cancelled() or task.exception()):
                return
            again = 1 if self._clock() - began > self._steady else ends + 1
            self._restart(what, work, task, again)

        task.add_done_callback(ended)

    def runs(self, what: str) -> bool:
        """Whether a task runs, or is about to be started anew."""
        task = self._tasks.get(what)
        return what in self._timers or (task is not None and not task.done())

    async def close(self) -> None:
        """Cancel all tasks, and wait for them. May be called more than once."""
        self._closed = True
        for timer in self._timers.values():
            timer.cancel()
        tasks = [task for task in self._tasks.values() if not task.done()]
        for task in tasks:
            task.cancel()
        if tasks:
            _, left = await asyncio.wait(tasks, timeout=CLOSE_TIMEOUT)
            for task in left:
                logger.error("%s does not end although it is cancelled", task.get_name())

    def _restart(self, what: str, work: Work, task: asyncio.Task[None], ends: int) -> None:
        exc = None if task.cancelled() else task.exception()
        reason = "cancelled by somebody else" if exc is None else one_line(exc)
        delay = self._delay(ends)
        self.down[what] = f"{what} ended: {reason}"
        logger.error(
            "Pool %s: %s ended: %s; started anew in %.1f s",
            self._name,
            what,
            reason,
            delay,
            exc_info=exc,
        )
        loop = asyncio.get_running_loop()
        self._timers[what] = loop.call_later(delay, self.run, what, work, ends)
