"""A Kubernetes API server as far as Helm needs one: discovery, and objects that it keeps.

kmock's emulator takes no server-side apply, which is what Helm 4 speaks.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import yaml
from aiohttp import web

Object = dict[str, Any]

RESOURCES = {
    "v1": {
        "Secret": "secrets",
        "ConfigMap": "configmaps",
        "Service": "services",
        "ServiceAccount": "serviceaccounts",
        "Pod": "pods",
    },
    "apps/v1": {"Deployment": "deployments", "StatefulSet": "statefulsets"},
    "autoscaling/v2": {"HorizontalPodAutoscaler": "horizontalpodautoscalers"},
    "networking.k8s.io/v1": {"NetworkPolicy": "networkpolicies", "Ingress": "ingresses"},
    "policy/v1": {"PodDisruptionBudget": "poddisruptionbudgets"},
    "rbac.authorization.k8s.io/v1": {"Role": "roles", "RoleBinding": "rolebindings"},
}
CUSTOM_RESOURCES = {"keda.sh/v1alpha1": {"ScaledObject": "scaledobjects"}}
"""Not Kubernetes' own."""
SERVED = RESOURCES | CUSTOM_RESOURCES
VERBS = ["create", "delete", "get", "list", "patch", "update", "watch"]


class ApiServer:
    """Objects by (namespace, plural, name)."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str, str], Object] = {}

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        parts = request.path.strip("/").split("/")
        if "namespaces" in parts:
            namespace, plural, *rest = parts[parts.index("namespaces") + 1 :]
            return await self._object(request, namespace, plural, rest[0] if rest else "")
        return self._discovery(request.path)

    def _discovery(self, path: str) -> web.Response:
        groups = [version.split("/") for version in SERVED if "/" in version]
        if path == "/version":
            return web.json_response({"major": "1", "minor": "37", "gitVersion": "v1.37.0"})
        if path == "/api":
            return web.json_response({"kind": "APIVersions", "versions": ["v1"]})
        if path == "/apis":
            versions = [{"groupVersion": f"{g}/{v}", "version": v} for g, v in groups]
            listed = [
                {"name": g, "versions": [version], "preferredVersion": version}
                for (g, _), version in zip(groups, versions, strict=True)
            ]
            return web.json_response({"kind": "APIGroupList", "apiVersion": "v1", "groups": listed})
        if path == "/openapi/v2":
            # An empty document, in protobuf: there is nothing to validate with.
            kind = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
            return web.Response(content_type=kind)
        version = path.removeprefix("/apis/").removeprefix("/api/")
        if version not in SERVED:
            return _status(404, "NotFound", f"{path} is not served")
        resources = [
            {"name": plural, "kind": kind, "namespaced": True, "verbs": VERBS}
            for kind, plural in SERVED[version].items()
        ]
        body = {"kind": "APIResourceList", "groupVersion": version, "resources": resources}
        return web.json_response({"apiVersion": "v1", **body})

    async def _object(
        self, request: web.BaseRequest, namespace: str, plural: str, name: str
    ) -> web.Response:
        body = yaml.safe_load(await request.text()) or {}
        name = name or body["metadata"]["name"]
        key = (namespace, plural, name)
        if request.method in ("PATCH", "POST", "PUT"):
            self.objects[key] = body
        elif key not in self.objects:
            return _status(404, "NotFound", f'{plural} "{name}" not found')
        elif request.method == "DELETE":
            del self.objects[key]
            return _status(200, "", "deleted")
        return web.json_response(self.objects[key])


def _status(code: int, reason: str, message: str) -> web.Response:
    outcome = "Success" if code == 200 else "Failure"
    body = {"kind": "Status", "apiVersion": "v1", "status": outcome, "code": code}
    return web.json_response({**body, "reason": reason, "message": message}, status=code)


@asynccontextmanager
async def serving(api: ApiServer, port: int) -> AsyncIterator[str]:
    """Serve it on loopback, and yield the URL."""
    runner = web.ServerRunner(web.Server(api.handle))
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        yield f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()
