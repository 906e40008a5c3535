"""The drain of one Dask worker: nothing it computes or holds is lost, as far as time allows.

Its phases, under one deadline:

1. the worker gets no new tasks, and those that it has not begun go elsewhere at once;
2. the tasks that run finish; those that still run at :data:`TASKS_SHARE` of the time start again
   elsewhere;
3. the data that is nowhere else moves to other workers (``Scheduler.retire_workers``), and the
   scheduler forgets the worker. Where nobody can take the data, the worker is kept until the
   deadline, and what is lost then is said.

A drain that is cancelled puts the worker back to work.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dask.utils import format_bytes
from distributed.active_memory_manager import RetireWorker
from distributed.core import Status
from distributed.protocol.pickle import dumps

from gc_bootstrap.errors import one_line
from gc_bootstrap.peer import WORKER_EXTRA

if TYPE_CHECKING:
    from distributed import Scheduler, Worker
    from distributed.scheduler import TaskState, WorkerState

logger = logging.getLogger(__name__)

TASKS_SHARE = 0.5
"""Share of the deadline in which running tasks may finish; the rest is for their results."""
REPORT_TIMEOUT = 5.0
"""Seconds for a worker to say what it runs; without an answer, all its tasks count as running."""
POLL = 0.02
"""Seconds between two looks at whether a worker's tasks are done."""
RETRY = 0.5
"""Seconds between two looks at whether somebody can take a worker's data now."""
REPORT_HANDLER = "gc_bootstrap-running"
"""Name of the message in which a worker says what it runs."""


@dataclass(frozen=True, slots=True)
class Loss:
    """What went with a worker whose drain was cut off by its deadline.

    Parameters
    ----------
    results
        Results that were nowhere else, and are computed again.
    scattered
        Data that a client had scattered: it cannot be computed again.
    actors
        Actors.
    nbytes
        Size of all of it.
    """

    results: int = 0
    scattered: int = 0
    actors: int = 0
    nbytes: int = 0

    def __bool__(self) -> bool:
        return bool(self.results or self.scattered or self.actors)

    def __str__(self) -> str:
        parts = [
            (self.results, "results, which are computed again"),
            (self.scattered, "scattered values"),
            (self.actors, "actors"),
        ]
        what = ", ".join(f"{count} {name}" for count, name in parts if count)
        return f"{what} ({format_bytes(self.nbytes)})"


