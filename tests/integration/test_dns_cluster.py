"""Clusters of real processes that form, change and heal through a real name server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import pytest
from distributed import Client

from gc_bootstrap.peer import Peer
from tests.integration.harness import Processes, SchedulerProcess, free_port, until
from tests.integration.knot import Knot

pytestmark = pytest.mark.timeout(180)

ZONE = "workers.test"
# Whoever is absent from one complete answer is dropped at once: the tests below have to notice it.
STRICT = {
    "DASK_GC_BOOTSTRAP__REMOVAL__POLICY": "drain",
    "DASK_GC_BOOTSTRAP__REMOVAL__AFTER": "1",
    "DASK_GC_BOOTSTRAP__REMOVAL__GRACE": "0s",
    "DASK_GC_BOOTSTRAP__REMOVAL__PANIC_THRESHOLD": "1",
}


@pytest.fixture
async def knot(tmp_path: Path) -> AsyncIterator[Knot]:
    async with Knot(tmp_path, [ZONE]) as knot:
        yield knot


async def _refreshes(scheduler: SchedulerProcess) -> int:
    return int((await scheduler.status())["refreshes"])


async def _finds(scheduler: SchedulerProcess, peers: Iterable[Peer]) -> int:
    """Wait until the pool's last answer is exactly this; return how often it has looked by then."""
    wanted = {str(peer) for peer in peers}

    async def check() -> dict[str, Any] | None:
        status = await scheduler.status()
        return status if set(status["peers"]) == wanted else None

    status = await until(check, f"the pool finds {wanted}")
    return int(status["refreshes"])


async def _refreshed(scheduler: SchedulerProcess, times: int) -> None:
    enough = await _refreshes(scheduler) + times

    async def check() -> bool:
        return await _refreshes(scheduler) >= enough

    await until(check, f"the pool has looked {times} more times")


async def _computes(scheduler: SchedulerProcess, workers: int) -> None:
    async with Client(scheduler.address, asynchronous=True) as client:
        await client.wait_for_workers(workers, timeout=30)
        assert await client.gather(client.map(lambda x: x + 1, range(50))) == list(range(1, 51))


async def test_a_pool_forms_by_a_records_follows_the_zone_and_heals(
    processes: Processes, knot: Knot
) -> None:
    port = free_port()
    one, two, three = (Peer(f"127.0.0.{n}", port) for n in (2, 3, 4))
    agents = await processes.agents([one, two, three])
    await knot.write(ZONE, f"cpu A {one.host}", f"cpu A {two.host}")
    scheduler = await processes.scheduler(
        f"dns:cpu.{ZONE}?nameservers={knot.server}&port={port}", environ=STRICT
    )
    await scheduler.formed([one, two])
    await _computes(scheduler, 2)

    # Another record: found within two refreshes, and attached.
    await knot.write(ZONE, *(f"cpu A {peer.host}" for peer in agents))
    before = await _refreshes(scheduler)
    assert await _finds(scheduler, agents) <= before + 2
    await scheduler.formed(agents)

    # The name server is gone: an error, again and again, and nobody is dropped.
    workers = await scheduler.workers()
    await knot.stop()
    await _refreshed(scheduler, 4)
    status = await scheduler.status()
    assert "cannot be reached: Connection refused" in status["error"]
    assert status["workers"] == workers

    # An agent dies in the meantime, and comes back: it is attached from the last answer.
    agents[two].kill()
    await scheduler.formed([one, three])
    agents |= await processes.agents([two])
    await scheduler.formed(agents)

    # The name server is back, with a record less: that one is dropped, and only that one.
    await knot.write(ZONE, f"cpu A {one.host}", f"cpu A {two.host}")
    await knot.start()
    await scheduler.formed([one, two])
    assert (await scheduler.status())["error"] is None
    assert not any(group.ended for group in agents.values())

    # No records at all is an answer, too.
    await knot.write(ZONE)
    await _finds(scheduler, [])

    async def nobody() -> bool:
        return not await scheduler.workers()

    await until(nobody, "everybody is dropped")


async def test_a_pool_forms_by_srv_records(processes: Processes, knot: Knot) -> None:
    """Each agent has a port of its own, and is called what its target is called."""
    peers = [Peer("localhost", free_port()) for _ in range(3)]
    cookie = processes.folder / "cookie"
    cookie.write_text("0123456789abcdef" * 4)
    addresses = [Peer("127.0.0.1", peer.port) for peer in peers]
    await processes.agents(addresses, "--cookie-file", str(cookie))
    srv = [f"_dask._tcp.cpu SRV 0 0 {peer.port} localhost." for peer in peers]
    await knot.write(ZONE, *srv[:2])
    scheduler = await processes.scheduler(
        f"dns:_dask._tcp.cpu.{ZONE}?nameservers={knot.server}&record-type=srv",
        *("--cookie-file", str(cookie)),
        environ=STRICT,
    )
    await scheduler.formed(peers[:2])
    await _computes(scheduler, 2)
    await knot.write(ZONE, *srv)
    before = await _refreshes(scheduler)
    assert await _finds(scheduler, peers) <= before + 2
    await scheduler.formed(peers)
    await knot.freeze()
    await _refreshed(scheduler, 2)
    status = await scheduler.status()
    assert "did not answer in time" in status["error"]
    assert status["workers"].keys() == {str(peer) for peer in peers}
    knot.thaw()
    await knot.write(ZONE, *srv[1:])
    await scheduler.formed(peers[1:])


async def test_targets_resolved_to_addresses_are_the_agents_addresses(
    processes: Processes, knot: Knot
) -> None:
    peers = [Peer(f"127.0.0.{n}", free_port()) for n in (2, 3)]
    await processes.agents(peers)
    await knot.write(
        ZONE,
        *(f"_cpu SRV 0 0 {peer.port} node-{n}" for n, peer in enumerate(peers)),
        *(f"node-{n} A {peer.host}" for n, peer in enumerate(peers)),
    )
    scheduler = await processes.scheduler(
        f"dns:_cpu.{ZONE}?nameservers={knot.server}&record-type=srv&host-type=ip"
    )
    await scheduler.formed(peers)
    await _computes(scheduler, 2)


async def test_a_bad_name_ends_the_scheduler_with_one_line(processes: Processes) -> None:
    group = await processes.start(
        *("scheduler", "--host", "127.0.0.1", "--port", "0", "--dashboard-address", ":0"),
        *("--preload", "gc_bootstrap.preload", "--discovery", "dns:workers..test?port=0"),
    )
    await until(lambda: group.ended, "the scheduler has ended")
    assert group.returncode == 2
    assert (
        "gc_bootstrap: gc-bootstrap.discovery: domain: 'workers..test' has two adjacent dots;"
        " port: 0 is not a port between 1 and 65535"
    ) in group.tail(50)
    assert "Traceback" not in group.tail(200)
