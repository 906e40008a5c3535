"""What a scale-down by the real controllers takes first, where agents may annotate their pods."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import yaml
from distributed import Client

from gc_bootstrap.agent.deletion_cost import ANNOTATION, HELD_COST, IDLE_COST
from gc_bootstrap.peer import Peer
from tests.e2e.cluster import MERGE, Admin, ApiRefusedError, Cluster, Object
from tests.e2e.kubelet import Kubelet
from tests.e2e.release import PATIENCE, POOL, Release
from tests.helm.chart import CHART, Values
from tests.integration.harness import Processes, SchedulerProcess, until

pytestmark = pytest.mark.timeout(400)

COOKIE = "0123456789abcdef" * 4
WARNING = "cannot be kept"


def values(replicas: int) -> Values:
    """Agents alone: which of them are held is the test's business."""
    pool = {"replicas": replicas, "podDeletionCost": True}
    return {
        "scheduler": {"enabled": False},
        "cookie": {"value": COOKIE},
        "pools": {"default": pool},
    }


class Pool:
    """The agents of the release."""

    def __init__(self, cluster: Cluster, release: Release, processes: Processes) -> None:
        self._cluster = cluster
        self._release = release
        self._processes = processes
        self.cookie = processes.folder / "cookie"
        self.cookie.write_text(COOKIE)

    async def pods(self) -> dict[str, Object]:
        """By name, those that are not being deleted."""
        found = (await self._cluster.get("pods"))["items"]
        return {
            pod["metadata"]["name"]: pod
            for pod in found
            if "deletionTimestamp" not in pod["metadata"]
        }

    async def cost(self, name: str) -> str | None:
        """What a pod says that it costs."""
        pod = await self._cluster.get("pods", name)
        cost: str | None = pod["metadata"].get("annotations", {}).get(ANNOTATION)
        return cost

    async def costs(self) -> dict[str, str | None]:
        """What each says."""
        return {name: await self.cost(name) for name in await self.pods()}

    async def become(self, costs: dict[str, int]) -> None:
        """Wait until the pods say so."""

        async def same() -> bool:
            return await self.costs() == {name: str(cost) for name, cost in costs.items()}

        await until(same, f"costs are {costs}", PATIENCE)

    async def scaled(self, replicas: int) -> set[str]:
        """Scale, and wait until so many are ready; their names."""
        await self._release.scale(replicas, "test")

        async def settled() -> dict[str, Object] | None:
            pods = await self.pods()
            ready = [pod for pod in pods.values() if _is_ready(pod)]
            return pods if len(pods) == len(ready) == replicas else None

        return set(await until(settled, f"{replicas} agents are ready", PATIENCE))

    async def held(self, name: str) -> SchedulerProcess:
        """A scheduler that holds this one."""
        pod = await self._cluster.get("pods", name)
        peer = Peer(pod["status"]["podIP"], 8791)
        given = ("--cookie-file", str(self.cookie))
        scheduler = await self._processes.scheduler([peer], *given)
        await scheduler.formed([peer])
        return scheduler


def _is_ready(pod: Object) -> bool:
    conditions = pod["status"].get("conditions", [])
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


@pytest.fixture
async def pool(
    cluster: Cluster, release: Release, processes: Processes, kubelet: Kubelet
) -> AsyncIterator[Pool]:
    yield Pool(cluster, release, processes)
    await release.uninstall()

    async def gone() -> bool:
        return not (await cluster.get("pods"))["items"]

    await until(gone, "all pods are gone", PATIENCE)
    assert set(kubelet.codes.values()) == {0}


async def test_a_scale_down_takes_the_idle_agent_though_the_held_one_is_younger(
    pool: Pool, release: Release, kubelet: Kubelet
) -> None:
    """By default the ReplicaSet controller takes the younger one."""
    await release.install(values(1))
    (old,) = await pool.scaled(1)
    await pool.become({old: IDLE_COST})
    (young,) = await pool.scaled(2) - {old}
    scheduler = await pool.held(young)
    await pool.become({old: IDLE_COST, young: HELD_COST})
    assert await pool.scaled(1) == {young}

    (youngest,) = await pool.scaled(2) - {young}
    await scheduler.group.stop()
    another = await pool.held(youngest)
    await pool.become({young: IDLE_COST, youngest: HELD_COST})
    async with Client(another.address, asynchronous=True) as client:
        future = client.submit(sum, [1, 2, 3])
        assert await future == 6
        assert await pool.scaled(1) == {youngest}
        assert await client.gather(future) == 6
    for name in (old, young, youngest):
        assert not [line for line in kubelet.printed(name) if WARNING in line]


