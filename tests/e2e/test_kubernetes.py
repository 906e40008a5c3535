"""The discovery `kubernetes` against a real API server.

``KUBEBUILDER_ASSETS`` names a folder with ``etcd`` and ``kube-apiserver`` (envtest's convention),
or ``KUBECONFIG`` leads to a cluster and ``GC_BOOTSTRAP_E2E=1`` allows to make a namespace in it. No
pod has to run there, and none is started. Agents get an address of this host, which needs root.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.e2e import scenarios
from tests.e2e.cluster import Cluster, real_cluster
from tests.integration.harness import Processes

ENVIRON = dict(os.environ)
ASSETS = Path(ENVIRON.get("KUBEBUILDER_ASSETS", "/nowhere"))
HAS_ASSETS = all((ASSETS / name).exists() for name in ("etcd", "kube-apiserver"))
HAS_CLUSTER = bool(ENVIRON.get("KUBECONFIG")) and ENVIRON.get("GC_BOOTSTRAP_E2E") == "1"

if not (HAS_ASSETS or HAS_CLUSTER):
    WHY = (
        "no real API server: set KUBEBUILDER_ASSETS to a folder with etcd and kube-apiserver,"
        " or KUBECONFIG and GC_BOOTSTRAP_E2E=1"
    )
    # Not for `all`: kube-apiserver is in no registry that a test machine can rely on.
    if "kube-apiserver" in ENVIRON.get("GC_BOOTSTRAP_REQUIRE", "").split(","):
        raise RuntimeError(WHY)
    pytest.skip(WHY, allow_module_level=True)
if not HAS_ASSETS:
    ENVIRON.pop("KUBEBUILDER_ASSETS", None)

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    folder = tmp_path / "cluster"
    folder.mkdir()
    async with real_cluster(folder, ENVIRON) as cluster:
        yield cluster


@pytest.fixture
async def processes(tmp_path: Path) -> AsyncIterator[Processes]:
    async with Processes(tmp_path) as processes:
        yield processes


@pytest.mark.parametrize("resource", ["endpointslices", "endpoints", "pods"])
async def test_follows(cluster: Cluster, processes: Processes, resource: str) -> None:
    await scenarios.follows(cluster, processes, resource)


async def test_a_list_comes_in_pages(cluster: Cluster) -> None:
    await scenarios.comes_in_pages(cluster)


async def test_conditions_and_families(cluster: Cluster) -> None:
    await scenarios.tells_leaving_from_absent(cluster)


async def test_the_documented_role_is_enough(cluster: Cluster, tmp_path: Path) -> None:
    await scenarios.needs_the_documented_role_and_no_more(cluster, tmp_path)


async def test_a_wrong_token(cluster: Cluster, tmp_path: Path) -> None:
    await scenarios.refuses_a_wrong_token(cluster, tmp_path)


@pytest.mark.skipif(not HAS_ASSETS, reason="only an API server of the test's own is killed")
async def test_an_outage(cluster: Cluster, processes: Processes) -> None:
    await scenarios.survives_an_outage(cluster, processes)
