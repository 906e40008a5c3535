"""The cluster that the storms go over: a registry, a scheduler, agents, and proxies in between.

The scheduler reaches each agent's control API through a proxy, whose address is the peer's; agents
and workers reach the scheduler through one more. All else (worker to worker, scheduler to worker)
is direct. Time-outs are short, and still far above any pause in a graceful storm.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from distributed.core import rpc

from gc_bootstrap.cli.processes import ProcessGroup
from gc_bootstrap.peer import Peer
from tests.chaos.discovery import Registry
from tests.chaos.proxy import Proxy
from tests.integration.harness import (
    COOKIE,
    SECRET,
    Processes,
    SchedulerProcess,
    free_port,
    is_ready,
    request,
    until,
    workers_of,
)

ROOT = Path(__file__).parents[2]
SHARED = {"PYTHONPATH": str(ROOT), "GC_BOOTSTRAP_COOKIE": SECRET}
WORKER_TTL = 12.0
LEASE_TIMEOUT = 15.0
DRAIN_TIMEOUT = 30.0
SETTLES = 60.0
"""Seconds for a storm's last traces to go."""
STABLE = 3
"""Refreshes after which it is still so."""
SCHEDULER = {
    "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": f"{WORKER_TTL:g}s",
    # A storm may hit the worker of one and the same task again and again.
    "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1000",
    "DASK_GC_BOOTSTRAP__CONNECT__TIMEOUT": "10s",
    "DASK_GC_BOOTSTRAP__RECONNECT__INITIAL": "200ms",
    "DASK_GC_BOOTSTRAP__RECONNECT__MAX": "1s",
    "DASK_GC_BOOTSTRAP__REMOVAL__POLICY": "drain",
    "DASK_GC_BOOTSTRAP__REMOVAL__AFTER": "2",
    "DASK_GC_BOOTSTRAP__REMOVAL__GRACE": "1s",
    "DASK_GC_BOOTSTRAP__DRAIN__TIMEOUT": f"{DRAIN_TIMEOUT:g}s",
}


class Agent:
    """One agent process behind its proxy.

    Parameters
    ----------
    port
        Where it listens itself.
    control
        What its peer address leads to.
    """

    def __init__(self, port: int, control: Proxy) -> None:
        self.port = port
        self.control = control
        self.group: ProcessGroup | None = None

    @property
    def peer(self) -> Peer:
        """What discovery calls it."""
        return Peer("127.0.0.1", self.control.port)

    @property
    def process(self) -> ProcessGroup:
        """The process that runs now, or ran last."""
        assert self.group is not None, "it has not been started"
        return self.group

    def pids(self) -> list[int]:
        """Its process, and all that it has started."""
        return _group(self.process)

    def workers(self) -> frozenset[int]:
        """Process ids of its workers."""
        assert self.process.pid is not None
        with suppress(psutil.NoSuchProcess):
            return frozenset(worker.pid for worker in workers_of(self.process.pid))
        return frozenset()

    async def status(self) -> dict[str, Any]:
        """What it says itself, past the proxy."""
        peer = Peer("127.0.0.1", self.port)
        async with asyncio.timeout(5):
            code, status = await request(peer, "GET", "/v1/status", cookie=COOKIE)
        assert code == 200, status
        found: dict[str, Any] = status
        return found

    async def unsettled(self, status: Mapping[str, Any]) -> str:
        """What it says otherwise than its scheduler's pool, or nothing."""
        said = await self.status()
        if said["state"] != "attached" or said["scheduler_id"] != status["id"]:
            return f"says {said}"
        addresses = [worker["address"] for worker in said["workers"]]
        if addresses != list(status["workers"][str(self.peer)]):
            return f"has {addresses}; the scheduler: {status['workers']}"
        if len(self.workers()) != 1:
            return f"has the worker processes {sorted(self.workers())}"
        return ""

    async def ends(self) -> None:
        """Wait until no process of it is left, however it came to its end."""
        await until(lambda: self.process.ended, f"agent {self.peer} has ended")
        await until(lambda: not self.pids(), f"agent {self.peer} has left no process")

    def has_ended_well(self, *, quietly: bool) -> None:
        """Fail unless it exited as it should.

        Parameters
        ----------
        quietly
            Without a traceback after the signal. Where its worker was hurt, Dask logs its own.
        """
        assert self.process.returncode == 0, self.process.tail(50)
        _, _, end = self.process.log.read_text().rpartition("Received signal SIGTERM")
        assert not (quietly and "Traceback" in end), self.process.tail(50)


