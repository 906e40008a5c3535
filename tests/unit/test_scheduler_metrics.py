"""What Dask's page of metrics says of the pools."""

from __future__ import annotations

import builtins
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from distributed import Scheduler
from prometheus_client import REGISTRY

from gc_bootstrap.errors import DiscoveryError
from gc_bootstrap.peer import Peer
from gc_bootstrap.scheduler.metrics import GAUGES, METRICS
from gc_bootstrap.scheduler.plugin import BootstrapPlugin
from gc_bootstrap.stake import Claim, Stake
from gc_bootstrap.testing import FakeDist, ManualDiscovery
from tests.unit.helpers import eventually

PEERS = [Peer("10.0.0.1", port) for port in range(1, 6)]


@asynccontextmanager
async def a_scheduler() -> AsyncIterator[Scheduler]:
    async with Scheduler(host="127.0.0.1", port=0, dashboard_address=":0") as scheduler:
        yield scheduler


async def page(scheduler: Scheduler) -> dict[str, float]:
    """What it says of pools."""
    port = scheduler.http_server.port  # type: ignore[attr-defined]
    url = f"http://127.0.0.1:{port}/metrics"
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        assert response.status == 200
        lines = (await response.text()).splitlines()
    found = {}
    for line in lines:
        if line.startswith("gc_bootstrap_pool"):
            name, _, value = line.rpartition(" ")
            found[name.removeprefix("gc_bootstrap_pool_")] = float(value)
    return found


async def started(
    scheduler: Scheduler, discovery: ManualDiscovery, dist: FakeDist, **options: Any
) -> BootstrapPlugin:
    """A plugin with one pool."""
    plugin = BootstrapPlugin(discovery=discovery, dist=dist, **options)
    await plugin.start(scheduler)
    scheduler.add_plugin(plugin, name=plugin.name)
    return plugin


def numbers(pool: str, **values: float) -> dict[str, float]:
    return {f'{end}{{pool="{pool}"}}': value for end, value in values.items()}


async def test_the_page_says_what_a_pool_wants_holds_and_finds() -> None:
    dist = FakeDist()
    async with a_scheduler() as scheduler:
        plugin = await started(scheduler, ManualDiscovery(PEERS), dist, size=3)
        await eventually(lambda: len(dist.connected) == 3)
        plugin.pools["default"].hint()
        await eventually(lambda: plugin.pools["default"].numbers.members == 3)
        expected = numbers("default", wanted=3, members=3, peers=5, claims=0)
        assert await page(scheduler) == expected
        dist.wanted = [Claim("tcp://10.0.0.2:8786", "other", "default", Stake(), wants=2)]
        assert await page(scheduler) == expected | numbers("default", claims=2)
        await plugin.close()
        assert await page(scheduler) == {}


async def test_a_pool_that_takes_all_wants_what_it_finds() -> None:
    async with a_scheduler() as scheduler:
        plugin = await started(scheduler, ManualDiscovery(PEERS), FakeDist())
        await eventually(lambda: plugin.pools["default"].numbers.members == 5)
        assert await page(scheduler) == numbers("default", wanted=5, members=5, peers=5, claims=0)


async def test_what_is_not_known_is_not_there() -> None:
    discovery = ManualDiscovery()
    discovery.set(DiscoveryError("the name server is down"))
    async with a_scheduler() as scheduler:
        await started(scheduler, discovery, FakeDist())
        assert await page(scheduler) == numbers("default", claims=0)


async def test_the_pages_of_two_schedulers_in_a_process_show_their_own_pools() -> None:
    async with a_scheduler() as one, a_scheduler() as two:
        first = await started(one, ManualDiscovery(PEERS[:1]), FakeDist())
        second = await started(two, ManualDiscovery(PEERS[:2]), FakeDist())
        for plugin, count in ((first, 1), (second, 2)):
            pool = plugin.pools["default"]
            await eventually(lambda pool=pool, count=count: pool.numbers.members == count)  # type: ignore[misc]
        for _ in range(2):
            assert (await page(one))['members{pool="default"}'] == 1
            assert (await page(two))['members{pool="default"}'] == 2
        await first.close()
        assert await page(one) == {}
        assert (await page(two))['members{pool="default"}'] == 2
    assert not METRICS._pools
    assert METRICS not in REGISTRY._collector_to_names


async def test_without_prometheus_client_nothing_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def imported(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "prometheus_client":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    async with a_scheduler() as scheduler:
        monkeypatch.setattr(builtins, "__import__", imported)
        METRICS.show(scheduler, {})()
        assert not METRICS._pools


def test_every_gauge_is_described() -> None:
    assert [metric.name for metric in METRICS.describe()] == [
        f"gc_bootstrap_pool_{end}" for end in GAUGES
    ]
