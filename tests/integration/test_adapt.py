"""Pools that adapt to the work of a real scheduler: from zero, over to the next pool, and back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from typing import Any

import pytest
from distributed import Client, Scheduler

from gc_bootstrap import BootstrapPlugin
from gc_bootstrap.agent.run import AgentServer
from tests.integration.clusters import Ledger, run, run_held
from tests.integration.harness import agent_here, until

SOON = {"interval": "50ms", "wait-count": 2, "target-duration": "500ms"}
"""A task of unknown duration is taken for one of half a second: each asks for a thread."""


@pytest.fixture
async def client(scheduler: Scheduler) -> AsyncIterator[Client]:
    async with Client(scheduler.address, asynchronous=True) as client:
        yield client


class Pools:
    """Pools of agents in this process, in the order in which they are filled."""

    def __init__(self, scheduler: Scheduler, stack: AsyncExitStack) -> None:
        self._scheduler, self._stack = scheduler, stack
        self.agents: dict[str, list[AgentServer]] = {}
        self._sections: dict[str, dict[str, Any]] = {}

    async def add(self, name: str, count: int, *arguments: str, **adapt: Any) -> None:
        """One of so many agents."""
        self.agents[name] = [
            await self._stack.enter_async_context(agent_here(*arguments, insecure=True))
            for _ in range(count)
        ]
        peers = ",".join(str(agent.peer) for agent in self.agents[name])
        self._sections[name] = {"discovery": f"static:{peers}", "adapt": SOON | adapt}

    async def start(self) -> BootstrapPlugin:
        """Start them all."""
        plugin = BootstrapPlugin(pools=self._sections, refresh_interval="1s")
        await plugin.start(self._scheduler)
        self._scheduler.add_plugin(plugin, name=plugin.name)
        self._stack.push_async_callback(plugin.close)
        return plugin

    def held(self) -> list[int]:
        """How many agents of each pool are attached."""
        return [sum(a.agent.state == "attached" for a in found) for found in self.agents.values()]

    def all_are_idle(self) -> bool:
        """Whether they are all nobody's, and can be attached again."""
        return all(a.agent.state == "idle" for found in self.agents.values() for a in found)

    async def hold(self, *counts: int) -> None:
        """Wait until so many of each are attached."""
        await until(lambda: self.held() == list(counts), f"{counts} are held, not {self.held()}")


@pytest.fixture
async def pools(scheduler: Scheduler, stack: AsyncExitStack) -> Pools:
    return Pools(scheduler, stack)


async def looks_on(plugin: BootstrapPlugin, times: int = 5) -> None:
    """Wait until each pool has planned some more times."""
    for pool in plugin.pools.values():
        plans = set()
        for _ in range(times):
            seen = pool._refresher.plan
            plans.add(id(seen))
            await until(lambda pool=pool, seen=seen: pool._refresher.plan is not seen, "it plans")  # type: ignore[misc]


async def test_a_gpu_task_brings_the_gpu_pool_up_from_zero_and_no_other(
    pools: Pools, client: Client, ledger: Ledger
) -> None:
    await pools.add("cpu", 2)
    await pools.add("gpu", 2, "--resources", "GPU=1")
    plugin = await pools.start()
    task = client.submit(run_held, "held", resources={"GPU": 1}, pure=False)
    await pools.hold(0, 1)
    await looks_on(plugin)
    assert pools.held() == [0, 1]
    ledger.open.set()
    assert await task == "held"
    del task
    await until(pools.all_are_idle, "all are given back")
    assert ledger.runs["held"] == 1


async def test_the_first_pool_fills_first_and_the_next_has_what_is_left(
    pools: Pools, client: Client, ledger: Ledger
) -> None:
    await pools.add("cheap", 2)
    await pools.add("dear", 3)
    plugin = await pools.start()
    tasks = client.map(run_held, range(2), pure=False)
    await pools.hold(2, 0)
    await looks_on(plugin)
    assert pools.held() == [2, 0]
    more = client.map(run_held, range(2, 4), pure=False)
    await pools.hold(2, 2)
    ledger.open.set()
    assert await client.gather([*tasks, *more]) == [0, 1, 2, 3]
    assert set(ledger.runs.values()) == {1}, "none has run twice"


async def test_idleness_gives_all_back_to_the_minimum_and_data_keeps_one(
    pools: Pools, client: Client, ledger: Ledger
) -> None:
    await pools.add("cheap", 3, minimum=1, maximum=2)
    await pools.add("dear", 3, maximum=3)
    plugin = await pools.start()
    await pools.hold(1, 0)
    tasks = client.map(run_held, range(5), pure=False)
    await pools.hold(2, 3)
    ledger.open.set()
    assert await client.gather(tasks) == list(range(5))
    # Five results: they go to those that stay.
    await pools.hold(1, 0)
    assert await client.gather(tasks) == list(range(5))
    assert set(ledger.runs.values()) == {1}
    plugin.resize("cheap", adapt={**SOON, "minimum": 0})
    await looks_on(plugin)
    assert pools.held() == [1, 0], "the results are there"
    await client.cancel(tasks)
    await until(pools.all_are_idle, "nothing is there that anybody would need")


async def test_work_that_comes_is_looked_at_at_once(
    pools: Pools, client: Client, ledger: Ledger
) -> None:
    await pools.add("cpu", 1, interval="1h")
    plugin = await pools.start()
    await until(lambda: plugin.pools["cpu"].numbers.wanted == 0, "the pool has looked")
    assert await client.submit(run, "soon") == "soon"


async def test_a_task_for_a_host_goes_to_the_agent_that_is_there(
    pools: Pools, client: Client, ledger: Ledger, stack: AsyncExitStack
) -> None:
    await pools.add("cpu", 2)
    away = ("--host", "127.0.0.2")
    there = await stack.enter_async_context(agent_here(*away, insecure=True, listen="127.0.0.2:0"))
    pools.agents["cpu"].append(there)
    pools._sections["cpu"]["discovery"] += f",{there.peer}"
    await pools.start()
    assert await client.submit(run, 1, workers=["127.0.0.2"], pure=False) == 1
    attached: Sequence[AgentServer] = [
        agent for agent in pools.agents["cpu"] if agent.agent.attaches
    ]
    assert attached == [there]
