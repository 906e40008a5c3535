"""Whom to ask for peers that others hold, and for how many, as pure functions.

The rule is in :mod:`~gc_bootstrap.pool.share`; here is what is known of the holders, and how often
each is asked.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import replace
from itertools import islice

from gc_bootstrap.peer import Peer
from gc_bootstrap.pool import share
from gc_bootstrap.pool.history import History
from gc_bootstrap.pool.surveys import Known
from gc_bootstrap.stake import NOT_SAID, Holder, Stake

CLAIM_EVERY = 1.0
"""Seconds between two claims of the same holder. A claim is forgotten after some 15 s."""
INTEREST_EVERY = 5.0
"""The same where the rule gives nothing: to know what the holder has, and to hear at once when it
does not need what it has."""


def every(count: int) -> float:
    """Seconds between two claims of a holder of whom so many are wanted."""
    return CLAIM_EVERY if count else INTEREST_EVERY


def wants(own: Stake, missing: int, peers: AbstractSet[Peer], history: History) -> dict[str, int]:
    """How many peers to claim of each holder, those included that would give none."""
    newest: dict[str, Known] = {}
    counts: Counter[str] = Counter()
    for peer, known in history.surveys.items():
        if known.survey.holder is None or peer not in peers:
            continue
        name = known.survey.holder.scheduler_id
        counts[name] += 1
        if name not in newest or _says_more(known, newest[name]):
            newest[name] = known
    holders = {}
    for name, known in newest.items():
        assert known.survey.holder is not None
        # As counted: newer than what it has said, and what it has elsewhere is nothing to claim.
        holders[name] = replace(known.survey.holder.stake, holds=counts[name])
    given = share.claims(own, missing, holders)
    return given | dict.fromkeys(holders.keys() - given.keys(), 0)


def _says_more(known: Known, than: Known) -> bool:
    """Whether one survey says more of a holder: not each agent has been told its weight."""
    first, second = known.survey.holder, than.survey.holder
    assert first is not None
    assert second is not None
    return (first.stake != NOT_SAID, known.at) > (second.stake != NOT_SAID, than.at)


def claims(
    wanted: Mapping[str, int],
    most: int,
    holders: Mapping[Peer, Holder],
    history: History,
    now: float,
) -> dict[Peer, int]:
    """By which peer to claim of each holder, and how many it is told are wanted.

    Another one each time: one that does not answer is no obstacle. Not more than ``most``, since
    each may turn out to be free, and be attached.
    """
    oldest: dict[str, Peer] = {}
    for peer, holder in holders.items():
        before = oldest.get(holder.scheduler_id)
        if before is None or history.surveys[peer].at < history.surveys[before].at:
            oldest[holder.scheduler_id] = peer
    due = {
        oldest[name]: count
        for name, count in wanted.items()
        if name in oldest and now - history.claimed.get(name, -math.inf) >= every(count)
    }
    return dict(islice(due.items(), most))
