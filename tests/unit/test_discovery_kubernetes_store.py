"""Objects amount to a snapshot, and whatever happens on the way, to the server's state."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gc_bootstrap.discovery.kubernetes.objects import read_slice
from gc_bootstrap.discovery.kubernetes.options import Family, Options
from gc_bootstrap.discovery.kubernetes.store import Follower, Store, StrangeAnswerError
from gc_bootstrap.peer import Peer, Snapshot
from tests.kube import endpoint, endpoint_slice

OPTIONS = Options(service="cpu", namespace="pools")
A, B = Peer("10.0.0.1", 8791), Peer("10.0.0.2", 8791)
A6 = Peer("fd00::1", 8791)


def store(family: Family | None = None, usual: Family = "ipv4") -> Store:
    return Store(lambda obj: read_slice(obj, OPTIONS), family, usual)


def going(address: str, pod: str) -> dict[str, Any]:
    return endpoint(address, pod, ready=False, terminating=True)


def test_an_endpoint_in_two_slices_is_one_peer() -> None:
    made = store()
    assert made.put(endpoint_slice("a", [endpoint("10.0.0.1", "cpu-0", zone="x")]))
    assert not made.put(endpoint_slice("b", [endpoint("10.0.0.1", "cpu-0", zone="y")]))
    assert made.snapshot().peers == {A}
    assert not made.remove(endpoint_slice("a", []))
    assert made.snapshot().labels == {A: {"pod": "cpu-0", "zone": "y"}}
    assert made.remove(endpoint_slice("b", []))
    assert made.snapshot().peers == frozenset()


def test_a_pod_that_leaves_in_one_slice_leaves() -> None:
    made = store()
    made.put(endpoint_slice("a", [endpoint("10.0.0.1", "cpu-0")]))
    assert made.put(endpoint_slice("b", [going("10.0.0.1", "cpu-0")]))
    assert made.snapshot().leaving == {A}


def test_an_address_that_a_new_pod_has_taken_over_stays() -> None:
    made = store()
    made.put(endpoint_slice("a", [going("10.0.0.1", "old")]))
    assert made.put(endpoint_slice("b", [endpoint("10.0.0.1", "new")]))
    assert made.snapshot().leaving == frozenset()
    assert made.snapshot().labels[A] == {"pod": "new"}
    both = [going("10.0.0.1", "old"), endpoint("10.0.0.1", "new")]
    for order in (both, both[::-1]):
        made = store()
        made.put(endpoint_slice("a", order))
        assert made.snapshot() == Snapshot(frozenset({A}))


@pytest.mark.parametrize(
    ("family", "usual", "found"),
    [(None, "ipv4", A), (None, "ipv6", A6), ("ipv4", "ipv6", A), ("ipv6", "ipv4", A6)],
)
def test_of_a_pod_with_two_families_one_address_counts(
    family: Family | None, usual: Family, found: Peer
) -> None:
    made = store(family, usual)
    made.put(endpoint_slice("four", [endpoint("10.0.0.1", "cpu-0")]))
    made.put(endpoint_slice("six", [endpoint("fd00::1", "cpu-0")], kind="IPv6"))
    assert made.snapshot().peers == {found}


def test_a_service_of_one_family_has_that() -> None:
    for usual in ("ipv4", "ipv6"):
        for kind, address, peer in (("IPv4", "10.0.0.1", A), ("IPv6", "fd00::1", A6)):
            made = store(usual=usual)
            made.put(endpoint_slice("x", [endpoint(address)], kind=kind))
            assert made.snapshot().peers == {peer}


def test_the_family_changes_with_the_slices() -> None:
    made = store()
    assert made.put(endpoint_slice("six", [endpoint("fd00::1")], kind="IPv6"))
    assert made.put(endpoint_slice("four", [endpoint("10.0.0.1")]))
    assert made.snapshot().peers == {A}
    assert made.remove(endpoint_slice("four", []))
    assert made.snapshot().peers == {A6}


def test_an_object_that_cannot_be_read_is_a_part_of_the_truth() -> None:
    made = store()
    made.put(endpoint_slice("a", [endpoint("10.0.0.1")]))
    assert made.put({**endpoint_slice("b", []), "endpoints": [{"addresses": []}]})
    assert made.snapshot() == Snapshot(frozenset({A}), complete=False)
    (problem,) = made.problems()
    assert problem.startswith("b: cannot be read: IndexError")
    assert made.remove(endpoint_slice("b", []))
    assert made.snapshot().complete


@pytest.mark.parametrize(
    "event",
    [
        None,
        {},
        {"type": "ADDED"},
        {"type": "ADDED", "object": {"metadata": {}}},
        {"type": "ADDED", "object": {"metadata": {"resourceVersion": "3"}}},
        {"type": "NEWS", "object": {"metadata": {"resourceVersion": "3", "name": "x"}}},
        {"type": "ADDED", "object": [1]},
    ],
)
def test_what_is_no_event_leaves_a_gap(event: Any) -> None:
    follower = Follower(store)
    follower.begin()
    follower.end("1")
    with pytest.raises(StrangeAnswerError):
        follower.event(event)
    assert follower.version is None
    assert follower.store is not None


def test_a_list_takes_the_place_of_all_that_was_known_at_once() -> None:
    follower = Follower(store)
    follower.begin()
    follower.item(endpoint_slice("a", [endpoint("10.0.0.1")]))
    assert follower.end("1")
    follower.begin()
    follower.item(endpoint_slice("b", [endpoint("10.0.0.2")]))
    assert follower.store is not None
    assert follower.store.snapshot().peers == {A}, "half a list is no list"
    assert follower.end("2")
    assert follower.store.snapshot().peers == {B}
    follower.begin()
    follower.item(endpoint_slice("c", [endpoint("10.0.0.2")]))
    assert not follower.end("3"), "the same peers in another slice are no change"


# -- any interleaving of events, gaps and lists --------------------------------------------------

_NAMES = st.sampled_from(["a", "b", "c", "d"])
_ADDRESSES = {"IPv4": [f"10.0.0.{n}" for n in range(1, 5)], "IPv6": ["fd00::1", "fd00::2"]}


@st.composite
def _slices(draw: st.DrawFn) -> dict[str, Any]:
    kind = draw(st.sampled_from(["IPv4", "IPv4", "IPv6"]))
    endpoints = [
        endpoint(
            draw(st.sampled_from(_ADDRESSES[kind])),
            draw(st.sampled_from([None, "p", "q"])),
            ready=draw(st.sampled_from([True, False, None])),
            terminating=draw(st.sampled_from([True, False, None])),
            zone=draw(st.sampled_from(["x", "y"])),
        )
        for _ in range(draw(st.integers(0, 4)))
    ]
    ports = draw(st.sampled_from([{"agent": 8791}, {"agent": 8791}, {"agent": 9000}, {"no": 1}]))
    return endpoint_slice(draw(_NAMES), endpoints, ports, kind)


class ServerAndFollower(RuleBasedStateMachine):
    """A model of the server, and a follower that may miss, lag, and begin anew at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.version = 1
        self.objects: dict[str, dict[str, Any]] = {}
        self.history: list[tuple[int, dict[str, Any]]] = []
        self.follower = Follower(store)
        self.pages: list[dict[str, Any]] | None = None
        self.listed_at = 0
        self.compacted_at = 0
        self.told: Snapshot | None = None

    def _happened(self, kind: str, obj: dict[str, Any]) -> None:
        self.version += 1
        obj = {**obj, "metadata": {**obj["metadata"], "resourceVersion": str(self.version)}}
        if kind == "DELETED":
            del self.objects[obj["metadata"]["name"]]
        else:
            self.objects[obj["metadata"]["name"]] = obj
        self.history.append((self.version, {"type": kind, "object": obj}))

    @rule(obj=_slices())
    def put(self, obj: dict[str, Any]) -> None:
        known = obj["metadata"]["name"] in self.objects
        self._happened("MODIFIED" if known else "ADDED", obj)

    @precondition(lambda self: self.objects)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        self._happened("DELETED", self.objects[data.draw(st.sampled_from(sorted(self.objects)))])

    @rule()
    def compact(self) -> None:
        """The server forgets: whoever watches from before has to list."""
        self.history.clear()
        self.compacted_at = self.version
        if self.follower.version is not None and int(self.follower.version) < self.version:
            self.follower.gap()

    @rule()
    def gap(self) -> None:
        self.follower.gap()

    @precondition(lambda self: self.follower.version is not None)
    @rule(most=st.integers(1, 5))
    def watch(self, most: int) -> None:
        since = int(self.follower.version or 0)
        for version, event in self.history:
            if version > since and most:
                most -= 1
                self._note(self.follower.event(event))

    @precondition(lambda self: self.follower.version is not None)
    @rule()
    def bookmark(self) -> None:
        """Only ever sent after all events before it."""
        self.watch(most=10**6)
        obj = {"metadata": {"resourceVersion": str(self.version)}}
        assert not self.follower.event({"type": "BOOKMARK", "object": obj})

    @rule()
    def begin_list(self) -> None:
        self.follower.begin()
        self.pages, self.listed_at = list(self.objects.values()), self.version

    @precondition(lambda self: self.pages is not None)
    @rule(objects=st.integers(1, 3))
    def page(self, objects: int) -> None:
        assert self.pages is not None
        page, self.pages = self.pages[:objects], self.pages[objects:]
        for obj in page:
            self.follower.item(obj)
        if not self.pages:
            self.pages = None
            self._note(self.follower.end(str(self.listed_at)))
            if self.listed_at < self.compacted_at:
                self.follower.gap()  # in the meantime: the watch says 410

    def _note(self, changed: bool) -> None:
        """Whoever is told of each change, and looks only then, always knows the truth."""
        assert self.follower.store is not None
        if changed:
            self.told = self.follower.store.snapshot()
        assert self.follower.store.snapshot() == self.told

    @invariant()
    def in_step_it_is_the_servers_state(self) -> None:
        if self.follower.version == str(self.version) and self.pages is None:
            truth = store()
            for obj in self.objects.values():
                truth.put(obj)
            assert self.follower.store is not None
            assert self.follower.store.snapshot() == truth.snapshot()
            assert self.follower.store.problems() == truth.problems()
            assert self.follower.store.snapshot().labels.keys() == truth.snapshot().peers

    def teardown(self) -> None:
        """However it went: a list and what follows end in the server's state."""
        self.begin_list()
        while self.pages is not None:
            self.page(2)
        self.follower.version = str(self.version)
        self.in_step_it_is_the_servers_state()


ServerAndFollower.TestCase.settings = settings(max_examples=60, stateful_step_count=30)
TestServerAndFollower = ServerAndFollower.TestCase
