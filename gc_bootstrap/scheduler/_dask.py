"""The wall: every private or undocumented name of ``distributed`` that the scheduler's side uses.

Documented is what Dask's own pages list: ``Scheduler``, ``WorkerState`` and ``TaskState`` with
those of their members that have a docstring, the plugins, the active memory manager. All else may
change with any version; it is used here and nowhere else. :data:`NEEDS` names it, and
``tests/unit/test_private_dask.py`` holds it against the Dask that is installed.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Container, Iterable, Iterator
from collections.abc import Set as AbstractSet
from contextlib import AbstractAsyncContextManager
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakSet

from distributed.active_memory_manager import ActiveMemoryManagerExtension, RetireWorker
from distributed.core import Status as Status
from distributed.diagnostics.plugin import SchedulerPlugin

if TYPE_CHECKING:
    from distributed import Scheduler
    from distributed.scheduler import TaskState, WorkerState

logger = logging.getLogger(__name__)

_SCHEDULER = "distributed.scheduler:Scheduler"
_WORKER = "distributed.scheduler:WorkerState"
_TASK = "distributed.scheduler:TaskState"
_PREFIX = "distributed.scheduler:TaskPrefix"
_PAGE = "distributed.http.scheduler.prometheus.core:PrometheusHandler"
_MANAGER = "distributed.active_memory_manager:ActiveMemoryManagerExtension"
_SHUFFLES = "distributed.shuffle._scheduler_plugin:ShuffleSchedulerPlugin"
_SHUFFLE = "distributed.shuffle._core:SchedulerShuffleState"

NEEDS = (
    (_SCHEDULER, "_replica_lock", "2023.10.0", "drains keep client.rebalance off their data"),
    (_SCHEDULER, "handle_worker_status_change", "2021.10.0", "drains take a worker off work"),
    (_SCHEDULER, "running", "2022.4.1", "drains know who can take tasks and data"),
    (_SCHEDULER, "plugins", "2.0.0", "a plugin closes the one before it"),
    (_SCHEDULER, "extensions", "2.0.0", "drains use the memory manager that is there"),
    (_SCHEDULER, "unrunnable", "2.0.0", "drains finish what can run nowhere else; demand"),
    (_SCHEDULER, "queued", "2022.9.0", "releases and demand know what waits for a thread"),
    (_SCHEDULER, "task_prefixes", "2.0.0", "demand: how long tasks take"),
    (_SCHEDULER, "_get_prefix_duration", "2025.2.0", "demand: how long tasks take"),
    (_SCHEDULER, "coerce_hostname", "2.0.0", "drains and demand know where a task can run"),
    (_SCHEDULER, "handlers", "2.0.0", "dask pool status; drains that agents ask for"),
    (_SCHEDULER, "stream_handlers", "2.0.0", "drains learn which tasks a worker runs"),
    (_SCHEDULER, "periodic_callbacks", "2.0.0", "drains see Dask's own retirements"),
    (_WORKER, "extra", "2.0.0", "whose a worker is"),
    (_WORKER, "host", "2.0.0", "drains and demand know where a task can run"),
    (_WORKER, "resources", "2.0.0", "drains and demand know where a task can run"),
    (_WORKER, "occupancy", "2.0.0", "demand: how much a worker has to do"),
    (_TASK, "loose_restrictions", "2.0.0", "drains and demand know where a task can run"),
    (_TASK, "worker_restrictions", "2.0.0", "drains and demand know where a task can run"),
    (_TASK, "host_restrictions", "2.0.0", "drains and demand know where a task can run"),
    (_TASK, "resource_restrictions", "2.0.0", "drains and demand know where a task can run"),
    (_PREFIX, "states", "2.0.0", "demand: how many tasks wait for a thread"),
    (_SHUFFLES, "active_shuffles", "2023.10.0", "drains say which shuffles they restart"),
    (_SHUFFLE, "participating_workers", "2022.12.0", "drains say which shuffles they restart"),
    (_MANAGER, "running", "2021.11.2", "drains use the memory manager that is there"),
    (_MANAGER, "policies", "2022.1.0", "drains end their part in moving data"),
    (_MANAGER, "pending", "2022.1.0", "drains that run together ask once for the same data"),
    (_PAGE, "_collectors", "2021.4.1", "metrics: each scheduler shows its own pools"),
    ("distributed.core", "Status", "2.11.0", "drains take a worker off work"),
    ("distributed.core:Status", "dont_reply", "2.23.0", "a scheduler that closes ends drains"),
)
"""Where, which name, since which version of ``distributed``, and what does not work without it."""

UNRUNNABLE_AT_ONCE = 1_000
"""Tasks that no worker can run, of which one look is taken; about 2 ms."""

DONT_REPLY = Status.dont_reply
"""What an RPC's handler returns that has nothing to say."""

