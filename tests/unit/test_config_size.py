"""`size`, `adapt` and `share`: what they mean, and what is said of wrong ones."""

from __future__ import annotations

from typing import Any

import dask.config
import pytest

from gc_bootstrap.config import AdaptOptions, PoolOptions, ShareOptions, read_pools


def read(**section: Any) -> PoolOptions:
    pools, problems = read_pools(configured={"discovery": "local", **section})
    assert problems == []
    return pools["default"]


def problems_of(**section: Any) -> list[str]:
    return read_pools(configured={"discovery": "local", **section})[1]


def test_a_pool_takes_all_peers_and_keeps_them_unless_told_otherwise() -> None:
    options = read()
    assert options.takes_all
    assert not options.is_fair
    assert (options.size, options.adapt, options.share) == (None, None, ShareOptions())
    assert read(size="all") == options


@pytest.mark.parametrize(
    ("section", "is_fair"),
    [
        ({"size": 4}, True),
        ({"adapt": {}}, True),
        ({"size": 4, "share": {"policy": "keep"}}, False),
        ({"size": "all", "share": {"policy": "fair"}}, True),
        ({"share": {"policy": "keep"}}, False),
    ],
)
def test_a_pool_of_a_size_is_fair_unless_it_says_otherwise(
    section: dict[str, Any], is_fair: bool
) -> None:
    assert read(**section).is_fair == is_fair


@pytest.mark.parametrize(
    ("section", "kept"),
    [
        ({}, 0),
        ({"size": 4, "share": {"guaranteed": 3}}, 3),
        ({"adapt": {"minimum": 2}}, 2),
        ({"adapt": {"minimum": 2}, "share": {"guaranteed": 3}}, 3),
    ],
)
def test_what_is_guaranteed_and_the_minimum_are_kept(section: dict[str, Any], kept: int) -> None:
    assert read(**section).kept == kept


def test_adapt_has_the_defaults_of_dask() -> None:
    assert read(adapt={}).adapt == AdaptOptions(0, None, 1.0, 3, 5.0)


def test_adapt_takes_what_dask_is_configured_to_where_it_says_nothing() -> None:
    of_dask = {
        "distributed.adaptive.minimum": 2,
        "distributed.adaptive.maximum": 9,
        "distributed.adaptive.interval": "3s",
        "distributed.adaptive.wait-count": 5,
        "distributed.adaptive.target-duration": "1 minute",
    }
    with dask.config.set(of_dask):
        assert read(adapt={}).adapt == AdaptOptions(2, 9, 3.0, 5, 60.0)
        found = read(adapt={"maximum": 20, "wait_count": 1}).adapt
        assert found == AdaptOptions(2, 20, 3.0, 1, 60.0)
        # Dask writes "no limit" as infinity.
        assert read(adapt={"maximum": float("inf")}).adapt == AdaptOptions(2, None, 3.0, 5, 60.0)
        assert read().adapt is None, "Dask's defaults alone ask for nothing"


def test_a_pool_overrides_the_size_or_the_adapt_above_it_with_either() -> None:
    pools, problems = read_pools(
        configured={
            "size": 4,
            "share": {"weight": 2},
            "pools": {
                "same": {"discovery": "static:a"},
                "other": {"discovery": "static:b", "size": 9},
                "every": {"discovery": "static:c", "size": "all"},
                "work": {"discovery": "static:d", "adapt": {"maximum": 3}},
            },
        }
    )
    assert problems == []
    assert {name: (o.size, o.adapt and o.adapt.maximum) for name, o in pools.items()} == {
        "same": (4, None),
        "other": (9, None),
        "every": (None, None),
        "work": (None, 3),
    }
    assert {options.share.weight for options in pools.values()} == {2}


