"""What has to match between scheduler and agent."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import version

# Read from the disk once: the event loop has no time for it at each attach.
_DISTRIBUTED = version("distributed")


def installed() -> dict[str, str]:
    """What has to match between scheduler and agent."""
    return {"python": platform.python_version(), "distributed": _DISTRIBUTED}


def mismatch(mine: Mapping[str, str], theirs: Mapping[str, str]) -> str | None:
    """Compare an agent's versions with a scheduler's.

    Python's minor and ``distributed``'s whole version have to be the same: pickled functions and
    Dask's protocol are compatible only then. What either does not state is not compared.

    Returns
    -------
    str or None
        What differs, in one line.
    """
    differ = []
    for name, label in (("python", "Python"), ("distributed", "distributed")):
        agents, schedulers = mine.get(name), theirs.get(name)
        if agents is None or schedulers is None:
            continue
        if name == "python":
            agents, schedulers = (".".join(v.split(".")[:2]) for v in (agents, schedulers))
        if agents != schedulers:
            differ.append(f"{label} {agents} at the agent and {schedulers} at the scheduler")
    return "; ".join(differ) or None
