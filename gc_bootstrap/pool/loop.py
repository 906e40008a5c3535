"""The refresh loop: look, plan, act."""

from __future__ import annotations

import asyncio
import logging
import math
import random as _random
import time
from collections.abc import Awaitable, Callable
from functools import partial
from types import TracebackType
from typing import Self

from gc_bootstrap.config import DEFAULT_POOL, AdaptOptions, PoolOptions
from gc_bootstrap.discovery import DiscoveryLike, as_discovery
from gc_bootstrap.dist import Dist
from gc_bootstrap.errors import DiscoveryError, DistError
from gc_bootstrap.pool import plan as planning
from gc_bootstrap.pool.alarm import Alarm
from gc_bootstrap.pool.describe import describe
from gc_bootstrap.pool.enact import Enactor
from gc_bootstrap.pool.history import backoff
from gc_bootstrap.pool.look import Lookout
from gc_bootstrap.pool.parts import Parts
from gc_bootstrap.pool.plan import Plan
from gc_bootstrap.pool.record import Record
from gc_bootstrap.pool.refresh import Refresher
from gc_bootstrap.pool.resize import resized
from gc_bootstrap.pool.status import PoolNumbers, PoolStatus
from gc_bootstrap.pool.supervise import Supervisor, ends_task, reason_of

logger = logging.getLogger(__name__)

START_PATIENCE = 2.0
"""Seconds that :meth:`Pool.start` waits for both to have started; the loop waits on."""

GAP = 0.05
"""Shortest time between two refreshes, in seconds: a burst of hints makes one refresh."""

HASTE = 0.005
"""The same where peers are being asked whether they are free: a cluster is waiting for them."""

GAP_PER_PEER = 5e-5
"""What each peer adds to that. One costs a refresh some microseconds: however many there are, and
whenever the backoff of one of them ends, a tenth of the event loop's time is not exceeded."""


