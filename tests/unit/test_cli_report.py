"""What `dask pool status` says of a pool: rows by state, a summary, and what `--check` minds."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from gc_bootstrap.cli.common import show, table
from gc_bootstrap.cli.report import (
    CHECKS,
    STATES,
    Row,
    claimed,
    drained,
    incomplete,
    rows,
    summary,
    troubles,
)
from gc_bootstrap.config import AdaptOptions, ShareOptions
from gc_bootstrap.peer import Peer
from gc_bootstrap.pool.status import PoolStatus
from gc_bootstrap.scheduler.drained import Drained
from gc_bootstrap.stake import Claim, Stake

A, B, C, D, E, F, G = (Peer("10.0.0.5", port) for port in range(1, 8))


def pool(
    workers: dict[Peer, list[str]] | None = None,
    nworkers: dict[Peer, int] | None = None,
    drains: tuple[Drained, ...] = (),
    **fields: Any,
) -> dict[str, Any]:
    """One pool's part of the answer of a scheduler."""
    plain: dict[str, Any] = {
        "name": "default", "discovery": "static", "dist": "dask", "paused": False,
        "refresh_interval": 5.0, "refreshes": 3, "error": None, "warning": None,
        "incomplete": None, "incomplete_for": None,
        "peers": (), "members": (), "connecting": (), "disconnecting": (),
    }  # fmt: skip
    status = PoolStatus(**{**plain, **fields}).to_json()
    return {
        **status,
        "workers": {str(p): found for p, found in (workers or {}).items()},
        "nworkers": {str(p): count for p, count in (nworkers or {}).items()},
        "drains": [drain.to_json() for drain in drains],
    }


EVERYTHING = pool(
    {B: ["tcp://b:1", "tcp://b:2"], A: ["tcp://a:1"]},
    peers=(A, B, C, D, E, F),
    members=(A, B),
    connecting=(C, G),
    disconnecting=(B,),
    progress={B: "2 tasks run"},
    held={D: "backing off", E: "is the same agent as A", F: "is leaving"},
    leaving=(F,),
    same_as={E: A},
    labels={A: {"zone": "a", "pod": "x"}},
)


def test_each_peer_has_a_row_by_state() -> None:
    assert rows(EVERYTHING) == [
        Row("10.0.0.5:1", "member", "tcp://a:1", labels="zone=a pod=x"),
        Row("10.0.0.5:2", "draining", "tcp://b:1, tcp://b:2", "2 tasks run"),
        Row("10.0.0.5:3", "attaching"),
        Row("10.0.0.5:7", "attaching"),
        Row("10.0.0.5:4", "held", reason="backing off"),
        Row("10.0.0.5:6", "leaving", reason="is leaving"),
        Row("10.0.0.5:5", "alias", reason="is the same agent as A"),
    ]


def test_a_peer_that_has_not_been_tried_waits() -> None:
    assert rows(pool(peers=(A,))) == [Row("10.0.0.5:1", "waiting")]


def test_workers_and_reason_are_told_together() -> None:
    assert Row("a", "draining", "tcp://b:1", "2 tasks run").detail == "tcp://b:1 (2 tasks run)"
    assert Row("a", "member", "tcp://b:1").detail == "tcp://b:1"
    assert Row("a", "held", reason="backing off").detail == "backing off"


def test_a_member_without_some_of_its_workers_says_so() -> None:
    there = {A: ["tcp://a:1"], B: ["tcp://b:1", "tcp://b:2"]}
    found = rows(pool(there, {A: 2, B: 2}, peers=(A, B), members=(A, B)))
    assert [row.workers for row in found] == [
        "1 of 2 workers: tcp://a:1",
        "tcp://b:1, tcp://b:2",
    ]


def test_a_member_drains_whoever_asked_for_it() -> None:
    found = rows(pool(peers=(A,), members=(A,), progress={A: "2 tasks run"}))
    assert found == [Row("10.0.0.5:1", "draining", reason="2 tasks run")]


def test_the_last_drains_are_told_newest_first_with_what_they_cost() -> None:
    ended = [Drained(A, "p", "tcp://a:1", ("agent",), "done", 5.3, 60.0) for _ in range(9)]
    ended += [
        Drained(B, "p", "tcp://b:1", ("agent", "pool"), "done", 9.0, 30.0, "2 results"),
        Drained(C, "p", "tcp://c:1", ("pool",), "cancelled", 1.0, 20.0),
        Drained(D, "p", "tcp://d:1", ("pool",), "gone", 2.0, 10.0),
        Drained(E, "p", "tcp://e:1", ("pool",), "running", 2.0),
    ]
    assert drained(pool(drains=tuple(ended))) == [
        ("10.0.0.5:4: the worker ended after 2.0 s of its drain (asked by its pool, 10 s ago)",
         "yellow"),
        ("10.0.0.5:3: the drain was cancelled after 1.0 s (asked by its pool, 20 s ago)", "dim"),
        ("10.0.0.5:2: drained in 9.0 s, lost 2 results (asked by its agent and pool, 30 s ago)",
         "yellow"),
        *[("10.0.0.5:1: drained in 5.3 s, nothing lost (asked by its agent, 60 s ago)", "dim")] * 2,
    ]  # fmt: skip


