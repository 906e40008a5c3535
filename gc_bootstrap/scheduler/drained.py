"""What a drain looks like to people: one that runs, or one that has ended and what it has cost."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Literal, Self

from gc_bootstrap.peer import Peer
from gc_bootstrap.scheduler.loss import Loss
from gc_bootstrap.wire.tag import Tag

Asker = Literal["agent", "pool"]
"""Who can ask for a drain: an agent that ends, or a pool that drops a peer."""

State = Literal["running", "done", "cancelled", "gone"]

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
        ``"running"``; ``"done"``; ``"cancelled"``: the worker works again; ``"gone"``: the worker
        ended before its drain did.
    seconds
        How long it took, or has taken so far.
    ago
        Seconds since its end.
    lost
        What went with the worker, or an empty text.
    """

    peer: Peer
    pool: str
    worker: str
    asked_by: tuple[Asker, ...]
    state: State
    seconds: float
    ago: float = 0.0
    lost: str = ""

    @classmethod
    def of(
        cls,
        tag: Tag,
        worker: str,
        asked_by: tuple[Asker, ...],
        task: asyncio.Task[Loss],
        seconds: float,
        *,
        gone: bool,
    ) -> Self:
        """Tell of a drain by its task."""
        state: State = "running"
        lost = ""
        if task.done() and (task.cancelled() or task.exception()):
            state = "cancelled"
        elif task.done():
            state = "gone" if gone else "done"
            lost = str(task.result()) if task.result() else ""
        return cls(Peer.parse(tag.peer), tag.pool, worker, asked_by, state, seconds, lost=lost)

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
        }
