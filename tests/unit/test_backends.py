"""Backends by name, by short form, by module:Class, or handed in; and each way to get it wrong."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gc_bootstrap.backends import load, names
from gc_bootstrap.discovery import Discovery, as_discovery
from gc_bootstrap.discovery.local import LocalDiscovery
from gc_bootstrap.errors import ConfigError, DiscoveryError, UnconfiguredError
from gc_bootstrap.peer import Peer
from gc_bootstrap.scheduler.dask import DaskDist
from gc_bootstrap.testing import ManualDiscovery

MODULE = """
from collections.abc import Mapping
from gc_bootstrap.discovery import Discovery
from gc_bootstrap.peer import Snapshot

class Etcd(Discovery):
    class Nested(Discovery):
        async def peers(self):
            return Snapshot(frozenset())

    def __init__(self, url, poll_interval=5, *, tls=False):
        if url == "bad":
            raise ValueError("not\\na URL")
        self.options = (url, poll_interval, tls)

    async def peers(self):
        return Snapshot(frozenset())

class Anything(Etcd):
    def __init__(self, **options):
        self.options = options

async def look():
    return ["10.0.0.5"]

def plain():
    return ["10.0.0.6"]

def needs(table):
    return [table]

constant = 5
"""


@pytest.fixture
def third_party(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module of somebody else, and a broken one."""
    name = "gc_bootstrap_test_third_party"
    (tmp_path / f"{name}.py").write_text(MODULE)
    (tmp_path / f"{name}_broken.py").write_text("raise RuntimeError('no\\nlicence')")
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    sys.modules.pop(name, None)


def problem(value: Any, kind: str = "discovery") -> str:
    """The one line that a value is refused with, without the key that it starts with."""
    with pytest.raises(ConfigError) as caught:
        load("dist" if kind == "dist" else "discovery", value, "KEY")
    (line,) = caught.value.problems
    assert line.startswith("KEY: ")
    assert "\n" not in line
    return line.removeprefix("KEY: ")


async def peers_of(value: Any) -> set[str]:
    loaded = await asyncio.to_thread(load, "discovery", value, "KEY")  # as the plugin does
    snapshot = await as_discovery(loaded).peers()
    return {str(peer) for peer in snapshot.peers}


def test_what_ships_is_there_by_name() -> None:
    assert {"local", "static"} <= names("discovery").keys()
    assert "dask" in names("dist")


@pytest.mark.parametrize("value", ["local", "local:", {"local": None}, {"local": {}}])
def test_a_name_is_enough_where_nothing_has_to_be_said(value: Any) -> None:
    assert isinstance(load("discovery", value, "KEY"), LocalDiscovery)


@pytest.mark.parametrize("value", ["dask", {"dask": {}}, "gc_bootstrap.scheduler.dask:DaskDist"])
def test_a_dist_is_loaded_likewise(value: Any) -> None:
    assert isinstance(load("dist", value, "KEY"), DaskDist)


@pytest.mark.parametrize(
    "value",
    [
        "static:10.0.0.5:1,[fd00::5]:1,node-3:1",
        "static:10.0.0.5,[fd00::5],node-3?port=1",
        "static:10.0.0.5, fd00::5 ,node-3,?port=1",
        {"static": ["10.0.0.5:1", "[fd00::5]:1", "node-3:1"]},
        {"static": {"peers": ["10.0.0.5:1", "fd00::5", "node-3"], "port": 1}},
    ],
    ids=str,
)
async def test_a_list_of_addresses_can_be_written_in_each_way(value: Any) -> None:
    assert await peers_of(value) == {"10.0.0.5:1", "[fd00::5]:1", "node-3:1"}


async def test_an_object_and_a_function_are_handed_through() -> None:
    async def look() -> list[str]:
        return ["10.0.0.5:1"]

    discovery = ManualDiscovery()
    assert load("discovery", discovery, "KEY") is discovery
    assert await peers_of(look) == {"10.0.0.5:1"}


def test_a_third_partys_class_gets_its_options(third_party: str) -> None:
    for value in (
        f"{third_party}:Etcd?url=http://etcd:1&poll-interval=2&tls=True",
        {f"{third_party}:Etcd": {"url": "http://etcd:1", "poll_interval": 2, "tls": True}},
    ):
        discovery = load("discovery", value, "KEY")
        assert isinstance(discovery, Discovery)
        assert vars(discovery)["options"] == ("http://etcd:1", 2, True)
    nested = load("discovery", f"{third_party}:Etcd.Nested", "KEY")
    assert type(nested).__qualname__ == "Etcd.Nested"
    takes_all = load("discovery", {f"{third_party}:Anything": {"a-b": 1}}, "KEY")
    assert takes_all.options == {"a_b": 1}


async def test_a_third_partys_function_is_taken_by_its_name(third_party: str) -> None:
    assert await peers_of(f"{third_party}:look") == {"10.0.0.5:8791"}
    assert await peers_of(f"{third_party}:plain") == {"10.0.0.6:8791"}


