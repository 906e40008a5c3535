"""The discovery `kubernetes` while the API server fails, refuses, hangs or talks nonsense."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from gc_bootstrap.discovery.kubernetes import KubernetesDiscovery, api, discovery, reflector
from gc_bootstrap.errors import DiscoveryError
from gc_bootstrap.peer import Snapshot
from tests.kube import (
    SERVICE,
    KubeApi,
    answers,
    endpoint,
    endpoint_slice,
    fixture,
    hangs,
    kubeconfig,
    status,
)
from tests.unit.helpers import eventually
from tests.unit.kubernetes_helpers import A, B, becomes, following, make_quick, watching


@pytest.fixture
async def kube() -> KubeApi:
    return KubeApi()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    make_quick(monkeypatch)


async def test_a_watch_that_ends_at_once_again_and_again_is_not_hammered(
    kube: KubeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reflector, "BACKOFF", 5.0)
    monkeypatch.setattr(reflector, "BACKOFF_MOST", 5.0)
    kube.for_ever["watch"] = answers(200)
    async with following(kube, tmp_path) as found:
        await becomes(found, lambda s: not s.complete)
        await asyncio.sleep(0.2)
        assert len(kube.asked) == 2


@pytest.mark.parametrize("garbage", ["nonsense\n", '{"type": "ADDED"}\n', "[1]\n", '"x"\n'])
async def test_a_watch_that_makes_no_sense_is_a_gap(
    kube: KubeApi, tmp_path: Path, garbage: str
) -> None:
    kube.apply("endpointslices", endpoint_slice("cpu-a", [endpoint("10.0.0.1")]))
    kube.answers["watch"].append(answers(200, garbage))
    async with following(kube, tmp_path) as found:
        await becomes(found, lambda s: not s.complete and s.peers == {A})
        await becomes(found, lambda s: s.complete)
        assert kube.asked.count(("list", "endpointslices")) == 2


async def test_a_silent_watch_is_not_trusted(
    kube: KubeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A connection that is half closed, or a proxy that keeps what it should pass on."""
    monkeypatch.setattr(api, "SILENCE", 0.3)
    async with following(kube, tmp_path) as found:
        assert (await found.peers()).peers == frozenset()
        await eventually(watching(kube))
        kube.watchers[0].mute = True
        kube.apply("endpointslices", endpoint_slice("cpu-a", [endpoint("10.0.0.1")]))
        assert (await becomes(found, lambda s: s.peers == {A})).complete
    assert "the watch has been silent while endpointslices changed" in caplog.text


