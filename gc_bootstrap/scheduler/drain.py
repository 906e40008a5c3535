"""The drain of one Dask worker: nothing it computes or holds is lost, as far as time allows.

Its phases, under one deadline:

1. the worker gets no new tasks, and those that it has not begun go elsewhere;
2. the tasks that run finish; those that still run at :data:`TASKS_SHARE` of the time start again
   elsewhere, if they can run elsewhere;
3. the data that is nowhere else moves to other workers, by Dask's active memory manager, and the
   scheduler forgets the worker. Where nobody can take the data, the worker is kept until the
   deadline, and what is lost then is said.

It goes on working for now, and the first phase waits, where it takes part in a P2P shuffle (for as
long as running tasks have; it is not forgotten before the deadline while that lasts, as the whole
shuffle would start again), or has tasks that no other worker can run (for :data:`BOUND_SHARE`).

This is not ``Scheduler.retire_workers``: that leaves running tasks alone, gives up where one key
finds no place or is an actor, has no deadline, cannot be cut off without harm, and asks for the
same replicas once more for each further worker that is retired meanwhile (distributed 2026.8).

A drain that is cancelled puts the worker back to work.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable, Coroutine, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from dask.utils import format_bytes
from distributed.active_memory_manager import ActiveMemoryManagerExtension

from gc_bootstrap.scheduler import _dask
from gc_bootstrap.scheduler._dask import Status
from gc_bootstrap.scheduler.drained import Asker, Drained
from gc_bootstrap.scheduler.loss import Loss, loss_of
from gc_bootstrap.scheduler.move import ASK_AGAIN, MoveAway, is_safe
from gc_bootstrap.scheduler.needed import BOUND_SHARE, TASKS_SHARE, Needed
from gc_bootstrap.wire.names import REPORT_REQUEST
from gc_bootstrap.wire.tag import Tag

if TYPE_CHECKING:
    from distributed import Scheduler
    from distributed.scheduler import TaskState, WorkerState

logger = logging.getLogger(__name__)

AT_ONCE = 100
"""Tasks that start again elsewhere in one go; about 7 ms."""
LOOK_EACH = 2e-5
"""Seconds between two looks for each task that is there: ten times what a look at it takes."""
OTHERS_POLL = 0.5
"""Seconds between two looks at whether somebody else's retirement of the worker is over."""


