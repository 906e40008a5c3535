"""The discovery `kubernetes` against a server on kmock: what it answers, and what it asks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gc_bootstrap.discovery.kubernetes import KubernetesDiscovery, api, reflector
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
    kubeconfig,
    pod,
    serving,
    status,
)
from tests.unit.helpers import eventually
from tests.unit.kubernetes_helpers import A, B, C, becomes, following, make_quick, watching


@pytest.fixture
async def kube() -> KubeApi:
    return KubeApi()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    make_quick(monkeypatch)


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

    async def discovery_that_knows_a_part(self) -> KubernetesDiscovery:
        self.kube.apply("endpointslices", endpoint_slice("other", [endpoint("10.0.0.1")], {"x": 1}))
        return await self.discovery_of(self.some)


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
        snapshot = await found.peers()
        assert snapshot == Snapshot(frozenset({B}), complete=False)
        assert snapshot.reason == str(caught.value)


async def test_its_name_says_what_it_watches(kube: KubeApi, tmp_path: Path) -> None:
    async with following(kube, tmp_path) as found:
        await found.peers()
        assert repr(found) == f"kubernetes endpointslices {NAMESPACE}/{SERVICE}"
