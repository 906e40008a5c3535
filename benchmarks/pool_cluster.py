"""From "I want a cluster" to the first result, in a process that has Dask imported.

- *PoolCluster*: ``PoolCluster("local")``, a client, one task; four ``dask pool agent`` processes
  wait on this machine, and did not work for anybody yet, or (*again*) have before.
- *LocalCluster*: ``LocalCluster(n_workers=4)``, a client, the same task.

Each time in a fresh process of its own. The clock starts before the constructor, and stops at the
result; *all four* stops when all workers are there. Goal: at most 1/8.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from common import TIMES_HEADER, Times, begin, in_subprocess, isolated, process, run, table, verdict

TARGET = 1 / 8
WORKERS = 4
LIMIT = 120.0
"""Seconds after which something has gone wrong."""
REST = 0.5
"""Seconds of rest before each clock starts."""
AGENT = (sys.executable, "-m", "dask", "pool", "agent", "--listen", "127.0.0.1:0")


def _double(x: int) -> int:
    return 2 * x


def measure_here(kind: str) -> None:
    """Measure one of them in this process; prints seconds as JSON."""
    begin()
    from distributed import Client, LocalCluster

    from gc_bootstrap import PoolCluster

    make: dict[str, Any] = {
        "PoolCluster": lambda: PoolCluster("local", dashboard_address=":0"),
        "LocalCluster": lambda: LocalCluster(
            n_workers=WORKERS, threads_per_worker=1, dashboard_address=":0"
        ),
    }
    time.sleep(REST)
    began = time.perf_counter()
    with make[kind]() as cluster, Client(cluster) as client:
        made = time.perf_counter() - began
        assert client.submit(_double, 21).result(LIMIT) == 42
        first = time.perf_counter() - began
        client.wait_for_workers(WORKERS, LIMIT)
        every = time.perf_counter() - began
        closing = time.perf_counter()
    closed = time.perf_counter() - closing
    print(json.dumps({"made": made, "first": first, "all": every, "closed": closed}))


@contextmanager
def agents(folder: Path) -> Iterator[None]:
    """Four agents that wait."""
    log = (folder / "agents.log").open("w+")
    with ExitStack() as stack:
        stack.callback(log.close)
        for _ in range(WORKERS):
            command = (*AGENT, "--nthreads", "1", "--host", "127.0.0.1")
            stack.enter_context(process(*command, stdout=log, stderr=subprocess.STDOUT))
        until = time.monotonic() + LIMIT
        while (text := (folder / "agents.log").read_text()).count("is ready") < WORKERS:
            if time.monotonic() > until:
                sys.exit(f"not all agents are ready; they said:\n{text}")
            time.sleep(0.05)
        yield


def main() -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--here", choices=["PoolCluster", "LocalCluster"], help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.here:
        measure_here(given.here)
        return
    found: dict[str, dict[str, Times]] = {}

    def measure(name: str, kind: str) -> None:
        for part, seconds in json.loads(in_subprocess(__file__, "--here", kind)).items():
            found.setdefault(name, {}).setdefault(part, Times()).add(seconds)

    with isolated() as folder:
        for _ in range(given.runs):
            measure("LocalCluster", "LocalCluster")
            with agents(folder):
                measure("PoolCluster", "PoolCluster")
                measure("PoolCluster, again", "PoolCluster")
    words = {
        "made": "constructor and client",
        "first": "first result",
        "all": "all four",
        "closed": "both closed",
    }
    local = found["LocalCluster"]
    rows = [
        [f"{name}: {words[part]}", *times.cells(), f"1/{local[part].median / times.median:.1f}"]
        for name, parts in found.items()
        for part, times in parts.items()
    ]
    table(["until", *TIMES_HEADER, "of LocalCluster"], rows)
    ratio = found["PoolCluster"]["first"].median / local["first"].median
    print(
        f"ratio: the first result of a PoolCluster takes 1/{1 / ratio:.1f} of a LocalCluster's"
        f" (target: at most 1/{1 / TARGET:.0f}: {verdict(ratio <= TARGET)})"
    )


if __name__ == "__main__":
    run(main)