def test_a_function_takes_no_options(third_party: str) -> None:
    assert problem(f"{third_party}:look?url=x") == "look is a function and takes no options"
    assert problem(f"{third_party}:plain?url=x") == "plain is a function and takes no options"
    assert problem(f"{third_party}:needs") == (
        "needs is a function and must need no argument: missing a required argument: 'table'"
    )


@pytest.mark.parametrize("value", ["locl", "locl:", "LOCAL", "10.0.0.5:8791", "?", {"locl": {}}])
def test_an_unknown_name_is_answered_with_those_that_exist(value: Any) -> None:
    line = problem(value)
    assert "is not a known discovery" in line
    assert "; there are: " in line
    assert "local, static" in line
    assert line.endswith(", or package.module:Class")


@pytest.mark.parametrize(
    ("value", "meant"),
    [("locl", "local"), ("LOCAL", "local"), ("statics:a", "static"), ("10.0.0.5", "")],
)
def test_an_almost_known_name_is_answered_with_the_one_that_was_meant(
    value: str, meant: str
) -> None:
    hint = f", did you mean {meant}?" if meant else ""
    assert problem(value).startswith(f"{value!r} is not a known discovery{hint}; there are: dns, ")


@pytest.mark.parametrize("value", ["static:", "static: , ", {"static": []}, "static:?port=1"])
def test_a_list_of_nobody_is_a_slip(value: Any) -> None:
    with pytest.raises(UnconfiguredError) as caught:
        load("discovery", value, "KEY")
    assert str(caught.value) == f"KEY: {value!r} names no peer (is a variable unset?)"


def test_a_discovery_is_no_dist() -> None:
    assert problem("local", "dist").startswith("'local' is not a known dist; there are: dask")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (
            "static:fd00::5:8791",
            "'fd00::5:8791' is ambiguous; expected [fd00::5]:8791, or [fd00::5:8791] where that is",
        ),
        ("static:a b", "'a b': 'a b' is neither an IP address nor a DNS name"),
        ("static:a:99999", "'a:99999': port 99999 is not between 1 and 65535"),
        ("static:a b,c d", "'a b': 'a b' is neither an IP address nor a DNS name; 'c d': "),
        ({"static": {"peers": "a"}}, "peers: 'a' is not a list of addresses"),
        ({"static": {}}, "option 'peers' is missing"),
        ({"static": None}, "option 'peers' is missing"),
        ({"static": [5]}, "5 is not an address such as"),
        ({"static": 5}, "5 is not {option: value}"),
        ("static:a?prt=1", "unknown option 'prt'; there are: peers, port"),
        ("static:a?port", "'port' is not option=value&option=value"),
        ("local:somewhere", "'somewhere': nothing was expected here"),
        ({"local": ["a"]}, "['a'] is a list; expected {option: value}"),
        ({"local:x": {}}, "'local:x': options belong under the name, not into it"),
    ],
    ids=str,
)
def test_options_that_do_not_do_are_one_line(value: Any, reason: str) -> None:
    assert problem(value).startswith(reason)


def test_a_third_partys_mistakes_are_one_line(third_party: str) -> None:
    assert problem(f"{third_party}:Etcd") == "option 'url' is missing"
    assert problem(f"{third_party}:Etcd?url=x&timeout=1") == (
        "unknown option 'timeout'; there are: poll-interval, tls, url"
    )
    assert problem(f"{third_party}:Etcd?url=bad") == "ValueError: not a URL"
    assert problem(f"{third_party}:Missing") == (
        f"'{third_party}:Missing': {third_party} has no Missing"
    )
    assert problem(f"{third_party}_broken:Etcd") == (
        f"'{third_party}_broken:Etcd': cannot import {third_party}_broken: RuntimeError: no licence"
    )
    assert "No module named 'no'" in problem("no.such.module:Class")
    assert problem(f"{third_party}:constant") == "5 is neither a class nor a function"


@pytest.mark.parametrize("value", [{}, {"static": ["a"], "local": {}}])
def test_a_mapping_that_does_not_name_one_is_one_line(value: Any) -> None:
    assert problem(value)


async def test_an_error_of_a_function_is_not_an_empty_answer() -> None:
    async def look() -> list[str]:
        raise OSError("the database is not there")

    with pytest.raises(DiscoveryError, match="raised OSError: the database is not there"):
        await as_discovery(look).peers()


@pytest.mark.parametrize("answer", [None, "10.0.0.5", 5, ["a b"], [None]])
async def test_a_function_that_returns_no_peers_is_an_error(answer: Any) -> None:
    async def look() -> Any:
        return answer

    with pytest.raises(DiscoveryError, match="look raised "):
        await as_discovery(look).peers()


@pytest.mark.parametrize("value", [None, 5, "local", ManualDiscovery, [Peer("a")]])
def test_what_is_neither_is_no_discovery(value: Any) -> None:
    with pytest.raises(ConfigError, match="is neither a Discovery nor a function"):
        as_discovery(value)
