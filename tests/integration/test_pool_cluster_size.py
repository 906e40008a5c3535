"""`scale` and `adapt` of a `PoolCluster`: what Dask's own tests of clusters ask of both.

Case by case distributed's `deploy/tests/test_adaptive.py` and the cases on size in `test_local.py`
(2026.7), except for what is about Dask's class `Adaptive`, which a pool does without: subclasses of
it and their logs (`test_interval`, `adapt_logs_error*`, `adapt_callback_logs*`,
`adaptive_logs_stopping_once`, `adapt_stop_del`, `basic_no_loop`'s loop), groups of workers
(`worker_keys`), cores and memory in place of a number (`adapt_cores_memory`: agents differ), a
`scale` that has to be awaited there (`scale_needs_to_be_awaited`), and `Scheduler.adaptive_target`
itself (`scale_up_large_tasks`, `respect_average_nthreads`), which `tests/unit` has of our own.
"""

from __future__ import annotations

import asyncio
import math
import time
from datetime import timedelta
from typing import Any

import dask.config
import numpy as np
import pytest
from distributed import Client

from gc_bootstrap import ConfigError
from tests.integration.harness import agent_here, until
from tests.integration.pool_clusters import agents_beside, pool_cluster


def _inc(x: int) -> int:
    return x + 1


def _slow(x: int) -> int:
    time.sleep(0.05)
    return x


async def _holds(cluster: Any, count: int) -> None:
    async def check() -> bool:
        status = await cluster.pool_status()
        return len(status["pools"][0]["members"]) == count

    await until(check, f"{count} agents are held")


# -- scale -----------------------------------------------------------------------------------------


async def test_scale_up_and_down_by_awaiting_or_not() -> None:
    async with (
        agent_here(),
        agent_here(),
        agent_here(),
        pool_cluster(asynchronous=True, size=0) as c,
    ):
        assert (await c.pool_status())["pools"][0]["size"] == 0
        await c.scale(3)
        await _holds(c, 3)
        c.scale(1)
        await c
        assert (await c.pool_status())["pools"][0]["size"] == 1
        await _holds(c, 1)
        await c.scale("all")
        await _holds(c, 3)


def test_scale_returns_once_the_pool_knows_and_releases_lose_nothing() -> None:
    with agents_beside(3) as agents, pool_cluster() as cluster, Client(cluster) as client:
        client.wait_for_workers(3)
        futures = client.map(_inc, range(60), pure=False)
        assert client.gather(futures) == list(range(1, 61))
        assert cluster.scale(1) is None
        status = cluster.pool_status()["pools"][0]
        assert (status["size"], status["wanted"]) == (1, 1)
        asyncio.run(until(lambda: sorted(agents.states()).count("idle") == 2, "two are idle"))
        assert client.gather(futures) == list(range(1, 61))
        assert "has 1 of 1 wanted" in _soon(cluster._scaling_status, "has 1 of 1 wanted")


def _soon(read: Any, text: str) -> str:
    asyncio.run(until(lambda: text in read(), text))
    return str(read())


@pytest.mark.parametrize("size", [np.int64(2), 2.0])
def test_numbers_of_other_libraries_are_numbers(size: Any) -> None:
    with pool_cluster(size=0) as cluster:
        cluster.scale(size)
        assert cluster.pool_status()["pools"][0]["size"] == 2


def test_bad_numbers_are_refused_in_a_line_and_change_nothing() -> None:
    with pool_cluster(size=1) as cluster:
        for bad in (-1, 2.5, True, "al"):
            with pytest.raises((ConfigError, TypeError)) as told:
                cluster.scale(bad)
            assert repr(bad) in str(told.value)
            assert isinstance(told.value, TypeError if bad == "al" else ValueError)
        with pytest.raises(TypeError, match="minimum: 'some' is not a number of agents"):
            cluster.adapt("some")
        with pytest.raises(ConfigError) as several:
            cluster.adapt(-1, 2, interval="5 parsecs", wait_count=0)
        assert len(several.value.problems) == 3
        with pytest.raises(ValueError, match=r"adapt\.minimum: 3 is more than maximum, 2"):
            cluster.adapt(3, 2)
        with pytest.raises(ValueError, match="pool: 'gpu' is none; there are: default"):
            cluster.scale(2, pool="gpu")
        status = cluster.pool_status()["pools"][0]
        assert (status["size"], status["adapt"]) == (1, None)
    with (
        pool_cluster(size=3, share={"guaranteed": 2}) as cluster,
        pytest.raises(ValueError, match=r"share\.guaranteed: 2 is more than size, 1"),
    ):
        cluster.scale(1)


