"""A control plane of the tests' own: etcd, kube-apiserver and the controllers, without kubelets."""

from __future__ import annotations

import base64
import random
import secrets
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jwt
import trustme
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.integration.harness import free_port

PROGRAMS = ("etcd", "kube-apiserver", "kube-controller-manager")
ISSUER = "https://kubernetes.default.svc"
LEEWAY = 60
"""Seconds after its end for which a token is still accepted (go-jose's DefaultLeeway)."""
START = 60.0
"""Seconds that etcd and kube-apiserver may take to be ready."""
CONTROLLERS = (
    *("deployment", "replicaset", "statefulset", "endpointslice", "endpoints", "disruption"),
    *("horizontal-pod-autoscaler", "garbage-collector", "namespace", "serviceaccount"),
    "root-ca-certificate-publisher",
)
"""What looks after nodes is not among them: there is nobody who would say that a node lives."""

Object = dict[str, Any]


class ControlPlane:
    """The processes, started from a folder as envtest starts them.

    Parameters
    ----------
    assets
        Where the programs are.
    folder
        For their data, keys and logs.

    Attributes
    ----------
    kubeconfig
        Of somebody who may do everything.
    """

    def __init__(self, assets: Path, folder: Path) -> None:
        self._assets = assets
        self._folder = folder
        self.port = free_port()
        self._etcd_ports = free_port(), free_port()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._certificates()
        self.kubeconfig = folder / "kubeconfig"
        self.kubeconfig.write_text(yaml.safe_dump(self._admin_config()))

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
            "server": f"https://127.0.0.1:{self.port}",
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

    def start(self) -> None:
        """Start what does not run, and wait until the API server is ready."""
        client, peer = (f"http://127.0.0.1:{port}" for port in self._etcd_ports)
        self._start(
            "etcd",
            f"--data-dir={self._folder / 'etcd'}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            "--unsafe-no-fsync",
        )
        self._start(
            "kube-apiserver",
            f"--etcd-servers={client}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            "--endpoint-reconciler-type=none",  # it would want another address for `kubernetes`
            f"--secure-port={self.port}",
            f"--cert-dir={self._folder}",
            f"--tls-cert-file={self._folder / 'tls.crt'}",
            f"--tls-private-key-file={self._folder / 'tls.key'}",
            f"--client-ca-file={self._folder / 'ca.crt'}",
            "--authorization-mode=RBAC",
            "--service-cluster-ip-range=10.0.0.0/24",
            f"--service-account-issuer={ISSUER}",
            f"--service-account-signing-key-file={self._folder / 'sa.key'}",
            f"--service-account-key-file={self._folder / 'sa.pub'}",
        )
        self._wait_until_ready()
        self._start(
            "kube-controller-manager",
            f"--kubeconfig={self.kubeconfig}",
            f"--controllers={','.join(f'{name}-controller' for name in CONTROLLERS)}",
            "--leader-elect=false",
            "--secure-port=0",
            # It is in nobody's way, and no test waits for its usual 20 requests a second.
            *("--kube-api-qps=500", "--kube-api-burst=1000"),
            f"--root-ca-file={self._folder / 'ca.crt'}",
            f"--service-account-private-key-file={self._folder / 'sa.key'}",
        )

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START
        while (problem := self._problem()) is not None:
            assert time.monotonic() < deadline, f"{problem}: {self._log('kube-apiserver')}"
            time.sleep(0.1)

    def _problem(self) -> str | None:
        """What the API server answers while it is not ready."""
        for name, process in self._processes.items():
            assert process.poll() is None, f"{name} has ended: {self._log(name)}"
        trusted = ssl.create_default_context(cafile=str(self._folder / "ca.crt"))
        url = f"https://127.0.0.1:{self.port}/readyz"
        try:
            with urllib.request.urlopen(url, timeout=5, context=trusted):
                return None
        except urllib.error.HTTPError as exc:
            exc.close()
            return str(exc)
        except OSError as exc:
            return str(exc)

    def _log(self, name: str) -> str:
        return (self._folder / f"{name}.log").read_text()[-2000:]

    def _start(self, name: str, *arguments: str) -> None:
        if name in self._processes:
            return
        with (self._folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [self._assets / name, *arguments], stdout=log, stderr=log, cwd=self._folder
            )

    def kill(self, name: str = "kube-apiserver") -> None:
        """Kill one of them, and wait until it is gone."""
        process = self._processes.pop(name)
        process.kill()
        process.wait()

    def close(self) -> None:
        """End all."""
        for name in reversed(list(self._processes)):
            self.kill(name)

    def token(self, namespace: str, account: Object, ends: float) -> str:
        """A service account's token as the API server makes them, accepted until then.

        Its own TokenRequest gives none for less than ten minutes.
        """
        expires = int(ends) - LEEWAY
        name, uid = account["metadata"]["name"], account["metadata"]["uid"]
        claims = {
            "iss": ISSUER,
            "aud": [ISSUER],
            "sub": f"system:serviceaccount:{namespace}:{name}",
            "iat": expires - 3600,
            "nbf": expires - 3600,
            "exp": expires,
            "kubernetes.io": {
                "namespace": namespace,
                "serviceaccount": {"name": name, "uid": uid},
            },
        }
        return jwt.encode(claims, (self._folder / "sa.key").read_text(), algorithm="RS256")


@contextmanager
def network() -> Iterator[str]:
    """The first three numbers of addresses of this host that are not loopback's.

    An API server refuses 127.0.0.0/8 in endpoints. All 256 addresses can be listened on.
    """
    for _ in range(20):
        prefix = f"10.{random.SystemRandom().randrange(200, 250)}.{secrets.randbelow(256)}"
        route = ("local", f"{prefix}.0/24", "dev", "lo")
        if _ip("route", "add", *route):
            break
    else:
        raise RuntimeError("cannot give lo addresses (ip route add local …): run as root")
    try:
        yield prefix
    finally:
        _ip("route", "del", *route)


def _ip(*arguments: str) -> bool:
    return subprocess.run(["ip", *arguments], capture_output=True, check=False).returncode == 0
