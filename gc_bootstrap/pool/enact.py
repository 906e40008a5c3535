"""Enacting plans: connects and disconnects that run at once, bounded, each with its deadline.

The only place that makes a plan happen. What comes of each goes into the history, from which the
next plan is made.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from gc_bootstrap.config import PoolOptions
from gc_bootstrap.dist import Dist
from gc_bootstrap.errors import DistError, one_line
from gc_bootstrap.peer import Outcome, Peer
from gc_bootstrap.pool import plan as planning
from gc_bootstrap.pool.plan import History, Hold, Plan

logger = logging.getLogger(__name__)

DROP_MARGIN = 30.0
"""Seconds beyond ``drain.timeout`` for a dist to say what has become of a drop."""
DROPS_AT_ONCE = 25
"""Drops to begin before the event loop gets a turn: 5 ms."""
COUNTERS = (
    "attaches",
    "attach-failures",
    "drops",
    "drops-with-loss",
    "drops-cancelled",
    "drop-failures",
)
"""What :attr:`Enactor.counters` counts."""

Ask = Callable[[Peer], Coroutine[Any, Any, Outcome]]


class Enactor:
    """Runs one pool's connects and disconnects.

    Parameters
    ----------
    dist
        Does them.
    name
        The pool's, for logs.
    options
        The pool's: concurrency, deadlines, backoff.
    on_failure
        Called with the time at which a peer that could not be connected, or let go, may be tried
        again.
    on_free
        Called when a peer has been dealt with that the last plan had something else in mind for.
    clock
        Monotonic seconds.
    random
        Uniform in [0, 1).

    Attributes
    ----------
    history
        What came of the connects and disconnects; the pool folds its observations into it.
    connecting, disconnecting
        What runs now, by peer.
    counters
        How often what has happened, for metrics.
    """

    def __init__(
        self,
        dist: Dist,
        name: str,
        options: PoolOptions,
        on_failure: Callable[[float], None],
        on_free: Callable[[], None],
        clock: Callable[[], float],
        random: Callable[[], float],
    ) -> None:
        self.history = History()
        self.connecting: dict[Peer, asyncio.Task[None]] = {}
        self.disconnecting: dict[Peer, asyncio.Task[None]] = {}
        self.counters = dict.fromkeys(COUNTERS, 0)
        self._dist = dist
        self._name = name
        self._options = options
        self._on_failure = on_failure
        self._on_free = on_free
        self._clock = clock
        self._random = random
        self._waiting: deque[Peer] = deque()
        self._awaited: frozenset[Peer] = frozenset()
        self._closed = False

    @property
    def busy(self) -> set[Peer]:
        """Peers that are being connected or disconnected now."""
        return self.connecting.keys() | self.disconnecting.keys()

    async def enact(self, plan: Plan) -> None:
        """Begin what a plan proposes. What is left of the plan before is forgotten."""
        self._waiting = deque(plan.connect)
        self._awaited = frozenset(plan.awaited)
        self._fill()
        for peer in plan.cancel:
            self._cancel(peer)
        # All of them, unlike connects: who is being dropped must not be given others' data.
        for number, peer in enumerate(plan.disconnect, 1):
            self._run(self.disconnecting, peer, self._disconnect(peer), f"disconnect {peer}")
            if number % DROPS_AT_ONCE == 0:
                await asyncio.sleep(0)
                if self._closed:
                    return

    def forget_waiting(self) -> None:
        """Begin nothing more of the plan."""
        self._waiting.clear()

    async def settled(self) -> None:
        """Wait until all that was begun has ended, and what waited for a place as well."""
        while tasks := [*self.connecting.values(), *self.disconnecting.values()]:
            await asyncio.wait(tasks)
            await asyncio.sleep(0)  # their callbacks give the places to the next ones

    async def close(self) -> None:
        """Cancel what runs, and wait for it. May be called more than once."""
        self._closed = True
        self.forget_waiting()
        tasks = [*self.connecting.values(), *self.disconnecting.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

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
        if self._closed:
            return
        self._fill()
        if peer in self._awaited:
            self._on_free()

    def _fill(self) -> None:
        """Start as many of the waiting connects as may run at once.

        Peers that failed before get at most half of the places: a hundred dead peers, each
        holding a place until its deadline, must not keep a new one waiting.
        """
        places = self._options.connect.concurrency
        for_retries = max(1, places // 2)
        failed_before = self.history.attempts
        retrying = sum(peer in failed_before for peer in self.connecting)
        while self._waiting and len(self.connecting) < places:
            peer = self._waiting[0]
            if peer in failed_before:
                if retrying >= for_retries:
                    return
                retrying += 1
            self._waiting.popleft()
            self._run(self.connecting, peer, self._connect(peer), f"connect {peer}")

    async def _connect(self, peer: Peer) -> None:
        began = self._clock()
        outcome = await self._attempt(self._dist.connect, peer, self._options.connect.timeout)
        before = self.history.attempts.get(peer)
        now = self._clock()
        self.history = planning.attempted(
            self.history, peer, outcome, self._options.reconnect, now, self._random()
        )
        if outcome:
            self.counters["attaches"] += 1
            logger.info("Pool %s: attached %s in %.3f s", self._name, peer, now - began)
            return
        self.counters["attach-failures"] += 1
        level = self._level(before, outcome)
        self._failed(level, "attached", peer, self.history.attempts[peer], now)

    async def _disconnect(self, peer: Peer) -> None:
        began = self._clock()
        logger.info("Pool %s: dropping %s", self._name, peer)
        limit = self._options.drain.timeout + DROP_MARGIN
        outcome = await self._attempt(self._dist.disconnect, peer, limit)
        before = self.history.departures.get(peer)
        now = self._clock()
        self.history = planning.departed(
            self.history, peer, outcome, self._options.reconnect, now, self._random()
        )
        if outcome:
            self.counters["drops"] += 1
            self.counters["drops-with-loss"] += bool(outcome.reason)
            level = logging.WARNING if outcome.reason else logging.INFO
            text = f": {outcome.reason}" if outcome.reason else ""
            logger.log(
                level, "Pool %s: dropped %s in %.3f s%s", self._name, peer, now - began, text
            )
            return
        self.counters["drop-failures"] += 1
        level = self._level(before, outcome)
        self._failed(level, "dropped", peer, self.history.departures[peer], now)

    def _cancel(self, peer: Peer) -> None:
        task = self.disconnecting.get(peer)
        if task is not None and not task.cancelling():
            self.counters["drops-cancelled"] += 1
            logger.info("Pool %s: the drop of %s is cancelled", self._name, peer)
            task.cancel()

    def _level(self, before: Hold | None, outcome: Outcome) -> int:
        """How loud to log a failure: once, and what is normal not as trouble."""
        if before is not None and before.reason == outcome.reason:
            return logging.DEBUG
        return logging.INFO if outcome.expected else logging.WARNING

    def _failed(self, level: int, what: str, peer: Peer, hold: Hold, now: float) -> None:
        retry = "" if hold.until == math.inf else f"; next try in {hold.until - now:.1f} s"
        logger.log(level, "Pool %s: %s not %s: %s%s", self._name, peer, what, hold.reason, retry)
        self._on_failure(hold.until)

    async def _attempt(self, ask: Ask, peer: Peer, timeout: float) -> Outcome:
        """Ask the dist, within a deadline; whatever goes wrong becomes a refusal with a reason."""
        try:
            async with asyncio.timeout(timeout) as deadline:
                return await ask(peer)
        except DistError as exc:
            return Outcome.refused(one_line(exc))
        except TimeoutError as exc:
            late = deadline.expired()
            return Outcome.refused(f"no outcome within {timeout:g} s" if late else one_line(exc))
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise  # the pool closes, or the drop is cancelled
            return Outcome.refused("the attempt was cancelled by somebody else")
        except Exception as exc:
            logger.exception("Pool %s: a bug in its dist, at %s", self._name, peer)
            return Outcome.refused(one_line(exc))
