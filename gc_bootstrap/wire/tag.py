"""The tag on a worker: the agent that starts it writes it, the scheduler reads whose it is.

It travels as ``Worker.startup_information`` and arrives as ``WorkerState.extra``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

KEY = "gc_bootstrap"
"""Of ``WorkerState.extra``."""


@dataclass(frozen=True, slots=True)
class Tag:
    """Who attached a worker, and what it can do that Dask's own workers cannot.

    Parameters
    ----------
    scheduler_id
        Of the scheduler that attached it.
    peer
        The agent, as that scheduler's discovery names it.
    pool
        The pool that attached it.
    reports
        Whether the worker answers :data:`.names.REPORT_REQUEST`.
    nworkers
        How many workers its agent runs for that scheduler, when all is well.
    agent
        Which start of the agent it is; empty where it does not say.
    """

    scheduler_id: str
    peer: str
    pool: str
    reports: bool = True
    nworkers: int = 1
    agent: str = ""

    def encode(self) -> dict[str, Any]:
        """The same, of types that msgpack has."""
        return asdict(self)

    @classmethod
    def decode(cls, extra: Mapping[str, Any]) -> Self | None:
        """Read the tag out of what a worker told its scheduler; None where there is none.

        Others may use the key, and an agent of a later version may say more than this one knows.
        """
        content = extra.get(KEY)
        if not isinstance(content, Mapping):
            return None
        scheduler_id, peer, pool = map(content.get, ("scheduler_id", "peer", "pool"))
        if not all(isinstance(text, str) for text in (scheduler_id, peer, pool)):
            return None
        reports, nworkers = content.get("reports") is True, content.get("nworkers")
        if not isinstance(nworkers, int) or nworkers < 1:
            nworkers = 1
        agent = content.get("agent")
        agent = agent if isinstance(agent, str) else ""
        return cls(str(scheduler_id), str(peer), str(pool), reports, int(nworkers), agent)