def test_the_summary_counts_by_state() -> None:
    assert summary(EVERYTHING) == (
        "members 2, draining 1, attaching 2, held 1, leaving 1, alias 1, peers 6 by static,"
        " refreshes 3 (every 5 s)"
    )
    once = pool(incomplete="x", refresh_interval=None)
    assert summary(once) == "members 0, peers 0 (perhaps more) by static, refreshes 3 (once)"


SIZED: dict[str, Any] = {
    "peers": (A, B, C, D, E),
    "members": (A, B),
    "releasing": (B,),
    "held": {B: "backing off", C: "held by scheduler tcp://b:8786", D: "not needed: 1 of 1 wanted"},
    "spare": (D,),
    "held_by": {C: "tcp://b:8786"},
    "wanted": 1,
    "share": ShareOptions("fair"),
}


def test_peers_that_are_not_needed_are_spare_and_releases_are_drains() -> None:
    assert rows(pool(**SIZED)) == [
        Row("10.0.0.5:1", "member"),
        Row("10.0.0.5:2", "draining", reason="backing off"),
        Row("10.0.0.5:5", "waiting"),
        Row("10.0.0.5:3", "held", reason="held by scheduler tcp://b:8786"),
        Row("10.0.0.5:4", "spare", reason="not needed: 1 of 1 wanted"),
    ]
    released = pool(**{**SIZED, "held": {}})
    assert rows(released)[1] == Row("10.0.0.5:2", "draining", reason="is being released")
    released = pool(**SIZED, progress={B: "2 tasks run"})
    assert rows(released)[1] == Row("10.0.0.5:2", "draining", reason="2 tasks run")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"wanted": 4, "size": 4}, "members 1 of 4 wanted, does not share, peers 1 by static"),
        ({"wanted": 3, "adapt": AdaptOptions(0, 6), "share": ShareOptions("fair")},
         "members 1 of 3 wanted, adapts 0 to 6, shares, peers 1 by static"),
        ({"wanted": 3, "adapt": AdaptOptions(2), "share": ShareOptions("fair", 2.5, 1)},
         "members 1 of 3 wanted, adapts from 2, shares (weight 2.5, 1 guaranteed), peers 1"),
        ({"share": ShareOptions("fair", guaranteed=2)},
         "members 1, shares (2 guaranteed), peers 1"),
        ({}, "members 1, peers 1 by static"),
    ],
)  # fmt: skip
def test_the_summary_says_how_many_are_wanted_and_who_shares(
    fields: dict[str, Any], said: str
) -> None:
    share = {"share": ShareOptions("keep"), **fields}
    assert summary(pool(peers=(A,), members=(A,), **share)).startswith(said)


def test_the_neediest_claims_are_told_in_a_few_lines() -> None:
    def claim(name: str, holds: int, weight: float = 1.0) -> Claim:
        return Claim(f"tcp://{name}:8786", f"Scheduler-{name}", "gpu", Stake(holds, weight), 3)

    claims = (claim("d", 9), claim("a", 0), claim("b", 3, 2.0), claim("c", 2), claim("e", 9))
    assert claimed(pool(claims=claims)) == [
        "claimed by scheduler Scheduler-a at tcp://a:8786: holds 0, weight 1, wants 3",
        "claimed by scheduler Scheduler-b at tcp://b:8786: holds 3, weight 2, wants 3",
        "claimed by scheduler Scheduler-c at tcp://c:8786: holds 2, weight 1, wants 3",
        "2 more claims",
    ]
    assert claimed(pool(claims=claims[:1])) == [
        "claimed by scheduler Scheduler-d at tcp://d:8786: holds 9, weight 1, wants 3"
    ]
    assert claimed(pool()) == []
    assert claimed(pool(claims=(replace(claims[0], wants=0),))) == [], "would only hear of it"


def test_every_state_has_a_colour_that_rich_knows() -> None:
    console = Console(file=io.StringIO())
    for colour in STATES.values():
        assert console.get_style(colour)


# -- --check -------------------------------------------------------------------------------------

WELL: dict[str, Any] = {"peers": (A, B, C), "members": (A, D), "leaving": (B,), "same_as": {C: A}}


def told(**fields: Any) -> list[str]:
    return troubles({"pools": [pool(**{**WELL, **fields})], "not-started": []})


def test_all_is_well_where_every_peer_that_stays_is_a_member() -> None:
    assert told() == []
    assert told(disconnecting=(A,), held={D: "absent 1 of 3 times"}) == []


