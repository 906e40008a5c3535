"""Real agents behind an API server: followed, let go, and kept while it is away."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from gc_bootstrap.peer import Peer
from tests.integration.harness import Processes, SchedulerProcess, free_port, run_cli, until
from tests.kube import (
    NAMESPACE,
    KubeApi,
    Object,
    answers,
    endpoint,
    endpoint_slice,
    fixture,
    kubeconfig,
    pod,
    serving,
)

pytestmark = pytest.mark.timeout(180)

DROPS_AT_ONCE = {
    "DASK_GC_BOOTSTRAP__REMOVAL__POLICY": "drain",
    "DASK_GC_BOOTSTRAP__REMOVAL__AFTER": "1",
    "DASK_GC_BOOTSTRAP__REMOVAL__GRACE": "0s",
    "DASK_GC_BOOTSTRAP__REMOVAL__PANIC_THRESHOLD": "1",
}
"""Whoever is absent from a complete answer goes at once."""


def slices(peers: Iterable[Peer]) -> list[Object]:
    """A slice for each: agents on one machine have a port each."""
    return [
        endpoint_slice(f"cpu-{p.port}", [endpoint(p.host, f"cpu-{p.port}")], {"agent": p.port})
        for p in peers
    ]


class Cluster:
    """The state of one resource, as the pods of a Service bring it about."""

    def __init__(self, api: KubeApi, resource: str) -> None:
        self.api = api
        self.resource = resource
        self._ready: list[Peer] = []

    def ready(self, peer: Peer) -> None:
        """A pod becomes ready."""
        self._ready.append(peer)
        if self.resource == "endpointslices":
            self.api.apply(self.resource, *slices([peer]))
        elif self.resource == "pods":
            self.api.apply(self.resource, pod(f"cpu-{peer.port}", peer.host, peer.port))
        else:
            self._put_endpoints()

    def terminating(self, peer: Peer) -> None:
        """A pod is being deleted, and still serves."""
        self._ready.remove(peer)
        name = f"cpu-{peer.port}"
        if self.resource == "endpointslices":
            gone = endpoint(peer.host, name, ready=False, serving=True, terminating=True)
            self.api.apply(self.resource, endpoint_slice(name, [gone], {"agent": peer.port}))
        elif self.resource == "pods":
            deleted = pod(name, peer.host, peer.port, deletionTimestamp="2026-11-23T02:17:33Z")
            self.api.apply(self.resource, deleted)
        else:
            self._put_endpoints()

    def _put_endpoints(self) -> None:
        subsets = [
            {"addresses": [{"ip": p.host}], "ports": [{"name": "agent", "port": p.port}]}
            for p in self._ready
        ]
        self.api.apply(self.resource, {"metadata": {"name": "cpu"}, "subsets": subsets})


@pytest.mark.parametrize("resource", ["endpointslices", "endpoints", "pods"])
async def test_each_resource_attaches_follows_and_lets_go(
    processes: Processes, tmp_path: Path, resource: str
) -> None:
    api = KubeApi()
    cluster = Cluster(api, resource)
    first, second = agents = list(await processes.agents(2))
    async with serving(api) as url:
        config = kubeconfig(tmp_path, url)
        what = (
            "?resource=pods&selector=app=cpu" if resource == "pods" else f"cpu?resource={resource}"
        )
        cluster.ready(first)
        # Looking anew once an hour: whatever comes sooner, the watch has brought.
        scheduler = await processes.scheduler(
            f"kubernetes:{NAMESPACE}/{what}&kubeconfig={config}", "--refresh-interval", "1h"
        )
        await scheduler.formed([first])
        cluster.ready(second)
        await scheduler.formed(agents)

        async def settled() -> bool:
            return not (await scheduler.status())["connecting"]

        await until(settled, "no connect is under way")
        cluster.terminating(second)
        if resource == "endpoints":  # they cannot say that a pod is leaving: it is just not there

            async def forgotten() -> bool:
                return list((await scheduler.status())["peers"]) == [str(first)]

            await until(forgotten, "the second is no peer any more")
            await scheduler.formed(agents)
        else:
            await scheduler.formed([first])

            async def held() -> bool:
                return "leaving" in (await scheduler.status())["held"].get(str(second), "")

            await until(held, "it is not attached again while it leaves")
        assert api.asked == [("list", resource), ("watch", resource)]


class ApiServerProcess:
    """An API server as a process, to be killed."""

    def __init__(self, folder: Path, port: int) -> None:
        self._folder = folder
        self._port = port
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, objects: dict[str, list[Object]]) -> None:
        """Start it with these objects; returns when it answers."""
        state = self._folder / "state.json"
        state.write_text(json.dumps(objects))
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.kube", str(self._port), str(state)),
            cwd=Path(__file__).parents[2],
        )
        await until(self._answers, "the API server is up")

    async def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.returncode is None, "the API server has ended"
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError:
            return False
        writer.close()
        await writer.wait_closed()
        return True

    async def kill(self, how: signal.Signals = signal.SIGKILL) -> None:
        """Kill it, and wait until it is gone."""
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            process.send_signal(how)
            await process.wait()

    def pause(self) -> None:
        """Let it hang with all its connections open."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)


