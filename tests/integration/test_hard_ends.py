"""Ends that come at the wrong moment: nothing hangs, and nothing is left."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from distributed import Client

from gc_bootstrap.agent import run as run_module
from gc_bootstrap.discovery.local import LocalDiscovery
from gc_bootstrap.peer import Peer
from gc_bootstrap.wire import messages
from gc_bootstrap.wire.registrations import Registrar, Registration
from tests.integration.harness import (
    COOKIE,
    Processes,
    agent_here,
    free_port,
    request,
    scheduler_here,
    until,
    workers_of,
)

pytestmark = pytest.mark.timeout(180)


async def test_an_attach_that_fails_halfway_and_is_cut_off_leaves_no_worker(
    processes: Processes, tmp_path: Path
) -> None:
    """One of two workers dies at its start while the other takes its time."""
    preload = tmp_path / "uneven.py"
    preload.write_text(
        "import os, time\n\n\n"
        "def dask_setup(worker):\n"
        "    if str(worker.name).endswith('-0'):\n"
        "        os._exit(3)\n"
        "    time.sleep(8)\n"
    )
    environ = {"GC_BOOTSTRAP_COOKIE": "correct horse battery staple"}
    options = ["--nworkers", "2", "--name", "w", "--preload", str(preload)]
    agents = await processes.agents(1, *options, environ=environ)
    ((peer, group),) = agents.items()
    assert group.pid is not None
    plain = await processes.scheduler([Peer("127.0.0.1", free_port())])
    scheduler_id = (await plain.status())["id"]
    attach = messages.AttachRequest(plain.address, scheduler_id, str(peer)).encode()
    attaching = asyncio.create_task(request(peer, "POST", "/v1/attach", attach, cookie=COOKIE))
    await until(lambda: len(workers_of(group.pid or 0)) >= 1, "a worker is starting")
    await asyncio.sleep(0.5)
    detach = messages.DetachRequest("Scheduler-x", str(peer)).encode()
    await request(peer, "POST", "/v1/detach", detach, cookie=COOKIE)
    assert (await attaching)[0] in (500, 503)
    await until(lambda: not workers_of(group.pid or 0), "no worker is left", deadline=15)
    _, status = await request(peer, "GET", "/v1/status", cookie=COOKIE)
    assert status["state"] == "idle"


async def test_sigterm_ends_an_agent_whose_task_does_not(processes: Processes) -> None:
    agents = await processes.agents(1, "--no-nanny", "--drain-timeout", "1s")
    (group,) = agents.values()
    scheduler = await processes.scheduler(agents)
    await scheduler.formed(agents)
    async with Client(scheduler.address, asynchronous=True) as client:
        await client.wait_for_workers(1, timeout=30)

        def forever() -> None:
            import time

            time.sleep(3600)

        future = client.submit(forever)
        await until(lambda: _runs(client, future.key), "the task runs")
    scheduler.group.signal(signal.SIGKILL)
    await scheduler.group.stop()
    group.signal(signal.SIGTERM)
    await until(lambda: group.ended, "the agent has ended", deadline=15)
    assert group.returncode == 0


async def test_agents_and_scheduler_that_end_together_wait_for_nobody(
    processes: Processes,
) -> None:
    """As in ``helm uninstall``, or when a host goes down."""
    agents = await processes.agents(3)
    scheduler = await processes.scheduler(agents)
    await scheduler.formed(agents)
    for group in (*agents.values(), scheduler.group):
        group.signal(signal.SIGTERM)
    for group in agents.values():
        await until(partial(getattr, group, "ended"), "the agent has ended")
        assert group.returncode == 0
        assert "killing" not in group.tail(100), "its worker hung"


async def test_a_second_sigterm_ends_an_agent_that_drains_and_its_results_are_computed_again(
    processes: Processes,
) -> None:
    agents = await processes.agents(2, "--drain-timeout", "600s")
    (peer, group), _ = agents.items()
    scheduler = await processes.scheduler(agents)
    (worker,) = (await scheduler.formed(agents))[str(peer)]
    async with Client(scheduler.address, asynchronous=True) as client:
        futures = client.map(abs, range(5), workers=[worker], allow_other_workers=True, pure=False)
        assert await client.gather(futures) == list(range(5))

        def forever() -> None:
            import time

            time.sleep(3600)

        future = client.submit(forever, workers=[worker])
        await until(lambda: _runs(client, future.key), "the task runs")
        group.signal(signal.SIGTERM)

        async def drains() -> bool:
            return bool((await scheduler.status())["progress"].get(str(peer)))

        await until(drains, "it drains")
        group.signal(signal.SIGTERM)
        await until(lambda: group.ended, "the agent has ended")
        assert await client.gather(futures) == list(range(5))
        future.release()


async def _runs(client: Client, key: object) -> bool:
    processing = await client.processing()
    return any(key in keys for keys in processing.values())


async def test_sigterm_ends_an_agent_that_still_warms_up(
    processes: Processes, tmp_path: Path
) -> None:
    (tmp_path / "slowmod.py").write_text("import time\ntime.sleep(3600)\n")
    listen = ["--listen", f"127.0.0.1:{free_port()}"]
    group = await processes.start(
        *("pool", "agent", *listen, "--import", "slowmod"), environ={"PYTHONPATH": str(tmp_path)}
    )
    await until(lambda: "Agent at" in group.tail(), "it listens")
    await asyncio.sleep(1)
    group.signal(signal.SIGTERM)
    await until(lambda: group.ended, "the agent has ended", deadline=15)
    assert group.returncode == 0
    assert "Traceback" not in group.tail(200)


async def test_a_worker_that_starts_slowly_is_waited_for(
    processes: Processes, tmp_path: Path
) -> None:
    preload = tmp_path / "slow.py"
    preload.write_text("import time\n\n\ndef dask_setup(worker):\n    time.sleep(4)\n")
    agents = await processes.agents(1, "--preload", str(preload))
    environ = {"DASK_GC_BOOTSTRAP__CONNECT__TIMEOUT": "2s"}
    hasty = await processes.scheduler(agents, environ=environ)
    (peer,) = agents

    async def held() -> str | None:
        reason: str | None = (await hasty.status())["held"].get(str(peer))
        return reason

    assert "no worker has registered within 1.8 s" in await until(held, "the reason is known")
    hasty.group.signal(signal.SIGTERM)
    await hasty.group.stop()
    patient = await processes.scheduler(agents)
    await patient.formed(agents)


async def test_worker_and_scheduler_killed_together_and_a_new_scheduler_at_the_same_address(
    processes: Processes,
) -> None:
    agents = await processes.agents(1)
    port = free_port()
    scheduler = await processes.scheduler(agents, port=port)
    await scheduler.formed(agents)
    (group,) = agents.values()
    assert group.pid is not None
    attached = f"Attached to tcp://127.0.0.1:{port}"
    await until(lambda: attached in group.tail(500), "the agent knows that it is attached")
    (worker,) = workers_of(group.pid)
    scheduler.group.signal(signal.SIGKILL)
    worker.kill()
    await scheduler.group.stop()
    second = await processes.scheduler(agents, port=port)
    await second.formed(agents)
    await until(lambda: group.tail(500).count(attached) == 2, "the agent knows of it")


async def test_a_worker_that_was_restarted_for_a_scheduler_that_is_replaced_meanwhile_is_ended(
    processes: Processes, tmp_path: Path
) -> None:
    """It would be at work for the new one, as nobody's member, until its lease ends."""
    hold, waits = tmp_path / "hold", tmp_path / "waits"
    preload = tmp_path / "held.py"
    preload.write_text(
        "import asyncio, pathlib\n\n\n"
        "async def dask_setup(worker):\n"
        f"    while pathlib.Path({str(hold)!r}).exists():\n"
        f"        pathlib.Path({str(waits)!r}).touch()\n"
        "        await asyncio.sleep(0.02)\n"
    )
    agents = await processes.agents(1, "--preload", str(preload))
    (group,) = agents.values()
    port = free_port()
    scheduler = await processes.scheduler(agents, port=port)
    await scheduler.formed(agents)
    hold.touch()
    (worker,) = workers_of(group.pid or 0)
    worker.kill()
    await until(waits.exists, "the worker is being restarted")
    scheduler.group.signal(signal.SIGKILL)
    await scheduler.group.stop()
    scheduler = await processes.scheduler(agents, port=port)
    hold.unlink()
    await scheduler.formed(agents)


