"""Putting together what a pool knows, for people and programs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace

from gc_bootstrap.config import PoolOptions
from gc_bootstrap.peer import Peer, Snapshot
from gc_bootstrap.pool.enact import Enactor
from gc_bootstrap.pool.look import Lookout
from gc_bootstrap.pool.plan import Plan
from gc_bootstrap.pool.record import Record
from gc_bootstrap.pool.status import PoolStatus
from gc_bootstrap.pool.target import Target
from gc_bootstrap.stake import Claim


def describe(
    *,
    name: str,
    discovery: str,
    dist: str,
    options: PoolOptions,
    paused: bool,
    refreshes: int,
    members: AbstractSet[Peer],
    lookout: Lookout,
    target: Target | None,
    plan: Plan,
    record: Record,
    enactor: Enactor,
    down: Iterable[str],
    progress: Callable[[Peer], str],
    claims: Sequence[Claim],
    now: float,
) -> PoolStatus:
    """Put a status together.

    Parameters
    ----------
    down
        What else is wrong, beside what the lookout knows.
    progress
        How far the drain of a member has come, or nothing.
    now
        The pool's clock, in seconds.
    """
    # From the plan, except for what has been learnt since.
    history = record.history
    held = {**plan.held, **history.departures, **history.called_off, **history.attempts}
    held |= {peer: plan.held[peer] for peer in plan.spare}
    connecting, disconnecting = enactor.connecting, enactor.disconnecting
    snapshot = lookout.snapshot if lookout.snapshot is not None else Snapshot(frozenset())
    peers, incomplete = snapshot.peers, lookout.incomplete
    going = disconnecting.keys() | enactor.releasing.keys()
    may_be_held = plan.held.keys() | history.departures.keys() | history.called_off.keys()
    return PoolStatus(
        name=name,
        discovery=discovery,
        dist=dist,
        paused=paused,
        refresh_interval=options.refresh_interval,
        refreshes=refreshes,
        error="; ".join([*lookout.errors.values(), *down]) or None,
        warning=plan.warning or None,
        incomplete=incomplete[0] if incomplete else None,
        incomplete_for=now - incomplete[1] if incomplete else None,
        peers=tuple(sorted(peers)),
        members=tuple(sorted(members)),
        connecting=tuple(sorted(connecting)),
        disconnecting=tuple(sorted(disconnecting)),
        progress={
            peer: text
            for peer in sorted(members | going)
            if (text := progress(peer)) or peer in going
        },
        counters=dict(record.counters),
        held={
            peer: hold.describe(now)
            for peer, hold in sorted(held.items())
            if peer not in connecting
            and (peer in peers or peer in members)
            and (peer not in members or peer in may_be_held)
        },
        leaving=tuple(sorted(snapshot.leaving)),
        labels={peer: dict(labels) for peer, labels in snapshot.labels.items() if labels},
        same_as={
            peer: member
            for peer, hold in held.items()
            if (member := hold.same_as) is not None and member in members
        },
        size=options.size,
        adapt=options.adapt,
        share=replace(options.share, policy="fair" if options.is_fair else "keep"),
        wanted=None if target is None else target.wanted,
        claims=tuple(claims),
        releasing=tuple(sorted(enactor.releasing)),
        spare=tuple(sorted(plan.spare - members - connecting.keys())),
        held_by={
            peer: holder.scheduler
            for peer, known in sorted(history.surveys.items())
            if (holder := known.survey.holder) is not None and peer in peers and peer not in members
        },
    )
