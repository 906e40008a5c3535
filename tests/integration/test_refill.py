"""An agent with several workers: what becomes of its number when one ends for good."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from distributed import Client, Scheduler

from gc_bootstrap.scheduler.drains import Drainer
from gc_bootstrap.wire.names import REFILL_HANDLER, REFILL_LATER
from tests.integration.clusters import DistFactory
from tests.integration.harness import Processes, run_cli, until

pytestmark = pytest.mark.timeout(180)

TWO = ("--nworkers", "2")


def _end(dask_worker: Any) -> None:
    """End a worker and its nanny, as one does that finds itself broken."""
    dask_worker.loop.add_callback(dask_worker.close, reason="broken")


async def test_a_worker_that_ended_for_good_is_replaced(
    processes: Processes,
) -> None:
    agents = await processes.agents(1, *TWO)
    ((peer, group),) = agents.items()
    scheduler = await processes.scheduler(agents)
    before = (await scheduler.formed(agents, workers=2))[str(peer)]
    async with Client(scheduler.address, asynchronous=True) as client:
        await client.run(_end, workers=before[:1])
        await until(lambda: "has taken its place" in group.tail(200), "it is replaced")
        after = (await scheduler.formed(agents, workers=2))[str(peer)]
        assert set(after) & set(before) == {before[1]}
        assert await client.gather(client.map(lambda x: x + 1, range(20))) == list(range(1, 21))


async def test_a_worker_that_was_retired_is_not_replaced(processes: Processes) -> None:
    agents = await processes.agents(1, *TWO)
    ((peer, group),) = agents.items()
    scheduler = await processes.scheduler(agents)
    before = (await scheduler.formed(agents, workers=2))[str(peer)]
    async with Client(scheduler.address, asynchronous=True) as client:
        await client.retire_workers(before[:1])
        await until(lambda: "none takes its place" in group.tail(200), "it is noticed")
        await client.restart()
    status = await scheduler.status()
    assert [len(found) for found in status["workers"].values()] == [1]
    assert status["nworkers"] == {str(peer): 2}
    code, out, _ = await run_cli("pool", "status", "--check", scheduler.address)
    assert code == 1
    assert f"members without some of their workers: {peer} (1 of 2)" in out


async def test_a_worker_that_cannot_be_restarted_is_replaced_in_the_end(
    processes: Processes, tmp_path: Path
) -> None:
    """Dask's nanny gives up after one attempt, and stays without a worker."""
    licence, preload = tmp_path / "licence", tmp_path / "licenced.py"
    licence.touch()
    preload.write_text(
        "import multiprocessing, pathlib\n"
        f"if multiprocessing.parent_process() and not pathlib.Path({str(licence)!r}).exists():\n"
        "    raise RuntimeError('no licence found')\n"
    )
    agents = await processes.agents(1, *TWO, "--preload", str(preload))
    ((peer, group),) = agents.items()
    scheduler = await processes.scheduler(agents)
    before = (await scheduler.formed(agents, workers=2))[str(peer)]
    licence.unlink()
    async with Client(scheduler.address, asynchronous=True) as client:
        pids = await client.run(os.getpid)
        os.kill(pids[before[0]], signal.SIGKILL)
        await until(lambda: "No worker in place of" in group.tail(500), "an attempt has failed")
        code, out, _ = await run_cli("pool", "status", scheduler.address)
        assert (code, f"1 of 2 workers: {before[1]}" in out) == (0, True), out
        licence.touch()
        after = (await scheduler.formed(agents, workers=2))[str(peer)]
    assert set(after) & set(before) == {before[1]}


def _wait_for(gate: str) -> None:
    while not Path(gate).exists():
        time.sleep(0.01)


async def test_a_drain_that_is_cancelled_halfway_leaves_all_workers(
    processes: Processes, scheduler: Scheduler, dists: DistFactory, tmp_path: Path
) -> None:
    agents = await processes.agents(1, *TWO)
    ((peer, _),) = agents.items()
    dist = await dists()
    assert await dist.connect(peer)
    answers: list[str] = []
    refill = scheduler.handlers[REFILL_HANDLER]

    async def watched(**keywords: Any) -> str:
        answers.append(await refill(**keywords))
        return answers[-1]

    scheduler.handlers[REFILL_HANDLER] = watched
    first, second = sorted(scheduler.workers)
    gate = tmp_path / "gate"
    async with Client(scheduler.address, asynchronous=True) as client:
        future = client.submit(_wait_for, str(gate), workers=[second])
        await until(lambda: scheduler.workers[second].processing, "a task runs on the second")
        drainer = Drainer.of(scheduler)
        drain = asyncio.create_task(drainer.drain_peer(peer, "default", drainer.within(600)))
        await until(lambda: list(scheduler.workers) == [second], "the first is gone")
        await until(lambda: len(answers) >= 2, "the agent has asked for it twice")
        assert set(answers) == {REFILL_LATER}
        assert list(scheduler.workers) == [second]
        drain.cancel()
        await asyncio.gather(drain, return_exceptions=True)
        await until(lambda: len(scheduler.workers) == 2, "another is in its place")
        gate.touch()
        await future
    assert first not in scheduler.workers


async def test_a_drop_is_not_held_up_by_workers_that_come_anew(
    processes: Processes, scheduler: Scheduler, dists: DistFactory
) -> None:
    agents = await processes.agents(1, *TWO)
    ((peer, group),) = agents.items()
    dist = await dists()
    assert await dist.connect(peer)
    assert await dist.disconnect(peer)
    await until(lambda: "have ended" in group.tail(200), "the lease is over")
    assert "has taken its place" not in group.tail(500)
    assert not scheduler.workers
