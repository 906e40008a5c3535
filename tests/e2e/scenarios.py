"""What is tested against a real API server, and against the one on kmock so that it stays sound."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import yaml

from gc_bootstrap.peer import Peer
from tests.e2e.cluster import Cluster
from tests.integration.harness import Processes, SchedulerProcess, free_port, run_cli, until
from tests.kube import COLLECTIONS, Object, endpoint, endpoint_slice

README = Path(__file__).parents[2] / "README.md"
SERVICE = "dask-agents"


class Service:
    """The agents of a Service, as one resource has them."""

    def __init__(self, cluster: Cluster, resource: str) -> None:
        self._cluster = cluster
        self.resource = resource
        self._ready: list[Peer] = []

    async def ready(self, peer: Peer) -> None:
        """A pod has become ready."""
        self._ready.append(peer)
        if self.resource == "pods":
            await self._create_pod(peer)
        else:
            await self._update(peer, endpoint(peer.host))

    async def terminating(self, peer: Peer) -> None:
        """A pod is being deleted, and still serves."""
        self._ready.remove(peer)
        if self.resource == "pods":
            await self._cluster.delete("pods", f"cpu-{peer.port}", 600)
        else:
            going = endpoint(peer.host, ready=False, serving=True, terminating=True)
            await self._update(peer, going)

    async def _update(self, peer: Peer, one: Object) -> None:
        if self.resource == "endpointslices":
            name = f"{SERVICE}-{peer.port}"
            made = endpoint_slice(name, [one], {"agent": peer.port}, service=SERVICE)
        else:
            subsets = [
                {"addresses": [{"ip": p.host}], "ports": [{"name": "agent", "port": p.port}]}
                for p in self._ready
            ]
            made = {"metadata": {"name": SERVICE}, "subsets": subsets}
        await self._cluster.apply(self.resource, typed(self.resource, made))

    async def _create_pod(self, peer: Peer) -> None:
        name = f"cpu-{peer.port}"
        container = {
            "name": "agent",
            "image": "agent",
            "ports": [{"name": "agent", "containerPort": peer.port}],
        }
        made = {
            "metadata": {"name": name, "labels": {"app": "dask-agent"}},
            # Bound to a node that there is none of: nobody but the test changes its status.
            "spec": {"nodeName": "gc-bootstrap-e2e", "containers": [container]},
        }
        await self._cluster.create("pods", typed("pods", made))
        status = {
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": "True"}],
            "podIP": peer.host,
            "podIPs": [{"ip": peer.host}],
        }
        await self._cluster.patch_status("pods", name, status)


def typed(resource: str, obj: Object) -> Object:
    """The object as a client has to send it."""
    api_version, kind = COLLECTIONS[resource]
    return {"apiVersion": api_version, "kind": kind, **obj}


def spec(cluster: Cluster, resource: str = "endpointslices", config: Path | None = None) -> str:
    """The short form of the discovery."""
    where = f"kubeconfig={config or cluster.kubeconfig}"
    if resource == "pods":
        where = f"selector=app=dask-agent&{where}"
    service = "" if resource == "pods" else SERVICE
    return f"kubernetes:{cluster.namespace}/{service}?resource={resource}&{where}"


async def agents(cluster: Cluster, processes: Processes, count: int) -> list[Peer]:
    """Agents on an address that an API server takes. They are not on loopback: with a cookie."""
    cookie = processes.folder / "cookie"
    cookie.write_text("0123456789abcdef" * 4)
    peers = [Peer(cluster.host, free_port()) for _ in range(count)]
    started = [
        await processes.start(
            *("pool", "agent", "--listen", str(peer), "--cookie-file", str(cookie)),
            *("--nthreads", "1", "--no-nanny", "--host", "127.0.0.1"),
        )
        for peer in peers
    ]
    await until(lambda: all("is ready" in group.tail(200) for group in started), "all are ready")
    return peers


async def scheduler_of(
    cluster: Cluster, processes: Processes, resource: str, *arguments: str, **environ: str
) -> SchedulerProcess:
    """A scheduler that follows the Service."""
    cookie = processes.folder / "cookie"
    given = ["--cookie-file", str(cookie), *arguments]
    return await processes.scheduler(spec(cluster, resource), *given, environ=environ)


async def follows(cluster: Cluster, processes: Processes, resource: str) -> None:
    """Pods become ready and are deleted; looking anew once an hour, so by the watch alone."""
    service = Service(cluster, resource)
    first, second = peers = await agents(cluster, processes, 2)
    await service.ready(first)
    scheduler = await scheduler_of(cluster, processes, resource, "--refresh-interval", "1h")
    await scheduler.formed([first])
    await service.ready(second)
    await scheduler.formed(peers)

    async def settled() -> bool:
        pool = await scheduler.status()
        return not (pool["connecting"] or pool["disconnecting"])

    await until(settled, "no connect is under way")
    await service.terminating(second)
    if resource == "endpoints":

        async def forgotten() -> bool:
            return list((await scheduler.status())["peers"]) == [str(first)]

        await until(forgotten, "the second is no peer any more")
    else:
        await scheduler.formed([first])
        await until(settled, "the second has been let go")


async def comes_in_pages(cluster: Cluster) -> None:
    """More slices than one page of a list holds."""
    for n in range(60):
        made = endpoint_slice(f"many-{n}", [endpoint(f"10.200.0.{n + 1}")], service=SERVICE)
        await cluster.apply("endpointslices", typed("endpointslices", made))
    answer = await peers_of(spec(cluster))
    assert answer["complete"]
    assert len(answer["peers"]) == 60


async def tells_leaving_from_absent(cluster: Cluster) -> None:
    """Conditions as a server stores them, absent ones included."""
    ends = [
        endpoint("10.200.1.1", ready=True, terminating=True),  # publishNotReadyAddresses
        endpoint("10.200.1.2", ready=False),
        {"addresses": ["10.200.1.3"]},
        endpoint("10.200.1.4", ready=False, serving=False, terminating=True),
    ]
    made = endpoint_slice("conditions", ends, service=SERVICE)
    await cluster.apply("endpointslices", typed("endpointslices", made))
    six = endpoint_slice("six", [endpoint("fd00::5")], kind="IPv6", service=SERVICE)
    await cluster.apply("endpointslices", typed("endpointslices", six))
    found = {peer["address"]: peer["leaving"] for peer in (await peers_of(spec(cluster)))["peers"]}
    assert found == {"10.200.1.1:8791": True, "10.200.1.3:8791": False, "10.200.1.4:8791": True}
    answer = await peers_of(f"{spec(cluster)}&ip-family=ipv6")
    assert [peer["address"] for peer in answer["peers"]] == ["[fd00::5]:8791"]


def documented(cluster: Cluster) -> dict[str, Any]:
    """The objects of the README, by kind."""
    (block,) = [
        text
        for text in re.findall(r"```yaml\n(.*?)```", README.read_text(), re.DOTALL)
        if "kind: Role\n" in text
    ]
    objects = {obj["kind"]: obj for obj in yaml.safe_load_all(block)}
    objects["RoleBinding"]["subjects"][0]["namespace"] = cluster.namespace
    return objects


async def needs_the_documented_role_and_no_more(cluster: Cluster, folder: Path) -> None:
    """A service account: refused, told which rule is missing, and content with that rule."""
    objects = documented(cluster)
    await cluster.create("services", objects["Service"])
    await cluster.create("serviceaccounts", objects["ServiceAccount"])
    name = objects["ServiceAccount"]["metadata"]["name"]
    config = cluster.config_of(folder, {"token": await cluster.token_of(name)})
    error = await error_of(spec(cluster, config=config))
    assert f"list endpointslices in namespace {cluster.namespace}: 403 Forbidden" in error
    assert f"system:serviceaccount:{cluster.namespace}:{name}" in error
    assert 'apiGroups: ["discovery.k8s.io"], resources: [endpointslices]' in error
    await cluster.create("roles", objects["Role"])
    await cluster.create("rolebindings", objects["RoleBinding"])

    async def allowed() -> bool:
        code, _, _ = await run_cli("pool", "peers", spec(cluster, config=config))
        return code == 0

    await until(allowed, "the role is in force")
    error = await error_of(spec(cluster, "endpoints", config))
    assert "no Role or RoleBinding that gives it the rule" in error
    assert '{apiGroups: [""], resources: [endpoints]' in error


async def refuses_a_wrong_token(cluster: Cluster, folder: Path) -> None:
    """401, with the credentials that were refused."""
    config = cluster.config_of(folder, {"token": "nonsense"})
    error = await error_of(spec(cluster, config=config))
    assert f"list endpointslices in namespace {cluster.namespace}: 401 Unauthorized" in error
    assert str(config) in error


async def survives_an_outage(cluster: Cluster, processes: Processes) -> None:
    """The API server is killed and comes back with the state of its etcd."""
    assert cluster.control_plane is not None
    service = Service(cluster, "endpointslices")
    first, second = await agents(cluster, processes, 2)
    await service.ready(first)
    drops = {"POLICY": "drain", "AFTER": "1", "GRACE": "0s", "PANIC_THRESHOLD": "1"}
    environ = {f"DASK_GC_BOOTSTRAP__REMOVAL__{key}": value for key, value in drops.items()}
    scheduler = await scheduler_of(cluster, processes, "endpointslices", **environ)
    await scheduler.formed([first])
    await asyncio.to_thread(cluster.control_plane.kill)
    log = scheduler.group.tail
    await until(lambda: "serves, as incomplete" in log(500), "the outage is said")
    enough = (await scheduler.status())["refreshes"] + 3

    async def looked() -> bool:
        return bool((await scheduler.status())["refreshes"] >= enough)

    await until(looked, "the pool has looked three times more")
    await scheduler.formed([first])
    await asyncio.to_thread(cluster.control_plane.start)
    await service.ready(second)
    await scheduler.formed([first, second])


async def peers_of(discovery: str) -> Any:
    """What `dask pool peers` answers."""
    code, out, err = await run_cli("pool", "peers", "--json", discovery)
    assert code == 0, err
    return json.loads(out)


async def error_of(discovery: str) -> str:
    """The line that `dask pool peers` ends with."""
    code, out, err = await run_cli("pool", "peers", discovery)
    assert (code, out, err.count("\n")) == (1, "", 1), err
    return err
