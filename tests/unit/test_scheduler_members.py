"""The one index of a scheduler's members: what it knows, and whom it tells of losses."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from distributed import Scheduler
from hypothesis import given
from hypothesis import strategies as st

from gc_bootstrap.peer import Peer
from gc_bootstrap.scheduler.drains import Drainer
from gc_bootstrap.scheduler.members import Members
from gc_bootstrap.wire.tag import Tag

ID = "Scheduler-1"


class CountedTable(dict[str, Any]):
    """A worker table that counts who goes through it."""

    walks = 0

    def __iter__(self) -> Iterator[str]:
        self.walks += 1
        return super().__iter__()

    def values(self) -> Any:
        self.walks += 1
        return super().values()

    def items(self) -> Any:
        self.walks += 1
        return super().items()


class FakeScheduler:
    """As much of a scheduler as the index needs."""

    def __init__(self) -> None:
        self.id = ID
        self.workers = CountedTable()
        self.plugins: dict[str, Any] = {}

    def add_plugin(self, plugin: Any, name: str) -> None:
        self.plugins[name] = plugin

    def register(self, address: str, peer: str, pool: str = "default", by: str = ID) -> None:
        tag = {"scheduler_id": by, "peer": peer, "pool": pool}
        self.workers[address] = SimpleNamespace(extra={"gc_bootstrap": tag})


A, B = Peer("a", 10), Peer("b", 10)


def members_of(scheduler: FakeScheduler) -> Members:
    return Members(cast(Scheduler, scheduler))


def test_the_index_follows_registrations_and_losses() -> None:
    scheduler = FakeScheduler()
    scheduler.register("tcp://a:1", "a:10")
    members = members_of(scheduler)
    there = cast(Scheduler, scheduler)
    assert members.workers("default", A) == ["tcp://a:1"]
    scheduler.register("tcp://a:2", "a:10")
    members.add_worker(there, "tcp://a:2")
    assert members.peers("default") == {A}
    assert members.by_peer("default") == {A: ["tcp://a:1", "tcp://a:2"]}
    assert members.workers("other", A) == []
    assert members.peers("other") == frozenset()
    for address in ("tcp://a:1", "tcp://a:2"):
        assert members.peers("default") == {A}
        assert members.tag(address) == Tag(ID, "a:10", "default", reports=False)
        del scheduler.workers[address]
        members.remove_worker(there, address)
    assert members.peers("default") == frozenset()
    assert not members._tags
    assert not members._pools
    # It is nobody's business to lose what was never there.
    members.remove_worker(there, "tcp://a:1")


def test_an_address_that_comes_back_as_somebody_elses_is_theirs() -> None:
    scheduler = FakeScheduler()
    members = members_of(scheduler)
    there = cast(Scheduler, scheduler)
    for peer in (A, B):
        scheduler.register("tcp://a:1", str(peer))
        members.add_worker(there, "tcp://a:1")
        assert members.by_peer("default") == {peer: ["tcp://a:1"]}
        del scheduler.workers["tcp://a:1"]
        members.remove_worker(there, "tcp://a:1")
    assert members.peers("default") == frozenset()


def test_a_worker_at_the_address_of_one_that_was_let_go_is_another() -> None:
    scheduler = FakeScheduler()
    members = members_of(scheduler)
    members.let_go("tcp://a:1")
    members.let_go("tcp://a:2")
    scheduler.register("tcp://a:1", "a:10")
    members.add_worker(cast(Scheduler, scheduler), "tcp://a:1")
    assert not members.was_retired("tcp://a:1")
    assert members.was_retired("tcp://a:2")


def test_a_worker_that_dask_retired_is_told_from_others() -> None:
    scheduler = FakeScheduler()
    members = members_of(scheduler)
    there = cast(Scheduler, scheduler)
    why = {"tcp://a:1": "retire-workers-17.5", "tcp://a:2": "scheduler-check-worker-ttl-17.5"}
    for address in why:
        scheduler.register(address, "a:10")
        members.add_worker(there, address)
        assert not members.was_retired(address)
    for address, stimulus_id in why.items():
        del scheduler.workers[address]
        members.remove_worker(there, address, stimulus_id=stimulus_id)
    assert [members.was_retired(address) for address in why] == [True, False]


@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"gc_bootstrap": "somebody's own"},
        {"gc_bootstrap": {"scheduler_id": "Scheduler-of-before", "peer": "a:10", "pool": "p"}},
        {"gc_bootstrap": {"scheduler_id": ID, "peer": "a:10"}},
        {"gc_bootstrap": {"scheduler_id": ID, "peer": 7, "pool": "default"}},
        {"gc_bootstrap": {"scheduler_id": ID, "peer": "no peer!", "pool": "default"}},
    ],
    ids=["none", "a text", "of another scheduler", "no pool", "a number", "no peer"],
)
def test_workers_of_other_origin_are_not_in_the_index(extra: dict[str, Any]) -> None:
    scheduler = FakeScheduler()
    scheduler.workers["tcp://a:1"] = SimpleNamespace(extra=extra)
    members = members_of(scheduler)
    assert not members._tags
    assert not members._pools
    assert members.tag("tcp://a:1") is None


def test_nobody_is_a_member_who_is_not_in_the_table() -> None:
    # Dask tells nobody of a worker's end where one of its own transitions has failed before.
    scheduler = FakeScheduler()
    scheduler.register("tcp://a:1", "a:10")
    scheduler.register("tcp://b:1", "b:10")
    members = members_of(scheduler)
    del scheduler.workers["tcp://a:1"]
    assert members.peers("default") == {B}
    assert members.by_peer("default") == {B: ["tcp://b:1"]}
    assert members.workers("default", A) == []
    assert members.tag("tcp://a:1") is None


def test_an_address_whose_end_nobody_told_of_is_the_next_ones() -> None:
    scheduler = FakeScheduler()
    scheduler.register("tcp://a:1", "a:10")
    members = members_of(scheduler)
    there = cast(Scheduler, scheduler)
    lost: list[str] = []
    members.on_loss("default", lambda: lost.append("default"))
    scheduler.workers["tcp://a:1"] = SimpleNamespace(extra={})  # a worker that somebody started
    members.add_worker(there, "tcp://a:1")
    assert members.tag("tcp://a:1") is None
    assert members.peers("default") == frozenset()
    assert lost == ["default"]


def test_the_pool_that_lost_a_worker_hears_of_it_and_no_other() -> None:
    scheduler = FakeScheduler()
    for pool in ("one", "two"):
        scheduler.register(f"tcp://{pool}:1", "a:10", pool)
        scheduler.register(f"tcp://{pool}:2", "b:10", pool)
    members = members_of(scheduler)
    there = cast(Scheduler, scheduler)
    heard: list[str] = []
    stop = members.on_loss("one", lambda: heard.append("one"))
    members.on_loss("two", lambda: heard.append("two"))
    members.on_loss("two", lambda: heard.append("two as well"))
    members.remove_worker(there, "tcp://one:1")
    assert heard == ["one"]
    members.remove_worker(there, "tcp://somebody-elses:1")
    assert heard == ["one"]
    stop()
    members.remove_worker(there, "tcp://one:2")
    assert heard == ["one"]
    members.remove_worker(there, "tcp://two:1")
    assert heard == ["one", "two", "two as well"]


async def test_a_scheduler_has_one_index_however_many_ask() -> None:
    async with Scheduler(host="127.0.0.1", port=0, dashboard_address=":0") as scheduler:
        members = Members.of(scheduler)
        assert Members.of(scheduler) is members
        assert Drainer.of(scheduler) is Drainer.of(scheduler)
        assert list(scheduler.plugins).count(Members.name) == 1


addresses = st.sampled_from(["tcp://a:1", "tcp://a:2", "tcp://b:1", "tcp://c:1"])
peers = st.sampled_from(["a:10", "b:10", "no peer!"])


@given(st.lists(st.tuples(addresses, peers, st.sampled_from(["one", "two"]), st.booleans())))
def test_the_index_is_what_a_walk_through_the_table_would_find(
    steps: list[tuple[str, str, str, bool]],
) -> None:
    scheduler = FakeScheduler()
    members = members_of(scheduler)
    there = cast(Scheduler, scheduler)
    for address, peer, pool, ours in steps:
        if address in scheduler.workers:
            del scheduler.workers[address]
            members.remove_worker(there, address)
        else:
            scheduler.register(address, peer, pool, ID if ours else "another")
            members.add_worker(there, address)
        # As one that is made now would see it.
        fresh = members_of(scheduler)
        for name in ("one", "two"):
            assert members.by_peer(name) == fresh.by_peer(name)
            assert members.peers(name) == fresh.peers(name)
