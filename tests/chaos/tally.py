"""How many faults of which kind a test run has brought about, for its terminal summary."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.chaos.schedule import Kind

TALLY: pytest.StashKey[Tally] = pytest.StashKey()

_GROUPS = {
    "kills": [Kind.KILL_WORKER, Kind.KILL_AGENT, Kind.KILL_SCHEDULER, Kind.KILL_DISCOVERY],
    "stops": [
        Kind.STOP_WORKER,
        Kind.STOP_AGENT,
        Kind.STOP_SCHEDULER,
        Kind.STOP_DISCOVERY,
        Kind.OUTLAST_STOP,
    ],
    "partitions": [Kind.CUT_CONTROL, Kind.CUT_SCHEDULER, Kind.OUTLAST_CUT, Kind.RESET],
    "graceful leaves": [Kind.REPLACE, Kind.LEAVE, Kind.VANISH],
    "empty answers of the discovery": [Kind.BLANK],
}


class Tally:
    """Counts what was done; what a storm planned and found nothing to do it to does not count."""

    def __init__(self) -> None:
        self.storms = 0
        self.tasks = 0
        self.executions = 0
        self.faults: Counter[Kind] = Counter()

    def lines(self) -> list[str]:
        """The summary."""
        found = [f"{self.storms} storms; {self.tasks} tasks, executed {self.executions} times"]
        for name, kinds in _GROUPS.items():
            parts = ", ".join(f"{kind} {self.faults[kind]}" for kind in kinds if self.faults[kind])
            total = sum(self.faults[kind] for kind in kinds)
            found.append(f"{total} {name}" + (f": {parts}" if parts else ""))
        return found
