"""Warming up: a forkserver with everything imported, so that a worker starts in about 0.1 s."""

from __future__ import annotations

import asyncio
import atexit
import importlib
import multiprocessing
import os
import re
import signal
import sys
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from multiprocessing.connection import Connection

import dask.config

from gc_bootstrap.agent import preimport
from gc_bootstrap.agent._dask import get_mp_context
from gc_bootstrap.errors import ConfigError, one_line, os_reason

FORKSERVER = {"distributed.worker.multiprocessing-method": "forkserver"}
PROBE_TIMEOUT = 120.0
"""Seconds for the forkserver to start and import everything; a cold disk and pandas take long."""

_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*\Z")


async def warm_up(required: Iterable[str], welcome: Iterable[str]) -> None:
    """Start this process' forkserver and have it import what workers will need.

    Sets Dask's ``multiprocessing-method`` for this process, and ``pre-spawn-environ`` in its
    environment: variables such as ``MALLOC_TRIM_THRESHOLD_`` count only if they are there before
    the forkserver is.

    Parameters
    ----------
    required
        Modules that have to be importable (``--import``).
    welcome
        Modules to import if that works (``--preload``); workers report what is wrong with them.
        Files, URLs and script texts are passed over.

    Raises
    ------
    ConfigError
        A required module cannot be imported, or the forkserver did not come up.
    """
    required = list(required)
    # What a worker imports at its start, beyond `distributed` itself: half a second with bokeh.
    routes = dask.config.get("distributed.worker.http.routes")
    welcome = [*routes, "distributed.dashboard.worker", *welcome]
    names = [*required, *(name for name in welcome if _MODULE.match(name))]
    dask.config.set(FORKSERVER)
    before_spawn = dask.config.get("distributed.nanny.pre-spawn-environ")
    for name, value in before_spawn.items():
        if value is not None:
            os.environ.setdefault(name, str(value))
    # What a Nanny sets for its workers; hashes have to be the same in all of them
    # (distributed/nanny.py, https://github.com/dask/distributed/pull/8400).
    if os.environ.get("PYTHONHASHSEED") in (None, "0"):
        os.environ["PYTHONHASHSEED"] = "6640"
    os.environ[preimport.VARIABLE] = f"{os.getpid()}:{','.join(names)}"
    atexit.register(_kill_workers)
    failures = await asyncio.to_thread(_start_forkserver)
    problems = [f"--import {name}: {failures[name]}" for name in required if name in failures]
    if problems:
        raise ConfigError(problems)


def _start_forkserver() -> dict[str, str]:
    """Fork one child; its first words are what could not be imported."""
    context = get_mp_context()  # makes the list of what Dask itself preloads
    assert isinstance(context, multiprocessing.context.ForkServerContext)
    # Dask sets its list with set_forkserver_preload, which has no counterpart to add to it.
    server = multiprocessing.forkserver._forkserver  # type: ignore[attr-defined]  # noqa: SLF001
    preloaded = server._preload_modules  # noqa: SLF001
    if preimport.__name__ not in preloaded:
        # First of all, so that a signal to the whole group does not end it while it imports.
        context.set_forkserver_preload(
            [preimport.__name__, *preloaded, "gc_bootstrap.agent.workers"]
        )
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_report, args=(theirs,), name="gc_bootstrap warm-up")
    try:
        process.start()
    except OSError as exc:
        # Its socket is in a folder that has to be writable; a path has at most 108 bytes (unix(7)).
        ours.close()
        theirs.close()
        folder = tempfile.gettempdir()
        raise ConfigError(
            f"warming up: no forkserver in {folder} (TMPDIR): {os_reason(exc)}"
        ) from exc
    theirs.close()
    try:
        if not ours.poll(PROBE_TIMEOUT):
            raise ConfigError(f"warming up: no answer within {PROBE_TIMEOUT:g} s")
        failures: dict[str, str] = ours.recv()
        return failures
    except EOFError:
        raise ConfigError("warming up: the first process died; see its traceback above") from None
    finally:
        ours.close()
        process.join(5)
        if process.exitcode is None:
            process.kill()
            process.join()
        process.close()


def stop_forkserver() -> None:
    """Kill the forkserver, wherever it is in its imports."""
    module = sys.modules.get("multiprocessing.forkserver")
    # Python has no public name for it.
    pid = module._forkserver._forkserver_pid if module is not None else None  # noqa: SLF001
    if pid is not None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _kill_workers() -> None:
    """End workers that are left when this process ends in a hurry.

    At exit ``multiprocessing`` sends them SIGTERM, which they leave to the agent, and waits.
    """
    for process in multiprocessing.active_children():
        process.kill()


def _report(connection: Connection) -> None:
    connection.send(preimport.FAILURES)
    connection.close()


async def import_here(required: Iterable[str]) -> None:
    """Import modules into this process: with ``--no-nanny`` it is the worker's.

    Raises
    ------
    ConfigError
        One cannot be imported.
    """
    problems = []
    for name in required:
        try:
            await asyncio.to_thread(importlib.import_module, name)
        except Exception as exc:
            problems.append(f"--import {name}: {one_line(exc)}")
    if problems:
        raise ConfigError(problems)
