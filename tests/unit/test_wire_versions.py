"""What has to match between scheduler and agent."""

from __future__ import annotations

import pytest

from gc_bootstrap.wire import versions


def test_the_versions_of_one_environment_match() -> None:
    assert versions.mismatch(versions.installed(), versions.installed()) is None


@pytest.mark.parametrize(
    ("mine", "theirs", "differ"),
    [
        ({"python": "3.11.7"}, {"python": "3.11.9"}, None),
        (
            {"python": "3.11.7"},
            {"python": "3.12.7"},
            "Python 3.11 at the agent and 3.12 at the scheduler",
        ),
        (
            {"python": "3.1.7", "distributed": "8"},
            {"python": "3.11.7", "distributed": "9"},
            (
                "Python 3.1 at the agent and 3.11 at the scheduler;"
                " distributed 8 at the agent and 9 at the scheduler"
            ),
        ),
        ({}, {"python": "3.12.7", "distributed": "1"}, None),
        ({"python": "3.11.7"}, {}, None),
    ],
)
def test_pythons_minor_and_the_whole_of_distributed_are_compared(
    mine: dict[str, str], theirs: dict[str, str], differ: str | None
) -> None:
    assert versions.mismatch(mine, theirs) == differ
