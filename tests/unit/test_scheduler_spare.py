"""Which members can be done without: idle ones, with room for all data in those that stay."""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from gc_bootstrap.peer import Peer
from gc_bootstrap.scheduler.kinds import Agent, Shape
from gc_bootstrap.scheduler.sizing import Part
from gc_bootstrap.scheduler.spare import MEMORY_RATIO, Holding, for_memory, kept, order

A, B, C, D = (Peer("a", port) for port in range(1, 5))


def holds(peer: Peer | None, nbytes: int = 0, pool: str = "p", **more: object) -> Holding:
    more = {"limit": 100.0, "has_data": nbytes > 0, **more}
    return Holding(pool, peer, nbytes=nbytes, **more)  # type: ignore[arg-type]


def order_of(*holdings: Holding) -> list[Peer]:
    members = frozenset(held.peer for held in holdings if held.peer is not None)
    return order("p", members, holdings)


def part(name: str, holdings: Iterable[Holding], *peers: Peer, **more: object) -> Part:
    members = [Agent(held.peer, Shape()) for held in holdings if held.pool == name]
    others = [Agent(peer, Shape()) for peer in peers]
    return Part(name, True, members, others, **more)  # type: ignore[arg-type]


# -- the order -----------------------------------------------------------------------------------


def test_idle_ones_come_first_and_of_those_the_ones_with_the_least_data() -> None:
    found = order_of(holds(A, 9), holds(B, 1, is_idle=False), holds(C, 5), holds(D, 0))
    assert found == [D, C, A]
    assert order_of(holds(A), holds(B, is_idle=False), holds(C, is_idle=False)) == [A, B, C]


def test_those_that_must_not_go_or_go_already_are_left_out() -> None:
    found = order_of(holds(A, may_go=False), holds(B, is_leaving=True), holds(C), holds(D))
    assert found == [C, D]
    assert order("p", frozenset({D}), [holds(C), holds(D)]) == [D]
    assert order("p", frozenset({D}), [holds(C), holds(D, pool="other")]) == []


def test_twice_as_much_memory_stays_as_there_is_data() -> None:
    assert order_of(holds(A, 30), holds(B, 40), holds(C, 50), holds(D, 0)) == [D]
    assert order_of(holds(A, 30), holds(B, 30), holds(C, 30), holds(D, 0)) == [D, A]


def test_data_keeps_one_agent_however_little_it_is() -> None:
    assert order_of(holds(A, 0, has_data=True), holds(B)) == [B]
    assert order_of(holds(A, 1, limit=float("inf")), holds(B, limit=float("inf"))) == [B]
    assert order_of(holds(A), holds(B)) == [A, B]


def test_memory_of_other_workers_counts_and_so_does_the_data_of_those_that_leave() -> None:
    assert order_of(holds(A, 40), holds(None, pool="")) == [A]
    assert order_of(holds(A, 40), holds(None, 40, pool="")) == []
    assert order_of(holds(A), holds(B), holds(C, 60, is_leaving=True)) == []


# -- what is kept --------------------------------------------------------------------------------


def test_a_pool_keeps_busy_members_and_as_many_as_its_work_needs() -> None:
    holdings = [holds(A), holds(B), holds(C, is_idle=False), holds(D, is_leaving=True)]
    assert kept([part("p", holdings)], holdings, {"p": 0}) == {"p": 1}
    assert kept([part("p", holdings)], holdings, {"p": 2}) == {"p": 2}
    assert kept([part("p", holdings, minimum=2)], holdings, {"p": 0}) == {"p": 2}
    assert kept([part("p", holdings)], holdings, {"p": 9}) == {"p": 3}


