"""What a cluster without agents tells a person, and what a notebook shows of its pools."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

from gc_bootstrap.cluster import page
from gc_bootstrap.cluster.advice import advice, without_members
from gc_bootstrap.config import AdaptOptions
from gc_bootstrap.peer import Peer
from tests.unit.test_cli_report import A, B, C, D, E, pool

HERE = Peer("127.0.0.1", 8791)
EVIL = "<script>alert(1)</script>&"


def status(*pools: dict[str, Any], address: str = "tcp://127.0.0.1:8786") -> dict[str, Any]:
    return {"scheduler": {"address": address, "id": "s"}, "pools": pools, "not-started": []}


def test_nobody_found_says_by_what_and_how_an_agent_is_started() -> None:
    (line,) = advice(status(pool(discovery="local")))
    assert line.startswith("pool default: local finds no agents. Start some on this machine")
    (line,) = advice(status(pool(discovery="dns:workers.prod")))
    assert "dask pool agent --listen 0.0.0.0:8791 --cookie-file FILE" in line
    (line,) = advice(status(pool(incomplete="one of two is silent", incomplete_for=2.0)))
    assert "finds no agents (incomplete for 2 s: one of two is silent)" in line


def test_an_error_is_said_and_no_answer_is_not_taken_for_nobody() -> None:
    lines = advice(status(pool(refreshes=0, error="discovery failed: SERVFAIL")))
    assert lines == [
        "pool default: discovery failed: SERVFAIL",
        "pool default: static has not answered yet",
    ]
    nothing = {**status(), "not-started": ["there is no pool"]}
    assert advice(nothing) == ["there is no pool"]


def test_those_that_are_found_are_named_with_what_is_wrong_with_the_first_ones() -> None:
    found = pool(peers=(A, B, C, D, E), members=(E,), connecting=(A,))
    (line, _) = advice(status(found))
    assert f"static finds 5 agents, 1 are attached; {A} is attaching; {B} is waiting" in line
    assert line.endswith("; and 1 more")


def test_far_agents_and_a_scheduler_on_loopback_do_not_meet() -> None:
    far, near = pool(peers=(A,)), pool(peers=(HERE,))
    assert any("PoolCluster(host=...)" in line for line in advice(status(far)))
    assert not any("host=" in line for line in advice(status(near)))
    assert not any("host=" in line for line in advice(status(far, address="tcp://10.0.0.1:8786")))
    assert not any("host=" in line for line in advice(status(pool(peers=(A,), members=(A,)))))


def test_who_is_not_wanted_is_not_missing_and_it_is_said_what_decides() -> None:
    sized = pool(peers=(A, B), members=(A,), wanted=1, size=1, spare=(B,))
    assert advice(status(sized)) == [
        "pool default: static finds 2 agents, and 1 are wanted (its size is 1: scale() changes it)"
    ]
    (line,) = advice(status(pool(peers=(A,), wanted=0, adapt=AdaptOptions(), spare=(A,))))
    assert "adapt() to what the work needs, from 0 to any number" in line


def test_a_cluster_that_wants_nobody_lacks_nobody() -> None:
    assert without_members(status(pool()))
    assert not without_members(status(pool(wanted=0)))
    assert not without_members(status(pool(peers=(A,), members=(A,))))


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.seen.add(tag)
        if tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_what_others_say_is_text_in_a_notebook_and_the_tags_are_balanced() -> None:
    told = pool(
        peers=(A, B), discovery=EVIL, error=EVIL, warning=EVIL, labels={A: {"pod": EVIL}},
        incomplete=EVIL, incomplete_for=1.0, name=EVIL,
    )  # fmt: skip
    told["held"] = {str(A): EVIL}
    told["workers"] = {str(A): (EVIL,)}
    html = page.pools({**status(told), "not-started": [EVIL]}) + page.sizes(status(told))
    tags = _Tags()
    tags.feed(html)
    assert not tags.open
    assert "script" not in tags.seen
    assert html.count("&lt;script&gt;alert(1)&lt;/script&gt;&amp;") >= 8


def test_each_agent_has_a_row_and_many_are_counted() -> None:
    many = [replace(A, port=port) for port in range(1000, 1000 + page.MOST + 7)]
    html = page.pools(status(pool(peers=tuple(many))))
    assert html.count("<tr>") == 1 + 1 + page.MOST
    assert "and 7 more" in html
    assert "<details>" not in page.pools(status(pool()))
