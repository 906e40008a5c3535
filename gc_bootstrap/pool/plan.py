"""What to do next, as a pure function: no clock, no I/O, no logging.

:func:`observe` and :func:`attempted` fold what happened into a :class:`History`; :func:`plan`
reads the whole truth (snapshot, members, history) and proposes. The pool enacts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from gc_bootstrap.config import PoolOptions, ReconnectOptions
from gc_bootstrap.peer import Outcome, Peer, Snapshot


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
    """

    reason: str
    until: float = math.inf
    failures: int = 0
    same_as: Peer | None = None

    def describe(self, now: float) -> str:
        """Say it in one line, with the seconds that are left."""
        if self.until == math.inf:
            return self.reason
        left = f"{max(0.0, self.until - now):.1f} s"
        if self.failures:
            return f"backing off for {left} after {self.failures} failures: {self.reason}"
        return f"{self.reason}, {left} left"


@dataclass(frozen=True, slots=True)
class Absence:
    """A member that discovery does not name: since when, and in how many answers in a row."""

    since: float
    times: int


def _nothing() -> Mapping[Peer, Any]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class History:
    """All that is remembered from one refresh to the next. Membership is not: that is read anew.

    Parameters
    ----------
    attempts
        What came of connecting peers.
    absences
        Members that discovery does not name.
    departures
        Members that the dist would not let go, when it was asked last.
    """

    attempts: Mapping[Peer, Hold] = field(default_factory=_nothing)
    absences: Mapping[Peer, Absence] = field(default_factory=_nothing)
    departures: Mapping[Peer, Hold] = field(default_factory=_nothing)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do, and what not to do and why.

    Parameters
    ----------
    connect
        Peers to connect, those that never failed first.
    retries
        Of those, the ones that were tried before.
    disconnect
        Members to let go.
    cancel
        Members that are being let go and are wanted again, or of which too many would go.
    awaited
        Peers that are being connected and should be no members, and those whose drop is cancelled:
        what becomes of them is the reason for the next plan.
    held
        Peers and members that are left alone for now.
    warning
        What an operator has to hear loudly, or empty.
    """

    connect: tuple[Peer, ...] = ()
    retries: frozenset[Peer] = frozenset()
    disconnect: tuple[Peer, ...] = ()
    cancel: tuple[Peer, ...] = ()
    awaited: tuple[Peer, ...] = ()
    held: Mapping[Peer, Hold] = field(default_factory=_nothing)
    warning: str = ""


_LEAVING = Hold("is leaving")


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
    absence of members. An incomplete one proves no absence and does neither.
    """
    attempts = {
        peer: hold
        for peer, hold in history.attempts.items()
        if (peer in snapshot.peers or not snapshot.complete)
        and not (hold.failures and peer in members)
        and not (hold.failures == 0 and hold.until <= now)
    }
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
    return History(attempts, absences, departures)


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
        hold = _failed(history.attempts.get(peer), outcome, options, now, random)
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
        departures[peer] = _failed(before, outcome, options, now, random)
    return replace(history, departures=departures)


def _failed(
    before: Hold | None, outcome: Outcome, options: ReconnectOptions, now: float, random: float
) -> Hold:
    failures = 1 + (before.failures if before is not None else 0)
    return Hold(outcome.reason, now + backoff(options, failures, random), failures)


def plan(
    snapshot: Snapshot,
    members: AbstractSet[Peer],
    history: History,
    options: PoolOptions,
    now: float,
    busy: AbstractSet[Peer] = frozenset(),
    disconnecting: AbstractSet[Peer] = frozenset(),
) -> Plan:
    """Propose what to do.

    Parameters
    ----------
    snapshot
        The last answer of the discovery; with ``complete=False`` where it is an old one.
    members
        Who is connected now, read after the snapshot.
    history
        With this look already folded in by :func:`observe`.
    options
        The pool's policy.
    now
        The pool's clock, in seconds.
    busy
        Peers that are being connected or disconnected at this moment.
    disconnecting
        Of those, the ones that are being disconnected.

    Returns
    -------
    Plan
        Never connects a member, a leaving or a busy peer; never drops who is no member.
    """
    fresh: list[Peer] = []
    retries: list[Peer] = []
    held: dict[Peer, Hold] = {}
    attempts = history.attempts
    snapshot = by_member(snapshot, members, attempts)
    for peer in snapshot.peers - members - busy:
        hold = attempts.get(peer)
        if peer in snapshot.leaving:
            held[peer] = _LEAVING
        elif hold is None:
            fresh.append(peer)
        elif hold.same_as in members if hold.same_as is not None else hold.until > now:
            held[peer] = hold
        else:
            retries.append(peer)
    retries.sort(key=lambda peer: attempts[peer].failures)
    going = list(snapshot.leaving & members)
    warning = ""
    if options.removal.policy == "drain":
        due, waiting, warning = _absent(snapshot, members, history, options, now)
        going += due
        held.update(waiting)
    disconnect = []
    for peer in going:
        hold = history.departures.get(peer)
        if hold is not None and hold.until > now:
            held[peer] = hold
        elif peer not in busy:
            disconnect.append(peer)
    back = disconnecting & (snapshot.peers - snapshot.leaving)
    if warning:
        back |= disconnecting - snapshot.peers
    awaited = back | (snapshot.leaving & busy - disconnecting)
    return Plan(
        connect=(*fresh, *retries),
        retries=frozenset(retries),
        disconnect=tuple(disconnect),
        cancel=tuple(back),
        awaited=tuple(awaited),
        held=held,
        warning=warning,
    )


def _absent(
    snapshot: Snapshot,
    members: AbstractSet[Peer],
    history: History,
    options: PoolOptions,
    now: float,
) -> tuple[list[Peer], dict[Peer, Hold], str]:
    """Split the members that discovery does not name into those due to go and those held."""
    removal = options.removal
    missing = [peer for peer in members - snapshot.peers if peer in history.absences]
    if len(missing) > removal.panic_threshold * len(members):
        reason = f"panic threshold: {len(missing)} of {len(members)} members are missing"
        return [], dict.fromkeys(missing, Hold(reason)), f"{reason}; none is dropped"
    due: list[Peer] = []
    held: dict[Peer, Hold] = {}
    for peer in missing:
        absence = history.absences[peer]
        over = absence.since + removal.grace
        if absence.times < removal.after:
            held[peer] = Hold(f"absent {absence.times} of {removal.after} times")
        elif now < over:
            held[peer] = Hold("absent, in its grace period", over)
        elif snapshot.complete:
            due.append(peer)
        else:
            held[peer] = Hold("absent from an answer that is not complete")
    return due, held, ""
