"""A cluster on this host from Python: a pool in a scheduler of one's own, without any command.

The discovery is a plain async function, to show that one is enough.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from distributed import Client, Scheduler

from gc_bootstrap import BootstrapPlugin
from gc_bootstrap.discovery.local import LocalDiscovery
from gc_bootstrap.peer import Peer

AGENT = [sys.executable, "-m", "dask", "pool", "agent", "--nthreads", "1"]


async def my_peers() -> frozenset[Peer]:
    """Say who the peers are. Yours may ask a database, a cloud's API or a file."""
    return (await LocalDiscovery().peers()).peers


async def main() -> None:
    """Form a cluster of two agents, compute, and let it go."""
    with tempfile.TemporaryDirectory() as folder:
        # Only for this example: leave your other agents alone.
        os.environ["GC_BOOTSTRAP_RUNTIME_DIR"] = folder
        log = Path(folder, ".log").open("w")  # noqa: ASYNC230, SIM115 - closed below
        agents = [subprocess.Popen(AGENT, stderr=log) for _ in range(2)]  # noqa: ASYNC220
        try:
            async with Scheduler(host="127.0.0.1", port=0, dashboard_address=":0") as scheduler:
                plugin = BootstrapPlugin(my_peers, refresh_interval="0.5s")
                await scheduler.register_scheduler_plugin(plugin, idempotent=False)
                async with Client(scheduler.address, asynchronous=True) as client:
                    await client.wait_for_workers(2, timeout=60)
                    squares = await client.gather(client.map(lambda x: x * x, range(10)))
                    print("sum of squares:", sum(squares))
        finally:
            for agent in agents:
                agent.terminate()
            for agent in agents:
                agent.wait()
            log.close()


if __name__ == "__main__":
    asyncio.run(main())
