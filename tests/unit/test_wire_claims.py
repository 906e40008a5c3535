"""The table of claimants, and what agents and schedulers tell each other of claims."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gc_bootstrap.stake import Claim, Stake
from gc_bootstrap.wire.claims import KEPT_FOR, MOST_CLAIMANTS, Claimants, ClaimCall, FreeCall
from gc_bootstrap.wire.messages import WireError

A, B, C = (("Scheduler-a", "p"), ("Scheduler-b", "p"), ("Scheduler-b", "q"))
CALL = ClaimCall(
    peer="10.0.0.5:8791",
    pool="default",
    scheduler="tcp://10.0.0.2:8786",
    scheduler_id="Scheduler-2",
    for_pool="gpu",
    holds=1,
    weight=2.0,
    wants=3,
)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_claim_lasts_for_a_while_and_longer_where_it_is_made_again() -> None:
    clock = Clock()
    claimants: Claimants[str] = Claimants(clock)
    claimants.note(A, Stake(), "a")
    claimants.note(B, Stake(), "b")
    clock.now += KEPT_FOR - 1.0
    assert list(claimants.current()) == [A, B]
    claimants.note(A, Stake(), "a")
    clock.now += 1.0
    assert claimants.current() == {A: "a"}
    clock.now += KEPT_FOR
    assert claimants.current() == {}


def test_a_claimant_has_one_claim_for_each_of_its_pools() -> None:
    claimants: Claimants[str] = Claimants(Clock())
    for key in (A, B, C):
        claimants.note(key, Stake(), "first")
    claimants.note(A, Stake(), "second")
    assert claimants.current() == {A: "second", B: "first", C: "first"}
    claimants.forget(B)
    claimants.forget(B)
    assert claimants.current() == {A: "second", C: "first"}


def test_what_is_new_is_told_from_what_is_repeated() -> None:
    clock = Clock()
    claimants: Claimants[str] = Claimants(clock)
    said = [claimants.note(A, Stake(), kept) for kept in ("one", "one", "two", "two")]
    assert said == [True, False, True, False]
    clock.now += KEPT_FOR
    assert claimants.note(A, Stake(), "two"), "the one before is forgotten"


def test_the_neediest_is_who_would_hold_least_for_its_weight_with_one_more() -> None:
    claimants: Claimants[None] = Claimants(Clock())
    claimants.note(A, Stake(2, 1.0), None)
    claimants.note(B, Stake(3, 2.0), None)
    claimants.note(C, Stake(0, 0.25), None)
    assert list(claimants.current()) == [B, A, C]


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 1000))))
def test_a_flood_of_claimants_is_bounded_and_the_neediest_stay(
    claims: list[tuple[int, int]],
) -> None:
    claimants: Claimants[int] = Claimants(Clock())
    first = [(1000 + n, 5000) for n in range(MOST_CLAIMANTS)]
    for who, holds in (*first, *claims):
        claimants.note((str(who), "p"), Stake(holds), holds)
    kept = list(claimants.current().values())
    latest = {**dict(first), **dict(claims)}
    assert len(kept) == MOST_CLAIMANTS
    assert kept == sorted(kept)
    if len(claims) == len(dict(claims)):
        assert kept == sorted(latest.values())[:MOST_CLAIMANTS]


def test_what_is_said_of_claims_survives_the_wire() -> None:
    assert ClaimCall.read(CALL.content()) == CALL
    stake = Stake(holds=1, weight=2.0)
    assert CALL.claim == Claim("tcp://10.0.0.2:8786", "Scheduler-2", "gpu", stake, 3)
    call = FreeCall("Scheduler-2", "10.0.0.5:8791", "gpu")
    assert FreeCall.read(call.content()) == call


@pytest.mark.parametrize(
    "change",
    [
        {"holds": -1},
        {"holds": 10**9},
        {"weight": 0.0},
        {"weight": float("inf")},
        {"weight": float("nan")},
        {"wants": -1},
        {"wants": "3"},
        {"scheduler": ""},
        {"peer": b"10.0.0.5:8791"},
        {"more": 1},
    ],
    ids=repr,
)
def test_a_call_that_makes_no_sense_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(WireError):
        ClaimCall.read(CALL.content() | change)
