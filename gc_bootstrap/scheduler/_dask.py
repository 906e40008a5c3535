"""The wall: every private or undocumented name of ``distributed`` that the scheduler's side uses.

Documented is what Dask's own pages list: ``Scheduler``, ``WorkerState`` and ``TaskState`` with
those of their members that have a docstring, the plugins, the active memory manager. All else may
change with any version; it is used here and nowhere else. :data:`NEEDS` names it, and
``tests/unit/test_private_dask.py`` holds it against the Dask that is installed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, TypeVar

from distributed.active_memory_manager import ActiveMemoryManagerExtension, RetireWorker
from distributed.core import Status as Status
from distributed.diagnostics.plugin import SchedulerPlugin

if TYPE_CHECKING:
    from distributed import Scheduler
    from distributed.scheduler import TaskState, WorkerState

_SCHEDULER = "distributed.scheduler:Scheduler"
_WORKER = "distributed.scheduler:WorkerState"
_TASK = "distributed.scheduler:TaskState"
_MANAGER = "distributed.active_memory_manager:ActiveMemoryManagerExtension"

NEEDS = (
    (_SCHEDULER, "_replica_lock", "2023.10.0", "drains keep client.rebalance off their data"),
    (_SCHEDULER, "handle_worker_status_change", "2021.10.0", "drains take a worker off work"),
    (_SCHEDULER, "running", "2022.4.1", "drains know who can take tasks and data"),
    (_SCHEDULER, "plugins", "2.0.0", "a plugin closes the one before it"),
    (_SCHEDULER, "extensions", "2.0.0", "drains use the memory manager that is there"),
    (_SCHEDULER, "handlers", "2.0.0", "dask pool status; drains that agents ask for"),
    (_SCHEDULER, "stream_handlers", "2.0.0", "drains learn which tasks a worker runs"),
    (_SCHEDULER, "periodic_callbacks", "2.0.0", "drains see Dask's own retirements"),
    (_WORKER, "extra", "2.0.0", "whose a worker is"),
    (_TASK, "loose_restrictions", "2.0.0", "drains know where a task can run"),
    (_MANAGER, "running", "2021.11.2", "drains use the memory manager that is there"),
    (_MANAGER, "policies", "2022.1.0", "drains end their part in moving data"),
    (_MANAGER, "pending", "2022.1.0", "drains that run together ask once for the same data"),
    ("distributed.core", "Status", "2.11.0", "drains take a worker off work"),
    ("distributed.core:Status", "dont_reply", "2.23.0", "a scheduler that closes ends drains"),
)
"""Where, which name, since which version of ``distributed``, and what does not work without it."""

DONT_REPLY = Status.dont_reply
"""What an RPC's handler returns that has nothing to say."""

RETIREMENT = "retire-workers-"
"""How the stimulus of ``Scheduler.retire_workers`` begins; a removal for another reason has another
one (distributed 2026.1 to 2026.8)."""

Kind = TypeVar("Kind", bound=SchedulerPlugin)


# -- plugins and handlers ------------------------------------------------------------------------


def plugin(scheduler: Scheduler, name: str) -> SchedulerPlugin | None:
    """The plugin that a scheduler has under a name."""
    return scheduler.plugins.get(name)


def only_plugin(scheduler: Scheduler, name: str, make: Callable[[], Kind]) -> Kind:
    """The scheduler's plugin of a name; it is made and added where there is none."""
    found = scheduler.plugins.get(name)
    if found is None:
        found = make()
        scheduler.add_plugin(found, name=name)
    return found  # type: ignore[return-value]  # the names are ours


def add_rpc(scheduler: Scheduler, name: str, handler: Callable[..., Awaitable[Any]]) -> None:
    """Have the scheduler answer an RPC of ours."""
    scheduler.handlers[name] = handler


def remove_rpc(scheduler: Scheduler, name: str, handler: Callable[..., Awaitable[Any]]) -> None:
    """Take an RPC back, unless somebody else has it by now."""
    if scheduler.handlers.get(name) == handler:
        del scheduler.handlers[name]


