"""Values of size and share that cross layers: what a peer can do, and who holds and wants how many.

Belongs here: the values. Does not belong here: deciding by them (:mod:`gc_bootstrap.pool.share`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType


def _nothing() -> Mapping[str, float]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a peer runs once it is attached.

    Parameters
    ----------
    nworkers
        How many workers.
    nthreads
        Of each of them.
    memory
        Bytes that each may use; 0 where it is not known.
    resources
        What each has of Dask's abstract resources (``dask worker --resources GPU=1``).
    """

    nworkers: int = 1
    nthreads: int = 1
    memory: int = 0
    resources: Mapping[str, float] = field(default_factory=_nothing)


@dataclass(frozen=True, slots=True)
class Stake:
    """What one scheduler has of a pool's peers.

    Parameters
    ----------
    holds
        How many peers it holds; those that are being let go do not count.
    weight
        Of two schedulers the one with twice the weight is entitled to twice as many.
    keeps
        How many it never gives. At least ``holds`` where it gives none at all.
    """

    holds: int = 0
    weight: float = 1.0
    keeps: int = 0


NOT_SAID = Stake(holds=1)
"""Of a holder that has said nothing of itself: it has this peer."""


@dataclass(frozen=True, slots=True)
class Claim:
    """That a scheduler wants peers which another one holds.

    Parameters
    ----------
    scheduler
        Its address.
    scheduler_id
        Which one it is.
    pool
        Its pool.
    stake
        What it has.
    wants
        How many it wants of the holder; 0: it would only hear when one of its peers is free.
    """

    scheduler: str
    scheduler_id: str
    pool: str
    stake: Stake
    wants: int = 1


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a peer, and what it had when that was said."""

    scheduler: str
    scheduler_id: str
    stake: Stake


@dataclass(frozen=True, slots=True)
class Survey:
    """What a peer says of itself to who may want it.

    Parameters
    ----------
    capacity
        What it can do.
    holder
        Whose it is; None where it is nobody's, or already ours.
    """

    capacity: Capacity = field(default_factory=Capacity)
    holder: Holder | None = None