class Pool:
    """One discovery, one dist and one policy, with a refresh loop of their own.

    Use it as ``async with Pool(discovery, dist) as pool:``, inside a scheduler or anywhere else.

    Parameters
    ----------
    discovery
        A :class:`Discovery`, or a function that returns peers.
    dist
        A :class:`Dist`. Both are started and closed by the pool.
    name
        For logs and status.
    options
        The policy; ``discovery`` and ``dist`` in it are not looked at.
    clock
        Monotonic seconds.
    random
        Uniform in [0, 1), for the jitter of backoffs.

    Raises
    ------
    ConfigError
        ``discovery`` is not one.
    """

    def __init__(
        self,
        discovery: DiscoveryLike,
        dist: Dist,
        *,
        name: str = DEFAULT_POOL,
        options: PoolOptions | None = None,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = _random.random,
    ) -> None:
        self.name = name
        options = options if options is not None else PoolOptions()
        self.discovery = as_discovery(discovery)
        self.dist = dist
        self.paused = False
        self._clock = clock
        self._alarm = Alarm(clock)
        self._record = Record(name, options, self._alarm.consider, clock, random)
        self._enactor = Enactor(dist, name, options, self._record, self._alarm.ring, clock)
        self._lookout = Lookout(self.discovery, dist, name, clock)
        self._refresher = Refresher(
            dist, options, self._lookout, self._record, self._enactor, clock
        )
        self._peers_hinted = False
        self._supervised = False
        self._parts = Parts(name, self.discovery, dist)
        self._supervisor = Supervisor(name, self._delay, options.reconnect.max, clock)
        self._random = random
        self._started = False
        self._closed = False

    @property
    def options(self) -> PoolOptions:
        """The policy as it is now; see :meth:`resize`."""
        return self._refresher.options

    @property
    def numbers(self) -> PoolNumbers:
        """How many of what there are, by the last look."""
        snapshot, members = self._lookout.snapshot, self._refresher.members
        target, peers = self._refresher.target, None if snapshot is None else len(snapshot.peers)
        return PoolNumbers(
            wanted=peers if target is None or target.wanted is None else target.wanted,
            members=None if members is None else len(members),
            peers=peers,
            claimed=sum(claim.wants for claim in self.dist.claims()),
        )

    @property
    def _refreshes(self) -> int:
        return self._refresher.looks

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def start(self) -> None:
        """Start the discovery, the dist and the loop. Does not wait for peers.

        A discovery or a dist that does not start is tried again, with backoff, and is an error in
        the status meanwhile.

        Raises
        ------
        ConfigError
            The discovery or the dist cannot work as it is configured; nothing is left running.
        """
        self._start_once()
        self._run_tasks()
        try:
            await self._parts.tried(START_PATIENCE)
        except BaseException:
            await self.close()
            raise

    async def open(self) -> None:
        """Start the discovery and the dist, but no loop: for :meth:`run_once` by hand.

        Raises
        ------
        ConfigError
            As :meth:`start`.
        StartError
            One of them does not start; nothing is left running.
        """
        self._start_once()
        try:
            await self._parts.open()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Stop looking and attaching, and release everything. Members stay as they are."""
        if self._closed:
            return
        self._closed = True
        self._refresher.active = False
        await self._supervisor.close()
        await self._enactor.close()
        await self._parts.close()

    def pause(self) -> None:
        """Look and act no more until :meth:`resume`. What is under way is finished."""
        self.paused, self._refresher.active = True, False
        self._enactor.forget_waiting()

    def resume(self) -> None:
        """Take up refreshing again, at once."""
        self.paused, self._refresher.active = False, not self._closed
        self.hint()

    def hint(self) -> None:
        """Make the loop refresh soon. Cheap; many hints make one refresh."""
        self._peers_hinted = self._refresher.work_hinted = True
        self._alarm.ring()

    def resize(self, size: int | None = None, adapt: AdaptOptions | None = None) -> None:
        """Hold another number of peers from now on; neither argument: all that there are.

        Parameters
        ----------
        size
            So many.
        adapt
            As many as the work needs.

        Raises
        ------
        ConfigError
            They contradict each other, or what the pool is to keep; it goes on as before.
        """
        self._refresher.options = resized(self.options, size, adapt)
        self._lookout.forget_work()
        if self._supervised and not self._closed:
            self._run_tasks()
        self._hint_at_work()

    async def refresh(self) -> Plan:
        """Look, plan and begin to act, now; does not wait for what was begun, nor for the loop.

        A paused pool looks and plans, and does nothing.

        Refreshes never overlap: while one runs, this waits for it and then does its own.

        Returns
        -------
        Plan
            What was found to do.

        Raises
        ------
        DiscoveryError
            Nothing has ever been discovered, and nothing could be now.
        DistError
            Who is a member could not be read. In both cases nothing was done.
        """
        if not self._parts.opened.is_set():
            raise DiscoveryError("it has not been started yet")
        return await self._refresher.step(look=True)

    async def run_once(self) -> Plan:
        """Refresh, and wait until all that it began has ended (each part has its own deadline).

        Raises
        ------
        DiscoveryError, DistError
            As :meth:`refresh`.
        """
        plan = await self.refresh()
        await self._enactor.settled()
        # Whoever has said that it is free can be connected now.
        while (plan.survey or plan.reread) and self._refresher.active:
            plan = await self._refresher.step(look=False)
            await self._enactor.settled()
        return plan

    async def status(self) -> PoolStatus:
        """Say what the pool knows, members read anew.

        Raises
        ------
        DistError
            Who is a member could not be read.
        """
        # A dist that has not been started has no members, and the error says why.
        members = await self._lookout.members() if "dist" in self._parts.started else frozenset()
        return describe(
            name=self.name,
            discovery=repr(self.discovery),
            dist=repr(self.dist),
            options=self.options,
            paused=self.paused,
            refreshes=self._refreshes,
            members=members,
            lookout=self._lookout,
            target=self._refresher.target,
            plan=self._refresher.plan,
            record=self._record,
            enactor=self._enactor,
            down=self._supervisor.down.values(),
            progress=self.dist.progress,
            claims=self.dist.claims(),
            now=self._clock(),
        )

    # -- the loop --------------------------------------------------------------------------------

    def _start_once(self) -> None:
        if self._started:
            raise RuntimeError(f"pool {self.name!r} has been started already")
        self._started = True

    def _run_tasks(self) -> None:
        """Start what has to run and does not."""
        self._supervised = True
        tasks = {"refresh loop": self._run}
        if self.options.refresh_interval is not None:
            tasks["discovery hints"] = partial(self._watch, self.discovery.changed, self.hint)
        if self.options.refresh_interval is not None or not self._refresher.is_simple:
            tasks["dist hints"] = partial(self._watch, self.dist.changed, self._hint_at_work)
        for what, work in tasks.items():
            if not self._supervisor.runs(what):
                self._supervisor.run(what, work)

    async def _run(self) -> None:
        await self._parts.open_at_last(self._delay, partial(self._lookout.say_error, "start"))
        self._lookout.errors.pop("start", None)
        # Not for ever: what swallows a cancellation does not keep the loop.
        while not self._closed:
            began = self._clock()
            self._alarm.reset()
            if not self.paused:
                look, self._peers_hinted = self._is_look_due(), False
                await self._refresh_and_log(look)
                if self.options.refresh_interval is None and self._refresher.is_simple:
                    return
            earliest = began + self._gap()
            await self._alarm.sleep(partial(self._wakes_at, began, earliest), earliest)

    def _is_look_due(self) -> bool:
        """Whether the discovery is asked, or its last answer will do."""
        last, interval = self._lookout.looked_at, self.options.refresh_interval
        if last is None or (self._refresher.is_simple and interval is not None):
            return True
        if interval is None:
            return False
        return self._peers_hinted or self._clock() >= last + interval

    def _delay(self, failures: int) -> float:
        return backoff(self.options.reconnect, failures, self._random())

    def _gap(self) -> float:
        snapshot = self._lookout.snapshot
        peers = snapshot.peers if snapshot is not None else ()
        return (HASTE if self._refresher.plan.survey else GAP) + GAP_PER_PEER * len(peers)

    def _wakes_at(self, began: float, earliest: float) -> float:
        """When the next refresh is due if nobody hints at one."""
        if self.paused:
            return math.inf
        interval = self.options.refresh_interval or math.inf
        if self._refresher.is_simple:
            due = began + interval
        else:
            last = self._lookout.looked_at
            due = (began if last is None else last) + interval
            if self.options.adapt is not None:
                due = min(due, began + self.options.adapt.interval)
        next_end = planning.next_end(self._refresher.plan, self._record.history, self._clock())
        return min(due, max(earliest, next_end))

    def _hint_at_work(self) -> None:
        """Make the loop plan soon; the discovery need not be asked for that."""
        self._refresher.work_hinted = True
        self._alarm.ring()

    async def _refresh_and_log(self, look: bool) -> None:
        try:
            await self._refresher.step(look)
        except DiscoveryError:
            pass  # the lookout has said it
        except BaseException as exc:
            # A dist that cannot say who is a member, or a bug of somebody's. The loop goes on.
            if ends_task(exc):
                raise
            bug = None if isinstance(exc, DistError) else exc
            self._lookout.say_error("members", f"refresh failed: {reason_of(exc)}", bug)

    async def _watch(
        self, changed: Callable[[], Awaitable[None]], hint: Callable[[], None]
    ) -> None:
        """Turn hints into wake-ups, for as long as the pool lives."""
        await self._parts.opened.wait()
        while not self._closed:
            try:
                await changed()
            except BaseException as exc:
                if ends_task(exc):
                    raise
                logger.warning("Pool %s: no hints for now: %s", self.name, reason_of(exc))
                await asyncio.sleep(self.options.reconnect.max)
            else:
                hint()
                await asyncio.sleep(GAP)
