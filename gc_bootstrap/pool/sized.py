"""How many peers a pool holds, and which, as a pure function.

:func:`fit` says whom to survey, connect, claim and let go so that a pool holds what it should.
:mod:`~gc_bootstrap.pool.plan` asks it for pools that do not simply take every peer.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from itertools import chain, islice

from gc_bootstrap.config import PoolOptions
from gc_bootstrap.peer import Peer
from gc_bootstrap.pool import claiming, share
from gc_bootstrap.pool.history import ASKS, SOON, History, Hold
from gc_bootstrap.pool.surveys import FRESH, REREAD, on_the_way
from gc_bootstrap.pool.target import Target
from gc_bootstrap.stake import Claim, Holder, Stake

BATCH = 32
"""Peers to survey at once, at least, where some are missing: not all of thousands where four are
wanted, and enough that some dead ones are no delay."""
EVERYTHING = 10**9
"""More peers than there are."""


@dataclass(frozen=True, slots=True)
class Sizing:
    """What has to be known to plan for a pool that does not simply take every peer.

    Parameters
    ----------
    target
        What it should hold.
    claims
        What others want of its members.
    surveying
        Peers that are being surveyed at this moment.
    slow
        Of those, the ones that let wait for an answer, so that others are asked as well.
    claiming
        Of the busy peers, those that are being claimed: somebody else holds them.
    releasing
        Members that are being released, in the order in which that began.
    """

    target: Target
    claims: Sequence[Claim] = ()
    surveying: AbstractSet[Peer] = frozenset()
    slow: AbstractSet[Peer] = frozenset()
    claiming: AbstractSet[Peer] = frozenset()
    releasing: Collection[Peer] = ()


@dataclass(frozen=True, slots=True)
class Pool:
    """A pool at this moment.

    Parameters
    ----------
    ready
        Peers that may be asked or connected now, the most promising first.
    peers
        Those, and the other ones that are no members.
    resting
        Peers that are left alone for now.
    members
        Those that do not go for another reason, without those that are being released.
    going
        Those that go for another reason.
    connecting
        Peers that are being connected or claimed.
    busy
        Those, and members that something is done with.
    """

    ready: Sequence[Peer]
    peers: frozenset[Peer]
    resting: AbstractSet[Peer]
    members: AbstractSet[Peer]
    going: AbstractSet[Peer]
    connecting: AbstractSet[Peer]
    busy: AbstractSet[Peer]


@dataclass(frozen=True, slots=True)
class Fit:
    """What to do about the size; see :class:`.Plan`."""

    connect: tuple[Peer, ...]
    survey: tuple[Peer, ...]
    reread: tuple[Peer, ...]
    claim: Mapping[Peer, int]
    claims_with: Stake
    release: Mapping[Peer, Claim | None]
    gives: frozenset[Peer]
    cancel: tuple[Peer, ...]
    awaited: frozenset[Peer]
    held: Mapping[Peer, Hold]
    spare: frozenset[Peer]
    stake: Stake
    again: float


def fit(pool: Pool, history: History, options: PoolOptions, now: float, sizing: Sizing) -> Fit:
    """Say what to do so that a pool holds what it should.

    Parameters
    ----------
    history
        With the last look folded in.
    options
        The pool's policy.
    now
        The pool's clock, in seconds.

    Returns
    -------
    Fit
        Members that stay and peers that are connecting are never more than wanted, unless they
        were so before.
    """
    target, connecting = sizing.target, len(pool.connecting)
    limit = EVERYTHING if target.wanted is None else target.wanted
    first = target.first[:limit]
    back = _called_back(pool, first, history, sizing, limit - len(pool.members) - connecting)
    members = pool.members | set(back)
    missing = limit - len(members) - connecting
    # Where enough are there, only those matter that are needed more.
    may_come = pool.ready if missing > 0 else [p for p in first if p in pool.peers - pool.resting]
    found = _sort(_put_first(may_come, first), history, now, sizing.surveying)
    candidates = _candidates(pool.members - pool.busy, history, target, first, now)
    surplus = max(0, len(members) - limit)
    swaps = _swaps(found.free, first, candidates[surplus:], missing, connecting)
    release, gives = _releases(
        len(members), surplus + swaps, candidates, history, options, sizing.claims
    )
    stay = len(members) - len(release)
    connect = found.free[: max(0, limit - stay - connecting)]
    coming = connecting + len(connect)
    room = max(0, limit - stay - coming)
    survey = _surveys(found, first, room, len(sizing.surveying - sizing.slow))
    asked = {*survey, *sizing.surveying}
    reread = _reread(pool, history, options, now, asked)
    # Whoever is asked for the first time may be just what is needed.
    waited_for = asked if room else {*asked, *reread} - history.surveys.keys()
    # Not before all have said whose they are: some may be free, and who holds most is not known.
    asking = found.unknown or not sizing.surveying - sizing.slow <= history.surveys.keys()
    claim: dict[Peer, int] = {}
    again = found.stale_at if room else math.inf
    own = Stake(stay + coming - len(sizing.claiming), options.share.weight, options.kept)
    if options.is_fair and room and found.holders and not asking:
        wants = claiming.wants(own, room, pool.peers | pool.busy, history)
        claim = claiming.claims(wants, room, found.holders, history, now)
        again = min(again, now + claiming.every(max(wants.values(), default=0)))
    reasons = _not_held_by_us(found)
    spare: frozenset[Peer] = frozenset()
    if not room:
        spare = pool.peers.difference(connect)
        enough = Hold(f"not needed: {stay + coming} of {limit} wanted")
        reasons = dict.fromkeys(spare, enough)
    return Fit(
        connect=tuple(connect),
        survey=tuple(survey),
        reread=tuple(reread),
        claim=claim,
        claims_with=own,
        release=release,
        gives=gives,
        cancel=tuple(back),
        awaited=frozenset(
            waited_for | pool.connecting | {*connect, *claim, *release, *sizing.releasing}
        ),
        held=reasons,
        spare=spare,
        stake=Stake(stay, options.share.weight, options.kept if options.is_fair else stay),
        again=again,
    )


@dataclass(slots=True)
class _Found:
    """Ready peers by what is known of them.

    ``unknown`` may be free, and ``stale`` were held by somebody when they were asked last; both are
    to be asked. All that are held by somebody are in ``holders``; the next of them is stale at
    ``stale_at``.
    """

    free: list[Peer] = field(default_factory=list)
    unknown: list[Peer] = field(default_factory=list)
    stale: list[Peer] = field(default_factory=list)
    holders: dict[Peer, Holder] = field(default_factory=dict)
    stale_at: float = math.inf


def _put_first(peers: Sequence[Peer], first: Sequence[Peer]) -> Sequence[Peer]:
    if not first:
        return peers
    rank = {peer: place for place, peer in enumerate(first)}
    return sorted(peers, key=lambda peer: rank.get(peer, len(rank)))


def _sort(
    ready: Sequence[Peer], history: History, now: float, surveying: AbstractSet[Peer]
) -> _Found:
    found, surveys = _Found(), history.surveys
    free_since = now - FRESH
    held_for = max(SOON, len(surveys) / ASKS)
    for peer in ready:
        known = surveys.get(peer)
        holder = None if known is None else known.survey.holder
        if known is not None and holder is not None:
            found.holders[peer] = holder
            if known.at + held_for > now:
                found.stale_at = min(found.stale_at, known.at + held_for)
            elif peer not in surveying:
                found.stale.append(peer)
        elif known is not None and known.at >= free_since:
            found.free.append(peer)
        elif peer not in surveying:
            found.unknown.append(peer)
    return found


def _called_back(
    pool: Pool, first: Collection[Peer], history: History, sizing: Sizing, missing: int
) -> list[Peer]:
    """Which releases to cancel where so many members are missing; the last ones first.

    A peer that is given by the rule is needed, too, and stays given while somebody claims it.
    """
    if missing <= 0 or not sizing.releasing:
        return []
    claimants = {claim.scheduler_id for claim in sizing.claims}

    def is_given(peer: Peer) -> bool:
        gift = history.gifts.get(peer)
        return gift is not None and gift.by_rule and gift.scheduler_id in claimants

    back = [p for p in sizing.releasing if p not in pool.going and not is_given(p)]
    return list(_put_first(back[::-1], [p for p in first if p in back]))[:missing]


def _candidates(
    members: AbstractSet[Peer],
    history: History,
    target: Target,
    first: Sequence[Peer],
    now: float,
) -> list[Peer]:
    """Members that may be released, in that order; those that are needed most come last."""
    needed = frozenset(first)
    may_go = [
        peer
        for peer in target.order
        if peer in members and ((hold := history.called_off.get(peer)) is None or hold.until <= now)
    ]
    return sorted(may_go, key=needed.__contains__)


def _swaps(
    free: Sequence[Peer],
    first: Collection[Peer],
    candidates: Sequence[Peer],
    missing: int,
    connecting: int,
) -> int:
    """How many members have to make room for peers that are needed more."""
    if not first or (missing < 0 and connecting):
        return 0
    needed = frozenset(first)
    coming = sum(peer in needed for peer in free) - max(0, missing)
    return max(0, min(coming, sum(peer not in needed for peer in candidates)))


def _releases(
    holds: int,
    count: int,
    candidates: Sequence[Peer],
    history: History,
    options: PoolOptions,
    claims: Sequence[Claim],
) -> tuple[dict[Peer, Claim | None], frozenset[Peer]]:
    """Whom to release for whom, and which of them by the rule although they are needed."""
    given = on_the_way(history.gifts.values(), claims)
    if count:
        release: dict[Peer, Claim | None] = {}
        # What is not needed goes to the neediest, whatever the rule says and they have said.
        plenty = Stake(EVERYTHING, options.share.weight)
        offers = {replace(claim, wants=EVERYTHING): claim for claim in claims}
        for peer in candidates[:count]:
            to = share.give(plenty, tuple(offers), given)
            release[peer] = None if to is None else offers[to]
            if to is not None:
                given[to.scheduler_id] += 1
        return release, frozenset()
    if options.is_fair and candidates:
        own = Stake(holds, options.share.weight, options.kept)
        if (to := share.give(own, claims, given)) is not None:
            return {candidates[0]: to}, frozenset(candidates[:1])
    return {}, frozenset()


def _surveys(found: _Found, first: Collection[Peer], room: int, running: int) -> list[Peer]:
    """Whom to ask, because somebody is missing or because they are needed most."""
    if room:
        # Some will turn out not to be free.
        most = max(0, max(BATCH, 2 * room) - running)
        return [*found.unknown, *found.stale][:most]
    needed = frozenset(first)
    return [peer for peer in found.unknown if peer in needed][:BATCH]


def _reread(
    pool: Pool,
    history: History,
    options: PoolOptions,
    now: float,
    asked: AbstractSet[Peer],
) -> list[Peer]:
    """Whom to ask what they can do, so that the work can be matched with them."""
    if options.adapt is None or now < history.surveyed:
        return []
    before = now - max(REREAD, len(pool.ready) / ASKS)
    ready = pool.peers - pool.resting - asked
    old = (p for p, known in history.surveys.items() if known.at < before and p in ready)
    return list(islice(chain(ready.difference(history.surveys), old), int(ASKS)))


def _not_held_by_us(found: _Found) -> dict[Peer, Hold]:
    """Who holds the peers that are not ours and that are left alone for now."""
    reasons: dict[Holder, Hold] = {}
    held = {}
    for peer, holder in found.holders.items():
        if holder not in reasons:
            reasons[holder] = _held_by(holder)
        held[peer] = reasons[holder]
    return held


def _held_by(holder: Holder) -> Hold:
    many = f", which holds {holder.stake.holds}" if holder.stake.holds else ""
    return Hold(f"held by scheduler {holder.scheduler}{many}")