async def test_a_workers_teardown_is_waited_for(processes: Processes, tmp_path: Path) -> None:
    preload, proof = tmp_path / "tidy.py", tmp_path / "tidy"
    preload.write_text(
        "import pathlib, time\n\n\n"
        "def dask_teardown(worker):\n"
        f"    time.sleep(3)\n    pathlib.Path({str(proof)!r}).touch()\n"
    )
    agents = await processes.agents(1, "--preload", str(preload))
    scheduler = await processes.scheduler(agents)
    await scheduler.formed(agents)
    async with Client(scheduler.address, asynchronous=True) as client:
        await client.retire_workers()
    await until(proof.exists, "the teardown has run to its end")


async def test_agents_started_together_do_not_fight_over_the_port(processes: Processes) -> None:
    groups = [await processes.start("pool", "agent", "--no-nanny") for _ in range(4)]
    for group in groups:
        await until(lambda group=group: "is ready" in group.tail() or group.ended, "it is ready")  # type: ignore[misc]
        assert not group.ended, group.tail()
    assert len((await LocalDiscovery().peers()).peers) == 4


@pytest.mark.parametrize("takes", [0.0, 0.3], ids=["at once", "while the agent ends"])
async def test_a_registration_that_was_removed_is_made_again(
    runtime_dir: Path, monkeypatch: pytest.MonkeyPatch, takes: float
) -> None:
    monkeypatch.setattr(run_module, "REGISTRATION_INTERVAL", 0.05)
    register = Registrar.register

    def slowly(registrar: Registrar, registration: Registration) -> None:
        register(registrar, registration)
        time.sleep(takes)  # in its thread, when others can see it already

    monkeypatch.setattr(Registrar, "register", slowly)
    async with agent_here() as agent:
        for path in await asyncio.to_thread(lambda: list(runtime_dir.iterdir())):
            await asyncio.to_thread(os.unlink, path)
        discovery = LocalDiscovery()

        async def found() -> bool:
            return agent.peer in (await discovery.peers()).peers

        await until(found, "it is found again")


async def test_names_that_resolve_slowly_hold_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    from gc_bootstrap.config import PoolOptions
    from gc_bootstrap.dist import Owner
    from gc_bootstrap.pool import Pool
    from gc_bootstrap.scheduler.dask import DaskDist
    from gc_bootstrap.testing import ManualDiscovery

    resolve = socket.getaddrinfo

    def slowly(host: Any, *arguments: Any, **keywords: Any) -> Any:
        if str(host).startswith("slow"):
            time.sleep(2)  # what a name server that does not answer costs, if it is quick
            raise socket.gaierror(-2, "Name or service not known")
        return resolve(host, *arguments, **keywords)

    monkeypatch.setattr(socket, "getaddrinfo", slowly)
    async with scheduler_here() as scheduler, agent_here() as agent:
        slow = [Peer(f"slow-{number}.invalid") for number in range(40)]
        good = Peer("localhost", agent.peer.port)
        dist = DaskDist.for_scheduler(Owner(scheduler))
        options = PoolOptions()
        async with Pool(ManualDiscovery([*slow, good]), dist, options=options) as pool:
            await until(lambda: scheduler.workers, "the good one is attached")
            status = await pool.status()
            assert len(status.connecting) >= 30, "it was not attached before the slow ones ended"
