"""All drains of a scheduler's workers, whoever asks for them.

A pool that drops a peer, or an agent that got SIGTERM: the same worker is drained once, for both.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from distributed.diagnostics.plugin import SchedulerPlugin

from gc_bootstrap.errors import DistError
from gc_bootstrap.peer import Peer
from gc_bootstrap.scheduler import _dask
from gc_bootstrap.scheduler._dask import Status
from gc_bootstrap.scheduler.drain import Drain
from gc_bootstrap.scheduler.drained import Drained, Ended
from gc_bootstrap.scheduler.loss import Loss
from gc_bootstrap.scheduler.members import Members
from gc_bootstrap.scheduler.needed import needed_by
from gc_bootstrap.scheduler.release import CalledOffError, hopeless, rest_of
from gc_bootstrap.scheduler.wants import Asker, Want
from gc_bootstrap.wire.names import (
    DRAIN_HANDLER,
    REFILL_HANDLER,
    REFILL_LATER,
    REFILL_NO,
    REFILL_YES,
    REPORT_ANSWER,
)
from gc_bootstrap.wire.tag import Tag

if TYPE_CHECKING:
    from distributed import Scheduler
    from distributed.active_memory_manager import ActiveMemoryManagerExtension
    from distributed.scheduler import WorkerState

logger = logging.getLogger(__name__)

KICK_DELAY = 0.02
"""Seconds in which drains that begin to move data are gathered into one run of the manager."""
POLL, POLL_EACH, POLL_MAX = 0.02, 0.0005, 0.5
"""Seconds between two looks at a drain: ever more, the more of them there are."""


class Drainer(SchedulerPlugin):
    """Drains the workers of one scheduler; get it with :meth:`of`.

    It stays with its scheduler when the pools are closed, as the workers do: agents that end later
    still have it drain them.

    Parameters
    ----------
    scheduler
        Whose workers.
    clock
        Monotonic seconds.
    """

    name = "gc_bootstrap-drainer"

    def __init__(
        self, scheduler: Scheduler, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._scheduler = scheduler
        self._clock = clock
        self._drains: dict[str, Drain] = {}
        self._before: dict[str, Status] = {}
        self._leaving: set[WorkerState] = set()
        self._asked: set[WorkerState] = set()
        self._let_go: set[WorkerState] = set()
        self._asked_until = 0.0
        self._ended = Ended()
        self._afterwards: set[asyncio.Task[None]] = set()
        self._own_manager: ActiveMemoryManagerExtension | None = None
        self._kick: asyncio.TimerHandle | None = None
        self._members = Members.of(scheduler)

    @classmethod
    def of(cls, scheduler: Scheduler) -> Drainer:
        """The only one of a scheduler; made when it is first needed."""

        def make() -> Drainer:
            made = cls(scheduler)
            _dask.add_rpc(scheduler, DRAIN_HANDLER, made.drain_for_agent)
            _dask.add_rpc(scheduler, REFILL_HANDLER, made.refill_for_agent)
            _dask.add_stream_handler(scheduler, REPORT_ANSWER, made.reported)
            return made

        return _dask.only_plugin(scheduler, cls.name, make)

    # -- for pools and agents --------------------------------------------------------------------

    def within(self, seconds: float) -> float:
        """The deadline so many seconds from now."""
        return self._clock() + seconds

    async def drain_peer(
        self, peer: Peer, pool: str, deadline: float, asker: Asker = "pool"
    ) -> dict[str, Loss]:
        """Drain all workers of a peer, together; returns when the scheduler knows none any more.

        A worker that is being drained already is not drained twice; the earlier deadline counts.
        If this is cancelled, workers that nobody else wants drained take tasks again.

        Parameters
        ----------
        deadline
            When all of it has to be over, on this drainer's clock.
        asker
            Who asks, for people.

        Returns
        -------
        dict
            What was lost, by the address of each worker that was drained.

        Raises
        ------
        DistError
            The scheduler closes.
        """
        lost: dict[str, Loss] = {}
        # Again, for a worker that its nanny has restarted meanwhile.
        while addresses := self._members.workers(pool, peer):
            lost |= await self._drain(addresses, Want(deadline, asker))
        return lost

    async def release_peer(self, peer: Peer, pool: str, deadline: float) -> dict[str, Loss]:
        """:meth:`drain_peer` at no cost: its workers go together, or go on working.

        Where somebody else wants them drained in any case, that is what happens.

        Raises
        ------
        CalledOffError
            All its workers work again, or have never been taken off work. It says why.
        DistError
            The scheduler closes.
        """
        lost: dict[str, Loss] = {}
        while addresses := self._members.workers(pool, peer):
            if why := self._hopeless(addresses):
                self._never_began(peer, pool, addresses, why)
                raise CalledOffError(why)
            lost |= await self._drain(addresses, Want(deadline, "pool", release=True))
        return lost

    async def drain_for_agent(
        self, peer: str, pool: str, timeout: float, workers: Sequence[str] | None = None
    ) -> dict[str, str] | Status:
        """RPC of an agent that ends: :meth:`drain_peer`, in types that msgpack has.

        Parameters
        ----------
        timeout
            Seconds.
        workers
            Only these of its workers; default all, and those that come meanwhile.

        Returns
        -------
        dict
            For each worker what was lost, or an empty text. A scheduler that closes answers
            nothing, and closes the connection in a moment.

        Raises
        ------
        PeerError
            ``peer`` names none.
        """
        deadline = self.within(max(0.0, float(timeout)))
        try:
            if workers is None:
                lost = await self.drain_peer(Peer.parse(peer), pool, deadline, "agent")
            else:
                there = self._members.workers(pool, Peer.parse(peer))
                want = Want(deadline, "agent")
                lost = await self._drain([w for w in workers if w in there], want)
                for worker in lost:
                    self._members.let_go(worker)
        except DistError as exc:
            # Raised, it would be logged with a traceback.
            logger.info("The agent at %s is told nothing: %s", peer, exc)
            return _dask.DONT_REPLY
        return {address: str(loss) if loss else "" for address, loss in lost.items()}

    async def refill_for_agent(self, peer: str, pool: str, worker: str) -> str:
        """RPC of an agent: whether to start a worker in place of one that has ended.

        Raises
        ------
        PeerError
            ``peer`` names none.
        """
        if self._members.was_retired(worker):
            return REFILL_NO
        others = self._members.workers(pool, Peer.parse(peer))
        return REFILL_LATER if any(other in self._drains for other in others) else REFILL_YES

    def is_draining(self, address: str) -> bool:
        """Whether a worker is being drained."""
        return address in self._drains

    def progress(self, peer: Peer, pool: str) -> str:
        """What is left of a peer's drain, in one line; empty where none runs."""
        drains = map(self._drains.get, self._members.workers(pool, peer))
        return "; ".join(drain.progress for drain in drains if drain is not None)

    def drains(self, pool: str) -> list[Drained]:
        """The drains of a pool's workers: the last ones that have ended, and those that run."""
        now = self._clock()
        running = [drain.told for drain in self._drains.values()]
        return [*self._ended.of(pool, now), *(told for told in running if told.pool == pool)]

    def counters(self, pool: str) -> dict[str, int]:
        """How many drains of a pool's workers have ended, releases excepted, and how."""
        return self._ended.counters(pool)

    # -- drains ----------------------------------------------------------------------------------

    async def _drain(self, addresses: Iterable[str], want: Want) -> dict[str, Loss]:
        running = [self._drains[address] for address in addresses if address in self._drains]
        before = [drain.task for drain in running if drain.ending]
        if before:
            await asyncio.wait(before)
        tags = {address: self._members.tag(address) for address in addresses}
        drains = [self._join(a, tag, want) for a, tag in tags.items() if tag is not None]
        try:
            if drains:
                await asyncio.wait([drain.task for drain in drains])
            if why := next(filter(None, (drain.called_off for drain in drains)), ""):
                raise CalledOffError(why)
            if any(drain.task.cancelled() for drain in drains):
                raise DistError("the drain was cancelled: the scheduler closes")
            return {drain.address: drain.task.result() for drain in drains}
        finally:
            unwanted = [drain for drain in drains if not drain.wants.remove(want)]
            await cancel_and_wait(drain.task for drain in unwanted if not drain.task.done())

    def _join(self, address: str, tag: Tag, want: Want) -> Drain:
        drain = self._drains.get(address)
        if drain is not None and not drain.ending:
            drain.wants.add(want)
        else:
            self._note_status(address)
            self._leaving.add(self._scheduler.workers[address])
            drain = Drain(
                self._scheduler,
                address,
                tag,
                want,
                before=lambda: self._before.get(address, Status.running),
                leaving=self._leaving,
                together=lambda: self._together(tag),
                may_leave=self._may_leave,
                memory_manager=self._memory_manager,
                pace=lambda: min(POLL_MAX, max(POLL, POLL_EACH * len(self._drains))),
                later=self._later,
                is_last=lambda: address not in self._drains,
                clock=self._clock,
            )
            self._drains[address] = drain
            drain.task.add_done_callback(lambda _: self._forget(drain))
        return drain

    def _together(self, tag: Tag) -> list[Drain]:
        """The drains of an agent's workers."""
        addresses = self._members.workers(tag.pool, Peer.parse(tag.peer))
        return [self._drains[address] for address in addresses if address in self._drains]

    def _hopeless(self, addresses: Sequence[str]) -> str:
        """Why workers that work cannot go at no cost, or an empty text."""
        workers = [self._scheduler.workers[a] for a in addresses if a not in self._drains]
        leaving = self._leaving.union(workers)
        whys = (
            hopeless(rest_of(self._scheduler, ws, leaving, None, needed_by(self._scheduler, ws)))
            for ws in workers
        )
        return next(filter(None, whys), "")

    def _never_began(self, peer: Peer, pool: str, addresses: Sequence[str], why: str) -> None:
        for address in addresses:
            told = Drained(peer, pool, address, ("pool",), "called-off", 0.0, release=True, why=why)
            self._ended.note(told, self._clock())

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name="gc_bootstrap drain: put back to work")
        self._afterwards.add(task)
        task.add_done_callback(self._afterwards.discard)

    def _forget(self, drain: Drain) -> None:
        if self._drains.get(drain.address) is drain:
            del self._drains[drain.address]
        others = self._drains.get(drain.address)
        if others is None or others.ws is not drain.ws:
            self._leaving.discard(drain.ws)
        self._ended.note(drain.told, self._clock())

    def _may_leave(self, ws: WorkerState) -> bool:
        """Whether all plugins would let a worker go; as old as the time between two looks.

        All that drain are asked about in one go: a shuffle has as many workers as there are.
        """
        now = asyncio.get_running_loop().time()
        if now >= self._asked_until or ws not in self._asked:
            self._asked_until = now + POLL
            self._asked = set(self._leaving)
            self._let_go = _dask.may_leave(self._scheduler, self._leaving)
        return ws in self._let_go

    def _note_status(self, address: str) -> None:
        """Note what a worker goes back to when its drain is cancelled.

        After a cancelled drain the worker's answer to the first order may still be on its way, and
        makes it look as if somebody else were retiring it.
        """
        status = self._scheduler.workers[address].status
        if status != Status.closing_gracefully:
            self._before[address] = status

    def _memory_manager(self) -> ActiveMemoryManagerExtension:
        """Dask's own, if it is running, and else one of ours; it runs in a moment, once for all."""
        found = _dask.memory_manager(self._scheduler)
        if found is None:
            if self._own_manager is None:
                self._own_manager = _dask.new_memory_manager(self._scheduler)
            found = self._own_manager
        if self._kick is None:
            self._kick = asyncio.get_running_loop().call_later(KICK_DELAY, self._run_manager, found)
        return found

    def _run_manager(self, manager: ActiveMemoryManagerExtension) -> None:
        self._kick = None
        manager.run_once()

    # -- what Dask calls -------------------------------------------------------------------------

    def reported(self, worker: str, report: str, keys: Sequence[Any]) -> None:
        """Stream handler: a worker says what it runs, after all it said before about its tasks."""
        if worker in self._drains:
            self._drains[worker].duty.reported(report, keys)

    def log_event(self, topic: str, msg: Any) -> None:
        """Note what a worker last said of itself: it may have paused, or resumed, meanwhile."""
        if topic in self._before:
            status = _dask.says_of_itself(msg)
            if status in (Status.running, Status.paused):
                self._before[topic] = status

    def remove_worker(self, scheduler: Scheduler, worker: str, **kwargs: Any) -> None:
        """Forget what it would go back to."""
        self._before.pop(worker, None)

    async def before_close(self) -> None:
        """End all drains: the scheduler closes."""
        if self._kick is not None:
            self._kick.cancel()
        await cancel_and_wait([drain.task for drain in self._drains.values()])
        await cancel_and_wait(self._afterwards)


async def cancel_and_wait(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks, and wait until they have ended."""
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
