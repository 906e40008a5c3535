"""What a release may do, as a pure function of what is left on a worker; and who wants it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gc_bootstrap.scheduler.release import Rest, hopeless, unfinished
from gc_bootstrap.scheduler.wants import Want, Wants

rests = st.builds(
    Rest,
    others=st.booleans(),
    begun=st.integers(0, 2),
    bound=st.integers(0, 2),
    waits=st.booleans(),
    results=st.integers(0, 2),
    nbytes=st.integers(0, 2000),
    actors=st.integers(0, 2),
    needed=st.sampled_from(["", "it takes part in a P2P shuffle"]),
)


@pytest.mark.parametrize(
    ("rest", "why"),
    [
        (Rest(), ""),
        (Rest(begun=3, results=2, nbytes=10), ""),
        (Rest(others=False), ""),
        (Rest(actors=2), "2 actors cannot be moved"),
        (Rest(needed="it takes part in a P2P shuffle"), "it takes part in a P2P shuffle"),
        (Rest(bound=1), "1 task can run on no other worker"),
        (Rest(waits=True), "no other worker takes the tasks that wait"),
        (
            Rest(others=False, begun=2, results=1),
            "2 running tasks would have no place for what comes of it",
        ),
        (
            Rest(others=False, results=1, nbytes=8 * 2**20),
            "1 result (8.00 MiB) has no other place",
        ),
    ],
)
def test_waiting_helps_where_others_may_take_what_is_left(rest: Rest, why: str) -> None:
    assert hopeless(rest) == why


@pytest.mark.parametrize(
    ("rest", "why"),
    [
        (Rest(), ""),
        (Rest(begun=1), "1 task had not finished in time"),
        (Rest(results=2, nbytes=10), "2 results (10 B) have not been moved in time"),
        (Rest(actors=1, begun=1), "1 actor cannot be moved"),
    ],
)
def test_at_the_deadline_whatever_is_left_calls_a_release_off(rest: Rest, why: str) -> None:
    assert unfinished(rest) == why


@given(rests)
def test_a_worker_goes_only_with_nothing_left_that_matters(rest: Rest) -> None:
    goes = not unfinished(rest)
    left = rest.begun or rest.bound or rest.waits or rest.results or rest.actors or rest.needed
    assert goes == (not left)
    assert goes <= (not hopeless(rest)), "it is called off earlier for less"


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_earliest_deadline_counts_of_those_who_want_it_in_any_case() -> None:
    clock = Clock()
    release = Want(160.0, "pool", release=True)
    wants = Wants(release, clock)
    assert (wants.release, wants.left) == (True, 60.0)
    late, early = Want(190.0, "agent"), Want(180.0, "pool")
    clock.now = 150.0
    wants.add(late)
    assert (wants.release, wants.left, wants.spent) == (False, 40.0, 0.0)
    wants.add(early)
    assert (wants.release, wants.left) == (False, 30.0)
    clock.now = 165.0
    assert wants.spent == 0.5
    assert wants.remove(early)
    assert wants.left == 25.0
    assert wants.remove(late)
    assert (wants.release, wants.left) == (True, -5.0)
    assert not wants.remove(release)
    assert list(wants.asked_by) == ["pool", "agent"]


def test_the_share_of_the_time_is_that_of_the_first_one_where_all_want_the_same() -> None:
    clock = Clock()
    wants = Wants(Want(110.0, "pool"), clock)
    clock.now = 104.0
    wants.add(Want(120.0, "agent"))
    assert wants.spent == 0.4
    wants.add(Want(106.0, "agent"))
    assert wants.spent == pytest.approx(4 / 6)