@asynccontextmanager
async def api_server(folder: Path) -> AsyncIterator[tuple[ApiServerProcess, Path]]:
    """An API server that is not up yet, and a kubeconfig that leads to it."""
    port = free_port()
    server = ApiServerProcess(folder, port)
    try:
        yield server, kubeconfig(folder, f"http://127.0.0.1:{port}")
    finally:
        await server.kill()


async def _says(scheduler: SchedulerProcess, why: str) -> bool:
    """Whether status, for programs and for people, says that the answer is old for this reason."""
    pool = await scheduler.status()
    assert (pool["error"], pool["complete"]) == (None, False)
    if why not in pool["incomplete"]:
        return False
    assert pool["incomplete-for"] > 0
    _, out, _ = await run_cli("pool", "status", scheduler.address)
    (line,) = [line for line in out.splitlines() if line.startswith("incomplete for ")]
    assert line.endswith(f" s: {pool['incomplete']}")
    return True


async def _refreshes(scheduler: SchedulerProcess, times: int) -> None:
    """Wait until the pool has looked so many times more."""
    enough = (await scheduler.status())["refreshes"] + times

    async def looked() -> bool:
        return bool((await scheduler.status())["refreshes"] >= enough)

    await until(looked, f"{times} more refreshes")


async def test_a_killed_api_server_drops_nobody_and_its_return_is_picked_up(
    processes: Processes, tmp_path: Path
) -> None:
    first, second, third = list(await processes.agents(3))
    async with api_server(tmp_path) as (server, config):
        # Not up when the pool starts: "cannot know" is not "nobody", and mends itself.
        scheduler = await processes.scheduler(
            f"kubernetes:{NAMESPACE}/cpu?kubeconfig={config}", environ=DROPS_AT_ONCE
        )
        log = partial(scheduler.group.tail, 500)
        await until(lambda: "discovery failed: http://127.0.0.1" in log(), "the failure is said")
        await server.start({"endpointslices": slices([first, second])})
        await scheduler.formed([first, second])

        await server.kill()
        await until(lambda: "the last answer serves, as incomplete" in log(), "the outage is said")
        await _refreshes(scheduler, 3)
        await scheduler.formed([first, second])
        assert log().count("the last answer serves, as incomplete") == 1, "said once"
        why = "is not reachable: Connection refused"
        await until(lambda: _says(scheduler, why), "status says why the answer is old")

        # It comes back as another one, with versions of its own and other peers.
        await server.start({"endpointslices": slices([second, third])})
        await scheduler.formed([second, third])
        assert "the watch is back" in log()


async def test_an_api_server_that_hangs_drops_nobody(processes: Processes, tmp_path: Path) -> None:
    (peer,) = await processes.agents(1)
    async with api_server(tmp_path) as (server, config):
        await server.start({"endpointslices": slices([peer])})
        scheduler = await processes.scheduler(
            f"kubernetes:{NAMESPACE}/cpu?kubeconfig={config}", environ=DROPS_AT_ONCE
        )
        await scheduler.formed([peer])
        server.pause()
        await _refreshes(scheduler, 3)
        await scheduler.formed([peer])


async def _peers(config: Path, *arguments: str) -> tuple[int, str, str]:
    discovery = f"kubernetes:{NAMESPACE}/cpu?kubeconfig={config}"
    return await run_cli("pool", "peers", discovery, *arguments)


async def test_peers_can_be_asked_for_from_outside(tmp_path: Path) -> None:
    api = KubeApi()
    for obj in fixture("endpointslices-list-one-terminating.json")["items"]:
        api.apply("endpointslices", obj)
    async with serving(api) as url:
        config = kubeconfig(tmp_path, url)
        code, out, err = await _peers(config, "--json")
        assert (code, err) == (0, "")
        answer: dict[str, Any] = json.loads(out)
        assert answer["complete"]
        assert answer["peers"][1] == {
            "address": "10.200.0.2:8791",
            "leaving": True,
            "labels": {"pod": "cpu-1", "node": "node-2", "zone": "zone-b"},
        }
        api.for_ever["list"] = answers(403, fixture("error-403.json"))
        code, out, err = await _peers(config)
        assert (code, out) == (1, "")
        assert err.count("\n") == 1
        assert "list endpointslices in namespace pools: 403 Forbidden" in err


async def test_a_bad_option_ends_the_scheduler(processes: Processes) -> None:
    code, _, err = await run_cli(
        *("scheduler", "--host", "127.0.0.1", "--port", "0", "--dashboard-address", ":0"),
        *("--preload", "gc_bootstrap.preload", "--discovery", "kubernetes:Pools/cpu?port=0"),
    )
    assert code == 2
    assert (
        "gc_bootstrap: gc-bootstrap.discovery: namespace: 'Pools' is not the name of a namespace,"
        " such as dask-agents; port: 0 is not a port from 1 to 65535, nor the name of one"
    ) in err
