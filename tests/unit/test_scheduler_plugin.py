"""The plugin before it starts: what it takes, what a client may send, all problems at once."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import dask.config
import pytest
from distributed import Scheduler

from gc_bootstrap.errors import ConfigError
from gc_bootstrap.scheduler.dask import DaskDist
from gc_bootstrap.scheduler.plugin import BootstrapPlugin
from gc_bootstrap.testing import FakeDist, ManualDiscovery

COOKIE = "correct horse battery staple"


@asynccontextmanager
async def a_scheduler() -> AsyncIterator[Scheduler]:
    async with Scheduler(host="127.0.0.1", port=0, dashboard_address=":0") as scheduler:
        yield scheduler


async def prepare(plugin: BootstrapPlugin, scheduler: Scheduler) -> None:
    await asyncio.to_thread(plugin.prepare, scheduler)  # as start() and the preload do


async def problems_of(plugin: BootstrapPlugin, scheduler: Scheduler) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        await prepare(plugin, scheduler)
    assert plugin.pools == {}
    return caught.value.problems


def cookies_of(plugin: BootstrapPlugin) -> dict[str, str]:
    """Where each pool has its cookie from."""
    found = {}
    for name, pool in plugin.pools.items():
        assert isinstance(pool.dist, DaskDist)
        assert pool.dist._client is not None
        found[name] = repr(pool.dist._client.signer)
    return found


# -- the constructor -------------------------------------------------------------------------------


def test_all_that_is_wrong_in_the_arguments_is_said_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        BootstrapPlugin(discovery=5, refresh_interval="5 parsecs", cookie="secret")
    assert sorted(line.partition(": ")[0] for line in caught.value.problems) == [
        "gc-bootstrap.cookie",
        "gc-bootstrap.discovery",
        "gc-bootstrap.refresh-interval",
    ]


def test_a_bad_configuration_of_the_client_is_none_of_the_schedulers() -> None:
    with dask.config.set({"gc-bootstrap.versions": "strict"}):
        BootstrapPlugin(discovery="local")


@pytest.mark.parametrize("discovery", ["no-such-discovery", "no.such.module:Class"])
def test_the_constructor_imports_nothing_that_the_client_need_not_have(discovery: str) -> None:
    BootstrapPlugin(discovery=discovery, cookie_file="/there/only")


# -- pickling --------------------------------------------------------------------------------------


async def test_what_a_client_sends_arrives() -> None:
    sent = BootstrapPlugin(
        discovery="static:10.0.0.5", refresh_interval="1s", removal={"policy": "drain"}
    )
    plugin = pickle.loads(pickle.dumps(sent))
    async with a_scheduler() as scheduler:
        await prepare(plugin, scheduler)
    (pool,) = plugin.pools.values()
    assert pool.options.refresh_interval == 1.0
    assert pool.options.removal.policy == "drain"
    assert {str(peer) for peer in (await pool.discovery.peers()).peers} == {"10.0.0.5:8791"}


async def test_a_plugin_that_was_prepared_is_sent_as_if_it_had_not_been() -> None:
    plugin = BootstrapPlugin(discovery="local")
    async with a_scheduler() as scheduler:
        await prepare(plugin, scheduler)
    again = pickle.loads(pickle.dumps(plugin))
    assert again.pools == {}
    assert not again._prepared


# -- prepare ---------------------------------------------------------------------------------------


async def test_unconfigured_nothing_is_made(caplog: pytest.LogCaptureFixture) -> None:
    plugin = BootstrapPlugin()
    async with a_scheduler() as scheduler:
        await prepare(plugin, scheduler)
    assert plugin.pools == {}
    why = "othing is started: gc-bootstrap.discovery is null and there are no pools"
    assert plugin.not_started == (f"n{why} (is a variable unset?)",)
    assert [r.levelname for r in caplog.records if f"N{why}" in r.message] == ["WARNING"]


async def test_a_pool_that_names_nobody_is_not_made_and_the_others_are(
    caplog: pytest.LogCaptureFixture,
) -> None:
    plugin = BootstrapPlugin(discovery="static:", pools={"gpu": {"discovery": "static:a"}})
    async with a_scheduler() as scheduler:
        await prepare(plugin, scheduler)
        await plugin.start(scheduler)
        status = await plugin.status()
        await plugin.close()
    assert plugin.pools.keys() == {"gpu"}
    reason = "gc-bootstrap.discovery: 'static:' names no peer (is a variable unset?)"
    assert status["not-started"] == [f"pool default is not started: {reason}"]
    assert f"Pool default is not started: {reason}" in caplog.text


async def test_arguments_win_over_the_schedulers_configuration() -> None:
    plugin = BootstrapPlugin(discovery="local", connect={"timeout": "7s"}, versions=None)
    settings = {"connect.timeout": "9s", "connect.concurrency": 3, "versions": "warn"}
    with dask.config.set({f"gc-bootstrap.{key}": value for key, value in settings.items()}):
        async with a_scheduler() as scheduler:
            await prepare(plugin, scheduler)
    options = plugin.pools["default"].options
    assert (options.connect.timeout, options.connect.concurrency) == (7.0, 3)
    assert options.versions == "warn"


async def test_each_pool_has_a_discovery_and_a_dist_of_its_own() -> None:
    pools = {"cpu": {"discovery": "static:a"}, "gpu": {"discovery": "static:b"}}
    plugin = BootstrapPlugin(discovery="local", pools=pools)
    async with a_scheduler() as scheduler:
        await prepare(plugin, scheduler)
    assert {name: pool.name for name, pool in plugin.pools.items()} == {
        "default": "default",
        "cpu": "cpu",
        "gpu": "gpu",
    }
    dists = [pool.dist for pool in plugin.pools.values()]
    assert len({id(dist) for dist in dists}) == 3
    assert [dist.owner.pool for dist in dists if isinstance(dist, DaskDist)] == [
        "default",
        "cpu",
        "gpu",
    ]


async def test_objects_can_be_handed_in() -> None:
    discovery, dist = ManualDiscovery(), FakeDist()
    plugin = BootstrapPlugin(discovery=discovery, dist=dist)
    async with a_scheduler() as scheduler:
        await prepare(plugin, scheduler)
    assert plugin.pools["default"].discovery is discovery
    assert plugin.pools["default"].dist is dist


async def test_all_problems_of_all_kinds_are_said_at_once(tmp_path: Path) -> None:
    plugin = BootstrapPlugin.unchecked(
        discovery="no-such",
        cookie_file=str(tmp_path / "missing"),
        refresh_interval="5 parsecs",
        pools={"gpu": {"discovery": "static:a b", "dist": "no-such"}},
    )
    async with a_scheduler() as scheduler:
        problems = await problems_of(plugin, scheduler)
    keys = [line.partition(": ")[0] for line in problems]
    assert sorted(keys) == [
        f"gc-bootstrap.cookie-file {tmp_path / 'missing'}",
        "gc-bootstrap.discovery",
        "gc-bootstrap.pools.gpu.discovery",
        "gc-bootstrap.pools.gpu.dist",
        "gc-bootstrap.refresh-interval",
    ]
    assert not any("\n" in line for line in problems)


async def test_what_two_pools_inherit_is_said_once(tmp_path: Path) -> None:
    pools = {"cpu": {"discovery": "static:a"}, "gpu": {"discovery": "static:b"}}
    plugin = BootstrapPlugin(cookie_file=str(tmp_path / "missing"), pools=pools)
    async with a_scheduler() as scheduler:
        assert len(await problems_of(plugin, scheduler)) == 1


@pytest.mark.parametrize(
    ("key", "value"),
    [("discovery", [1]), ("discovery", 5), ("dist", 5), ("refresh-interval", "soon")],
)
async def test_one_bad_value_of_a_pool_is_one_line(key: str, value: Any) -> None:
    pools = {"gpu": {"discovery": "local", key: value}}
    async with a_scheduler() as scheduler:
        (line,) = await problems_of(BootstrapPlugin.unchecked(pools=pools), scheduler)
    assert line.startswith(f"gc-bootstrap.pools.gpu.{key}: {value!r} is ")


async def test_what_is_loaded_and_is_none_is_one_line() -> None:
    plugin = BootstrapPlugin(discovery="collections:Counter", dist="collections:Counter")
    async with a_scheduler() as scheduler:
        problems = await problems_of(plugin, scheduler)
    assert sorted(line.partition(": ")[0] for line in problems) == [
        "gc-bootstrap.discovery",
        "gc-bootstrap.dist",
    ]


async def test_a_problem_can_be_put_right_and_tried_again(tmp_path: Path) -> None:
    file = tmp_path / "cookie"
    plugin = BootstrapPlugin(discovery="local", cookie_file=str(file))
    async with a_scheduler() as scheduler:
        await problems_of(plugin, scheduler)
        file.write_text(COOKIE)
        await prepare(plugin, scheduler)
    assert list(plugin.pools) == ["default"]


# -- cookies ---------------------------------------------------------------------------------------


async def test_the_problem_of_a_pools_own_cookie_names_that_pool(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    pools = {"gpu": {"discovery": "local", "cookie-file": str(missing)}}
    async with a_scheduler() as scheduler:
        (line,) = await problems_of(BootstrapPlugin(pools=pools), scheduler)
    assert line.startswith(f"gc-bootstrap.pools.gpu.cookie-file {missing}: cannot be read")


async def test_each_pool_reads_its_own_cookie(tmp_path: Path) -> None:
    for name in ("cpu", "gpu"):
        (tmp_path / name).write_text(COOKIE + name)
    pools = {
        name: {"discovery": "local", "cookie-file": str(tmp_path / name)} for name in ("cpu", "gpu")
    }
    plugin = BootstrapPlugin(pools=pools)
    async with a_scheduler() as scheduler:
        await prepare(plugin, scheduler)
    cpu, gpu = cookies_of(plugin).values()
    assert cpu != gpu


async def test_a_cookie_in_the_environment_is_every_pools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GC_BOOTSTRAP_COOKIE", COOKIE)
    pools = {"cpu": {"discovery": "static:a"}, "gpu": {"discovery": "static:b"}}
    plugin = BootstrapPlugin(pools=pools)
    async with a_scheduler() as scheduler:
        await prepare(plugin, scheduler)
    assert set(cookies_of(plugin).values()) == {"the cookie from GC_BOOTSTRAP_COOKIE"}


async def test_a_plugin_that_replaces_another_has_the_cookie_of_the_environment_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GC_BOOTSTRAP_COOKIE", COOKIE)
    async with a_scheduler() as scheduler:
        for _ in range(2):
            plugin = BootstrapPlugin(discovery="local")
            await prepare(plugin, scheduler)
            assert cookies_of(plugin) == {"default": "the cookie from GC_BOOTSTRAP_COOKIE"}
