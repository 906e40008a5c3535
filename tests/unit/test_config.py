"""Configuration: defaults, every check, all problems at once, inheritance of pools."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import fields, is_dataclass
from typing import Any

import dask.config
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gc_bootstrap.config import DEFAULTS, PoolOptions, read_pools


def read(**section: Any) -> tuple[dict[str, PoolOptions], list[str]]:
    return read_pools(configured={key.replace("_", "-"): value for key, value in section.items()})


def only_problem(section: dict[str, Any]) -> str:
    _, problems = read_pools(configured=section)
    assert len(problems) == 1
    assert "\n" not in problems[0]
    return problems[0]


def nested(path: str, value: Any) -> dict[str, Any]:
    """``("a.b", 1)`` as ``{"a": {"b": 1}}``."""
    for key in reversed(path.split(".")):
        value = {key: value}
    section: dict[str, Any] = value
    return section


def keys_of(options: Any) -> set[str]:
    """Every key of the dataclasses, as it is written in YAML."""
    found = set()
    for field in fields(options):
        name, value = field.name.replace("_", "-"), getattr(options, field.name)
        inner = {f"{name}.{key}" for key in keys_of(value)} if is_dataclass(value) else {name}
        found |= inner
    return found


def keys_in(section: dict[str, Any]) -> set[str]:
    found = set()
    for name, value in section.items():
        inner = keys_in(value) if isinstance(value, dict) else set()
        found |= {f"{name}.{key}" for key in inner} or {name}
    return found


# -- defaults --------------------------------------------------------------------------------------


def test_unconfigured_there_are_no_pools_and_no_problems() -> None:
    assert read_pools(configured={}) == ({}, [])
    assert read_pools() == ({}, [])


def test_the_yaml_says_what_the_dataclasses_say() -> None:
    assert read(discovery="local") == ({"default": PoolOptions(discovery="local")}, [])


def test_the_yaml_has_every_key_and_no_other() -> None:
    written = keys_of(PoolOptions()) - {"cookie-key", "key-key"}  # where the files came from
    assert keys_in(dict(DEFAULTS)) == written | {"pools"}


def test_dask_knows_the_defaults() -> None:
    assert dask.config.get("gc-bootstrap.refresh-interval") == "5s"
    assert dask.config.get("gc-bootstrap.reconnect.factor") == 1.6


# -- good values -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("refresh-interval", "200ms", 0.2),
        ("refresh-interval", 5, 5.0),
        ("refresh-interval", "1.5 minutes", 90.0),
        ("refresh-interval", None, None),
        ("connect.timeout", "1h", 3600.0),
        ("connect.concurrency", 1, 1),
        ("reconnect.initial", "2m", 120.0),
        ("reconnect.factor", 1, 1.0),
        ("reconnect.max", "1h", 3600.0),
        ("reconnect.jitter", 0, 0.0),
        ("reconnect.jitter", 1, 1.0),
        ("removal.policy", "drain", "drain"),
        ("removal.after", 1, 1),
        ("removal.grace", "0s", 0.0),
        ("removal.panic-threshold", 1, 1.0),
        ("drain.timeout", "10s", 10.0),
        ("cookie-file", "/run/secrets/cookie", "/run/secrets/cookie"),
        ("key-file", "/run/secrets/private.pem", "/run/secrets/private.pem"),
        ("scheduler-address", "tcp://scheduler.prod:8786", "tcp://scheduler.prod:8786"),
        ("scheduler-address", "tls://[fd00::5]:8786", "tls://[fd00::5]:8786"),
        ("scheduler-address", "10.0.0.1:8786", "10.0.0.1:8786"),
        ("versions", "warn", "warn"),
        ("dist", {"dask": {}}, {"dask": {}}),
    ],
)
def test_a_good_value_is_read(path: str, value: Any, expected: Any) -> None:
    pools, problems = read_pools({"discovery": "local"}, nested(path, value))
    assert problems == []
    found: Any = pools["default"]
    for name in path.replace("-", "_").split("."):
        found = getattr(found, name)
    assert found == expected
    assert type(found) is type(expected)


def test_underscores_are_hyphens() -> None:
    pools, problems = read_pools(
        {"refresh_interval": "1s"},
        {"discovery": "local", "removal": {"panic_threshold": 0.25}, "cookie_file": "/c"},
    )
    assert problems == []
    options = pools["default"]
    assert (options.refresh_interval, options.removal.panic_threshold) == (1.0, 0.25)
    assert options.cookie_file == "/c"


def test_overrides_win_and_sections_are_merged_key_by_key() -> None:
    pools, problems = read_pools(
        {"connect": {"timeout": "1s"}, "discovery": "static:a"},
        {"connect": {"concurrency": 2}, "discovery": "local"},
    )
    assert problems == []
    connect = pools["default"].connect
    assert (connect.timeout, connect.concurrency) == (1.0, 2)
    assert pools["default"].discovery == "static:a"


def test_environment_variables_configure() -> None:
    script = (
        "import json; from gc_bootstrap.config import read_pools; pools, problems = read_pools();"
        "gpu = pools['gpu']; print(json.dumps([problems, pools['default'].discovery,"
        " gpu.discovery, gpu.refresh_interval, gpu.connect.concurrency, gpu.removal.after]))"
    )
    variables = {
        "DASK_GC_BOOTSTRAP__DISCOVERY": "local",
        "DASK_GC_BOOTSTRAP__REFRESH_INTERVAL": "2s",
        "DASK_GC_BOOTSTRAP__CONNECT__CONCURRENCY": "7",
        "DASK_GC_BOOTSTRAP__POOLS__GPU__DISCOVERY": "static:10.0.0.5",
        "DASK_GC_BOOTSTRAP__POOLS__GPU__REMOVAL__AFTER": "9",
    }
    answer = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert json.loads(answer.stdout) == [[], "local", "static:10.0.0.5", 2.0, 7, 9]


# -- bad values ------------------------------------------------------------------------------------

NO_DURATION = "is not a duration such as 5s"
NO_BACKEND = 'is neither a text such as "static:10.0.0.5" nor {name: {option: value}}'
NO_ADDRESS = "is not an address such as tcp://10.0.0.1:8786"


@pytest.mark.parametrize("path", ["refresh-interval", "connect.timeout", "drain.timeout"])
@pytest.mark.parametrize(
    "value",
    ["5 parsecs", "-1s", 0, "0s", True, [], {}, "", " ", "nan", "1e999s", float("inf"), ".5s", "s"],
)
def test_a_value_that_is_no_duration_is_one_line(path: str, value: Any) -> None:
    assert only_problem(nested(path, value)) == f"gc-bootstrap.{path}: {value!r} {NO_DURATION}"


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("connect.timeout", None, NO_DURATION),
        ("connect.concurrency", 0, "is not a whole number of at least 1"),
        ("connect.concurrency", 1.5, "is not a whole number of at least 1"),
        ("connect.concurrency", True, "is not a whole number of at least 1"),
        ("connect.concurrency", "64", "is not a whole number of at least 1"),
        ("connect.timeout", "1us", "is shorter than 0.001 s"),
        ("connect.timeout", "53w", "is longer than 365 days"),
        ("reconnect.initial", "soon", NO_DURATION),
        ("reconnect.factor", 0.9, "is not a number of at least 1"),
        ("reconnect.factor", "2", "is not a number of at least 1"),
        ("reconnect.factor", float("nan"), "is not a number of at least 1"),
        ("reconnect.factor", float("inf"), "is not a number of at least 1"),
        pytest.param("reconnect.factor", 10**400, "is not a number of at least 1", id="huge"),
        ("reconnect.max", "later", NO_DURATION),
        ("reconnect.jitter", 1.1, "is not a number from 0 to 1"),
        ("reconnect.jitter", -0.1, "is not a number from 0 to 1"),
        ("reconnect.jitter", False, "is not a number from 0 to 1"),
        ("removal.policy", "forget", "is not one of keep, drain"),
        ("removal.policy", ["keep"], "is not one of keep, drain"),
        ("removal.after", -1, "is not a whole number of at least 1"),
        ("removal.grace", "a while", NO_DURATION),
        ("removal.panic-threshold", 50, "is not a number from 0 to 1"),
        ("cookie-file", "", "is not the path of a file"),
        ("cookie-file", 5, "is not the path of a file"),
        ("key-file", "", "is not the path of a file"),
        ("scheduler-address", "tcp://10.0.0.1", NO_ADDRESS),
        ("scheduler-address", "tcp://10.0.0.1:0", NO_ADDRESS),
        ("scheduler-address", "tcp://10.0.0.1:65536", NO_ADDRESS),
        ("scheduler-address", "tcp://fd00::5:8786", NO_ADDRESS),
        ("scheduler-address", "two words:1", NO_ADDRESS),
        ("scheduler-address", "tcp://10.0.0.1:8786\n", NO_ADDRESS),
        ("scheduler-address", 8786, NO_ADDRESS),
        ("versions", "strict", "is not one of refuse, warn, ignore"),
        ("versions", None, "is not one of refuse, warn, ignore"),
        ("discovery", 5, NO_BACKEND),
        ("discovery", [], NO_BACKEND),
        ("discovery", "", "is empty (is a variable unset?)"),
        ("dist", False, NO_BACKEND),
    ],
)
def test_a_bad_value_is_one_line_with_key_value_and_what_was_expected(
    path: str, value: Any, expected: str
) -> None:
    assert only_problem(nested(path, value)) == f"gc-bootstrap.{path}: {value!r} {expected}"


@pytest.mark.parametrize("kind", ["discovery", "dist"])
def test_a_backend_is_one_name(kind: str) -> None:
    two: dict[str, Any] = {"static": {}, "local": {}}
    assert only_problem({kind: two}) == (
        f"gc-bootstrap.{kind}: {two!r} names more than one; expected {{name: {{option: value}}}}"
    )
    assert "more than one" not in only_problem({kind: {}})


@pytest.mark.parametrize("section", ["connect", "reconnect", "removal", "drain"])
@pytest.mark.parametrize("value", [None, 5, "1s", []])
def test_a_section_that_is_none_is_one_line(section: str, value: Any) -> None:
    line = only_problem({section: value})
    assert line.startswith(f"gc-bootstrap.{section}: {value!r} is not a section with ")


@pytest.mark.parametrize("value", [5, "text", ["a"]])
def test_a_namespace_that_is_no_section_is_one_line(value: Any) -> None:
    with dask.config.set({"gc-bootstrap": value}):
        assert read_pools() == ({}, [f"gc-bootstrap: {value!r} is not a section"])


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("refresh-intervall", "did you mean refresh-interval?"),
        ("connect.time-out", "did you mean timeout?"),
        ("connect.xyz", "there are: concurrency, timeout"),
    ],
)
def test_an_unknown_key_comes_with_a_hint(path: str, hint: str) -> None:
    assert only_problem(nested(path, 1)) == f"gc-bootstrap.{path}: unknown key; {hint}"


def test_values_that_contradict_each_other_are_one_line() -> None:
    line = only_problem({"reconnect": {"initial": "3m"}})
    assert line == "gc-bootstrap.reconnect.initial: 180 s is more than max"


def test_all_problems_are_said_at_once() -> None:
    _, problems = read(
        refresh_interval="5 parsecs",
        versions="strict",
        connect={"timeout": 0, "concurrency": 0, "retries": 3},
        cookie="secret",
        pools={"gpu": {"discovery": "local", "dist": 5}, "a b": {}},
    )
    keys = sorted(problem.partition(": ")[0] for problem in problems)
    assert keys == [
        "gc-bootstrap.connect.concurrency",
        "gc-bootstrap.connect.retries",
        "gc-bootstrap.connect.timeout",
        "gc-bootstrap.cookie",
        "gc-bootstrap.pools",
        "gc-bootstrap.pools.gpu.dist",
        "gc-bootstrap.refresh-interval",
        "gc-bootstrap.versions",
    ]


def test_an_option_with_a_problem_has_its_default() -> None:
    pools, _ = read(discovery="local", refresh_interval="5 parsecs")
    assert pools["default"].refresh_interval == 5.0


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=4,
)
paths = st.sampled_from(sorted(keys_in(dict(DEFAULTS)) | {"connect", "reconnect", "removal"}))


@given(paths, values)
@example("refresh-interval", "")
@example("pools", {"gpu": {"discovery": "local", "refresh-interval": ""}})
def test_whatever_is_written_is_read_or_said_in_lines(path: str, value: Any) -> None:
    _, problems = read_pools(configured=nested(path, value))
    assert all(problem.startswith("gc-bootstrap") for problem in problems)
    assert not any("\n" in problem for problem in problems)
