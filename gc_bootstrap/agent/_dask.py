"""The wall: every private or undocumented name of ``distributed`` that the agent's side uses.

Documented is what Dask's own pages list: ``Worker``, ``Nanny`` and ``Server`` with those of their
members that have a docstring, the plugins, ``rpc``, ``Security`` and the comms. All else may change
with any version; it is used here and nowhere else. :data:`NEEDS` names it, and
``tests/unit/test_private_dask.py`` holds it against the Dask that is installed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import click
from distributed import Nanny, Worker
from distributed._signals import wait_for_signals
from distributed.cli import dask_worker
from distributed.comm.addressing import get_address_host_port, parse_host_port
from distributed.comm.registry import get_backend
from distributed.compatibility import asyncio_run
from distributed.config import get_loop_factory
from distributed.core import Server, Status
from distributed.deploy.utils import nprocesses_nthreads
from distributed.nanny import WorkerProcess
from distributed.preloading import _import_module, is_webaddress
from distributed.proctitle import enable_proctitle_on_children, enable_proctitle_on_current
from distributed.protocol.pickle import dumps
from distributed.utils import (
    clean_dashboard_address,
    get_ip_interface,
    get_mp_context,
    import_term,
)
from distributed.versions import get_versions
from distributed.worker_memory import parse_memory_limit as _parse_memory_limit

from gc_bootstrap.errors import one_line

logger = logging.getLogger(__name__)

__all__ = [
    "NEEDS",
    "HookedNanny",
    "Status",
    "add_startup_information",
    "add_stream_handler",
    "asyncio_run",
    "beside_the_worker",
    "clean_dashboard_address",
    "close_worker",
    "enable_proctitle_on_children",
    "enable_proctitle_on_current",
    "end_by_nanny",
    "get_address_host_port",
    "get_backend",
    "get_ip_interface",
    "get_loop_factory",
    "get_mp_context",
    "get_versions",
    "has_ended",
    "import_preload",
    "import_term",
    "is_ending",
    "is_server",
    "let_close",
    "let_connect",
    "nprocesses_nthreads",
    "parse_host_port",
    "parse_memory_limit",
    "run_in_worker",
    "running_keys",
    "runs",
    "send_by_stream",
    "share_out_ports",
    "wait_for_signals",
    "worker_address",
    "worker_parameters",
]

_NANNY, _PROCESS = "distributed:Nanny", "distributed.nanny:WorkerProcess"
_WORKER, _CLI = "distributed:Worker", "distributed.cli.dask_worker"

NEEDS = (
    ("distributed._signals", "wait_for_signals", "2022.5.1", "an agent drains on SIGTERM"),
    (_CLI, "main", "2.0.0", "an agent takes the options of dask worker"),
    (_CLI, "_apportion_ports", "2022.4.1", "--worker-port and --nanny-port with ranges"),
    ("distributed.comm.addressing", "get_address_host_port", "2.0.0", "--listen-address"),
    ("distributed.comm.addressing", "parse_host_port", "2.0.0", "a bad scheduler is said at once"),
    ("distributed.compatibility", "asyncio_run", "2023.7.1", "dask pool agent"),
    ("distributed.config", "get_loop_factory", "2023.7.1", "dask pool agent with uvloop"),
    ("distributed.core", "Status", "2.11.0", "whether a worker runs"),
    ("distributed.deploy.utils", "nprocesses_nthreads", "2021.1.0", "--nworkers auto"),
    ("distributed.proctitle", "enable_proctitle_on_children", "2.0.0", "names of processes"),
    ("distributed.proctitle", "enable_proctitle_on_current", "2.0.0", "names of processes"),
    ("distributed.protocol.pickle", "dumps", "2.0.0", "no traceback of a last heartbeat"),
    ("distributed.utils", "clean_dashboard_address", "2.15.0", "no port is open to others"),
    ("distributed.comm.registry", "get_backend", "2.0.0", "a bad --protocol is said at once"),
    ("distributed.preloading", "_import_module", "2.0.0", "a bad --preload-nanny, likewise"),
    ("distributed.preloading", "is_webaddress", "2.16.0", "a bad --preload-nanny, likewise"),
    ("distributed.utils", "get_ip_interface", "2.0.0", "a bad --interface, likewise"),
    ("distributed.worker_memory", "parse_memory_limit", "2022.3.0", "a bad --memory-limit"),
    ("distributed.utils", "get_mp_context", "2022.6.1", "workers that start within 0.1 s"),
    ("distributed.utils", "import_term", "2.9.0", "--worker-class"),
    ("distributed.versions", "get_versions", "2.0.0", "workers that start within 0.1 s"),
    (_WORKER, "scheduler", "2.0.0", "a lifetime ends with a drain"),
    (_WORKER, "security", "2.0.0", "a lifetime ends with a drain"),
    (_WORKER, "nanny", "2.0.0", "a lifetime ends with a drain"),
    (_WORKER, "lifetime", "2.9.0", "a lifetime ends with a drain"),
    (_WORKER, "lifetime_restart", "2.9.0", "a lifetime ends with a drain"),
    (_WORKER, "startup_information", "2.3.0", "the tag on a worker"),
    (_WORKER, "stream_handlers", "2.0.0", "a worker says which tasks it runs, and closes once"),
    (_WORKER, "batched_send", "2.0.0", "a worker says which tasks it runs"),
    (_WORKER, "periodic_callbacks", "2.0.0", "no socket is left of a worker that ends at once"),
    ("distributed.worker_state_machine:WorkerState", "executing", "2022.6.1", "the same"),
    ("distributed.worker_state_machine:WorkerState", "long_running", "2022.6.1", "the same"),
    ("distributed.core:ConnectionPool", "_connecting", "2.4.0", "no socket is left behind"),
    (_NANNY, "_on_worker_exit", "2022.8.0", "a worker is restarted for its own scheduler only"),
    (_NANNY, "process", "2.0.0", "whether a worker runs; no process is lost"),
    (_NANNY, "close_gracefully", "2022.10.1", "an agent is idle soon after its worker has ended"),
    (_NANNY, "identity", "2.0.0", "an agent's nannies say that they are nannies"),
    (_PROCESS, "process", "2.0.0", "a worker over its memory limit ends at once"),
    (_PROCESS, "status", "2.11.0", "whether a worker runs"),
    (_PROCESS, "running", "2.0.0", "a start that was cut short leaves no process"),
    (_PROCESS, "worker_address", "2.0.0", "a worker that does not start is ended soon"),
    (_PROCESS, "_init_msg_interval", "2021.5.1", "a worker's start is noticed within 5 ms"),
)
"""Where, which name, since which version of ``distributed``, and what does not work without it."""

START_POLL = 0.005
"""Seconds between two looks at whether a worker has started; Dask's 0.05 are half of its start."""
CONNECT_POLL = 0.02

