"""How many agents the pools of a scheduler need for its work."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from distributed.diagnostics.plugin import SchedulerPlugin

from gc_bootstrap.config import AdaptOptions
from gc_bootstrap.dist import Needed
from gc_bootstrap.errors import DistError
from gc_bootstrap.peer import Peer
from gc_bootstrap.scheduler import _dask, spare
from gc_bootstrap.scheduler.kinds import Agent, Amount, Kind, Shape, told_apart
from gc_bootstrap.scheduler.sizing import Part, for_work
from gc_bootstrap.scheduler.spare import Holding
from gc_bootstrap.scheduler.work import Reader
from gc_bootstrap.stake import Capacity

if TYPE_CHECKING:
    from distributed import Scheduler

FRESH = 0.05
"""Seconds for which a look serves: pools that look together share it."""
SHARE = 0.1
"""Share of the event loop's time that looks may take which new work has caused."""
WAKE_DELAY = 1.0
"""Seconds that new work waits for a look at most, for that reason; Dask's adaptive interval."""
AT_ONCE = 200
"""Agents and kinds of tasks that are sized on the event loop, in a few ms; more are in a thread."""
ASKS_AGAIN = 60.0
"""Seconds in which a pool that adapts asks again, unless it looks more rarely. One that does not
has been given a size."""

Found = TypeVar("Found")


class _Look(Generic[Found]):
    """What is read now and then, and serves all who want it within a moment."""

    def __init__(self, read: Callable[[], Awaitable[Found]], clock: Callable[[], float]) -> None:
        self._read = read
        self._clock = clock
        self._reading = asyncio.Lock()
        self._found: Found | None = None
        self._fresh_until = -math.inf
        self._changes = 0
        self.cost = 0.0
        self.ended = -math.inf

    def expire(self) -> None:
        """Note that it is not what it was."""
        self._changes += 1
        self._fresh_until = -math.inf

    async def take(self) -> Found:
        """Read it, unless that has just been done."""
        async with self._reading:
            if self._found is None or self._clock() >= self._fresh_until:
                began, changes = self._clock(), self._changes
                self._found = await self._read()
                self.ended = self._clock()
                self.cost = self.ended - began
                if changes == self._changes:
                    self._fresh_until = self.ended + FRESH
            return self._found


@dataclass(slots=True)
class _Pool:
    """What is known of a pool."""

    name: str
    rank: int
    wake: Callable[[], None]
    peers: Mapping[Peer, Capacity] = field(default_factory=dict)
    held: AbstractSet[Peer] = frozenset()
    shapes: frozenset[Shape] = frozenset()
    adapt: AdaptOptions = field(default_factory=AdaptOptions)
    asks_until: float = -math.inf


