"""Child processes that are really gone in the end, whatever happens to their parent's code."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

STOP_TIMEOUT = 15.0
"""Seconds for a process to end after SIGTERM; then its whole group is killed."""
POLL = 0.05


class ProcessGroup:
    """One ``dask …`` command in a session of its own, with everything that it starts.

    A session of its own keeps a Ctrl-C in the terminal from it: its parent decides.

    Parameters
    ----------
    arguments
        Of ``dask``.
    log
        File that gets its output.
    environ
        Its environment.
    """

    def __init__(self, arguments: Sequence[str], log: Path, environ: Mapping[str, str]) -> None:
        self.arguments = tuple(arguments)
        self.log = log
        self._environ = dict(environ)
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start it."""
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "dask",
                *self.arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environ,
                start_new_session=True,
            )

    @property
    def ended(self) -> bool:
        """Whether the command itself has ended, asked or not."""
        return self.returncode is not None

    @property
    def pid(self) -> int | None:
        """Process id of the command, and id of its group."""
        return self._process.pid if self._process is not None else None

    @property
    def returncode(self) -> int | None:
        """Exit code, once it has ended."""
        return self._process.returncode if self._process is not None else None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the command itself."""
        if self._process is not None and not self.ended:
            # Not Process.send_signal: it may reap the process behind asyncio's back, and then its
            # exit code is lost.
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, number)

    async def wait(self) -> int:
        """Wait for the command itself to end, and return its exit code."""
        assert self._process is not None, "start() comes first"
        return await self._process.wait()

    async def stop(self) -> None:
        """Ask it to end, and see to it that nothing of it is left. May be called more than once."""
        if self._process is None:
            return
        self.signal(signal.SIGTERM)
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_TIMEOUT):
                await self._process.wait()
                await _gone(self._process.pid)
        self.kill()
        await self._process.wait()

    def kill(self) -> None:
        """Kill all of it, now."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def tail(self, lines: int = 15) -> str:
        """The end of its output."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])


async def _gone(group: int) -> None:
    """Wait until a process group has no process any more."""
    while _alive(group):
        await asyncio.sleep(POLL)


def _alive(group: int) -> bool:
    """Whether a process of the group runs. Zombies do not: who reaps those is init's business."""
    for process in psutil.process_iter():
        with suppress(ProcessLookupError, psutil.NoSuchProcess):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                return True
    return False
