"""What a scheduler makes of an agent's status."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gc_bootstrap.errors import DistError
from gc_bootstrap.peer import Outcome, Peer
from gc_bootstrap.scheduler.surveys import judge
from gc_bootstrap.stake import Capacity, Holder, Stake, Survey
from gc_bootstrap.wire.messages import HolderReply, StatusReply

PEER = Peer("10.0.0.5", 8791)
MINE = {"python": "3.11.7", "distributed": "2026.1.1"}
IDLE = StatusReply(
    state="idle",
    scheduler=None,
    scheduler_id=None,
    peer=None,
    pool=None,
    workers=(),
    nworkers=2,
    nthreads=4,
    memory_limit="1 GiB",
    versions=MINE,
    memory=2**30,
    resources={"GPU": 1.0},
)
CAPACITY = Capacity(2, 4, 2**30, {"GPU": 1.0})
OURS = replace(
    IDLE,
    state="attached",
    scheduler="tcp://10.0.0.1:1",
    scheduler_id="me",
    peer=str(PEER),
    pool="p",
)
THEIRS = replace(OURS, scheduler_id="another")


def judged(status: StatusReply, must_match: dict[str, str] = MINE) -> Survey | Outcome:
    return judge(status, PEER, "me", "p", must_match)


def test_a_free_agent_says_what_it_can_do() -> None:
    assert judged(IDLE) == Survey(CAPACITY)


@pytest.mark.parametrize("state", ["warming", "draining"])
def test_one_that_starts_or_ends_is_refused_as_an_attach_would_be(state: str) -> None:
    reason = {"warming": "is warming up", "draining": "is draining"}[state]
    for status in (IDLE, OURS, THEIRS):
        found = judged(replace(status, state=state))
        assert found == Outcome.refused(reason, expected=True, soon=True)


@pytest.mark.parametrize("other", [{"python": "3.12.0"}, {"distributed": "2026.8.0"}])
@pytest.mark.parametrize("status", [IDLE, THEIRS])
def test_one_of_other_versions_is_refused_also_while_another_holds_it(
    status: StatusReply, other: dict[str, str]
) -> None:
    found = judged(replace(status, versions=MINE | other))
    assert isinstance(found, Outcome)
    assert found.reason.startswith("incompatible versions: ")
    assert found.soon


def test_versions_are_compared_where_the_scheduler_wants_that_only() -> None:
    assert judged(replace(IDLE, versions={"python": "2.7.18"}), {}) == Survey(CAPACITY)


def test_whose_it_is_is_said_with_all_that_is_known_of_who_holds_it() -> None:
    held = judged(THEIRS)
    assert held == Survey(CAPACITY, Holder("tcp://10.0.0.1:1", "another", Stake(holds=1)))
    said = HolderReply("tcp://10.0.0.1:1", "another", 4, 2.0, 3)
    held = judged(replace(THEIRS, holder=said))
    assert held == Survey(CAPACITY, Holder("tcp://10.0.0.1:1", "another", Stake(4, 2.0, 3)))


def test_one_that_is_ours_already_is_free_for_us() -> None:
    assert judged(OURS) == Survey(CAPACITY)


def test_one_that_is_ours_by_another_name_or_in_another_pool_is_refused() -> None:
    alias = Peer("node-5", 8791)
    found = judged(replace(OURS, peer=str(alias)))
    assert found == Outcome.refused("is the same agent as node-5:8791", alias)
    found = judged(replace(OURS, pool="q"))
    assert found == Outcome.refused("is attached by the pool 'q'", soon=True)


@pytest.mark.parametrize("change", [{"scheduler": None}, {"scheduler_id": "me", "peer": "::::"}])
def test_a_status_that_makes_no_sense_is_no_agents(change: dict[str, str | None]) -> None:
    with pytest.raises(DistError, match="is no gc_bootstrap agent: "):
        judged(replace(THEIRS, **change))  # type: ignore[arg-type]
