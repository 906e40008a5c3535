"""What ``dask pool status`` has to say, as plain values: rows, a summary, what is not well.

Pure functions of one pool's part of the scheduler's answer. To show something more, add a field to
:class:`Row` or a line to :func:`summary`; to have ``--check`` fail for something more, add a
function to :data:`CHECKS`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Pool = Mapping[str, Any]

STATES = {
    "member": "green",
    "draining": "yellow",
    "attaching": "cyan",
    "waiting": "cyan",
    "held": "red",
    "spare": "dim",
    "leaving": "dim",
    "alias": "dim",
}
"""What a peer can be, in the order in which it is shown, and its colour.

``draining`` is a member that is being let go, whoever asked for it; ``waiting`` has not been tried
yet; ``held`` is left alone for a reason; ``spare`` is not needed; ``leaving`` is about to go and no
member; ``alias`` is another name of a member.
"""

DRAINS = 5
"""Of the drains that have ended, how many are shown."""
CLAIMS = 3
"""Of the claims of other schedulers, how many are shown."""
NAMED = 3
"""Of the peers that something is wrong with, how many ``--check`` names: it is one line."""
RECENT = 600.0
"""Seconds for which ``--check`` minds what a drain has lost: who asks each 5 min sees it twice."""


@dataclass(frozen=True, slots=True)
class Row:
    """One peer: its state, its workers, why it is in that state, and its labels."""

    peer: str
    state: str
    workers: str = ""
    reason: str = ""
    labels: str = ""

    @property
    def detail(self) -> str:
        """Workers and reason in one."""
        if self.workers and self.reason:
            return f"{self.workers} ({self.reason})"
        return self.workers or self.reason


def rows(pool: Pool) -> list[Row]:
    """A row per peer and member, by state and then by address."""
    everybody = dict.fromkeys((*pool["members"], *pool["connecting"], *pool["peers"]))
    order = {peer: place for place, peer in enumerate(everybody)}
    places = {state: place for place, state in enumerate(STATES)}
    found = [_row(pool, peer) for peer in order]
    return sorted(found, key=lambda row: (places[row.state], order[row.peer]))


def labels_text(labels: Mapping[str, str]) -> str:
    """Labels in one line."""
    return " ".join(f"{name}={value}" for name, value in labels.items())


def _row(pool: Pool, peer: str) -> Row:
    return Row(
        peer,
        _state(pool, peer),
        _workers(pool, peer),
        pool["progress"].get(peer) or pool["held"].get(peer) or _why_released(pool, peer),
        labels_text(pool["labels"].get(peer, {})),
    )


def _why_released(pool: Pool, peer: str) -> str:
    return "is being released" if peer in pool["releasing"] else ""


def _workers(pool: Pool, peer: str) -> str:
    found = pool["workers"].get(peer, ())
    promised = pool["nworkers"].get(peer, 0)
    fewer = f"{len(found)} of {promised} workers: " if 0 < len(found) < promised else ""
    return fewer + ", ".join(found)


def _state(pool: Pool, peer: str) -> str:
    if peer in pool["members"]:
        drains = any(peer in pool[key] for key in ("disconnecting", "releasing"))
        return "draining" if drains or pool["progress"].get(peer) else "member"
    if peer in pool["connecting"]:
        return "attaching"
    if peer in pool["leaving"]:
        return "leaving"
    if peer in pool["same-as"]:
        return "alias"
    if peer in pool["spare"]:
        return "spare"
    return "held" if peer in pool["held"] else "waiting"


def summary(pool: Pool) -> str:
    """The pool in one line: who is what, and where that comes from."""
    counted = Counter(row.state for row in rows(pool) if row.state != "member")
    counts = [f"{state} {counted[state]}" for state in STATES if state in counted]
    every = pool["refresh-interval"]
    often = "once" if every is None else f"every {every:g} s"
    perhaps = "" if pool["complete"] else " (perhaps more)"
    found = f"peers {len(pool['peers'])}{perhaps} by {pool['discovery']}"
    wanted = "" if pool["wanted"] is None else f" of {pool['wanted']} wanted"
    members, refreshes = f"members {len(pool['members'])}{wanted}", f"refreshes {pool['refreshes']}"
    return ", ".join([members, *counts, *_policy(pool), found, f"{refreshes} ({often})"])


def _policy(pool: Pool) -> Iterator[str]:
    """How many it is to hold and with whom it shares; nothing for one that takes all it finds."""
    adapt, share = pool["adapt"], pool["share"]
    if adapt is not None:
        most = "" if adapt["maximum"] is None else f" to {adapt['maximum']}"
        yield f"adapts {'' if most else 'from '}{adapt['minimum']}{most}"
    if share["policy"] == "fair":
        said = [f"weight {share['weight']:g}"] if share["weight"] != 1 else []
        said += [f"{share['guaranteed']} guaranteed"] if share["guaranteed"] else []
        yield "shares" + (f" ({', '.join(said)})" if said else "")
    elif pool["wanted"] is not None:
        yield "does not share"


def claimed(pool: Pool) -> list[str]:
    """Who claims some of its members, the neediest first, each in one line.

    Without those that would only hear when one is free.
    """
    wanting = [claim for claim in pool["claims"] if claim["wants"]]
    needy = sorted(wanting, key=lambda claim: (claim["holds"] + 1) / claim["weight"])
    lines = [
        f"claimed by scheduler {claim['scheduler-id']} at {claim['scheduler']}: holds"
        f" {claim['holds']}, weight {claim['weight']:g}, wants {claim['wants']}"
        for claim in needy[:CLAIMS]
    ]
    return lines + ([f"{len(needy) - CLAIMS} more claims"] if len(needy) > CLAIMS else [])


def incomplete(pool: Pool) -> str:
    """Why the discovery's answer is not complete, unless the error says it, and since when."""
    if pool["complete"]:
        return ""
    age = f"incomplete for {pool['incomplete-for']:.0f} s"
    said = pool["incomplete"] in (pool["error"] or "")
    return age if said else f"{age}: {pool['incomplete']}"


