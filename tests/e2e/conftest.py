"""A real API server for all tests here, and a namespace in it for each.

``KUBEBUILDER_ASSETS`` names a folder with etcd, kube-apiserver and kube-controller-manager
(envtest's convention), or ``KUBECONFIG`` leads to a cluster and ``GC_BOOTSTRAP_E2E=1`` allows to
make namespaces in it. Agents get addresses of this host, which needs root.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import helm_python
import pytest

from tests.e2e.cluster import Cluster, namespace_in
from tests.e2e.control_plane import PROGRAMS, ControlPlane, network
from tests.e2e.kubelet import Kubelet
from tests.e2e.relay import Relay
from tests.e2e.release import Release
from tests.integration.harness import Processes
from tests.require import require

ASSETS = Path(os.environ.get("KUBEBUILDER_ASSETS", "/nowhere"))
HAS_ASSETS = all((ASSETS / name).exists() for name in PROGRAMS)
HAS_CLUSTER = bool(os.environ.get("KUBECONFIG")) and os.environ.get("GC_BOOTSTRAP_E2E") == "1"


@pytest.fixture(scope="session")
def assets() -> Path | None:
    """The programs; None where somebody else's cluster is used."""
    require("e2e", found=HAS_ASSETS or HAS_CLUSTER, by_all=False)
    return ASSETS if HAS_ASSETS else None


@pytest.fixture(scope="package")
def host(assets: Path | None) -> Iterator[str]:
    """An address for agents; the others of its network are for them, too."""
    with network() as prefix:
        yield f"{prefix}.1"


@pytest.fixture(scope="package")
def control_plane(
    assets: Path | None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ControlPlane | None]:
    """One for all tests here, ended after them; None where somebody else's is used."""
    if assets is None:
        yield None
        return
    control_plane = ControlPlane(assets, tmp_path_factory.mktemp("control-plane"))
    try:
        control_plane.start()
        yield control_plane
    finally:
        control_plane.close()


@pytest.fixture
async def cluster(host: str, control_plane: ControlPlane | None) -> AsyncIterator[Cluster]:
    """A namespace."""
    kubeconfig = control_plane.kubeconfig if control_plane else Path(os.environ["KUBECONFIG"])
    async with namespace_in(kubeconfig, host, control_plane) as cluster:
        yield cluster


@pytest.fixture
def own(control_plane: ControlPlane | None) -> ControlPlane:
    """The control plane, for what nobody does to a cluster of others."""
    if control_plane is None:
        pytest.skip("only with a control plane of the tests' own")
    return control_plane


@pytest.fixture
async def relay(own: ControlPlane) -> AsyncIterator[Relay]:
    """A way to the API server that can be cut."""
    async with Relay(own.port) as relay:
        yield relay


@pytest.fixture
async def kubelet(own: ControlPlane, cluster: Cluster, tmp_path: Path) -> AsyncIterator[Kubelet]:
    """Who runs the pods of the namespace."""
    async with Kubelet(cluster, tmp_path) as kubelet:
        yield kubelet


@pytest.fixture
async def processes(tmp_path: Path) -> AsyncIterator[Processes]:
    """Agents and schedulers outside of any pod."""
    async with Processes(tmp_path) as processes:
        yield processes


@pytest.fixture
async def release(cluster: Cluster, relay: Relay, tmp_path: Path) -> AsyncIterator[Release]:
    """A release in a namespace that is held to the Pod Security Standard "restricted"."""
    await cluster.restrict()
    # By the relay: what Helm keeps open is closed with it.
    config = cluster.config_of(tmp_path, port=relay.port)
    with helm_python.Config(kubeconfig_path=str(config), namespace=cluster.namespace) as helm:
        yield Release(cluster, helm)
