"""Work and who can do it, as values: kinds of tasks, amounts of them, agents that are alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from gc_bootstrap.peer import Peer
from gc_bootstrap.stake import Capacity

EPSILON = 1e-5
"""Slots of work that takes no time: it needs an agent all the same."""
KINDS = 500
"""Kinds of tasks that are told apart; see :func:`told_apart`."""


class Kind(NamedTuple):
    """Where tasks can run: on a worker that has the resources, of those that are named.

    Parameters
    ----------
    workers, hosts
        Addresses of workers, and hosts: any of them; where there are none of either, anywhere.
    resources
        Names, and how much of each a task takes.
    """

    workers: frozenset[str] = frozenset()
    hosts: frozenset[str] = frozenset()
    resources: frozenset[tuple[str, float]] = frozenset()

    @property
    def is_placed(self) -> bool:
        """Whether it names workers or hosts."""
        return bool(self.workers or self.hosts)


ANYWHERE = Kind()


class Amount(NamedTuple):
    """So many tasks, that take so long one after the other."""

    tasks: float = 0.0
    seconds: float = 0.0

    def plus(self, other: Amount) -> Amount:
        """Both together."""
        return Amount(self.tasks + other.tasks, self.seconds + other.seconds)

    def times(self, factor: float) -> Amount:
        """A share of it, or a multiple."""
        return Amount(self.tasks * factor, self.seconds * factor)

    def slots(self, target: float) -> float:
        """How many threads have it done in ``target`` seconds; of one task, one at most."""
        return max(EPSILON, min(self.tasks, self.seconds / target)) if self.tasks > 0 else 0.0


class Shape(NamedTuple):
    """What agents that are alike can run."""

    nworkers: int = 1
    nthreads: int = 1
    resources: frozenset[tuple[str, float]] = frozenset()

    @classmethod
    def of(cls, capacity: Capacity) -> Shape:
        """That of an agent."""
        resources = frozenset(capacity.resources.items())
        return cls(capacity.nworkers, capacity.nthreads, resources)

    def slots(self, kind: Kind) -> int:
        """How many tasks of a kind run at once, where the place is right."""
        each: float = max(1, self.nthreads)
        if kind.resources:
            has = dict(self.resources)
            for name, required in kind.resources:
                if required > 0:
                    each = min(each, has.get(name, 0.0) // required)
        return max(1, self.nworkers) * max(0, int(each))


class Agent(NamedTuple):
    """An agent that is a member or could be one, or a worker of other origin.

    Parameters
    ----------
    peer
        None where it is no agent.
    hosts
        By which names tasks know where it is. One that its discovery names by DNS is not known by
        its address before it is a member.
    workers
        Their addresses; none where it is no member.
    rank
        Of two that can do the same work, the one of the lower rank is to do it.
    takes
        Whether it takes tasks: not while its memory is full.
    """

    peer: Peer | None
    shape: Shape
    hosts: frozenset[str] = frozenset()
    workers: frozenset[str] = frozenset()
    rank: int = 0
    takes: bool = True


def told_apart(amounts: Mapping[Kind, Amount]) -> Mapping[Kind, Amount]:
    """The same; of too many kinds, those that name places become one for each of the resources.

    It names all their places. That asks for too few agents at most: their drains know better, which
    go on working as long as they have tasks that nobody else can run.
    """
    if len(amounts) <= KINDS:
        return amounts
    found: dict[Kind, Amount] = {}
    placed: dict[frozenset[tuple[str, float]], list[Kind]] = {}
    for kind, amount in amounts.items():
        if kind.is_placed:
            placed.setdefault(kind.resources, []).append(kind)
        else:
            found[kind] = amount
    for resources, kinds in placed.items():
        workers = frozenset[str]().union(*(kind.workers for kind in kinds))
        hosts = frozenset[str]().union(*(kind.hosts for kind in kinds))
        total = Amount()
        for kind in kinds:
            total = total.plus(amounts[kind])
        found[Kind(workers, hosts, resources)] = total
    return found
