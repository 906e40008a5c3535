"""What to do next, as a pure function: no clock, no I/O, no logging.

:func:`plan` reads the whole truth (snapshot, members, history) and proposes. The pool enacts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from itertools import chain
from types import MappingProxyType

from gc_bootstrap.config import PoolOptions
from gc_bootstrap.peer import Peer, Snapshot
from gc_bootstrap.pool import sized
from gc_bootstrap.pool.history import History, Hold, by_member
from gc_bootstrap.pool.sized import Sizing
from gc_bootstrap.stake import Claim, Stake


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do, and what not to do and why.

    Parameters
    ----------
    connect
        Peers to connect. Those that were not tried yet come first, and of them who appeared last;
        then those that are to be asked within seconds, then who has been due for longest.
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
    survey
        Peers to ask whose they are, in this order, since some are missing.
    reread
        Peers to ask what they can do, to match the work with it.
    claim
        Peers that others hold, and how many of its holder each is to say are wanted.
    claims_with
        What claims say the pool has: peers that are being connected count.
    release
        Members to let go because they are not needed, or are given away, and for whom.
    gives
        Of those, the ones that are needed and given by the rule.
    spare
        Of ``held``, peers that are not needed.
    stake
        What the pool has of the peers; None where it simply takes every one.
    again
        When to plan again although nothing may have happened.
    """

    connect: tuple[Peer, ...] = ()
    retries: frozenset[Peer] = frozenset()
    disconnect: tuple[Peer, ...] = ()
    cancel: tuple[Peer, ...] = ()
    awaited: tuple[Peer, ...] = ()
    held: Mapping[Peer, Hold] = field(default_factory=lambda: MappingProxyType({}))
    warning: str = ""
    survey: tuple[Peer, ...] = ()
    reread: tuple[Peer, ...] = ()
    claim: Mapping[Peer, int] = field(default_factory=lambda: MappingProxyType({}))
    claims_with: Stake = field(default_factory=Stake)
    release: Mapping[Peer, Claim | None] = field(default_factory=lambda: MappingProxyType({}))
    gives: frozenset[Peer] = frozenset()
    spare: frozenset[Peer] = frozenset()
    stake: Stake | None = None
    again: float = math.inf


_LEAVING = Hold("is leaving")


def plan(
    snapshot: Snapshot,
    members: AbstractSet[Peer],
    history: History,
    options: PoolOptions,
    now: float,
    busy: AbstractSet[Peer] = frozenset(),
    disconnecting: AbstractSet[Peer] = frozenset(),
    sizing: Sizing | None = None,
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
        Peers that are being connected, disconnected or released at this moment.
    disconnecting
        Of those, the ones that are being disconnected.
    sizing
        What a pool should hold that does not simply take every peer; None: it does.

    Returns
    -------
    Plan
        Never connects a member, a leaving or a busy peer; never drops who is no member.
    """
    snapshot = by_member(snapshot, members, history.attempts)
    fresh, retries, held = _candidates(snapshot, members, history, now, busy)
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
    simple = Plan(
        connect=(*fresh, *retries),
        retries=frozenset(retries),
        disconnect=tuple(disconnect),
        cancel=tuple(back),
        awaited=tuple(awaited),
        held=held,
        warning=warning,
    )
    if sizing is None:
        return simple
    releasing = frozenset(sizing.releasing)
    leaving = {*going, *(disconnecting - back)}
    pool = sized.Pool(
        ready=simple.connect,
        # Without those that are no peers of their own: other names, and what is no agent.
        peers=(snapshot.peers - members - busy - snapshot.leaving).difference(
            [peer for peer, hold in held.items() if hold.until == math.inf]
        ),
        resting=held.keys(),
        members=members - leaving - releasing,
        going=leaving,
        connecting=busy - disconnecting - releasing - members,
        busy=busy,
    )
    fit = sized.fit(pool, history, options, now, sizing)
    return replace(
        simple,
        connect=fit.connect,
        retries=simple.retries.intersection(fit.connect),
        cancel=(*simple.cancel, *fit.cancel),
        awaited=(*simple.awaited, *fit.awaited),
        held={**held, **fit.held},
        survey=fit.survey,
        reread=fit.reread,
        claim=fit.claim,
        claims_with=fit.claims_with,
        release=fit.release,
        gives=fit.gives,
        spare=fit.spare,
        stake=fit.stake,
        again=fit.again,
    )


def _candidates(
    snapshot: Snapshot,
    members: AbstractSet[Peer],
    history: History,
    now: float,
    busy: AbstractSet[Peer],
) -> tuple[list[Peer], list[Peer], dict[Peer, Hold]]:
    """Split the peers that are no members: never tried, tried before, and left alone for now."""
    retries: list[Peer] = []
    attempts = history.attempts
    # Thousands of peers: sets are compared in C, a peer's hash is computed in Python.
    candidates = snapshot.peers - members - busy
    held = dict.fromkeys(candidates & snapshot.leaving, _LEAVING)
    candidates -= snapshot.leaving
    untried = candidates.difference(attempts)
    for peer in candidates - untried:
        hold = attempts[peer]
        if hold.same_as in members if hold.same_as is not None else hold.until > now:
            held[peer] = hold
        else:
            retries.append(peer)
    new = untried.difference(history.appeared)
    known = sorted(untried - new, key=history.appeared.__getitem__, reverse=True)
    fresh = [*new, *known]
    retries.sort(key=lambda peer: (not attempts[peer].soon, attempts[peer].until))
    return fresh, retries, held


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
    # Of those that are not leaving: their going has a reason of its own, and comes to an end.
    count = len(members - snapshot.leaving)
    if len(missing) > most_missing(removal.panic_threshold, count):
        reason = f"panic threshold: {len(missing)} of {count} members are missing"
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


def most_missing(threshold: float, members: int) -> int:
    """How many of so many members may be missing at once without a panic.

    Rounded down: with a threshold of 0.5 none of one, one of two and of three, two of four. What
    has not been a panic is none for the progress of its own drains either, since each takes one
    from both numbers.
    """
    return math.floor(threshold * members + 1e-9)  # 0.29 * 100 is less than 29


def next_end(plan: Plan, history: History, now: float) -> float:
    """When the first hold ends by itself; one that is over already is waiting for a free place."""
    holds = chain(
        history.attempts.values(),
        history.departures.values(),
        history.called_off.values(),
        # Those that are not needed wait for something else.
        (plan.held[peer] for peer in (plan.held.keys() - plan.spare) - history.attempts.keys()),
    )
    ends = (hold.until for hold in holds if hold.until > now)
    return min(plan.again, min(ends, default=math.inf))
