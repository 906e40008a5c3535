"""The chart, installed with Helm's own engine."""

from __future__ import annotations

import asyncio

import helm_python

from tests.e2e.cluster import MERGE, Cluster
from tests.helm.chart import CHART, Values

RELEASE = "dask-gc-bootstrap"
POOL, SCHEDULER = f"{RELEASE}-default", f"{RELEASE}-scheduler"
PATIENCE = 150
"""Seconds that pods may take to run: on a busy machine each of them starts processes."""


class Release:
    """Helm's own engine, and what has become of the release."""

    def __init__(self, cluster: Cluster, helm: helm_python.Config) -> None:
        self._cluster = cluster
        self._helm = helm

    async def install(self, values: Values) -> None:
        """Install the chart."""
        await asyncio.to_thread(self._helm.install, CHART, "dask", values)

    async def upgrade(self, values: Values) -> None:
        """Upgrade to these values."""
        await asyncio.to_thread(self._helm.upgrade, CHART, "dask", values)

    async def test(self) -> None:
        """Compute on every pool."""
        await asyncio.to_thread(self._helm.test, "dask", timeout=PATIENCE)

    async def rollback(self, revision: int) -> None:
        """Go back to an earlier revision."""
        await asyncio.to_thread(self._helm.rollback, "dask", version=revision)

    async def uninstall(self) -> None:
        """Remove it."""
        await asyncio.to_thread(self._helm.uninstall, "dask")

    async def replicas(self) -> int:
        """How many pods the pool is to have."""
        return int((await self._cluster.get("deployments", POOL))["spec"]["replicas"])

    async def scale(self, replicas: int, manager: str) -> None:
        """Do as `kubectl scale` or an autoscaler."""
        path = self._cluster.path("deployments", POOL, f"scale?fieldManager={manager}")
        await self._cluster.admin.call("PATCH", path, {"spec": {"replicas": replicas}}, MERGE)
