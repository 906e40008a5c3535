"""Every test runs isolated, and leaves nothing behind: no task, thread, process, socket or file."""

from __future__ import annotations

import asyncio
import copy
import gc
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path

import dask.config
import psutil
import pytest
from blockbuster import blockbuster_ctx
from hypothesis import HealthCheck, settings
from pytest_asyncio import is_async_test

from tests.zygote import zygote

SETTLE = 5.0
"""Seconds that what a test has closed may take to be gone: processes have to be reaped."""

CHAOS_START, CHAOS_SEEDS = 67, 2
"""The seeds of a plain run; see ``tests/chaos/test_schedule.py`` for what they have to cover."""

# Nothing in wall time: with the machine busy, the plainest example can be late.
settings.register_profile(
    "gc_bootstrap", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("gc_bootstrap")

# One per process, made on first use and kept until its end; none of them is this project's.
_LASTING_THREADS = ("Dask-Offload", "watch message queue", "Profile", "asyncio_")
_LASTING_PROCESSES = (
    *("multiprocessing.resource_tracker", "multiprocessing.forkserver"),
    "kube-apiserver",  # killed and started by a test, ended with the others by tests/e2e
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of `tests/chaos`: pytest looks for them in this file only."""
    group = parser.getgroup("chaos")
    group.addoption("--chaos-seeds", type=int, default=CHAOS_SEEDS, metavar="N", help="how many")
    group.addoption("--chaos-start", type=int, default=CHAOS_START, metavar="S", help="the first")


def pytest_collection_finish() -> None:
    """Spare the garbage collector what was there before the first test and stays to the last."""
    gc.collect()
    gc.freeze()


def pytest_xdist_auto_num_workers() -> int:
    """How many processes ``-n auto`` is: tests wait for others more than they compute."""
    return 2 * (os.cpu_count() or 1)


def _threads() -> set[str]:
    return {
        f"thread {thread.name}"
        for thread in threading.enumerate()
        if thread.is_alive() and not any(name in thread.name for name in _LASTING_THREADS)
    }


def _children() -> Iterator[int]:
    """This process' children and theirs; psutil would go through every process of the machine."""
    waiting = [os.getpid()]
    while waiting:
        for listed in Path(f"/proc/{waiting.pop()}/task").glob("*/children"):
            with suppress(OSError):
                children = [int(pid) for pid in listed.read_text().split()]
                waiting += children
                yield from (pid for pid in children if pid != _zygote())


def _zygote() -> int:
    """The process that lasts as long as the tests do, and whose children do not."""
    return zygote().pid if zygote.cache_info().currsize else 0


def _processes() -> set[str]:
    found = set()
    for pid in _children():
        try:
            child = psutil.Process(pid)
            command = " ".join(child.cmdline())
            if child.status() == psutil.STATUS_ZOMBIE:
                continue
        except psutil.NoSuchProcess:
            continue
        if not any(name in command for name in _LASTING_PROCESSES):
            found.add(f"process {child.pid}: {command}")
    return found


def _sockets() -> set[str]:
    found = set()
    for fd in Path("/proc/self/fd").iterdir():
        try:
            target = os.readlink(fd)
        except OSError:
            continue
        if target.startswith("socket:"):
            found.add(f"{target} (fd {fd.name})")
    return found


def _new(look: Callable[[], set[str]], before: set[str]) -> set[str]:
    deadline = time.monotonic() + SETTLE
    while (new := look() - before) and time.monotonic() < deadline:
        time.sleep(0.02)
    return new


@pytest.fixture
def runtime_dir(tmp_path: Path) -> Path:
    """The runtime folder of this test's agents."""
    return tmp_path / "runtime"


@pytest.fixture(autouse=True)
def nothing_left(
    tmp_path: Path, runtime_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Isolate the test, and fail it if it leaves something behind."""
    for name in list(os.environ):
        if name.startswith(("GC_BOOTSTRAP_", "DASK_")) and name != "GC_BOOTSTRAP_REQUIRE":
            monkeypatch.delenv(name)
    monkeypatch.setenv("GC_BOOTSTRAP_RUNTIME_DIR", str(runtime_dir))
    monkeypatch.setenv("DASK_TEMPORARY_DIRECTORY", str(tmp_path))
    config = copy.deepcopy(dask.config.config)
    dask.config.set({"temporary-directory": str(tmp_path)})
    looks = (_threads, _processes, _sockets)
    before = [look() for look in looks]
    yield
    left = set().union(*(_new(look, seen) for look, seen in zip(looks, before, strict=True)))
    dask.config.config.clear()
    dask.config.config.update(config)
    if runtime_dir.exists():
        left |= {f"registration {path}" for path in runtime_dir.iterdir()}
    assert not left, "left behind: " + "; ".join(sorted(left))


@pytest.fixture(autouse=True, scope="session")
def nothing_blocks_the_loop() -> Iterator[None]:
    """Fail where what runs in a scheduler blocks its event loop.

    Not the agent: blocking calls of Dask's own that it leads to (a Worker makes its folders) would
    count as its own.
    """
    scheduler_side = ["scheduler", "pool", "discovery", "dist", "wire.messages", "wire.tokens"]
    with blockbuster_ctx([f"gc_bootstrap.{module}" for module in scheduler_side]) as blocking:
        for function in blocking.functions.values():
            # The garbage of a Worker of Dask's, which happens to be collected in a turn of ours.
            function.can_block_in("distributed/diskutils.py", "_finalize")
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the tests that have an event loop, and only them, a fixture that needs one."""
    for item in items:
        if isinstance(item, pytest.Function) and is_async_test(item):
            item.fixturenames.insert(item.fixturenames.index("nothing_left") + 1, "no_task_left")


@pytest.fixture
async def no_task_left() -> AsyncIterator[None]:
    """Fail the test if a task that it started is still pending."""
    before = asyncio.all_tasks()
    yield
    deadline = time.monotonic() + SETTLE
    while (left := asyncio.all_tasks() - before - {asyncio.current_task()}) and (
        time.monotonic() < deadline
    ):
        await asyncio.sleep(0.01)
    assert not left, f"tasks left behind: {left}"
