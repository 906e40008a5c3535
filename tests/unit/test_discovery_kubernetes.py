"""The discovery `kubernetes` against a server on kmock: what it answers, and what it asks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gc_bootstrap.discovery.kubernetes import KubernetesDiscovery, api, discovery, reflector
from gc_bootstrap.errors import DiscoveryError
from gc_bootstrap.peer import Peer, Snapshot
from gc_bootstrap.testing import DiscoveryContract
from tests.kube import (
    NAMESPACE,
    SERVICE,
    KubeApi,
    answers,
    endpoint,
    endpoint_slice,
    endpoints_object,
    fixture,
    hangs,
    kubeconfig,
    pod,
    serving,
    status,
)
from tests.unit.helpers import eventually

A, B, C = (Peer(f"10.0.0.{n}", 8791) for n in (1, 2, 3))


@pytest.fixture
async def kube() -> KubeApi:
    return KubeApi()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deadlines and backoffs of tests, not of people."""
    for module, name, seconds in [
        (reflector, "BACKOFF", 0.02),
        (reflector, "BACKOFF_MOST", 0.1),
        (reflector, "BACKOFF_LASTING", 0.1),
        (api, "SILENCE", 30.0),
        (discovery, "FIRST_LIST", 2.0),
    ]:
        monkeypatch.setattr(module, name, seconds)


@asynccontextmanager
async def following(kube: KubeApi, folder: Path, **options: Any) -> AsyncIterator[Any]:
    """A started discovery on a server that is up."""
    async with serving(kube) as url:
        options = {"service": SERVICE, **options}
        found = KubernetesDiscovery(kubeconfig=str(kubeconfig(folder, url)), **options)
        try:
            await found.start()
            yield found
        finally:
            await found.close()


async def becomes(found: KubernetesDiscovery, wanted: Callable[[Snapshot], bool]) -> Snapshot:
    """Wait for an answer through hints alone, as a pool does."""
    async with asyncio.timeout(10):
        while not wanted(snapshot := await found.peers()):
            await found.changed()
        return snapshot


def watching(kube: KubeApi) -> Callable[[], object]:
    return lambda: kube.watchers


class TestContract(DiscoveryContract):
    @pytest.fixture(autouse=True)
    async def _server(self, kube: KubeApi, tmp_path: Path) -> AsyncIterator[None]:
        self.kube, self.folder = kube, tmp_path
        async with serving(kube) as self.url:
            yield

    def _discovery(self) -> KubernetesDiscovery:
        return KubernetesDiscovery(SERVICE, kubeconfig=str(kubeconfig(self.folder, self.url)))

    async def discovery_of(self, peers: frozenset[Peer]) -> KubernetesDiscovery:
        for peer in peers:
            made = endpoint_slice(f"cpu-{peer.port}", [endpoint(peer.host)], {"agent": peer.port})
            self.kube.apply("endpointslices", made)
        return self._discovery()

    async def discovery_that_cannot_know(self) -> KubernetesDiscovery:
        self.kube.for_ever["list"] = answers(403, fixture("error-403.json"))
        return self._discovery()


async def test_every_change_is_hinted_and_nothing_is_polled(kube: KubeApi, tmp_path: Path) -> None:
    kube.apply("endpointslices", endpoint_slice("cpu-a", [endpoint("10.0.0.1", "cpu-0")]))
    async with following(kube, tmp_path) as found:
        assert (await found.peers()).peers == {A}
        await eventually(watching(kube))
        kube.apply("endpointslices", endpoint_slice("cpu-b", [endpoint("10.0.0.2", "cpu-1")]))
        await becomes(found, lambda s: s.peers == {A, B} and not s.leaving)
        going = endpoint("10.0.0.1", "cpu-0", ready=False, serving=True, terminating=True)
        kube.apply("endpointslices", endpoint_slice("cpu-a", [going]))
        await becomes(found, lambda s: s.leaving == {A})
        kube.remove("endpointslices", "cpu-a")
        snapshot = await becomes(found, lambda s: s.peers == {B})
        assert snapshot.complete
        assert snapshot.labels == {B: {"pod": "cpu-1"}}
        for _ in range(20):
            await found.peers()
        assert kube.asked == [("list", "endpointslices"), ("watch", "endpointslices")]