def add_stream_handler(scheduler: Scheduler, op: str, handler: Callable[..., None]) -> None:
    """Have the scheduler take in a message that workers send by their stream."""
    scheduler.stream_handlers[op] = handler


def is_closing(scheduler: Scheduler) -> bool:
    """Whether the scheduler is at its end."""
    return scheduler.status in (Status.closing, Status.closed)


# -- workers and tasks ---------------------------------------------------------------------------


def startup_information(ws: WorkerState) -> dict[str, Any]:
    """What a worker told of itself when it registered, beyond what Dask asks."""
    return ws.extra


def set_status(scheduler: Scheduler, ws: WorkerState, status: Status, stimulus_id: str) -> None:
    """Set a worker's status as ``retire_workers`` does: here at once, there by message."""
    scheduler.handle_worker_status_change(status, ws, stimulus_id)
    message = {"op": "worker-status-change", "status": status.name, "stimulus_id": stimulus_id}
    scheduler.worker_send(ws.address, message)


async def forget_worker(scheduler: Scheduler, address: str, stimulus_id: str) -> None:
    """Take a worker out of the table, and leave its process alone.

    Tasks that still run there are not suspected of having killed it: it is expected.
    """
    await scheduler.remove_worker(address, expected=True, close=False, stimulus_id=stimulus_id)


def anybody_runs(scheduler: Scheduler) -> bool:
    """Whether any worker takes tasks and data."""
    return bool(scheduler.running)


def can_run_on_others(scheduler: Scheduler, ts: TaskState) -> bool:
    """Whether a worker that takes tasks may run this one."""
    others = scheduler.running
    allowed = scheduler.valid_workers(ts)
    if allowed is None or (ts.loose_restrictions and not allowed & others):
        return bool(others)
    return bool(allowed & others)


def release(scheduler: Scheduler, tasks: Iterable[TaskState], stimulus_id: str) -> None:
    """Have tasks start again, wherever they can."""
    recommendations: Any = {ts.key: "released" for ts in tasks}
    scheduler.transitions(recommendations, stimulus_id=stimulus_id)


# -- the active memory manager -------------------------------------------------------------------


def memory_manager(scheduler: Scheduler) -> ActiveMemoryManagerExtension | None:
    """Dask's own, if it is running."""
    found = scheduler.extensions.get("amm")
    return found if found is not None and found.running else None


def new_memory_manager(scheduler: Scheduler) -> ActiveMemoryManagerExtension:
    """One that nobody else knows and that runs only when it is told to."""
    return ActiveMemoryManagerExtension(scheduler, policies=set(), register=False, start=False)


def add_policy(manager: ActiveMemoryManagerExtension, policy: Any) -> None:
    """Give a manager a policy, and take it from the one that had it, unless it has it already."""
    if policy not in manager.policies:
        remove_policy(policy)
        manager.add_policy(policy)


def remove_policy(policy: Any) -> None:
    """Take a policy from the manager that has it, if one has."""
    manager = getattr(policy, "manager", None)
    if manager is not None:
        manager.policies.discard(policy)


def is_asked_for(manager: ActiveMemoryManagerExtension, ts: TaskState) -> bool:
    """Whether this run of a manager asks some worker to take a task's data already."""
    return ts in manager.pending and bool(manager.pending[ts][0])


def is_retired(scheduler: Scheduler, address: str) -> bool:
    """Whether Dask's own ``retire_workers`` is at work on a worker.

    Where the memory manager is switched off, it does so with one of its own, which only shows as a
    periodic callback.
    """
    callbacks = [callback.callback for callback in scheduler.periodic_callbacks.values()]
    managers = {
        scheduler.extensions.get("amm"),
        *(getattr(callback, "__self__", None) for callback in callbacks),
    }
    return any(
        isinstance(policy, RetireWorker) and policy.address == address
        for manager in managers
        if isinstance(manager, ActiveMemoryManagerExtension)
        for policy in manager.policies
    )


def retirements_lock(scheduler: Scheduler) -> AbstractAsyncContextManager[Any]:
    """The lock by which Dask keeps retirements and ``client.rebalance`` apart."""
    return scheduler._replica_lock("retire-workers")
