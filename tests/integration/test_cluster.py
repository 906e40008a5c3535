"""Clusters of real processes that form, are hurt, and heal."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest
from distributed import Client

from gc_bootstrap.cli.processes import ProcessGroup
from gc_bootstrap.peer import Peer
from tests.integration.harness import Processes, SchedulerProcess, free_port, run_cli, until

pytestmark = pytest.mark.timeout(180)


async def _computes(scheduler: SchedulerProcess, workers: int) -> Mapping[str, int]:
    """Compute something on every worker, and return their process ids by address."""
    async with Client(scheduler.address, asynchronous=True) as client:
        await client.wait_for_workers(workers, timeout=30)
        assert await client.gather(client.map(lambda x: x + 1, range(50))) == list(range(1, 51))
        pids: dict[str, int] = await client.run(os.getpid)
        return pids


def _descendants(group: ProcessGroup) -> list[psutil.Process]:
    assert group.pid is not None
    return [
        child
        for child in psutil.Process(group.pid).children(recursive=True)
        if child.status() != psutil.STATUS_ZOMBIE
    ]


def _alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def test_a_pool_forms_and_heals(processes: Processes) -> None:
    """One cluster, hurt in every way in turn: starting processes is what takes the time."""
    agents = await processes.agents(3)
    scheduler = await processes.scheduler(agents)
    await scheduler.formed(agents)
    pids = await _computes(scheduler, 3)

    # A worker is killed: a new one comes in its place.
    victim, pid = min(pids.items())
    os.kill(pid, signal.SIGKILL)

    async def replaced() -> bool:
        workers = await scheduler.workers()
        return len(workers) == 3 and [victim] not in workers.values()

    await until(replaced, "the worker is replaced")
    await _computes(scheduler, 3)

    # An agent is killed: its worker dies with it, and it is a member again when it is back.
    peer, group = agents.popitem()
    orphans = _descendants(group)
    group.signal(signal.SIGKILL)
    await until(lambda: not any(map(_alive, orphans)), "the agent's processes are gone")
    await scheduler.formed(agents)

    async def said() -> bool:
        return "Connection refused" in (await scheduler.status())["held"].get(str(peer), "")

    await until(said, "its status says why")
    again = ["--listen", str(peer), "--nthreads", "1"]
    agents[peer] = await processes.start("pool", "agent", *again)
    await scheduler.formed(agents)

    # The scheduler is killed: the agents attach to the next one, on another port and on the same.
    port = free_port()
    ids = {(await scheduler.status())["id"]}
    for _ in range(2):
        scheduler.group.signal(signal.SIGKILL)
        await scheduler.group.stop()
        scheduler = await processes.scheduler(agents, port=port)
        assert scheduler.address.endswith(f":{port}")
        await scheduler.formed(agents)
        ids.add((await scheduler.status())["id"])
        await _computes(scheduler, 3)
    assert len(ids) == 3
    assert not any(group.ended for group in agents.values())


async def test_two_schedulers_never_share_an_agent(processes: Processes) -> None:
    agents = await processes.agents(2)
    first = await processes.scheduler(agents)
    await first.formed(agents)
    second = await processes.scheduler(agents)

    async def refused() -> bool:
        held = (await second.status())["held"]
        return len(held) == 2 and all("held by scheduler" in reason for reason in held.values())

    await until(refused, "the second is refused")
    assert await second.workers() == {}
    await first.formed(agents)
    first.group.signal(signal.SIGTERM)
    await first.group.stop()
    await second.formed(agents)


@pytest.mark.parametrize("how", ["SIGTERM", "Ctrl-C"])
async def test_a_signal_moves_the_data_away_first(processes: Processes, how: str) -> None:
    agents = await processes.agents(2)
    scheduler = await processes.scheduler(agents)
    await scheduler.formed(agents)
    async with Client(scheduler.address, asynchronous=True) as client:
        await client.wait_for_workers(2, timeout=30)
        ran = client.map(lambda x: (x, os.urandom(8)), range(40))
        before = await client.gather(ran)
        _, group = agents.popitem()
        assert group.pid is not None
        if how == "SIGTERM":
            group.signal(signal.SIGTERM)
        else:  # a terminal sends it to every process of the group, workers included
            os.killpg(group.pid, signal.SIGINT)
        await until(lambda: group.ended, "the agent has ended")
        assert group.returncode == 0, group.tail()
        assert "Traceback" not in group.tail(500)
        assert await client.gather(ran) == before, "results were computed again"
    await scheduler.formed(agents)
    await until(lambda: not _group_lives(group), "nothing of the agent is left")


def _group_lives(group: ProcessGroup) -> bool:
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == group.pid and _alive(process):
                return True
        except ProcessLookupError:
            continue
    return False


async def test_worker_options_reach_the_worker(processes: Processes, tmp_path: Path) -> None:
    preload = tmp_path / "hello.py"
    preload.write_text("def dask_setup(worker):\n    worker.hello = 'preloaded'\n")
    options = ["--nworkers", "2", "--name", "alice", "--resources", "GPU=2"]
    options += ["--memory-limit", "1GB"]
    agents = await processes.agents(1, *options, "--preload", str(preload), "--import", "fractions")
    scheduler = await processes.scheduler(agents)
    await scheduler.formed(agents, workers=2)
    async with Client(scheduler.address, asynchronous=True) as client:
        await client.wait_for_workers(2, timeout=30)
        info = (await client.scheduler.identity())["workers"].values()
        assert sorted(worker["name"] for worker in info) == ["alice-0", "alice-1"]
        assert {worker["memory_limit"] for worker in info} == {10**9}
        assert {worker["nthreads"] for worker in info} == {1}
        assert await client.submit(lambda: 1, resources={"GPU": 2}) == 1

        def looks(dask_worker: object) -> tuple[str, bool]:
            import sys

            return getattr(dask_worker, "hello", ""), "fractions" in sys.modules

        assert set((await client.run(looks)).values()) == {("preloaded", True)}


async def test_without_a_nanny_the_worker_runs_in_the_agent(processes: Processes) -> None:
    agents = await processes.agents(1, "--no-nanny")
    (group,) = agents.values()
    scheduler = await processes.scheduler(agents)
    await scheduler.formed(agents)
    pids = await _computes(scheduler, 1)
    assert list(pids.values()) == [group.pid]
    scheduler.group.signal(signal.SIGKILL)
    await scheduler.group.stop()
    scheduler = await processes.scheduler(agents)
    await scheduler.formed(agents)
    assert list((await _computes(scheduler, 1)).values()) == [group.pid]


async def test_a_worker_class_of_ones_own(processes: Processes, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from distributed import Worker\n"
        "from distributed.diagnostics.plugin import WorkerPlugin\n\n\n"
        "class Own(WorkerPlugin):\n    name = 'own'\n\n\n"
        "class Mine(Worker):\n"
        "    def __init__(self, *args, **kwargs):\n"
        "        super().__init__(*args, plugins=(Own(),), **kwargs)\n"
    )
    environ = {"PYTHONPATH": str(tmp_path)}
    agents = await processes.agents(1, "--worker-class", "mine.Mine", environ=environ)
    scheduler = await processes.scheduler(agents)
    await scheduler.formed(agents)
    async with Client(scheduler.address, asynchronous=True) as client:
        await client.wait_for_workers(1, timeout=30)
        found = await client.run(lambda dask_worker: type(dask_worker).__name__)
        assert list(found.values()) == ["Mine"]
        plugins = await client.run(lambda dask_worker: "own" in dask_worker.plugins)
        assert list(plugins.values()) == [True]
        said = await client.scheduler.broadcast(msg={"op": "identity"}, nanny=True)
        assert [answer["type"] for answer in said.values()] == ["Nanny"]


async def test_a_bad_preload_is_said_everywhere_and_harms_nobody_else(
    processes: Processes, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.py"
    # Only in a worker: the agent imports it while it reads its options, as `dask worker` does.
    bad.write_text(
        "import sys\n"
        "if 'pool' not in sys.argv:\n"
        "    raise RuntimeError('no licence found')\n"
        "import multiprocessing\n"
        "if multiprocessing.parent_process():\n"
        "    raise RuntimeError('no licence found')\n"
    )
    good = await processes.agents(1)
    ill = await processes.agents(1, "--preload", str(bad))
    ((peer, group),) = ill.items()
    scheduler = await processes.scheduler([*good, *ill])
    await scheduler.formed(good)

    async def held() -> str | None:
        reason: str | None = (await scheduler.status())["held"].get(str(peer))
        return reason

    reason = await until(held, "the ill agent is held")
    assert "a worker does not start: RuntimeError: no licence found" in reason
    lines = [
        line for line in scheduler.group.tail(500).splitlines() if f"{peer} not attached" in line
    ]
    assert len(lines) == 1
    assert not group.ended
    await until(lambda: len(_descendants(group)) <= 2, "its failed workers are gone")


async def test_a_worker_that_never_starts_leaves_no_process(
    processes: Processes, tmp_path: Path
) -> None:
    slow = tmp_path / "slow.py"
    slow.write_text("import time\n\n\ndef dask_setup(worker):\n    time.sleep(3600)\n")
    agents = await processes.agents(1, "--preload", str(slow), "--death-timeout", "2")
    ((peer, group),) = agents.items()
    scheduler = await processes.scheduler(agents)

    async def held() -> str | None:
        reason: str | None = (await scheduler.status())["held"].get(str(peer))
        return reason

    assert "a worker does not start" in await until(held, "the agent is held")
    scheduler.group.signal(signal.SIGTERM)
    await scheduler.group.stop()
    await until(lambda: len(_descendants(group)) <= 2, "the slow workers are gone")


async def test_local_finds_agents_however_and_whenever_they_were_started(
    processes: Processes,
) -> None:
    early = [await processes.start("pool", "agent", "--nthreads", "1")]
    scheduler = await processes.scheduler("local")
    late = [await processes.start("pool", "agent", "--no-nanny")]

    async def both() -> bool:
        return len(await scheduler.workers()) == 2

    await until(both, "both are members")
    for group in early + late:
        group.signal(signal.SIGKILL)

    async def none() -> bool:
        status = await scheduler.status()
        return not status["workers"] and not status["peers"]

    await until(none, "neither is found any more")


async def test_status_says_who_is_a_member_and_why_others_are_not(processes: Processes) -> None:
    agents = await processes.agents(1)
    nobody = Peer("127.0.0.1", free_port())
    scheduler = await processes.scheduler([*agents, nobody])
    await scheduler.formed(agents)
    code, out, _ = await run_cli("pool", "status", scheduler.address)
    assert code == 0
    (peer,) = agents
    assert f"{peer}" in out
    assert "member" in out
    assert f"{nobody}" in out
    assert "Connection refused" in out
    code, out, _ = await run_cli("pool", "status", "--json", scheduler.address)
    assert code == 0
    assert f'"members": ["{peer}"]' in out
    code, out, _ = await run_cli("pool", "status", "--check", scheduler.address)
    assert (code, len(out.splitlines())) == (1, 1)
    assert out.startswith("NOT WELL: pool default: 1 of 2 peers are no members: ")
    code, out, err = await run_cli("pool", "status", "--check", "--json", scheduler.address)
    assert (code, err.startswith("NOT WELL: ")) == (1, True)
    assert json.loads(out)["pools"]


async def test_status_is_coloured_for_people_and_not_wrapped_for_programs(
    processes: Processes,
) -> None:
    agents = await processes.agents(1)
    scheduler = await processes.scheduler(agents)
    await scheduler.formed(agents)
    colours = {"NO_COLOR": "", "FORCE_COLOR": "1", "COLUMNS": "20"}
    code, out, _ = await run_cli("pool", "status", scheduler.address, environ=colours)
    (peer,) = agents
    (line,) = [line for line in out.splitlines() if line.startswith(f" {peer}")]
    assert code == 0
    assert "\x1b[32mmember" in line
    assert "tcp://127.0.0.1:" in line
    quiet = {**colours, "NO_COLOR": "1"}
    code, out, _ = await run_cli("pool", "status", scheduler.address, environ=quiet)
    assert (code, "\x1b[3" in out) == (0, False)
    assert await run_cli("pool", "status", "--check", scheduler.address) == (
        0,
        "OK: pools 1, members 1\n",
        "",
    )


async def test_a_pool_can_be_registered_by_a_client_and_unregistered(processes: Processes) -> None:
    from gc_bootstrap import BootstrapPlugin

    agents = await processes.agents(1)
    (peer,) = agents
    file = processes.folder / "plain.json"
    group = await processes.start(
        *["scheduler", "--host", "127.0.0.1", "--port", "0", "--dashboard-address", ":0"],
        *("--scheduler-file", str(file)),
    )
    await until(file.exists, "the scheduler is up")
    async with Client(scheduler_file=str(file), asynchronous=True) as client:
        scheduler = SchedulerProcess(group, client.scheduler.address)
        for interval in ("1s", "2s"):  # the second takes the first one's place
            plugin = BootstrapPlugin(f"static:{peer}", refresh_interval=interval)
            await client.register_plugin(plugin)
            await scheduler.formed(agents)
        assert group.tail(500).count("A plugin named gc_bootstrap is registered already") == 1
        assert "UserWarning" not in group.tail(500)
        assert (await scheduler.status())["refresh-interval"] == 2.0
        assert "Traceback" not in group.tail(500)
        with pytest.raises(Exception, match="is not a known discovery"):
            await client.register_plugin(BootstrapPlugin("nope:"), name="another")
        await client.unregister_scheduler_plugin("gc_bootstrap")
        await until(lambda: "its pools are closed" in group.tail(100), "the pools have been closed")


async def test_an_agent_drains_at_once_when_its_scheduler_is_gone_too(processes: Processes) -> None:
    agents = await processes.agents(1)
    (group,) = agents.values()
    scheduler = await processes.scheduler(agents)
    await scheduler.formed(agents)
    scheduler.group.signal(signal.SIGKILL)
    group.signal(signal.SIGTERM)
    # Dask would try to reach the scheduler for 30 s.
    await until(lambda: group.ended, "the agent has ended", deadline=15)
    assert group.returncode == 0, group.tail()
