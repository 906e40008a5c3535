"""A namespace behind a real API server: one that the tests started, or that of a kubeconfig."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from gc_bootstrap.discovery.kubernetes.credentials import Access
from gc_bootstrap.discovery.kubernetes.options import Options
from tests.e2e.control_plane import ControlPlane
from tests.integration.harness import until

Object = dict[str, Any]

MERGE = "application/merge-patch+json"
GROUPS = {
    "deployments": "/apis/apps/v1",
    "statefulsets": "/apis/apps/v1",
    "endpointslices": "/apis/discovery.k8s.io/v1",
    "networkpolicies": "/apis/networking.k8s.io/v1",
    "ingresses": "/apis/networking.k8s.io/v1",
    "horizontalpodautoscalers": "/apis/autoscaling/v2",
    "poddisruptionbudgets": "/apis/policy/v1",
    "roles": "/apis/rbac.authorization.k8s.io/v1",
    "rolebindings": "/apis/rbac.authorization.k8s.io/v1",
}


class ApiRefusedError(Exception):
    """The API server answered with an error."""

    def __init__(self, status: int, body: str) -> None:
        super().__init__(f"{status}: {body}")
        self.status = status


class Admin:
    """Whoever may do everything: writes objects through the API.

    Attributes
    ----------
    warnings
        What the API server has warned of.
    """

    def __init__(self, kubeconfig: Path, context: str | None = None) -> None:
        self._access = Access(Options("x", kubeconfig=str(kubeconfig), context=context))
        self.warnings: list[str] = []

    async def call(
        self, method: str, path: str, body: Object | None = None, content: str | None = None
    ) -> Object:
        """One request; the answer's object."""
        connection = await self._access.connection()
        headers = dict(connection.headers)
        headers["Content-Type"] = content or "application/json"
        answer = await connection.client.request(
            method, f"{connection.server}{path}", headers=headers, body=body
        )
        text = (await answer.read()).decode()
        self.warnings += answer.response.headers.getall("Warning", [])
        if answer.status >= 300:
            raise ApiRefusedError(answer.status, text)
        found: Object = json.loads(text) if text.startswith("{") else {}
        return found

    async def close(self) -> None:
        """Close the connection."""
        await self._access.close()


@dataclass
class Cluster:
    """A namespace of one's own behind a real API server, or something that looks like one.

    Parameters
    ----------
    kubeconfig
        Of somebody who may do everything.
    namespace
        To work in.
    host
        An address that agents can listen on, and that the API server takes.
    control_plane
        The processes, where they are the tests' own.
    """

    admin: Admin
    kubeconfig: Path
    namespace: str
    host: str
    control_plane: ControlPlane | None = None
    _hosts: int = field(default=1, init=False)

    def new_host(self) -> str:
        """Another address such as :attr:`host`."""
        self._hosts += 1
        return f"{self.host.rpartition('.')[0]}.{self._hosts}"

    def path(self, collection: str, name: str = "", sub: str = "") -> str:
        """Of a collection, or an object in it."""
        base = f"{GROUPS.get(collection, '/api/v1')}/namespaces/{self.namespace}/{collection}"
        return "/".join(part for part in (base, name, sub) if part)

    async def get(self, collection: str, name: str = "", sub: str = "") -> Object:
        """An object, or a list."""
        return await self.admin.call("GET", self.path(collection, name, sub))

    async def create(self, collection: str, obj: Object) -> None:
        """Create an object."""
        await self.admin.call("POST", self.path(collection), obj)

    async def apply(self, collection: str, obj: Object) -> None:
        """Create an object, or put this in its place."""
        name = obj["metadata"]["name"]
        try:
            known = await self.get(collection, name)
        except ApiRefusedError as exc:
            if exc.status != 404:
                raise
            await self.create(collection, obj)
        else:
            version = known["metadata"]["resourceVersion"]
            obj = {**obj, "metadata": {**obj["metadata"], "resourceVersion": version}}
            await self.admin.call("PUT", self.path(collection, name), obj)

    async def patch_status(self, collection: str, name: str, status: Object) -> None:
        """Change an object's status, as a kubelet does."""
        path = self.path(collection, name, "status")
        await self.admin.call("PATCH", path, {"status": status}, MERGE)

    async def delete(self, collection: str, name: str, grace: int | None = None) -> None:
        """Delete an object; one with a grace period is there until then."""
        body: Object = {"kind": "DeleteOptions", "apiVersion": "v1"}
        if grace is not None:
            body["gracePeriodSeconds"] = grace
        await self.admin.call("DELETE", self.path(collection, name), body)

    async def restrict(self) -> None:
        """Hold all pods to the Pod Security Standard "restricted", and warn of what cannot be."""
        levels = {f"pod-security.kubernetes.io/{how}": "restricted" for how in ("enforce", "warn")}
        path = f"/api/v1/namespaces/{self.namespace}"
        await self.admin.call("PATCH", path, {"metadata": {"labels": levels}}, MERGE)

    async def token_of(self, account: str, seconds: int = 3600, **bound: str) -> str:
        """A token of a service account, maybe bound to an object."""
        spec: Object = {"expirationSeconds": seconds}
        if bound:
            spec["boundObjectRef"] = bound
        request = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": spec,
        }
        path = self.path("serviceaccounts", account, "token")
        return str((await self.admin.call("POST", path, request))["status"]["token"])

    def config_of(
        self, folder: Path, user: Mapping[str, str] | None = None, port: int | None = None
    ) -> Path:
        """A kubeconfig of somebody else, or by way of another port of this host."""
        content = yaml.safe_load(self.kubeconfig.read_text())
        context = content["current-context"]
        named = next(c["context"] for c in content["contexts"] if c["name"] == context)
        named["namespace"] = self.namespace
        if user is not None:
            named["user"] = "other"
            content["users"] = [{"name": "other", "user": dict(user)}]
        if port is not None:
            for cluster in content["clusters"]:
                cluster["cluster"]["server"] = f"https://127.0.0.1:{port}"
        path = folder / f"kubeconfig-{secrets.token_hex(4)}"
        path.write_text(yaml.safe_dump(content))
        return path


@asynccontextmanager
async def namespace_in(
    kubeconfig: Path, host: str, control_plane: ControlPlane | None = None
) -> AsyncIterator[Cluster]:
    """A namespace of its own, in which pods can be made."""
    admin = Admin(kubeconfig)
    name = f"gc-bootstrap-e2e-{secrets.token_hex(4)}"
    made = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    cluster = Cluster(admin, kubeconfig, name, host, control_plane)

    async def has_account() -> bool:
        accounts = (await cluster.get("serviceaccounts"))["items"]
        return any(account["metadata"]["name"] == "default" for account in accounts)

    try:
        await admin.call("POST", "/api/v1/namespaces", made)
        try:
            await until(has_account, "the namespace has its service account")
            yield cluster
        finally:
            await admin.call("DELETE", f"/api/v1/namespaces/{name}")
    finally:
        await admin.close()
