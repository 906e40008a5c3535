"""What a drain looks like to people: one that runs, or one that has ended and what it has cost."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from typing import Any, Literal

from gc_bootstrap.peer import Peer
from gc_bootstrap.scheduler.wants import Asker

State = Literal["running", "done", "called-off", "cancelled", "gone"]

KEPT = 20
"""Ended drains that a pool's status shows, the last ones."""


@dataclass(frozen=True, slots=True)
class Drained:
    """One worker's drain.

    Parameters
    ----------
    peer, pool, worker
        Whose worker, attached by which pool, and its address.
    asked_by
        Who wanted it.
    state
        ``"running"``; ``"done"``; ``"called-off"``: a release that would have cost something, and
        the worker works again; ``"cancelled"``: so does this one; ``"gone"``: the worker ended
        before its drain did.
    seconds
        How long it took, or has taken so far.
    ago
        Seconds since its end.
    lost
        What went with the worker, or an empty text.
    release
        Whether the worker was to go at no cost only.
    why
        Why it was called off, or an empty text.
    """

    peer: Peer
    pool: str
    worker: str
    asked_by: tuple[Asker, ...]
    state: State
    seconds: float
    ago: float = 0.0
    lost: str = ""
    release: bool = False
    why: str = ""

    def to_json(self) -> dict[str, Any]:
        """The same, of types that JSON and msgpack know."""
        return {
            "peer": str(self.peer),
            "worker": self.worker,
            "asked-by": list(self.asked_by),
            "state": self.state,
            "seconds": round(self.seconds, 3),
            "ago": round(self.ago, 3),
            "lost": self.lost,
            "release": self.release,
            "why": self.why,
        }


class Ended:
    """The drains of a scheduler's workers that have ended: the last ones, and how many.

    Releases are kept and counted apart: there are many, and none of them has cost anything.
    """

    def __init__(self) -> None:
        self._last: dict[tuple[str, bool], deque[tuple[Drained, float]]] = {}
        self._counts: dict[str, dict[str, int]] = {}

    def note(self, told: Drained, now: float) -> None:
        """Take in that one has ended."""
        last = self._last.setdefault((told.pool, told.release), deque(maxlen=KEPT))
        last.append((told, now))
        if not told.release:
            counts = self._counts.setdefault(told.pool, _no_counts())
            counts["drains"] += 1
            counts["drains-with-loss"] += bool(told.lost)
            counts["drains-cancelled"] += told.state == "cancelled"

    def of(self, pool: str, now: float) -> list[Drained]:
        """Those of a pool's workers, the last one last."""
        kept = [*self._last.get((pool, False), ()), *self._last.get((pool, True), ())]
        return [replace(told, ago=now - at) for told, at in sorted(kept, key=lambda one: one[1])]

    def counters(self, pool: str) -> dict[str, int]:
        """How many there were, without releases, and how they ended."""
        return dict(self._counts.get(pool, _no_counts()))


def _no_counts() -> dict[str, int]:
    return dict.fromkeys(("drains", "drains-with-loss", "drains-cancelled"), 0)
