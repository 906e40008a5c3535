"""The processes of a `PoolCluster`, and those that it does without: nothing is left of any."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import dask.config
import psutil
import pytest
from distributed import Client
from distributed.core import Status

from gc_bootstrap import ConfigError, GcBootstrapError, PoolCluster
from gc_bootstrap.cluster import schedulers
from tests.integration.harness import (
    Processes,
    agent_here,
    free_port,
    request,
    scheduler_here,
    until,
)
from tests.integration.pool_clusters import agents_beside, pool_cluster

pytestmark = pytest.mark.timeout(120)


def _inc(x: int) -> int:
    return x + 1


def _wait_until(condition: Any, what: str) -> None:
    asyncio.run(until(condition, what))


def _child(cluster: PoolCluster) -> psutil.Process:
    assert cluster._place.process is not None
    return psutil.Process(cluster._place.process.pid)


# -- a scheduler in a process of its own -----------------------------------------------------------


def test_a_scheduler_apart_is_configured_as_this_process_and_says_why_it_ended() -> None:
    with agents_beside(2) as agents, dask.config.set({"gc-bootstrap.refresh-interval": "7s"}):
        cluster = pool_cluster(scheduler="process", drain={"timeout": "9s"})
        with cluster, Client(cluster) as client:
            assert client.submit(_inc, 1).result() == 2
            assert cluster.scheduler is None
            assert cluster.pool_status()["pools"][0]["refresh-interval"] == 7.0
            assert (
                "Pool default looks for peers by local" in cluster.get_logs()["Scheduler process"]
            )
            command = _child(cluster).cmdline()
            assert command[1:] == ["-m", "gc_bootstrap.cluster.child"], "all else goes by a pipe"
            cluster.scale(1)
            _wait_until(lambda: sorted(agents.states()) == ["attached", "idle"], "one is idle")
            cluster.scale("all")
            client.wait_for_workers(2)
        assert agents.states() == ["idle", "idle"]
        with pool_cluster(scheduler="process") as killed:
            os.kill(_child(killed).pid, signal.SIGKILL)
            _wait_until(lambda: killed._place.process.ended, "it has ended")
            logs = killed.get_logs()
            assert "Scheduler process" in logs
            assert logs["Scheduler"] == "has ended"


def test_bad_options_of_a_scheduler_apart_are_errors_here(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere: cannot be read"):
        pool_cluster(scheduler="process", cookie_file=str(tmp_path / "nowhere"))
    lock = threading.Lock()

    async def peers() -> list[str]:
        return [str(lock)]

    with pytest.raises(ConfigError, match="scheduler: 'process' needs options"):
        pool_cluster(peers, scheduler="process")
    with pytest.raises(GcBootstrapError, match="the scheduler does not start"):
        pool_cluster(scheduler="process", host="192.0.2.1")


# -- agents that it starts -------------------------------------------------------------------------


def test_agents_of_its_own_share_the_machine_and_speak_tls() -> None:
    with pool_cluster(agents=2, security=True) as cluster, Client(cluster) as client:
        client.wait_for_workers(2)
        assert cluster.scheduler_address.startswith("tls://")
        assert client.security == cluster.security
        assert client.submit(_inc, 1).result() == 2
        workers = client.scheduler_info()["workers"].values()
        assert {worker["nthreads"] for worker in workers} == {-(-(os.cpu_count() or 1) // 2)}
        assert sum(worker["memory_limit"] for worker in workers) <= psutil.virtual_memory().total
        client.restart()
        assert client.submit(_inc, 2).result() == 3
        logs = cluster.get_logs()
        assert "Attached to tls://" in logs["Agent 0"]
        assert "Agent 1" not in cluster.get_logs(cluster=False)


async def test_an_agent_that_does_not_start_ends_the_start_with_its_last_words(
    tmp_path: Path,
) -> None:
    cookie = tmp_path / "cookie"
    cookie.write_text("short")
    with pytest.raises(GcBootstrapError, match="Agent 0 has ended by itself") as told:
        await pool_cluster(agents=1, cookie_file=str(cookie), asynchronous=True)
    assert "the cookie has 5 characters" in str(told.value)


async def test_a_close_waits_for_no_task_and_moves_no_data_and_agents_are_the_next_ones(
    processes: Processes, caplog: pytest.LogCaptureFixture
) -> None:
    agents = await processes.agents(2)
    async with pool_cluster(asynchronous=True) as cluster:
        client = await Client(cluster, asynchronous=True)
        await client.wait_for_workers(2)
        data = await client.map(_inc, range(100), pure=False)[0]
        assert data == 1
        hours = client.map(lambda _: __import__("time").sleep(3600), range(2), pure=False)
        await until(lambda: _processing(cluster) == 2, "both compute")
        caplog.clear()
        await cluster.close()
        assert [one.message for one in caplog.records if one.levelno >= logging.WARNING] == []
        for peer in agents:
            _, told = await request(peer, "GET", "/readyz")
            assert told["state"] == "idle", "when close() returns"
        await client.close()
        del hours
    async with pool_cluster(asynchronous=True) as another:
        await another.wait_for_workers(2)


def _processing(cluster: PoolCluster) -> int:
    assert cluster.scheduler is not None
    return sum(len(ws.processing) for ws in cluster.scheduler.workers.values())


# -- ends ------------------------------------------------------------------------------------------

SCRIPT = """
import json, sys, time, psutil
from gc_bootstrap import PoolCluster

