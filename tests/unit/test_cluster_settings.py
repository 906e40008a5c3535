"""What a `PoolCluster` is made with comes to, and what is wrong with it."""

from __future__ import annotations

from typing import Any

import dask.config
import pytest
from distributed.security import Security

from gc_bootstrap.cluster import settings
from gc_bootstrap.cluster.adaptive import change_of, number
from gc_bootstrap.cluster.settings import Settings
from gc_bootstrap.errors import ConfigError
from gc_bootstrap.scheduler.resize import read_size, which


def read(discovery: Any = None, options: Any = None, **given: Any) -> Settings:
    plain: dict[str, Any] = {
        "scheduler": "here", "host": None, "scheduler_port": 0, "security": None,
        "dashboard_address": ":0", "scheduler_kwargs": None, "agents": 0,
    }  # fmt: skip
    return settings.read(discovery=discovery, options=options or {}, **{**plain, **given})


def test_without_anything_it_is_the_agents_of_this_machine_fairly() -> None:
    found = read()
    (pool,) = found.pools.values()
    assert pool.discovery == "local"
    assert pool.takes_all
    assert pool.is_fair, "a second notebook is nobody's standby"
    assert found.scheduler["host"] == "127.0.0.1"
    assert found.scheduler["protocol"] == "tcp://"


def test_the_configuration_counts_where_nothing_is_given() -> None:
    with dask.config.set(
        {"gc-bootstrap": {"discovery": "dns:a", "size": 3, "share": {"policy": "keep"}}}
    ):
        (pool,) = read().pools.values()
        assert (pool.discovery, pool.size, pool.is_fair) == ("dns:a", 3, False)
        (pool,) = read("local", {"share": {"policy": "fair", "weight": 2}}).pools.values()
        assert (pool.discovery, pool.is_fair, pool.share.weight) == ("local", True, 2)
    with dask.config.set({"gc-bootstrap": {"pools": {"gpu": {"discovery": "dns:gpu"}}}}):
        assert read().pools.keys() == {"gpu"}, "no other agents besides"
        assert read("local").pools.keys() == {"gpu", "default"}


def test_a_host_may_say_its_protocol_and_tls_is_taken_for_it() -> None:
    assert read(host="tls://0.0.0.0").scheduler["host"] == "0.0.0.0"
    assert read(host="tls://0.0.0.0").scheduler["protocol"] == "tls://"
    assert read(host="").scheduler["host"] == ""
    secured = read(security=Security(require_encryption=True))
    assert secured.scheduler["protocol"] == "tls://"
    assert read(security=True).security.require_encryption


@pytest.mark.parametrize(
    ("discovery", "is_found"),
    [
        ("local", True),
        ("local:?folder=/x", True),
        ({"local": {}}, True),
        ("dns:local", False),
        ("localhost", False),
        ({"static": {"peers": ["local"]}}, False),
    ],
)
def test_agents_of_its_own_have_to_be_found(discovery: Any, *, is_found: bool) -> None:
    if is_found:
        assert read(discovery, agents=2).agents == 2
    else:
        with pytest.raises(ConfigError, match="would be found by the discovery local only"):
            read(discovery, agents=2)


@pytest.mark.parametrize("agents", [-1, 1.5, "2", True, None, 2000])
def test_a_number_of_agents_is_one(agents: Any) -> None:
    with pytest.raises(ConfigError, match=r"^agents: "):
        read(agents=agents)


def test_an_adaptation_is_complete_when_it_is_sent() -> None:
    with dask.config.set({"distributed.adaptive.target-duration": "9s"}):
        adapt, options = change_of(1, float("inf"), {"interval": "2s"})
    assert adapt == {
        "minimum": 1, "maximum": None, "interval": 2.0, "wait_count": 3, "target_duration": 9.0,
    }  # fmt: skip
    with dask.config.set({"distributed.adaptive.target-duration": "4s"}):
        assert read_size(adapt=adapt) == (None, options), "and Dask's settings there do not count"


@pytest.mark.parametrize("value", ["three", [1], object(), 1j])
def test_what_is_no_number_is_a_type_error(value: Any) -> None:
    with pytest.raises(TypeError, match=r"^n: .* is not a number of agents"):
        number(value, "n")


def test_a_size_has_each_problem_in_a_line() -> None:
    with pytest.raises(ConfigError) as told:
        read_size("some", {"minimum": -1, "maximum": "x", "maximal": 3})
    assert [problem.partition(":")[0] for problem in told.value.problems] == [
        *("size", "adapt.minimum", "adapt.maximum", "adapt.maximal"),
    ]
    with pytest.raises(ConfigError, match="size: 10000000 is more than 1000000"):
        read_size(10**7)
    with pytest.raises(ConfigError, match=r"adapt\.maximum: 10{30} is more than"):
        read_size(adapt={"maximum": 10**30})
    with pytest.raises(ConfigError, match="size: 2 contradicts adapt"):
        read_size(2, {"maximum": 3})
    assert read_size() == (None, None)


def test_a_pool_is_named_or_the_only_one() -> None:
    assert which(["a"], None) == "a"
    assert which(["a", "b"], "b") == "b"
    for pools, name, line in (
        (["a", "b"], None, "pool: which one? there are: a, b"),
        ([], None, "pool: which one? there are no pools"),
        (["a"], "b", "pool: 'b' is none; there are: a"),
        (["a"], ["a"], r"pool: \['a'\] is none; there are: a"),
    ):
        with pytest.raises(ConfigError, match=line.replace("?", r"\?")):
            which(pools, name)
