"""What a person can do where a cluster has no agents. Pure functions of what the pools know."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any

from gc_bootstrap.cli.report import incomplete, rows

NAMED = 3
"""Peers of a pool that are named; what is wrong with the first ones is wrong with most."""

MISSING = ("attaching", "waiting", "held")
"""States of peers that a pool would have as members."""

Status = Mapping[str, Any]


def advice(status: Status) -> list[str]:
    """Say per pool what its discovery has answered, why nobody is attached, and what helps.

    Parameters
    ----------
    status
        As ``dask pool status --json`` prints it.
    """
    lines = list(status["not-started"])
    for pool in status["pools"]:
        lines += [f"pool {pool['name']}: {line}" for line in _of_pool(pool, status)]
    return lines


def without_members(status: Status) -> bool:
    """Whether no pool has any agent, though one wants some."""
    return not any(pool["members"] or pool["wanted"] == 0 for pool in status["pools"])


def _of_pool(pool: Status, status: Status) -> list[str]:
    found = [line for key in ("error", "warning") if (line := pool[key])]
    if not pool["refreshes"]:
        return [*found, f"{pool['discovery']} has not answered yet"]
    if not pool["peers"]:
        why = f" ({told})" if (told := incomplete(pool)) else ""
        return [*found, f"{pool['discovery']} finds no agents{why}. {_how_to_start(pool)}"]
    if (wanted := pool["wanted"]) is not None and len(pool["members"]) >= wanted:
        found.append(
            f"{pool['discovery']} finds {len(pool['peers'])} agents, and {wanted} are wanted"
            f" ({_why_so_many(pool)})"
        )
    missing = [row for row in rows(pool) if row.state in MISSING]
    if missing:
        named = [f"{r.peer} is {r.state}{': ' if r.reason else ''}{r.reason}" for r in missing]
        more = [f"and {len(named) - NAMED} more"] if len(named) > NAMED else []
        said = "; ".join([*named[:NAMED], *more])
        found.append(
            f"{pool['discovery']} finds {len(pool['peers'])} agents, {len(pool['members'])} are"
            f" attached; {said}"
        )
    address = status["scheduler"]["address"]
    far = [row.peer for row in missing if not _is_loopback(row.peer)]
    if far and _is_loopback(address.partition("://")[2]):
        found.append(
            f"the scheduler listens on {address}, which {far[0]} cannot reach if it is on another"
            " machine: give PoolCluster(host=...) an address of this machine"
        )
    return found


def _why_so_many(pool: Status) -> str:
    adapt = pool["adapt"]
    if adapt is None:
        return f"its size is {pool['size']}: scale() changes it"
    most = "any number" if adapt["maximum"] is None else adapt["maximum"]
    return f"adapt() to what the work needs, from {adapt['minimum']} to {most}"


def _how_to_start(pool: Status) -> str:
    if pool["discovery"] == "local":
        return "Start some on this machine: dask pool agent; or let PoolCluster do it: agents=4"
    return (
        "Start some on the worker machines: dask pool agent --listen 0.0.0.0:8791"
        " --cookie-file FILE"
    )


def _is_loopback(place: str) -> bool:
    host = place.rpartition(":")[0].removeprefix("[").removesuffix("]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def in_text(lines: Sequence[str]) -> str:
    """Lines for the end of a message."""
    return "".join(f"\n  {line}" for line in lines)
