"""Peers, snapshots and outcomes: what is one, and what is refused."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gc_bootstrap.errors import PeerError
from gc_bootstrap.peer import Outcome, Peer, Snapshot

A, B = Peer("10.0.0.1", 1), Peer("10.0.0.1", 2)

names = st.from_regex(r"[a-z]([a-z0-9_-]{0,8}[a-z0-9])?(\.[a-z][a-z0-9]{0,8}){0,3}", fullmatch=True)
hosts = st.ip_addresses().map(str) | names
ports = st.integers(1, 65535)


@given(hosts, ports)
def test_a_peer_is_read_from_what_it_prints(host: str, port: int) -> None:
    peer = Peer(host, port)
    assert Peer.parse(str(peer)) == peer
    assert Peer.parse(str(peer), 1) == peer


@given(hosts, ports)
def test_a_host_without_a_port_has_the_default_port(host: str, port: int) -> None:
    written = f"[{host}]" if ":" in host else host
    assert Peer.parse(written) == Peer(host, 8791)
    assert Peer.parse(written, port) == Peer(host, port)


@given(st.ip_addresses(v=6).map(str), ports)
@example("fd00::5", 8791)
@example("::", 1)
def test_an_address_that_may_have_a_port_is_refused_with_both_readings(ip: str, port: int) -> None:
    bare = f"{ip}:{port}"
    with pytest.raises(PeerError, match="is ambiguous; expected") as caught:
        Peer.parse(bare)
    assert f"expected [{ip}]:{port}, or [{bare}] where" in str(caught.value)
    assert Peer.parse(f"[{ip}]:{port}") == Peer(ip, port)


@given(st.text() | st.from_regex(r"\[?[0-9a-z.:%\]\[-]*", fullmatch=True))
@example("fe80::1%\n")
@example("fe80::1%a]b")
@example("fe80::1%a b")
@example("[fe80::1%x/y]:1")
def test_whatever_is_a_peer_prints_as_one_word_that_is_the_same_peer(text: str) -> None:
    try:
        peer = Peer.parse(text)
    except PeerError as exc:
        assert "\n" not in str(exc)  # noqa: PT017 - most texts are none
        return
    assert Peer.parse(str(peer)) == peer
    assert str(peer).isprintable()
    assert len(str(peer).split()) == 1


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("10.0.0.5:8791", "10.0.0.5", 8791),
        ("10.0.0.5", "10.0.0.5", 8791),
        ("[fd00::5]:1", "fd00::5", 1),
        ("[fd00::5]", "fd00::5", 8791),
        ("fd00::5", "fd00::5", 8791),
        ("::1", "::1", 8791),
        ("1:2:3:4:5:6:7:8", "1:2:3:4:5:6:7:8", 8791),
        ("fd00::5:a", "fd00::5:a", 8791),
        ("[fd00::5:8791]", "fd00::5:8791", 8791),
        ("FD00:0::0005", "fd00::5", 8791),
        ("::", "::", 8791),
        ("Node-3.Prod.:65535", "node-3.prod", 65535),
        ("_agent.prod", "_agent.prod", 8791),
        ("  node-3\n", "node-3", 8791),
        ("fe80::1%eth0", "fe80::1%eth0", 8791),
        ("1.0.0.127.in-addr.arpa", "1.0.0.127.in-addr.arpa", 8791),
    ],
)
def test_an_address_is_read(text: str, host: str, port: int) -> None:
    peer = Peer.parse(text)
    assert (peer.host, peer.port) == (host, port)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  ",
        ":8791",
        "host:",
        "host:0",
        "host:65536",
        "host:-1",
        "host:+1",
        "host: 1",
        "host:http",
        "host:\u0661",
        "host:" + "9" * 5000,
        "10.0.0.256",
        "10.0.0",
        "10.0.0.1.2",
        "010.0.0.1",
        "1234",
        "[10.0.0.1]:1",
        "[host]:1",
        "[fd00::5",
        "[fd00::5]1",
        "[fd00::5]:",
        "fd00::5]:1",
        "fd00::g",
        "a:b:1",
        "-a",
        "a-",
        "a..b",
        ".a",
        "a b",
        "a/b",
        "http://a:1",
        "user@a",
        "a\nb",
        "x" * 64,
        ".".join(["x" * 60] * 5),
    ],
)
def test_what_is_no_address_is_refused_and_quoted(text: str) -> None:
    with pytest.raises(PeerError) as caught:
        Peer.parse(text)
    assert str(caught.value).startswith(repr(text.strip()))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [None, 5, b"host", ["host"]])
def test_what_is_no_text_is_refused(value: object) -> None:
    with pytest.raises(PeerError, match=r"is not an address such as 10\.0\.0\.5:8791"):
        Peer.parse(value)  # type: ignore[arg-type]


@pytest.mark.parametrize("port", [0, -1, 65536, True, "80", 80.0, None])
def test_what_is_no_port_is_refused(port: object) -> None:
    with pytest.raises(PeerError, match=r"^port "):
        Peer("host", port)  # type: ignore[arg-type]


@pytest.mark.parametrize("host", [None, 5, b"\x7f\x00\x00\x01"])
def test_a_host_that_is_no_text_is_refused(host: object) -> None:
    with pytest.raises(PeerError):
        Peer(host)  # type: ignore[arg-type]


def test_equal_peers_are_one() -> None:
    assert {Peer("FD00::5", 1), Peer("fd00:0::5", 1)} == {Peer.parse("[fd00::5]:1")}
    assert Peer("a.prod.", 1) == Peer("A.prod", 1) != Peer("a.prod", 2)


def test_peers_have_an_order_and_survive_a_pickle() -> None:
    assert sorted([B, A]) == [A, B]
    assert pickle.loads(pickle.dumps(A)) == A


# -- snapshots -------------------------------------------------------------------------------------


def test_a_snapshot_is_complete_with_nobody_leaving() -> None:
    snapshot = Snapshot(frozenset({A}))
    assert snapshot.complete
    assert snapshot.leaving == frozenset()
    assert snapshot.labels == {}


def test_who_leaves_has_to_be_a_peer() -> None:
    with pytest.raises(ValueError, match=r"leaving, but not among the peers: 10\.0\.0\.1:2"):
        Snapshot(frozenset({A}), leaving=frozenset({A, B}))


def test_labels_make_no_difference() -> None:
    plain = Snapshot(frozenset({A}))
    labelled = Snapshot(frozenset({A}), labels={A: {"zone": "a"}})
    assert plain == labelled
    assert hash(plain) == hash(labelled)


def test_a_snapshot_that_is_not_complete_may_say_why_and_that_is_for_people() -> None:
    silent = Snapshot(frozenset({A}), complete=False)
    saying = Snapshot(frozenset({A}), complete=False, reason="the API server is away")
    assert silent.reason == ""
    assert silent == saying
    assert hash(silent) == hash(saying)


def test_the_reason_is_a_text() -> None:
    with pytest.raises(TypeError, match=r"reason: expected a text, got OSError\('away'\)"):
        Snapshot(frozenset(), complete=False, reason=OSError("away"))  # type: ignore[arg-type]


def test_a_complete_snapshot_has_no_reason_not_to_be() -> None:
    with pytest.raises(ValueError, match="complete, and yet not because: away"):
        Snapshot(frozenset({A}), reason="away")


def test_a_collection_of_texts_and_peers_is_a_snapshot() -> None:
    expected = Snapshot(frozenset({A, B}))
    assert Snapshot.of([A, "10.0.0.1:2"]) == expected
    assert Snapshot.of(peer for peer in (A, B)) == expected
    assert Snapshot.of(expected) is expected
    assert Snapshot.of([]) == Snapshot(frozenset())


@pytest.mark.parametrize("value", [None, 5, "10.0.0.1:1"])
def test_what_is_no_collection_is_no_snapshot(value: object) -> None:
    with pytest.raises(TypeError, match="expected a Snapshot or a collection of peers"):
        Snapshot.of(value)  # type: ignore[arg-type]


def test_a_collection_with_something_else_is_no_snapshot() -> None:
    with pytest.raises(PeerError, match="'a b'"):
        Snapshot.of(["a b"])


# -- outcomes --------------------------------------------------------------------------------------


def test_only_done_is_true() -> None:
    assert Outcome.DONE
    assert not Outcome.refused("is busy")
    assert not Outcome.ignored("is a printer")


def test_an_outcome_says_why() -> None:
    assert Outcome("done", "") == Outcome.DONE
    assert Outcome.refused("x", same_as=A) == Outcome("refused", "x", A)
    assert Outcome.ignored("x") == Outcome("ignored", "x")
