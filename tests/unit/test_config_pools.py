"""Several pools: each inherits what stands above it, and overrides it."""

from __future__ import annotations

from typing import Any

import pytest

from gc_bootstrap.config import ConnectOptions, PoolOptions, read_pools


def only_problem(pools: Any, **top: Any) -> str:
    _, problems = read_pools(configured={**top, "pools": pools})
    assert len(problems) == 1
    return problems[0]


def test_a_pool_inherits_what_stands_above_it_and_overrides_it() -> None:
    pools, problems = read_pools(
        {"versions": "warn"},
        {
            "refresh-interval": "1s",
            "connect": {"timeout": "2s", "concurrency": 3},
            "pools": {
                "cpu": {"discovery": "static:a"},
                "gpu": {
                    "discovery": "static:b",
                    "refresh_interval": None,
                    "connect": {"timeout": "9s"},
                    "versions": "ignore",
                },
            },
        },
    )
    assert problems == []
    assert pools == {
        "cpu": PoolOptions(
            "static:a",
            refresh_interval=1.0,
            connect=ConnectOptions(2.0, 3),
            versions="warn",
        ),
        "gpu": PoolOptions(
            "static:b",
            refresh_interval=None,
            connect=ConnectOptions(9.0, 3),
            versions="ignore",
        ),
    }


def test_a_discovery_above_is_a_pool_of_its_own() -> None:
    pools, problems = read_pools(
        configured={"discovery": "local", "pools": {"gpu": {"discovery": "static:b"}}}
    )
    assert problems == []
    assert {name: options.discovery for name, options in pools.items()} == {
        "default": "local",
        "gpu": "static:b",
    }


@pytest.mark.parametrize("section", [{}, {"discovery": None}, {"versions": "warn"}])
def test_each_pool_names_its_own_discovery(section: dict[str, Any]) -> None:
    line = only_problem({"gpu": section}, discovery="local")
    assert line == "gc-bootstrap.pools.gpu.discovery: missing; each pool names its own"


@pytest.mark.parametrize("section", [None, "local", ["local"], 5])
def test_a_pool_that_is_no_section_is_one_line(section: Any) -> None:
    line = only_problem({"gpu": section})
    assert line == f"gc-bootstrap.pools.gpu: {section!r} is not a section"


@pytest.mark.parametrize("pools", ["local", ["gpu"], 5, False, ""])
def test_pools_that_are_no_section_are_one_line(pools: Any) -> None:
    assert only_problem(pools) == f"gc-bootstrap.pools: {pools!r} is not a section of pools by name"


@pytest.mark.parametrize("name", ["", "a b", "-x", "x" * 64, "a/b", "a\n", 5])
def test_a_name_that_is_none_is_one_line(name: Any) -> None:
    line = only_problem({name: {"discovery": "local"}})
    assert line == f"gc-bootstrap.pools: {name!r} is not a name of letters, digits, - _ ."


def test_a_name_is_given_once() -> None:
    line = only_problem({"default": {"discovery": "local"}}, discovery="local")
    assert line == (
        "gc-bootstrap.pools.default: the pool of gc-bootstrap.discovery has this name already"
    )


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({"refresh-interval": "soon"}, "refresh-interval: 'soon' is not a duration such as 5s"),
        ({"connect": {"timeout": 0}}, "connect.timeout: 0 is not a duration such as 5s"),
        ({"conect": {}}, "conect: unknown key; did you mean connect?"),
        ({"reconnect": {"initial": "3m"}}, "reconnect.initial: 180 s is more than max"),
        ({"connect": 5}, "connect: 5 is not a section with timeout, concurrency"),
    ],
)
def test_a_problem_of_a_pool_names_the_pool(section: dict[str, Any], expected: str) -> None:
    line = only_problem({"gpu": {"discovery": "local", **section}})
    assert line == f"gc-bootstrap.pools.gpu.{expected}"


def test_a_pool_within_a_pool_is_an_unknown_key() -> None:
    line = only_problem({"gpu": {"discovery": "local", "pools": {}}})
    assert line.startswith("gc-bootstrap.pools.gpu.pools: unknown key; ")


@pytest.mark.parametrize(
    "top",
    [{"versions": "strict"}, {"reconnect": {"initial": "3m"}}],
    ids=["value", "contradiction"],
)
def test_a_problem_above_is_not_said_again_for_each_pool(top: dict[str, Any]) -> None:
    assert only_problem({"a": {"discovery": "local"}, "b": {"discovery": "local"}}, **top)


@pytest.mark.parametrize(
    ("above", "own", "cookie", "key"),
    [
        ("cookie-file", "key-file", None, "gpu"),
        ("key-file", "cookie-file", "gpu", None),
        ("key-file", "key-file", None, "gpu"),
        ("cookie-file", "discovery", "all", None),
    ],
)
def test_a_pool_with_a_key_or_a_cookie_of_its_own_has_no_other(
    above: str, own: str, cookie: str | None, key: str | None
) -> None:
    section = {"discovery": "static:a", **({} if own == "discovery" else {own: "gpu"})}
    pools, problems = read_pools(configured={above: "all", "pools": {"gpu": section}})
    assert problems == []
    assert (pools["gpu"].cookie_file, pools["gpu"].key_file) == (cookie, key)


def test_what_is_given_replaces_a_cookie_in_the_configuration_by_a_key() -> None:
    configured = {"discovery": "static:a", "cookie-file": "configured"}
    pools, problems = read_pools({"key_file": "given"}, configured)
    assert problems == []
    assert (pools["default"].cookie_file, pools["default"].key_file) == (None, "given")


def test_a_key_and_a_cookie_at_one_place_contradict_each_other() -> None:
    both = {"cookie-file": "a", "key-file": "b"}
    pool = {"discovery": "static:a", **both}
    assert only_problem({"gpu": pool}) == (
        "gc-bootstrap.pools.gpu.key-file: contradicts cookie-file; keep one of them"
    )
    assert only_problem({"gpu": {"discovery": "static:a"}}, **both) == (
        "gc-bootstrap.key-file: contradicts cookie-file; keep one of them"
    )
