"""The discovery `kubernetes` against a real API server; see conftest.py for which one.

No pod has to run here, and none is started.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e import scenarios
from tests.e2e.cluster import Cluster
from tests.e2e.control_plane import ControlPlane
from tests.integration.harness import Processes

pytestmark = pytest.mark.timeout(300)


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


async def test_an_outage(own: ControlPlane, cluster: Cluster, processes: Processes) -> None:
    await scenarios.survives_an_outage(cluster, processes)
