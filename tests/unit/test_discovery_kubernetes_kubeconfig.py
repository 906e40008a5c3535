"""kubeconfigs and their exec plugins: what is read, and what is said of the rest."""

from __future__ import annotations

import base64
import json
import ssl
import stat
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml

from gc_bootstrap.discovery.kubernetes import (
    discovery,
    kubeconfig,
)
from gc_bootstrap.discovery.kubernetes.credentials import Access
from gc_bootstrap.discovery.kubernetes.options import Options
from tests import kube as kubes
from tests.kube import SERVICE, KubeApi, endpoint, endpoint_slice, serving
from tests.unit.kubernetes_helpers import ask, error_of, isolate


@pytest.fixture(autouse=True)
def no_credentials_from_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    isolate(tmp_path, monkeypatch)


@pytest.fixture
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def server_tls(ca: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("127.0.0.1").configure_cert(context)
    return context


# -- kubeconfig ----------------------------------------------------------------------------------


def write(folder: Path, **changes: Any) -> str:
    """A good kubeconfig with changes at the top; None takes a key away."""
    path = kubes.kubeconfig(folder, "http://127.0.0.1:1")
    content = {**yaml.safe_load(path.read_text()), **changes}
    path.write_text(yaml.safe_dump({k: v for k, v in content.items() if v is not None}))
    return str(path)


def context_of(**changes: Any) -> list[dict[str, Any]]:
    return [{"name": "test", "context": {"cluster": "here", "user": "me", **changes}}]


def user_of(**user: Any) -> list[dict[str, Any]]:
    return [{"name": "me", "user": user}]


def cluster_of(**cluster: Any) -> list[dict[str, Any]]:
    return [{"name": "here", "cluster": cluster}]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"current-context": None}, "has no current-context; set context"),
        ({"current-context": "prod"}, "has no context 'prod'; there are: test"),
        ({"contexts": None}, "has no context 'test'; there are: none"),
        ({"contexts": context_of(cluster="x")}, "has no cluster 'x'; there are: here"),
        ({"contexts": context_of(user="x")}, "has no user 'x'; there are: me"),
        ({"clusters": cluster_of()}, "cluster 'here' has no server"),
        ({"clusters": [{"cluster": {}}]}, "is not as it should be: KeyError: 'name'"),
        (
            {"clusters": cluster_of(server="https://x", **{"certificate-authority": "gone.crt"})},
            "gone.crt: No such file or directory",
        ),
        (
            {"clusters": cluster_of(server="https://x", **{"certificate-authority-data": "x"})},
            "certificate-authority-data is not base64",
        ),
        ({"users": user_of(tokenFile="gone")}, "gone: No such file or directory"),
        (
            {"users": user_of(**{"auth-provider": {"name": "gcp"}})},
            "auth-provider gcp is not supported; use exec, as kubelogin",
        ),
    ],
)
async def test_what_is_wrong_with_a_kubeconfig(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    path = write(tmp_path, **changes)
    error = await error_of(kubeconfig=path)
    assert error.startswith(f"kubeconfig {path}: ")
    assert said in error


@pytest.mark.parametrize(
    ("text", "said"),
    [("a: [", "is not YAML"), ("- a", "is not as it should be"), ("", "is not as it should be")],
)
async def test_a_kubeconfig_that_is_none(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(text)
    assert said in await error_of(kubeconfig=str(path))


async def test_no_credentials_at_all() -> None:
    assert await error_of() == (
        "kubeconfig ~/.kube/config: does not exist; and this is no pod with a service account"
    )
    assert await error_of(kubeconfig="/gone") == "kubeconfig /gone: does not exist"


async def test_a_client_certificate_that_cannot_be_used(tmp_path: Path) -> None:
    data = {
        "client-certificate-data": base64.b64encode(b"x").decode(),
        "client-key-data": base64.b64encode(b"y").decode(),
    }
    error = await error_of(kubeconfig=write(tmp_path, users=user_of(**data)))
    assert "the CA or the client certificate cannot be used" in error


async def test_the_usual_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kube = KubeApi()
    kube.apply("endpointslices", endpoint_slice("a", [endpoint("10.0.0.1")]))
    async with serving(kube) as url:
        home = tmp_path / "home" / ".kube"
        home.mkdir(parents=True)
        kubes.kubeconfig(home, url).rename(home / "config")
        assert len((await ask()).peers) == 1
        # Several files: contexts here, credentials there, paths relative to each.
        parts = yaml.safe_load((home / "config").read_text())
        users = {"users": user_of(tokenFile="token")}
        (tmp_path / "users").mkdir()
        (tmp_path / "users" / "config").write_text(yaml.safe_dump(users))
        (tmp_path / "users" / "token").write_text("from a file\n")
        del parts["users"]
        (tmp_path / "rest").write_text(yaml.safe_dump(parts))
        monkeypatch.setenv("KUBECONFIG", f"{tmp_path / 'rest'}:{tmp_path / 'users' / 'config'}")
        assert len((await ask()).peers) == 1
        assert kube.tokens[-1] == "Bearer from a file"


async def test_a_context_has_a_namespace_of_its_own(tmp_path: Path) -> None:
    other = {"name": "other", "context": {"cluster": "here"}}
    path = write(tmp_path, contexts=[*context_of(namespace="pools"), other])
    for context, given, expected in [
        (None, None, "pools"),
        ("other", None, "default"),
        (None, "mine", "mine"),
    ]:
        access = Access(Options(service=SERVICE, kubeconfig=path, context=context, namespace=given))
        await access.connection()
        assert access.namespace == expected
        await access.close()


async def test_passwords_and_tokens(tmp_path: Path) -> None:
    for user, expected in [
        ({"token": "abc"}, "Bearer abc"),
        ({"username": "me", "password": "pw"}, "Basic bWU6cHc="),
        ({}, None),
    ]:
        access = Access(Options(service=SERVICE, kubeconfig=write(tmp_path, users=user_of(**user))))
        connection = await access.connection()
        assert connection.headers.get("Authorization") == expected
        assert "abc" not in repr(connection)
        await access.close()


async def test_client_certificates_and_nothing_of_them_left(
    tmp_path: Path, ca: trustme.CA, server_tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    server_tls.verify_mode = ssl.CERT_REQUIRED
    ca.configure_trust(server_tls)
    mine = ca.issue_cert("me@example.com")

    def encoded(*blobs: trustme.Blob) -> str:
        return base64.b64encode(b"".join(blob.bytes() for blob in blobs)).decode()

    user = {
        "client-certificate-data": encoded(*mine.cert_chain_pems),
        "client-key-data": encoded(mine.private_key_pem),
    }
    trust: dict[str, Any] = {"certificate-authority-data": encoded(ca.cert_pem)}
    kube = KubeApi()
    async with serving(kube, tls=server_tls) as url:
        path = kubes.kubeconfig(tmp_path, url, user=user, **trust)
        assert (await ask(kubeconfig=str(path))).complete
        assert list(scratch.iterdir()) == []
        path = kubes.kubeconfig(tmp_path, url, **trust)
        with monkeypatch.context() as patch:
            patch.setattr(discovery, "FIRST_LIST", 1.0)
            error = await error_of(kubeconfig=str(path))
        assert error == "list endpointslices: the API server broke the connection off"
        path = kubes.kubeconfig(
            tmp_path, url, user=user, **{**trust, "insecure-skip-tls-verify": True}
        )
        assert (await ask(kubeconfig=str(path))).complete


async def test_a_server_name_of_ones_own(
    tmp_path: Path, ca: trustme.CA, server_tls: ssl.SSLContext
) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("api.example.com").configure_cert(context)
    trust: dict[str, Any] = {
        "certificate-authority-data": base64.b64encode(ca.cert_pem.bytes()).decode()
    }
    async with serving(KubeApi(), tls=context) as url:
        path = kubes.kubeconfig(tmp_path, url, **trust)
        assert "its certificate is not trusted" in await error_of(kubeconfig=str(path))
        trust["tls-server-name"] = "api.example.com"
        path = kubes.kubeconfig(tmp_path, url, **trust)
        assert (await ask(kubeconfig=str(path))).complete


@pytest.mark.parametrize(
    ("server", "environment", "proxy"),
    [
        ("https://k8s.example", {"HTTPS_PROXY": "http://p:1"}, "http://p:1"),
        ("http://k8s.example", {"HTTPS_PROXY": "http://p:1"}, None),
        ("https://k8s.example", {"HTTPS_PROXY": "http://p:1", "NO_PROXY": ".example"}, None),
        ("https://127.0.0.1:6443", {"HTTPS_PROXY": "http://p:1"}, None),
        ("https://localhost:6443", {"HTTPS_PROXY": "http://p:1"}, None),
    ],
)
async def test_proxies_are_used_as_kubectl_does(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    server: str,
    environment: dict[str, str],
    proxy: str | None,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    cases: list[tuple[dict[str, Any], str | None]] = [
        ({}, proxy),
        ({"proxy-url": "http://own:2"}, "http://own:2"),
    ]
    for own, expected in cases:
        path = str(kubes.kubeconfig(tmp_path, server, None, **own))
        access = Access(Options(service=SERVICE, kubeconfig=path))
        assert (await access.connection()).client.proxy == expected
        await access.close()


# -- exec plugins --------------------------------------------------------------------------------


def plugin(folder: Path, script: str) -> dict[str, Any]:
    """An exec plugin that is a shell script."""
    path = folder / "plugin"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    api_version = "client.authentication.k8s.io/v1"
    return {"exec": {"apiVersion": api_version, "command": str(path), "args": ["token"]}}


def says(status: dict[str, Any]) -> str:
    return f"echo '{json.dumps({'kind': 'ExecCredential', 'status': status})}'"


async def test_a_plugin_is_run_again_when_its_token_expires_or_is_refused(tmp_path: Path) -> None:
    count = tmp_path / "count"
    expires = (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    status = says({"token": "TOKEN", "expirationTimestamp": expires})
    script = f'[ "$1" = token ] || exit 9\necho x >> {count}\n' + status.replace(
        "TOKEN", f"'$(wc -l < {count})'"
    )
    path = str(kubes.kubeconfig(tmp_path, "http://127.0.0.1:1", user=plugin(tmp_path, script)))
    now = time.time()
    access = Access(Options(service=SERVICE, kubeconfig=path), lambda: now)

    async def token(refused: bool = False) -> str:
        return (await access.connection(refused)).headers["Authorization"]

    assert await token() == "Bearer 1"
    assert await token() == "Bearer 1"
    assert await token(refused=True) == "Bearer 2"
    assert await token() == "Bearer 2"
    now += 3600
    assert await token() == "Bearer 3"
    await access.close()


async def test_a_plugin_may_give_a_certificate(tmp_path: Path, ca: trustme.CA) -> None:
    mine = ca.issue_cert("me@example.com")
    status = {
        "clientCertificateData": mine.cert_chain_pems[0].bytes().decode(),
        "clientKeyData": mine.private_key_pem.bytes().decode(),
    }
    (tmp_path / "answer").write_text(json.dumps({"status": status}))
    user = plugin(tmp_path, f"cat {tmp_path / 'answer'}")
    path = str(kubes.kubeconfig(tmp_path, "https://127.0.0.1:1", user=user))
    access = Access(Options(service=SERVICE, kubeconfig=path))
    assert (await access.connection()).client.ssl_context is not None
    await access.close()


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo no licence >&2; exit 3", "exit code 3: no licence"),
        ("echo nonsense", "answers with no ExecCredential: JSONDecodeError"),
        ("echo '{}'", "answers with no ExecCredential: KeyError: 'status'"),
        (says({}), "gives neither a token nor a certificate with its key"),
        (says({"clientCertificateData": "x"}), "gives neither a token nor a certificate"),
        ("sleep 60", "no answer within 0.2 s"),
    ],
)
async def test_a_plugin_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, said: str
) -> None:
    if "sleep" in script:
        monkeypatch.setattr(kubeconfig, "EXEC_TIMEOUT", 0.2)
    path = kubes.kubeconfig(tmp_path, "http://127.0.0.1:1", user=plugin(tmp_path, script))
    error = await error_of(kubeconfig=str(path))
    assert error.startswith(f"kubeconfig {path}, context test: exec plugin {tmp_path / 'plugin'}: ")
    assert said in error


async def test_a_plugin_that_is_not_installed(tmp_path: Path) -> None:
    user = {"exec": {"command": "/gone/aws", "installHint": "install the AWS CLI"}}
    error = await error_of(kubeconfig=str(kubes.kubeconfig(tmp_path, "http://x", user=user)))
    assert "exec plugin /gone/aws: No such file or directory (install the AWS CLI)" in error
