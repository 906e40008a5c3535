"""What agents and schedulers tell each other of claims, and the table in which both keep them.

A claim is relayed to the scheduler that holds the agent (:data:`.names.CLAIM_HANDLER`, which
answers a :class:`.HolderReply`), and its claimant is told that the agent is free
(:data:`.names.FREE_HANDLER`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from gc_bootstrap.stake import Claim, Stake
from gc_bootstrap.wire import fields
from gc_bootstrap.wire.fields import Message, field

KEPT_FOR = 15.0
"""Seconds that a claim counts, unless it is made again: some looks of who makes it."""
MOST_CLAIMANTS = 100
"""Claimants that are kept; those that hold most for their weight are forgotten first."""

Key = tuple[str, str]
"""Who claims: id of the scheduler, and pool."""
Kept = TypeVar("Kept")


@dataclass(frozen=True, slots=True)
class ClaimCall(Message):
    """An agent to its scheduler: somebody claims the agent.

    ``peer`` and ``pool`` are how that scheduler knows the agent; the others are the claimant's.
    """

    peer: str = field(fields.text)
    pool: str = field(fields.text)
    scheduler: str = field(fields.text)
    scheduler_id: str = field(fields.text)
    for_pool: str = field(fields.text)
    holds: int = field(fields.whole(0))
    weight: float = field(fields.number(*fields.WEIGHTS))
    wants: int = field(fields.whole(0))

    @property
    def claim(self) -> Claim:
        """The claim as a value."""
        stake = Stake(self.holds, self.weight)
        return Claim(self.scheduler, self.scheduler_id, self.for_pool, stake, self.wants)


@dataclass(frozen=True, slots=True)
class FreeCall(Message):
    """An agent to who has claimed it: it is free. All three are how that one has named things."""

    scheduler_id: str = field(fields.text)
    peer: str = field(fields.text)
    pool: str = field(fields.text)


class Claimants(Generic[Kept]):
    """Who has claimed something within the last :data:`KEPT_FOR` seconds, the neediest first.

    Parameters
    ----------
    clock
        Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kept: dict[Key, tuple[float, Stake, Kept]] = {}

    def note(self, key: Key, stake: Stake, kept: Kept) -> bool:
        """Keep what somebody claims in place of what that one has claimed before.

        Returns
        -------
        bool
            Whether it says anything new.
        """
        known = self._current().get(key)
        self._kept[key] = (self._clock() + KEPT_FOR, stake, kept)
        if len(self._kept) > MOST_CLAIMANTS:
            del self._kept[max(self._kept, key=self._has)]
        return known is None or known != kept

    def forget(self, key: Key) -> None:
        """Whoever it is claims nothing any more."""
        self._kept.pop(key, None)

    def current(self) -> dict[Key, Kept]:
        """What is claimed now, by whom; in order of need."""
        kept = self._current()
        return {key: kept[key] for key in sorted(kept, key=self._has)}

    def _current(self) -> dict[Key, Kept]:
        now = self._clock()
        self._kept = {key: found for key, found in self._kept.items() if found[0] > now}
        return {key: kept for key, (_, _, kept) in self._kept.items()}

    def _has(self, key: Key) -> float:
        """How much a claimant would have for its weight with one more."""
        stake = self._kept[key][1]
        return (stake.holds + 1) / stake.weight