def drained(pool: Pool) -> list[tuple[str, str]]:
    """The last drains that have ended, newest first, each in one line with its colour."""
    found = []
    for drain in reversed([d for d in pool["drains"] if d["state"] != "running"][-DRAINS:]):
        after = f"after {drain['seconds']:.1f} s"
        what = "release" if drain["release"] else "drain"
        told = {
            "done": f"{what.removesuffix('e')}ed in {drain['seconds']:.1f} s",
            "called-off": f"release called off {after}: {drain['why']}",
            "cancelled": f"the {what} was cancelled {after}",
            "gone": f"the worker ended {after} of its {what}",
        }[drain["state"]]
        if drain["state"] == "done" and not drain["release"]:
            told += f", lost {drain['lost']}" if drain["lost"] else ", nothing lost"
        by = " and ".join(drain["asked-by"])
        line = f"{drain['peer']}: {told} (asked by its {by}, {drain['ago']:.0f} s ago)"
        found.append((line, "yellow" if drain["lost"] or drain["state"] == "gone" else "dim"))
    return found


# -- --check -------------------------------------------------------------------------------------


def _paused(pool: Pool) -> Iterator[str]:
    if pool["paused"]:
        yield "is paused"


def _said(pool: Pool) -> Iterator[str]:
    yield from (pool[key] for key in ("error", "warning") if pool[key])


def _incomplete(pool: Pool) -> Iterator[str]:
    if not pool["refreshes"]:
        yield "has not found out who the peers are"
    elif not pool["complete"]:
        yield f"the answer of its discovery is {incomplete(pool)}"


def _missing(pool: Pool) -> Iterator[str]:
    """Peers that should be members and are not, for any reason but that others hold their share."""
    wanted, stay = pool["wanted"], set(pool["members"]).difference(pool["releasing"])
    if wanted is not None and len(stay) >= wanted:
        return
    others = pool["held-by"] if pool["share"]["policy"] == "fair" else {}
    missing = [
        row
        for row in rows(pool)
        if row.state in ("attaching", "waiting", "held") and row.peer not in others
    ]
    if missing:
        named = [f"{r.peer} ({r.state}{': ' if r.reason else ''}{r.reason})" for r in missing]
        yield f"{len(missing)} of {len(pool['peers'])} peers are no members: {_some(named)}"


def _fewer(pool: Pool) -> Iterator[str]:
    there = {peer: len(pool["workers"].get(peer, ())) for peer in pool["members"]}
    promised = pool["nworkers"]
    fewer = [peer for peer in there if there[peer] < promised.get(peer, 0)]
    if fewer:
        named = [f"{peer} ({there[peer]} of {promised[peer]})" for peer in fewer]
        yield f"members without some of their workers: {_some(named)}"


def _lost(pool: Pool) -> Iterator[str]:
    ended = [d for d in pool["drains"] if d["state"] != "running" and d["ago"] < RECENT]
    lost = [f"{d['peer']} (lost {d['lost']})" for d in ended if d["lost"]]
    lost += [f"{d['peer']} (its worker ended meanwhile)" for d in ended if d["state"] == "gone"]
    if lost:
        yield f"drains of the last {RECENT / 60:g} min with a loss: {_some(lost)}"


def _some(named: Sequence[str]) -> str:
    more = [f"{len(named) - NAMED} more"] if len(named) > NAMED else []
    return ", ".join([*named[:NAMED], *more])


CHECKS: tuple[Callable[[Pool], Iterator[str]], ...] = (
    _paused,
    _said,
    _incomplete,
    _missing,
    _fewer,
    _lost,
)
"""What can be wrong with a pool; each yields nothing where all is well."""


def troubles(status: Mapping[str, Any]) -> list[str]:
    """What is not well with the pools of a scheduler; empty where all is."""
    wrong = [
        f"pool {pool['name']}: {trouble}"
        for pool in status["pools"]
        for check in CHECKS
        for trouble in check(pool)
    ]
    return [*status["not-started"], *wrong]
