"""The plain manifests of examples/kubernetes: valid, and running as they stand."""

from __future__ import annotations

import asyncio
import base64
import re
import time
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from distributed import Client

from gc_bootstrap import backends
from gc_bootstrap.config import read_pools
from gc_bootstrap.peer import Peer
from gc_bootstrap.wire.keys import generate
from tests.helm.chart import NEWEST, OLDEST, ROOT, Object, of_kind, pod_specs
from tests.helm.pods import Machine
from tests.integration.harness import until
from tests.integration.knot import Knot
from tests.kube import KubeApi, endpoint, endpoint_slice, kubeconfig, serving

EXAMPLES = ROOT / "examples" / "kubernetes"
MANIFESTS = sorted(path.name for path in EXAMPLES.glob("*.yaml") if path.name != "kind.yaml")
WAYS = ["discovery-a.yaml", "discovery-srv.yaml", "discovery-api.yaml"]

pytestmark = pytest.mark.timeout(150)


def load(*names: str) -> list[Object]:
    found: list[Object] = []
    for name in names:
        found += yaml.safe_load_all((EXAMPLES / name).read_text())
    return found


def discovery(objects: list[Object]) -> Any:
    """The scheduler's configured discovery, to be changed in place by way of :func:`configure`."""
    text = of_kind(objects, "ConfigMap")["dask-scheduler"]["data"]["dask.yaml"]
    return yaml.safe_load(text)["gc-bootstrap"]["discovery"]


def configure(objects: list[Object], found: Any) -> None:
    text = yaml.safe_dump({"gc-bootstrap": {"discovery": found}})
    of_kind(objects, "ConfigMap")["dask-scheduler"]["data"]["dask.yaml"] = text


@pytest.mark.parametrize("minor", [OLDEST, NEWEST])
@pytest.mark.parametrize("name", MANIFESTS)
def test_every_object_is_valid_in_kubernetes(name: str, minor: str) -> None:
    for obj in load(name):
        kubernetes_validate.validate(obj, minor, strict=True)


@pytest.mark.parametrize("way", WAYS)
def test_every_way_is_accepted(way: str) -> None:
    found = discovery(load(way))
    pools, problems = read_pools(configured={"discovery": found})
    assert problems == []
    backends.load("discovery", pools["default"].discovery, "discovery")


def test_the_statefulset_is_the_deployment_but_for_what_makes_it_one() -> None:
    deployment, stateful = load("agents.yaml"), load("agents-statefulset.yaml")
    assert deployment[0] == stateful[0]
    assert deployment[1]["spec"]["template"] == stateful[1]["spec"]["template"]
    spec = stateful[1]["spec"]
    assert spec["serviceName"] == deployment[0]["metadata"]["name"]
    assert spec.keys() - deployment[1]["spec"].keys() == {"serviceName", "podManagementPolicy"}


def test_names_agree() -> None:
    objects = load("agents.yaml", "scheduler.yaml", "discovery-api.yaml")
    services = of_kind(objects, "Service")
    assert discovery(objects)["kubernetes"]["service"] in services
    for way in ("discovery-a.yaml", "discovery-srv.yaml"):
        assert ".dask-agents.dask.svc.cluster.local." in f".{discovery(load(way))['dns']['domain']}"
    for spec in pod_specs(objects).values():
        assert spec["containers"][0]["image"] == "gc_bootstrap:0.1.0"
    (grace,) = {
        spec["terminationGracePeriodSeconds"]
        for name, spec in pod_specs(objects).items()
        if name == "dask-agents"
    }
    assert grace > 60


def test_schedulers_that_share_are_the_scheduler_but_for_their_configuration() -> None:
    one = of_kind(load("scheduler.yaml"), "Deployment")["dask-scheduler"]
    two = of_kind(load("shared-pool.yaml"), "StatefulSet")["dask-schedulers"]
    mounted = {"name": "config", "configMap": {"name": "dask-scheduler"}}
    volumes = one["spec"]["template"]["spec"]["volumes"]
    volumes[volumes.index(mounted)]["configMap"] = {"name": "dask-schedulers"}
    assert one["spec"]["template"]["spec"] == two["spec"]["template"]["spec"]
    text = of_kind(load("shared-pool.yaml"), "ConfigMap")["dask-schedulers"]["data"]["dask.yaml"]
    pools, problems = read_pools(configured=yaml.safe_load(text)["gc-bootstrap"])
    assert problems == []
    assert pools["default"].is_fair
    assert pools["default"].discovery == discovery(load("discovery-api.yaml"))


def test_the_readme_explains_each_file() -> None:
    readme = (EXAMPLES / "README.md").read_text()
    for path in EXAMPLES.glob("*.yaml"):
        assert f"]({path.name})" in readme
    applied = set(re.findall(r"-f (\S+\.yaml)", readme))
    assert applied <= set(MANIFESTS)
    assert "endpoint_pod_names" in (EXAMPLES / "coredns.yaml").read_text()


