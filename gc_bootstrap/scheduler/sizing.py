"""How many agents each pool needs for the work that is there, as pure functions.

The meaning is that of Dask's ``Scheduler.adaptive_target``, for each pool by itself: work counts
for the pools whose agents could run it.

Work is a liquid. Tasks of one :class:`.Kind` are so many *slots*: threads that have them done in
the target duration. Agents are filled with slots, each by a share of those that it has. Pools are
filled in their order, each with as many agents as it can have now; the rest goes to the next.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from gc_bootstrap.dist import Needed
from gc_bootstrap.peer import Peer
from gc_bootstrap.scheduler.kinds import ANYWHERE, EPSILON, Agent, Amount, Kind, Shape

ROUNDING = 1e-9
"""By how much sums of shares may be off."""


@dataclass(frozen=True, slots=True)
class Part:
    """One pool, or all workers of other origin.

    Parameters
    ----------
    name
        Of the pool.
    adapts
        Whether it asks how many it needs. Another one has the members that it has.
    members
        Those that it has and that take tasks, the ones that are being let go included.
    peers
        Those that are no members and can be had now.
    claimable
        Those that others hold: they may be had some day.
    shapes
        Of the agents that it knew when it last knew any, for when it knows none.
    minimum, maximum
        How many it may have; None is no limit.
    target
        Seconds that its work should take.
    begun
        Work that its members have begun.
    full
        How many members take no tasks for now, and have a place all the same.
    """

    name: str = ""
    adapts: bool = False
    members: Sequence[Agent] = ()
    peers: Sequence[Agent] = ()
    claimable: Sequence[Agent] = ()
    shapes: frozenset[Shape] = frozenset()
    minimum: int = 0
    maximum: int | None = None
    target: float = 5.0
    begun: Mapping[Kind, Amount] = field(default_factory=dict)
    full: int = 0

    def within(self, count: int) -> int:
        """So many, or the maximum."""
        return count if self.maximum is None else min(count, self.maximum)


def for_work(work: Mapping[Kind, Amount], parts: Sequence[Part]) -> dict[str, Needed]:
    """How many agents each pool needs for the work.

    A pool is asked for all that comes to it, within its maximum, whether so many exist or not:
    whoever starts agents reads it. What it cannot have now goes to the next pool all the same. A
    pool none of whose agents could run a task is not asked for it.

    A pool of which no agent has ever been known may be one that is started from zero. It is asked
    for one, to learn what it can do: for work that can run anywhere, and for work that takes
    resources which nobody has.

    Parameters
    ----------
    work
        That has not been begun.
    parts
        In the order in which they are filled.

    Returns
    -------
    dict
        For each part that adapts, by its name.
    """
    fills = [_Fill(part) for part in parts]
    rest = dict(work)
    for fill in fills:
        # What has been begun stays where it is.
        mixed = [*((kind, True) for kind in fill.part.begun), *((kind, False) for kind in rest)]
        for kind, begun in sorted(mixed, key=lambda item: (*fill.rank(item[0]), not item[1])):
            if begun:
                fill.take(kind, fill.part.begun[kind])
            else:
                rest[kind] = fill.take(kind, rest[kind])
    unbound = [kind for kind in work if kind.resources and not kind.is_placed]
    if not all(any(fill.can_run(kind) for fill in fills) for kind in unbound):
        for fill in fills:
            fill.try_one()
    return {fill.part.name: fill.needed() for fill in fills if fill.part.adapts}


@dataclass(slots=True, eq=False)
class _Group:
    """Agents of one part that are alike."""

    shape: Shape
    agents: list[Agent]
    used: float = 0.0
    """How many of them are full."""
    bound: float = 0.0
    """Of that, with work that not all agents of the part could run."""
    named: dict[int, float] = field(default_factory=dict)
    """Of that, by their numbers, with work that names its places."""

    @property
    def committed(self) -> int:
        """How many of them no agents of other groups can stand in for."""
        return max(len(self.named), _ceil(self.bound))

    @property
    def busy(self) -> float:
        """How many of them can take nothing, or are needed in any case."""
        return max(self.committed, self.used)

    def use(self, share: float, bound: bool) -> None:
        """Fill so much of an agent."""
        self.used += share
        if bound:
            self.bound += share

    def first(self) -> Iterator[Peer]:
        """Those that no others can stand in for; for the same work it names the same ones."""
        if not self.committed:
            return
        others = (n for n in self.in_order() if n not in self.named)
        for number in [*sorted(self.named), *islice(others, self.committed - len(self.named))]:
            peer = self.agents[number].peer
            if peer is not None:
                yield peer

    def in_order(self) -> list[int]:
        """The numbers of all of them: those that are to do the work come first."""
        agents = self.agents
        return sorted(range(len(agents)), key=lambda n: (agents[n].rank, str(agents[n].peer)))


class _Fill:
    """One part while it is filled."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self._members = _groups(part.members)
        # Whichever members are let go, those that stay suffice: the least able ones count first.
        self._members.sort(key=lambda group: (group.shape.slots(ANYWHERE), repr(group.shape)))
        self._peers = _groups(part.peers) if part.adapts else []
        self._peers.sort(key=lambda group: (-group.shape.slots(ANYWHERE), repr(group.shape)))
        self._now = [*self._members, *self._peers]
        self._claimable = _groups(part.claimable) if part.adapts else []
        self._groups = [*self._now, *self._claimable]
        self._shapes = {group.shape for group in self._groups} or part.shapes
        count = sum(len(group.agents) for group in self._groups)
        self._most = part.within(count + part.full) - part.full if part.adapts else count
        self._asked = 0.0
        self._places: dict[str, list[tuple[int, int]]] | None = None

    def can_run(self, kind: Kind) -> bool:
        """Whether an agent of this part, be it there or not, could run tasks of a kind."""
        return any(shape.slots(kind) for shape in self._shapes)

    def rank(self, kind: Kind) -> tuple[int, int, str]:
        """In which order kinds are taken: those with the least choice come first."""
        choice = 0 if kind.is_placed else 1 if self._is_bound(kind) else 2
        return choice, len(kind.workers) + len(kind.hosts), repr(sorted(kind.resources, key=repr))

    def take(self, kind: Kind, amount: Amount) -> Amount:
        """Take work, as much as it can have agents for now; return the rest."""
        slots = amount.slots(self.part.target)
        if slots <= 0:
            return amount
        if kind.is_placed:
            left = self._take_placed(kind, slots, self._now)
            self._take_placed(kind, left, self._claimable)
        elif self._is_bound(kind):
            left = self._take_bound(kind, slots, self._now)
            self._ask(kind, self._take_bound(kind, left, self._claimable))
        else:
            left = self._take_any(kind, slots)
            self._ask(kind, left)
        return amount.times(left / slots)

    def try_one(self) -> None:
        """Ask for one agent, where none has ever been known."""
        if not self._shapes:
            self._asked = max(self._asked, EPSILON)

    def needed(self) -> Needed:
        """The result."""
        committed = sum(group.committed for group in self._groups)
        used = sum(group.used for group in self._groups)
        count = max(committed, _ceil(used + self._asked))
        count = self.part.within(count + self.part.full if count else 0)
        first = [peer for group in self._groups for peer in group.first()]
        return Needed(count, tuple(first[:count]))

    def _is_bound(self, kind: Kind) -> bool:
        """Whether some of the agents can run it and others cannot."""
        return bool(kind.resources) and not all(shape.slots(kind) for shape in self._shapes)

    @property
    def _room(self) -> float:
        """How many more agents may be used."""
        return max(0.0, self._most - sum(group.busy for group in self._groups))

    def _take_placed(self, kind: Kind, slots: float, groups: Sequence[_Group]) -> float:
        places = self._places_of_agents()
        there = {at for place in kind.workers | kind.hosts for at in places.get(place, ())}
        found = [(self._groups[at], number) for at, number in sorted(there)]
        # Those that are used anyway come first, then members, then peers.
        for group, number in sorted(found, key=lambda it: it[1] not in it[0].named):
            each = group.shape.slots(kind)
            has_room = number in group.named or self._room >= 1
            if slots > 0 and each and has_room and group in groups:
                used = group.named.get(number, 0.0)
                share = min(1.0 - used, slots / each)
                group.named[number] = used + share
                group.use(share, bound=True)
                slots = _minus(slots, share * each)
        return slots

    def _places_of_agents(self) -> Mapping[str, list[tuple[int, int]]]:
        """The numbers of groups and of agents in them, by host and by worker."""
        if self._places is None:
            self._places = {}
            for at, group in enumerate(self._groups):
                group.agents = [group.agents[number] for number in group.in_order()]
                for number, agent in enumerate(group.agents):
                    for place in agent.hosts | agent.workers:
                        self._places.setdefault(place, []).append((at, number))
        return self._places

    def _take_bound(self, kind: Kind, slots: float, groups: Sequence[_Group]) -> float:
        for group in groups:
            each = group.shape.slots(kind)
            if each and slots > 0:
                most = min(len(group.agents), math.floor(group.busy + self._room + ROUNDING))
                share = min(max(0.0, most - group.used), slots / each)
                group.use(share, bound=True)
                slots = _minus(slots, share * each)
        return slots

    def _take_any(self, kind: Kind, slots: float) -> float:
        for group in self._now:  # what is needed in any case
            share = min(group.busy - group.used, slots / group.shape.slots(kind))
            group.use(share, bound=False)
            slots = _minus(slots, share * group.shape.slots(kind))
        for group in self._members:
            free = min(len(group.agents) - group.busy, self._room)
            share = min(free, slots / group.shape.slots(kind))
            group.use(share, bound=False)
            slots = _minus(slots, share * group.shape.slots(kind))
        # Of the peers any may be the next that is attached: some of each are counted.
        free = sum(len(group.agents) - group.busy for group in self._peers)
        if slots > 0 and free > 0:
            at_once = sum(
                (len(group.agents) - group.busy) * group.shape.slots(kind) for group in self._peers
            )
            part = min(1.0, self._room / free, slots / at_once)
            for group in self._peers:
                group.use(part * (len(group.agents) - group.busy), bound=False)
            slots = _minus(slots, part * at_once)
        return slots

    def _ask(self, kind: Kind, slots: float) -> None:
        """Ask for agents that do not exist, or that others hold, or that are too many."""
        if slots <= 0:
            return
        weights = dict.fromkeys(self._shapes, 0)
        for group in self._groups:
            weights[group.shape] += len(group.agents)
        able = {shape: weight or 1 for shape, weight in weights.items() if shape.slots(kind)}
        if able:
            total = sum(shape.slots(kind) * weight for shape, weight in able.items())
            self._asked += slots * sum(able.values()) / total
        elif not kind.resources:
            self.try_one()


def _groups(agents: Sequence[Agent]) -> list[_Group]:
    groups: dict[Shape, _Group] = {}
    for agent in agents:
        group = groups.get(agent.shape)
        if group is None:
            group = groups[agent.shape] = _Group(agent.shape, [])
        group.agents.append(agent)
    return list(groups.values())


def _ceil(number: float) -> int:
    return math.ceil(number - ROUNDING)


def _minus(all_of_it: float, some: float) -> float:
    left = all_of_it - some
    return left if left > ROUNDING * all_of_it else 0.0