async def test_a_broken_watch_serves_the_last_answer_as_incomplete(
    kube: KubeApi, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kube.apply("endpointslices", endpoint_slice("cpu-a", [endpoint("10.0.0.1")]))
    async with following(kube, tmp_path) as found:
        assert (await found.peers()).complete
        await eventually(watching(kube))
        kube.for_ever["list"] = answers(500, status(500, "InternalError", "etcd has no leader"))
        kube.for_ever["watch"] = kube.for_ever["list"]
        kube.watchers[0].break_off()
        snapshot = await becomes(found, lambda s: not s.complete)
        assert snapshot.peers == {A}
        await becomes(found, lambda s: "HTTP 500: etcd has no leader" in s.reason)
        tries = len(kube.asked)
        await eventually(lambda: len(kube.asked) > tries + 2)
        (said,) = [r.message for r in caplog.records if "etcd has no leader" in r.message]
        assert said == (
            "Kubernetes API: list endpointslices in namespace pools: HTTP 500: etcd has no leader;"
            " the last answer serves, as incomplete"
        )
        kube.apply("endpointslices", endpoint_slice("cpu-a", [endpoint("10.0.0.2")]))
        kube.for_ever.clear()
        assert (await becomes(found, lambda s: s.complete)).peers == {B}


@pytest.mark.parametrize("code", [429, 500, 503])
async def test_the_server_says_when_to_come_back(
    kube: KubeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    monkeypatch.setattr(reflector, "BACKOFF", 60.0)
    monkeypatch.setattr(reflector, "BACKOFF_MOST", 60.0)
    kube.apply("endpointslices", endpoint_slice("cpu-a", [endpoint("10.0.0.1")]))
    kube.answers["list"].append(answers(code, "wait", Retry_After="0"))
    async with following(kube, tmp_path) as found:
        # Not an error for one who asks once: the first answer waits for it.
        assert await found.peers() == Snapshot(frozenset({A}))


async def test_a_missing_right_is_said_with_the_rule(kube: KubeApi, tmp_path: Path) -> None:
    kube.for_ever["list"] = answers(403, fixture("error-403.json"))
    async with following(kube, tmp_path) as found:
        with pytest.raises(DiscoveryError) as caught:
            await found.peers()
        assert str(caught.value) == (
            "list endpointslices in namespace pools: 403 Forbidden for"
            " system:serviceaccount:pools:nobody; there is no Role or RoleBinding that gives it the"
            ' rule {apiGroups: ["discovery.k8s.io"], resources: [endpointslices],'
            " verbs: [list, watch]}"
        )
        kube.for_ever.clear()  # somebody has given the right
        await found.changed()
        assert (await found.peers()).complete


async def test_a_role_without_watch_is_said_and_not_hammered(
    kube: KubeApi, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reflector, "BACKOFF", 0.3)
    monkeypatch.setattr(reflector, "BACKOFF_LASTING", 0.3)
    kube.apply("endpointslices", endpoint_slice("cpu-a", [endpoint("10.0.0.1")]))
    forbidden = fixture("error-403.json")
    forbidden["message"] = forbidden["message"].replace("cannot list", "cannot watch")
    kube.for_ever["watch"] = answers(403, forbidden)
    async with following(kube, tmp_path) as found:
        assert (await becomes(found, lambda s: not s.complete)).peers == {A}
        kube.apply("endpointslices", endpoint_slice("cpu-b", [endpoint("10.0.0.2")]))
        assert not (await becomes(found, lambda s: s.peers == {A, B})).complete
        await eventually(lambda: kube.asked.count(("watch", "endpointslices")) == 3)
    said = [r.message for r in caplog.records if r.levelno == logging.WARNING]
    assert len(said) == 1
    assert said[0].startswith("Kubernetes API: watch endpointslices in namespace pools: 403")


async def test_an_answer_that_has_got_old_says_what_keeps_it_so(
    kube: KubeApi, tmp_path: Path
) -> None:
    """An outage, and then a right that is gone: each is told without waiting for a refresh."""
    kube.apply("endpointslices", endpoint_slice("cpu-a", [endpoint("10.0.0.1")]))
    async with following(kube, tmp_path) as found:
        assert (await found.peers()).complete
        await eventually(watching(kube))
        kube.for_ever["list"] = kube.for_ever["watch"] = answers(503, "no servers")
        kube.watchers[0].break_off()
        await becomes(found, lambda s: "HTTP 503: no servers" in s.reason)
        forbidden = fixture("error-403.json")
        kube.for_ever["list"] = kube.for_ever["watch"] = answers(403, forbidden)
        snapshot = await becomes(found, lambda s: "no Role or RoleBinding" in s.reason)
        assert snapshot.peers == {A}
        assert not snapshot.complete
        kube.for_ever["list"] = kube.for_ever["watch"] = answers(401, fixture("error-401.json"))
        await becomes(found, lambda s: "401 Unauthorized" in s.reason)
        kube.for_ever.clear()
        assert (await becomes(found, lambda s: s.complete)).reason == ""


async def test_credentials_that_are_refused_twice_are_an_error(
    kube: KubeApi, tmp_path: Path
) -> None:
    kube.for_ever["list"] = answers(401, fixture("error-401.json"))
    async with following(kube, tmp_path) as found:
        with pytest.raises(
            DiscoveryError, match="list endpointslices in namespace pools: 401"
        ) as e:
            await found.peers()
        assert str(tmp_path / "kubeconfig") in str(e.value)
        assert "verbs: [list, watch]" in str(e.value)


async def test_nothing_served_at_all_is_an_error(kube: KubeApi, tmp_path: Path) -> None:
    kube.served.clear()
    async with following(kube, tmp_path) as found:
        with pytest.raises(DiscoveryError, match="list endpoints in namespace pools: HTTP 404"):
            await found.peers()


async def test_a_server_that_hangs_is_noticed(
    kube: KubeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery, "FIRST_LIST", 0.2)
    monkeypatch.setattr(api, "LIST_TIMEOUT", 0.3)
    kube.for_ever["list"] = hangs
    async with following(kube, tmp_path) as found:
        with pytest.raises(DiscoveryError, match=r"no list from the API server within 0.2 s"):
            await found.peers()
        await eventually(lambda: found._reflector.error is not None)
        with pytest.raises(DiscoveryError, match=r"list endpointslices: no answer within 0.3 s"):
            await found.peers()


async def test_a_watch_that_never_begins_is_noticed(
    kube: KubeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "WATCH_TIMEOUT", 0.2)
    kube.answers["watch"].append(hangs)
    async with following(kube, tmp_path) as found:
        await becomes(found, lambda s: not s.complete)
        await becomes(found, lambda s: s.complete)


async def test_nobody_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = str(kubeconfig(tmp_path, "http://127.0.0.1:1"))
    found = KubernetesDiscovery(SERVICE, kubeconfig=config)
    await found.start()
    try:
        await eventually(lambda: found._reflector.error)
        monkeypatch.setattr(discovery, "FIRST_LIST", 0.1)
        with pytest.raises(
            DiscoveryError, match=r"127.0.0.1:1 is not reachable: Connection refused"
        ):
            await found.peers()
    finally:
        await found.close()


async def test_a_bug_is_logged_and_survived(
    kube: KubeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with following(kube, tmp_path) as found:
        await found.peers()
        with monkeypatch.context() as patch:
            patch.setattr(found._reflector._follower, "event", lambda event: 1 / 0)
            await eventually(watching(kube))
            kube.bookmark()
            await becomes(found, lambda s: not s.complete)
        await becomes(found, lambda s: s.complete)
    assert "ZeroDivisionError" in caplog.text
