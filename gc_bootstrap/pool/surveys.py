"""What is remembered of peers that were surveyed, claimed and given, as values.

:class:`~gc_bootstrap.pool.history.History` holds them, :mod:`~gc_bootstrap.pool.sized` reads them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from gc_bootstrap.peer import Peer
from gc_bootstrap.stake import Claim, Survey

FRESH = 30.0
"""Seconds for which a peer that said it was free is connected without being asked again. One that
has been taken meanwhile refuses, which costs a request."""
REREAD = 60.0
"""Seconds after which what a peer can do is read again, and for which it is remembered of one that
an incomplete answer does not name."""
GIFT_FOR = 15.0
"""Seconds after a drain for which the peer counts as its claimant's although no claim says so: as
long as a claim lives, so that no old claim is served twice."""


@dataclass(frozen=True, slots=True)
class Known:
    """A survey, and when it was made; minus infinity where something speaks against it since."""

    survey: Survey
    at: float


@dataclass(frozen=True, slots=True)
class Gift:
    """A member that is let go for a claimant.

    Parameters
    ----------
    scheduler_id
        Of whom.
    by_rule
        Whether the pool needs it as well, and the rule gives it.
    after
        How many peers its claimant holds once it has arrived.
    ended
        When the drain has ended; None while it runs.
    """

    scheduler_id: str
    by_rule: bool
    after: int
    ended: float | None = None


def on_the_way(gifts: Iterable[Gift], claims: Sequence[Claim]) -> Counter[str]:
    """How many peers are on their way to each scheduler, that its claim does not know of."""
    holds = {claim.scheduler_id: claim.stake.holds for claim in claims}
    return Counter(g.scheduler_id for g in gifts if g.after > holds.get(g.scheduler_id, -1))


def still_given(gifts: Mapping[Peer, Gift], now: float) -> Mapping[Peer, Gift]:
    """The gifts that still count."""
    return {
        p: g for p, g in gifts.items() if now - (now if g.ended is None else g.ended) < GIFT_FOR
    }


def still_known(
    surveys: Mapping[Peer, Known],
    named: frozenset[Peer],
    members: frozenset[Peer],
    complete: bool,
    now: float,
) -> Mapping[Peer, Known]:
    """The surveys of those that are no members and are named, or may only be missing for now."""
    oldest = math.inf if complete else now - REREAD
    others = frozenset(surveys) - named
    gone = {peer for peer in others if surveys[peer].at <= oldest}
    gone |= members - members.difference(surveys)
    if not gone:
        return surveys
    return {peer: known for peer, known in surveys.items() if peer not in gone}