def test_the_pool_that_is_filled_last_gives_first_and_the_data_is_kept_once() -> None:
    holdings = [holds(A, pool="cheap"), holds(B, 10, pool="dear")]
    parts = [part("cheap", holdings), part("dear", holdings)]
    assert kept(parts, holdings, {"cheap": 0, "dear": 0}) == {"cheap": 1, "dear": 0}
    nothing = [held._replace(nbytes=0, has_data=False) for held in holdings]
    assert kept(parts, nothing, {"cheap": 0, "dear": 0}) == {"cheap": 0, "dear": 0}


def test_data_does_not_move_to_where_it_would_keep_an_agent_of_a_later_pool() -> None:
    holdings = [holds(A, 10, pool="cheap"), holds(B, pool="dear", is_idle=False)]
    parts = [part("cheap", holdings), part("dear", holdings)]
    assert kept(parts, holdings, {"cheap": 0, "dear": 0}) == {"cheap": 1, "dear": 1}
    # Later, when both are idle, it is in the right place.
    idle = [held._replace(is_idle=True) for held in holdings]
    assert kept(parts, idle, {"cheap": 0, "dear": 0}) == {"cheap": 1, "dear": 0}
    # What is there in any case does for the data as well.
    parts = [part("cheap", holdings), part("dear", holdings, minimum=1)]
    assert kept(parts, holdings, {"cheap": 0, "dear": 0}) == {"cheap": 0, "dear": 1}


# -- memory that gets scarce ---------------------------------------------------------------------


def test_twice_as_many_are_wanted_when_memory_gets_scarce() -> None:
    holdings = [holds(A, 70), holds(B, 70)]
    assert for_memory([part("p", holdings)], holdings) == {"p": 4}
    assert for_memory([part("p", holdings, maximum=3)], holdings) == {"p": 3}
    little = [holds(A, 50), holds(B, 70)]
    assert for_memory([part("p", little)], little) == {}
    assert for_memory([part("p", [])], []) == {}
    endless = [holds(A, 10**9), holds(B, limit=float("inf"))]
    assert for_memory([part("p", endless)], endless) == {}


def test_what_the_first_pool_cannot_have_now_the_next_is_asked_for() -> None:
    holdings = [holds(A, 70, pool="cheap"), holds(B, 70, pool="cheap"), holds(C, 70, pool="")]
    parts = [part("cheap", holdings, D), part("dear", holdings)]
    assert for_memory(parts, holdings) == {"cheap": 5, "dear": 2}


# -- what always holds ---------------------------------------------------------------------------

several = st.lists(
    st.builds(
        Holding,
        pool=st.just("p"),
        peer=st.none(),
        limit=st.sampled_from([50.0, 100.0, float("inf")]),
        nbytes=st.integers(0, 60),
        is_idle=st.booleans(),
        may_go=st.booleans(),
        is_leaving=st.booleans(),
    ),
    max_size=8,
).map(
    lambda held: [
        one._replace(peer=Peer("a", port + 1), has_data=one.nbytes > 0)
        for port, one in enumerate(held)
    ]
)


@given(several)
def test_no_busy_one_goes_before_an_idle_one_and_the_data_always_fits(
    holdings: list[Holding],
) -> None:
    by_peer = {held.peer: held for held in holdings}
    going = [by_peer[peer] for peer in order_of(*holdings)]
    assert all(held.may_go and not held.is_leaving for held in going)
    assert [held.is_idle for held in going] == sorted((h.is_idle for h in going), reverse=True)
    if going:
        stays = sum(h.limit for h in holdings if h not in going and not h.is_leaving)
        assert stays >= MEMORY_RATIO * sum(held.nbytes for held in holdings)


@given(several, st.integers(0, 9))
def test_no_member_that_is_kept_is_needless(holdings: list[Holding], wanted: int) -> None:
    there = [held for held in holdings if not held.is_leaving]
    count = kept([part("p", holdings)], holdings, {"p": wanted})["p"]
    assert min(wanted, len(there)) <= count <= len(there)
    assert count >= sum(not (held.may_go and held.is_idle) for held in there)
    # The order has as many as are not kept.
    assert len(order_of(*holdings)) >= len(there) - count
