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

A release is a drain at no cost: nothing is started again, and the worker stays where it would take
anything along; :mod:`gc_bootstrap.scheduler.release` decides. A drain that is cancelled, or a
release that is called off, puts the worker back to work.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from dask.utils import format_bytes
from distributed.active_memory_manager import ActiveMemoryManagerExtension

from gc_bootstrap.peer import Peer
from gc_bootstrap.scheduler import _dask
from gc_bootstrap.scheduler._dask import Status
from gc_bootstrap.scheduler.drained import Drained, State
from gc_bootstrap.scheduler.duty import Duty
from gc_bootstrap.scheduler.handback import HandBack
from gc_bootstrap.scheduler.loss import Loss, loss_of
from gc_bootstrap.scheduler.move import ASK_AGAIN, MoveAway, is_safe
from gc_bootstrap.scheduler.needed import BOUND_SHARE, TASKS_SHARE, Needed
from gc_bootstrap.scheduler.release import hopeless, is_empty, rest_of, unfinished
from gc_bootstrap.scheduler.wants import Want, Wants
from gc_bootstrap.wire.tag import Tag

if TYPE_CHECKING:
    from distributed import Scheduler
    from distributed.scheduler import WorkerState

logger = logging.getLogger(__name__)

LOOK_EACH = 2e-5
"""Seconds between two looks for each task that is there: ten times what a look at it takes."""


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
    want
        The first caller that waits for it.
    before
        Returns what the worker goes back to if the drain is cancelled.
    leaving
        All workers that drain now, this one included; one whose release is called off is taken out.
    together
        Returns the drains of its agent's workers, this one included.
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
    wants
        Who waits for it.
    duty
        Takes it off work; what it has begun.
    called_off
        Why the release was called off, or an empty text.
    empty
        Whether, when it last looked, the worker could go at no cost.
    looks
        How often it has looked at what is left to do.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        address: str,
        tag: Tag,
        want: Want,
        *,
        before: Callable[[], Status],
        leaving: set[WorkerState],
        together: Callable[[], Sequence[Drain]],
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
        self._clock = clock
        self.ws: WorkerState = scheduler.workers[address]
        self._tag = tag
        self._leaving = leaving
        self._together = together
        self._began = clock()
        self.wants = Wants(want, clock)
        self.called_off = ""
        self.empty = False
        self.duty = Duty(
            scheduler,
            self.ws,
            reports=tag.reports,
            before=before,
            later=later,
            is_last=is_last,
        )
        self._tasks = HandBack(scheduler, self.ws, leaving, self.duty, self._log)
        self._needed = Needed(scheduler, self.ws, leaving, may_leave, clock)
        self._policy = MoveAway(self.ws, leaving, clock)
        self._kicked_at: float | None = None
        self._kicked_with = 0
        self._why = ""
        self._was_needed = False
        self.looks = 0
        self._was_gone = False
        self._said = ""
        # Not in the task: of many drains that begin together, none may move data to another.
        if want.release or not self._leave_at_work():
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
        return f"{self._what}: {why}{self._what_is_there()}, {max(0.0, self.wants.left):.0f} s left"

    @property
    def told(self) -> Drained:
        """All that there is to say of it now."""
        lost = str(self.task.result() or "") if self._state in ("done", "gone") else ""
        return Drained(
            Peer.parse(self._tag.peer),
            self._tag.pool,
            self.address,
            tuple(self.wants.asked_by),
            self._state,
            self._clock() - self._began,
            lost=lost,
            release=self.wants.release,
            why=self.called_off,
        )

    @property
    def _state(self) -> State:
        if not self.task.done():
            return "running"
        if self.called_off:
            return "called-off"
        if self.task.cancelled() or self.task.exception():
            return "cancelled"
        return "gone" if self._was_gone else "done"

    def call_off(self, why: str) -> None:
        """Put the worker back to work at once: others that leave may give it their data."""
        if self.wants.release and not self.ending:
            self.called_off = why
            _dask.remove_policy(self._policy)
            self._leaving.discard(self.ws)
            self._put_back_to_work(f"the release is called off: {why}")
            self.task.cancel()

    @property
    def _what(self) -> str:
        return "releasing" if self.wants.release else "draining"

    @property
    def _gone(self) -> bool:
        return self._scheduler.workers.get(self.address) is not self.ws

    # -- what happens ----------------------------------------------------------------------------

    async def _run(self) -> Loss:
        what = self._what_is_there()
        self._log(f"{self._what}, for up to {max(0.0, self.wants.left):.3g} s: {what}")
        async with AsyncExitStack() as stack:
            await self._keep_rebalancing_out(stack)
            await self._drain()
            # Nothing comes between the last look at the data and this.
            return Loss() if self.called_off else await self._remove()

    async def _keep_rebalancing_out(self, stack: AsyncExitStack) -> None:
        """Take the lock by which Dask keeps retirements and ``client.rebalance`` apart."""
        lock = _dask.retirements_lock(self._scheduler)
        try:
            async with asyncio.timeout(max(0.0, self.wants.left)):
                await stack.enter_async_context(lock)
        except TimeoutError:
            self._log("the scheduler rebalances data all the time")

    async def _drain(self) -> None:
        while not self._gone:
            look = self._look_at_no_cost if self.wants.release else self._look
            if await look():
                return
            self.looks += 1
            pause = max(self._pace(), LOOK_EACH * len(self.ws.processing))
            left = self.wants.left
            await asyncio.sleep(min(pause, left) if left > 0 else pause)

    async def _look(self) -> bool:
        """Do what there is to do now; return whether the worker is to go."""
        if self.wants.left <= 0:
            return True
        late = self.wants.spent >= TASKS_SHARE
        stays = self._leave_at_work()
        if not stays:
            self._keep_off_work()
            await self._hand_back()
        idle = not (stays or self.ws.processing)
        if late or idle:
            self._move()
            self._say_what_blocks()
            return idle and self._everything_is_safe() and not self._needed.by_plugin
        return False

    async def _look_at_no_cost(self) -> bool:
        """The same for a release; it may call itself off."""
        self.empty = False
        in_time = self.wants.left > 0
        rest = rest_of(
            self._scheduler,
            self.ws,
            self._leaving,
            self.duty.begun,
            self._needed.by_plugin,
            count=not in_time,
        )
        if why := hopeless(rest) if in_time else unfinished(rest):
            for drain in self._together():
                drain.call_off(why)
            return True
        self._keep_off_work()
        await self._tasks.what_has_not_begun(bound=True)
        if not self.ws.processing:
            self._move()
            self.empty = is_empty(self.ws, self._leaving)
        return self.empty and all(d.empty or not d.wants.release for d in self._together())

    def _keep_off_work(self) -> None:
        """Take it off work, or again: somebody else's retirement, given up, puts it back."""
        if self._needed.at_work or not self.duty.off:
            self._take_off_work()

    def _leave_at_work(self) -> bool:
        """Let the worker go on working for now, or put it back to work, where it is needed."""
        why = self._needed.why(self.wants.spent, self.duty.begun)
        if why and why != self._why:
            self._log(f"it goes on working for now: {why}")
        self._why = why
        self._was_needed |= bool(why)
        if why and not self._needed.at_work:
            self._needed.put_to_work()
            if self.duty.off:
                self.duty.put_back()
        return bool(why)

    async def _hand_back(self) -> None:
        """Have others run what the worker has not begun; if it is late, what it runs as well.

        A worker that has gone on working has been given tasks meanwhile, which need time, too.
        """
        await self._tasks.what_has_not_begun(bound=self.wants.spent >= BOUND_SHARE)
        share = BOUND_SHARE if self._was_needed else TASKS_SHARE
        if self.wants.spent >= share and not self._gone:
            await self._tasks.what_is_overdue()

    def _move(self) -> None:
        """Have the data moved away."""
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

    def _say_what_blocks(self) -> None:
        blocked = self._what_blocks()
        if blocked and blocked != self._said:
            self._log(f"{blocked}; it is kept for {self.wants.left:.3g} s more", logging.WARNING)
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
            return Loss(self._tasks.restarted)
        loss = loss_of(self._scheduler, self.ws, self._leaving, self._tasks.restarted)
        if loss.shuffles:
            names = ", ".join(_dask.shuffles(self._scheduler, self.address))
            self._log(f"it takes part in P2P shuffles, which start again: {names}", logging.WARNING)
        took = f"after {self._clock() - self._began:.2f} s"
        if loss:
            self._log(f"gone {took}, at the cost of {loss}", logging.WARNING)
        else:
            self._log(f"{'released' if self.wants.release else 'drained'} {took}")
        await _dask.forget_worker(self._scheduler, self.address, self.duty.id)
        return loss

    # -- effects ---------------------------------------------------------------------------------

    def _take_off_work(self) -> None:
        self._needed.taken_off_work()
        self.duty.take_off()

    def _finish(self) -> None:
        _dask.remove_policy(self._policy)
        if not (self._gone or self.called_off or _dask.is_closing(self._scheduler)):
            what = "release" if self.wants.release else "drain"
            self._put_back_to_work(f"the {what} is cancelled")

    def _put_back_to_work(self, why: str) -> None:
        self._log(why)
        self.duty.put_back_for_good()

    def _what_is_there(self) -> str:
        ws = self.ws
        size = format_bytes(ws.nbytes)
        return f"{len(ws.processing)} tasks, {len(ws.has_what)} results ({size}) are there"

    def _log(self, message: str, level: int = logging.INFO) -> None:
        logger.log(level, "Worker %s of %s: %s", self.address, self._tag.peer, message)