T = TypeVar("T")

_SILENT = logging.Logger("gc_bootstrap: silent", logging.CRITICAL + 1)  # noqa: LOG001 - not kept


# -- options -------------------------------------------------------------------------------------


def worker_parameters() -> list[click.Parameter]:
    """The parameters of ``dask worker``."""
    return list(dask_worker.main.params)


def share_out_ports(
    worker_port: str | None, nanny_port: str | None, count: int, nanny: bool
) -> Sequence[Mapping[str, Any]]:
    """The ports of so many workers, out of ranges, as ``dask worker`` shares them out.

    Raises
    ------
    ValueError, TypeError
        The ranges are none, or too small.
    """
    ports: list[dict[str, Any]]
    ports = dask_worker._apportion_ports(worker_port, nanny_port, count, nanny)
    return ports


def beside_the_worker(dashboard_address: str | None) -> Any:
    """Have a worker's HTTP server listen where the worker does, if its address names no host.

    Dask reads ":0", the default of ``dask worker``, as all addresses of this host.
    """
    parts = [part.rpartition(":") for part in (dashboard_address or "").split(",")]
    if any(host or not port.isdecimal() for host, _, port in parts):
        return dashboard_address
    return [(None, int(port)) for _, _, port in parts]


def parse_memory_limit(text: str, nthreads: int) -> int | None:
    """Of each worker, in bytes, as Dask reads it; None where there is none.

    Raises
    ------
    Exception
        Dask's parser makes no promise.
    """
    return _parse_memory_limit(text, nthreads, logger=_SILENT)


def import_preload(name: str) -> None:
    """Import what ``--preload`` or ``--preload-nanny`` names, if it is on this host.

    Raises
    ------
    Exception
        Whatever its import raises.
    """
    if not is_webaddress(name):
        _import_module(name)


def is_server(found: object) -> bool:
    """Whether it is a class of which a worker can be made."""
    return isinstance(found, type) and issubclass(found, Server)


# -- workers -------------------------------------------------------------------------------------

_ALIVE = (Status.running, Status.paused, Status.closing_gracefully)


def has_ended(server: Nanny | Worker) -> bool:
    """Whether a worker has ended for good."""
    return server.status in (Status.closed, Status.failed)


def is_ending(server: Nanny | Worker) -> bool:
    """Whether a worker is closing for good."""
    return server.status in (Status.closing, Status.closing_gracefully)


def runs(server: Nanny | Worker) -> bool:
    """Whether a worker runs now; a nanny may be restarting one."""
    if isinstance(server, Nanny):
        return server.process is not None and server.process.status == Status.running
    return server.status in _ALIVE


def worker_address(server: Nanny | Worker) -> str | None:
    """Of a worker, as its scheduler knows it."""
    found = server.worker_address if isinstance(server, Nanny) else server.address
    return None if found is None else str(found)


async def let_connect(worker: Worker, timeout: float) -> None:
    """Let the first heartbeat get its connection: cut off in the middle, Dask loses the socket."""
    worker.periodic_callbacks["heartbeat"].stop()
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout):
            while any(worker.rpc._connecting.values()):
                await asyncio.sleep(CONNECT_POLL)


