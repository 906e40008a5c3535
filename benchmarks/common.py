"""What the benchmarks share: medians with their spread, tables, and processes that never stay."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from time import perf_counter, thread_time
from types import FrameType
from typing import Any

import aiohttp
import dask.config

from gc_bootstrap import Peer
from gc_bootstrap.discovery.local import LocalDiscovery

TERMINATE_TIMEOUT = 10.0
"""Seconds for a process to end when it is asked to."""

QUIET = ("distributed", "gc_bootstrap", "bokeh", "tornado", "asyncio")


class Times:
    """Durations of the same thing, measured several times.

    Parameters
    ----------
    seconds
        Each of them.
    """

    def __init__(self, seconds: Sequence[float] = ()) -> None:
        self.seconds = list(seconds)

    def add(self, seconds: float) -> None:
        """Take one more."""
        self.seconds.append(seconds)

    @property
    def median(self) -> float:
        """The one in the middle, in seconds."""
        return statistics.median(self.seconds)

    @property
    def range(self) -> tuple[float, float]:
        """The least and the most."""
        return min(self.seconds), max(self.seconds)

    def cells(self) -> list[str]:
        """Median, least, most (all in ms) and count, for :func:`table`."""
        figures = (self.median, *self.range)
        return [*(f"{1000 * s:,.1f}" for s in figures), str(len(self.seconds))]


TIMES_HEADER = ["median ms", "min", "max", "runs"]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows below one another, the first column to the left and all others to the right."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    for row in (header, *rows):
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        print("  ".join([row[0].ljust(widths[0]), *cells[1:]]), flush=True)


def verdict(good: bool) -> str:
    """How to say that a target is met; benchmarks say it and do not fail."""
    return "met" if good else "MISSED"


def begin() -> None:
    """Do what each benchmark does first: be quiet, and make SIGTERM end it as Ctrl-C does."""
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    dask.config.set({"distributed.admin.system-monitor.gil.enabled": False})

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)


def run(main: Callable[[], None]) -> None:
    """Run a benchmark; Ctrl-C ends it with everything that it started, and without a traceback."""
    begin()
    try:
        main()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


@contextmanager
def isolated() -> Iterator[Path]:
    """Keep to a temporary folder: registrations, scratch files, and no cookie from outside."""
    with tempfile.TemporaryDirectory(prefix="gc_bootstrap-benchmark-") as folder:
        os.environ["GC_BOOTSTRAP_RUNTIME_DIR"] = str(Path(folder, "runtime"))
        for name in ("GC_BOOTSTRAP_COOKIE", "GC_BOOTSTRAP_COOKIE_FILE"):
            os.environ.pop(name, None)
        dask.config.set({"temporary-directory": folder})
        os.environ["DASK_TEMPORARY_DIRECTORY"] = folder
        yield Path(folder)


@contextmanager
def process(*command: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Run a command in a process group of its own, and end the whole group afterwards."""
    child = subprocess.Popen(command, start_new_session=True, text=True, **options)
    try:
        yield child
    finally:
        try:
            child.terminate()
            child.wait(TERMINATE_TIMEOUT)
        except subprocess.TimeoutExpired:
            pass
        finally:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()


async def ready_agent(limit: float) -> Peer:
    """Wait until there is an agent on this host that says that it can be attached.

    Raises
    ------
    TimeoutError
        There is none within so many seconds.
    """
    discovery = LocalDiscovery()
    async with asyncio.timeout(limit), aiohttp.ClientSession() as session:
        while True:
            for peer in (await discovery.peers()).peers:
                async with session.get(f"http://{peer}/readyz") as answer:
                    if answer.status == 200:
                        return peer
            await asyncio.sleep(0.05)


def free_port() -> int:
    """A port that nobody listens on, below Linux' ephemeral ones: it stays free for a moment."""
    while True:
        port = random.randrange(20000, 32000)
        with socket.socket() as sock, suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port


def in_subprocess(script: str, *arguments: str) -> str:
    """Run a benchmark script once more, in a fresh process; return the last line it prints."""
    command = [sys.executable, script, *arguments]
    with process(*command, stdout=subprocess.PIPE) as child:
        output, _ = child.communicate()
    lines = output.strip().splitlines()
    if child.returncode or not lines:
        sys.exit(f"{' '.join(command)} ended with {child.returncode}")
    return lines[-1]


class Ticker:
    """Measures each uninterrupted stretch of an event loop, from the inside.

    Every callback and every step of a task runs in ``asyncio.Handle._run``; while the ticker is
    in use, that is timed. asyncio's debug mode does the same, but slows the loop down.
    """

    def __init__(self) -> None:
        self.longest = 0.0

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Time every stretch in this context; :attr:`longest` is the longest of them."""
        original = asyncio.Handle._run

        def timed(handle: asyncio.Handle) -> None:
            began = perf_counter()
            original(handle)
            self.longest = max(self.longest, perf_counter() - began)

        asyncio.Handle._run = timed  # type: ignore[method-assign,assignment]
        try:
            yield
        finally:
            asyncio.Handle._run = original  # type: ignore[method-assign]


class BothClocks(Ticker):
    """Measures stretches of the event loop by the clock, and by the processor time in them."""

    def __init__(self) -> None:
        super().__init__()
        self.longest_cpu = 0.0

    @contextmanager
    def watching(self) -> Iterator[None]:
        """As the ticker's, and :attr:`longest_cpu` besides."""
        with super().watching():
            timed = asyncio.Handle._run

            def both(handle: asyncio.Handle) -> None:
                began = thread_time()
                timed(handle)
                self.longest_cpu = max(self.longest_cpu, thread_time() - began)

            asyncio.Handle._run = both  # type: ignore[method-assign,assignment]
            yield

    def take(self) -> tuple[float, float]:
        """The longest of both, and begin anew."""
        taken = self.longest, self.longest_cpu
        self.longest = self.longest_cpu = 0.0
        return taken
