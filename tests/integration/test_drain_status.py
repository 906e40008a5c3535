"""Every drain shows in the status, whoever asked for it, and so does what it has cost."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest
from distributed import Client, Scheduler, wait

from gc_bootstrap.cli.report import drained, rows
from gc_bootstrap.scheduler.plugin import BootstrapPlugin
from tests.integration.clusters import Cluster, Ledger, results, running
from tests.integration.harness import agent_here, until


class Watched(Cluster):
    """A cluster that a plugin has formed, and its status."""

    async def status(self) -> dict[str, Any]:
        plugin = self.scheduler.plugins[BootstrapPlugin.name]
        assert isinstance(plugin, BootstrapPlugin)
        (pool,) = (await plugin.status())["pools"]
        return pool  # type: ignore[no-any-return]


@pytest.fixture
async def cluster(scheduler: Scheduler, stack: AsyncExitStack) -> Watched:
    agents = [await stack.enter_async_context(agent_here(insecure=True)) for _ in range(2)]
    discovery = "static:" + ",".join(str(agent.peer) for agent in agents)
    client = await Client(scheduler.address, asynchronous=True)
    stack.push_async_callback(client.close)
    await client.register_plugin(BootstrapPlugin(discovery=discovery))
    await until(lambda: len(scheduler.workers) == 2, "the cluster is complete")
    return Watched(scheduler, client, None, agents)  # type: ignore[arg-type]


async def test_a_drain_that_an_agent_asked_for_shows_while_it_runs_and_afterwards(
    cluster: Watched, ledger: Ledger
) -> None:
    peer, worker = str(cluster.agents[0].peer), cluster.address(0)
    held = await running(cluster, ledger, 0)
    assert (await cluster.status())["drains"] == []
    drain = asyncio.create_task(cluster.agents[0].drain())
    polls = [await until(seen(cluster, peer), "the drain shows") for _ in range(5)]
    for poll in polls:
        assert poll["disconnecting"] == []
        assert poll["progress"][peer].startswith("draining: 1 tasks, 0 results (0 B) are there, ")
        (row,) = (row for row in rows(poll) if row.peer == peer)
        assert (row.state, row.workers) == ("draining", worker)
        (told,) = poll["drains"]
        assert (told["peer"], told["worker"], told["state"]) == (peer, worker, "running")
    ledger.open.set()
    await drain
    status = await cluster.status()
    (told,) = status["drains"]
    assert (told["asked-by"], told["state"], told["lost"]) == (["agent"], "done", "")
    assert told["seconds"] >= polls[-1]["drains"][0]["seconds"] > 0
    assert status["progress"] == {}
    assert status["counters"]["drains"] == 1
    assert status["counters"]["drains-with-loss"] == 0
    ((line, _),) = drained(status)
    assert line.startswith(f"{peer}: drained in ")
    assert ", nothing lost (asked by its agent, " in line
    assert await held == "held"


async def test_what_a_drain_has_cost_is_shown(cluster: Watched, ledger: Ledger) -> None:
    peer = str(cluster.agents[0].peer)
    bound = await running(cluster, ledger, 0, only_there=True)
    futures = await results(cluster, 3, workers=[cluster.address(1)])
    await wait(futures)
    cluster.agents[0].agent.drain_timeout = 2.0
    drain = asyncio.create_task(cluster.agents[0].drain())
    await until(lambda: len(cluster.scheduler.workers) == 1, "the time is over")
    ledger.open.set()
    await drain
    status = await cluster.status()
    (told,) = status["drains"]
    assert told["lost"] == "1 tasks that no other worker can run, which wait for one (0 B)"
    assert status["counters"]["drains-with-loss"] == 1
    ((line, colour),) = drained(status)
    assert line.startswith(f"{peer}: drained in ")
    assert (told["lost"] in line, colour) == (True, "yellow")
    bound.release()


async def test_a_drain_that_both_sides_ask_for_names_both_and_one_that_is_cancelled_says_so(
    cluster: Watched, ledger: Ledger
) -> None:
    held = await running(cluster, ledger, 0)
    plugin = cluster.scheduler.plugins[BootstrapPlugin.name]
    assert isinstance(plugin, BootstrapPlugin)
    cluster.dist = plugin.pools["default"].dist  # type: ignore[assignment]
    peer = str(cluster.agents[0].peer)
    drop = asyncio.create_task(cluster.drop(0))
    await until(seen(cluster, peer), "the drain shows")
    drop.cancel()
    await asyncio.gather(drop, return_exceptions=True)
    (told,) = (await cluster.status())["drains"]
    assert (told["asked-by"], told["state"], told["lost"]) == (["pool"], "cancelled", "")
    drop = asyncio.create_task(cluster.drop(0))
    drain = asyncio.create_task(cluster.agents[0].drain())

    async def both() -> bool:
        return len((await cluster.status())["drains"][-1]["asked-by"]) == 2

    await until(both, "both have asked")
    ledger.open.set()
    await asyncio.gather(drop, drain)
    status = await cluster.status()
    assert [told["state"] for told in status["drains"]] == ["cancelled", "done"]
    assert set(status["drains"][-1]["asked-by"]) == {"agent", "pool"}
    assert [status["counters"][f"drains{what}"] for what in ("", "-cancelled")] == [2, 1]
    assert "the drain was cancelled after " in drained(status)[-1][0]
    assert await held == "held"


def seen(cluster: Watched, peer: str) -> Any:
    """The status, once it shows a drain of a peer."""

    async def look() -> dict[str, Any] | None:
        status = await cluster.status()
        return status if status["progress"].get(peer) else None

    return look
