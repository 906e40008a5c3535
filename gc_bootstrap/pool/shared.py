"""Folding into a history what peers say of themselves, and what was claimed and given.

Pure functions of a :class:`~gc_bootstrap.pool.history.History`, as those beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace

from gc_bootstrap.config import ReconnectOptions
from gc_bootstrap.peer import Outcome, Peer
from gc_bootstrap.pool.history import ASKS, GONE_FOR, History, Hold, failed
from gc_bootstrap.pool.surveys import Gift, Known, on_the_way
from gc_bootstrap.stake import Claim, Survey

LEFT_FOR = 10.0
"""Seconds for which a peer that was given by the rule is left to its claimant. It is told at once,
others half a second later each."""
LONG = 1e6
"""Seconds after which what a peer has said is old in any case."""
SURPLUS_LEFT_FOR = 2.0
"""The same for one that was not needed: perhaps the claimant does not need it either."""


def surveyed(history: History, peer: Peer, survey: Survey, now: float) -> History:
    """Fold in what a peer has said of itself.

    Held by somebody, it is one that can be reached and is not to be attached now: failures before
    say nothing of the next time. Not so of one that is free, which may yet fail to be attached.
    """
    attempts = history.attempts
    if survey.holder is not None and peer in attempts:
        attempts = {p: hold for p, hold in attempts.items() if p != peer or not hold.failures}
    surveys = {**history.surveys, peer: Known(survey, now)}
    return replace(history, surveys=surveys, attempts=attempts)


def doubted(history: History, peer: Peer) -> History:
    """Have a peer asked again before it is connected; what it can do is remembered."""
    known = history.surveys.get(peer)
    if known is None:
        return history
    return replace(history, surveys={**history.surveys, peer: replace(known, at=-math.inf)})


def freed(history: History, peers: AbstractSet[Peer], now: float) -> History:
    """Fold in that peers have said they are free: they need neither be waited for nor asked.

    Who held them may have let go others, or be gone: those are asked again.
    """
    surveys = dict(history.surveys)
    them = {_holder(surveys[peer]) for peer in peers & surveys.keys()} - {None}
    for peer, known in history.surveys.items():
        if peer in peers:
            surveys[peer] = Known(replace(known.survey, holder=None), now)
        elif _holder(known) in them:
            surveys[peer] = replace(known, at=min(known.at, now - LONG))
    attempts = {peer: hold for peer, hold in history.attempts.items() if peer not in peers}
    return replace(history, attempts=attempts, surveys=surveys)


def _holder(known: Known) -> str | None:
    return None if known.survey.holder is None else known.survey.holder.scheduler_id


def asked(history: History, count: int, now: float) -> History:
    """Fold in that so many peers are asked that nobody waits for: the next ones have to wait."""
    return replace(history, surveyed=now + count / ASKS)


def claimed(history: History, scheduler_id: str, now: float) -> History:
    """Fold in that a scheduler was told that some of its peers are wanted."""
    recent = {name: at for name, at in history.claimed.items() if now - at < GONE_FOR}
    return replace(history, claimed={**recent, scheduler_id: now})


def given(
    history: History, peer: Peer, to: Claim, claims: Sequence[Claim], by_rule: bool
) -> History:
    """Fold in that a member is let go for a claimant."""
    coming = on_the_way(history.gifts.values(), claims)[to.scheduler_id]
    gift = Gift(to.scheduler_id, by_rule, to.stake.holds + coming + 1)
    return replace(history, gifts={**history.gifts, peer: gift})


def not_given(history: History, peer: Peer) -> History:
    """Fold in that a member is not let go for a claimant after all."""
    return replace(history, gifts={p: gift for p, gift in history.gifts.items() if p != peer})


def released(
    history: History,
    peer: Peer,
    outcome: Outcome,
    to: Claim | None,
    options: ReconnectOptions,
    now: float,
    random: float,
) -> History:
    """Fold in the outcome of one release: one that was called off backs off.

    A peer that was let go for a claimant is left to it for a while.
    """
    called_off = {p: hold for p, hold in history.called_off.items() if p != peer}
    gift = history.gifts.get(peer)
    history = not_given(history, peer)
    if not outcome:
        before = history.called_off.get(peer)
        called_off[peer] = (
            Hold(outcome.reason)
            if outcome.kind == "ignored"
            else failed(before, outcome, options, now, random)
        )
    elif to is not None:
        left_for = LEFT_FOR if gift is not None and gift.by_rule else SURPLUS_LEFT_FOR
        hold = Hold(f"given to scheduler {to.scheduler}", now + left_for)
        history = replace(history, attempts={**history.attempts, peer: hold})
        if gift is not None:
            history = replace(history, gifts={**history.gifts, peer: replace(gift, ended=now)})
    return replace(history, called_off=called_off)
