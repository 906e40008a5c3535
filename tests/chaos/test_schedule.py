"""A storm is a value that a seed decides."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.chaos.schedule import HARD, ONCE, SILENCE, SILENT, Kind, StormKind, make_storm
from tests.conftest import CHAOS_SEEDS, CHAOS_START

seeds = st.integers(0, 2**32)
kinds = st.sampled_from(["graceful", "hard"])


@given(seeds, kinds)
def test_the_same_seed_makes_the_same_storm(seed: int, kind: StormKind) -> None:
    assert make_storm(seed, kind) == make_storm(seed, kind)
    assert make_storm(seed, kind).events != make_storm(seed + 1, kind).events


def test_a_seed_means_the_same_storm_for_everybody() -> None:
    """On every machine and for good: a seed in a bug report has to stay the storm that it was."""
    storm = make_storm(7, "graceful", events=3)
    assert str(storm).splitlines() == [
        "graceful storm 7:",
        " 1.05 s: leave, slot 3 for 0.81 s",
        " 1.68 s: replace (sigterm), slot 1",
        " 2.69 s: empty answer, slot 3 for 1.51 s",
    ]


@given(seeds)
def test_a_graceful_storm_has_nothing_hard(seed: int) -> None:
    assert not {event.kind for event in make_storm(seed, "graceful").events} & HARD


@given(seeds)
def test_a_hard_storm_is_hard_for_a_half(seed: int) -> None:
    storm = make_storm(seed, "hard")
    assert sum(event.kind in HARD for event in storm.events) == len(storm.events) / 2


@given(seeds, kinds, st.integers(1, 6), st.integers(1, 12))
def test_events_are_in_order_and_within_bounds(
    seed: int, kind: StormKind, slots: int, count: int
) -> None:
    events = make_storm(seed, kind, slots=slots, events=count, length=5.0).events
    assert len(events) == count
    assert [event.at for event in events] == sorted(event.at for event in events)
    assert all(0 <= event.at <= 5.0 and 0 <= event.slot < slots for event in events)
    assert sum(event.seconds for event in events if event.kind in SILENT) <= SILENCE
    for kind_once in ONCE:
        assert sum(event.kind == kind_once for event in events) <= 1


def test_everything_comes_up_within_twenty_seeds() -> None:
    found = {
        (event.kind, event.variant)
        for seed in range(20)
        for storm in (make_storm(seed, "graceful"), make_storm(seed, "hard"))
        for event in storm.events
    }
    assert {kind for kind, _ in found} == set(Kind)
    assert {variant for kind, variant in found if kind is Kind.REPLACE} == {
        "sigterm",
        "leaving",
        "both",
    }


def test_the_seeds_of_a_plain_run_have_nearly_everything_that_is_quick() -> None:
    """What waits for Dask to give a worker up takes too long for each run in CI."""
    found = {
        event.kind
        for seed in range(CHAOS_START, CHAOS_START + CHAOS_SEEDS)
        for storm in (make_storm(seed, "graceful"), make_storm(seed, "hard"))
        for event in storm.events
    }
    slow = {Kind.OUTLAST_STOP, Kind.OUTLAST_CUT}
    assert set(Kind) - found == slow | {Kind.STOP_DISCOVERY}
