"""How many peers a pool should hold, and what the last looks at the work have found."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gc_bootstrap.config import AdaptOptions
from gc_bootstrap.peer import Peer


@dataclass(frozen=True, slots=True)
class Target:
    """What a pool should hold.

    Parameters
    ----------
    wanted
        How many peers; None is all.
    first
        Peers to hold before any other, the most wanted one first.
    order
        In which order members would be let go; those that must stay for now are left out.
    """

    wanted: int | None = None
    first: tuple[Peer, ...] = ()
    order: tuple[Peer, ...] = ()

    @property
    def limit(self) -> float:
        """How many at most."""
        return math.inf if self.wanted is None else self.wanted


@dataclass(frozen=True, slots=True)
class Demand:
    """How many peers the work has needed at the last looks, oldest first.

    Parameters
    ----------
    counts
        At least one. What was held counts as needed at the looks before the first.
    since
        When the last of those looks began.
    """

    counts: tuple[int, ...]
    since: float = -math.inf

    @classmethod
    def held(cls, count: int, options: AdaptOptions) -> Demand:
        """The one that is assumed before the first look, by a pool that holds so many."""
        return cls((count,) * max(1, options.wait_count - 1))

    def wanted(self, options: AdaptOptions) -> int:
        """How many peers that comes to: more at once, fewer when all the looks agree."""
        most = math.inf if options.maximum is None else options.maximum
        return int(min(max(*self.counts, options.minimum), most))


def looked(demand: Demand, count: int, options: AdaptOptions, now: float) -> Demand:
    """Take in one look at the work.

    Those within one ``interval`` make one look, of which the most counts: hints must not make time
    run faster for who waits ``wait_count`` looks.

    Parameters
    ----------
    demand
        What was known before.
    count
        How many peers the work needs now.
    now
        The pool's clock, in seconds.
    """
    # A timer fires some milliseconds late or early.
    if now - demand.since < 0.9 * options.interval:
        return Demand((*demand.counts[:-1], max(demand.counts[-1], count)), demand.since)
    return Demand((*demand.counts, count)[-options.wait_count :], now)
