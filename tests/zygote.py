"""A process that has Dask imported, and forks every `dask …` command that a test starts.

What a command does is the same; it is only spared the second that importing takes, which would be
most of the time of all tests together. Started once per test process, and ended with it. Commands
whose environment matters to the interpreter itself are started as any other process.
"""

from __future__ import annotations

import asyncio
import atexit
import gc
import importlib
import json
import logging
import os
import runpy
import select
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

IMPORTED = (
    "dask.cli",
    "distributed.cli.dask_scheduler",
    "distributed.http.scheduler.info",
    "gc_bootstrap.cli.agent",
    "gc_bootstrap.cli.peers",
    "gc_bootstrap.cli.status",
    "gc_bootstrap.discovery.kubernetes",
    "gc_bootstrap.preload",
    "gc_bootstrap.scheduler.dask",
)
EXIT_POLL = 0.01


# -- in the process of the tests -------------------------------------------------------------------


class Forked:
    """A process that the zygote has forked, with as much of asyncio's ``Process`` as is used."""

    def __init__(self, zygote: Zygote, pid: int) -> None:
        self.pid = pid
        self._zygote = zygote
        self._code: int | None = None
        # Nobody reaps it before it is asked for its exit code: the number stays its own.
        self._pidfd: int = os.pidfd_open(pid)

    @property
    def returncode(self) -> int | None:
        """Exit code, once it has ended."""
        if self._code is None and select.select([self._pidfd], [], [], 0)[0]:
            self._code = int(self._zygote.ask({"reap": self.pid}))
            os.close(self._pidfd)
        return self._code

    async def wait(self) -> int:
        """Wait for its end."""
        while (code := self.returncode) is None:
            await asyncio.sleep(EXIT_POLL)
        return code


class Zygote:
    """The process that forks; get it with :func:`zygote`."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env={k: v for k, v in os.environ.items() if not k.startswith(("DASK_", "GC_BOOT"))},
        )
        self.pid = self._process.pid
        atexit.register(self._end)

    def ask(self, request: Mapping[str, Any]) -> Any:
        """Have it do something, and return its answer; it takes milliseconds."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        return json.loads(self._process.stdout.readline())

    def start(
        self, arguments: Sequence[str], environ: Mapping[str, str], out: Path, err: Path
    ) -> Forked:
        """Start ``dask ARGUMENTS`` in a session of its own."""
        request = {
            "arguments": list(arguments),
            "environ": dict(environ),
            "cwd": os.getcwd(),
            "out": str(out),
            "err": str(err),
        }
        return Forked(self, int(self.ask(request)))

    def _end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(10)


@cache
def zygote() -> Zygote:
    """The zygote of this process."""
    return Zygote()


def is_plain(environ: Mapping[str, str]) -> bool:
    """Whether all variables are such that count only when a command looks at them."""
    looked_at = (
        *("DASK_GC_BOOTSTRAP__", "DASK_DISTRIBUTED__SCHEDULER__", "DASK_CONFIG", "GC_BOOTSTRAP_"),
        *("NO_COLOR", "FORCE_COLOR", "COLUMNS", "TMPDIR", "PYTHONPATH"),
    )
    return all(name.startswith(looked_at) for name in environ)


# -- in the zygote ---------------------------------------------------------------------------------


def _serve() -> None:
    """Fork and reap as asked; returns in each child, and in the zygote when nobody asks more."""
    for line in sys.stdin:
        request = json.loads(line)
        if "reap" in request:
            _, status = os.waitpid(request["reap"], 0)
            answer = os.waitstatus_to_exitcode(status)
        else:
            answer = os.fork()
            if answer == 0:
                _become(request)
                runpy.run_module("dask", run_name="__main__", alter_sys=True)
                return
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()


def _become(request: Mapping[str, Any]) -> None:
    """Make a freshly forked child what a newly started process would be."""
    os.setsid()
    streams = [(os.devnull, os.O_RDONLY), *((request[k], os.O_WRONLY) for k in ("out", "err"))]
    for number, (path, mode) in enumerate(streams):
        fd = os.open(path, mode | (os.O_CREAT | os.O_APPEND if number else 0), 0o644)
        os.dup2(fd, number)
        os.close(fd)
    os.environ.clear()
    os.environ.update(request["environ"])
    os.chdir(request["cwd"])
    more = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:1] = [request["cwd"], *filter(None, more)]
    sys.argv = ["dask", *request["arguments"]]
    tempfile.tempdir = None
    for logger in logging.root.manager.loggerDict.values():
        if isinstance(logger, logging.Logger):
            logger.handlers.clear()
    config = importlib.import_module("dask.config")
    config.paths[:] = config._get_paths()
    config.refresh()
    importlib.import_module("distributed.config").initialize_logging(config.config)


if __name__ == "__main__":
    for name in IMPORTED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # what has been imported is not looked through again in every child
    _serve()
