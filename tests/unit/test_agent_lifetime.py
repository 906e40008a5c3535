"""How long a worker lives: by its options, or else by Dask's configuration."""

from __future__ import annotations

from typing import Any

import dask.config
import pytest

from gc_bootstrap.agent.lifetime import Lifetime


@pytest.mark.parametrize(
    ("given", "configured", "seconds"),
    [
        ({"lifetime": "1h"}, None, 3600.0),
        ({"lifetime": 30}, "1h", 30.0),
        ({"lifetime": None}, "1h", 3600.0),
        ({}, "1h", 3600.0),
    ],
)
def test_a_lifetime_is_taken_from_dask(
    given: dict[str, Any], configured: str | None, seconds: float
) -> None:
    arguments = {"name": "w", **given}
    with dask.config.set({"distributed.worker.lifetime.duration": configured}):
        lifetime = Lifetime.take(arguments, 60.0)
    assert lifetime == Lifetime(seconds, 60.0)
    assert arguments == {"name": "w", "lifetime": 0}


@pytest.mark.parametrize("given", [{}, {"lifetime": None}, {"lifetime": 0}])
def test_no_lifetime_leaves_the_arguments_alone(given: dict[str, Any]) -> None:
    arguments = dict(given)
    assert Lifetime.take(arguments, 60.0) is None
    assert arguments == given


def test_a_stagger_spreads_the_ends() -> None:
    found = set()
    for _ in range(50):
        lifetime = Lifetime.take({"lifetime": "100s", "lifetime_stagger": "10s"}, 60.0)
        assert lifetime is not None
        assert 90.0 <= lifetime.seconds <= 110.0
        found.add(lifetime.seconds)
    assert len(found) > 10
