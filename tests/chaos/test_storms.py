"""After each storm, members are the peers, results are right, and re-runs have a reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos import ledger
from tests.chaos.cluster import Cluster
from tests.chaos.faults import Faults
from tests.chaos.schedule import Storm, make_storm
from tests.chaos.tally import Tally
from tests.chaos.workload import Workload

SLOTS = 4

pytestmark = pytest.mark.timeout(400)


async def test_a_cluster_survives_a_graceful_storm_and_then_a_hard_one(
    seed: int, tmp_path: Path, tally: Tally
) -> None:
    file = tmp_path / "ledger"
    workload = Workload(seed, file)
    storms = [make_storm(seed, "graceful", slots=SLOTS), make_storm(seed, "hard", slots=SLOTS)]
    async with Cluster(tmp_path, SLOTS) as cluster:
        try:
            await workload.attach(cluster.scheduler.address)
            faults = Faults(cluster, workload, tally)
            for storm in storms:
                await _have(storm, faults, cluster, workload, file)
            await workload.close()  # its results are nobody's any more
            executions = ledger.read(file)
            tally.tasks += len(workload.keys)
            tally.executions += len(executions)
            await cluster.ends_well()
        finally:
            await workload.close()


async def _have(
    storm: Storm, faults: Faults, cluster: Cluster, workload: Workload, file: Path
) -> None:
    """Have one storm, and hold the cluster to what it promises."""
    print(storm)  # noqa: T201 - pytest shows it where the test fails
    workload.start()
    await faults.run(storm)
    await cluster.settles()
    await workload.stop()
    assert await workload.results_are_right() > SLOTS
    executions = ledger.read(file)
    if storm.kind == "graceful":
        assert not workload.losses, "a graceful storm takes nothing"
    broken = ledger.violations(executions, workload.losses, workload.keys)
    assert not broken, "\n".join([str(storm), *broken])
    assert not cluster.left_over()
