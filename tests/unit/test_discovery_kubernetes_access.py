"""Credentials of a pod, and what an API server says of them."""

from __future__ import annotations

import json
import ssl
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trustme
from aiohttp import web

from gc_bootstrap.discovery.kubernetes import (
    KubernetesDiscovery,
    credentials,
)
from gc_bootstrap.discovery.kubernetes.api import ApiError, GoneError, failure, retry_after
from gc_bootstrap.discovery.kubernetes.credentials import Access
from gc_bootstrap.discovery.kubernetes.options import Options
from gc_bootstrap.discovery.kubernetes.resources import RESOURCES
from tests.kube import NAMESPACE, SERVICE, KubeApi, endpoint, endpoint_slice, fixture, serving
from tests.unit.helpers import eventually
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


class Pod:
    """The folder that a kubelet mounts into a pod, and its environment."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder / "serviceaccount"
        self._monkeypatch = monkeypatch

    def enter(self, url: str, token: str, ca: trustme.CA) -> None:
        self.folder.mkdir(exist_ok=True)
        (self.folder / "token").write_text(token + "\n")
        (self.folder / "namespace").write_text(NAMESPACE)
        ca.cert_pem.write_to_path(str(self.folder / "ca.crt"))
        host, port = url.removeprefix("https://").split(":")
        self._monkeypatch.setattr(credentials, "SERVICE_ACCOUNT", self.folder)
        self._monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
        self._monkeypatch.setenv("KUBERNETES_SERVICE_PORT", port)


@pytest.fixture
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pod:
    return Pod(tmp_path, monkeypatch)


# -- in a pod ------------------------------------------------------------------------------------


async def test_a_pod_needs_no_configuration(
    inside: Pod, ca: trustme.CA, server_tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    kube = KubeApi()
    kube.apply("endpointslices", endpoint_slice("a", [endpoint("10.0.0.1")]))
    async with serving(kube, tls=server_tls) as url:
        inside.enter(url, "first", ca)
        # An environment made for the world outside leads nowhere near the API's own address.
        monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
        assert len((await ask()).peers) == 1
        assert set(kube.tokens) == {"Bearer first"}


async def test_a_rotated_token_is_read_anew(
    inside: Pod, ca: trustme.CA, server_tls: ssl.SSLContext
) -> None:
    kube = KubeApi()
    good = {"Bearer first"}

    def checks(request: web.BaseRequest) -> web.Response | None:
        accepted = request.headers["Authorization"] in good
        return None if accepted else web.json_response(fixture("error-401.json"), status=401)

    kube.for_ever = {"list": checks, "watch": checks}
    async with serving(kube, tls=server_tls) as url:
        inside.enter(url, "first", ca)
        found = KubernetesDiscovery(SERVICE)
        await found.start()
        try:
            assert (await found.peers()).complete
            await eventually(lambda: kube.watchers)
            # The old one is refused from now on; the kubelet has put a new one in its place.
            good.clear()
            good.add("Bearer second")
            (inside.folder / "token").write_text("second")
            kube.watchers[0].send(
                {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "100"}}}
            )
            kube.watchers[0].end()
            await eventually(lambda: kube.tokens[-1] == "Bearer second")
            await eventually(lambda: kube.watchers)
            assert (await found.peers()).complete
        finally:
            await found.close()


async def test_a_token_that_is_replaced_while_it_is_refused_is_no_error(
    inside: Pod, ca: trustme.CA, server_tls: ssl.SSLContext
) -> None:
    kube = KubeApi()
    async with serving(kube, tls=server_tls) as url:
        inside.enter(url, "first", ca)

        def refuses_and_rotates(request: web.BaseRequest) -> web.Response:
            (inside.folder / "token").write_text("second")
            return web.json_response(fixture("error-401.json"), status=401)

        kube.answers["list"].append(refuses_and_rotates)
        assert (await ask()).complete
        assert kube.tokens[:2] == ["Bearer first", "Bearer second"]


async def test_a_new_ca_is_read_anew(
    inside: Pod, server_tls: ssl.SSLContext, ca: trustme.CA
) -> None:
    kube = KubeApi()
    async with serving(kube, tls=server_tls) as url:
        inside.enter(url, "token", trustme.CA())
        assert "its certificate is not trusted" in await error_of()
        access = Access(Options(service=SERVICE))
        try:
            before = await access.connection()
            assert (await access.connection()).client is before.client
            inside.enter(url, "token", ca)
            assert (await access.connection()).client is not before.client
            assert access.namespace == NAMESPACE
        finally:
            await access.close()


async def test_a_pod_without_a_part_of_its_account(
    inside: Pod, ca: trustme.CA, tmp_path: Path
) -> None:
    inside.enter("https://127.0.0.1:1", "token", ca)
    (inside.folder / "token").write_text("")
    assert await error_of() == f"service account: {inside.folder / 'token'} is empty"
    (inside.folder / "token").write_text("x")
    (inside.folder / "ca.crt").unlink()
    assert await error_of() == (
        f"service account: {inside.folder / 'ca.crt'}: No such file or directory"
    )
    (inside.folder / "ca.crt").write_text("nonsense")
    assert "the CA or the client certificate cannot be used" in await error_of()


@pytest.mark.parametrize(("host", "family"), [("10.0.0.1", "ipv4"), ("fd00::1", "ipv6")])
def test_the_usual_family_is_that_of_the_apis_own_service(
    host: str, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    access = Access(Options(service=SERVICE))
    assert access.usual_family == "ipv4"
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
    assert access.usual_family == family


# -- what servers say ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "headers", "lasting", "seconds"),
    [
        (400, {}, True, None),
        (401, {}, True, None),
        (403, {}, True, None),
        (404, {}, True, None),
        (429, {"Retry-After": "7"}, False, 7.0),
        (500, {}, False, None),
        (503, {"Retry-After": "nonsense"}, False, None),
        (418, {}, True, None),
    ],
)
def test_which_errors_last(
    status: int, headers: dict[str, str], lasting: bool, seconds: float | None
) -> None:
    error = failure(
        status,
        headers,
        b"<html>\n\n<b>oh no</b>",
        verb="list",
        resource=RESOURCES["pods"],
        namespace="pools",
        source="kubeconfig k",
    )
    assert error.lasting is lasting
    assert error.retry_after == seconds
    assert str(error).startswith(
        f"list pods in namespace pools: {'' if status < 404 and status > 400 else 'HTTP '}{status}"
    )
    assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("0", 0.0),
        (" 120 ", 120.0),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("Mon, 23 Nov 2026 12:00:30 GMT", 30.0),
        ("Mon, 23 Nov 2026 11:00:00 GMT", 0.0),
    ],
)
def test_retry_after(header: str | None, seconds: float | None) -> None:
    assert retry_after(header, datetime(2026, 11, 23, 12, tzinfo=UTC)) == seconds


def test_a_status_may_say_when_to_come_back() -> None:
    body = {"message": "the server is\ncurrently unable", "details": {"retryAfterSeconds": 3}}

    def error(headers: dict[str, str]) -> ApiError:
        return failure(
            503,
            headers,
            json.dumps(body).encode(),
            verb="list",
            resource=RESOURCES["pods"],
            namespace="pools",
            source="kubeconfig k",
        )

    assert (
        str(error({})) == "list pods in namespace pools: HTTP 503: the server is currently unable"
    )
    assert error({}).retry_after == 3.0
    assert error({"Retry-After": "9"}).retry_after == 9.0
    body["details"] = None  # type: ignore[assignment]
    assert error({}).retry_after is None


def test_a_recorded_410_is_no_lasting_error() -> None:
    error = failure(
        410,
        {},
        json.dumps(fixture("error-410-list.json")).encode(),
        verb="list",
        resource=RESOURCES["endpointslices"],
        namespace="pools",
        source="kubeconfig k",
    )
    assert isinstance(error, GoneError)
    assert "The resourceVersion for the provided list is too old." in str(error)
