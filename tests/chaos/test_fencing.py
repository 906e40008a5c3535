"""Two schedulers on one pool: an agent is one's or the other's, whatever happens to either."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from distributed.core import rpc

from gc_bootstrap.cli.processes import ProcessGroup
from gc_bootstrap.peer import Peer
from tests.chaos.proxy import Proxy
from tests.integration.harness import (
    COOKIE,
    SECRET,
    Processes,
    SchedulerProcess,
    free_port,
    request,
    until,
    workers_of,
)

pytestmark = pytest.mark.timeout(240)

LEASE = ("--lease-timeout", "2s")
SHARED = {"GC_BOOTSTRAP_COOKIE": SECRET}
QUICK = {
    **SHARED,
    "DASK_GC_BOOTSTRAP__RECONNECT__INITIAL": "200ms",
    "DASK_GC_BOOTSTRAP__RECONNECT__MAX": "500ms",
}
STABLE = 4
"""Refreshes in which nothing may change any more."""


@pytest.fixture
async def processes(tmp_path: Path) -> AsyncIterator[Processes]:
    async with Processes(tmp_path) as processes:
        yield processes


async def _scheduler(
    processes: Processes, peers: Iterable[Peer], through: Proxy | None = None
) -> SchedulerProcess:
    """Start a scheduler, whose workers reach it through a proxy if there is one."""
    environ, port = dict(QUICK), 0
    if through is not None:
        environ["DASK_GC_BOOTSTRAP__SCHEDULER_ADDRESS"] = f"tcp://127.0.0.1:{through.port}"
        port = through.target
    quickly = ("--refresh-interval", "300ms")
    return await processes.scheduler(peers, *quickly, port=port, environ=environ)


@asynccontextmanager
async def proxy_to(port: int) -> AsyncIterator[Proxy]:
    proxy = Proxy(port)
    await proxy.start(free_port())
    try:
        yield proxy
    finally:
        await proxy.close()


async def _says(peer: Peer) -> dict[str, Any]:
    code, status = await request(peer, "GET", "/v1/status", cookie=COOKIE)
    assert code == 200, status
    found: dict[str, Any] = status
    return found


async def _known_workers(scheduler: SchedulerProcess) -> set[str]:
    """All workers that it knows, whoever attached them."""
    async with rpc(scheduler.address) as ask:
        return set((await ask.identity())["workers"])


async def _share_nothing(one: SchedulerProcess, other: SchedulerProcess) -> None:
    first, second = await asyncio.gather(_known_workers(one), _known_workers(other))
    assert not first & second, "a worker is registered with both"
    mine, theirs = await one.workers(), await other.workers()
    assert not mine.keys() & theirs.keys(), "an agent is a member of both"


async def _stays_with(
    holder: SchedulerProcess, other: SchedulerProcess, agents: dict[Peer, ProcessGroup]
) -> None:
    """For several refreshes of both, all agents are the holder's, with the same workers."""
    workers = await holder.formed(agents)

    async def attached() -> bool:
        return all([(await _says(peer))["state"] == "attached" for peer in agents])

    await until(attached, "the agents have heard that their workers are registered")
    until_when = [(await scheduler.status())["refreshes"] + STABLE for scheduler in (holder, other)]
    attaches = [group.log.read_text().count("Attached to") for group in agents.values()]

    async def enough() -> bool:
        statuses = await asyncio.gather(holder.status(), other.status())
        assert statuses[0]["workers"] == workers
        assert not statuses[1]["workers"]
        assert not await _known_workers(other)
        for peer, group in agents.items():
            said = await _says(peer)
            assert said["scheduler_id"] == statuses[0]["id"], said
            assert group.pid is not None
            assert len(workers_of(group.pid)) == 1
        return all(s["refreshes"] >= n for s, n in zip(statuses, until_when, strict=True))

    await until(enough, "both have refreshed")
    assert attaches == [group.log.read_text().count("Attached to") for group in agents.values()]


