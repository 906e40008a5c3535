"""How many agents each pool needs for the work: which tasks count for whom."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from gc_bootstrap.dist import Needed
from gc_bootstrap.peer import Peer
from gc_bootstrap.scheduler.kinds import ANYWHERE, KINDS, Agent, Amount, Kind, Shape, told_apart
from gc_bootstrap.scheduler.sizing import Part, for_work
from gc_bootstrap.stake import Capacity

CPU = Shape(nthreads=4)
GPU = Shape(nthreads=4, resources=frozenset({("GPU", 1.0)}))
ON_GPU = Kind(resources=frozenset({("GPU", 1.0)}))


def agents(count: int, shape: Shape = CPU, host: str = "a", first: int = 1) -> list[Agent]:
    """So many agents of a kind."""
    made = []
    for port in range(first, first + count):
        address = f"tcp://{host}:{port}"
        made.append(Agent(Peer(host, port), shape, frozenset([host]), frozenset([address])))
    return made


def pool(
    name: str, members: list[Agent] | None = None, peers: list[Agent] | None = None, **more: object
) -> Part:
    return Part(name, True, members or [], peers or [], **more)  # type: ignore[arg-type]


def counts(work: Mapping[Kind, Amount], *parts: Part) -> list[int]:
    """How many each is asked for."""
    return [found.count for found in for_work(work, parts).values()]


def tasks(count: int, seconds: float = 5.0) -> Amount:
    return Amount(count, count * seconds)


# -- one pool, as Dask's adaptive_target has it --------------------------------------------------


def test_no_work_needs_nobody() -> None:
    assert for_work({}, [pool("a", agents(3))]) == {"a": Needed(0)}


def test_work_is_to_take_the_target_duration() -> None:
    # 100 s of work, 5 s, 4 threads an agent
    assert counts({ANYWHERE: Amount(1000, 100.0)}, pool("a", agents(1), agents(9, first=2))) == [5]
    assert counts({ANYWHERE: Amount(1000, 100.0)}, pool("a", agents(1), target=1.0)) == [25]


def test_a_few_long_tasks_do_not_ask_for_more_threads_than_there_are_tasks() -> None:
    assert counts({ANYWHERE: Amount(5, 5000.0)}, pool("a", agents(1))) == [2]


def test_work_that_takes_no_time_needs_one_agent() -> None:
    assert counts({ANYWHERE: Amount(3, 0.0)}, pool("a", agents(9))) == [1]


def test_slots_are_threads_or_what_the_resources_allow() -> None:
    agent = Shape(2, 8, frozenset({("GPU", 2.0), ("MEM", 10.0)}))
    assert agent.slots(ANYWHERE) == 16
    assert agent.slots(ON_GPU) == 4
    assert agent.slots(Kind(resources=frozenset({("GPU", 1.0), ("MEM", 6.0)}))) == 2
    assert agent.slots(Kind(resources=frozenset({("TPU", 1.0)}))) == 0
    assert agent.slots(Kind(resources=frozenset({("TPU", 0.0)}))) == 16
    assert Shape.of(Capacity(2, 8, 0, {"GPU": 2.0, "MEM": 10.0})) == agent
    assert counts({ON_GPU: tasks(8)}, pool("a", agents(3, agent))) == [2]


def test_the_count_goes_beyond_what_exists_and_stays_within_the_maximum() -> None:
    assert counts({ANYWHERE: tasks(40)}, pool("a", agents(2))) == [10]
    assert counts({ANYWHERE: tasks(40)}, pool("a", agents(2), maximum=6)) == [6]


def test_whichever_members_go_the_others_suffice() -> None:
    members = [*agents(3, Shape(nthreads=16)), *agents(3, Shape(nthreads=1), first=10)]
    assert counts({ANYWHERE: tasks(2)}, pool("a", members)) == [2]


def test_of_unequal_peers_as_many_are_asked_for_as_have_enough_on_average() -> None:
    peers = [*agents(50, Shape(nthreads=1)), *agents(50, Shape(nthreads=3), first=100)]
    assert counts({ANYWHERE: tasks(20)}, pool("a", [], peers)) == [10]


def test_members_whose_memory_is_full_have_a_place_and_take_no_work() -> None:
    part = pool("a", agents(1), agents(9, first=2), full=2)
    assert counts({}, part) == [0]
    assert counts({ANYWHERE: tasks(8)}, part) == [4]
    assert counts({ANYWHERE: tasks(80)}, pool("a", [], agents(9), full=2, maximum=3)) == [3]
    assert counts({ANYWHERE: tasks(8)}, pool("a", full=1, maximum=1), pool("b", [], agents(9))) == [
        1,
        2,
    ]


# -- several pools -------------------------------------------------------------------------------


def test_pools_fill_in_order_and_what_one_cannot_have_now_goes_to_the_next() -> None:
    cheap, dear = (
        pool("cheap", agents(1), agents(1, first=2)),
        pool("dear", [], agents(9, host="b")),
    )
    assert counts({ANYWHERE: tasks(8)}, cheap, dear) == [2, 0]
    # All of it is asked of the first: somebody may start agents.
    assert counts({ANYWHERE: tasks(20)}, cheap, dear) == [5, 3]


def test_a_pool_at_its_maximum_is_full() -> None:
    cheap = pool("cheap", agents(1), agents(9, first=2), maximum=2)
    assert counts({ANYWHERE: tasks(20)}, cheap, pool("dear", [], agents(9, host="b"))) == [2, 3]


def test_pools_of_a_fixed_size_and_other_workers_take_their_part_in_order() -> None:
    others = Part(members=agents(1, host="plain"))
    fixed = Part("fixed", members=agents(2, host="b"))
    peers = agents(9)
    work = {ANYWHERE: tasks(16)}
    assert for_work(work, [others, pool("a", [], peers), fixed]) == {"a": Needed(3)}
    assert for_work(work, [others, fixed, pool("a", [], peers)]) == {"a": Needed(1)}


def test_work_that_has_begun_stays_with_its_pool() -> None:
    cheap = pool("cheap", [], agents(9))
    dear = pool("dear", agents(1, host="b"), begun={ANYWHERE: tasks(4)})
    assert counts({}, cheap, dear) == [0, 1]
    assert counts({ANYWHERE: tasks(4)}, cheap, dear) == [1, 1]
    # An agent that is busy with it has no place for more.
    assert counts({ANYWHERE: tasks(4)}, dear, cheap) == [2, 1]


# -- resources -----------------------------------------------------------------------------------


def test_tasks_that_take_a_resource_count_where_it_is() -> None:
    cpu, gpu = pool("cpu", agents(1), agents(9, first=2)), pool("gpu", [], agents(2, GPU, "b"))
    assert counts({ON_GPU: tasks(1)}, cpu, gpu) == [0, 1]
    assert counts({ON_GPU: tasks(7)}, cpu, gpu) == [0, 7]
    assert counts({ON_GPU: tasks(1), ANYWHERE: tasks(8)}, cpu, gpu) == [2, 1]


def test_a_resource_that_nobody_has_is_asked_of_nobody() -> None:
    work = {Kind(resources=frozenset({("TPU", 1.0)})): tasks(9)}
    assert counts(work, pool("cpu", [], agents(9)), pool("gpu", [], agents(2, GPU, "b"))) == [0, 0]


def test_who_can_run_less_is_filled_with_what_only_they_can_run() -> None:
    mixed = pool("mixed", agents(2), [*agents(2, GPU, "b")], maximum=2)
    found = for_work({ANYWHERE: tasks(40), ON_GPU: tasks(1)}, [mixed])["mixed"]
    assert found == Needed(2, first=(Peer("b", 1),))


def test_members_of_the_right_kind_come_before_peers_and_busy_ones_before_idle_ones() -> None:
    idle, busy = (a._replace(rank=rank) for a, rank in zip(agents(2, GPU), (1, 0), strict=True))
    part = pool("mixed", [*agents(2, host="c"), idle, busy], agents(2, GPU, "b"))
    assert for_work({ON_GPU: tasks(1)}, [part])["mixed"].first == (busy.peer,)
    found = for_work({ON_GPU: tasks(3)}, [part])["mixed"]
    assert found == Needed(3, first=(busy.peer, idle.peer, Peer("b", 1)))  # type: ignore[arg-type]


def test_where_all_are_alike_nobody_comes_first() -> None:
    assert for_work({ON_GPU: tasks(2)}, [pool("gpu", [], agents(4, GPU))])["gpu"] == Needed(2)


def test_what_others_hold_is_asked_for_and_the_work_goes_to_the_next_meanwhile() -> None:
    cheap = pool("cheap", agents(1), claimable=agents(9, first=2))
    dear = pool("dear", [], agents(9, host="b"))
    assert counts({ANYWHERE: tasks(20)}, cheap, dear) == [5, 4]
    mixed = pool("mixed", [], agents(3), claimable=agents(2, GPU, "b"))
    found = for_work({ON_GPU: tasks(1)}, [mixed, pool("gpu", [], agents(2, GPU, "c"))])
    assert found == {"mixed": Needed(1, first=(Peer("b", 1),)), "gpu": Needed(1)}
    on_b = Kind(hosts=frozenset({"b"}))
    assert for_work({on_b: tasks(1)}, [mixed])["mixed"] == Needed(1, first=(Peer("b", 1),))


# -- places --------------------------------------------------------------------------------------


def test_work_for_a_host_names_the_peer_that_is_there() -> None:
    part = pool("a", agents(3), agents(1, host="b"))
    on_b = Kind(hosts=frozenset({"b", "nowhere"}))
    assert for_work({on_b: tasks(1)}, [part])["a"] == Needed(1, first=(Peer("b", 1),))
    assert for_work({Kind(hosts=frozenset({"nowhere"})): tasks(1)}, [part])["a"] == Needed(0)
    # There is only one of them, and nobody can start another one there.
    assert for_work({on_b: tasks(99)}, [part])["a"] == Needed(1, first=(Peer("b", 1),))


def test_work_for_a_worker_counts_for_its_member() -> None:
    there = Kind(workers=frozenset({"tcp://a:2"}))
    found = for_work({there: tasks(1), ANYWHERE: tasks(4)}, [pool("a", agents(3))])["a"]
    assert found == Needed(2, first=(Peer("a", 2),))
    bound = there._replace(resources=ON_GPU.resources)
    assert for_work({bound: tasks(1)}, [pool("a", agents(3))])["a"] == Needed(0)


def test_too_many_kinds_become_one_that_names_all_places() -> None:
    names = [f"tcp://a:{port}" for port in range(1, KINDS + 2)]
    work = {Kind(workers=frozenset([name])): tasks(2) for name in names} | {ON_GPU: tasks(3)}
    found = told_apart(work)
    assert found == {Kind(workers=frozenset(names)): tasks(2 * len(names)), ON_GPU: tasks(3)}
    assert told_apart(found) == found


# -- pools that start from zero ------------------------------------------------------------------


def test_a_pool_that_never_had_an_agent_is_asked_for_one() -> None:
    unknown, known = pool("unknown"), pool("known", [], agents(9))
    assert counts({ANYWHERE: tasks(20)}, unknown, known) == [1, 5]
    assert counts({ANYWHERE: tasks(20)}, known, unknown) == [5, 0]
    assert counts({}, unknown) == [0]
    assert counts({ANYWHERE: tasks(20)}, pool("none", maximum=0)) == [0]


def test_a_resource_that_nobody_has_is_looked_for_in_pools_that_nobody_knows() -> None:
    unknown, gpu = pool("unknown"), pool("gpu", [], agents(1, GPU))
    assert counts({ON_GPU: tasks(3)}, unknown, pool("cpu", agents(1))) == [1, 0]
    assert counts({ON_GPU: tasks(3)}, unknown, gpu) == [0, 3]
    assert counts({Kind(hosts=frozenset({"x"})): tasks(3)}, unknown) == [0]


def test_a_pool_at_zero_is_known_by_what_it_had() -> None:
    cpu, gpu = pool("cpu", shapes=frozenset({CPU})), pool("gpu", shapes=frozenset({GPU}))
    assert counts({ON_GPU: tasks(3)}, cpu, gpu) == [0, 3]
    assert counts({ANYWHERE: tasks(20)}, cpu, gpu) == [5, 5]


# -- what always holds ---------------------------------------------------------------------------

shapes = st.sampled_from([CPU, GPU, Shape(nthreads=1), Shape(2, 8, frozenset({("GPU", 4.0)}))])
kinds = st.sampled_from(
    [
        ANYWHERE,
        ON_GPU,
        Kind(resources=frozenset({("GPU", 2.0)})),
        Kind(resources=frozenset({("TPU", 1.0)})),
        Kind(hosts=frozenset({"a"})),
        Kind(hosts=frozenset({"b"}), resources=frozenset({("GPU", 1.0)})),
        Kind(workers=frozenset({"tcp://a:1", "tcp://b:2"})),
    ]
)
amounts = st.builds(Amount, st.integers(0, 200), st.floats(0, 1000))
works = st.dictionaries(kinds, amounts, max_size=5)


@st.composite
def part_lists(draw: st.DrawFn) -> list[Part]:
    parts = []
    for number in range(draw(st.integers(1, 3))):
        host = draw(st.sampled_from("abc"))
        found = [
            agents(1, draw(shapes), host, 100 * number + n)[0]._replace(
                rank=draw(st.integers(0, 2))
            )
            for n in range(1, draw(st.integers(1, 7)))
        ]
        members, peers = sorted(draw(st.tuples(*[st.integers(0, len(found))] * 2)))
        parts.append(
            Part(
                f"pool {number}",
                draw(st.booleans()),
                found[:members],
                found[members:peers],
                found[peers:],
                maximum=draw(st.none() | st.integers(0, 8)),
                full=draw(st.integers(0, 2)),
                target=draw(st.sampled_from([1.0, 5.0])),
                begun=draw(works) if members else {},
            )
        )
    return parts


def able(part: Part, work: Mapping[Kind, Amount]) -> bool:
    """Whether a pool could run any of it, or might for all one knows."""
    there = [*part.members, *part.peers, *part.claimable]
    for kind, amount in work.items():
        if amount.tasks and not there and not kind.is_placed:
            return True
        for agent in there if amount.tasks else ():
            here = not kind.is_placed or kind.workers & agent.workers or kind.hosts & agent.hosts
            if here and agent.shape.slots(kind):
                return True
    return False


@given(works, part_lists())
def test_a_pool_is_asked_within_its_maximum_and_only_for_what_it_can_run(
    work: dict[Kind, Amount], parts: list[Part]
) -> None:
    found = for_work(work, parts)
    assert found.keys() == {part.name for part in parts if part.adapts}
    for part in parts:
        if part.adapts:
            needed = found[part.name]
            assert 0 <= needed.count <= (math.inf if part.maximum is None else part.maximum)
            assert len(needed.first) == len(set(needed.first)) <= needed.count
            known = (*part.members, *part.peers, *part.claimable)
            assert set(needed.first) <= {agent.peer for agent in known}
            if needed.count:
                assert able(part, work) or able(part, part.begun)


@given(works, part_lists(), kinds, amounts)
def test_more_work_never_needs_fewer(
    work: dict[Kind, Amount], parts: list[Part], kind: Kind, more: Amount
) -> None:
    before = for_work(work, parts)
    after = for_work({**work, kind: work.get(kind, Amount()).plus(more)}, parts)
    for name, needed in before.items():
        assert after[name].count >= needed.count


@given(works, part_lists())
def test_enough_agents_are_asked_for_or_more_work_goes_to_the_next(
    work: dict[Kind, Amount], parts: list[Part]
) -> None:
    anywhere = work.get(ANYWHERE, Amount())
    work = {ANYWHERE: anywhere}
    slots = anywhere.slots(5.0)
    parts = [
        Part(p.name, p.adapts, p.members, p.peers, maximum=p.maximum, target=5.0) for p in parts
    ]
    found = for_work(work, parts)
    for part in parts:
        there = list(part.members)
        if part.adapts:
            there = [*there, *part.peers]
            needed = found[part.name].count
            if slots <= 0:
                assert needed == 0
            elif part.maximum is None and there:
                least = min(agent.shape.slots(ANYWHERE) for agent in there)
                most = max(agent.shape.slots(ANYWHERE) for agent in there)
                assert needed * most >= slots - 1e-6
                assert (needed - 1) * least <= slots + 1e-6
        if part.adapts and part.maximum is not None and part.maximum < len(there):
            return  # which ones it has then is not said
        slots = max(0.0, slots - sum(agent.shape.slots(ANYWHERE) for agent in there))


@given(part_lists(), st.integers(1, 50))
def test_it_settles(parts: list[Part], count: int) -> None:
    """Who connects what is asked for is asked for the same again, or for less."""
    work = {ANYWHERE: tasks(count)}
    before = for_work(work, parts)
    after = []
    for part in parts:
        missing = before[part.name].count - len(part.members) - part.full if part.adapts else 0
        joined = list(part.peers[: max(0, missing)])
        left = [peer for peer in part.peers if peer not in joined]
        after.append(replace(part, members=[*part.members, *joined], peers=left))
    there = [agent for p in parts for agent in (*p.members, *p.peers, *p.claimable)]
    alike = {agent.shape.slots(ANYWHERE) for agent in there}
    if len(alike) == 1:
        assert for_work(work, after) == before