async def close_worker(worker: Worker, timeout: float, reason: str) -> None:
    """Close a worker in this process; does not wait for the threads of its tasks."""
    await worker.close(timeout=timeout, executor_wait=False, reason=reason)


def add_startup_information(worker: Worker, key: str, what: Callable[[Worker], Any]) -> None:
    """Have a worker tell its scheduler one thing more when it registers."""
    worker.startup_information = {**worker.startup_information, key: what}


def add_stream_handler(worker: Worker, op: str, handler: Callable[..., None]) -> None:
    """Have a worker take in a message that its scheduler sends by its stream."""
    worker.stream_handlers[op] = handler


def let_close(worker: Worker) -> None:
    """Have a worker that closes stay so, whatever its scheduler still says of its status.

    What puts it back to work after a retirement that was given up may come late: Dask's worker
    would then close twice, and wait for itself (distributed 2026.8).
    """
    take_in = worker.stream_handlers["worker-status-change"]

    def unless_closing(**message: Any) -> None:
        if worker.status not in (Status.closing, Status.closed, Status.failed):
            take_in(**message)

    worker.stream_handlers["worker-status-change"] = unless_closing


def send_by_stream(worker: Worker, message: dict[str, Any]) -> None:
    """Send a message in order with all else that a worker says about its tasks."""
    worker.batched_send(message)


def running_keys(worker: Worker) -> list[Any]:
    """The tasks that a worker runs now, those that have seceded included."""
    state = worker.state
    return [ts.key for ts in (*state.executing, *state.long_running)]


# -- nannies -------------------------------------------------------------------------------------


class HookedNanny(Nanny):
    """A nanny that says what becomes of its worker, and loses no process."""

    async def worker_exited(self) -> None:
        """Called when the process has ended by itself, before it may be started again."""

    def restart_failed(self) -> None:
        """Called when the process has ended and could not be started again."""

    async def worker_restarted(self) -> None:
        """Called when another process has taken the place of one that has ended."""

    @property
    def has_started(self) -> bool:
        """Whether there is a worker that has registered."""
        return self.process is not None and self.process.worker_address is not None

    @property
    def is_running(self) -> bool:
        """Whether neither the nanny nor its worker is closing."""
        return self.status == Status.running

    @property
    def is_ending(self) -> bool:
        """Whether the worker closes for good."""
        return is_ending(self) or self.status == Status.closed

    def identity(self) -> dict[str, str]:
        """Who it is; to others it is a nanny as any other."""
        return {**super().identity(), "type": Nanny.__name__}

    async def instantiate(self) -> Status:
        """Start the worker.

        Where Dask sends it SIGTERM later, because of its memory, it is killed: it leaves SIGTERM
        to the agent. By default that would have ended it as abruptly.
        """
        WorkerProcess._init_msg_interval = START_POLL
        try:
            status = await super().instantiate()
        except Exception:
            if self.is_running:  # at its first start, Dask closes the nanny
                self.restart_failed()
            raise
        process = self.process.process if self.process is not None else None
        if process is not None:
            process.terminate = process.kill  # type: ignore[method-assign]
        if self.is_running:
            await self.worker_restarted()
        return status

    def kill_at_once(self) -> None:
        """Kill the process if it is still there; whoever waits for its end sees it."""
        process = self.process.process if self.process is not None else None
        with suppress(ValueError):  # it has been closed, too
            if process is not None and process.is_alive():
                logger.warning("Worker process %s has not ended in time: it is killed", process.pid)
                process.kill()

    async def kill(self, timeout: float = 5, reason: str = "nanny-kill") -> None:
        """End the process, also one whose start was cut short.

        ``WorkerProcess.kill`` asserts that this cannot be, and the process would be lost.
        """
        worker = self.process
        if worker is not None and worker.status == Status.starting and worker.running.is_set():
            worker.status = Status.failed
            while worker.process is not None and worker.process.pid is None:
                await asyncio.sleep(0.01)  # its thread is starting it
        await super().kill(timeout=timeout, reason=reason)

    async def _on_worker_exit(self, exitcode: int) -> None:
        if self.is_running:
            await self.worker_exited()
        await super()._on_worker_exit(exitcode)


async def run_in_worker(nanny: Nanny, function: Callable[[Worker], T]) -> T:
    """Call a function in the worker's process; its argument must be called ``dask_worker``.

    Raises
    ------
    OSError
        The worker cannot be asked.
    """
    answer = await nanny.rpc(nanny.worker_address).run(function=dumps(function))
    if answer["status"] != "OK":
        raise OSError(f"{function.__name__} fails in it")
    result: T = answer["result"]
    return result


async def end_by_nanny(worker: Worker, nanny: str, timeout: float, reason: str) -> None:
    """Have the nanny at an address end this worker, and start another."""
    try:
        await worker.rpc(nanny).kill(timeout=timeout, reason=reason)
    except Exception as exc:
        # The connection goes with the worker.
        logger.debug("The nanny at %s has not answered: %s", nanny, one_line(exc))
