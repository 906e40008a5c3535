"""What the chart renders really runs: its commands, files, environment, probes and its test."""

from __future__ import annotations

import asyncio
import base64
import signal
from pathlib import Path

import dask.config
import pytest
import trustme
from distributed.core import rpc

from gc_bootstrap.peer import Peer
from gc_bootstrap.wire.keys import generate
from tests.helm.chart import Object, Values, of_kind, render
from tests.helm.pods import Machine
from tests.integration.harness import until
from tests.kube import NAMESPACE, KubeApi, endpoint, endpoint_slice, kubeconfig, serving

pytestmark = pytest.mark.timeout(150)

RELEASE = "dask-gc-bootstrap"
SCHEDULER = f"{RELEASE}-scheduler-0"
TWO_POOLS: Values = {
    "pools": {"default": {"replicas": 2}, "big": {"kind": "StatefulSet", "replicas": 1}}
}


def publish(api: KubeApi, machine: Machine) -> None:
    """Do as the endpoints controller does once pods are ready."""
    for service, found in machine.endpoints().items():
        endpoints = [endpoint(pod.host, pod.name) for pod, _ in found]
        (port,) = {port for _, port in found}
        api.apply(
            "endpointslices",
            endpoint_slice(f"{service}-1", endpoints, {"agent": port}, service=service),
        )


async def test_a_release_forms_its_pools_and_passes_helm_test(tmp_path: Path) -> None:
    objects = render(TWO_POOLS, namespace=NAMESPACE)
    api = KubeApi()
    async with serving(api) as url:
        config = await asyncio.to_thread(kubeconfig, tmp_path, url)
        async with Machine(objects, tmp_path, KUBECONFIG=str(config)) as machine:
            await machine.start(f"{RELEASE}-default", f"{RELEASE}-big")
            publish(api, machine)
            await machine.start(SCHEDULER)

            code, out = await machine.run(f"{RELEASE}-test")
            assert code == 0, out
            computing = {line for line in out.splitlines() if line.endswith("computes")}
            agents = [pod for pod in machine.pods if pod.labels.get("gc-bootstrap/pool")]
            assert computing == {
                f"pool {p.labels['gc-bootstrap/pool']}: {p.host}:8791 computes" for p in agents
            }
            await _ports_are_those_of_the_network_policy(machine, objects)
            await _sigterm_ends_an_agent_tidily(machine)


async def _ports_are_those_of_the_network_policy(machine: Machine, objects: list[Object]) -> None:
    policy = of_kind(objects, "NetworkPolicy")[f"{RELEASE}-agent"]
    allowed = [port for rule in policy["spec"]["ingress"] for port in rule["ports"]]
    (dask,) = [port for port in allowed if "endPort" in port]
    async with rpc(machine.scheduler(SCHEDULER).address) as scheduler:
        workers = (await scheduler.identity(n_workers=-1))["workers"]
    assert len(workers) == 3
    for address, worker in workers.items():
        ports = [int(str(a).rpartition(":")[2]) for a in (address, worker["nanny"])]
        ports.append(worker["services"]["dashboard"])
        assert all(dask["port"] <= port <= dask["endPort"] for port in ports), ports


async def _sigterm_ends_an_agent_tidily(machine: Machine) -> None:
    group = machine.group(f"{RELEASE}-big-0")
    group.signal(signal.SIGTERM)
    await until(lambda: group.ended, "the agent has drained")
    assert group.returncode == 0, group.tail()


async def test_a_release_with_tls_forms_its_pools(tmp_path: Path) -> None:
    values = {"tls": {"existingSecret": "dask-tls"}, "poolDefaults": {"replicas": 1}}
    authority = trustme.CA()
    issued = authority.issue_cert("dask.prod.svc")
    files = {
        "tls.crt": b"".join(blob.bytes() for blob in issued.cert_chain_pems),
        "tls.key": issued.private_key_pem.bytes(),
        "ca.crt": authority.cert_pem.bytes(),
    }
    data = {name: base64.b64encode(content).decode() for name, content in files.items()}
    secret = {"kind": "Secret", "metadata": {"name": "dask-tls"}, "data": data}
    objects = [*render(values, namespace=NAMESPACE), secret]
    api = KubeApi()
    async with serving(api) as url:
        config = await asyncio.to_thread(kubeconfig, tmp_path, url)
        async with Machine(objects, tmp_path, KUBECONFIG=str(config)) as machine:
            await machine.start(f"{RELEASE}-default")  # its probes: HTTPS without a certificate
            publish(api, machine)
            await machine.start(SCHEDULER)
            code, out = await machine.run(f"{RELEASE}-test")
            assert code == 0, out
            assert out.endswith("ok\n")


async def test_a_scheduler_attaches_the_agents_of_another_release(tmp_path: Path) -> None:
    shared: Values = {"cluster": {"name": "research"}, "keyPair": {"existingSecret": "dask-keys"}}
    agents: Values = {"scheduler": {"enabled": False}, "poolDefaults": {"replicas": 1}, **shared}
    found = {"enabled": False, "discovery": {"service": "pools-gc-bootstrap-default"}}
    pair = zip(("private.pem", "public.pem"), map(base64.b64encode, generate()), strict=True)
    data = {name: half.decode() for name, half in pair}
    objects = [
        *render(agents, name="pools", namespace=NAMESPACE),
        *render({"pools": {"default": found}, **shared}, name="alice", namespace=NAMESPACE),
        {"kind": "Secret", "metadata": {"name": "dask-keys"}, "data": data},
    ]
    api = KubeApi()
    async with serving(api) as url:
        config = await asyncio.to_thread(kubeconfig, tmp_path, url)
        async with Machine(objects, tmp_path, KUBECONFIG=str(config)) as machine:
            await machine.start("pools-gc-bootstrap-default")
            publish(api, machine)
            await machine.start("alice-gc-bootstrap-scheduler")
            scheduler = machine.scheduler("alice-gc-bootstrap-scheduler-0")
            await scheduler.formed([Peer(machine.pod("pools-gc-bootstrap-default-0").host, 8791)])


async def test_helm_test_says_which_pool_has_not_attached(tmp_path: Path) -> None:
    values: Values = {"test": {"timeout": "1s"}, "pools": {"default": {"replicas": 1}}}
    objects = render(values, namespace=NAMESPACE)
    async with serving(KubeApi()) as url:
        config = await asyncio.to_thread(kubeconfig, tmp_path, url)
        async with Machine(objects, tmp_path, KUBECONFIG=str(config)) as machine:
            await machine.start(SCHEDULER)  # and no agent
            code, out = await machine.run(f"{RELEASE}-test")
    assert code == 1
    assert out.splitlines()[-1] == "pool default: 0 of 1 agents attached"


async def test_the_config_of_a_pool_is_where_dask_looks(tmp_path: Path) -> None:
    config = {"distributed": {"worker": {"memory": {"target": 0.7}}}}
    objects = render({"pools": {"default": {"config": config}}})
    async with Machine(objects, tmp_path) as machine:
        pod = machine.pod(f"{RELEASE}-default-0")
        pod.mount(objects)
        assert dask.config.collect(paths=[pod.environ["DASK_CONFIG"]], env={}) == config
