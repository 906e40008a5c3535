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
        here, there = mine.get(name), theirs.get(name)
        if here is None or there is None:
            continue
        if name == "python":
            here, there = (".".join(v.split(".")[:2]) for v in (here, there))
        if here != there:
            differ.append(f"{label} {here} here and {there} at the scheduler")
    return "; ".join(differ) or None
