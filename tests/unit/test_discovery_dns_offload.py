"""The thread: what it is given ends in time, and nothing of it is left."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from gc_bootstrap.discovery.dns.offload import Offload, Pause, TooLateError


def soon(seconds: float = 5.0) -> float:
    return asyncio.get_running_loop().time() + seconds


async def test_it_runs_in_another_thread() -> None:
    offload = Offload()
    assert await offload.run(lambda _: threading.current_thread(), soon()) is not (
        threading.current_thread()
    )
    await offload.close()


async def test_errors_are_the_callers() -> None:
    offload = Offload()

    def fail(pause: Pause) -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        await offload.run(fail, soon())
    await offload.close()


async def test_work_ends_when_its_time_is_over() -> None:
    offload = Offload()
    ended = threading.Event()

    def endless(pause: Pause) -> None:
        try:
            while True:
                pause()
        finally:
            ended.set()

    with pytest.raises(TooLateError):
        await offload.run(endless, soon(0.05))
    assert await asyncio.to_thread(ended.wait, 5)
    assert await offload.run(lambda _: 5, soon()) == 5, "the thread is free again"
    await offload.close()


async def test_close_ends_what_runs_and_may_be_called_twice() -> None:
    offload = Offload()
    started = threading.Event()

    def endless(pause: Pause) -> None:
        started.set()
        while True:
            pause()

    task = asyncio.create_task(offload.run(endless, soon(3600)))
    assert await asyncio.to_thread(started.wait, 5)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await asyncio.wait_for(offload.close(), 5)
    await offload.close()


async def test_a_pause_lets_the_event_loop_run() -> None:
    """While the thread computes, the loop's callbacks come in between: many, not a few."""
    offload = Offload()
    turns = 0

    def compute(pause: Pause) -> None:
        until = time.monotonic() + 0.3
        while time.monotonic() < until:
            sum(range(5000))
            pause()

    task = asyncio.create_task(offload.run(compute, soon()))
    while not task.done():
        await asyncio.sleep(0)
        turns += 1
    await task
    assert turns > 50
    await offload.close()


async def test_without_work_there_is_no_thread() -> None:
    before = threading.active_count()
    offload = Offload()
    assert threading.active_count() == before
    await offload.close()