class Drain:
    """One worker's drain; begins at once, and is over when its task is.

    Parameters
    ----------
    scheduler
        Whose worker.
    address
        The worker's; it is in the scheduler's worker table.
    tag
        What its agent says of it.
    deadline, asker
        Of the first caller that waits for it.
    before
        Returns what the worker goes back to if the drain is cancelled.
    leaving
        All workers that drain now, this one included.
    may_leave
        Whether all plugins would let a worker go; no shuffle needs it.
    memory_manager
        Returns the one to use, and has it run soon.
    pace
        Returns the seconds to wait between two looks.
    later
        Takes what is left to do after the task, and owns it.
    is_last
        Whether no other drain of the worker has begun since.
    clock
        Monotonic seconds.

    Attributes
    ----------
    ws
        The worker.
    task
        Its result is the :class:`Loss`. Whoever made the drain cancels it and waits for it.
    asked_by
        All that have asked for it.
    looks
        How often it has looked at what is left to do.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        address: str,
        tag: Tag,
        deadline: float,
        asker: Asker,
        *,
        before: Callable[[], Status],
        leaving: AbstractSet[WorkerState],
        may_leave: Callable[[WorkerState], bool],
        memory_manager: Callable[[], ActiveMemoryManagerExtension],
        pace: Callable[[], float],
        later: Callable[[Coroutine[Any, Any, None]], None],
        is_last: Callable[[], bool],
        clock: Callable[[], float],
    ) -> None:
        self.address = address
        self._scheduler = scheduler
        self._memory_manager = memory_manager
        self._pace = pace
        self._later = later
        self._is_last = is_last
        self._clock = clock
        self.ws: WorkerState = scheduler.workers[address]
        self._tag = tag
        self._before = before
        self._leaving = leaving
        self._began = clock()
        self._deadlines = [deadline]
        self.asked_by: dict[Asker, None] = {asker: None}
        self._needed = Needed(scheduler, self.ws, leaving, may_leave, clock)
        self._policy = MoveAway(self.ws, leaving, clock)
        self._kicked_at: float | None = None
        self._kicked_with = 0
        self._id = _new_id()
        self._running: frozenset[Any] | None = None
        self._why = ""
        self._was_needed = False
        self.looks = 0
        self._restarted = 0
        self._was_gone = False
        self._said = ""
        # Not in the task: of many drains that begin together, none may move data to another.
        if not self._leave_at_work():
            self._take_off_work()
        self.task = asyncio.create_task(self._run(), name=f"gc_bootstrap drain {address}")
        # Nor this: a task that is cancelled before its first step runs none of it.
        self.task.add_done_callback(lambda _: self._finish())

    @property
    def ending(self) -> bool:
        """Whether it is over, or is being cancelled."""
        return self.task.done() or self.task.cancelling() > 0

    @property
    def progress(self) -> str:
        """What is left to do, in one line."""
        why = f"goes on working, as {self._why}; " if self._why else ""
        return f"draining: {why}{self._what_is_there()}, {max(0.0, self._left):.0f} s left"

    @property
    def told(self) -> Drained:
        """All that there is to say of it now."""
        by, seconds = tuple(self.asked_by), self._clock() - self._began
        return Drained.of(self._tag, self.address, by, self.task, seconds, gone=self._was_gone)

    def want(self, deadline: float, asker: Asker) -> None:
        """Have one more caller that waits for it: the earliest deadline counts."""
        self._deadlines.append(deadline)
        self.asked_by[asker] = None

    def leave(self, deadline: float) -> bool:
        """Have one less; False where it was the last."""
        self._deadlines.remove(deadline)
        return bool(self._deadlines)

    def reported(self, report: str, keys: Sequence[Any]) -> None:
        """Take in what the worker says that it runs; it begins nothing more."""
        if report == self._id:
            self._running = frozenset(keys)

    @property
    def _deadline(self) -> float:
        return min(self._deadlines, default=self._began)

    @property
    def _left(self) -> float:
        return self._deadline - self._clock()

    @property
    def _spent(self) -> float:
        """The share of its time that is over."""
        time = self._deadline - self._began
        return (self._clock() - self._began) / time if time > 0 else 1.0

    @property
    def _gone(self) -> bool:
        return self._scheduler.workers.get(self.address) is not self.ws

    # -- what happens ----------------------------------------------------------------------------

    async def _run(self) -> Loss:
        self._log(f"draining, for up to {max(0.0, self._left):.3g} s: {self._what_is_there()}")
        async with AsyncExitStack() as stack:
            await self._keep_rebalancing_out(stack)
            await self._drain()
            # Nothing comes between the last look at the data and this.
            return await self._remove()

    async def _keep_rebalancing_out(self, stack: AsyncExitStack) -> None:
        """Take the lock by which Dask keeps retirements and ``client.rebalance`` apart."""
        lock = _dask.retirements_lock(self._scheduler)
        try:
            async with asyncio.timeout(max(0.0, self._left)):
                await stack.enter_async_context(lock)
        except TimeoutError:
            self._log("the scheduler rebalances data all the time")

    async def _drain(self) -> None:
        while not self._gone and self._left > 0:
            late = self._spent >= TASKS_SHARE
            stays = self._leave_at_work()
            if not stays:
                if self._needed.at_work or self.ws.status != Status.closing_gracefully:
                    # Or somebody else's retirement has been given up, and has put it back to work.
                    self._take_off_work()
                await self._hand_back()
            idle = not (stays or self.ws.processing)
            if late or idle:
                self._move()
                if idle and self._everything_is_safe() and not self._needed.by_plugin:
                    return
            self.looks += 1
            pause = max(self._pace(), LOOK_EACH * len(self.ws.processing))
            await asyncio.sleep(max(0.0, min(pause, self._left)))

    def _leave_at_work(self) -> bool:
        """Let the worker go on working for now, or put it back to work, where it is needed."""
        why = self._needed.why(self._spent, self._running)
        if why and why != self._why:
            self._log(f"it goes on working for now: {why}")
        self._why = why
        self._was_needed |= bool(why)
        if why and not self._needed.at_work:
            self._needed.put_to_work()
            if self.ws.status == Status.closing_gracefully:
                self._put_back()
        return bool(why)

    async def _hand_back(self) -> None:
        """Have others run what the worker has not begun; if it is late, what it runs as well.

        A worker that has gone on working has been given tasks meanwhile, which need time, too.
        """
        ws, running = self.ws, self._running
        if running is not None:
            waiting = [ts for ts in ws.processing if ts.key not in running]
            if self._spent < BOUND_SHARE:
                bound = set(_dask.bound_here(self._scheduler, waiting, self._leaving))
                waiting = [ts for ts in waiting if ts not in bound]
            if waiting:
                elsewhere = sum(map(self._can_run_elsewhere, waiting))
                if elsewhere:
                    self._log(f"{elsewhere} tasks that it has not begun go elsewhere")
                if elsewhere < len(waiting):
                    rest = len(waiting) - elsewhere
                    self._log(f"{rest} tasks wait for another worker that can run them")
                await self._reschedule(waiting)
        share = BOUND_SHARE if self._was_needed else TASKS_SHARE
        if self._spent >= share and not self._gone:
            overdue = [ts for ts in ws.processing if self._can_run_elsewhere(ts)]
            if overdue:
                self._restarted += len(overdue)
                self._log(
                    f"{len(overdue)} tasks have not finished in time; they start again elsewhere",
                    logging.WARNING,
                )
                await self._reschedule(overdue)

    def _can_run_elsewhere(self, ts: TaskState) -> bool:
        return _dask.can_run_elsewhere(self._scheduler, ts, self._leaving)

    def _move(self) -> None:
        """Have the data moved away, and say what is in the way of that."""
        now = self._clock()
        if self._kicked_at is None:
            self._log(f"its data moves: {self._what_is_there()}")
        left = len(self.ws.processing)
        # A task that has ended since has left a result.
        if (
            self._kicked_at is None
            or now - self._kicked_at >= ASK_AGAIN
            or left < self._kicked_with
        ):
            self._kicked_at = now
            self._kicked_with = left
            _dask.add_policy(self._memory_manager(), self._policy)
        blocked = self._what_blocks()
        if blocked and blocked != self._said:
            self._log(f"{blocked}; it is kept for {self._left:.3g} s more", logging.WARNING)
        self._said = blocked

    def _what_blocks(self) -> str:
        """Why its data cannot be moved now, or an empty text."""
        ws = self.ws
        if ws.actors:
            return f"{len(ws.actors)} actors cannot be moved"
        if not self._everything_is_safe():
            takes = _dask.anybody_takes(self._scheduler, self._leaving)
            return "" if takes else "no other worker can take its data"
        return self._needed.by_plugin

    def _everything_is_safe(self) -> bool:
        ws = self.ws
        return not ws.actors and all(
            is_safe(ts, self._leaving) for ts in ws.has_what if not ts.actor
        )

    async def _remove(self) -> Loss:
        """Have the scheduler forget the worker, with what it still has."""
        if self._gone:
            self._was_gone = True
            self._log("it is gone")
            return Loss(self._restarted)
        loss = loss_of(self._scheduler, self.ws, self._leaving, self._restarted)
        if loss.shuffles:
            names = ", ".join(_dask.shuffles(self._scheduler, self.address))
            self._log(f"it takes part in P2P shuffles, which start again: {names}", logging.WARNING)
        took = f"after {self._clock() - self._began:.2f} s"
        if loss:
            self._log(f"gone {took}, at the cost of {loss}", logging.WARNING)
        else:
            self._log(f"drained {took}")
        await _dask.forget_worker(self._scheduler, self.address, self._id)
        return loss

    # -- effects ---------------------------------------------------------------------------------

    async def _reschedule(self, tasks: Sequence[TaskState]) -> None:
        for start in range(0, len(tasks), AT_ONCE):
            here = [ts for ts in tasks[start : start + AT_ONCE] if ts.processing_on is self.ws]
            _dask.release(self._scheduler, here, self._id)
            await asyncio.sleep(0)

    def _take_off_work(self) -> None:
        """Have the worker begin no more tasks, and ask it which it has begun.

        Both travel in order, as does its answer with all that it says about its tasks.
        """
        self._id = _new_id()
        self._running = None
        self._needed.taken_off_work()
        self._set_status(Status.closing_gracefully)
        if self._tag.reports:
            request = {"op": REPORT_REQUEST, "report": self._id}
            self._scheduler.worker_send(self.address, request)

    def _finish(self) -> None:
        _dask.remove_policy(self._policy)
        if self._gone or _dask.is_closing(self._scheduler):
            return
        self._log("the drain is cancelled")
        if _dask.is_retired(self._scheduler, self.address):
            self._later(self._put_back_after_others())
        else:
            self._put_back()

    async def _put_back_after_others(self) -> None:
        """Wait for the end of somebody else's retirement.

        Given up, it puts the worker back to what it was at its begin: that may be our doing. Dask
        gives it no deadline, so there is none here; it ends with the worker or the scheduler.
        """
        while not self._gone and _dask.is_retired(self._scheduler, self.address):
            await asyncio.sleep(OTHERS_POLL)
        # Its own word comes up to half a second after its end.
        await asyncio.sleep(2 * OTHERS_POLL)
        if not self._gone and self.ws.status == Status.closing_gracefully and self._is_last():
            self._put_back()

    def _put_back(self) -> None:
        before = self._before()
        self._set_status(before if before == Status.paused else Status.running)

    def _set_status(self, status: Status) -> None:
        _dask.set_status(self._scheduler, self.ws, status, self._id)

    def _what_is_there(self) -> str:
        ws = self.ws
        size = format_bytes(ws.nbytes)
        return f"{len(ws.processing)} tasks, {len(ws.has_what)} results ({size}) are there"

    def _log(self, message: str, level: int = logging.INFO) -> None:
        logger.log(level, "Worker %s of %s: %s", self.address, self._tag.peer, message)


def _new_id() -> str:
    return f"gc_bootstrap-drain-{uuid.uuid4().hex}"
