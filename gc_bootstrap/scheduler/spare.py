"""Which agents can be done without, and in which order: pure functions.

The meaning is that of Dask's ``Scheduler.workers_to_close``: idle ones first, and of those the ones
with the least data, as long as the others have room for all the data that there is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from gc_bootstrap.peer import Peer
from gc_bootstrap.scheduler.sizing import Part

MEMORY_RATIO = 2.0
"""How much memory stays for the data, in times of its size; as in ``workers_to_close``."""
MEMORY_USED = 0.6
"""Share of the memory that is used when more is wanted; as in ``adaptive_target``."""


class Holding(NamedTuple):
    """What the workers of one agent hold, or one worker of other origin.

    Parameters
    ----------
    pool
        Empty where it is no agent.
    peer
        None where it is no agent.
    limit
        Bytes of memory that it may use; infinite where it has no limit.
    nbytes
        Size of its data.
    has_data
        Whether it has any, be its size known or not.
    is_idle
        Whether it has no task.
    may_go
        Whether it may be let go, were it not for its data.
    is_leaving
        Whether it goes in any case: its data moves to others.
    """

    pool: str
    peer: Peer | None
    limit: float = float("inf")
    nbytes: int = 0
    has_data: bool = False
    is_idle: bool = True
    may_go: bool = True
    is_leaving: bool = False


class _Memory:
    """Whether those that stay have room for the data of all."""

    def __init__(self, holdings: Iterable[Holding]) -> None:
        self._needed, self._limit, self._unlimited, self._stay = 0.0, 0.0, 0, 0
        for held in holdings:
            self._needed += MEMORY_RATIO * held.nbytes
            if held.has_data:
                self._needed = max(self._needed, 1.0)
            if not held.is_leaving:
                self._count(held, +1)

    def _count(self, held: Holding, sign: int) -> None:
        self._stay += sign
        if held.limit == float("inf"):
            self._unlimited += sign
        else:
            self._limit += sign * held.limit

    def cannot_rely_on(self, holdings: Iterable[Holding]) -> None:
        """Do without some, be there room for the data or not."""
        for held in holdings:
            self._count(held, -1)

    def spares(self, held: Holding) -> bool:
        """Whether it can do without one more; then it does."""
        self._count(held, -1)
        fits = self._unlimited > 0 or self._limit >= self._needed
        if not fits:
            self._count(held, +1)
        return fits


def _first_to_go(holdings: Iterable[Holding]) -> list[Holding]:
    able = [held for held in holdings if held.may_go and not held.is_leaving]
    return sorted(able, key=lambda held: (not held.is_idle, held.nbytes, held.has_data))


def order(pool: str, members: AbstractSet[Peer], holdings: Sequence[Holding]) -> list[Peer]:
    """Members of a pool in the order in which they would be let go.

    Those that must not go are left out, and those whose memory is needed once the ones before
    them have gone.
    """
    memory = _Memory(holdings)
    found = []
    ours = (held for held in holdings if held.pool == pool and held.peer in members)
    for held in _first_to_go(ours):
        if not memory.spares(held):
            break
        assert held.peer is not None
        found.append(held.peer)
    return found


def kept(
    parts: Sequence[Part], holdings: Sequence[Holding], wanted: Mapping[str, int]
) -> dict[str, int]:
    """How many members each pool that adapts keeps: all but idle ones that are spare.

    Pools share the memory for the data. Those that are filled last give first, and nobody relies on
    what they keep beyond their minimum: data that went there would keep them.

    Parameters
    ----------
    wanted
        How many each needs for its work.
    """
    memory = _Memory(holdings)
    found = {}
    for part in reversed(parts):
        if part.adapts:
            ours = [held for held in holdings if held.pool == part.name and not held.is_leaving]
            stay = [held for held in ours if not (held.is_idle and held.may_go)]
            spare = [held for held in _first_to_go(ours) if held.is_idle]
            enough = max(part.minimum, wanted.get(part.name, 0))
            while spare and len(spare) + len(stay) > enough and memory.spares(spare[0]):
                del spare[0]
            stay = spare + stay
            found[part.name] = len(stay)
            memory.cannot_rely_on(stay[part.minimum :])
    return found


def for_memory(parts: Sequence[Part], holdings: Sequence[Holding]) -> dict[str, int]:
    """How many agents pools that adapt want where memory gets scarce: twice as many, all in all.

    They take on more in their order, each as many as it can have now, and are asked for all.
    """
    used = sum(held.nbytes for held in holdings)
    limit = sum(held.limit for held in holdings)
    if not 0 < MEMORY_USED * limit < used:
        return {}
    more, found = len(holdings), {}
    for part in parts:
        if part.adapts and more > 0:
            count = len(part.members) + part.full
            found[part.name] = part.within(count + more)
            more -= max(0, part.within(count + len(part.peers)) - count)
    return found
