"""The wall: every private or undocumented name of ``distributed`` that the cluster class uses.

Dask documents what users do with a ``Cluster``, and that one is made by subclassing; how its start,
end, logs and widget hang together is not documented. :data:`NEEDS` names what is used, and
``tests/unit/test_private_dask.py`` holds it against the Dask that is installed.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures.thread  # noqa: F401 - registers its own end; ours is to come before it
import os
import threading
from abc import abstractmethod
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, suppress
from typing import Any, Self
from weakref import WeakSet

from distributed.core import Status as Status
from distributed.core import rpc
from distributed.deploy import Cluster  # type: ignore[attr-defined]  # it does not say "as Cluster"
from distributed.exceptions import WorkerStartTimeoutError as WorkerStartTimeoutError
from distributed.objects import SchedulerInfo
from distributed.utils import Log, Logs, silence_logging_cmgr

_CLUSTER = "distributed.deploy:Cluster"
_Cluster: Any = Cluster  # not annotated

NEEDS = (
    ("distributed.core", "Status", "2.11.0", "a cluster says whether it runs"),
    (
        "distributed.exceptions",
        "WorkerStartTimeoutError",
        "2025.9.1",
        "waiting says what is amiss",
    ),
    ("distributed.objects", "SchedulerInfo", "2021.6.1", "a cluster knows its workers"),
    ("distributed.utils", "Log", "2.2.0", "logs of processes that a cluster has started"),
    ("distributed.utils", "Logs", "2.2.0", "logs of processes that a cluster has started"),
    ("distributed.utils", "silence_logging_cmgr", "2023.4.1", "silence_logs"),
    (_CLUSTER, "_start", "2.3.0", "a cluster connects to its scheduler"),
    (_CLUSTER, "_close", "2.3.0", "a cluster leaves its scheduler"),
    (_CLUSTER, "_get_logs", "2.12.0", "logs of processes that a cluster has started"),
    (_CLUSTER, "_cluster_info", "2021.9.1", "a cluster of a scheduler elsewhere has its name"),
    (_CLUSTER, "_loop_runner", "2021.12.0", "a cluster without asynchronous=True has a loop"),
    (_CLUSTER, "_adaptive", "2.0.0", "what adapt() was last given"),
    (_CLUSTER, "_wait_for_workers", "2023.4.1", "waiting says what is amiss"),
    (_CLUSTER, "_scaling_status", "2021.6.1", "the widget says how many agents are wanted"),
    (_CLUSTER, "_cluster_manager_logs", "2.25.0", "the cluster's own log"),
    (_CLUSTER, "called_from_running_loop", "2023.6.1", "a cluster is started where it is made"),
)
"""Where, which name, since which version of ``distributed``, and what does not work without it."""

_ALIVE: WeakSet[ManagedCluster] = WeakSet()

EXIT_TIMEOUT = 10.0
"""Seconds that closing may take when Python ends."""


class ManagedCluster(_Cluster):  # type: ignore[misc]
    """A cluster that starts and ends something, whatever happens meanwhile.

    Subclasses say what. Without ``asynchronous`` it runs in a thread of its own and is started when
    it has been made; with it, when it is awaited or entered. It ends with :meth:`close`, at the
    latest with the interpreter.

    Parameters
    ----------
    asynchronous, loop, quiet, name
        As :class:`distributed.deploy.Cluster` has them.
    silence_logs
        Level below which Dask's and this package's log lines do not get to the terminal meanwhile;
        False leaves them alone.
    """

    def __init__(
        self,
        *,
        asynchronous: bool,
        loop: Any,
        quiet: bool,
        name: str | None,
        silence_logs: int | str | bool,
    ) -> None:
        self.status: Status = Status.created
        self.quiet: bool = quiet
        self._turn = asyncio.Lock()
        self._adaptive: Any = None
        self._silenced = ExitStack()
        try:
            super().__init__(asynchronous=asynchronous, loop=loop, quiet=quiet, name=name)
        except BaseException:
            self.status = Status.closed  # there is nothing to be closed
            raise
        if silence_logs:
            for root in ("distributed", "bokeh"):
                # Our lines go where those of distributed go.
                self._silenced.enter_context(silence_logging_cmgr(silence_logs, root))
        _ALIVE.add(self)
        if not self.called_from_running_loop:
            self._loop_runner.start()
            try:
                self.sync(self._start)
            except BaseException:
                # Also where Ctrl-C has ended only the waiting for it.
                self.sync(self._close)
                self._loop_runner.stop()
                raise

    @property
    @abstractmethod
    def is_its_own(self) -> bool:
        """Whether the scheduler is there for this cluster."""

    @abstractmethod
    async def launch(self) -> rpc:
        """Start all there is to start, and return the way to the scheduler."""

    @abstractmethod
    async def launched(self) -> None:
        """Do what is to be done once the cluster knows its scheduler."""

    @abstractmethod
    async def leave(self) -> None:
        """End all that was started, however far :meth:`launch` came. Has its own deadline."""

    @abstractmethod
    async def settled(self) -> None:
        """Wait until what has been asked for is under way."""

    @abstractmethod
    def why_gone(self) -> str:
        """Why the scheduler need not be asked; empty where it may answer."""

    @abstractmethod
    def process_logs(self) -> Mapping[str, str]:
        """What processes of the cluster have said."""

    # -- start and end ---------------------------------------------------------------------------

    async def _start(self) -> None:
        async with self._turn:
            if self.status is Status.running:
                return
            if self.status is not Status.created:
                raise ValueError("Cluster is closed")
            self.status = Status.starting
            try:
                self.scheduler_comm = await self.launch()
                await (super()._start() if self.is_its_own else self._start_as_a_guest())
                await self.launched()
            except BaseException:
                self.status = Status.failed
                await self._end()
                raise

    async def _start_as_a_guest(self) -> None:
        """Do what Dask does at a start, but nothing that a cluster which is there already notices.

        A scheduler tells one cluster of its workers, the last one that has asked (distributed
        2026.8), and knows one cluster's name.
        """
        known = await self.scheduler_comm.get_metadata(keys=["cluster-manager-info"], default={})
        self._cluster_info.update(known)
        await self.look_at_workers()
        for callback in self.periodic_callbacks.values():
            callback.start()
        self.status = Status.running

    async def look_at_workers(self) -> None:
        """Ask the scheduler who its workers are, where it does not tell by itself."""
        if not self.is_its_own:
            self.scheduler_info = SchedulerInfo(await self.scheduler_comm.identity())

    async def _close(self) -> None:
        async with self._turn:
            await self._end()

    async def _end(self) -> None:
        if self.status is Status.closed:
            return
        was_started = self.status is not Status.created
        self.status = Status.closing
        try:
            if was_started:
                await self.leave()
        finally:
            self._adaptive = None  # Dask would stop one of its own
            self._silenced.close()
            # The scheduler may have ended in the middle of a word.
            with suppress(OSError):
                await super()._close()
            self.status = Status.closed

    def close(self, timeout: float | None = None) -> Any:
        """Let all agents go and end what the cluster has started. May be called more than once.

        Parameters
        ----------
        timeout
            Seconds to wait for it.

        Returns
        -------
        awaitable or None
            To be awaited where the cluster is asynchronous.
        """
        closing = super().close(timeout)
        if not self.asynchronous:
            self._loop_runner.stop()
        return closing

    def __await__(self) -> Generator[Any, Any, Self]:
        async def started() -> Self:
            await self._start()
            await self.settled()
            return self

        return started().__await__()

    # -- what it tells ---------------------------------------------------------------------------

    def note(self, line: str) -> None:
        """Keep a line for the cluster's part of :meth:`get_logs`."""
        before, self.quiet = self.quiet, True
        self._log(line)
        self.quiet = before

    async def _get_logs(
        self, cluster: bool = True, scheduler: bool = True, workers: Any = True
    ) -> Logs:
        # A scheduler that has ended says no more; what it has said is what is looked for.
        gone = self.why_gone()
        if not gone:
            try:
                logs = await super()._get_logs(cluster, scheduler, workers)
            except OSError as exc:
                gone = f"cannot be asked: {exc}"
        if gone:
            logs = await super()._get_logs(cluster, scheduler=False, workers=False)
            logs["Scheduler"] = Log(gone)
        for process, text in self.process_logs().items():
            if scheduler if process.startswith("Scheduler") else cluster:
                logs[process] = Log(text)
        assert isinstance(logs, Logs)
        return logs

    async def watched(self, n_workers: int, timeout: Any) -> None:
        """Wait for workers, as Dask does.

        Raises
        ------
        WorkerStartTimeoutError
            There are fewer when the time is over.
        """
        await super()._wait_for_workers(n_workers, timeout)


def at_exit(function: Callable[[], None]) -> None:
    """Call something when Python ends, while there are still threads to be had.

    A plain ``atexit`` comes after ``concurrent.futures`` has shut its threads down, without which
    asyncio resolves no name and reads no file.
    """
    register = getattr(threading, "_register_atexit", atexit.register)
    register(function)


def _close_all(made_in: int = os.getpid()) -> None:
    # What this process has forked has the objects, and nothing of what they stand for.
    for cluster in list(_ALIVE) if os.getpid() == made_in else ():
        if cluster.status not in (Status.closed, Status.failed):
            with suppress(TimeoutError):
                cluster.close(timeout=EXIT_TIMEOUT)


at_exit(_close_all)
