"""Enacting plans: connects, drops and releases that run at once, bounded, each with its deadline.

The only place that makes a plan happen. What comes of each goes to the record, from which the next
plan is made.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Sequence, Sized
from functools import partial
from typing import Any

from gc_bootstrap.config import PoolOptions
from gc_bootstrap.dist import Dist
from gc_bootstrap.peer import Outcome, Peer
from gc_bootstrap.pool.attempt import PATIENCE as PATIENCE
from gc_bootstrap.pool.attempt import attempt
from gc_bootstrap.pool.plan import Plan
from gc_bootstrap.pool.record import Record
from gc_bootstrap.pool.survey import Surveyor
from gc_bootstrap.stake import Claim, Stake

logger = logging.getLogger(__name__)

DROP_MARGIN = 30.0
"""Seconds beyond ``drain.timeout`` for a dist to say what has become of a drop."""
DROPS_AT_ONCE = 25
"""Drops to begin before the event loop gets a turn: 5 ms."""
Ask = Callable[[Peer], Coroutine[Any, Any, Outcome]]


class Enactor:
    """Runs one pool's connects, claims, disconnects and releases.

    Parameters
    ----------
    dist
        Does them.
    name
        The pool's, for logs.
    options
        The pool's: concurrency, deadlines, backoff.
    record
        Takes in what comes of them.
    on_free
        Called when a peer has been dealt with that the last plan had something else in mind for.
    clock
        Monotonic seconds.

    Attributes
    ----------
    connecting, disconnecting, releasing
        What runs now, by peer, in the order in which it began.
    claiming
        Of those connecting, the ones that somebody else holds.
    surveyor
        Runs the surveys.
    """

    def __init__(
        self,
        dist: Dist,
        name: str,
        options: PoolOptions,
        record: Record,
        on_free: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        self.connecting: dict[Peer, asyncio.Task[None]] = {}
        self.disconnecting: dict[Peer, asyncio.Task[None]] = {}
        self.releasing: dict[Peer, asyncio.Task[None]] = {}
        self.claiming: set[Peer] = set()
        self.surveyor = Surveyor(dist, name, options, record, on_free)
        self._dist = dist
        self._name = name
        self._options = options
        self._record = record
        self._on_free = on_free
        self._clock = clock
        # What waits for a place: peers that were not tried yet, and the others.
        self._fresh: deque[Peer] = deque()
        self._retries: deque[Peer] = deque()
        # Of those connecting: who holds a place, and who was tried before.
        self._holding: set[Peer] = set()
        self._retrying: set[Peer] = set()
        self._awaited: frozenset[Peer] = frozenset()
        self._closed = False

    @property
    def busy(self) -> set[Peer]:
        """Peers that are being connected, disconnected or released now."""
        return self.connecting.keys() | self.disconnecting.keys() | self.releasing.keys()

    async def enact(self, plan: Plan, claims: Sequence[Claim] = ()) -> None:
        """Begin what a plan proposes. What is left of the plan before is forgotten.

        Parameters
        ----------
        claims
            What others wanted when the plan was made.
        """
        # Some of the plan before may have been started since this one was made.
        connect = [peer for peer in plan.connect if peer not in self.connecting]
        self._fresh = deque(peer for peer in connect if peer not in plan.retries)
        self._retries = deque(peer for peer in connect if peer in plan.retries)
        self._awaited = frozenset(plan.awaited)
        self._fill()
        self.surveyor.ask((*plan.survey, *plan.reread), self._awaited)
        self._record.asked(len(plan.reread))
        for peer, wants in plan.claim.items():
            if peer not in self.connecting:
                self._claim(peer, plan.claims_with, wants)
        for peer in plan.cancel:
            self._cancel(peer)
        # All of them, unlike connects: who is being dropped must not be given others' data.
        for number, peer in enumerate(plan.disconnect, 1):
            self._run(self.disconnecting, peer, self._disconnect(peer), f"disconnect {peer}")
            if number % DROPS_AT_ONCE == 0:
                await asyncio.sleep(0)
                if self._closed:
                    return
        for number, (peer, to) in enumerate(plan.release.items(), 1):
            self._record.releasing(peer, to, claims, peer in plan.gives)
            self._run(self.releasing, peer, self._release(peer, to), f"release {peer}")
            if number % DROPS_AT_ONCE == 0:
                await asyncio.sleep(0)
                if self._closed:
                    return

    def forget_waiting(self) -> None:
        """Begin nothing more of the plan."""
        self._fresh.clear()
        self._retries.clear()
        self.surveyor.forget_waiting()

    async def settled(self) -> None:
        """Wait until all that was begun has ended, and what waited for a place as well."""
        while tasks := self._tasks():
            await asyncio.wait(tasks)
            await asyncio.sleep(0)  # their callbacks give the places to the next ones
        await self.surveyor.settled()

    async def close(self) -> None:
        """Cancel what runs, and wait for it. May be called more than once."""
        self._closed = True
        self.forget_waiting()
        tasks = self._tasks()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, self.surveyor.close(), return_exceptions=True)

    def _tasks(self) -> list[asyncio.Task[None]]:
        running = (self.connecting, self.disconnecting, self.releasing)
        return [task for tasks in running for task in tasks.values()]

    def _run(
        self,
        running: dict[Peer, asyncio.Task[None]],
        peer: Peer,
        work: Coroutine[Any, Any, None],
        what: str,
    ) -> None:
        """Start a task that is in ``running`` for as long as it runs, however it ends."""
        task = asyncio.create_task(work, name=f"gc_bootstrap pool {self._name}: {what}")
        running[peer] = task
        task.add_done_callback(partial(self._ended, running, peer))

    def _ended(
        self, running: dict[Peer, asyncio.Task[None]], peer: Peer, task: asyncio.Task[None]
    ) -> None:
        del running[peer]
        if running is self.connecting:
            self._holding.discard(peer)
            self._retrying.discard(peer)
            self.claiming.discard(peer)
        if self._closed:
            return
        self._fill()
        if peer in self._awaited:
            self._on_free()

    def _fill(self) -> None:
        """Start as many of the waiting connects as may run at once.

        Peers that failed before get at most half: a hundred dead peers must not keep a new one
        waiting.
        """
        while self._fresh and self._has_place(self._holding, self.connecting, 1):
            self._start(self._fresh.popleft())
        while (
            self._retries
            and self._has_place(self._holding, self.connecting, 1)
            and self._has_place(self._holding & self._retrying, self._retrying, 2)
        ):
            self._retrying.add(self._retries[0])
            self._start(self._retries.popleft())

    def _has_place(self, holding: Sized, running: Sized, share: int) -> bool:
        """Whether one more may start of those that may have so much of all there is."""
        options = self._options.connect
        places, most = (max(1, limit // share) for limit in (options.concurrency, options.most))
        return len(holding) < places and len(running) < most

    def _start(self, peer: Peer) -> None:
        self._holding.add(peer)
        self._run(self.connecting, peer, self._connect(peer), f"connect {peer}")

    def _claim(self, peer: Peer, stake: Stake, wants: int) -> None:
        """Claims need no place: there are hardly more than schedulers."""
        self.claiming.add(peer)
        self._record.claiming(peer)
        ask = partial(self._dist.claim, stake=stake, wants=wants)
        self._run(self.connecting, peer, self._connect(peer, ask), f"claim {peer}")

    async def _connect(self, peer: Peer, ask: Ask | None = None) -> None:
        began = self._clock()
        timer = asyncio.get_running_loop().call_later(PATIENCE, self._give_place_back, peer)
        try:
            outcome = await self._attempt(
                ask or self._dist.connect, peer, self._options.connect.timeout
            )
        finally:
            timer.cancel()
        self._record.connected(peer, outcome, began)

    def _give_place_back(self, peer: Peer) -> None:
        self._holding.discard(peer)
        if not self._closed:
            self._fill()

    async def _disconnect(self, peer: Peer) -> None:
        began = self._clock()
        logger.info("Pool %s: dropping %s", self._name, peer)
        limit = self._options.drain.timeout + DROP_MARGIN
        outcome = await self._attempt(self._dist.disconnect, peer, limit)
        self._record.disconnected(peer, outcome, began)

    async def _release(self, peer: Peer, to: Claim | None) -> None:
        began = self._clock()
        limit = self._options.drain.timeout + DROP_MARGIN
        outcome = await self._attempt(partial(self._dist.release, to=to), peer, limit)
        self._record.released(peer, outcome, began, to)

    def _cancel(self, peer: Peer) -> None:
        task = self.disconnecting.get(peer) or self.releasing.get(peer)
        if task is None or task.cancelling():
            return
        if peer in self.releasing:
            self._record.release_cancelled(peer)
        else:
            self._record.cancelled(peer)
        task.cancel()

    async def _attempt(self, ask: Ask, peer: Peer, timeout: float) -> Outcome:
        return await attempt(ask(peer), peer, self._name, timeout, "outcome")
