"""A worker whose `--lifetime` is over is drained, and then restarted, or not."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from distributed import Client

from gc_bootstrap.agent.lifetime import Lifetime
from gc_bootstrap.wire.tag import KEY, Tag
from tests.integration.counted import executions, task
from tests.integration.harness import Processes, until

pytestmark = pytest.mark.timeout(180)

TASKS = 20


def _over(dask_worker: Any) -> None:
    """Have a worker's lifetime be over now; the tests need not wait for it."""
    tag = Tag.decode({KEY: dask_worker.startup_information[KEY](dask_worker)})
    assert tag is not None
    assert dask_worker.lifetime == 3600
    Lifetime(0.0, 60.0).begin(dask_worker, tag)


@pytest.mark.parametrize(
    "options", [(), ("--lifetime-restart",), ("--no-nanny",)], ids=["ends", "restarts", "no nanny"]
)
async def test_a_lifetime_that_is_over_loses_nothing(
    processes: Processes, tmp_path: Path, options: tuple[str, ...]
) -> None:
    ledger, gate = tmp_path / "ledger", tmp_path / "gate"
    stays = await processes.agents(1)
    ((peer, group),) = (await processes.agents(1, "--lifetime", "1h", *options)).items()
    agents = [*stays, peer]
    scheduler = await processes.scheduler(agents)
    (worker,) = (await scheduler.formed(agents))[str(peer)]
    async with Client(scheduler.address, asynchronous=True) as client:
        here = {"workers": [worker], "pure": False, "ledger": str(ledger)}
        ran = client.map(task, range(TASKS), allow_other_workers=True, **here)
        assert await client.gather(ran) == list(range(TASKS))
        values = await client.scatter([os.urandom(8) for _ in range(5)], workers=[worker])
        running = client.submit(task, TASKS, gate=str(gate), allow_other_workers=True, **here)
        await until(lambda: executions(ledger)[TASKS], "the last task runs")
        await client.run(_over, workers=[worker])
        drains = f"{worker} of {peer}: draining"
        await until(lambda: drains in scheduler.group.tail(500), "it is drained")
        gate.touch()

        async def another() -> bool:
            return list((await scheduler.workers()).get(str(peer), [worker])) != [worker]

        await until(another, "another worker is in its place")
        assert await client.gather([*ran, running]) == list(range(TASKS + 1))
        assert len(await client.gather(values)) == 5
    assert executions(ledger) == dict.fromkeys(range(TASKS + 1), 1)
    restarted = "--lifetime-restart" in options
    attaches = 1 if restarted else 2
    await until(lambda: group.tail(500).count("Attached to") == attaches, "the agent knows")
    assert group.tail(500).count("Start worker at:") == 2


async def test_a_drain_at_the_end_of_a_lifetime_has_a_deadline_and_says_what_was_lost(
    processes: Processes, tmp_path: Path
) -> None:
    ((peer, group),) = (
        await processes.agents(1, "--lifetime", "6s", "--lifetime-restart", "--drain-timeout", "1s")
    ).items()
    scheduler = await processes.scheduler([peer])
    await scheduler.formed([peer])
    async with Client(scheduler.address, asynchronous=True) as client:
        values = await client.scatter([os.urandom(8) for _ in range(5)])
        lost = "The time was over"
        await until(lambda: lost in group.tail(500), "the loss is said")
        assert any("5 scattered values" in line for line in group.tail(500).splitlines())
        await scheduler.formed([peer])
        del values