async def test_what_changes_no_answer_is_not_hinted(kube: KubeApi, tmp_path: Path) -> None:
    kube.apply("endpointslices", endpoint_slice("cpu-a", [endpoint("10.0.0.1")]))
    async with following(kube, tmp_path) as found:
        await found.peers()
        await eventually(watching(kube))
        kube.apply("endpointslices", endpoint_slice("cpu-a", [endpoint("10.0.0.1", zone="b")]))
        kube.apply("endpointslices", endpoint_slice("other-a", [endpoint("10.0.0.9")], service="x"))
        kube.apply("endpointslices", endpoint_slice("cpu-b", [endpoint("10.0.0.2")]))
        kube.remove("endpointslices", "cpu-b")
        kube.bookmark()
        await eventually(lambda: found._reflector._follower.version == str(kube.version))
        hint = asyncio.ensure_future(found.changed())
        await asyncio.sleep(0.05)
        assert not hint.done()
        hint.cancel()
        assert (await found.peers()).labels[A] == {"zone": "b"}


async def test_a_list_comes_in_pages(
    kube: KubeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = {Peer(f"10.0.{n}.1", 8791) for n in range(120)}
    for n in range(120):
        kube.apply("endpointslices", endpoint_slice(f"cpu-{n:03}", [endpoint(f"10.0.{n}.1")]))
    async with following(kube, tmp_path) as found:
        assert (await found.peers()).peers == many
        assert kube.asked.count(("list", "endpointslices")) == 3


async def test_a_page_that_expired_is_no_error(kube: KubeApi, tmp_path: Path) -> None:
    for n in range(60):
        kube.apply("endpointslices", endpoint_slice(f"cpu-{n:03}", [endpoint(f"10.0.{n}.1")]))
    kube.answers["list"].append(lambda request: None)  # the first page as it is; then it expires

    def expire(request: object) -> None:
        kube.compact()

    kube.answers["list"].append(expire)
    async with following(kube, tmp_path) as found:
        snapshot = await found.peers()
        assert len(snapshot.peers) == 60
        assert snapshot.complete


@pytest.mark.parametrize("how", ["in the watch", "as the answer"])
async def test_a_version_that_is_gone_is_listed_anew_at_once(
    kube: KubeApi, tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    kube.apply("endpointslices", endpoint_slice("cpu-a", [endpoint("10.0.0.1")]))
    if how == "as the answer":
        kube.answers["watch"].append(answers(410, status(410, "Expired", "too old")))
    else:

        def forget(request: object) -> None:
            kube.apply("endpointslices", endpoint_slice("cpu-b", [endpoint("10.0.0.2")]))
            kube.compact()

        kube.answers["watch"].append(forget)
    async with following(kube, tmp_path) as found:
        await eventually(lambda: kube.asked.count(("watch", "endpointslices")) == 2)
        assert (await found.peers()).complete
        if how == "in the watch":
            await becomes(found, lambda s: s.peers == {A, B})
        assert kube.asked.count(("list", "endpointslices")) == 2
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


async def test_a_watch_that_ends_in_good_order_goes_on_where_it_was(
    kube: KubeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reflector, "SHORT", 0.0)
    async with following(kube, tmp_path) as found:
        await found.peers()
        await eventually(watching(kube))
        kube.watchers[0].mute = True  # what happens now is in the history only
        kube.apply("endpointslices", endpoint_slice("cpu-a", [endpoint("10.0.0.1")]))
        kube.watchers[0].end()
        snapshot = await becomes(found, lambda s: s.peers == {A})
        assert snapshot.complete
        assert kube.asked.count(("list", "endpointslices")) == 1


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
    kube: KubeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that is half closed, or a proxy that keeps what it should pass on."""
    monkeypatch.setattr(api, "SILENCE", 0.3)
    async with following(kube, tmp_path) as found:
        assert (await found.peers()).peers == frozenset()
        await eventually(watching(kube))
        kube.watchers[0].mute = True
        kube.apply("endpointslices", endpoint_slice("cpu-a", [endpoint("10.0.0.1")]))
        assert (await becomes(found, lambda s: s.peers == {A})).complete


async def test_bookmarks_keep_a_quiet_watch_alive_and_move_it_on(
    kube: KubeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "SILENCE", 1.0)
    async with following(kube, tmp_path) as found:
        await found.peers()
        await eventually(watching(kube))
        for _ in range(15):
            await asyncio.sleep(0.1)
            kube.version += 1  # something else in the cluster has changed
            kube.bookmark()
        kube.compact()  # without the bookmarks, the version would be too old now
        kube.watchers[0].end()
        await eventually(lambda: kube.asked.count(("watch", "endpointslices")) == 2)
        assert kube.asked.count(("list", "endpointslices")) == 1


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
            " system:serviceaccount:pools:nobody; its Role lacks the rule"
            ' {apiGroups: ["discovery.k8s.io"], resources: [endpointslices], verbs: [list, watch]}'
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


async def test_a_server_without_slices_is_asked_for_endpoints(
    kube: KubeApi, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    kube.served.discard("endpointslices")
    kube.apply("endpoints", endpoints_object({"10.0.0.1": "cpu-0"}, 8791))
    async with following(kube, tmp_path) as found:
        assert (await found.peers()).peers == {A}
        await eventually(watching(kube))
        kube.apply("endpoints", endpoints_object({"10.0.0.1": "cpu-0", "10.0.0.2": "cpu-1"}, 8791))
        await becomes(found, lambda s: s.peers == {A, B})
    assert "Endpoints are taken instead" in caplog.text


async def test_nothing_served_at_all_is_an_error(kube: KubeApi, tmp_path: Path) -> None:
    kube.served.clear()
    async with following(kube, tmp_path) as found:
        with pytest.raises(DiscoveryError, match="list endpoints in namespace pools: HTTP 404"):
            await found.peers()


async def test_pods_follow_their_labels(kube: KubeApi, tmp_path: Path) -> None:
    kube.apply("pods", pod("cpu-0", "10.0.0.1"))
    kube.apply("pods", pod("db-0", "10.0.0.9", labels={"app": "db"}))
    options = {"resource": "pods", "selector": "app=cpu", "service": None}
    async with following(kube, tmp_path, **options) as found:
        assert (await found.peers()).peers == {A}
        await eventually(watching(kube))
        kube.apply("pods", pod("cpu-1", "10.0.0.2", ready=False))
        kube.apply("pods", pod("cpu-2", "10.0.0.3"))
        await becomes(found, lambda s: s.peers == {A, C})
        kube.apply("pods", pod("cpu-0", "10.0.0.1", deletionTimestamp="2026-11-23T02:17:33Z"))
        await becomes(found, lambda s: s.leaving == {A})
        kube.remove("pods", "cpu-0")
        await becomes(found, lambda s: s.peers == {C})


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
    monkeypatch.setattr(discovery, "FIRST_LIST", 0.3)
    config = str(kubeconfig(tmp_path, "http://127.0.0.1:1"))
    found = KubernetesDiscovery(SERVICE, kubeconfig=config)
    await found.start()
    try:
        with pytest.raises(
            DiscoveryError, match=r"127.0.0.1:1 is not reachable: Connection refused"
        ):
            await found.peers()
    finally:
        await found.close()


async def test_an_unknown_service_is_really_no_peers(kube: KubeApi, tmp_path: Path) -> None:
    async with following(kube, tmp_path, service="absent") as found:
        snapshot = await found.peers()
        assert snapshot == Snapshot(frozenset())


async def test_a_service_without_the_port_is_an_error_and_not_an_empty_answer(
    kube: KubeApi, tmp_path: Path
) -> None:
    kube.apply("endpointslices", endpoint_slice("cpu-a", [endpoint("10.0.0.1")], {"http": 80}))
    async with following(kube, tmp_path) as found:
        with pytest.raises(DiscoveryError) as caught:
            await found.peers()
        assert str(caught.value) == (
            "EndpointSlice cpu-a: no port is named 'agent'; there are: http 80; set port"
        )
        kube.apply("endpointslices", endpoint_slice("cpu-b", [endpoint("10.0.0.2")]))
        await found.changed()
        assert await found.peers() == Snapshot(frozenset({B}), complete=False)


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


async def test_its_name_says_what_it_watches(kube: KubeApi, tmp_path: Path) -> None:
    async with following(kube, tmp_path) as found:
        await found.peers()
        assert repr(found) == f"kubernetes endpointslices {NAMESPACE}/{SERVICE}"
