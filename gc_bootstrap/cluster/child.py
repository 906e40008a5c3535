"""A process that ends with the one that has started it: ``python -m gc_bootstrap.cluster.child``.

Its standard input is a pipe from there: first comes what to do, and then nothing, until the pipe is
closed, by whatever the other process ends (SIGKILL, a crash, the kernel's out-of-memory killer).
The pipe is inherited by nobody. Linux' ``PR_SET_PDEATHSIG`` would do the same on Linux only, and
signals the end of the *thread* that has started the process; a group or session does not help, for
nobody signals it when its leader's parent is killed.

What to do comes by that pipe and not by the command line, which every user of the host can read.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import pickle
import runpy
import signal
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

GRACE = 10.0
"""Seconds to end in good order once the other process is gone; then all of the group is killed."""
_LENGTH = 8


def pack(task: Mapping[str, Any]) -> bytes:
    """A task as it is sent to :func:`main`.

    Parameters
    ----------
    task
        ``config`` (all of Dask's), and either ``arguments`` of the command ``dask`` or
        ``overrides`` and ``scheduler`` for :func:`_serve`.

    Raises
    ------
    Exception
        Something in it is of this process only; whatever cloudpickle raises then.
    """
    import cloudpickle

    content: bytes = cloudpickle.dumps(dict(task))
    return len(content).to_bytes(_LENGTH, "little") + content


def main() -> None:
    """Do what the standard input says, for as long as it is open."""
    pipe = os.dup(0)  # not inherited, other than the standard input, which is read no more
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    # From whoever has started this process, by a pipe that nobody else has.
    task = pickle.loads(_read(pipe, int.from_bytes(_read(pipe, _LENGTH), "little")))  # noqa: S301
    threading.Thread(target=_end_with, args=(pipe,), daemon=True, name="parent").start()
    import dask.config

    dask.config.config.clear()
    dask.config.config.update(task["config"])
    if "arguments" in task:
        sys.argv = ["dask", *task["arguments"]]
        runpy.run_module("dask", run_name="__main__", alter_sys=True)
    else:
        asyncio.run(_serve(task["overrides"], task["scheduler"]))


def _read(pipe: int, count: int) -> bytes:
    found = b""
    while len(found) < count:
        more = os.read(pipe, count - len(found))
        if not more:
            sys.exit(1)  # it has ended before it has said what to do
        found += more
    return found


def _end_with(pipe: int) -> None:
    """Wait for the end of the pipe, and end this process and all that it has started.

    In a thread of its own, which may block: the event loop, or a task, may hang.
    """
    while os.read(pipe, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os.killpg(0, signal.SIGKILL)


async def _serve(overrides: Mapping[str, Any], arguments: Mapping[str, Any]) -> None:
    """Run a scheduler with pools until it is closed or this process gets a SIGTERM."""
    from distributed import Scheduler

    from gc_bootstrap.errors import ConfigError
    from gc_bootstrap.logs import log_like_distributed
    from gc_bootstrap.scheduler.leaving import LeavingPlugin

    log_like_distributed()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    plugin = LeavingPlugin.unchecked(**overrides)
    try:
        scheduler = await Scheduler(**arguments)
        try:
            await scheduler.register_scheduler_plugin(plugin, idempotent=False)
            _answer({"address": scheduler.address})
            ends = [asyncio.create_task(wait()) for wait in (scheduler.finished, stop.wait)]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            for end in ends:
                end.cancel()
            await asyncio.gather(*ends, return_exceptions=True)
        finally:
            await plugin.leave(scheduler)
    except ConfigError as exc:
        _answer({"problems": exc.problems})
    except Exception as exc:
        logging.getLogger(__name__).exception("The scheduler does not start")
        _answer({"error": f"{type(exc).__name__}: {exc}"})


def _answer(answer: Mapping[str, Any]) -> None:
    """Say one line to the process that has started this one."""
    os.write(1, json.dumps(answer).encode() + b"\n")


if __name__ == "__main__":
    main()
