"""The rule by which schedulers share peers: D'Hondt's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gc_bootstrap.pool.share import claims, give, gives
from gc_bootstrap.stake import Claim, Stake

weights = st.sampled_from([0.001, 0.1, 0.3, 1.0, 1.5, 2.0, 3.0, 1000.0]) | st.floats(0.001, 1000)
stakes = st.builds(Stake, st.integers(0, 60), weights, st.integers(0, 8))


def claim_of(name: str, holds: int = 0, weight: float = 1.0, wants: int = 1) -> Claim:
    return Claim(f"tcp://{name}:8786", name, "default", Stake(holds, weight), wants)


claimants = st.lists(
    st.builds(claim_of, st.sampled_from("abcdef"), st.integers(0, 60), weights, st.integers(1, 9)),
    unique_by=lambda claim: claim.scheduler_id,
    max_size=6,
)
comings = st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 5))


# -- one holder and one claimant -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("holder", "claimant", "given"),
    [
        (Stake(6), Stake(0), True),
        (Stake(4), Stake(2), True),
        (Stake(4), Stake(3), False),  # they would only change places
        (Stake(3), Stake(3), False),
        (Stake(1), Stake(0), False),  # nor the last one, of schedulers of one weight
        (Stake(0), Stake(0), False),
        (Stake(4, weight=2), Stake(2, weight=1), False),  # divided as their weights are
        (Stake(5, weight=2), Stake(1, weight=1), True),
        (Stake(2, weight=1), Stake(1, weight=2), True),
        (Stake(1, weight=1), Stake(0, weight=1.5), True),
        (Stake(6, keeps=6), Stake(0), False),
        (Stake(6, keeps=7), Stake(0), False),
        (Stake(6, keeps=5), Stake(0), True),
    ],
)
def test_a_peer_moves_where_the_next_of_one_costs_less_than_the_last_of_the_other(
    holder: Stake, claimant: Stake, given: bool
) -> None:
    assert gives(holder, claimant) is given


@given(stakes, stakes)
def test_what_is_given_is_not_given_back(holder: Stake, claimant: Stake) -> None:
    if gives(holder, claimant):
        holder = replace(holder, holds=holder.holds - 1)
        claimant = replace(claimant, holds=claimant.holds + 1, keeps=0)
        assert not gives(claimant, holder)


@given(stakes, stakes)
def test_a_peer_is_given_only_where_the_exact_numbers_say_so(
    holder: Stake, claimant: Stake
) -> None:
    """Rounding may end the sharing one move too early, and never goes round in a circle."""
    if gives(holder, claimant):
        costs = Fraction(holder.holds) / Fraction(holder.weight)
        assert Fraction(claimant.holds + 1) / Fraction(claimant.weight) < costs


@given(stakes, stakes, st.sampled_from([0.25, 2.0, 1024.0]))
def test_only_the_ratio_of_weights_counts(holder: Stake, claimant: Stake, scale: float) -> None:
    scaled = [replace(stake, weight=stake.weight * scale) for stake in (holder, claimant)]
    assert gives(*scaled) is gives(holder, claimant)


@given(stakes, stakes)
def test_nobody_goes_below_what_it_keeps(holder: Stake, claimant: Stake) -> None:
    while gives(holder, claimant):
        holder = replace(holder, holds=holder.holds - 1)
        assert holder.holds >= holder.keeps
        claimant = replace(claimant, holds=claimant.holds + 1)


# -- one holder and many claimants ---------------------------------------------------------------


def test_the_neediest_per_weight_comes_first() -> None:
    poor, rich, heavy = claim_of("a", 1), claim_of("b", 3), claim_of("c", 2, weight=4)
    assert give(Stake(9), [rich, poor, heavy], {}) == heavy
    assert give(Stake(9), [rich, poor], {}) == poor


def test_of_equally_needy_ones_the_least_id_comes_first_in_whatever_order_they_asked() -> None:
    first, second = claim_of("a"), claim_of("b")
    assert give(Stake(9), [second, first], {}) == give(Stake(9), [first, second], {}) == first


def test_peers_on_their_way_count_as_the_claimants_own() -> None:
    poor, rich = claim_of("a", 0, wants=9), claim_of("b", 1, wants=9)
    assert give(Stake(9), [poor, rich], {"a": 2}) == rich
    assert give(Stake(3), [poor], {"a": 2}) is None


def test_a_claim_that_is_covered_by_peers_on_their_way_is_over() -> None:
    assert give(Stake(9), [claim_of("a", wants=2)], {"a": 1}) is not None
    assert give(Stake(9), [claim_of("a", wants=2)], {"a": 2}) is None


def test_nobody_is_given_anything_without_a_claim() -> None:
    assert give(Stake(9), [], {}) is None


@given(stakes, claimants, comings)
def test_only_who_the_rule_gives_one_is_given_one(
    own: Stake, wanting: list[Claim], coming: Mapping[str, int]
) -> None:
    def has(claim: Claim) -> Stake:
        return replace(claim.stake, holds=claim.stake.holds + coming.get(claim.scheduler_id, 0))

    due = [
        claim
        for claim in wanting
        if claim.wants > coming.get(claim.scheduler_id, 0) and gives(own, has(claim))
    ]
    chosen = give(own, wanting, coming)
    assert (chosen in due) if due else (chosen is None)
    assert chosen == give(own, wanting[::-1], coming)
    for claim in due:
        assert chosen is not None
        least = (has(chosen).holds + 1) / has(chosen).weight
        assert least <= (has(claim).holds + 1) / has(claim).weight


# -- one claimant and many holders ---------------------------------------------------------------


def test_a_newcomer_claims_of_those_who_hold_most_per_weight() -> None:
    holders = {"a": Stake(7), "b": Stake(6), "c": Stake(1), "d": Stake(6, weight=6)}
    assert claims(Stake(0), 9, holders) == {"a": 3, "b": 1}


def test_no_more_is_claimed_than_is_missing() -> None:
    assert claims(Stake(0), 2, {"a": Stake(9), "b": Stake(8)}) == {"a": 2}
    assert claims(Stake(0), 3, {"a": Stake(9), "b": Stake(8)}) == {"a": 2, "b": 1}
    assert claims(Stake(0), 0, {"a": Stake(9)}) == {}
    assert claims(Stake(5), -1, {"a": Stake(9)}) == {}


def test_a_newcomer_among_ten_holders_of_two_claims_one() -> None:
    assert claims(Stake(0), 20, {f"s{n}": Stake(2) for n in range(10)}) == {"s0": 1}


def test_nothing_is_claimed_of_who_keeps_what_it_has() -> None:
    holders = {"standby": Stake(9, keeps=9), "guaranteed": Stake(9, keeps=8), "fair": Stake(4)}
    assert claims(Stake(0), 9, holders) == {"guaranteed": 1, "fair": 1}


def test_nothing_is_claimed_where_all_is_divided_fairly() -> None:
    assert claims(Stake(3), 5, {"a": Stake(3), "b": Stake(4), "c": Stake(7, weight=2)}) == {}


holdings = st.dictionaries(st.sampled_from("abcdefgh"), stakes)


@given(stakes, st.integers(-3, 80), holdings)
def test_what_is_claimed_is_what_holders_would_give(
    own: Stake, missing: int, holders: Mapping[str, Stake]
) -> None:
    asked = claims(own, missing, holders)
    assert all(asked.values())
    assert sum(asked.values()) <= max(0, missing)
    left = {
        name: replace(stake, holds=stake.holds - asked.get(name, 0))
        for name, stake in holders.items()
    }
    has = replace(own, holds=own.holds + sum(asked.values()))
    before = replace(has, holds=has.holds - 1)
    for name in asked:
        # The last one of each, even as the last one of all.
        assert gives(replace(left[name], holds=left[name].holds + 1), replace(own, holds=own.holds))
    if asked:
        assert any(gives(replace(left[name], holds=left[name].holds + 1), before) for name in asked)
    if sum(asked.values()) < missing:
        assert not any(gives(stake, has) for stake in left.values())


@given(stakes, st.integers(0, 80), holdings, st.sampled_from([0.25, 2.0, 1024.0]))
def test_claims_know_neither_order_nor_unit_of_weights(
    own: Stake, missing: int, holders: Mapping[str, Stake], scale: float
) -> None:
    asked = claims(own, missing, holders)
    assert asked == claims(own, missing, dict(list(holders.items())[::-1]))
    scaled = {name: replace(stake, weight=stake.weight * scale) for name, stake in holders.items()}
    assert asked == claims(replace(own, weight=own.weight * scale), missing, scaled)
