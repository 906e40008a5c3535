"""What is remembered from one refresh to the next, as values and pure functions.

:func:`observe`, :func:`attempted` and :func:`departed` fold what happened into a :class:`History`,
and :mod:`~gc_bootstrap.pool.shared` what peers and other schedulers have said;
:mod:`~gc_bootstrap.pool.plan` reads it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from itertools import islice
from types import MappingProxyType
from typing import Any

from gc_bootstrap.config import ReconnectOptions
from gc_bootstrap.peer import Outcome, Peer, Snapshot
from gc_bootstrap.pool.surveys import Gift, Known, still_given, still_known

SOON = 5.0
"""Longest backoff, in seconds, of a peer that may be had at any moment and is cheap to ask: one
that is held by somebody else, or whose host answers that nobody listens yet. As long as the default
refresh interval."""
ASKS = 100.0
"""Such peers that are asked in a second, all together, at most: where there are more than
``SOON * ASKS`` of them, each waits longer, as Consul's ``RateScaledInterval`` has it. An ask takes
about a millisecond of the event loop."""
GONE_FOR = 600.0
"""Seconds for which the attempts of a peer are remembered that incomplete answers do not name; some
times the longest backoff."""
MOST_GONE = 1000
"""Of how many such peers they are remembered at most."""


@dataclass(frozen=True, slots=True)
class Hold:
    """Why a peer is left alone for now.

    Parameters
    ----------
    reason
        For people.
    until
        Time at which it ends, on the pool's clock; infinity where something else has to happen.
    failures
        How many attempts in a row have failed.
    same_as
        The member that this peer is another name of; the hold ends when that one is gone.
    soon
        Whether the last failure was one after which the peer is asked again within seconds.
    expected
        Whether that is part of the peer's normal life, as :attr:`.Outcome.expected`.
    """

    reason: str
    until: float = math.inf
    failures: int = 0
    same_as: Peer | None = None
    soon: bool = False
    expected: bool = False

    def describe(self, now: float) -> str:
        """Say it in one line, with the seconds that are left."""
        if self.until == math.inf:
            return self.reason
        if self.failures and self.until <= now:
            return f"waits for its turn after {self.failures} failures: {self.reason}"
        left = f"{max(0.0, self.until - now):.1f} s"
        if self.expected:
            return f"{self.reason}; asked again in {left}"
        if self.failures:
            return f"backing off for {left} after {self.failures} failures: {self.reason}"
        return f"{self.reason}, {left} left"


@dataclass(frozen=True, slots=True)
class Absence:
    """A member that discovery does not name: since when, and in how many answers in a row."""

    since: float
    times: int


def _nothing() -> Mapping[Any, Any]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class History:
    """All that is remembered from one refresh to the next. Membership is not: that is read anew.

    Parameters
    ----------
    attempts
        What came of connecting peers.
    appeared
        Since when those peers are to be connected that have not been tried yet.
    gone
        Since when peers in ``attempts`` are not named any more, by answers that are not complete;
        those that went first come first.
    soon
        How many of ``attempts`` are to be asked again within seconds.
    absences
        Members that discovery does not name.
    departures
        Members that the dist would not let go, when it was asked last.
    called_off
        Members whose release has been called off.
    surveys
        What peers that are no members have said of themselves.
    surveyed
        When so many have been asked that were not waited for that more may be.
    claimed
        By scheduler id when peers were claimed last.
    gifts
        Members that are let go for others, and that were a moment ago.
    """

    attempts: Mapping[Peer, Hold] = field(default_factory=_nothing)
    appeared: Mapping[Peer, float] = field(default_factory=_nothing)
    gone: Mapping[Peer, float] = field(default_factory=_nothing)
    soon: int = 0
    absences: Mapping[Peer, Absence] = field(default_factory=_nothing)
    departures: Mapping[Peer, Hold] = field(default_factory=_nothing)
    called_off: Mapping[Peer, Hold] = field(default_factory=_nothing)
    surveys: Mapping[Peer, Known] = field(default_factory=_nothing)
    surveyed: float = -math.inf
    claimed: Mapping[str, float] = field(default_factory=_nothing)
    gifts: Mapping[Peer, Gift] = field(default_factory=_nothing)


def backoff(options: ReconnectOptions, failures: int, random: float) -> float:
    """How long to wait after the ``failures``-th failure in a row.

    gRPC's connection backoff (``doc/connection-backoff.md`` of the gRPC project): 1 s, times 1.6,
    at most 2 minutes, jitter 0.2.

    Parameters
    ----------
    failures
        At least 1.
    random
        Uniform in [0, 1).

    Returns
    -------
    float
        Seconds, between ``(1 - jitter) * initial`` and ``(1 + jitter) * max``.
    """
    # log2 first: factor**failures overflows a float long before anybody stops retrying.
    steps = (failures - 1) * math.log2(options.factor)
    ceiling = math.log2(options.max / options.initial)
    delay = options.max if steps >= ceiling else options.initial * 2**steps
    return delay * (1 + options.jitter * (2 * random - 1))


def observe(
    history: History, snapshot: Snapshot, members: AbstractSet[Peer], now: float
) -> History:
    """Fold one look into the history.

    A complete snapshot makes the history of peers that it does not name forgotten, and counts the
    absence of members. An incomplete one proves no absence and does neither; but what it does not
    name is remembered for :data:`GONE_FOR` and of :data:`MOST_GONE` peers only.
    """
    gone = {} if snapshot.complete else _gone(history, snapshot, now)
    attempts = {
        peer: hold
        for peer, hold in history.attempts.items()
        if (peer in snapshot.peers or peer in gone)
        and not (hold.failures and peer in members)
        and not (hold.failures == 0 and hold.until <= now)
    }
    soon = sum(hold.soon for hold in attempts.values())
    snapshot = by_member(snapshot, members, attempts)
    absences = {p: a for p, a in history.absences.items() if p in members}
    if snapshot.complete:
        absences = {
            peer: Absence(absences[peer].since, absences[peer].times + 1)
            if peer in absences
            else Absence(now, 1)
            for peer in members - snapshot.peers
        }
    else:
        absences = {p: a for p, a in absences.items() if p not in snapshot.peers}
    staying = snapshot.peers - snapshot.leaving
    departures = {
        peer: hold
        for peer, hold in history.departures.items()
        if peer in members and peer not in staying
    }
    surveys = history.surveys
    if surveys:
        surveys = still_known(surveys, snapshot.peers, frozenset(members), snapshot.complete, now)
    return replace(
        history,
        attempts=attempts,
        gone=gone,
        soon=soon,
        absences=absences,
        departures=departures,
        called_off={p: hold for p, hold in history.called_off.items() if p in members},
        surveys=surveys,
        gifts=still_given(history.gifts, now),
    )


def planned(history: History, untried: Iterable[Peer], now: float) -> History:
    """Fold into the history which peers are to be connected that have not been tried yet."""
    appeared = {peer: history.appeared.get(peer, now) for peer in untried}
    return replace(history, appeared=appeared)


def _gone(history: History, snapshot: Snapshot, now: float) -> dict[Peer, float]:
    """The peers that are remembered though an incomplete answer does not name them."""
    missing = history.attempts.keys() - snapshot.peers
    gone = {p: at for p, at in history.gone.items() if p in missing and now - at < GONE_FOR}
    gone |= dict.fromkeys(missing - history.gone.keys(), now)
    return dict(islice(gone.items(), max(0, len(gone) - MOST_GONE), None))


def by_member(
    snapshot: Snapshot, members: AbstractSet[Peer], attempts: Mapping[Peer, Hold]
) -> Snapshot:
    """The same answer, that also names the members which it names by another name only.

    Such a member is not absent. It is leaving where all its names are.
    """
    named = {
        peer: hold.same_as
        for peer, hold in attempts.items()
        if hold.same_as is not None
        and peer in snapshot.peers
        and hold.same_as in members
        and hold.same_as not in snapshot.peers
    }
    if not named:
        return snapshot
    there = frozenset(named.values())
    staying = {member for peer, member in named.items() if peer not in snapshot.leaving}
    return replace(
        snapshot, peers=snapshot.peers | there, leaving=snapshot.leaving | (there - staying)
    )


def attempted(
    history: History,
    peer: Peer,
    outcome: Outcome,
    options: ReconnectOptions,
    now: float,
    random: float,
) -> History:
    """Fold the outcome of one connect into the history.

    A success resets the backoff. The peer is all the same not connected again within ``initial``
    seconds, so that a worker that dies at birth is not restarted in a tight loop.
    """
    if outcome.kind == "done":
        hold = Hold("was attached a moment ago", now + options.initial)
    elif outcome.kind == "ignored":
        hold = Hold(outcome.reason)
    elif outcome.same_as is not None:
        hold = Hold(outcome.reason, same_as=outcome.same_as)
    else:
        before = history.attempts.get(peer)
        hold = failed(before, outcome, _within(options, outcome, history.soon), now, random)
    return replace(history, attempts={**history.attempts, peer: hold})


def departed(
    history: History,
    peer: Peer,
    outcome: Outcome,
    options: ReconnectOptions,
    now: float,
    random: float,
) -> History:
    """Fold the outcome of one disconnect into the history: a refused one backs off, too."""
    departures = {p: hold for p, hold in history.departures.items() if p != peer}
    if outcome.kind == "ignored":
        departures[peer] = Hold(outcome.reason)
    elif outcome.kind == "refused":
        before = history.departures.get(peer)
        departures[peer] = failed(before, outcome, options, now, random)
    return replace(history, departures=departures)


def failed(
    before: Hold | None, outcome: Outcome, options: ReconnectOptions, now: float, random: float
) -> Hold:
    """Why a peer is left alone after one more failure, and for how long."""
    failures = 1 + (before.failures if before is not None else 0)
    until = now + backoff(options, failures, random)
    return Hold(outcome.reason, until, failures, soon=outcome.soon, expected=outcome.expected)


def _within(options: ReconnectOptions, outcome: Outcome, many: int) -> ReconnectOptions:
    """The backoff that fits an outcome, where so many peers are asked again within seconds."""
    if not outcome.soon:
        return options
    longest = max(SOON, many / ASKS, options.initial)
    return replace(options, max=min(options.max, longest))
