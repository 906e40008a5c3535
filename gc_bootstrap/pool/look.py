"""Looking: who is there, who is a member, how many are needed. What cannot be known is an error."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import replace

from gc_bootstrap.config import AdaptOptions, PoolOptions
from gc_bootstrap.discovery import Discovery
from gc_bootstrap.dist import Dist, Needed
from gc_bootstrap.errors import DiscoveryError, DistError
from gc_bootstrap.peer import Peer, Snapshot
from gc_bootstrap.pool.history import History
from gc_bootstrap.pool.supervise import ends_task, reason_of
from gc_bootstrap.pool.target import Demand, Target, looked
from gc_bootstrap.stake import Capacity

logger = logging.getLogger(__name__)

LOOK_TIMEOUT = 30.0
"""Seconds that a discovery or a dist may take to say who is there. Generous: they set their own."""


class Lookout:
    """Asks a discovery and a dist, and remembers their last answers and errors.

    Parameters
    ----------
    name
        The pool's, for logs.
    clock
        Monotonic seconds.

    Attributes
    ----------
    snapshot
        The last answer of the discovery, marked as not complete after an error; None before the
        first.
    looked_at
        When the discovery was asked last; None before the first time.
    incomplete
        Why the last answer is not complete, and since when there has been no complete one.
    errors
        What cannot be known now and why, by what it is about.
    """

    def __init__(
        self, discovery: Discovery, dist: Dist, name: str, clock: Callable[[], float]
    ) -> None:
        self.snapshot: Snapshot | None = None
        self.looked_at: float | None = None
        self.incomplete: tuple[str, float] | None = ("there is no answer yet", clock())
        self.errors: dict[str, str] = {}
        self._discovery = discovery
        self._dist = dist
        self._name = name
        self._clock = clock
        self._demand: Demand | None = None
        self._first: tuple[Peer, ...] = ()
        self._capacities: dict[Peer, Capacity] = {}
        self._held: frozenset[Peer] = frozenset()

    async def look(self) -> Snapshot:
        """Ask the discovery. On an error the last answer serves, as one that proves no absence.

        Raises
        ------
        DiscoveryError
            There is no last answer.
        """
        self.looked_at = self._clock()
        try:
            async with asyncio.timeout(LOOK_TIMEOUT) as deadline:
                found = await self._discovery.peers()
            if not isinstance(found, Snapshot):
                raise TypeError(f"expected a Snapshot, got {type(found).__name__}")
        except BaseException as exc:
            if ends_task(exc):
                raise
            late = isinstance(exc, TimeoutError) and deadline.expired()
            bug = None if isinstance(exc, DiscoveryError) or late else exc
            error = f"no answer within {LOOK_TIMEOUT:g} s" if late else reason_of(exc)
            self.say_error("discovery", f"discovery failed: {error}", bug)
            self._is_incomplete(error)
            if self.snapshot is None:
                raise DiscoveryError(error) from exc
            self.snapshot = replace(self.snapshot, complete=False, reason=error)
            return self.snapshot
        if self.errors.pop("discovery", None):
            logger.info("Pool %s: discovery answers again", self._name)
        why = " ".join(found.reason.split()) or "the discovery does not say why"
        self._is_incomplete(None if found.complete else why)
        self.snapshot = found
        return found

    async def members(self) -> frozenset[Peer]:
        """Ask the dist who is a member.

        Raises
        ------
        DistError
            It does not know.
        """
        try:
            async with asyncio.timeout(LOOK_TIMEOUT):
                members = await self._dist.members()
        except TimeoutError:
            raise DistError(f"no list of members within {LOOK_TIMEOUT:g} s") from None
        self.errors.pop("members", None)
        return members

    async def target(
        self,
        options: PoolOptions,
        members: AbstractSet[Peer],
        going: AbstractSet[Peer],
        history: History,
        hinted: bool,
    ) -> Target:
        """Find out how many peers the pool should hold, and which.

        Where that cannot be known it should hold as many as before.

        Parameters
        ----------
        members
            Who is a member.
        going
            Of those, the ones that are being let go.
        hinted
            Whether the work has to be looked at although it was, less than ``interval`` ago.
        """
        wanted = options.size
        if options.adapt is not None:
            demand = await self._look_at_work(options.adapt, members, going, history, hinted)
            wanted = demand.wanted(options.adapt)
        first = self._first
        stay = members - going
        too_many = wanted is not None and len(stay) > wanted
        if too_many or any(peer not in stay for peer in first) or self._dist.claims():
            return Target(wanted, first, await self._order(stay))
        return Target(wanted, first)

    def forget_work(self) -> None:
        """Forget what was needed: another rule holds now."""
        self._demand, self._first, self._capacities = None, (), {}
        self.errors.pop("demand", None)
        self.errors.pop("order", None)

    def say_error(self, source: str, error: str, bug: BaseException | None = None) -> None:
        """Remember an error; log it when it is a new one, with a traceback if it is a bug."""
        if self.errors.get(source) != error:
            logger.warning("Pool %s: %s", self._name, error, exc_info=bug)
        self.errors[source] = error

    def _is_incomplete(self, reason: str | None) -> None:
        since = self._clock() if self.incomplete is None else self.incomplete[1]
        self.incomplete = None if reason is None else (reason, since)

    async def _look_at_work(
        self,
        adapt: AdaptOptions,
        members: AbstractSet[Peer],
        going: AbstractSet[Peer],
        history: History,
        hinted: bool,
    ) -> Demand:
        if self._demand is None:
            self._demand = Demand.held(len(members - going), adapt)
        capacities, held = _capacities(history)
        # A plan that was made because a peer has answered need not look at the work as well.
        recent = self._clock() - self._demand.since < 0.9 * adapt.interval
        same = capacities.keys() == self._capacities.keys() and held == self._held
        if recent and not hinted and same:
            return self._demand
        try:
            async with asyncio.timeout(LOOK_TIMEOUT) as deadline:
                needed = await self._dist.needed(capacities, held, adapt)
            if not isinstance(needed, Needed):
                raise TypeError(f"expected a Needed, got {type(needed).__name__}")
        except BaseException as exc:
            self._say_unknown("demand", "how many peers are needed is not known", exc, deadline)
            return self._demand
        if self.errors.pop("demand", None):
            logger.info("Pool %s: how many peers are needed is known again", self._name)
        self._capacities, self._held = capacities, held
        self._first = tuple(needed.first)
        self._demand = looked(self._demand, needed.count, adapt, self._clock())
        return self._demand

    async def _order(self, members: AbstractSet[Peer]) -> tuple[Peer, ...]:
        """In which order to let members go; none of them where that is not known."""
        try:
            async with asyncio.timeout(LOOK_TIMEOUT) as deadline:
                order = tuple(await self._dist.order(members))
        except BaseException as exc:
            self._say_unknown("order", "whom to release is not known", exc, deadline)
            return ()
        self.errors.pop("order", None)
        return order

    def _say_unknown(
        self, source: str, what: str, exc: BaseException, deadline: asyncio.Timeout
    ) -> None:
        if ends_task(exc):
            raise exc
        late = isinstance(exc, TimeoutError) and deadline.expired()
        bug = None if isinstance(exc, DistError) or late else exc
        reason = f"no answer within {LOOK_TIMEOUT:g} s" if late else reason_of(exc)
        self.say_error(source, f"{what}: {reason}", bug)


def _capacities(history: History) -> tuple[dict[Peer, Capacity], frozenset[Peer]]:
    """What those can do that are no members and may be had; and which of them others hold."""
    capacities: dict[Peer, Capacity] = {}
    held: set[Peer] = set()
    for peer, known in history.surveys.items():
        if known.at == -math.inf:
            continue  # it has not answered when it was asked again
        capacities[peer] = known.survey.capacity
        if known.survey.holder is not None:
            held.add(peer)
    return capacities, frozenset(held)
