"""Run by `helm test`: python -c THIS ADDRESS SECONDS '{"POOL": REPLICAS}'.

Waits until every pool has its agents, then computes on each of them. Ends with 0 if all is well.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time

from distributed import Client


def workers_by_pool(address: str) -> dict[str, dict[str, list[str]]]:
    """Ask the scheduler for the workers of each member of each pool."""
    command = ["dask", "pool", "status", address, "--json"]
    answer = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return {pool["name"]: pool["workers"] for pool in json.loads(answer.stdout)["pools"]}


def wait_until_attached(
    address: str, deadline: float, wanted: dict[str, int]
) -> dict[str, dict[str, list[str]]]:
    """Wait until each pool has as many members as it has replicas."""
    while True:
        found = workers_by_pool(address)
        missing = [
            f"pool {name}: {len(found.get(name, {}))} of {count} agents attached"
            for name, count in wanted.items()
            if len(found.get(name, {})) < count
        ]
        if not missing:
            return found
        if time.monotonic() > deadline:
            sys.exit("; ".join(missing))
        time.sleep(1)


def main(address: str, seconds: str, pools: str) -> None:
    """Check the cluster."""
    timeout = float(seconds)
    deadline = time.monotonic() + timeout
    with Client(address, timeout=timeout) as client:
        found = wait_until_attached(address, deadline, json.loads(pools))
        for name in sorted(found):
            for member, workers in sorted(found[name].items()):
                squares = client.map(pow, range(10), [2] * 10, workers=workers, pure=False)
                total = client.submit(sum, squares, workers=workers, pure=False).result(timeout)
                assert total == 285, f"{member}: the sum of squares is {total}, not 285"
                print(f"pool {name}: {member} computes")
    print("ok")


main(*sys.argv[1:])
