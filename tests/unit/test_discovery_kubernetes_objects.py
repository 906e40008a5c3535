"""What single objects say: recorded answers of a real API server, and the API reference."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from gc_bootstrap.discovery.kubernetes.decode import read_list
from gc_bootstrap.discovery.kubernetes.objects import (
    Reading,
    is_leaving,
    read_endpoints,
    read_pod,
    read_slice,
)
from gc_bootstrap.discovery.kubernetes.options import Options
from gc_bootstrap.discovery.kubernetes.resources import RESOURCES
from gc_bootstrap.discovery.kubernetes.store import Follower, Store
from gc_bootstrap.peer import Peer, Snapshot
from tests.kube import FIXTURES, endpoint, endpoint_slice, fixture, pod

OPTIONS = Options(service="cpu", namespace="pools")
PODS = Options(resource="pods", selector="app=cpu", namespace="pools")
CPU = [Peer(f"10.200.0.{n}", 8791) for n in (1, 2, 3)]


def options(**changes: Any) -> Options:
    return Options(**{"service": "cpu", "namespace": "pools", **changes})


def listed(name: str, which: Options = OPTIONS, usual: Any = "ipv4") -> Snapshot:
    """The snapshot of a recorded list."""
    store = Store(lambda o: RESOURCES[which.resource].read(o, which), which.ip_family, usual)
    for obj in fixture(name)["items"]:
        store.put(obj)
    assert store.problems() == []
    return store.snapshot()


def hosts(reading: Reading) -> list[str]:
    assert not reading.problem
    return [str(peer) for peer in reading.entries]


# -- EndpointSlices ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recorded", "peers", "leaving"),
    [
        ("endpointslices-list-empty.json", [], []),
        ("endpointslices-list-three-ready.json", [0, 1, 2], []),
        ("endpointslices-list-one-terminating.json", [0, 1, 2], [1]),
        ("endpointslices-list-terminating-not-serving.json", [0, 1, 2], [1]),
        ("endpointslices-list-one-not-ready.json", [0, 1], [1]),
        ("endpointslices-list-publish-not-ready.json", [0, 1, 2], []),
        ("endpointslices-list-publish-not-ready-one-terminating.json", [0, 1, 2], [1]),
    ],
)
def test_recorded_slices(recorded: str, peers: list[int], leaving: list[int]) -> None:
    snapshot = listed(recorded)
    assert snapshot.peers == {CPU[i] for i in peers}
    assert snapshot.leaving == {CPU[i] for i in leaving}
    assert snapshot.complete
    if peers:
        assert snapshot.labels[CPU[0]] == {"pod": "cpu-0", "node": "node-1", "zone": "zone-a"}


def test_a_recorded_watch_ends_where_the_recorded_list_does() -> None:
    follower = Follower(
        lambda: Store(lambda obj: read_slice(obj, OPTIONS), OPTIONS.ip_family, "ipv4")
    )
    recorded = fixture("endpointslices-list-empty.json")
    follower.begin()
    for obj in recorded["items"]:
        follower.item(obj)
    assert follower.end(recorded["metadata"]["resourceVersion"])
    changes = [follower.event(event) for event in fixture("endpointslices-watch.jsonl")]
    # Not ready for three times; ready one after another; terminating (serving, then not: the same
    # to us); not ready; gone; failed; IPv6 by hand, which this family is not; FQDN; a bookmark.
    assert changes == [False] * 3 + [True] * 4 + [False, True, True, True, False, True, False]
    assert follower.version == "322"
    assert follower.store is not None
    assert follower.store.snapshot() == listed("endpointslices-list-manual.json")
    assert follower.store.snapshot().peers == {Peer("worker-1.example.com", 8791)}


def test_conditions_that_are_absent_or_null_are_as_the_api_says() -> None:
    for ready, serving, terminating in itertools.product((True, False, None), repeat=3):
        values = {"ready": ready, "serving": serving, "terminating": terminating}
        expected = True if terminating else (None if ready is False else False)
        assert is_leaving(values) is expected
        assert is_leaving({k: v for k, v in values.items() if v is not None}) is expected


def test_conditions_themselves_may_be_absent() -> None:
    bare = {"addresses": ["10.0.0.1"]}
    assert hosts(read_slice(endpoint_slice("x", [bare, {**bare, "conditions": None}]), OPTIONS))


def test_only_the_first_address_of_an_endpoint_counts() -> None:
    many = endpoint("10.0.0.1")
    many["addresses"].append("10.0.0.2")
    assert hosts(read_slice(endpoint_slice("x", [many]), OPTIONS)) == ["10.0.0.1:8791"]


@pytest.mark.parametrize(
    ("port", "found"),
    [("agent", 8791), ("metrics", 9100), (7000, 7000)],
)
def test_the_port_is_a_name_or_a_number(port: int | str, found: int) -> None:
    (obj,) = fixture("endpointslices-list-three-ready.json")["items"]
    assert {peer.port for peer in read_slice(obj, options(port=port)).entries} == {found}


def test_slices_of_one_service_may_have_different_numbers_for_a_name() -> None:
    """A named targetPort: each pod says which number it is."""
    readings = [
        read_slice(endpoint_slice("x", [endpoint("10.0.0.1")], {"agent": port}), OPTIONS)
        for port in (8791, 8792)
    ]
    assert [hosts(r) for r in readings] == [["10.0.0.1:8791"], ["10.0.0.1:8792"]]


@pytest.mark.parametrize(
    ("ports", "said"),
    [
        (None, "there are no TCP ports"),
        ([], "there are no TCP ports"),
        ([{"name": "agent", "port": 8791, "protocol": "UDP"}], "there are no TCP ports"),
        ([{"name": "agent", "port": None}], "there are: agent None"),
        ([{"name": "", "port": 80}, {"port": 81}], "there are: unnamed 80, unnamed 81"),
    ],
)
def test_a_missing_port_is_a_problem(ports: Any, said: str) -> None:
    obj = {**endpoint_slice("cpu-a", [endpoint("10.0.0.1")]), "ports": ports}
    assert read_slice(obj, OPTIONS).problem == (
        f"EndpointSlice cpu-a: no port is named 'agent'; {said}; set port"
    )
    assert hosts(read_slice(obj, options(port=8791))) == ["10.0.0.1:8791"]


def test_a_missing_port_of_nobody_is_none() -> None:
    obj = {**endpoint_slice("cpu-a", [endpoint("10.0.0.1", ready=False)]), "ports": None}
    assert read_slice(obj, OPTIONS) == Reading({}, "ipv4")


def test_an_address_that_is_none_is_a_problem_of_its_own() -> None:
    obj = endpoint_slice("cpu-a", [endpoint("10.0.0.300"), endpoint("10.0.0.1")])
    reading = read_slice(obj, OPTIONS)
    assert [str(p) for p in reading.entries] == ["10.0.0.1:8791"]
    assert reading.problem.startswith("EndpointSlice cpu-a: '10.0.0.300:8791': ")


# -- addresses -----------------------------------------------------------------------------------


def test_address_pod_dns() -> None:
    obj = endpoint_slice("x", [endpoint("1.2.3.4")])
    assert hosts(read_slice(obj, options(address="pod-dns"))) == [
        "1-2-3-4.pools.pod.cluster.local:8791"
    ]
    obj = endpoint_slice("x", [endpoint("FD00::5")], kind="IPv6")
    assert hosts(read_slice(obj, options(address="pod-dns", cluster_domain="k8s.corp"))) == [
        "fd00--5.pools.pod.k8s.corp:8791"
    ]


def test_address_hostname() -> None:
    obj = endpoint_slice("x", [endpoint("1.2.3.4", "cpu-0", hostname="cpu-0")])
    assert hosts(read_slice(obj, options(address="hostname"))) == [
        "cpu-0.cpu.pools.svc.cluster.local:8791"
    ]
    assert hosts(read_slice(obj, options(address="hostname", cluster_domain=""))) == [
        "cpu-0.cpu.pools.svc:8791"
    ]
    obj = endpoint_slice("x", [endpoint("1.2.3.4", "cpu-0")])
    assert read_slice(obj, options(address="hostname")).problem == (
        "EndpointSlice x: cpu-0 has no hostname; pods of a StatefulSet have one, others need"
        " hostname and subdomain in their spec"
    )


# -- Endpoints -----------------------------------------------------------------------------------


def test_recorded_endpoints() -> None:
    reading = read_endpoints(fixture("endpoints-three-ready.json"), OPTIONS)
    assert set(reading.entries) == set(CPU)
    assert reading.entries[CPU[1]].labels == {"pod": "cpu-1", "node": "node-2"}
    # A pod that is leaving is gone from Endpoints at once.
    reading = read_endpoints(fixture("endpoints-one-terminating.json"), OPTIONS)
    assert set(reading.entries) == {CPU[0], CPU[2]}


def test_a_recorded_watch_of_endpoints() -> None:
    numbers = [
        len(read_endpoints(event["object"], OPTIONS).entries)
        for event in fixture("endpoints-watch.jsonl")
        if event["type"] != "BOOKMARK"
    ]
    assert numbers == [0, 0, 0, 0, 1, 2, 3, 2, 1, 0]


@pytest.mark.parametrize("value", ["truncated", "warning"])
def test_endpoints_over_capacity_are_not_complete(value: str) -> None:
    obj = fixture("endpoints-three-ready.json")
    obj["metadata"]["annotations"] = {"endpoints.kubernetes.io/over-capacity": value}
    store = Store(lambda o: read_endpoints(o, OPTIONS), None, "ipv4")
    assert store.put(obj)
    assert store.snapshot() == Snapshot(frozenset(CPU), complete=False)
    assert store.problems() == ["Endpoints cpu: over 1,000, the others were left out"]
    del obj["metadata"]["annotations"]
    assert store.put(obj)
    assert store.snapshot().complete


def test_endpoints_of_both_families() -> None:
    obj = fixture("endpoints-three-ready.json")
    obj["subsets"][0]["addresses"] = [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]
    assert hosts(read_endpoints(obj, options(ip_family="ipv6"))) == ["[fd00::1]:8791"]
    assert len(hosts(read_endpoints(obj, OPTIONS))) == 2


def test_endpoints_with_several_subsets() -> None:
    obj = fixture("endpoints-three-ready.json")
    other = {"addresses": [{"ip": "10.0.0.9"}], "ports": [{"name": "agent", "port": 9000}]}
    obj["subsets"].append(other)
    assert "10.0.0.9:9000" in hosts(read_endpoints(obj, OPTIONS))
    assert len(read_endpoints(obj, OPTIONS).entries) == 4


# -- Pods ----------------------------------------------------------------------------------------


def test_recorded_pods() -> None:
    assert listed("pods-three-ready.json", PODS).peers == set(CPU)
    snapshot = listed("pods-one-terminating.json", PODS)
    assert snapshot.peers == set(CPU)
    assert snapshot.leaving == {CPU[1]}
    assert snapshot.labels[CPU[1]] == {"pod": "cpu-1", "node": "node-2", "zone": "zone-b"}


def test_a_recorded_watch_of_pods() -> None:
    follower = Follower(lambda: Store(lambda o: read_pod(o, PODS), None, "ipv4"))
    follower.begin()
    follower.end("1")
    assert follower.store is not None
    seen = []
    for event in fixture("pods-watch.jsonl"):
        if follower.event(event):
            snapshot = follower.store.snapshot()
            seen.append((len(snapshot.peers), len(snapshot.leaving)))
    assert seen == [(1, 0), (2, 0), (3, 0), (3, 1), (2, 1), (1, 0), (0, 0)]


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"phase": "Running"}, True),
        ({"phase": "Pending"}, False),
        ({"phase": "Unknown"}, False),
        ({"phase": "Succeeded"}, False),
        ({"phase": "Failed"}, False),
        ({"conditions": []}, False),
        ({"conditions": None}, False),
        ({"conditions": [{"type": "Ready", "status": "Unknown"}]}, False),
        ({"podIP": None, "podIPs": None}, False),
    ],
)
def test_which_pods_are_peers(changes: dict[str, Any], found: bool) -> None:
    obj = pod("cpu-0", "10.0.0.1")
    obj["status"].update(changes)
    assert bool(hosts(read_pod(obj, PODS))) is found


def test_a_pod_that_is_deleted_leaves_until_it_has_ended() -> None:
    obj = pod("cpu-0", "10.0.0.1", ready=False, deletionTimestamp="2026-11-23T02:17:33Z")
    (entry,) = read_pod(obj, PODS).entries.values()
    assert entry.leaving
    obj["status"]["phase"] = "Succeeded"
    assert read_pod(obj, PODS).entries == {}


def test_a_pod_of_both_families_is_one_peer() -> None:
    obj = pod("cpu-0", "10.0.0.1")
    obj["status"]["podIPs"] = [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]
    for family, host in ((None, "10.0.0.1:8791"), ("ipv6", "[fd00::1]:8791")):
        asked = Options(resource="pods", selector="app=cpu", ip_family=family)  # type: ignore[arg-type]
        assert hosts(read_pod(obj, asked)) == [host]


def test_the_port_of_a_pod_may_be_that_of_any_container() -> None:
    obj = pod("cpu-0", "10.0.0.1", 9000)
    obj["spec"]["initContainers"] = obj["spec"].pop("containers")  # a sidecar
    obj["spec"]["containers"] = [{"name": "other"}]
    assert hosts(read_pod(obj, PODS)) == ["10.0.0.1:9000"]


def test_the_hostname_of_a_pod() -> None:
    asked = Options(resource="pods", selector="a=b", namespace="pools", address="hostname")
    obj = pod("cpu-0", "10.0.0.1")
    assert "Pod cpu-0: cpu-0 has no hostname" in read_pod(obj, asked).problem
    obj["spec"].update(hostname="cpu-0", subdomain="cpu")
    assert hosts(read_pod(obj, asked)) == ["cpu-0.cpu.pools.svc.cluster.local:8791"]


# -- pages ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(FIXTURES.glob("*-list-*.json")), ids=lambda p: p.name)
def test_a_page_is_read_as_json_reads_it(path: Any) -> None:
    whole = fixture(path.name)
    parts = list(read_list(path.read_bytes()))
    assert [value for key, value in parts if key == "items"] == whole.pop("items", [])
    assert {key: value for key, value in parts if key != "items"} == whole


@pytest.mark.parametrize("text", [b'{"items":null}', b" { } ", b'{"items" : [ ] , "a":1}'])
def test_a_page_without_items(text: bytes) -> None:
    assert [value for key, value in read_list(text) if key == "items"] == []


@pytest.mark.parametrize(
    "text", [b"", b"[]", b'{"items":[1 2]}', b'{"items":[', b'{"a" 1}', b"{1:2", b"\xff", b'{"a":1']
)
def test_a_page_that_is_none(text: bytes) -> None:
    with pytest.raises(ValueError):
        list(read_list(text))
