"""`plan()`: what it proposes, what it holds, and the texts that say why."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gc_bootstrap.config import PoolOptions, ReconnectOptions, RemovalOptions
from gc_bootstrap.peer import Outcome, Peer, Snapshot
from gc_bootstrap.pool.history import (
    GONE_FOR,
    MOST_GONE,
    SOON,
    Absence,
    History,
    Hold,
    attempted,
    backoff,
    departed,
    observe,
    planned,
)
from gc_bootstrap.pool.plan import Plan, most_missing, plan
from gc_bootstrap.pool.shared import surveyed
from gc_bootstrap.stake import Holder, Stake, Survey

A, B, C, D = (Peer("10.0.0.1", port) for port in (1, 2, 3, 4))
KEEP = PoolOptions()
RECONNECT = ReconnectOptions()


def drain(after: int = 3, grace: float = 15.0, panic: float = 1.0) -> PoolOptions:
    return PoolOptions(removal=RemovalOptions("drain", after, grace, panic))


def snap(*peers: Peer, leaving: Iterable[Peer] = (), complete: bool = True) -> Snapshot:
    return Snapshot(frozenset(peers), frozenset(leaving), complete)


def refused(
    history: History, peer: Peer, now: float, times: int = 1, *, soon: bool = False
) -> History:
    outcome = Outcome.refused("is busy", soon=soon)
    for _ in range(times):
        history = attempted(history, peer, outcome, RECONNECT, now, 0.5)
    return history


def described(proposed: Plan, now: float) -> dict[Peer, str]:
    return {peer: hold.describe(now) for peer, hold in proposed.held.items()}


def test_peers_that_are_no_members_are_connected() -> None:
    proposed = plan(snap(A, B), {B}, History(), KEEP, 0.0)
    assert proposed == Plan(connect=(A,))


def test_who_never_failed_comes_first_then_who_is_asked_soon_then_who_is_due_for_longest() -> None:
    history = refused(refused(History(), A, 0.0, times=3), B, 0.0, times=1)
    history = refused(history, D, 500.0, soon=True)
    assert plan(snap(A, B, C, D), set(), history, KEEP, 1000.0).connect == (C, D, B, A)


def test_of_those_that_were_not_tried_yet_who_appeared_last_comes_first() -> None:
    history, now = History(), 0.0

    def order(*there: Peer, members: frozenset[Peer] = frozenset()) -> tuple[Peer, ...]:
        nonlocal history, now
        now += 1.0
        history = observe(history, snap(*there), members, now)
        connect = plan(snap(*there), members, history, KEEP, now).connect
        history = planned(history, connect, now)
        return connect

    assert order(C) == (C,)
    assert order(C, A) == (A, C)
    assert order(A, B, C) == order(A, B, C) == (B, A, C)
    # C is away for a moment, and A is a member that is lost.
    assert order(A, B, members=frozenset({A})) == (B,)
    assert order(A, B) == (A, B)
    assert order(A, B, C) == (C, A, B)


def test_a_busy_peer_is_neither_connected_nor_dropped_nor_held() -> None:
    proposed = plan(snap(A, B, leaving=[B]), {B}, History(), KEEP, 0.0, {A, B}, {B})
    assert proposed == Plan()


def test_a_peer_that_leaves_while_it_is_connected_is_the_reason_for_the_next_plan() -> None:
    proposed = plan(snap(A, leaving=[A]), set(), History(), KEEP, 0.0, {A})
    assert proposed == Plan(awaited=(A,))


# -- backing off -----------------------------------------------------------------------------------

positive = st.floats(1e-3, 1e5)


@given(
    initial=positive,
    span=st.floats(1, 1e6),
    factor=st.floats(1, 100),
    jitter=st.floats(0, 1),
    failures=st.integers(1, 2**63),
    random=st.floats(0, 1, exclude_max=True),
)
def test_backoff_stays_within_its_documented_bounds(
    initial: float, span: float, factor: float, jitter: float, failures: int, random: float
) -> None:
    options = ReconnectOptions(initial, factor, initial * span, jitter)
    delay = backoff(options, failures, random)
    assert (1 - jitter) * initial * (1 - 1e-9) <= delay
    assert delay <= (1 + jitter) * options.max * (1 + 1e-9)


@given(failures=st.integers(1, 10_000), factor=st.floats(1, 10), initial=positive)
def test_without_jitter_backoff_grows_by_the_factor_up_to_the_maximum(
    failures: int, factor: float, initial: float
) -> None:
    options = ReconnectOptions(initial, factor, initial * 100, 0)
    now, after = (backoff(options, n, 0.3) for n in (failures, failures + 1))
    assert after == pytest.approx(min(now * factor, options.max))


def test_the_first_delays_are_those_of_grpc() -> None:
    delays = [backoff(RECONNECT, n, 0.5) for n in (1, 2, 3, 11, 12)]
    assert delays == pytest.approx([1, 1.6, 2.56, 1.6**10, 120])


def test_jitter_moves_the_delay_both_ways() -> None:
    assert backoff(RECONNECT, 1, 0.0) == pytest.approx(0.8)
    assert backoff(RECONNECT, 1, 1 - 1e-12) == pytest.approx(1.2)


def test_a_refused_peer_backs_off_and_is_tried_again() -> None:
    history = refused(History(), A, 10.0, times=2)
    held = plan(snap(A), set(), history, KEEP, 11.0)
    assert held.connect == ()
    assert described(held, 11.0) == {A: "backing off for 0.6 s after 2 failures: is busy"}
    assert min((hold.until for hold in held.held.values()), default=math.inf) == pytest.approx(11.6)
    assert plan(snap(A), set(), history, KEEP, 11.7).connect == (A,)


def test_who_may_be_had_at_any_moment_is_asked_again_within_seconds() -> None:
    history = refused(History(), A, 0.0, times=20, soon=True)
    assert history.attempts[A] == Hold("is busy", SOON, failures=20, soon=True)
    # And is not any more once it fails in another way.
    assert refused(history, A, 10.0).attempts[A] == Hold("is busy", 130.0, failures=21)


@pytest.mark.parametrize(
    ("many", "options", "expected"),
    [
        (500, RECONNECT, SOON),
        (2000, RECONNECT, 20.0),
        (10_000, RECONNECT, 100.0),
        (100_000, RECONNECT, RECONNECT.max),
        (1, ReconnectOptions(max=2.0), 2.0),
        (1, ReconnectOptions(initial=30.0), 30.0),
    ],
)
def test_the_more_there_are_of_those_the_longer_each_waits(
    many: int, options: ReconnectOptions, expected: float
) -> None:
    peers = [Peer("10.0.0.2", port + 1) for port in range(min(many, 50))]
    history = History(attempts=dict.fromkeys(peers, Hold("is busy", failures=50, soon=True)))
    assert observe(history, snap(*peers), set(), 0.0).soon == len(peers)
    outcome = Outcome.refused("is busy", soon=True)
    after = attempted(replace(history, soon=many), peers[0], outcome, options, 0.0, 0.5)
    assert after.attempts[peers[0]].until == pytest.approx(expected)


def test_a_success_resets_the_backoff() -> None:
    history = refused(History(), A, 0.0, times=9)
    history = attempted(history, A, Outcome.DONE, RECONNECT, 100.0, 0.5)
    history = refused(history, A, 200.0)
    assert history.attempts[A] == Hold("is busy", 201.0, failures=1)


def test_a_peer_that_became_a_member_by_itself_has_its_backoff_reset() -> None:
    history = observe(refused(History(), A, 0.0, times=9), snap(A), {A}, 1.0)
    assert history.attempts == {}


def test_a_peer_lost_at_once_is_not_connected_again_within_the_initial_delay() -> None:
    history = attempted(History(), A, Outcome.DONE, RECONNECT, 5.0, 0.5)
    held = plan(snap(A), set(), observe(history, snap(A), set(), 5.75), KEEP, 5.75)
    assert held.connect == ()
    assert described(held, 5.75) == {A: "was attached a moment ago, 0.2 s left"}
    later = observe(history, snap(A), set(), 6.0)
    assert plan(snap(A), set(), later, KEEP, 6.0).connect == (A,)


def test_history_is_forgotten_when_a_peer_leaves_a_complete_snapshot() -> None:
    history = observe(refused(History(), A, 0.0, times=9), snap(B), set(), 1.0)
    assert A not in history.attempts
    assert plan(snap(A), set(), history, KEEP, 1.0).connect == (A,)


def test_history_is_kept_when_a_peer_is_not_in_an_incomplete_snapshot() -> None:
    before = refused(History(), A, 0.0, times=9)
    history = observe(before, snap(B, complete=False), set(), 1.0)
    assert history.attempts == before.attempts


def test_what_incomplete_answers_do_not_name_is_remembered_for_some_time_only() -> None:
    before = refused(History(), A, 0.0, times=9)
    history = observe(before, snap(B, complete=False), set(), 1.0)
    history = observe(history, snap(B, complete=False), set(), 1.0 + GONE_FOR - 0.1)
    assert history.attempts == before.attempts
    # Named again, it begins anew.
    history = observe(history, snap(A, complete=False), set(), 1.0 + GONE_FOR)
    history = observe(history, snap(B, complete=False), set(), 2.0 + GONE_FOR)
    history = observe(history, snap(B, complete=False), set(), 1.0 + 2 * GONE_FOR)
    assert history.attempts == before.attempts
    history = observe(history, snap(B, complete=False), set(), 2.0 + 2 * GONE_FOR)
    assert (history.attempts, history.gone) == ({}, {})


def test_of_what_incomplete_answers_do_not_name_the_oldest_is_forgotten_first() -> None:
    history = History()
    waves = [[Peer(f"10.0.{wave}.{host}") for host in range(MOST_GONE // 4)] for wave in range(8)]
    for now, wave in enumerate(waves):
        held = dict.fromkeys(wave, Hold("is busy", 1e9, failures=1))
        history = replace(history, attempts={**history.attempts, **held})
        history = observe(history, snap(*wave, complete=False), set(), float(now))
    kept = {peer for wave in waves[3:] for peer in wave}  # four of them gone, and those named
    assert history.attempts.keys() == kept
    assert len(history.gone) == MOST_GONE
    assert observe(history, snap(*waves[3]), set(), 9.0).attempts.keys() == set(waves[3])


def test_an_ignored_peer_is_not_retried_while_it_is_in_discovery() -> None:
    history = attempted(History(), A, Outcome.ignored("is a printer"), RECONNECT, 0.0, 0.5)
    for now in (0.0, 1e3, 1e9):
        history = observe(history, snap(A), set(), now)
        proposed = plan(snap(A), set(), history, KEEP, now)
        assert proposed.connect == ()
        assert described(proposed, now) == {A: "is a printer"}
        assert min((hold.until for hold in proposed.held.values()), default=math.inf) == math.inf
    history = observe(history, snap(), set(), 2e9)
    assert plan(snap(A), set(), history, KEEP, 2e9).connect == (A,)


def test_another_name_of_a_member_is_held_until_that_member_is_gone() -> None:
    outcome = Outcome.refused("is the same agent as 10.0.0.2:2", same_as=B)
    history = attempted(History(), A, outcome, RECONNECT, 0.0, 0.5)
    history = observe(history, snap(A, B), {B}, 1e6)
    held = plan(snap(A, B), {B}, history, KEEP, 1e6)
    assert held.connect == ()
    assert described(held, 1e6) == {A: "is the same agent as 10.0.0.2:2"}
    history = observe(history, snap(A), set(), 2e6)
    assert plan(snap(A), set(), history, KEEP, 2e6).connect == (A,)


def known_as(other: Peer, member: Peer) -> History:
    """One agent is found under two names, and is a member under the second."""
    outcome = Outcome.refused(f"is the same agent as {member}", same_as=member)
    return attempted(History(), other, outcome, RECONNECT, 0.0, 0.5)


def test_a_member_is_not_absent_while_discovery_has_its_other_name() -> None:
    options, history = drain(after=2, grace=0.0, panic=0.5), known_as(A, B)
    for now in range(1, 9):
        history = observe(history, snap(A), {B}, float(now))
        assert history.absences == {}
        proposed = plan(snap(A), {B}, history, options, float(now))
        assert (proposed.disconnect, proposed.warning) == ((), "")
        assert described(proposed, now) == {A: "is the same agent as 10.0.0.1:2"}
    # Absent from now on, under both names.
    for then in (10.0, 11.0):
        history = observe(history, snap(C), {B, C}, then)
    assert plan(snap(C), {B, C}, history, options, 11.0).disconnect == (B,)


def test_the_drop_of_a_member_ends_when_discovery_has_its_other_name() -> None:
    history = known_as(A, B)
    proposed = plan(snap(A), {B}, history, drain(), 0.0, {B}, {B})
    assert proposed.cancel == (B,)


def test_a_member_is_leaving_when_all_names_are_that_discovery_has() -> None:
    history = known_as(A, B)
    assert plan(snap(A, leaving=[A]), {B}, history, KEEP, 0.0).disconnect == (B,)
    assert plan(snap(A, B, leaving=[A]), {B}, history, KEEP, 0.0).disconnect == ()
    more = Outcome.refused("is the same agent", same_as=B)
    history = attempted(history, C, more, RECONNECT, 0.0, 0.5)
    assert plan(snap(A, C, leaving=[A]), {B}, history, KEEP, 0.0).disconnect == ()
    assert plan(snap(A, C, leaving=[A, C]), {B}, history, KEEP, 0.0).disconnect == (B,)


# -- leaving ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [KEEP, drain()], ids=["keep", "drain"])
def test_a_leaving_member_is_dropped_at_once_and_not_attached_again(options: PoolOptions) -> None:
    leaving = snap(A, B, leaving=[A])
    assert plan(leaving, {A, B}, History(), options, 0.0).disconnect == (A,)
    proposed = plan(leaving, {B}, History(), options, 1.0)
    assert proposed.connect == proposed.disconnect == ()
    assert described(proposed, 1.0) == {A: "is leaving"}
    assert plan(snap(A, B), {B}, History(), options, 2.0).connect == (A,)


# -- absence ---------------------------------------------------------------------------------------


def test_keep_keeps_a_member_that_left_discovery_and_does_not_reconnect_it() -> None:
    history = History()
    for now in range(100):
        history = observe(history, snap(), {A}, float(now))
        assert plan(snap(), {A}, history, KEEP, float(now)) == Plan()
    assert plan(snap(), set(), history, KEEP, 100.0) == Plan()


def test_drain_wants_both_the_number_of_absences_and_the_grace_period() -> None:
    options = drain(after=3, grace=15.0)
    history, said = History(), []
    for now in (100.0, 101.0, 102.0, 114.9, 115.0):
        history = observe(history, snap(B), {A, B}, now)
        proposed = plan(snap(B), {A, B}, history, options, now)
        said.append(described(proposed, now).get(A) or proposed.disconnect)
    assert said == [
        "absent 1 of 3 times",
        "absent 2 of 3 times",
        "absent, in its grace period, 13.0 s left",
        "absent, in its grace period, 0.1 s left",
        (A,),
    ]


def test_the_end_of_the_grace_period_wakes_the_pool() -> None:
    history = observe(History(), snap(), {A}, 100.0)
    proposed = plan(snap(), {A}, history, drain(after=1), 100.0)
    assert min((hold.until for hold in proposed.held.values()), default=math.inf) == 115.0


def test_a_member_that_is_named_again_starts_from_nothing() -> None:
    history = observe(History(), snap(), {A}, 0.0)
    history = observe(history, snap(A), {A}, 1.0)
    assert history.absences == {}
    assert observe(history, snap(), {A}, 2.0).absences == {A: Absence(2.0, 1)}


def test_a_member_that_an_incomplete_answer_names_was_not_absent() -> None:
    history = observe(History(), snap(), {A}, 0.0)
    assert observe(history, snap(A, complete=False), {A}, 1.0).absences == {}


def test_an_incomplete_answer_counts_nobody_as_absent() -> None:
    history = observe(History(), snap(), {A}, 0.0)
    later = observe(history, snap(complete=False), {A, B}, 1.0)
    assert later.absences == history.absences


def test_the_absence_of_a_member_that_is_gone_is_forgotten() -> None:
    history = observe(History(), snap(), {A}, 0.0)
    for snapshot in (snap(), snap(complete=False)):
        assert observe(history, snapshot, set(), 1.0).absences == {}


def test_an_incomplete_answer_holds_who_would_be_due() -> None:
    history = History(absences={A: Absence(0.0, 99)})
    proposed = plan(snap(complete=False), {A}, history, drain(), 1e6)
    assert proposed.disconnect == ()
    assert described(proposed, 1e6) == {A: "absent from an answer that is not complete"}


def test_a_member_that_is_being_dropped_is_not_dropped_again() -> None:
    history = History(absences={A: Absence(0.0, 99)})
    assert plan(snap(), {A}, history, drain(), 1e6, busy={A}).disconnect == ()


@pytest.mark.parametrize("missing", range(5))
def test_beyond_the_panic_threshold_none_goes_and_that_is_said(missing: int) -> None:
    members = {A, B, C, D}
    gone = sorted(members)[:missing]
    history = History(absences=dict.fromkeys(gone, Absence(0.0, 99)))
    proposed = plan(snap(*members - set(gone)), members, history, drain(panic=0.5), 1e6)
    if missing <= 2:
        assert sorted(proposed.disconnect) == gone
        assert proposed.warning == ""
    else:
        reason = f"panic threshold: {missing} of 4 members are missing"
        assert proposed.disconnect == ()
        assert proposed.warning.startswith(reason)
        assert described(proposed, 1e6) == dict.fromkeys(gone, reason)


@pytest.mark.parametrize(
    ("threshold", "allowed"),
    [
        (0.0, [0, 0, 0, 0, 0]),
        (0.5, [0, 1, 1, 2, 2]),
        (2 / 3, [0, 1, 2, 2, 3]),
        (1.0, [1, 2, 3, 4, 5]),
    ],
)
def test_how_many_of_one_to_five_members_may_be_missing(
    threshold: float, allowed: list[int]
) -> None:
    assert [most_missing(threshold, count) for count in range(1, 6)] == allowed
    assert (most_missing(0.29, 100), most_missing(0.3, 10)) == (29, 3)


@pytest.mark.parametrize("threshold", [0.5, 1.0])
def test_the_last_member_is_dropped_for_its_absence_only_where_the_threshold_is_one(
    threshold: float,
) -> None:
    history = History(absences={A: Absence(0.0, 99)})
    proposed = plan(snap(), {A}, history, drain(panic=threshold), 1e6)
    assert proposed.disconnect == ((A,) if threshold == 1.0 else ())
    assert bool(proposed.warning) == (threshold < 1.0)


def test_who_is_leaving_counts_neither_as_missing_nor_as_a_member() -> None:
    # C and D are leaving: of A and B, which stay, both are missing.
    history = History(absences=dict.fromkeys((A, B), Absence(0.0, 99)))
    proposed = plan(snap(C, D, leaving=[C, D]), {A, B, C, D}, history, drain(panic=0.5), 1e6)
    assert set(proposed.disconnect) == {C, D}
    assert proposed.warning.startswith("panic threshold: 2 of 2 members are missing")


def test_keep_does_not_panic() -> None:
    history = observe(History(), snap(), {A, B}, 0.0)
    assert plan(snap(), {A, B}, history, KEEP, 0.0).warning == ""


def test_a_hold_that_is_over_waits_for_its_turn_and_is_not_said_to_back_off() -> None:
    hold = Hold("is busy", until=1.0, failures=1)
    assert hold.describe(0.75) == "backing off for 0.2 s after 1 failures: is busy"
    for now in (1.0, 9.0):
        assert hold.describe(now) == "waits for its turn after 1 failures: is busy"


# -- drops that are under way, or were refused -----------------------------------------------------


def test_a_drop_is_cancelled_when_discovery_names_the_peer_again() -> None:
    proposed = plan(snap(A), {A}, History(), drain(), 0.0, {A}, {A})
    assert proposed == Plan(cancel=(A,), awaited=(A,))


@pytest.mark.parametrize("answer", [snap(A, leaving=[A]), snap(), snap(complete=False)])
def test_a_drop_goes_on_while_the_peer_is_leaving_or_not_named(answer: Snapshot) -> None:
    assert plan(answer, {A}, History(), drain(), 0.0, {A}, {A}).cancel == ()


@pytest.mark.parametrize("policy", ["drain", "keep"])
def test_a_panic_cancels_the_drops_of_members_that_are_only_absent(policy: str) -> None:
    members = {A, B, C}
    # A drops as it is absent, B as it is leaving; then C is missing, too.
    answer = snap(B, leaving=[B])
    history = History(absences={A: Absence(0.0, 9), C: Absence(0.0, 1)})
    options = drain(panic=0.5) if policy == "drain" else KEEP
    proposed = plan(answer, members, history, options, 1e6, {A, B}, {A, B})
    expected = (A,) if policy == "drain" else ()
    assert (proposed.cancel, proposed.awaited) == (expected, expected)
    assert bool(proposed.warning) == (policy == "drain")
    assert proposed.disconnect == ()


def test_a_refused_drop_backs_off_as_a_refused_connect_does() -> None:
    leaving = snap(A, leaving=[A])
    history = departed(History(), A, Outcome.refused("is full"), RECONNECT, 0.0, 0.5)
    held = plan(leaving, {A}, history, KEEP, 0.5)
    assert (held.disconnect, held.held[A].describe(0.5)) == (
        (),
        "backing off for 0.5 s after 1 failures: is full",
    )
    assert plan(leaving, {A}, history, KEEP, 1.0).disconnect == (A,)
    history = departed(history, A, Outcome.refused("is full"), RECONNECT, 1.0, 0.5)
    assert history.departures[A].until == pytest.approx(2.6)
    assert departed(history, A, Outcome.DONE, RECONNECT, 1.0, 0.5).departures == {}


def test_a_drop_that_the_dist_ignores_is_not_asked_for_again() -> None:
    history = departed(History(), A, Outcome.ignored("is not ours"), RECONNECT, 0.0, 0.5)
    held = plan(snap(A, leaving=[A]), {A}, history, KEEP, 1e9)
    assert (held.disconnect, held.held[A].describe(1e9)) == ((), "is not ours")


def test_a_refused_drop_is_forgotten_when_the_peer_stays_or_is_gone() -> None:
    history = departed(History(), A, Outcome.refused("is full"), RECONNECT, 0.0, 0.5)
    assert observe(history, snap(A, leaving=[A]), {A}, 0.1).departures.keys() == {A}
    assert observe(history, snap(), {A}, 0.1).departures.keys() == {A}
    assert observe(history, snap(A), {A}, 0.1).departures == {}
    assert observe(history, snap(A, leaving=[A]), set(), 0.1).departures == {}


def test_failures_are_forgotten_of_a_peer_that_says_who_holds_it_and_not_of_a_free_one() -> None:
    history = refused(History(), A, 0.0, times=9)
    theirs = Holder("tcp://10.0.0.2:8786", "Scheduler-2", Stake(1))
    assert surveyed(history, A, Survey(), 0.0).attempts[A].failures == 9
    assert A not in surveyed(history, A, Survey(holder=theirs), 0.0).attempts