PRIVATE, PUBLIC = (base64.b64encode(half).decode() for half in generate())
KEYS: Object = {
    "kind": "Secret",
    "metadata": {"name": "dask-keys"},
    "data": {"private.pem": PRIVATE, "public.pem": PUBLIC},
}


async def _forms(machine: Machine) -> None:
    agents = [pod for pod in machine.pods if pod.name.startswith("dask-agents")]
    assert len(agents) == 3
    scheduler = machine.scheduler("dask-scheduler-0")
    await scheduler.formed([Peer(pod.host, 8791) for pod in agents])


async def test_the_api_forms_the_pool(tmp_path: Path) -> None:
    objects = [*load("agents.yaml", "scheduler.yaml", "discovery-api.yaml"), KEYS]
    api = KubeApi()
    async with serving(api) as url:
        config = await asyncio.to_thread(kubeconfig, tmp_path, url)
        async with Machine(objects, tmp_path, KUBECONFIG=str(config)) as machine:
            await machine.start("dask-agents", "dask-scheduler")
            ready = [endpoint(p.host, p.name) for p, _ in machine.endpoints()["dask-agents"]]
            made = endpoint_slice("dask-agents-1", ready, {"agent": 8791}, service="dask-agents")
            api.apply("endpointslices", made)
            await _forms(machine)


async def test_a_records_form_the_pool(tmp_path: Path) -> None:
    objects = [*load("agents.yaml", "scheduler.yaml", "discovery-a.yaml"), KEYS]
    async with Knot(tmp_path, ["dask.svc.cluster.local"]) as knot:
        found = discovery(objects)
        found["dns"]["nameservers"] = [knot.server]
        configure(objects, found)
        async with Machine(objects, tmp_path) as machine:
            pods = [pod for pod, _ in machine.endpoints()["dask-agents"]]
            records = [f"dask-agents A {pod.host}" for pod in pods]
            await knot.write("dask.svc.cluster.local", *records)
            await machine.start("dask-agents", "dask-scheduler")
            await _forms(machine)


async def test_srv_records_of_the_statefulset_form_the_pool(tmp_path: Path) -> None:
    objects = [*load("agents-statefulset.yaml", "scheduler.yaml", "discovery-srv.yaml"), KEYS]
    async with Knot(tmp_path, ["dask.svc.cluster.local"]) as knot:
        found = discovery(objects)
        # This machine's own resolver does not know the names of pods: Knot is asked for them, too.
        found["dns"] |= {"nameservers": [knot.server], "host-type": "ip"}
        configure(objects, found)
        async with Machine(objects, tmp_path) as machine:
            records = []
            for pod, port in machine.endpoints()["dask-agents"]:
                target = f"{pod.name}.dask-agents"
                records.append(f"_agent._tcp.dask-agents SRV 0 33 {port} {target}")
                records.append(f"{target} A {pod.host}")
            await knot.write("dask.svc.cluster.local", *records)
            await machine.start("dask-agents", "dask-scheduler")
            await _forms(machine)


def work(_: int) -> None:
    """For a moment, so that there is more to do than one agent can."""
    time.sleep(0.2)


async def test_two_schedulers_share_the_agents_as_their_work_needs(tmp_path: Path) -> None:
    objects = [*load("agents.yaml", "discovery-api.yaml", "shared-pool.yaml"), KEYS]
    api = KubeApi()
    async with serving(api) as url:
        config = await asyncio.to_thread(kubeconfig, tmp_path, url)
        async with Machine(objects, tmp_path, KUBECONFIG=str(config)) as machine:
            await machine.start("dask-agents", "dask-schedulers")
            ready = [endpoint(p.host, p.name) for p, _ in machine.endpoints()["dask-agents"]]
            made = endpoint_slice("dask-agents-1", ready, {"agent": 8791}, service="dask-agents")
            api.apply("endpointslices", made)
            first, second = (machine.scheduler(f"dask-schedulers-{n}") for n in range(2))

            async def held() -> tuple[int, ...]:
                return tuple([len(await s.workers()) for s in (first, second)])

            async def hold(*numbers: tuple[int, int]) -> None:
                async def check() -> bool:
                    return await held() in numbers

                await until(check, f"they hold one of {numbers}", 60)

            async with (
                Client(first.address, asynchronous=True) as alice,
                Client(second.address, asynchronous=True) as bob,
            ):
                hers = alice.map(work, range(1000), pure=False)
                await hold((3, 0))
                his = bob.map(work, range(1000), pure=False)
                await hold((2, 1), (1, 2))
                await alice.cancel(hers)
                del hers
                await hold((0, 3))
                await bob.cancel(his)
                del his
                await hold((0, 0))