if __name__ == "__main__":
    where, agents, stays = sys.argv[1:]
    cluster = PoolCluster(agents=int(agents), scheduler=where, dashboard_address=":0")
    client = cluster.get_client()
    if agents != "0":
        assert client.submit(sum, [1, 2]).result() == 3
    if stays == "stays":
        pids = [child.pid for child in psutil.Process().children(recursive=True)]
        print(json.dumps([pids, cluster.scheduler_address]), flush=True)
        time.sleep(100)
"""


async def _script(tmp_path: Path, *arguments: str) -> asyncio.subprocess.Process:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    return await asyncio.create_subprocess_exec(
        *(sys.executable, str(script), *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


@pytest.mark.parametrize(("where", "agents"), [("here", "1"), ("process", "0")])
async def test_a_script_that_forgets_to_close_ends_silently(
    where: str, agents: str, tmp_path: Path
) -> None:
    process = await _script(tmp_path, where, agents, "ends")
    out, err = await process.communicate()
    assert (process.returncode, out, err) == (0, b"", b"")


async def test_nothing_is_left_of_a_script_that_is_killed(
    tmp_path: Path, runtime_dir: Path
) -> None:
    process = await _script(tmp_path, "process", "1", "stays")
    assert process.stdout is not None
    pids, address = json.loads(await process.stdout.readline())
    assert len(pids) >= 4, "a scheduler, an agent, its forkserver, a worker"
    process.kill()
    await process.communicate()
    await until(lambda: not _alive(pids), "all have ended")
    assert not os.listdir(runtime_dir)
    with pytest.raises(OSError, match="Connect call failed"):
        await asyncio.open_connection("127.0.0.1", int(address.rpartition(":")[2]))


def _alive(pids: Iterable[int]) -> list[str]:
    found = []
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline()))
    return found


# -- a scheduler elsewhere -------------------------------------------------------------------------


async def test_a_cluster_of_a_scheduler_elsewhere_steers_its_pools_and_leaves_it_running() -> None:
    async with pool_cluster(asynchronous=True, name="theirs") as theirs:
        address = theirs.scheduler_address
        async with PoolCluster.connect(address, asynchronous=True) as cluster:
            assert cluster.scheduler_address == address
            assert cluster.name == "theirs", "as that one calls itself"
            await cluster.scale(2)
            assert (await theirs.pool_status())["pools"][0]["size"] == 2
            await cluster.adapt(0, 5)
            async with agent_here():
                await theirs.scale(1)
                both = (theirs, cluster)
                await until(lambda: all("workers=1" in repr(c) for c in both), "both see it")
            await cluster.adapt(0, 5)
            async with Client(cluster, asynchronous=True) as client:
                assert client.scheduler_info()["address"] == address
        assert cluster.status == Status.closed
        assert theirs.status == Status.running
        assert (await theirs.pool_status())["pools"][0]["adapt"]["maximum"] == 5


async def test_a_scheduler_that_hangs_keeps_nobody_waiting(
    processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = await processes.scheduler("local")
    async with PoolCluster.connect(scheduler.address, asynchronous=True) as cluster:
        monkeypatch.setattr(schedulers, "ANSWER_TIMEOUT", 0.3)
        scheduler.group.signal(signal.SIGSTOP)
        try:
            for asked in (cluster.scale(2), cluster.pool_status()):
                with pytest.raises(GcBootstrapError, match=r"has not answered within 0\.3 s"):
                    async with asyncio.timeout(20):
                        await asked
        finally:
            scheduler.group.signal(signal.SIGCONT)


async def test_who_is_no_scheduler_with_pools_is_said() -> None:
    with pytest.raises(GcBootstrapError, match="Connection refused"):
        await PoolCluster.connect(f"tcp://127.0.0.1:{free_port()}", asynchronous=True)
    with pytest.raises(ConfigError, match="is not an address"):
        await PoolCluster.connect("nowhere", asynchronous=True)
    async with scheduler_here() as scheduler:
        with pytest.raises(GcBootstrapError, match="has no pools"):
            await PoolCluster.connect(scheduler.address, asynchronous=True)