async def test_of_several_pools_one_has_to_be_named() -> None:
    pools = {name: {"discovery": "static:127.0.0.1:9"} for name in ("cpu", "gpu")}
    async with pool_cluster(None, asynchronous=True, pools=pools) as cluster:
        with pytest.raises(ConfigError, match=r"pool: which one\?"):
            await cluster.scale(1)
        await cluster.scale(1, pool="gpu")
        await cluster.adapt(0, 3, pool="cpu")
        sizes = {pool["name"]: pool for pool in (await cluster.pool_status())["pools"]}
        assert sizes["gpu"]["size"] == 1
        assert sizes["cpu"]["adapt"]["maximum"] == 3
        assert not cluster._supports_scaling


async def test_the_last_of_many_changes_counts_and_a_refused_one_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with pool_cluster(asynchronous=True, size=0) as cluster:
        for size in range(20):
            cluster.scale(size)
        cluster.scale(1, pool="gpu")
        await asyncio.gather(cluster, return_exceptions=True)
        await until(lambda: "there are: default" in caplog.text, "the refused one is logged")
        assert (await cluster.pool_status())["pools"][0]["size"] == 19


# -- adapt -----------------------------------------------------------------------------------------


def test_what_adapt_returns_says_what_it_was_given_and_what_dask_is_configured_to() -> None:
    with (
        dask.config.set({"distributed.adaptive.wait-count": 8}),
        pool_cluster(size=0) as cluster,
    ):
        first = cluster.adapt(0, 2, interval=timedelta(milliseconds=100))
        assert (first.minimum, first.maximum, first.wait_count) == (0, 2, 8)
        assert cluster._adaptive is first
        second = cluster.adapt(minimum=1, target_duration="7s")
        assert first.state == "stopped"
        assert second.state == "running"
        assert (second.minimum, second.maximum, second.interval) == (1, math.inf, 0.1)
        assert cluster.pool_status()["pools"][0]["adapt"] == {
            "minimum": 1,
            "maximum": None,
            "interval": 0.1,
            "wait-count": 8,
            "target-duration": 7.0,
        }
        assert "adaptive, 1 to all that there are" in cluster._scaling_status()
        cluster.scale(0)
        assert second.state == "stopped"
        assert cluster._adaptive is None
        third = cluster.adapt(0, 1)
    assert third.state == "stopped"


async def test_adaptivity_that_is_stopped_keeps_what_is_there() -> None:
    async with agent_here(), pool_cluster(asynchronous=True, size=1) as cluster:
        await _holds(cluster, 1)
        adaptive = await cluster.adapt(1, 3)
        await adaptive.stop()
        assert adaptive.state == "stopped"
        assert adaptive.stop() is None
        status = (await cluster.pool_status())["pools"][0]
        assert (status["size"], status["adapt"]) == (1, None)


async def test_work_brings_agents_and_idleness_lets_them_go() -> None:
    async with (
        agent_here(),
        agent_here(),
        agent_here(),
        pool_cluster(asynchronous=True, size=0) as cluster,
        Client(cluster, asynchronous=True) as client,
    ):
        await cluster.adapt(0, 2, interval="50ms", wait_count=2)
        futures = client.map(_slow, range(40), pure=False)
        await _holds(cluster, 2)
        assert await client.gather(futures) == list(range(40))
        status = (await cluster.pool_status())["pools"][0]
        assert len(status["members"]) <= 2, "never more than the maximum"
        del futures
        await _holds(cluster, 0)
        assert await client.submit(_inc, 1) == 2, "and again"


async def test_a_minimum_is_held_without_work_and_a_lower_maximum_lets_agents_go() -> None:
    async with (
        agent_here(),
        agent_here(),
        agent_here(),
        pool_cluster(asynchronous=True, size=0) as cluster,
        Client(cluster, asynchronous=True) as client,
    ):
        await cluster.adapt(3, 3, interval="50ms", wait_count=1)
        await _holds(cluster, 3)
        futures = client.map(_slow, range(100), pure=False)
        await cluster.adapt(1, 1)
        await _holds(cluster, 1)
        assert await client.gather(futures) == list(range(100)), "nothing is lost"


async def test_one_task_brings_one_agent() -> None:
    with dask.config.set({"distributed.scheduler.default-task-durations": {"_slow": 1000}}):
        async with (
            agent_here(),
            agent_here(),
            pool_cluster(asynchronous=True, size=0) as cluster,
            Client(cluster, asynchronous=True) as client,
        ):
            await cluster.adapt(0, 2, interval="50ms")
            assert await client.submit(_slow, 1) == 1
            counters = (await cluster.pool_status())["pools"][0]["counters"]
            assert counters["attaches"] == 1


async def test_after_adapt_a_number_holds_again() -> None:
    async with (
        agent_here(),
        agent_here(),
        pool_cluster(asynchronous=True, size=2) as cluster,
        Client(cluster, asynchronous=True) as client,
    ):
        await _holds(cluster, 2)
        await cluster.adapt(0, 2, interval="50ms", wait_count=1)
        await _holds(cluster, 0)
        await cluster.scale(2)
        await client.wait_for_workers(2)
