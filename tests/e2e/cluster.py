"""A real API server to test against: one that the tests start, or that of a kubeconfig."""

from __future__ import annotations

import asyncio
import base64
import os
import secrets
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trustme
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from gc_bootstrap.discovery.kubernetes.credentials import Access
from gc_bootstrap.discovery.kubernetes.options import Options
from tests.integration.harness import free_port, until

ADDRESS = "10.213.7.1"
"""Where agents listen: an API server refuses loopback addresses in endpoints."""
START = 60.0
"""Seconds that etcd and kube-apiserver may take to be ready."""

Object = dict[str, Any]


class ApiRefusedError(Exception):
    """The API server answered with an error."""

    def __init__(self, status: int, body: str) -> None:
        super().__init__(f"{status}: {body}")
        self.status = status


class Admin:
    """Whoever may do everything: writes objects through the API."""

    def __init__(self, kubeconfig: Path, context: str | None = None) -> None:
        self._access = Access(Options("x", kubeconfig=str(kubeconfig), context=context))

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
        if answer.status >= 300:
            raise ApiRefusedError(answer.status, text)
        found: Object = yaml.safe_load(text) if text.startswith("{") else {}
        return found

    async def ready(self) -> bool:
        """Whether the API server answers that it is."""
        try:
            await self.call("GET", "/readyz")
        except Exception:  # whatever it is, it is not ready yet; until() gives up at some time
            return False
        return True

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
        The processes, where they are the test's own.
    """

    admin: Admin
    kubeconfig: Path
    namespace: str
    host: str
    control_plane: ControlPlane | None = None

    def path(self, collection: str, name: str = "", sub: str = "") -> str:
        """Of a collection, or an object in it."""
        groups = {
            "endpointslices": "/apis/discovery.k8s.io/v1",
            "roles": "/apis/rbac.authorization.k8s.io/v1",
            "rolebindings": "/apis/rbac.authorization.k8s.io/v1",
        }
        base = f"{groups.get(collection, '/api/v1')}/namespaces/{self.namespace}/{collection}"
        return "/".join(part for part in (base, name, sub) if part)

    async def create(self, collection: str, obj: Object) -> None:
        """Create an object."""
        await self.admin.call("POST", self.path(collection), obj)

    async def apply(self, collection: str, obj: Object) -> None:
        """Create an object, or put this in its place."""
        name = obj["metadata"]["name"]
        try:
            known = await self.admin.call("GET", self.path(collection, name))
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
        patch, content = {"status": status}, "application/merge-patch+json"
        await self.admin.call("PATCH", self.path(collection, name, "status"), patch, content)

    async def delete(self, collection: str, name: str, grace: int) -> None:
        """Delete an object; one with a grace period is there until then."""
        body = {"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": grace}
        await self.admin.call("DELETE", self.path(collection, name), body)

    def config_of(self, folder: Path, token: str) -> Path:
        """A kubeconfig of somebody else, by a token."""
        content = yaml.safe_load(self.kubeconfig.read_text())
        context = content["current-context"]
        named = next(c["context"] for c in content["contexts"] if c["name"] == context)
        named["user"], named["namespace"] = "other", self.namespace
        content["users"] = [{"name": "other", "user": {"token": token}}]
        path = folder / f"kubeconfig-{secrets.token_hex(4)}"
        path.write_text(yaml.safe_dump(content))
        return path


class ControlPlane:
    """etcd and kube-apiserver from a folder, as envtest starts them."""

    def __init__(self, assets: Path, folder: Path) -> None:
        self._assets = assets
        self._folder = folder
        self._port = free_port()
        self._etcd_port = free_port()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._certificates()
        self.kubeconfig = folder / "kubeconfig"
        self.kubeconfig.write_text(yaml.safe_dump(self._admin_config()))
        self.admin = Admin(self.kubeconfig)

    def _certificates(self) -> None:
        self._ca = trustme.CA()
        self._ca.cert_pem.write_to_path(str(self._folder / "ca.crt"))
        serving = self._ca.issue_cert("127.0.0.1", "localhost")
        serving.private_key_pem.write_to_path(str(self._folder / "tls.key"))
        for pem in serving.cert_chain_pems:
            pem.write_to_path(str(self._folder / "tls.crt"), append=True)
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        private = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
        public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        (self._folder / "sa.key").write_bytes(private)
        (self._folder / "sa.pub").write_bytes(public)

    def _admin_config(self) -> Object:
        # The API server takes the user from CN and the groups from O.
        admin = self._ca.issue_cert(
            "admin@example.com", common_name="admin", organization_name="system:masters"
        )

        def encoded(*blobs: trustme.Blob) -> str:
            return base64.b64encode(b"".join(blob.bytes() for blob in blobs)).decode()

        cluster = {
            "server": f"https://127.0.0.1:{self._port}",
            "certificate-authority-data": encoded(self._ca.cert_pem),
        }
        user = {
            "client-certificate-data": encoded(*admin.cert_chain_pems),
            "client-key-data": encoded(admin.private_key_pem),
        }
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "e2e",
            "contexts": [{"name": "e2e", "context": {"cluster": "e2e", "user": "admin"}}],
            "clusters": [{"name": "e2e", "cluster": cluster}],
            "users": [{"name": "admin", "user": user}],
        }

    async def start(self) -> None:
        """Start what does not run, and wait until the API server is ready."""
        etcd = f"http://127.0.0.1:{self._etcd_port}"
        if "etcd" not in self._processes:
            self._start(
                "etcd",
                f"--data-dir={self._folder / 'etcd'}",
                f"--listen-client-urls={etcd}",
                f"--advertise-client-urls={etcd}",
                f"--listen-peer-urls=http://127.0.0.1:{free_port()}",
                "--unsafe-no-fsync",
            )
        self._start(
            "kube-apiserver",
            f"--etcd-servers={etcd}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            "--endpoint-reconciler-type=none",  # it would want another address for `kubernetes`
            f"--secure-port={self._port}",
            f"--cert-dir={self._folder}",
            f"--tls-cert-file={self._folder / 'tls.crt'}",
            f"--tls-private-key-file={self._folder / 'tls.key'}",
            f"--client-ca-file={self._folder / 'ca.crt'}",
            "--authorization-mode=RBAC",
            "--service-cluster-ip-range=10.0.0.0/24",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-signing-key-file={self._folder / 'sa.key'}",
            f"--service-account-key-file={self._folder / 'sa.pub'}",
            # No controller makes the default service account that it asks for.
            "--disable-admission-plugins=ServiceAccount",
        )

        async def ready() -> bool:
            for name, process in self._processes.items():
                log = (self._folder / f"{name}.log").read_text()
                assert process.poll() is None, f"{name} has ended: {log[-2000:]}"
            return await self.admin.ready()

        await until(ready, "the API server is ready", START)

    def _start(self, name: str, *arguments: str) -> None:
        with (self._folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [self._assets / name, *arguments], stdout=log, stderr=log, cwd=self._folder
            )

    async def kill(self, name: str = "kube-apiserver") -> None:
        """Kill one of the two, and wait until it is gone."""
        process = self._processes.pop(name)
        os.kill(process.pid, signal.SIGKILL)
        await asyncio.to_thread(process.wait)

    async def close(self) -> None:
        """End both."""
        await self.admin.close()
        for name in list(self._processes):
            await self.kill(name)


@contextmanager
def address() -> Iterator[str]:
    """An address of this host that is not loopback's, for as long as the context lasts."""
    name = f"gcb{secrets.token_hex(3)}"
    added = _ip("link", "add", name, "type", "dummy") and _ip("link", "set", name, "up")
    # Where the kernel has no dummy interfaces, lo takes an address that is not of 127.0.0.0/8.
    device = name if added else "lo"
    if not _ip("addr", "add", f"{ADDRESS}/32", "dev", device):
        raise RuntimeError(f"cannot give {device} the address {ADDRESS}: run as root")
    try:
        yield ADDRESS
    finally:
        _ip("addr", "del", f"{ADDRESS}/32", "dev", device)
        if added:
            _ip("link", "del", name)


def _ip(*arguments: str) -> bool:
    return subprocess.run(["ip", *arguments], capture_output=True, check=False).returncode == 0


@asynccontextmanager
async def real_cluster(folder: Path, environ: Mapping[str, str]) -> AsyncIterator[Cluster]:
    """A namespace of its own, with ``KUBEBUILDER_ASSETS`` or in the cluster of ``KUBECONFIG``."""
    async with AsyncExitStack() as stack:
        host = stack.enter_context(address())
        control_plane = None
        if assets := environ.get("KUBEBUILDER_ASSETS"):
            control_plane = ControlPlane(Path(assets), folder)
            stack.push_async_callback(control_plane.close)
            await control_plane.start()
            admin, kubeconfig = control_plane.admin, control_plane.kubeconfig
        else:
            kubeconfig = Path(environ["KUBECONFIG"])
            admin = Admin(kubeconfig)
            stack.push_async_callback(admin.close)
        namespace = f"gc-bootstrap-e2e-{secrets.token_hex(4)}"
        made = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
        await admin.call("POST", "/api/v1/namespaces", made)
        try:
            yield Cluster(admin, kubeconfig, namespace, host, control_plane)
        finally:
            await admin.call("DELETE", f"/api/v1/namespaces/{namespace}")