class Cluster:
    """All of it; ``async with`` starts it and ends it.

    Parameters
    ----------
    folder
        For logs and the registry's file.
    slots
        How many agents there are.
    """

    def __init__(self, folder: Path, slots: int) -> None:
        self.registry = Registry(folder, free_port())
        self.to_scheduler = Proxy(0, self._sources)
        self.slots: list[Agent] = []
        self.gone: list[ProcessGroup] = []
        self._folder = folder
        self._count = slots
        self._processes = Processes(folder)
        self._proxies = [self.to_scheduler]
        self._scheduler: SchedulerProcess | None = None

    @property
    def scheduler(self) -> SchedulerProcess:
        """The one that lives, or did last."""
        assert self._scheduler is not None, "the cluster has not been started"
        return self._scheduler

    async def __aenter__(self) -> Cluster:
        try:
            await self.to_scheduler.start(free_port())
            await self.registry.start()
            async with asyncio.TaskGroup() as group:
                group.create_task(self.new_scheduler())
                agents = [group.create_task(self.new_agent()) for _ in range(self._count)]
            self.slots = [agent.result() for agent in agents]
            self.publish(add=self.slots)
            await self.scheduler.formed(agent.peer for agent in self.slots)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        for agent in self.slots:
            for pid in agent.pids() if agent.group is not None else ():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
        await self._processes.__aexit__(*exc)
        await self.registry.kill()
        for proxy in self._proxies:
            await proxy.close()

    async def new_agent(self) -> Agent:
        """Start one more agent, warm and known to nobody yet."""
        agent = Agent(free_port(), Proxy(0))
        agent.control.target = agent.port
        await agent.control.start(free_port())
        self._proxies.append(agent.control)
        await self.start_agent(agent)
        return agent

    async def start_agent(self, agent: Agent) -> None:
        """Start an agent, or the next one in its place, and wait until it is warm."""
        if agent.group is not None:
            self.gone.append(agent.group)
        agent.group = await self._processes.start(
            *("pool", "agent"),
            *("--drain-timeout", f"{DRAIN_TIMEOUT:g}s", "--lease-timeout", f"{LEASE_TIMEOUT:g}s"),
            *("--nthreads", "1", "--host", "127.0.0.1", "--no-dashboard"),
            *("--listen", f"127.0.0.1:{agent.port}"),  # last: names the log
            environ=SHARED,
        )
        await is_ready(agent.group)

    async def new_scheduler(self, port: int = 0) -> None:
        """Start a scheduler, to which the proxy leads from now on."""
        if self._scheduler is not None:
            self.gone.append(self._scheduler.group)
        address = f"tcp://127.0.0.1:{self.to_scheduler.port}"
        self._scheduler = await self._processes.scheduler(
            self.registry.spec,
            *("--refresh-interval", "500ms"),
            port=port,
            environ={**SHARED, **SCHEDULER, "DASK_GC_BOOTSTRAP__SCHEDULER_ADDRESS": address},
        )
        self.to_scheduler.target = int(self.scheduler.address.rpartition(":")[2])

    def publish(
        self,
        *,
        add: list[Agent] | None = None,
        remove: Agent | None = None,
        leaving: Agent | None = None,
        staying: Agent | None = None,
    ) -> None:
        """Change what the registry says."""
        registry = self.registry
        registry.peers |= {agent.peer for agent in add or ()}
        registry.peers -= {remove.peer} if remove is not None else set()
        registry.leaving |= {leaving.peer} if leaving is not None else set()
        registry.leaving -= {staying.peer} if staying is not None else set()
        registry.leaving &= registry.peers
        registry.save()

    async def ask(self) -> dict[str, Any] | None:
        """The pool's status; None where the scheduler does not answer now."""
        try:
            async with asyncio.timeout(2):
                return await self.scheduler.status()
        except (OSError, TimeoutError):
            return None

    async def is_member(self, agent: Agent) -> bool | None:
        """Whether it is one now; None where nobody can tell."""
        status = await self.ask()
        return None if status is None else str(agent.peer) in status["workers"]

    async def settles(self) -> None:
        """Wait until members are the peers, by the scheduler and by the agents, and stay so."""
        unsettled = ""

        async def settled() -> bool:
            nonlocal unsettled
            unsettled = await self._unsettled()
            return not unsettled

        async def stable() -> bool:
            """Settled at the beginning and at the end of some refreshes."""
            before = await self._refreshes()
            await until(settled, "the cluster has settled", SETTLES)

            async def refreshed() -> bool:
                return await self._refreshes() >= before + STABLE

            await until(refreshed, "it has refreshed")
            return await settled()

        try:
            await until(stable, "it stays settled", SETTLES)
        except AssertionError as exc:
            log = self.scheduler.group.tail(40)
            raise AssertionError(f"{exc}; {unsettled}\n{log}") from exc

    async def _refreshes(self) -> int:
        status = await self.ask()
        return -1 if status is None else int(status["refreshes"])

    async def _unsettled(self) -> str:
        """What is not as it should be, or nothing."""
        status = await self.ask()
        if status is None:
            return "the scheduler does not answer"
        names = {str(agent.peer) for agent in self.slots}
        for what in ("peers", "members"):
            if set(status[what]) != names:
                return f"{what} are {status[what]} and not {names}; held: {status['held']}"
        for what in ("error", "warning", "connecting", "disconnecting"):
            if status[what]:
                return f"{what}: {status[what]}"
        async with asyncio.timeout(5), rpc(self.scheduler.address) as ask:
            known = set((await ask.identity())["workers"])
        tagged = {address for workers in status["workers"].values() for address in workers}
        if known != tagged or len(tagged) != len(names):
            return f"workers: {status['workers']}, and the scheduler knows {known}"
        for agent in self.slots:
            if problem := await agent.unsettled(status):
                return f"agent {agent.peer} {problem}"
        return ""

    def left_over(self) -> list[str]:
        """Processes of agents and schedulers that have ended."""
        return [
            f"{pid} of {' '.join(group.arguments)}" for group in self.gone for pid in _group(group)
        ]

    async def ends_well(self) -> None:
        """End all of it with SIGTERM, and fail if that is not the end of all of it."""
        for agent in self.slots:
            agent.process.signal(signal.SIGTERM)
        for agent in self.slots:
            await agent.ends()
            agent.has_ended_well(quietly=True)
        self.scheduler.group.signal(signal.SIGTERM)
        await until(lambda: self.scheduler.group.ended, "the scheduler has ended")
        self.gone.append(self.scheduler.group)
        await until(lambda: not self.left_over(), "no process is left")

    def _sources(self) -> dict[int, Agent]:
        """Which agents the connections to the scheduler's proxy come from, by port."""
        groups = {agent.process.pid: agent for agent in self.slots}
        found: dict[int, Agent] = {}
        for connection in psutil.net_connections("tcp4"):
            if connection.pid is not None and _port(connection.raddr) == self.to_scheduler.port:
                with suppress(ProcessLookupError):
                    agent = groups.get(os.getpgid(connection.pid))
                    if agent is not None:
                        found[_port(connection.laddr)] = agent
        return found


def _port(end: Any) -> int:
    """Of one end of a connection; what listens has no other end."""
    return int(end.port) if end else 0


def _group(group: ProcessGroup) -> list[int]:
    """The processes of a group that run."""
    found = []
    for pid in psutil.pids():
        with suppress(ProcessLookupError, psutil.NoSuchProcess):
            running = os.getpgid(pid) == group.pid
            if running and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                found.append(pid)
    return found
