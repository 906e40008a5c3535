"""Signals to an agent and its workers at once, as systemd, some runtimes and Ctrl-C send them."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from distributed import Client

from gc_bootstrap.cli.processes import ProcessGroup
from gc_bootstrap.wire import messages
from tests.integration.counted import executions, task
from tests.integration.harness import (
    COOKIE,
    SECRET,
    Processes,
    SchedulerProcess,
    request,
    until,
)

pytestmark = pytest.mark.timeout(180)

TASKS = 50
SCATTERED = 5


def signal_group(group: ProcessGroup, number: signal.Signals) -> None:
    assert group.pid is not None
    os.killpg(group.pid, number)


def alive(group: ProcessGroup) -> list[str]:
    """The processes of a group, zombies left out."""
    found = []
    for process in psutil.process_iter():
        try:
            is_one = os.getpgid(process.pid) == group.pid
            if is_one and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline()))
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


def forkserver_of(group: ProcessGroup) -> psutil.Process:
    children = psutil.Process(group.pid).children()
    (found,) = (child for child in children if "forkserver" in " ".join(child.cmdline()))
    return found


class Formed:
    """Two agents, the second of which is to go, with tasks and scattered values on it."""

    def __init__(self, processes: Processes, folder: Path) -> None:
        self._processes = processes
        self.ledger, self.gate = folder / "ledger", folder / "gate"

    async def form(self, client_of: Any, *options: str, new_forkservers: bool = False) -> Client:
        environ = {"GC_BOOTSTRAP_COOKIE": SECRET}
        agents = await self._processes.agents(2, *options, environ=environ)
        if new_forkservers:
            for group in agents.values():
                forkserver_of(group).kill()
        self.scheduler: SchedulerProcess = await self._processes.scheduler(agents, environ=environ)
        workers = await self.scheduler.formed(agents)
        self.peer, self.going = agents.popitem()
        self.worker = workers[str(self.peer)][0]
        self.stays = next(w for p, (w,) in workers.items() if p != str(self.peer))
        client: Client = await client_of(self.scheduler.address)
        return client


@pytest.fixture
async def client_of() -> AsyncIterator[Any]:
    clients: list[Client] = []

    async def make(address: str) -> Client:
        clients.append(await Client(address, asynchronous=True))
        return clients[-1]

    yield make
    for client in clients:
        await client.close()


async def _filled(formed: Formed, client: Client) -> tuple[list[Any], list[Any], Any]:
    """Tasks that have run, values that are scattered, and a task that runs; all on who goes."""
    ran = client.map(
        task, range(TASKS), ledger=str(formed.ledger), workers=[formed.worker], pure=False,
        allow_other_workers=True,
    )  # fmt: skip
    assert await client.gather(ran) == list(range(TASKS))
    values = await client.scatter(
        [os.urandom(8) for _ in range(SCATTERED)], workers=[formed.worker]
    )
    running = client.submit(
        task, TASKS, ledger=str(formed.ledger), gate=str(formed.gate), workers=[formed.worker],
        pure=False, allow_other_workers=True,
    )  # fmt: skip
    await until(lambda: executions(formed.ledger)[TASKS], "the last task runs")
    return ran, values, running


async def _kept(formed: Formed, client: Client, filled: tuple[list[Any], list[Any], Any]) -> None:
    """Nothing has been lost, nothing has run twice, and no process is left."""
    ran, values, running = filled
    await until(lambda: formed.going.ended, "the agent has ended")
    assert formed.going.returncode == 0, formed.going.tail()
    assert await client.gather(ran) == list(range(TASKS))
    assert await running == TASKS
    assert len(await client.gather(values)) == SCATTERED
    assert executions(formed.ledger) == dict.fromkeys(range(TASKS + 1), 1)
    assert "Traceback" not in formed.going.tail(500)
    await until(lambda: not alive(formed.going), "nothing of the agent is left")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
async def test_a_signal_to_the_whole_group_is_the_agents_to_act_on(
    processes: Processes, tmp_path: Path, client_of: Any, number: signal.Signals
) -> None:
    formed = Formed(processes, tmp_path)
    client = await formed.form(client_of)
    filled = await _filled(formed, client)
    signal_group(formed.going, number)
    await until(lambda: "Draining" in formed.going.tail(200), "the agent drains")
    formed.gate.touch()
    await _kept(formed, client, filled)


async def test_a_signal_to_the_group_joins_a_drain_that_runs(
    processes: Processes, tmp_path: Path, client_of: Any
) -> None:
    formed = Formed(processes, tmp_path)
    client = await formed.form(client_of)
    filled = await _filled(formed, client)
    scheduler_id = (await formed.scheduler.status())["id"]
    detach = messages.DetachRequest(scheduler_id, str(formed.peer)).encode()
    asking = asyncio.create_task(request(formed.peer, "POST", "/v1/detach", detach, cookie=COOKIE))
    drains = f"of {formed.peer}: draining"
    await until(lambda: drains in formed.scheduler.group.tail(200), "its drain runs")
    signal_group(formed.going, signal.SIGTERM)
    await until(lambda: "Draining" in formed.going.tail(200), "the agent leaves")
    formed.gate.touch()
    await _kept(formed, client, filled)
    await asyncio.gather(asking, return_exceptions=True)
    assert formed.scheduler.group.tail(500).count(drains) == 1


async def test_a_second_signal_to_the_group_ends_all_of_it_at_once(
    processes: Processes, tmp_path: Path, client_of: Any
) -> None:
    formed = Formed(processes, tmp_path)
    client = await formed.form(client_of, "--drain-timeout", "1h")
    await _filled(formed, client)
    signal_group(formed.going, signal.SIGTERM)
    await until(lambda: "Draining" in formed.going.tail(200), "the agent drains")
    signal_group(formed.going, signal.SIGTERM)
    await until(lambda: formed.going.ended, "the agent has ended")
    await until(lambda: not alive(formed.going), "nothing of the agent is left")
    formed.gate.touch()


async def test_workers_of_a_fork_server_that_was_replaced_leave_it_to_the_agent_as_well(
    processes: Processes, tmp_path: Path, client_of: Any
) -> None:
    formed = Formed(processes, tmp_path)
    client = await formed.form(client_of, new_forkservers=True)
    filled = await _filled(formed, client)
    signal_group(formed.going, signal.SIGTERM)
    await until(lambda: "Draining" in formed.going.tail(200), "the agent drains")
    formed.gate.touch()
    await _kept(formed, client, filled)


def _program(text: str) -> str:
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=60)
    return done.stdout.strip() or done.stderr


def _in_a_program() -> str:
    """What a program that a task starts does on these signals."""
    return _program(
        "import signal as s; print(*(s.getsignal(n).__name__ if callable(s.getsignal(n)) else "
        "int(s.getsignal(n)) for n in (s.SIGTERM, s.SIGINT)))"
    )


def _forked() -> int:
    """Whether a child that a task forks ends on SIGTERM."""
    pid = os.fork()
    if pid == 0:
        time.sleep(60)
        os._exit(0)
    os.kill(pid, signal.SIGTERM)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _multiprocessing() -> int | None:
    """The same of a process of multiprocessing's; it comes from the agent's fork server."""
    import multiprocessing

    process = multiprocessing.get_context("forkserver").Process(target=time.sleep, args=(60,))
    process.start()
    process.terminate()
    process.join(30)
    return process.exitcode


def _in_the_worker() -> str:
    handler = signal.getsignal(signal.SIGTERM)
    return getattr(handler, "__qualname__", str(handler))


async def test_what_a_task_starts_ends_on_a_signal_as_ever(
    processes: Processes, tmp_path: Path, client_of: Any
) -> None:
    environ = {"DASK_DISTRIBUTED__WORKER__DAEMON": "false"}  # else Python allows it no processes
    agents = await processes.agents(1, environ=environ)
    scheduler = await processes.scheduler(agents)
    await scheduler.formed(agents)
    client = await client_of(scheduler.address)
    assert await client.submit(_in_a_program) == f"{int(signal.SIG_DFL)} default_int_handler"
    assert await client.submit(_forked) == -signal.SIGTERM
    assert await client.submit(_multiprocessing) == -signal.SIGTERM


async def test_a_preloads_own_handler_stays(
    processes: Processes, tmp_path: Path, client_of: Any
) -> None:
    preload = tmp_path / "own.py"
    preload.write_text(
        "import signal\n\n\ndef own(signum, frame): ...\n\n\n"
        "def dask_setup(worker):\n    signal.signal(signal.SIGTERM, own)\n"
    )
    agents = await processes.agents(1, "--preload", str(preload))
    scheduler = await processes.scheduler(agents)
    await scheduler.formed(agents)
    client = await client_of(scheduler.address)
    assert list((await client.run(_in_the_worker)).values()) == ["own"]


def _hog() -> int:
    return len(bytearray(os.urandom(1024)) * 400 * 1024)


async def test_a_worker_over_its_memory_limit_is_ended_at_once_as_ever(
    processes: Processes, client_of: Any
) -> None:
    agents = await processes.agents(1, "--memory-limit", "300 MB")
    ((peer, group),) = agents.items()
    scheduler = await processes.scheduler(agents)
    await scheduler.formed(agents)
    client = await client_of(scheduler.address)
    before = await scheduler.workers()
    future = client.submit(_hog, pure=False)

    async def again() -> bool:
        return (await scheduler.workers()).get(str(peer), before[str(peer)]) != before[str(peer)]

    await until(again, "another worker has come in its place")
    future.release()
    assert "exceeded 95% memory budget" in group.tail(500)
    assert "slow to accept SIGTERM" not in group.tail(500)
