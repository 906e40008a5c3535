"""Whose workers the drainer knows, and what a drop costs where there are many."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

from distributed import Scheduler

from gc_bootstrap.scheduler.drains import Drainer

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

    def register(self, address: str, peer: str, pool: str = "default", by: str = ID) -> None:
        tag = {"scheduler_id": by, "peer": peer, "pool": pool}
        self.workers[address] = SimpleNamespace(extra={"gc_bootstrap": tag})


def drainer_of(scheduler: FakeScheduler) -> Drainer:
    return Drainer(cast(Scheduler, scheduler))


def test_the_index_of_workers_follows_registrations_and_losses() -> None:
    scheduler = FakeScheduler()
    scheduler.register("tcp://a:1", "a:10")
    drainer = drainer_of(scheduler)
    there = cast(Scheduler, scheduler)
    assert drainer.workers("a:10", "default") == ["tcp://a:1"]
    scheduler.register("tcp://a:2", "a:10")
    drainer.add_worker(there, "tcp://a:2")
    assert sorted(drainer.workers("a:10", "default")) == ["tcp://a:1", "tcp://a:2"]
    assert drainer.workers("a:10", "other") == []
    for address in ("tcp://a:1", "tcp://a:2"):
        del scheduler.workers[address]
        drainer.remove_worker(there, address)
    assert drainer.workers("a:10", "default") == []
    assert not drainer._by_peer
    assert not drainer._held
    # It is nobody's business to lose what was never there.
    drainer.remove_worker(there, "tcp://a:1")


def test_an_address_that_comes_back_as_somebody_elses_is_theirs() -> None:
    scheduler = FakeScheduler()
    drainer = drainer_of(scheduler)
    there = cast(Scheduler, scheduler)
    for peer in ("a:10", "b:10"):
        scheduler.register("tcp://a:1", peer)
        drainer.add_worker(there, "tcp://a:1")
        assert drainer.workers(peer, "default") == ["tcp://a:1"]
        drainer.remove_worker(there, "tcp://a:1")
    assert drainer.workers("a:10", "default") == []


def test_workers_of_other_origin_are_not_in_the_index() -> None:
    scheduler = FakeScheduler()
    scheduler.register("tcp://a:1", "a:10", by="Scheduler-of-before")
    scheduler.workers["tcp://a:2"] = SimpleNamespace(extra={})
    scheduler.workers["tcp://a:3"] = SimpleNamespace(extra={"gc_bootstrap": "somebody's own"})
    drainer = drainer_of(scheduler)
    assert drainer.workers("a:10", "default") == []
    assert not drainer._held


async def test_no_drop_goes_through_all_workers() -> None:
    scheduler = FakeScheduler()
    for number in range(2_000):
        scheduler.register(f"tcp://a:{number}", f"a:{number}")
    drainer = drainer_of(scheduler)
    there = cast(Scheduler, scheduler)
    scheduler.workers.walks = 0
    for number in range(2_000):
        peer = f"a:{number}"
        assert drainer.workers(peer, "default") == [f"tcp://a:{number}"]
        assert drainer.progress(peer, "default") == ""
        drainer.remove_worker(there, f"tcp://a:{number}")
        assert await drainer.drain_peer(peer, "default", 1.0) == {}
    assert scheduler.workers.walks == 0