async def _knows_nobody(scheduler: SchedulerProcess) -> bool:
    return not await _known_workers(scheduler)


async def test_a_scheduler_that_wakes_up_late_does_not_fight(processes: Processes) -> None:
    agents = await processes.agents(2, *LEASE, environ=SHARED)
    first = await _scheduler(processes, agents)
    await first.formed(agents)
    second = await _scheduler(processes, agents)
    first.group.signal(signal.SIGSTOP)
    try:
        await second.formed(agents)
    finally:
        first.group.signal(signal.SIGCONT)
    await until(lambda: _knows_nobody(first), "the first knows that it has nobody")
    await _stays_with(second, first, agents)
    second.group.signal(signal.SIGKILL)
    await second.group.stop()
    await first.formed(agents)


async def test_a_scheduler_that_was_cut_off_does_not_fight(processes: Processes) -> None:
    agents = await processes.agents(2, *LEASE, environ=SHARED)
    async with proxy_to(free_port()) as proxy:
        first = await _scheduler(processes, agents, proxy)
        await first.formed(agents)
        second = await _scheduler(processes, agents)
        async with proxy.cut():
            await second.formed(agents)
        await until(lambda: _knows_nobody(first), "the first knows that it has nobody")
        await _stays_with(second, first, agents)


async def test_a_short_hang_or_cut_changes_nothing(processes: Processes) -> None:
    agents = await processes.agents(2, "--lease-timeout", "60s", environ=SHARED)
    async with proxy_to(free_port()) as proxy:
        first = await _scheduler(processes, agents, proxy)
        workers = await first.formed(agents)
        second = await _scheduler(processes, agents)
        first.group.signal(signal.SIGSTOP)
        async with proxy.cut():
            await asyncio.sleep(1)
            first.group.signal(signal.SIGCONT)
            await asyncio.sleep(1)
        await _stays_with(first, second, agents)
        assert await first.workers() == workers


async def test_two_schedulers_that_compete_share_nothing(processes: Processes) -> None:
    """Agents are killed again and again, and both go for them when they are back."""
    agents = await processes.agents(3, *LEASE, environ=SHARED)
    one, other = await asyncio.gather(_scheduler(processes, agents), _scheduler(processes, agents))

    async def all_taken() -> bool:
        await _share_nothing(one, other)
        mine, theirs = await one.workers(), await other.workers()
        return len(mine) + len(theirs) == len(agents)

    for peer in list(agents)[:2]:
        await until(all_taken, "each agent is somebody's")
        agents[peer].signal(signal.SIGKILL)
        await agents[peer].stop()
        again = ["--listen", str(peer), "--nthreads", "1", "--host", "127.0.0.1", *LEASE]
        agents[peer] = await processes.start("pool", "agent", *again, environ=SHARED)
        for _ in range(20):
            await _share_nothing(one, other)
            await asyncio.sleep(0.05)
    await until(all_taken, "each agent is somebody's")
    one.group.signal(signal.SIGTERM)
    await one.group.stop()
    await other.formed(agents)


async def test_an_attach_that_arrives_late_serves_nobody_else(processes: Processes) -> None:
    """The scheduler that sent it is dead by then, and another has its address."""
    (agent,) = await processes.agents(1, *LEASE, environ=SHARED)
    async with proxy_to(agent.port) as control, proxy_to(free_port()) as proxy:
        peer = Peer("127.0.0.1", control.port)
        async with control.cut():
            first = await _scheduler(processes, [peer], proxy)

            async def asks() -> bool:
                return str(peer) in (await first.status())["connecting"]

            await until(asks, "the first has asked the agent")
            first.group.signal(signal.SIGKILL)
            await first.group.stop()
            second = await _scheduler(processes, [peer], proxy)
        workers = await second.formed([peer])
        assert await _known_workers(second) == {
            address for each in workers.values() for address in each
        }
        assert (await _says(agent))["scheduler_id"] == (await second.status())["id"]