RETIREMENT = "retire-workers-"
"""How the stimulus of ``Scheduler.retire_workers`` begins; a removal for another reason has another
one (distributed 2026.1 to 2026.8)."""

_COMPLAINED: WeakSet[SchedulerPlugin] = WeakSet()
"""Plugins of others that have raised, which has been said."""

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


def scraped_scheduler() -> Scheduler | None:
    """Of all schedulers of this process, the one whose page of metrics is being made, if any is.

    Dask points its collectors at it for each request.
    """
    from distributed.http.scheduler.prometheus.core import PrometheusHandler

    collectors: Any = PrometheusHandler._collectors
    return collectors[0].server if collectors else None


# -- workers and tasks ---------------------------------------------------------------------------


def startup_information(ws: WorkerState) -> dict[str, Any]:
    """What a worker told of itself when it registered, beyond what Dask asks."""
    return ws.extra


def set_status(scheduler: Scheduler, ws: WorkerState, status: Status, stimulus_id: str) -> None:
    """Set a worker's status as ``retire_workers`` does: here at once, there by message.

    What Dask raises meanwhile is logged, and the worker is told all the same: it would be
    ``closing_gracefully`` for ever. distributed 2026.8, where it validates, asserts that no actor
    has waited for a worker.
    """
    try:
        scheduler.handle_worker_status_change(status, ws, stimulus_id)
    except Exception:
        logger.exception("Dask fails to take in that worker %s is %s", ws.address, status.name)
    finally:
        message = {"op": "worker-status-change", "status": status.name, "stimulus_id": stimulus_id}
        scheduler.worker_send(ws.address, message)


def says_of_itself(event: Any) -> Status | None:
    """What an event of a worker's topic says of its status, where the worker itself has said it."""
    if not isinstance(event, dict) or event.get("action") != "worker-status-change":
        return None
    # Its own words; those of whoever sets it from here have an id of theirs.
    if not str(event.get("stimulus_id")).startswith("worker-status-change-"):
        return None
    return Status.__members__.get(str(event.get("status")))


async def forget_worker(scheduler: Scheduler, address: str, stimulus_id: str) -> None:
    """Take a worker out of the table, and leave its process alone.

    Tasks that still run there are not suspected of having killed it: it is expected.
    """
    await scheduler.remove_worker(address, expected=True, close=False, stimulus_id=stimulus_id)


def is_retirement(event: Any) -> bool:
    """Whether an event of a worker's topic says that ``retire_workers`` is done with it."""
    if not isinstance(event, dict) or event.get("action") != "retired":
        return False
    return str(event.get("stimulus_id")).startswith(RETIREMENT)


def anybody_takes(scheduler: Scheduler, leaving: Container[WorkerState]) -> bool:
    """Whether any worker that stays takes tasks and data."""
    return any(ws not in leaving for ws in scheduler.running)


def takers(scheduler: Scheduler, leaving: AbstractSet[WorkerState]) -> set[WorkerState] | None:
    """Workers that take data and stay; None where all do that take data."""
    running = scheduler.running
    return None if running.isdisjoint(leaving) else running - leaving


def can_run_elsewhere(scheduler: Scheduler, ts: TaskState, leaving: Container[WorkerState]) -> bool:
    """Whether a worker that stays takes tasks and may run this one."""
    allowed = scheduler.valid_workers(ts)
    if allowed is None or ts.loose_restrictions:
        return anybody_takes(scheduler, leaving)
    return any(ws not in leaving for ws in allowed & scheduler.running)


def is_bound(ts: TaskState) -> bool:
    """Whether a task can run on some workers only."""
    bound = ts.worker_restrictions or ts.host_restrictions or ts.resource_restrictions
    return bool(bound) and not ts.loose_restrictions


