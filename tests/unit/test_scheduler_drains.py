"""What drains cost where there are many workers."""

from __future__ import annotations

from typing import cast

from distributed import Scheduler

from gc_bootstrap.peer import Peer
from gc_bootstrap.scheduler.drains import Drainer
from tests.unit.test_scheduler_members import FakeScheduler


async def test_no_drop_goes_through_all_workers() -> None:
    scheduler = FakeScheduler()
    for number in range(2_000):
        scheduler.register(f"tcp://a:{number}", f"a:{number + 1}")
    there = cast(Scheduler, scheduler)
    drainer = Drainer(there)
    members = drainer._members
    scheduler.workers.walks = 0
    for number in range(2_000):
        peer = Peer("a", number + 1)
        assert members.workers("default", peer) == [f"tcp://a:{number}"]
        assert drainer.progress(peer, "default") == ""
        members.remove_worker(there, f"tcp://a:{number}")
        drainer.remove_worker(there, f"tcp://a:{number}")
        assert await drainer.drain_peer(peer, "default", drainer.within(1.0)) == {}
    assert scheduler.workers.walks == 0
