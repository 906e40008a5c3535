"""The refresh loop: look, plan, act."""

from __future__ import annotations

import asyncio
import logging
import math
import random as _random
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Self

from gc_bootstrap.config import DEFAULT_POOL, PoolOptions
from gc_bootstrap.discovery import DiscoveryLike, as_discovery
from gc_bootstrap.dist import Dist
from gc_bootstrap.errors import DiscoveryError, DistError
from gc_bootstrap.peer import Peer, Snapshot
from gc_bootstrap.pool import plan as planning
from gc_bootstrap.pool.alarm import Alarm
from gc_bootstrap.pool.enact import Enactor
from gc_bootstrap.pool.history import backoff
from gc_bootstrap.pool.parts import Parts
from gc_bootstrap.pool.plan import Plan
from gc_bootstrap.pool.record import Record
from gc_bootstrap.pool.status import PoolStatus
from gc_bootstrap.pool.supervise import Supervisor, ends_task, reason_of

logger = logging.getLogger(__name__)

LOOK_TIMEOUT = 30.0
"""Seconds that a discovery or a dist may take to say who is there. Generous: they set their own."""

START_PATIENCE = 2.0
"""Seconds that :meth:`Pool.start` waits for both to have started; the loop waits on."""

GAP = 0.05
"""Shortest time between two refreshes, in seconds: a burst of hints makes one refresh."""

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
        self.options = options if options is not None else PoolOptions()
        self.discovery = as_discovery(discovery)
        self.dist = dist
        self.paused = False
        self._clock = clock
        self._alarm = Alarm(clock)
        self._record = Record(name, self.options, self._alarm.consider, clock, random)
        self._enactor = Enactor(dist, name, self.options, self._record, self.hint, clock)
        self._snapshot: Snapshot | None = None
        self._plan = Plan()
        self._errors: dict[str, str] = {}
        # Why the last answer is not complete, and since when there has been no complete one.
        self._incomplete: tuple[str, float] | None = ("there is no answer yet", clock())
        self._refreshes = 0
        self._refreshing = asyncio.Lock()
        self._parts = Parts(name, self.discovery, dist)
        self._supervisor = Supervisor(name, self._delay, self.options.reconnect.max, clock)
        self._random = random
        self._started = False
        self._closed = False

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
        self._supervisor.run("refresh loop", self._run)
        if self.options.refresh_interval is not None:
            self._supervisor.run("discovery hints", partial(self._watch, self.discovery.changed))
            self._supervisor.run("dist hints", partial(self._watch, self.dist.changed))
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
        await self._supervisor.close()
        await self._enactor.close()
        await self._parts.close()

    def pause(self) -> None:
        """Look and act no more until :meth:`resume`. What is under way is finished."""
        self.paused = True
        self._enactor.forget_waiting()

    def resume(self) -> None:
        """Take up refreshing again, at once."""
        self.paused = False
        self.hint()

    def hint(self) -> None:
        """Make the loop refresh soon. Cheap; many hints make one refresh."""
        self._alarm.ring()

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
        async with self._refreshing:
            # Who is busy at any moment of the look is left alone: what is read of a peer while
            # its connect ends may be from before.
            busy = self._enactor.busy
            snapshot = await self._look()
            members = await self._members()
            # Thousands of peers cost milliseconds at each step; the loop gets a turn in between.
            await asyncio.sleep(0)
            self._record.looked(snapshot, members)
            await asyncio.sleep(0)
            plan = planning.plan(
                snapshot,
                members,
                self._record.history,
                self.options,
                self._clock(),
                busy | self._enactor.busy,
                self._enactor.disconnecting.keys(),
            )
            self._record.planned(self._plan, plan)
            self._plan = plan
            self._refreshes += 1
            await asyncio.sleep(0)
            if not (self.paused or self._closed):
                await self._enactor.enact(plan)
            return plan

    async def run_once(self) -> Plan:
        """Refresh, and wait until all that it began has ended (each part has its own deadline).

        Raises
        ------
        DiscoveryError, DistError
            As :meth:`refresh`.
        """
        plan = await self.refresh()
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
        members = await self._members() if "dist" in self._parts.started else frozenset()
        now = self._clock()
        # From the plan, except for what has been learnt since.
        history = self._record.history
        held = {**self._plan.held, **history.departures, **history.attempts}
        connecting, disconnecting = self._enactor.connecting, self._enactor.disconnecting
        snapshot = self._snapshot if self._snapshot is not None else Snapshot(frozenset())
        peers = snapshot.peers
        return PoolStatus(
            name=self.name,
            discovery=repr(self.discovery),
            dist=repr(self.dist),
            paused=self.paused,
            refresh_interval=self.options.refresh_interval,
            refreshes=self._refreshes,
            error="; ".join([*self._errors.values(), *self._supervisor.down.values()]) or None,
            warning=self._plan.warning or None,
            incomplete=self._incomplete[0] if self._incomplete else None,
            incomplete_for=now - self._incomplete[1] if self._incomplete else None,
            peers=tuple(sorted(peers)),
            members=tuple(sorted(members)),
            connecting=tuple(sorted(connecting)),
            disconnecting=tuple(sorted(disconnecting)),
            progress={
                peer: text
                for peer in sorted(members | disconnecting.keys())
                if (text := self.dist.progress(peer)) or peer in disconnecting
            },
            counters=dict(self._record.counters),
            held={
                peer: hold.describe(now)
                for peer, hold in sorted(held.items())
                if peer not in connecting
                and (peer in peers or peer in members)
                and (peer not in members or peer in self._plan.held or peer in history.departures)
            },
            leaving=tuple(sorted(snapshot.leaving)),
            labels={peer: dict(labels) for peer, labels in snapshot.labels.items() if labels},
            same_as={
                peer: member
                for peer, hold in held.items()
                if (member := hold.same_as) is not None and member in members
            },
        )

    # -- the loop --------------------------------------------------------------------------------

    def _start_once(self) -> None:
        if self._started:
            raise RuntimeError(f"pool {self.name!r} has been started already")
        self._started = True

    async def _run(self) -> None:
        await self._parts.open_at_last(self._delay, partial(self._say_error, "start"))
        self._errors.pop("start", None)
        # Not for ever: what swallows a cancellation does not keep the loop.
        while not self._closed:
            began = self._clock()
            self._alarm.reset()
            if not self.paused:
                await self._refresh_and_log()
                if self.options.refresh_interval is None:
                    return
            earliest = began + self._gap()
            await self._alarm.sleep(partial(self._wakes_at, began, earliest), earliest)

    def _delay(self, failures: int) -> float:
        return backoff(self.options.reconnect, failures, self._random())

    def _gap(self) -> float:
        peers = self._snapshot.peers if self._snapshot is not None else ()
        return GAP + GAP_PER_PEER * len(peers)

    def _wakes_at(self, began: float, earliest: float) -> float:
        """When the next refresh is due if nobody hints at one."""
        if self.paused:
            return math.inf
        interval = self.options.refresh_interval or math.inf
        next_end = planning.next_end(self._plan, self._record.history, self._clock())
        return min(began + interval, max(earliest, next_end))

    async def _refresh_and_log(self) -> None:
        try:
            await self.refresh()
        except DiscoveryError:
            pass  # _look has said it
        except BaseException as exc:
            # A dist that cannot say who is a member, or a bug of somebody's. The loop goes on.
            if ends_task(exc):
                raise
            bug = None if isinstance(exc, DistError) else exc
            self._say_error("members", f"refresh failed: {reason_of(exc)}", bug)

    async def _watch(self, changed: Callable[[], Awaitable[None]]) -> None:
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
                self.hint()
                await asyncio.sleep(GAP)

    async def _look(self) -> Snapshot:
        """Ask the discovery. On an error the last answer serves, as one that proves no absence."""
        try:
            async with asyncio.timeout(LOOK_TIMEOUT) as deadline:
                found = await self.discovery.peers()
            if not isinstance(found, Snapshot):
                raise TypeError(f"expected a Snapshot, got {type(found).__name__}")
        except BaseException as exc:
            if ends_task(exc):
                raise
            late = isinstance(exc, TimeoutError) and deadline.expired()
            bug = None if isinstance(exc, DiscoveryError) or late else exc
            error = f"no answer within {LOOK_TIMEOUT:g} s" if late else reason_of(exc)
            self._say_error("discovery", f"discovery failed: {error}", bug)
            self._is_incomplete(error)
            if self._snapshot is None:
                raise DiscoveryError(error) from exc
            self._snapshot = replace(self._snapshot, complete=False, reason=error)
            return self._snapshot
        if self._errors.pop("discovery", None):
            logger.info("Pool %s: discovery answers again", self.name)
        why = " ".join(found.reason.split()) or "the discovery does not say why"
        self._is_incomplete(None if found.complete else why)
        self._snapshot = found
        return found

    def _is_incomplete(self, reason: str | None) -> None:
        since = self._clock() if self._incomplete is None else self._incomplete[1]
        self._incomplete = None if reason is None else (reason, since)

    async def _members(self) -> frozenset[Peer]:
        try:
            async with asyncio.timeout(LOOK_TIMEOUT):
                members = await self.dist.members()
        except TimeoutError:
            raise DistError(f"no list of members within {LOOK_TIMEOUT:g} s") from None
        self._errors.pop("members", None)
        return members

    def _say_error(self, source: str, error: str, bug: BaseException | None = None) -> None:
        """Remember an error; log it when it is a new one, with a traceback if it is a bug."""
        if self._errors.get(source) != error:
            logger.warning("Pool %s: %s", self.name, error, exc_info=bug)
        self._errors[source] = error