def test_a_pool_with_a_size_does_not_adapt_as_those_above_it_do() -> None:
    pools, problems = read_pools(
        configured={
            "adapt": {"minimum": 1, "maximum": 5},
            "pools": {
                "four": {"discovery": "static:a", "size": 4},
                "more": {"discovery": "static:b", "adapt": {"maximum": 8}},
            },
        }
    )
    assert problems == []
    assert (pools["four"].size, pools["four"].adapt) == (4, None)
    assert pools["more"].adapt == AdaptOptions(1, 8)


def test_what_a_caller_asks_for_wins_over_the_configuration() -> None:
    pools, problems = read_pools({"adapt": {"maximum": 3}}, {"discovery": "local", "size": 4})
    assert problems == []
    assert (pools["default"].size, pools["default"].adapt) == (None, AdaptOptions(0, 3))


P = "gc-bootstrap"
ADAPT = ("minimum", "maximum", "interval", "wait-count", "target-duration")


@pytest.mark.parametrize(
    ("section", "problem"),
    [
        ({"size": -1}, f"{P}.size: -1 is neither all nor a whole number of at least 0"),
        ({"size": 1.5}, f"{P}.size: 1.5 is neither all nor a whole number of at least 0"),
        ({"size": True}, f"{P}.size: True is neither all nor a whole number of at least 0"),
        ({"size": "some"}, f"{P}.size: 'some' is neither all nor a whole number of at least 0"),
        ({"size": None}, f"{P}.size: None is neither all nor a whole number of at least 0"),
        (
            {"adapt": 3},
            f"{P}.adapt: 3 is not a section with {', '.join(ADAPT)}",
        ),
        ({"adapt": {"minimum": -1}}, f"{P}.adapt.minimum: -1 is not a whole number of at least 0"),
        (
            {"adapt": {"maximum": "x"}},
            f"{P}.adapt.maximum: 'x' is not a whole number of at least 0",
        ),
        (
            {"adapt": {"wait-count": 0}},
            f"{P}.adapt.wait-count: 0 is not a whole number of at least 1",
        ),
        ({"adapt": {"maximun": 3}}, f"{P}.adapt.maximun: unknown key; did you mean maximum?"),
        (
            {"adapt": {"minimum": 5, "maximum": 4}},
            f"{P}.adapt.minimum: 5 is more than maximum, 4",
        ),
        ({"size": 3, "adapt": {}}, f"{P}.size: 3 contradicts adapt; keep one of them"),
        ({"share": {"policy": "nice"}}, f"{P}.share.policy: 'nice' is not one of fair, keep"),
        ({"share": {"weight": 0}}, f"{P}.share.weight: 0 is not a number from 0.001 to 1000"),
        (
            {"share": {"guaranteed": -2}},
            f"{P}.share.guaranteed: -2 is not a whole number of at least 0",
        ),
        (
            {"size": 3, "share": {"guaranteed": 4}},
            f"{P}.share.guaranteed: 4 is more than size, 3",
        ),
        (
            {"adapt": {"maximum": 3}, "share": {"guaranteed": 4}},
            f"{P}.share.guaranteed: 4 is more than adapt.maximum, 3",
        ),
    ],
)
def test_a_wrong_value_is_one_line_with_key_value_and_expectation(
    section: dict[str, Any], problem: str
) -> None:
    assert problems_of(**section) == [problem]


def test_all_problems_are_said_at_once_with_the_pool_that_has_them() -> None:
    problems = problems_of(
        size="many",
        share={"weight": -1},
        pools={
            "a": {"discovery": "static:a", "adapt": {"minimum": 9, "maximum": 1}},
            "b": {"discovery": "static:b", "size": 2, "share": {"guaranteed": 5}},
        },
    )
    assert [problem.partition(":")[0] for problem in problems] == [
        f"{P}.size",
        f"{P}.share.weight",
        f"{P}.pools.a.adapt.minimum",
        f"{P}.pools.b.share.guaranteed",
    ]


def test_a_wrong_setting_of_dask_is_no_problem_of_the_pool() -> None:
    with dask.config.set({"distributed.adaptive.minimum": "a few"}):
        assert read(adapt={"maximum": 3}).adapt == AdaptOptions(0, 3)
