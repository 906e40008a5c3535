"""The ledger of task executions, and the rule that it is held to.

Each execution of a task appends one line ``key pid time`` when it begins. The rule:

    A key is executed once, and once more for each *loss* that took it.

A loss is what a hard fault (:data:`schedule.HARD`) does, and nothing else is one. It takes

- the keys that, by the scheduler's own tables, a victim had in memory or was processing when the
  fault began (a worker that is to be killed is stopped first, one that is to be cut off is cut
  off, and then the tables are read). That a key is in memory elsewhere, too, does not save it:
  Dask's active memory manager may be dropping the other copy at that very moment, as surplus;
- the keys that a victim itself began to execute after that: a worker that has been given up while
  it was stopped or cut off still has tasks in its queue when it wakes up;
- all keys, where the scheduler was killed: nobody knows of any result any more, and the client
  submits everything again.

An execution has to be explained by losses that came before it. A graceful storm has no losses:
there each key has exactly one execution.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Execution:
    """One line of the ledger; ``at`` in seconds of the system's monotonic clock."""

    key: str
    pid: int
    at: float


@dataclass(frozen=True, slots=True)
class Loss:
    """One hard fault.

    Parameters
    ----------
    what
        For people.
    at
        When it began, on the clock of the ledger.
    keys
        What was in memory or was being processed there.
    pids
        Worker processes that were lost.
    """

    what: str
    at: float
    keys: frozenset[str]
    pids: frozenset[int] = frozenset()


def read(path: Path) -> list[Execution]:
    """Read the ledger; there is none before the first execution."""
    if not path.exists():
        return []
    found = []
    for line in path.read_text().splitlines():
        key, pid, at = line.split()
        found.append(Execution(key, int(pid), float(at)))
    return found


def violations(
    executions: Iterable[Execution], losses: Iterable[Loss], keys: Iterable[str]
) -> list[str]:
    """Hold executions to the rule.

    Parameters
    ----------
    executions
        The ledger.
    losses
        All that may explain why there is more than one execution of a key.
    keys
        What was submitted, and has a result: each has to be in the ledger.

    Returns
    -------
    list of str
        One line per key that was executed too often, or never.
    """
    runs: dict[str, list[Execution]] = defaultdict(list)
    for execution in executions:
        runs[execution.key].append(execution)
    losses = sorted(losses, key=lambda loss: loss.at)
    found = [f"{key} has a result and was never executed" for key in keys if key not in runs]
    for key, of_key in sorted(runs.items()):
        of_key.sort(key=lambda execution: execution.at)
        took = [loss for loss in losses if _takes(loss, key, of_key)]
        for number, execution in enumerate(of_key):
            before = sum(loss.at <= execution.at for loss in took)
            if number > before:
                story = ", ".join(f"{e.at:.3f} by {e.pid}" for e in of_key)
                why = ", ".join(f"{loss.at:.3f} {loss.what}" for loss in took) or "nothing"
                found.append(f"{key} was executed at {story}; lost by: {why}")
                break
    return found


def _takes(loss: Loss, key: str, runs: list[Execution]) -> bool:
    return key in loss.keys or any(run.pid in loss.pids and run.at >= loss.at for run in runs)
