"""The chart on a real control plane: what its controllers make of it, with pods that run."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import helm_python
import pytest
from distributed import Client, Future
from distributed.core import rpc

from gc_bootstrap.wire.names import STATUS_HANDLER
from tests.e2e.cluster import ApiRefusedError, Cluster, Object
from tests.e2e.control_plane import ControlPlane
from tests.e2e.kubelet import Kubelet
from tests.e2e.release import PATIENCE, POOL, RELEASE, SCHEDULER, Release
from tests.helm.api import RESOURCES
from tests.helm.chart import CHART, SERVER, SETS, Values, render
from tests.integration.harness import until

pytestmark = pytest.mark.timeout(300)

TASKS = 40


# -- admission -----------------------------------------------------------------------------------


async def test_every_object_of_the_chart_is_admitted_without_a_warning(cluster: Cluster) -> None:
    await cluster.restrict()
    plurals = {kind: plural for kinds in RESOURCES.values() for kind, plural in kinds.items()}
    tried: Counter[str] = Counter()
    for name, values in SETS.items():
        for obj in render(values, namespace=cluster.namespace):
            if obj["kind"] not in plurals:
                # Not Kubernetes' own.
                assert obj["kind"] in ("ServiceMonitor", "PodMonitor", "ScaledObject")
                continue
            obj["metadata"]["namespace"] = cluster.namespace  # a Role may be for another
            if obj["kind"] == "Pod":
                obj["spec"].pop("priorityClassName", None)
            path = f"{cluster.path(plurals[obj['kind']])}?dryRun=All&fieldValidation=Strict"
            await cluster.admin.call("POST", path, obj)
            assert cluster.admin.warnings == [], (name, obj["kind"], obj["metadata"]["name"])
            tried[obj["kind"]] += 1
    assert tried.keys() == plurals.keys()


async def test_what_is_not_restricted_would_be_warned_of(cluster: Cluster) -> None:
    await cluster.restrict()
    found = render({"containerSecurityContext": {"allowPrivilegeEscalation": True}})
    (pool,) = [obj for obj in found if obj["metadata"]["name"] == POOL and "Deploy" in obj["kind"]]
    pool["metadata"]["namespace"] = cluster.namespace
    await cluster.admin.call("POST", f"{cluster.path('deployments')}?dryRun=All", pool)
    (warning,) = cluster.admin.warnings
    assert "allowPrivilegeEscalation != false" in warning


# -- with pods that run --------------------------------------------------------------------------


async def test_a_release_forms_computes_and_goes(
    release: Release, cluster: Cluster, kubelet: Kubelet
) -> None:
    """Through the controllers of Deployments, StatefulSets and EndpointSlices."""
    await release.install({"pools": {"default": {"replicas": 1}, "big": {"kind": "StatefulSet"}}})
    await release.test()
    said = [line for line in kubelet.printed(f"{RELEASE}-test") if line.endswith("computes")]
    pools = ["pool big", "pool big", "pool default"]
    assert sorted(line.split(":")[0] for line in said) == pools
    await release.uninstall()

    async def gone() -> bool:
        return not (await cluster.get("pods"))["items"]

    await until(gone, "all pods are gone", PATIENCE)
    agents = {name: code for name, code in kubelet.codes.items() if "scheduler" not in name}
    assert set(agents.values()) == {0}, agents
    assert len(agents) == 4  # and the pod of the test


def task(number: int, ledger: str) -> int:
    """Write down that it runs."""
    with Path(ledger).open("a") as file:
        file.write(f"{number}\n")
    return number


class Held:
    """Results that are held while agents are replaced."""

    def __init__(self, cluster: Cluster, scheduler: str, client: Client, ledger: Path) -> None:
        self._cluster = cluster
        self._scheduler = scheduler
        self.client = client
        self._ledger = ledger
        self._futures: list[Future[int]] = []

    async def compute(self) -> None:
        """Compute them, on both agents."""
        await self.agents_but()
        self._futures = self.client.map(task, range(TASKS), ledger=str(self._ledger), pure=False)
        assert await self.client.gather(self._futures) == list(range(TASKS))
        holders = await self.client.who_has(self._futures)
        assert len({worker for (worker,) in holders.values()}) == 2

    async def agents_but(self, *replaced: str) -> list[str]:
        """Wait until two agents run, none of which is one of these, and are members."""

        async def done() -> list[str] | None:
            pods = (await self._cluster.get("pods"))["items"]
            names = [p["metadata"]["name"] for p in pods if p["metadata"]["name"].startswith(POOL)]
            hosts = [p["status"].get("podIP") for p in pods if p["metadata"]["name"] in names]
            good = len(names) == 2 and not set(names) & set(replaced)
            return names if good and await self._members() == {f"{h}:8791" for h in hosts} else None

        found: list[str] = await until(done, f"{replaced} are replaced", PATIENCE)
        return found

    async def _members(self) -> set[str]:
        async with rpc(self._scheduler) as scheduler:
            (pool,) = (await getattr(scheduler, STATUS_HANDLER)())["pools"]
        return set(pool["members"])

    async def are_kept(self) -> None:
        """All are there, and each has been computed once."""
        assert await self.client.gather(self._futures) == list(range(TASKS))
        runs = Counter(map(int, self._ledger.read_text().split()))
        assert runs == dict.fromkeys(range(TASKS), 1)


@pytest.fixture
async def held(
    release: Release, cluster: Cluster, kubelet: Kubelet, tmp_path: Path
) -> AsyncIterator[Held]:
    """Two agents in a Deployment, with results."""
    await release.install({})

    async def scheduler() -> bool:
        found = (await cluster.get("deployments", SCHEDULER)).get("status", {})
        return bool(found.get("readyReplicas"))

    await until(scheduler, "the scheduler is ready", PATIENCE)
    address = f"tcp://{kubelet.host(SCHEDULER)}:8786"
    async with Client(address, asynchronous=True) as client:
        held = Held(cluster, address, client, tmp_path / "ledger")
        await held.compute()
        yield held


async def test_agents_that_kubernetes_replaces_lose_nothing(
    release: Release, cluster: Cluster, held: Held, kubelet: Kubelet
) -> None:
    first = await held.agents_but()
    await release.upgrade({"pools": {"default": {"config": {"distributed": {"version": 2}}}}})
    second = await held.agents_but(*first)
    await held.are_kept()

    async def disruptions_allowed() -> int:
        status = (await cluster.get("poddisruptionbudgets", POOL))["status"]
        return int(status["disruptionsAllowed"])

    await until(disruptions_allowed, "the budget counts both agents")
    await _evict(cluster, second[0])
    with pytest.raises(ApiRefusedError, match="violate the pod's disruption budget") as refused:
        await _evict(cluster, second[1])
    assert refused.value.status == 429
    assert second[1] in await held.agents_but(second[0])
    await held.are_kept()
    assert {kubelet.codes[name] for name in (*first, second[0])} == {0}
    assert second[1] not in kubelet.codes


async def _evict(cluster: Cluster, pod: str) -> None:
    """Do as `kubectl drain`."""
    body: Object = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": pod, "namespace": cluster.namespace},
    }
    await cluster.admin.call("POST", cluster.path("pods", pod, "eviction"), body)


# -- the number of agents ------------------------------------------------------------------------


def pool(**values: Any) -> Values:
    return {"pools": {"default": values}}


async def test_autoscaling_takes_a_pool_over_as_it_runs(release: Release) -> None:
    scaled = pool(autoscaling={"enabled": True})
    await release.install(pool(replicas=4))
    await release.upgrade(scaled)
    assert await release.replicas() == 4
    await release.upgrade({**scaled, "discovery": "dns"})
    assert await release.replicas() == 4
    await release.scale(7, "kube-controller-manager")
    await release.upgrade(scaled)
    assert await release.replicas() == 7
    await release.scale(9, "kube-controller-manager")
    await release.rollback(4)  # the autoscaler's number is not in it
    assert await release.replicas() == 9


@asynccontextmanager
async def scaled_objects(cluster: Cluster) -> AsyncIterator[None]:
    """A cluster that knows ScaledObjects; what is in them only KEDA would check."""
    crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": "v1alpha1", "served": True, "storage": True}
    made: Object = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "scaledobjects.keda.sh"},
        "spec": {
            "group": "keda.sh",
            "scope": "Namespaced",
            "names": {"kind": "ScaledObject", "plural": "scaledobjects"},
            "versions": [{**version, "schema": {"openAPIV3Schema": anything}}],
        },
    }
    await cluster.admin.call("POST", crds, made)

    async def established() -> bool:
        found = await cluster.admin.call("GET", f"{crds}/scaledobjects.keda.sh")
        conditions = found.get("status", {}).get("conditions") or []
        return any(c["type"] == "Established" and c["status"] == "True" for c in conditions)

    async def gone() -> bool:
        found = await cluster.admin.call("GET", crds)
        return all(crd["metadata"]["name"] != "scaledobjects.keda.sh" for crd in found["items"])

    try:
        await until(established, "ScaledObjects are served")
        yield
    finally:
        await cluster.admin.call("DELETE", f"{crds}/scaledobjects.keda.sh")
        await until(gone, "ScaledObjects are forgotten")


async def test_keda_takes_a_pool_over_as_it_runs_and_none_is_a_number(
    release: Release, cluster: Cluster, own: ControlPlane
) -> None:
    scaled = pool(adapt={}, keda={"enabled": True, "serverAddress": SERVER})
    async with scaled_objects(cluster):
        await release.install(pool(replicas=4))
        await release.upgrade(scaled)
        assert await release.replicas() == 4
        for replicas in (0, 3, 0):
            await release.scale(replicas, "keda")
            await release.upgrade(scaled)
            assert await release.replicas() == replicas
        await release.rollback(3)
        assert await release.replicas() == 0
        path = f"/apis/keda.sh/v1alpha1/namespaces/{cluster.namespace}/scaledobjects/{POOL}"
        target = (await cluster.admin.call("GET", path))["spec"]["scaleTargetRef"]
        assert target == {"apiVersion": "apps/v1", "kind": "Deployment", "name": POOL}
        await release.uninstall()


async def test_keda_leaves_a_pool_asleep_that_was_so_before(
    release: Release, cluster: Cluster, own: ControlPlane
) -> None:
    async with scaled_objects(cluster):
        await release.install(pool(replicas=0))
        await release.upgrade(pool(adapt={}, keda={"enabled": True, "serverAddress": SERVER}))
        assert await release.replicas() == 0
        await release.uninstall()


async def test_a_number_that_somebody_else_has_set_is_a_conflict_as_the_readme_says(
    release: Release,
) -> None:
    await release.install(pool(replicas=4))
    await release.scale(5, "kubectl")
    with pytest.raises(helm_python.HelmReleaseError) as refused:
        await release.upgrade(pool(replicas=6))
    said = str(refused.value)
    readme = (CHART / "README.md").read_text()
    assert said[said.index("Apply failed") :] in readme
    assert await release.replicas() == 5