@pytest.mark.parametrize(
    ("fields", "trouble"),
    [
        ({"paused": True}, "is paused"),
        ({"error": "discovery failed: no"}, "discovery failed: no"),
        ({"warning": "panic threshold"}, "panic threshold"),
        ({"incomplete": "403 Forbidden", "incomplete_for": 75.2},
         "the answer of its discovery is incomplete for 75 s: 403 Forbidden"),
        ({"incomplete": "no answer yet", "refreshes": 0}, "has not found out who the peers are"),
        ({"members": ()}, "2 of 3 peers are no members: 10.0.0.5:1 (waiting), 10.0.0.5:3"),
        ({"members": (A,), "peers": (A, E), "leaving": (), "held": {E: "refused"}},
         "1 of 2 peers are no members: 10.0.0.5:5 (held: refused)"),
        ({"members": (A,), "peers": (A, E), "leaving": (), "connecting": (E,)},
         "1 of 2 peers are no members: 10.0.0.5:5 (attaching)"),
        ({"workers": {A: ["tcp://a:1"]}, "nworkers": {A: 2}},
         "members without some of their workers: 10.0.0.5:1 (1 of 2)"),
    ],
)  # fmt: skip
def test_what_is_not_well_is_said(fields: dict[str, Any], trouble: str) -> None:
    if not fields.get("members", True):
        fields = {**fields, "same_as": {}}
    (line,) = told(**fields)
    assert line.startswith(f"pool default: {trouble}")


def test_a_pool_that_has_what_it_wants_is_well_whatever_the_other_peers_are() -> None:
    assert told(**{**WELL, **SIZED, "leaving": (), "same_as": {}}) == []


@pytest.mark.parametrize("held", ["is not reachable: Connection refused", "other versions"])
def test_a_pool_that_has_less_than_it_wants_is_not_well_where_a_peer_could_not_be_had(
    held: str,
) -> None:
    dead = {**SIZED, "wanted": 2, "held": {**SIZED["held"], E: held}}
    (line,) = told(**{**WELL, **dead, "leaving": (), "same_as": {}})
    assert line == f"pool default: 1 of 5 peers are no members: 10.0.0.5:5 (held: {held})"


def test_agents_of_other_schedulers_are_no_trouble_where_they_are_shared() -> None:
    theirs = {**SIZED, "peers": (A, B, C), "wanted": 9, "leaving": (), "same_as": {}}
    assert told(**theirs) == []
    (line,) = told(**{**theirs, "share": ShareOptions("keep")})
    assert "10.0.0.5:3 (held: held by scheduler tcp://b:8786)" in line


def test_a_release_that_was_called_off_is_no_trouble() -> None:
    off = replace(LOSS, state="called-off", lost="", release=True, why="no place for its data")
    assert told(drains=(off,)) == []


LOSS = Drained(A, "p", "tcp://a:1", ("agent",), "done", 5.3, 30.0, "2 results")


def test_what_a_drain_has_lost_is_not_well_for_a_while() -> None:
    gone = replace(LOSS, peer=B, state="gone", lost="")
    (line,) = told(drains=(LOSS, gone))
    assert line == (
        "pool default: drains of the last 10 min with a loss: 10.0.0.5:1 (lost 2 results),"
        " 10.0.0.5:2 (its worker ended meanwhile)"
    )
    well = [
        replace(LOSS, ago=601.0),
        replace(LOSS, lost=""),
        replace(LOSS, state="cancelled", lost=""),
    ]
    assert told(drains=tuple(well)) == []


def test_each_check_can_fail() -> None:
    found = pool(
        {B: ["tcp://b:1"]}, {B: 2}, paused=True, error="e", incomplete="i", incomplete_for=1.0,
        peers=(A,), members=(B,), drains=(LOSS,),
    )  # fmt: skip
    assert all(list(check(found)) for check in CHECKS)


def test_why_an_answer_is_not_complete_is_said_once_and_for_how_long() -> None:
    assert incomplete(pool()) == ""
    old: dict[str, Any] = {"incomplete": "403 Forbidden", "incomplete_for": 75.2}
    assert incomplete(pool(**old)) == "incomplete for 75 s: 403 Forbidden"
    error = "discovery failed: 403 Forbidden"
    assert incomplete(pool(**old, error=error)) == "incomplete for 75 s"


def test_of_many_peers_some_are_named() -> None:
    (line,) = told(peers=(A, B, C, D, E, F, G), members=(A,), leaving=(), same_as={})
    assert line == (
        "pool default: 6 of 7 peers are no members: 10.0.0.5:2 (waiting), 10.0.0.5:3 (waiting),"
        " 10.0.0.5:4 (waiting), 3 more"
    )


def test_a_pool_that_is_not_started_is_not_well() -> None:
    reason = "pool default is not started: why"
    assert troubles({"pools": [], "not-started": [reason]}) == [reason]


# -- the table -----------------------------------------------------------------------------------


def printed(width: int) -> list[str]:
    file = io.StringIO()
    found = [("[fd00::5]:8791", "held", "a reason of several words [red]", "")]
    made = table(["peer", "state", "why", "labels"], found, whole=["peer", "state"])
    show(Console(file=file, width=width, highlight=False), made)
    return file.getvalue().splitlines()


def test_texts_are_shown_as_they_are_and_an_empty_column_is_not() -> None:
    assert printed(200) == [
        " peer            state  why",
        " [fd00::5]:8791  held   a reason of several words [red]",
    ]


def test_on_a_narrow_terminal_reasons_are_wrapped_and_addresses_are_not() -> None:
    lines = printed(40)
    assert len(lines) > 2
    assert lines[1].startswith(" [fd00::5]:8791  held   a reason")
