"""Where an agent listens: what is read, bound, and reachable from elsewhere."""

from __future__ import annotations

import socket

import pytest

from gc_bootstrap.agent.listen import Listen, is_loopback, local_peer, only_host
from gc_bootstrap.errors import ConfigError
from gc_bootstrap.peer import Peer


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:8791", "127.0.0.1", 8791),
        ("0.0.0.0:0", "0.0.0.0", 0),
        (":8791", "0.0.0.0", 8791),
        ("[::]:8791", "::", 8791),
        ("[fd00::5]:65535", "fd00::5", 65535),
        ("node-3:1", "node-3", 1),
    ],
)
def test_an_address_is_read_and_is_meant(text: str, host: str, port: int) -> None:
    assert Listen.parse(text) == Listen(host, port, fixed=True)


def test_nothing_asked_for_is_loopback_at_the_default_port_if_that_is_free() -> None:
    assert Listen.parse(None) == Listen("127.0.0.1", 8791, fixed=False)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "127.0.0.1",
        "8791",
        "127.0.0.1:",
        "127.0.0.1:http",
        "127.0.0.1:-1",
        "127.0.0.1:65536",
        "127.0.0.1:\u0661",
        "::1:8791",
        "[::1]",
        "[::1:8791",
        "http://127.0.0.1:8791",
        pytest.param("127.0.0.1:" + "9" * 5000, id="long"),
    ],
)
def test_what_is_no_address_is_one_line(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Listen.parse(text)
    assert caught.value.problems == (f"--listen {text}: is not HOST:PORT, such as 0.0.0.0:8791",)


def test_a_fixed_port_that_is_taken_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError) as caught:
            Listen("127.0.0.1", port, fixed=True).bind()
        assert str(caught.value) == f"--listen 127.0.0.1:{port}: Address already in use"


def test_another_port_is_taken_where_none_was_asked_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with Listen("127.0.0.1", port, fixed=False).bind() as sock:
            assert sock.getsockname()[0] == "127.0.0.1"
            assert sock.getsockname()[1] not in (0, port)


def test_a_port_that_is_free_is_bound() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with Listen("127.0.0.1", port, fixed=True).bind() as sock:
        assert sock.getsockname() == ("127.0.0.1", port)


@pytest.mark.parametrize("fixed", [True, False])
def test_an_address_of_another_host_is_an_error(fixed: bool) -> None:
    with pytest.raises(ConfigError, match=r"--listen 192\.0\.2\.1:0: Cannot assign requested addr"):
        Listen("192.0.2.1", 0, fixed).bind()


@pytest.mark.parametrize("host", ["no such host", "a..b", "x" * 64, "999.0.0.1"])
def test_a_name_that_nobody_has_is_one_line(host: str) -> None:
    with pytest.raises(ConfigError, match=f"^--listen {host}") as caught:
        Listen(host, 0, fixed=True).bind()
    assert len(caught.value.problems) == 1


@pytest.mark.parametrize(
    ("host", "loopback", "local"),
    [
        ("127.0.0.1", True, "127.0.0.1"),
        ("127.9.9.9", True, "127.9.9.9"),
        ("localhost", True, None),
        ("::1", True, "::1"),
        ("0.0.0.0", False, "127.0.0.1"),
        ("::", False, "::1"),
    ],
)
def test_only_loopback_is_loopback_and_this_host_can_reach_every_socket(
    host: str, loopback: bool, local: str | None
) -> None:
    if ":" in host and not _has_ipv6():
        pytest.skip("this host has no IPv6")
    with Listen(host, 0, fixed=True).bind() as sock:
        assert is_loopback(sock) is loopback
        peer = local_peer(sock)
        assert only_host(sock) == (None if host in ("0.0.0.0", "::") else peer.host)
        if local is not None:
            assert peer == Peer(local, sock.getsockname()[1])
        sock.listen()
        socket.create_connection((peer.host, peer.port), timeout=5).close()


def test_all_ipv6_addresses_are_all_ipv4_addresses_too() -> None:
    if not _has_ipv6():
        pytest.skip("this host has no IPv6")
    with Listen("::", 0, fixed=True).bind() as sock:
        sock.listen()
        socket.create_connection(("127.0.0.1", sock.getsockname()[1]), timeout=5).close()


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True
