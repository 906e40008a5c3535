"""The scenarios of tests/e2e, against the server on kmock: they run wherever the tests do."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import kmock
import pytest
from aiohttp import web

from tests.e2e import scenarios
from tests.e2e.cluster import Admin, Cluster
from tests.e2e.control_plane import network
from tests.integration.harness import Processes
from tests.kube import NAMESPACE, KubeApi, Object, fixture, kubeconfig, serving, status

pytestmark = pytest.mark.timeout(120)


class WritableApi(KubeApi):
    """Takes objects over HTTP, and checks tokens and rights as far as the scenarios ask."""

    async def _handle(self, request: kmock.Request) -> web.StreamResponse:
        raw = request._raw_request
        assert raw is not None
        _, _, rest = raw.path.partition(f"/namespaces/{NAMESPACE}/")
        collection, _, name = rest.partition("/")
        name, _, sub = name.partition("/")
        refused = self._refused(raw)
        if refused is not None:
            return refused
        if raw.method == "GET" and not name:
            return await super()._handle(request)
        return self._write(raw.method, collection, name, sub, request.data)

    def _refused(self, raw: web.BaseRequest) -> web.Response | None:
        token = raw.headers.get("Authorization")
        if token == "Bearer nonsense":
            return web.json_response(fixture("error-401.json"), status=401)
        allowed = [
            resource
            for role in self.objects.get("roles", {}).values()
            if self.objects.get("rolebindings")
            for rule in role["rules"]
            for resource in rule["resources"]
        ]
        wanted = raw.path.rpartition("/")[2]
        if token == "Bearer account" and wanted not in allowed:
            user = f"system:serviceaccount:{NAMESPACE}:dask-scheduler"
            message = f'{wanted} is forbidden: User "{user}" cannot list resource "{wanted}"'
            return web.json_response(status(403, "Forbidden", message), status=403)
        return None

    def _write(
        self, method: str, collection: str, name: str, sub: str, data: Object
    ) -> web.Response:
        known = self.objects.setdefault(collection, {})
        if sub == "token":
            return web.json_response({"status": {"token": "account"}}, status=201)
        if method == "POST":
            name = data["metadata"]["name"]
            assert name not in known
            if collection == "pods":
                data = {**data, "status": {"phase": "Pending"}}
        elif name not in known:
            return web.json_response(status(404, "NotFound", f"{name} not found"), status=404)
        elif method == "PUT":
            assert data["metadata"]["resourceVersion"] == known[name]["metadata"]["resourceVersion"]
        elif method == "PATCH":
            data = {**known[name], **data}
        elif method == "DELETE":
            assert data["gracePeriodSeconds"]
            metadata = {**known[name]["metadata"], "deletionTimestamp": "2026-11-23T02:17:33Z"}
            data = {**known[name], "metadata": metadata}
        if method != "GET":
            self.apply(collection, data)
        return web.json_response(json.loads(json.dumps(known[name])))


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with serving(WritableApi()) as url:
        config = kubeconfig(tmp_path, url)
        admin = Admin(config)
        try:
            yield Cluster(admin, config, NAMESPACE, "127.0.0.1")
        finally:
            await admin.close()


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


@pytest.mark.skipif(shutil.which("ip") is None, reason="no ip(8) here")
@pytest.mark.skipif(os.geteuid() != 0, reason="giving an interface an address needs root")
def test_addresses_for_agents_are_made_and_taken_away() -> None:
    def routes() -> str:
        command = ["ip", "route", "show", "table", "local"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    with network() as prefix:
        assert f"local {prefix}.0/24 dev lo" in routes()
        with socket.create_server((f"{prefix}.77", 0)) as server:
            assert server.getsockname()[0] == f"{prefix}.77"
    assert prefix not in routes()
