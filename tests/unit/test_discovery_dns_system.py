"""Whom the system asks, and what it makes of relative names."""

from __future__ import annotations

import os
from pathlib import Path

import dns.name
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gc_bootstrap.discovery.dns.system import (
    ResolvConf,
    ResolvConfFile,
    candidates,
    read_resolv_conf,
)
from gc_bootstrap.errors import DiscoveryError
from gc_bootstrap.peer import Peer

POD = """
search prod.svc.cluster.local svc.cluster.local cluster.local
nameserver 10.96.0.10
options ndots:5
"""
SEARCH = ("prod.svc.cluster.local.", "svc.cluster.local.", "cluster.local.")


def tried(name: str, search: tuple[str, ...] = SEARCH, ndots: int = 5) -> list[str]:
    suffixes = [dns.name.from_text(suffix) for suffix in search]
    return [str(name) for name in candidates(dns.name.from_text(name, None), suffixes, ndots)]


def test_a_relative_name_goes_through_the_search_list_first() -> None:
    assert tried("workers") == [*(f"workers.{suffix}" for suffix in SEARCH), "workers."]
    assert tried("w.prod") == [*(f"w.prod.{suffix}" for suffix in SEARCH), "w.prod."]


def test_a_name_with_enough_dots_is_tried_as_it_stands_first() -> None:
    assert tried("a.b.c.d.e.f")[0] == "a.b.c.d.e.f."
    assert len(tried("a.b.c.d.e.f")) == 4
    assert tried("workers.prod", ndots=1)[0] == "workers.prod."
    assert tried("workers", ndots=0)[0] == "workers."


def test_a_name_that_ends_with_a_dot_means_itself() -> None:
    assert tried("workers.prod.") == ["workers.prod."]


def test_names_that_get_too_long_are_left_out() -> None:
    long = ".".join(["a" * 60] * 4)
    assert tried(long) == [f"{long}."]


@given(st.integers(0, 15), st.integers(1, 8), st.lists(st.sampled_from([*SEARCH, "."])))
def test_the_name_itself_is_always_tried_and_nothing_twice(
    ndots: int, labels: int, search: list[str]
) -> None:
    name = ".".join(["x"] * labels)
    found = tried(name, tuple(search), ndots)
    assert f"{name}." in found
    assert len(found) == len(set(found))


def test_a_pods_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text(POD)
    assert read_resolv_conf(path) == ResolvConf(
        (Peer("10.96.0.10", 53),), tuple(map(dns.name.from_text, SEARCH)), 5
    )


@pytest.mark.parametrize(
    ("text", "search"),
    [
        ("domain a.test\nsearch b.test c.test", ("b.test.", "c.test.")),
        ("search b.test\ndomain a.test", ("a.test.",)),
        ("search b.test\nsearch c.test", ("c.test.",)),
    ],
)
def test_the_last_of_domain_and_search_wins(
    tmp_path: Path, text: str, search: tuple[str, ...]
) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text(f"{text}\nnameserver fd00::a\n")
    read = read_resolv_conf(path)
    assert tuple(map(str, read.search)) == search
    assert read.servers == (Peer("fd00::a", 53),)


def test_ndots_has_a_limit(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text("nameserver 10.0.0.1\noptions ndots:99 timeout:1\n")
    assert read_resolv_conf(path).ndots == 15


def test_without_servers_the_search_list_is_there_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text("search a.test\noptions ndots:3\n")
    read = read_resolv_conf(path)
    assert (read.servers, [*map(str, read.search)], read.ndots) == ((), ["a.test."], 3)


def test_a_file_that_is_not_there_names_no_server(tmp_path: Path) -> None:
    assert read_resolv_conf(tmp_path / "nope").servers == ()


@pytest.mark.parametrize("text", ["nameserver here\n", "search a..b\nnameserver 10.0.0.1\n"])
def test_a_file_that_makes_no_sense_is_an_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text(text)
    with pytest.raises(DiscoveryError, match=r"resolv\.conf: makes no sense"):
        read_resolv_conf(path)


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DiscoveryError, match="cannot be read: Is a directory"):
        read_resolv_conf(tmp_path)


def test_the_file_is_read_again_only_when_it_has_changed(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text(POD)
    file = ResolvConfFile(path)
    before = file.current()
    assert file.current() is before
    path.write_text("nameserver 10.96.0.11\n")
    os.utime(path, ns=(0, 4711))
    assert file.current().servers == (Peer("10.96.0.11", 53),)
    path.unlink()
    assert file.current().servers == ()
    path.write_text(POD)
    assert file.current() == before


def test_a_bad_file_stays_an_error_until_it_is_mended(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text("nameserver here\n")
    file = ResolvConfFile(path)
    for _ in range(2):
        with pytest.raises(DiscoveryError):
            file.current()
    path.write_text(POD)
    assert file.current().ndots == 5
