"""Which faults come when, as a pure value made from a seed.

A *graceful* storm consists of what must not cost anything: agents that leave in good order, a
discovery that is out, and processes and links that pause for less than any time-out. A *hard*
storm has these, too, and faults that take results away: see :data:`HARD`.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

StormKind = Literal["graceful", "hard"]


class Kind(StrEnum):
    """What can happen."""

    REPLACE = "replace"  # a new agent is attached, then the old one goes
    LEAVE = "leave"  # discovery says that an agent is leaving, and takes it back
    VANISH = "vanish"  # discovery does not name an agent that lives, and then does
    BLANK = "empty answer"  # discovery says that there is nobody at all: more than may be true
    STOP_WORKER = "stop worker"  # SIGSTOP, and SIGCONT a moment later
    STOP_AGENT = "stop agent"
    STOP_SCHEDULER = "stop scheduler"
    STOP_DISCOVERY = "stop discovery"
    CUT_CONTROL = "cut control"  # nothing passes between scheduler and an agent's control API
    CUT_SCHEDULER = "cut scheduler"  # nothing passes from an agent and its worker to the scheduler
    KILL_DISCOVERY = "kill discovery"  # SIGKILL, and started again
    KILL_WORKER = "kill worker"
    KILL_AGENT = "kill agent"
    KILL_SCHEDULER = "kill scheduler"
    RESET = "reset"  # connections of an agent and its worker to the scheduler break
    OUTLAST_STOP = "stop worker until it is given up"
    OUTLAST_CUT = "cut scheduler until its worker is given up"


HARD = frozenset(
    {
        Kind.KILL_WORKER,
        Kind.KILL_AGENT,
        Kind.KILL_SCHEDULER,
        Kind.RESET,
        Kind.OUTLAST_STOP,
        Kind.OUTLAST_CUT,
    }
)
"""What may make Dask run something again. A broken connection to the scheduler is among it: a
worker of Dask ends then (distributed 2026.8, ``Worker.handle_scheduler``)."""
ONCE = frozenset({Kind.KILL_SCHEDULER, Kind.OUTLAST_STOP, Kind.OUTLAST_CUT})
"""At most once in a storm: they take long."""
SILENT = frozenset({Kind.STOP_WORKER, Kind.STOP_SCHEDULER, Kind.CUT_SCHEDULER})
"""What keeps a worker's heartbeats from the scheduler. It may add up, and must stay far below the
scheduler's ``worker-ttl`` even where it does."""
SILENCE = 5.0
"""Seconds of that in one storm."""

_WEIGHTS = {
    Kind.REPLACE: 4,
    Kind.LEAVE: 2,
    Kind.VANISH: 1,
    Kind.BLANK: 1,
    Kind.STOP_WORKER: 2,
    Kind.STOP_AGENT: 1,
    Kind.STOP_SCHEDULER: 1,
    Kind.STOP_DISCOVERY: 1,
    Kind.CUT_CONTROL: 2,
    Kind.CUT_SCHEDULER: 2,
    Kind.KILL_DISCOVERY: 1,
    Kind.KILL_WORKER: 3,
    Kind.KILL_AGENT: 3,
    Kind.KILL_SCHEDULER: 2,
    Kind.RESET: 2,
    Kind.OUTLAST_STOP: 1,
    Kind.OUTLAST_CUT: 1,
}
_SECONDS = {
    Kind.LEAVE: (0.05, 1.0),  # often shorter than the drain
    Kind.VANISH: (0.5, 4.0),
    Kind.BLANK: (0.5, 4.0),
    Kind.STOP_WORKER: (0.2, 1.5),
    Kind.STOP_AGENT: (0.2, 3.0),
    Kind.STOP_SCHEDULER: (0.2, 1.5),
    Kind.STOP_DISCOVERY: (0.5, 3.0),
    Kind.CUT_CONTROL: (0.2, 4.0),
    Kind.CUT_SCHEDULER: (0.2, 1.5),
    Kind.KILL_DISCOVERY: (0.2, 3.0),
    Kind.KILL_AGENT: (0.0, 2.0),  # until it is started again
    Kind.RESET: (0.0, 1.0),  # in which new connections are refused
}
"""How long what lasts, from and to."""
_VARIANTS = {
    Kind.REPLACE: ("sigterm", "leaving", "both"),  # how the old agent learns that it has to go
    Kind.KILL_AGENT: ("process", "node"),  # the agent alone, or all of its processes at once
    Kind.KILL_SCHEDULER: ("same port", "other port"),  # where the next one listens
}


@dataclass(frozen=True, slots=True)
class Event:
    """One fault.

    Parameters
    ----------
    at
        Seconds from the beginning of the storm.
    kind
        What happens.
    slot
        To which of the cluster's agents, where it is about one.
    seconds
        How long it lasts, where it lasts.
    variant
        Which form of it, where there are several.
    """

    at: float
    kind: Kind
    slot: int
    seconds: float = 0.0
    variant: str = ""

    def __str__(self) -> str:
        lasts = f" for {self.seconds} s" if self.seconds else ""
        how = f" ({self.variant})" if self.variant else ""
        return f"{self.at:5.2f} s: {self.kind}{how}, slot {self.slot}{lasts}"


@dataclass(frozen=True, slots=True)
class Storm:
    """All that happens in one storm, in the order in which it begins."""

    seed: int
    kind: StormKind
    events: tuple[Event, ...]

    def __str__(self) -> str:
        return "\n".join([f"{self.kind} storm {self.seed}:", *map(str, self.events)])


def make_storm(
    seed: int, kind: StormKind, *, slots: int = 4, events: int = 6, length: float = 4.0
) -> Storm:
    """Decide on a storm.

    Parameters
    ----------
    seed
        The same seed, the same storm.
    kind
        A hard one has hard events for half of its events at least.
    slots
        How many agents the cluster has.
    events
        How many events there are.
    length
        Seconds within which they begin.
    """
    rng = random.Random(f"{kind} {seed}")
    silence = SILENCE
    found: list[Event] = []
    while len(found) < events:
        used = {event.kind for event in found}
        want_hard = kind == "hard" and len(found) % 2 == 0
        kinds = [k for k in Kind if (k in HARD) == want_hard and k not in ONCE & used]
        choice = rng.choices(kinds, [_WEIGHTS[k] for k in kinds])[0]
        seconds = round(rng.uniform(*_SECONDS.get(choice, (0.0, 0.0))), 2)
        if choice in SILENT:
            if seconds > silence:
                continue
            silence -= seconds
        found.append(
            Event(
                at=round(rng.uniform(0.0, length), 2),
                kind=choice,
                slot=rng.randrange(slots),
                seconds=seconds,
                variant=rng.choice(_VARIANTS.get(choice, ("",))),
            )
        )
    return Storm(seed, kind, tuple(sorted(found, key=lambda event: event.at)))
