"""The tag on a worker: what an agent writes, a scheduler reads, whatever version each is of."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gc_bootstrap.wire.tag import KEY, Tag

TAG = Tag("Scheduler-1", "10.0.0.5:8791", "default")


@given(st.text(), st.text(), st.text(), st.booleans(), st.integers(1), st.text())
def test_what_is_read_is_what_was_written(
    scheduler_id: str, peer: str, pool: str, reports: bool, nworkers: int, agent: str
) -> None:
    tag = Tag(scheduler_id, peer, pool, reports, nworkers, agent)
    assert Tag.decode({KEY: tag.encode(), "somebody's": "own"}) == tag


def test_a_tag_of_an_older_agent_says_nothing_of_reports() -> None:
    older = {name: value for name, value in TAG.encode().items() if name != "reports"}
    assert Tag.decode({KEY: older}) == Tag("Scheduler-1", "10.0.0.5:8791", "default", reports=False)


@pytest.mark.parametrize("nworkers", [None, 0, -1, "2", 1.5])
def test_a_number_of_workers_that_is_none_is_one(nworkers: Any) -> None:
    decoded = Tag.decode({KEY: {**TAG.encode(), "nworkers": nworkers}})
    assert decoded == TAG


def test_a_tag_of_a_newer_agent_may_say_more() -> None:
    assert Tag.decode({KEY: {**TAG.encode(), "zone": "eu-1"}}) == TAG


@pytest.mark.parametrize(
    "extra",
    [{}, {KEY: None}, {KEY: "text"}, {KEY: []}, {KEY: {}}]
    + [{KEY: {**TAG.encode(), name: None}} for name in ("scheduler_id", "peer", "pool")]
    + [{KEY: {**TAG.encode(), "peer": 5}}],
    ids=repr,
)
def test_what_is_no_tag_is_none(extra: dict[str, Any]) -> None:
    assert Tag.decode(extra) is None
