"""`PoolCluster` is what Dask asks of a cluster class.

Case by case what distributed's own `deploy/tests/test_local.py` and `test_cluster.py` ask (2026.7),
except for what a cluster has no part in that starts no workers itself:

- how `LocalCluster` shares out cores and memory (`defaults*`, `worker_params`, `memory*`,
  `scale_memory_cores`), picks a worker class or `inproc://` (`procs`, `transports_inproc`,
  `protocol_inproc`, `worker_class*`, `move_unserializable_data`): an agent's options say it;
- what becomes of a worker that does not start (`death_timeout_raises`, `start_exception`): a held
  peer with its reason, not the end of the cluster;
- `Client()` without an address (`Client_solo`, `Client_kwargs`, `Client_twice`): Dask makes a
  `LocalCluster` then.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import types
import warnings
from contextlib import AsyncExitStack
from typing import Any

import pytest
from distributed import Client
from distributed.core import Status

from gc_bootstrap import ConfigError, PoolCluster
from tests.integration.harness import agent_here, free_port, until
from tests.integration.pool_clusters import agents_beside, pool_cluster


def _inc(x: int) -> int:
    return x + 1


def _wait_until(condition: Any, what: str) -> None:
    asyncio.run(until(condition, what))


# -- without asynchronous --------------------------------------------------------------------------


def test_a_cluster_in_a_script_computes_and_shares_its_loop_with_its_client() -> None:
    with agents_beside(2), pool_cluster() as cluster, Client(cluster) as client:
        future = client.submit(_inc, 1)
        assert future.result() == 2
        assert cluster.scheduler is not None
        assert future.key in cluster.scheduler.tasks
        assert client.loop is cluster.loop
        assert not client.asynchronous
        assert not cluster.asynchronous
        client.wait_for_workers(2)
        assert len(client.nthreads()) == 2
        _wait_until(lambda: "workers=2, threads=2" in repr(cluster), "its repr has both")
        assert cluster.scheduler_address in repr(cluster)
        assert cluster.dashboard_link.endswith("/status")

        async def inside() -> bool:
            return bool(cluster.asynchronous)

        assert cluster.sync(inside)


def test_closing_twice_is_closing_once_and_sets_the_agents_free() -> None:
    with agents_beside(2) as agents:
        cluster = pool_cluster()
        client = cluster.get_client()
        cluster.wait_for_workers(2)
        client.close()
        cluster.close()
        assert cluster.status == Status.closed
        assert agents.states() == ["idle", "idle"]
        cluster.close()
        with pytest.raises(RuntimeError, match="already closed or closing Cluster"):
            Client(cluster)


def test_a_cluster_whose_agents_do_not_exist_opens_and_closes() -> None:
    with pool_cluster("static:127.0.0.1:9") as cluster:
        assert cluster.status == Status.running
        assert cluster.get_logs().keys() == {"Cluster", "Scheduler"}


def test_get_client_is_the_current_one_of_the_cluster_or_a_new_one() -> None:
    with pool_cluster() as cluster, cluster.get_client() as first:
        assert first.cluster == cluster
        with Client(cluster) as second:
            assert first != second
            assert second == cluster.get_client()
    with pool_cluster() as another, another.get_client() as third:
        assert third.cluster == another


def test_a_port_is_free_again_after_close() -> None:
    port = free_port()
    for _ in range(2):
        with pool_cluster(scheduler_port=port) as cluster:
            assert cluster.scheduler_address == f"tcp://127.0.0.1:{port}"


def test_a_dashboard_port_that_is_taken_is_a_warning_and_another_port() -> None:
    port = free_port()
    with pool_cluster(dashboard_address=f":{port}") as first:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            second = pool_cluster(dashboard_address=f":{port}")
        with second:
            assert any(f"{port} is already in use" in str(one.message) for one in warned)
            assert f":{port}/" in first.dashboard_link
            assert second.dashboard_link
            assert first.dashboard_link != second.dashboard_link


def test_it_listens_on_loopback_unless_it_is_told_a_host() -> None:
    def answers(host: str, address: str) -> bool:
        try:
            socket.create_connection((host, int(address.rpartition(":")[2])), 2).close()
        except OSError:
            return False
        return True

    with pool_cluster() as cluster:
        assert answers("127.0.0.1", cluster.scheduler_address)
        assert not answers("127.0.0.2", cluster.scheduler_address)
    with pool_cluster(host="tcp://127.0.0.2") as cluster:
        assert cluster.scheduler_address.startswith("tcp://127.0.0.2:")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Couldn't detect a suitable IP")  # a test has no network
        everywhere = pool_cluster(host="0.0.0.0")
    with everywhere as cluster:
        assert answers("127.0.0.2", cluster.scheduler_address)


def test_arguments_for_the_scheduler_get_there() -> None:
    with (
        pool_cluster(scheduler_kwargs={"blocked_handlers": ["run_function"]}) as cluster,
        Client(cluster) as client,
        pytest.raises(ValueError, match="explicitly disallowed"),
    ):
        client.run_on_scheduler(lambda: 1)


def test_the_loop_of_somebody_else_is_used_and_left_running() -> None:
    with pool_cluster() as outer, pool_cluster(loop=outer.loop) as inner:
        assert inner.loop is outer.loop
        assert inner.scheduler is not None
        assert inner.scheduler.loop is outer.loop
        inner.close()
        with Client(outer) as client:
            assert client.scheduler_info()["id"]


# -- asynchronous ----------------------------------------------------------------------------------


async def test_a_cluster_in_a_coroutine_leaves_no_task_behind() -> None:
    before = asyncio.all_tasks()
    async with (
        agent_here(),
        pool_cluster(asynchronous=True) as cluster,
        Client(cluster, asynchronous=True) as client,
    ):
        assert await client.submit(_inc, 1) == 2
        status = await cluster.pool_status()
        assert len(status["pools"][0]["members"]) == 1
        logs = await cluster.get_logs()
        assert len(logs) == 3
    assert cluster.status == Status.closed
    assert asyncio.all_tasks() == before


async def test_it_can_be_awaited_and_closed_by_hand() -> None:
    cluster = await pool_cluster(asynchronous=True)
    assert await cluster is cluster
    await cluster.close()
    await cluster.close()
    with pytest.raises(ValueError, match="Cluster is closed"):
        await cluster


async def test_one_that_has_never_been_started_closes() -> None:
    cluster = pool_cluster(asynchronous=True)
    assert repr(cluster).startswith("PoolCluster(")
    await cluster.close()
    assert cluster.status == Status.closed


async def test_a_plain_with_is_refused_where_it_is_asynchronous() -> None:
    cluster = pool_cluster(asynchronous=True)
    with pytest.raises(TypeError, match="async with"), cluster:
        pass
    await cluster.close()


async def test_clusters_are_told_apart_by_their_names() -> None:
    async with (
        pool_cluster(asynchronous=True, name="A") as first,
        pool_cluster(asynchronous=True) as second,
        pool_cluster(asynchronous=True) as third,
    ):
        assert first.name == "A"
        assert first == first
        assert first != "A"
        assert len({first.name, second.name, third.name}) == 3
        assert second != third


async def test_the_scheduler_knows_the_clusters_name() -> None:
    async with pool_cluster(asynchronous=True, name="mine") as cluster:
        assert cluster.scheduler is not None
        read = cluster.scheduler.get_metadata
        key = ["cluster-manager-info"]
        await until(lambda: read(keys=key, default={}).get("name") == "mine", "it knows")


async def test_a_start_that_is_cancelled_leaves_nothing() -> None:
    for turns in range(6):
        cluster = pool_cluster(asynchronous=True)
        starting = asyncio.ensure_future(_started(cluster))
        for _ in range(turns):
            await asyncio.sleep(0.002)
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        assert cluster.status in (Status.created, Status.closed, Status.running)
        await cluster.close()


async def _started(cluster: PoolCluster) -> PoolCluster:
    return await cluster


# -- what is wrong ---------------------------------------------------------------------------------


def test_all_problems_are_said_at_once_and_nothing_is_started() -> None:
    with pytest.raises(ConfigError) as told:
        pool_cluster(
            "lokal",
            scheduler="there",
            agents=-1,
            scheduler_port=70000,
            refresh_interval="5 parsecs",
            sharing={},
        )
    lines = told.value.problems
    for word in ("scheduler: 'there'", "agents: -1", "scheduler_port: 70000", "'5 parsecs'"):
        assert any(word in line for line in lines), lines
    assert any("sharing: unknown key; did you mean share?" in line for line in lines)
    assert any("'lokal' is not a known discovery, did you mean local?" in line for line in lines)
    with pytest.raises(TypeError, match="security must be a Security object"):
        pool_cluster(security="tls")
    with pytest.raises(ConfigError, match="would be found by the discovery local only"):
        pool_cluster("static:127.0.0.1", agents=1)
    with pytest.raises(ConfigError, match="contradicts"):
        pool_cluster(cookie_file="a", key_file="b")


async def test_what_is_found_when_it_starts_ends_the_start_and_nothing_is_left(
    tmp_path: Any,
) -> None:
    with pytest.raises(ConfigError, match=r"cookie-file .*nowhere: cannot be read"):
        await pool_cluster(asynchronous=True, cookie_file=str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match="is not a known discovery"):
        pool_cluster("lokal")


def test_waiting_in_vain_says_what_was_found_and_what_to_do() -> None:
    with pool_cluster() as cluster, Client(cluster) as client:
        with pytest.raises(TimeoutError, match="Only 0/1 workers") as told:
            client.wait_for_workers(1, timeout=0.2)
        assert "local finds no agents" in str(told.value)
        assert "dask pool agent" in str(told.value)
        with pytest.raises(ValueError, match="positive integer"):
            cluster.wait_for_workers(0)
    with pool_cluster("static:192.0.2.1", connect={"timeout": "100ms"}) as cluster:
        with pytest.raises(TimeoutError) as told:
            cluster.wait_for_workers(1, timeout=0.5)
        assert "192.0.2.1:8791" in str(told.value)
        assert "give PoolCluster(host=...)" in str(told.value)


# -- in a notebook ---------------------------------------------------------------------------------


def test_its_widget_is_made_once_and_updates_on_its_own_loop() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of IPython's own imports
        import ipywidgets

    async def shown() -> None:
        # A kernel's thread has an event loop, and it is another one.
        with pool_cluster() as cluster:
            cluster._ipython_display_()
            box = cluster._cached_widget
            assert isinstance(box, ipywidgets.Widget)

            async def loop() -> Any:
                return cluster.periodic_callbacks["cluster-repr"].io_loop

            assert cluster.sync(loop) is cluster.loop

    asyncio.run(shown())


def test_without_ipywidgets_it_is_shown_as_html(monkeypatch: pytest.MonkeyPatch) -> None:
    displayed: list[dict[str, str]] = []
    display = types.SimpleNamespace(display=lambda data, raw: displayed.append(data))
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    with pool_cluster() as cluster:
        cluster._ipython_display_()
        (data,) = displayed
        assert data["text/plain"] == repr(cluster)
        assert "<strong>Pool default:</strong>" in data["text/html"]


# -- among others ----------------------------------------------------------------------------------


async def test_two_clusters_that_say_nothing_of_it_share_the_agents_there_are() -> None:
    async def holds(cluster: PoolCluster, count: int) -> bool:
        return len((await cluster.pool_status())["pools"][0]["members"]) == count

    async with AsyncExitStack() as stack:
        for _ in range(4):
            await stack.enter_async_context(agent_here())
        first = await stack.enter_async_context(pool_cluster(asynchronous=True))
        await until(lambda: holds(first, 4), "the first has all")
        async with pool_cluster(asynchronous=True) as second:
            await until(lambda: holds(second, 2), "the second has half")
            assert await holds(first, 2)
        await until(lambda: holds(first, 4), "the first has all again")