class Demand(SchedulerPlugin):
    """Says how many agents each pool of one scheduler needs; get it with :meth:`of`.

    The pools share the work, and so they share the looks at it.

    Parameters
    ----------
    scheduler
        Whose work.
    clock
        Monotonic seconds.
    """

    name = "gc_bootstrap-demand"

    def __init__(
        self, scheduler: Scheduler, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        reader = Reader(scheduler)
        self._clock = clock
        self._pools: dict[str, _Pool] = {}
        self._work = _Look(reader.work, clock)
        self._workers = _Look(reader.workers, clock)
        self._waking: asyncio.TimerHandle | None = None

    @classmethod
    def of(cls, scheduler: Scheduler) -> Demand:
        """The only one of a scheduler; made when it is first needed."""
        return _dask.only_plugin(scheduler, cls.name, lambda: cls(scheduler))

    def join(self, name: str, rank: int, wake: Callable[[], None]) -> Callable[[], None]:
        """Take a pool in.

        Parameters
        ----------
        rank
            Pools of a lower one are filled before it.
        wake
            Called when there is new work, while the pool adapts.

        Returns
        -------
        callable
            Takes it out.
        """
        joined = self._pools[name] = _Pool(name, rank, wake)

        def leave() -> None:
            if self._pools.get(name) is joined:
                del self._pools[name]

        return leave

    async def needed(
        self,
        name: str,
        capacities: Mapping[Peer, Capacity],
        held: AbstractSet[Peer],
        adapt: AdaptOptions,
    ) -> Needed:
        """How many agents a pool needs; see :meth:`.Dist.needed`.

        Raises
        ------
        DistError
            The pool has left.
        """
        pool = self._pools[name]
        pool.peers, pool.held, pool.adapt = capacities, held, adapt
        pool.asks_until = self._clock() + max(ASKS_AGAIN, 2 * adapt.interval)
        waiting, begun = await self._work.take()
        agents, holdings = await self._workers.take()
        if self._pools.get(name) is not pool:
            raise DistError("the pool has been closed")
        pools = sorted(self._pools.values(), key=lambda pool: pool.rank)
        size = partial(_size, pool, pools, self._adapting(), waiting, begun, agents, holdings)
        things = len(capacities) + len(holdings) + len(waiting) + sum(map(len, begun.values()))
        return size() if things < AT_ONCE else await asyncio.to_thread(size)

    async def order(self, name: str, members: AbstractSet[Peer]) -> list[Peer]:
        """In which order members of a pool would be let go; see :meth:`.Dist.order`."""
        _, holdings = await self._workers.take()
        return spare.order(name, members, holdings)

    # -- what Dask calls -------------------------------------------------------------------------

    def update_graph(self, scheduler: Scheduler, **kwargs: Any) -> None:
        """Wake the pools that adapt: there is new work."""
        self._work.expire()
        if self._waking is None and self._adapting():
            due = self._work.ended + min(WAKE_DELAY, self._work.cost / SHARE)
            delay = max(0.0, due - self._clock())
            self._waking = asyncio.get_running_loop().call_later(delay, self._wake)

    def _adapting(self) -> list[_Pool]:
        now = self._clock()
        return [pool for pool in self._pools.values() if now < pool.asks_until]

    def _wake(self) -> None:
        self._waking = None
        for pool in self._adapting():
            pool.wake()

    async def before_close(self) -> None:
        """Wake nobody any more: the scheduler closes."""
        if self._waking is not None:
            self._waking.cancel()
            self._waking = None


Work = Mapping[Kind, Amount]


def _size(
    pool: _Pool,
    pools: Sequence[_Pool],
    adapting: Sequence[_Pool],
    waiting: Work,
    begun: Mapping[str, Work],
    agents: Mapping[str, Sequence[Agent]],
    holdings: Sequence[Holding],
) -> Needed:
    """How many agents one of several pools needs. May run in a thread: of many it takes long."""
    few = {name: told_apart(amounts) for name, amounts in begun.items()}
    parts = _parts(pools, adapting, few, agents)
    for_them = for_work(told_apart(waiting), parts)
    scarce = spare.for_memory(parts, holdings)
    counts = {name: max(it.count, scarce.get(name, 0)) for name, it in for_them.items()}
    stay = spare.kept(parts, holdings, counts)
    count = max(counts[pool.name], stay[pool.name])
    if pool.adapt.maximum is not None:
        count = min(count, pool.adapt.maximum)
    return Needed(count, for_them[pool.name].first[:count])


def _parts(
    pools: Sequence[_Pool],
    adapting: Sequence[_Pool],
    begun: Mapping[str, Work],
    agents: Mapping[str, Sequence[Agent]],
) -> list[Part]:
    """Workers of other origin, and those of pools that are gone; then the pools."""
    names = {pool.name for pool in pools}
    strange = [agent for name, found in agents.items() if name not in names for agent in found]
    strangers = [agent for agent in strange if agent.takes]
    theirs: dict[Kind, Amount] = {}
    for name, amounts in begun.items():
        if name not in names:
            for kind, amount in amounts.items():
                theirs[kind] = theirs.get(kind, Amount()).plus(amount)
    # Who does not adapt has no target of its own.
    target = min(pool.adapt.target_duration for pool in adapting)
    parts = [Part(members=strangers, begun=theirs, target=target)]
    for pool in pools:
        ours = agents.get(pool.name, ())
        members = [agent for agent in ours if agent.takes]
        part = Part(pool.name, members=members, begun=begun.get(pool.name, {}), target=target)
        if pool in adapting:
            known = {agent.peer for agent in ours}
            others = {
                peer: Agent(peer, Shape.of(capacity), frozenset([peer.host]))
                for peer, capacity in pool.peers.items()
                if peer not in known
            }
            shapes = frozenset(agent.shape for agent in (*ours, *others.values()))
            pool.shapes = shapes or pool.shapes
            part = replace(
                part,
                adapts=True,
                full=len(ours) - len(members),
                peers=[agent for peer, agent in others.items() if peer not in pool.held],
                claimable=[agent for peer, agent in others.items() if peer in pool.held],
                shapes=pool.shapes,
                minimum=pool.adapt.minimum,
                maximum=pool.adapt.maximum,
                target=pool.adapt.target_duration,
            )
        parts.append(part)
    return parts
