"""A thread of the discovery's own, for what blocks or takes long. The event loop is for others."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")
Pause = Callable[[], None]

REST = 0.0001
"""Seconds that the thread sleeps at each pause, so that the event loop runs. Without, Python makes
that wait for up to 5 ms (``sys.getswitchinterval``) whenever it has let go of the lock."""


class TooLateError(Exception):
    """The time was over before the work was done."""


class Offload:
    """One thread, made when it is first needed.

    Not ``asyncio.to_thread``: the loop's own threads are the whole scheduler's, and all of them
    may be waiting for something, such as the system's resolver.
    """

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="gc_bootstrap-dns")
        self._closed = threading.Event()
        self._jobs: set[Future[Any]] = set()

    async def run(self, function: Callable[[Pause], T], until: float) -> T:
        """Run something in the thread.

        Parameters
        ----------
        function
            Gets a function to be called every millisecond or so, which ends it by an exception
            when the time is over.
        until
            When that is, on the event loop's clock.

        Raises
        ------
        TooLateError
            It did not return in time.
        """
        left = until - asyncio.get_running_loop().time()
        end = time.monotonic() + left

        def pause() -> None:
            if self._closed.is_set() or time.monotonic() > end:
                raise TooLateError
            time.sleep(REST)

        job = self._executor.submit(function, pause)
        self._jobs.add(job)
        try:
            async with asyncio.timeout(left):
                return await asyncio.wrap_future(job)
        except TimeoutError:
            raise TooLateError from None
        finally:
            self._jobs = {job for job in self._jobs if not job.done()}

    async def close(self) -> None:
        """End the thread; what it does ends at its next pause. May be called more than once."""
        self._closed.set()
        self._executor.shutdown(wait=False, cancel_futures=True)
        running = [asyncio.wrap_future(job) for job in self._jobs if not job.done()]
        if running:
            await asyncio.wait(running)
            for job in running:
                job.cancelled() or job.exception()  # nobody else looks at it any more