async def test_without_the_right_an_agent_warns_once_works_and_is_ready_when_it_is_given(
    pool: Pool, release: Release, cluster: Cluster, kubelet: Kubelet
) -> None:
    await release.install(values(0))
    binding = await cluster.get("rolebindings", POOL)
    await cluster.delete("rolebindings", POOL)
    (agent,) = await pool.scaled(1)
    scheduler = await pool.held(agent)
    async with Client(scheduler.address, asynchronous=True) as client:
        assert await client.submit(sum, [1, 2, 3]) == 6

    def warnings() -> list[str]:
        return [line for line in kubelet.printed(agent) if WARNING in line]

    await until(warnings, "it warns", PATIENCE)
    assert await pool.cost(agent) is None
    del binding["metadata"]["resourceVersion"], binding["metadata"]["uid"]
    await cluster.create("rolebindings", binding)
    await pool.become({agent: HELD_COST})
    (warning,) = warnings()
    account = f"system:serviceaccount:{cluster.namespace}:{POOL}"
    assert f"403 Forbidden for {account}" in warning
    assert "resources: [pods/status], verbs: [patch]" in warning


async def test_the_right_that_the_chart_gives_is_no_more_than_is_needed(
    pool: Pool, release: Release, cluster: Cluster, tmp_path: Path
) -> None:
    await release.install(values(1))
    (name,) = await pool.scaled(1)
    path = cluster.path("pods", name)
    async with an_agent(cluster, tmp_path, await cluster.get("pods", name)) as status_of:
        other = {"spec": {"containers": [{"name": "agent", "image": "evil"}]}}
        assert await status_of("PATCH", path, other) == 403
        assert await status_of("PATCH", f"{path}/status", other) == 200  # and changes nothing:
        pod = await cluster.get("pods", name)
        assert pod["spec"]["containers"][0]["image"] != "evil"
        for method, path in (
            ("GET", cluster.path("pods", name)),
            ("GET", cluster.path("pods")),
            ("DELETE", cluster.path("pods", name)),
            ("PUT", cluster.path("pods", name, "status")),
            ("GET", cluster.path("secrets")),
            ("GET", cluster.path("endpointslices")),
        ):
            assert await status_of(method, path) == 403, (method, path)


async def test_the_policy_of_the_readme_binds_the_right_to_the_agents_own_pod(
    pool: Pool, release: Release, cluster: Cluster, tmp_path: Path
) -> None:
    await release.install(values(2))
    first, second = sorted(await pool.scaled(2))
    await pool.become({first: IDLE_COST, second: IDLE_COST})
    async with (
        an_agent(cluster, tmp_path, await cluster.get("pods", first)) as status_of,
        documented_policy(cluster),
    ):
        own, other = (cluster.path("pods", name, "status") for name in (first, second))
        cost: Object = {"metadata": {"annotations": {ANNOTATION: "7"}}}

        async def in_force() -> bool:
            return await status_of("PATCH", other, cost) == 422

        await until(in_force, "the policy is in force")
        assert await status_of("PATCH", own, cost) == 200
        assert await pool.cost(first) == "7"
        unready = [{"type": "Ready", "status": "False"}]
        for change in (
            {"status": {"conditions": unready}},
            {"status": {"podIP": "10.0.0.1"}},
            {"metadata": {"labels": {"app.kubernetes.io/component": "scheduler"}}},
            {"metadata": {"finalizers": ["example.com/never"]}},
        ):
            assert await status_of("PATCH", own, change) == 422, change
        await pool.held(second)
        await pool.become({first: 7, second: HELD_COST})
        assert await pool.scaled(1) == {second}


@asynccontextmanager
async def an_agent(
    cluster: Cluster, folder: Path, pod: Object
) -> AsyncIterator[Callable[..., Awaitable[int]]]:
    """Whoever has the token of an agent: how the API server answers to him."""
    bound = {"kind": "Pod", "apiVersion": "v1", "name": pod["metadata"]["name"]}
    token = await cluster.token_of(POOL, **bound, uid=pod["metadata"]["uid"])
    agent = Admin(cluster.config_of(folder, {"token": token}))

    async def status_of(method: str, path: str, body: Object | None = None) -> int:
        try:
            await agent.call(method, path, body, MERGE if body is not None else None)
        except ApiRefusedError as refused:
            return refused.status
        return 200

    try:
        yield status_of
    finally:
        await agent.close()


@asynccontextmanager
async def documented_policy(cluster: Cluster) -> AsyncIterator[None]:
    """What the chart's README has, for the release here."""
    blocks = re.findall(r"```yaml\n(.*?)```", (CHART / "README.md").read_text(), re.DOTALL)
    (text,) = [block for block in blocks if "kind: ValidatingAdmissionPolicy\n" in block]
    assert text.count(":prod:") == 1
    base = "/apis/admissionregistration.k8s.io/v1"
    async with AsyncExitStack() as stack:
        for obj in yaml.safe_load_all(text.replace(":prod:", f":{cluster.namespace}:")):
            path = f"{base}/{re.sub('y$', 'ie', obj['kind'].lower())}s"
            await cluster.admin.call("POST", f"{path}?fieldValidation=Strict", obj)
            one = f"{path}/{obj['metadata']['name']}"
            stack.push_async_callback(cluster.admin.call, "DELETE", one)
        assert cluster.admin.warnings == []
        yield