def bound_here(
    scheduler: Scheduler, tasks: Iterable[TaskState], leaving: Container[WorkerState]
) -> Iterator[TaskState]:
    """Of the tasks of a worker that leaves, those that no worker that stays can run."""
    known: dict[Any, bool] = {}
    for ts in tasks:
        if is_bound(ts):
            places = frozenset(ts.worker_restrictions or ()), frozenset(ts.host_restrictions or ())
            kind = (*places, frozenset((ts.resource_restrictions or {}).items()))
            if kind not in known:
                known[kind] = can_run_elsewhere(scheduler, ts, leaving)
            if not known[kind]:
                yield ts


def waits_for(scheduler: Scheduler, ws: WorkerState) -> Iterator[TaskState]:
    """Bound tasks that nobody can run now, and that this worker could, if it took tasks.

    As ``Scheduler.valid_workers`` has it, which only looks at workers that do.
    """
    for ts in islice(scheduler.unrunnable, UNRUNNABLE_AT_ONCE):
        hosts = {scheduler.coerce_hostname(host) for host in ts.host_restrictions or ()}
        by_place = not (ts.worker_restrictions or hosts) or (
            ws.address in (ts.worker_restrictions or ()) or ws.host in hosts
        )
        needs = (ts.resource_restrictions or {}).items()
        if is_bound(ts) and by_place and all(ws.resources.get(r, 0) >= n for r, n in needs):
            yield ts


def work_waits(scheduler: Scheduler) -> bool:
    """Whether tasks wait that any worker could run, if it took tasks."""
    unrunnable = islice(scheduler.unrunnable, UNRUNNABLE_AT_ONCE)
    return bool(scheduler.queued) or not all(map(is_bound, unrunnable))


def release(scheduler: Scheduler, tasks: Iterable[TaskState], stimulus_id: str) -> None:
    """Have tasks start again, wherever they can."""
    recommendations: Any = {ts.key: "released" for ts in tasks}
    scheduler.transitions(recommendations, stimulus_id=stimulus_id)


# -- who is needed -------------------------------------------------------------------------------


def may_leave(scheduler: Scheduler, workers: Iterable[WorkerState]) -> set[WorkerState]:
    """Of some workers, those that every plugin would let go; that of shuffles is one of them.

    One that raises has no say: a drain does not end for somebody else's fault.
    """
    valid = list(workers)
    for name, plugin in list(scheduler.plugins.items()):
        try:
            valid = list(plugin.valid_workers_downscaling(scheduler, valid))
        except Exception:
            if plugin not in _COMPLAINED:
                _COMPLAINED.add(plugin)
                logger.exception("The plugin %r cannot say which workers may leave", name)
    return set(valid)


def shuffles(scheduler: Scheduler, address: str) -> list[str]:
    """The P2P shuffles that start again if a worker goes now."""
    plugin = scheduler.plugins.get("shuffle")
    active = getattr(plugin, "active_shuffles", {})
    return [str(name) for name, it in active.items() if address in it.participating_workers]


# -- what there is to do -------------------------------------------------------------------------


def queued_work(scheduler: Scheduler) -> Iterator[tuple[int, float]]:
    """Tasks that wait for a thread: for each prefix how many, and the seconds that each takes.

    None of them is bound to any place: ``Scheduler.is_rootish``.
    """
    if scheduler.queued:
        for prefix in list(scheduler.task_prefixes.values()):
            count = prefix.states["queued"]
            yield count, scheduler._get_prefix_duration(prefix) if count else 0.0


def unrunnable_tasks(scheduler: Scheduler, start: int, stop: int) -> list[TaskState]:
    """Some of the tasks that no worker can run, by their numbers; the last ones are the newest.

    Those before them are passed over, or those behind them where they are fewer: 5 ms for 500,000.
    """
    waiting, count = scheduler.unrunnable, len(scheduler.unrunnable)
    start, stop = min(start, count), min(stop, count)
    if start <= count - stop:
        return list(islice(waiting, start, stop))
    return list(islice(reversed(waiting), count - stop, count - start))


def duration(scheduler: Scheduler, ts: TaskState) -> float:
    """How many seconds a task takes, as far as it is known."""
    return scheduler._get_prefix_duration(ts.prefix)


Places = tuple[AbstractSet[str], AbstractSet[str], dict[str, float]]


def places(ts: TaskState) -> Places | None:
    """The workers, hosts and resources that a task is bound to; None where it can run anywhere."""
    if not is_bound(ts):
        return None
    return (
        ts.worker_restrictions or frozenset(),
        ts.host_restrictions or frozenset(),
        ts.resource_restrictions or {},
    )


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