class Drain:
    """One worker's drain; begins at once, and is over when its task is.

    Parameters
    ----------
    scheduler
        Whose worker.
    address
        The worker's; it is in the scheduler's worker table.
    before
        What the worker goes back to if the drain is cancelled.
    deadline
        Time at which it is cut off, on the clock; may be brought forward while it runs.
    clock
        Monotonic seconds.

    Attributes
    ----------
    task
        Its result is the :class:`Loss`. Whoever made the drain cancels it and waits for it.
    waiters
        How many callers want it; for :class:`Drainer`.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        address: str,
        before: Status,
        deadline: float,
        clock: Callable[[], float],
    ) -> None:
        self.id = f"gc_bootstrap-drain-{uuid.uuid4().hex}"
        self.address = address
        self.deadline = deadline
        self.waiters = 0
        self._report: asyncio.Future[frozenset[Any] | None] = _future()
        self._scheduler = scheduler
        self._clock = clock
        self._began = clock()
        self._ws: WorkerState = scheduler.workers[address]
        self._before = before
        # Not in the task: of many drains that begin together, none may move data to another.
        self._set_status(Status.closing_gracefully)
        self.task = asyncio.create_task(self._run(), name=f"gc_bootstrap drain {address}")

    @property
    def _gone(self) -> bool:
        return self._scheduler.workers.get(self.address) is not self._ws

    @property
    def _left(self) -> float:
        return self.deadline - self._clock()

    async def _run(self) -> Loss:
        try:
            self._log(f"draining, for up to {max(0.0, self._left):.3g} s")
            await self._finish_tasks()
            await self._move_data()
            return await self._give_up()
        finally:
            if not self._gone:
                self._put_back_to_work()

    @property
    def progress(self) -> str:
        """What is left to do, in one line."""
        ws = self._ws
        return (
            f"draining: {len(ws.processing)} tasks run, {len(ws.has_what)} results"
            f" ({format_bytes(ws.nbytes)}) are there, {max(0.0, self._left):.0f} s left"
        )

    def reported(self, drain: str, paused: bool, keys: Sequence[Any]) -> None:
        """Take in what the worker says that it runs."""
        if drain == self.id and not self._report.done():
            self._report.set_result(frozenset(keys) if paused else None)

    # -- phases ----------------------------------------------------------------------------------

    async def _running_tasks(self) -> frozenset[Any] | None:
        """The keys of the tasks that run, once no more are begun; None where it does not say."""
        function = dumps(_report_running)
        try:
            async with asyncio.timeout(min(REPORT_TIMEOUT, max(0.0, self._left))):
                while True:
                    self._report = _future()
                    await self._scheduler.rpc(self.address).run(
                        function=function, kwargs=dumps({"drain": self.id})
                    )
                    if (running := await self._report) is not None:
                        return running
                    # The order to begin no more tasks travels by another way, and is not there yet.
                    await asyncio.sleep(POLL)
        except TimeoutError:
            self._log("it does not say what it runs: all its tasks count as running")
        except Exception as exc:
            # Whatever it is, waiting for all of its tasks is right, only slower.
            self._log(f"it cannot say what it runs: {one_line(exc)}")
        return None

    async def _finish_tasks(self) -> None:
        """Have others run what the worker has not begun, and wait for what it has."""
        running = await self._running_tasks()
        if not self._gone and self._ws.processing:
            self._log(f"{len(self._ws.processing)} tasks are there")
        while not self._gone and self._ws.processing:
            if self._clock() >= self._began + TASKS_SHARE * (self.deadline - self._began):
                self._log(
                    f"{len(self._ws.processing)} tasks have not finished in time; they start again"
                    " elsewhere",
                    logging.WARNING,
                )
                self._reschedule(list(self._ws.processing))
                return
            # Again and again: one that was being stolen for this worker arrives only now.
            self._hand_back(running)
            await asyncio.sleep(POLL)

    def _hand_back(self, running: frozenset[Any] | None) -> None:
        if running is None:
            return
        waiting = [ts for ts in self._ws.processing if ts.key not in running]
        if waiting:
            self._log(f"{len(waiting)} tasks that it has not begun go elsewhere")
            self._reschedule(waiting)

    async def _move_data(self) -> None:
        """Move what is nowhere else, and have the scheduler forget the worker."""
        if not self._gone:
            held = len(self._ws.has_what)
            self._log(f"moving {held} results ({format_bytes(self._ws.nbytes)})")
        said = ""
        while not self._gone and self._left > 0:
            blocked = self._what_blocks()
            if not blocked and await self._retire():
                self._log(f"drained in {self._clock() - self._began:.2f} s")
                return
            if blocked and blocked != said:
                self._log(f"{blocked}; it is kept for {self._left:.3g} s more", logging.WARNING)
            said = blocked
            await asyncio.sleep(max(0.0, min(RETRY, self._left)))

    async def _retire(self) -> bool:
        """Have Dask move the data and forget the worker; False where it did not, or not in time."""
        retiring = asyncio.create_task(
            self._scheduler.retire_workers([self.address], close_workers=False, remove=True)
        )
        try:
            # Step by step: the deadline may be brought forward meanwhile.
            while not retiring.done() and self._left > 0:
                await asyncio.wait([retiring], timeout=max(0.0, min(RETRY, self._left)))
            return retiring.done() and self.address in retiring.result()
        finally:
            await cancel_and_wait([retiring])

    def _what_blocks(self) -> str:
        """Why its data cannot be moved now, or an empty text."""
        ws = self._ws
        if ws.actors:
            return f"{len(ws.actors)} actors cannot be moved"
        if ws.has_what and not self._scheduler.running - {ws}:
            return f"no other worker can take its {len(ws.has_what)} results"
        return ""

    async def _give_up(self) -> Loss:
        """Have the scheduler forget the worker with what it still holds."""
        if self._gone:
            return Loss()
        loss = _unique(self._ws)
        text = f"it goes with {loss}" if loss else "nothing is lost"
        self._log(f"the time is over: {text}", logging.WARNING if loss else logging.INFO)
        await self._scheduler.remove_worker(
            self.address, expected=True, close=False, stimulus_id=self.id
        )
        return loss

    # -- effects ---------------------------------------------------------------------------------

    def _reschedule(self, tasks: Iterable[TaskState]) -> None:
        recommendations = {ts.key: "released" for ts in tasks if ts.state == "processing"}
        self._scheduler.transitions(recommendations, stimulus_id=self.id)  # type: ignore[arg-type]

    def _set_status(self, status: Status) -> None:
        """Set a worker's status as ``retire_workers`` does: here at once, and there by message."""
        self._scheduler.handle_worker_status_change(status, self._ws, self.id)
        self._scheduler.worker_send(
            self.address,
            {"op": "worker-status-change", "status": status.name, "stimulus_id": self.id},
        )

    def _put_back_to_work(self) -> None:
        amm = self._scheduler.extensions.get("amm")
        if amm is not None:
            # They would go on moving data away: Dask forgets them where a retirement is cut off.
            amm.policies -= {
                policy
                for policy in amm.policies
                if isinstance(policy, RetireWorker) and policy.address == self.address
            }
        self._set_status(self._before)
        self._log("the drain is cancelled, it takes tasks again")

    def _log(self, message: str, level: int = logging.INFO) -> None:
        tag = self._ws.extra.get(WORKER_EXTRA, {})
        logger.log(level, "Worker %s of %s: %s", self.address, tag.get("peer", "nobody"), message)


def _unique(ws: WorkerState) -> Loss:
    """What only this worker holds."""
    results = scattered = nbytes = 0
    for ts in ws.has_what:
        if ts.who_has is not None and len(ts.who_has) == 1 and ts not in ws.actors:
            nbytes += max(0, ts.nbytes)
            if ts.run_spec is None:
                scattered += 1
            else:
                results += 1
    return Loss(results, scattered, len(ws.actors), nbytes)


def _report_running(drain: str, dask_worker: Worker) -> None:
    """Runs on the worker; the answer takes the way of all its messages, so that it is in order."""
    state = dask_worker.state
    dask_worker.batched_send(
        {
            "op": REPORT_HANDLER,
            "drain": drain,
            "paused": not state.running,
            "keys": [ts.key for ts in (*state.executing, *state.long_running)],
        }
    )


def _future() -> asyncio.Future[Any]:
    return asyncio.get_running_loop().create_future()


async def cancel_and_wait(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Cancel tasks, and wait until they have ended."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
