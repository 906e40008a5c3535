"""Making a storm happen to a cluster."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import psutil

from gc_bootstrap.cli.processes import ProcessGroup
from tests.chaos.cluster import Agent, Cluster
from tests.chaos.schedule import Event, Kind, Storm
from tests.chaos.tally import Tally
from tests.chaos.workload import Workload, held_by
from tests.integration.harness import free_port, until

AWAY = 2
"""Agents that may be leaving at the same time: somebody has to be there to take the data."""
MOMENT = 0.1
"""Seconds for what a worker has sent before it was stopped to reach the scheduler's tables."""
ASKING = 3.0
"""Seconds for a scheduler to answer; longer than it is ever stopped."""
LEAVES = 90.0
"""Seconds for an agent to leave in good order; its drain has a deadline of its own."""


class Faults:
    """Enacts storms.

    Parameters
    ----------
    cluster
        To what they happen.
    workload
        Has to know what is lost.
    tally
        Counts what was done.
    """

    def __init__(self, cluster: Cluster, workload: Workload, tally: Tally) -> None:
        self._cluster = cluster
        self._workload = workload
        self._tally = tally
        self._graceful = True
        # One agent's coming and going is one thing at a time; stops, cuts and kills of its worker
        # come when they come.
        self._slots = [asyncio.Lock() for _ in cluster.slots]
        self._away = asyncio.Semaphore(AWAY)
        self._scheduler = asyncio.Lock()
        self._discovery = asyncio.Lock()
        self._enact: dict[Kind, Callable[[Event], Awaitable[bool]]] = {
            Kind.REPLACE: self._replace,
            Kind.LEAVE: self._leave,
            Kind.VANISH: self._vanish,
            Kind.BLANK: self._blank,
            Kind.STOP_WORKER: self._stop_worker,
            Kind.STOP_AGENT: self._stop_agent,
            Kind.STOP_SCHEDULER: self._stop_scheduler,
            Kind.STOP_DISCOVERY: self._stop_discovery,
            Kind.CUT_CONTROL: self._cut_control,
            Kind.CUT_SCHEDULER: self._cut_scheduler,
            Kind.KILL_DISCOVERY: self._kill_discovery,
            Kind.KILL_WORKER: self._kill_worker,
            Kind.KILL_AGENT: self._kill_agent,
            Kind.KILL_SCHEDULER: self._kill_scheduler,
            Kind.RESET: self._reset,
            Kind.OUTLAST_STOP: self._outlast_stop,
            Kind.OUTLAST_CUT: self._outlast_cut,
        }

    async def run(self, storm: Storm) -> None:
        """Have a storm, to its end."""
        self._graceful = storm.kind == "graceful"
        try:
            async with asyncio.TaskGroup() as group:
                for event in storm.events:
                    group.create_task(self._at(event), name=str(event))
        except* AssertionError as failed:
            reasons = "\n".join(map(str, failed.exceptions))
            raise AssertionError(f"{storm}\nfailed at {reasons}") from failed
        self._tally.storms += 1

    async def _at(self, event: Event) -> None:
        await asyncio.sleep(event.at)
        try:
            done = await self._enact[event.kind](event)
        except AssertionError as exc:
            raise AssertionError(f"{event}: {exc}") from exc
        self._tally.faults[event.kind] += done

    # -- leaving in good order -------------------------------------------------------------------

    async def _replace(self, event: Event) -> bool:
        """As a rolling update does it: the new one is there first."""
        cluster = self._cluster
        async with self._slots[event.slot], self._away:
            old, new = cluster.slots[event.slot], await cluster.new_agent()
            cluster.publish(add=[new])
            await until(lambda: cluster.is_member(new), f"{new.peer} is a member")
            if event.variant != "sigterm":
                cluster.publish(leaving=old)
            if event.variant == "leaving":
                gone = f"{old.peer} is no member, as it is leaving"
                await until(lambda: self._is_no_member(old), gone, LEAVES)
            old.process.signal(signal.SIGTERM)
            await until(lambda: old.process.ended, f"{old.peer} has ended", LEAVES)
            cluster.publish(remove=old)
            await old.ends()
            old.has_ended_well(quietly=self._graceful)
            cluster.slots[event.slot] = new
            cluster.gone.append(old.process)
        return True

    async def _is_no_member(self, agent: Agent) -> bool:
        return await self._cluster.is_member(agent) is False

    async def _leave(self, event: Event) -> bool:
        cluster = self._cluster
        async with self._slots[event.slot], self._away:
            agent = cluster.slots[event.slot]
            cluster.publish(leaving=agent)
            await asyncio.sleep(event.seconds)
            cluster.publish(staying=agent)
            await until(lambda: cluster.is_member(agent), f"{agent.peer} is back", LEAVES)
        return True

    async def _vanish(self, event: Event) -> bool:
        cluster = self._cluster
        async with self._slots[event.slot], self._away:
            agent = cluster.slots[event.slot]
            cluster.publish(remove=agent)
            await asyncio.sleep(event.seconds)
            cluster.publish(add=[agent])
            await until(lambda: cluster.is_member(agent), f"{agent.peer} is back", LEAVES)
        return True

    async def _blank(self, event: Event) -> bool:
        registry = self._cluster.registry
        async with self._discovery:
            registry.blank = True
            registry.save()
            await asyncio.sleep(event.seconds)
            registry.blank = False
            registry.save()
        return True

    # -- pauses ----------------------------------------------------------------------------------

    async def _stop_worker(self, event: Event) -> bool:
        pids = self._cluster.slots[event.slot].workers()
        async with _stopped(pids):
            await asyncio.sleep(event.seconds)
        return bool(pids)

    async def _stop_agent(self, event: Event) -> bool:
        async with _stopped(_pid(self._cluster.slots[event.slot].process)):
            await asyncio.sleep(event.seconds)
        return True

    async def _stop_scheduler(self, event: Event) -> bool:
        async with self._scheduler, _stopped(_pid(self._cluster.scheduler.group)):
            await asyncio.sleep(event.seconds)
        return True

    async def _stop_discovery(self, event: Event) -> bool:
        registry = self._cluster.registry
        async with self._discovery:
            registry.signal(signal.SIGSTOP)
            await asyncio.sleep(event.seconds)
            registry.signal(signal.SIGCONT)
        return True

    async def _cut_control(self, event: Event) -> bool:
        async with self._cluster.slots[event.slot].control.cut():
            await asyncio.sleep(event.seconds)
        return True

    async def _cut_scheduler(self, event: Event) -> bool:
        agent = self._cluster.slots[event.slot]
        async with self._cluster.to_scheduler.cut(agent):
            await asyncio.sleep(event.seconds)
        return True

    async def _kill_discovery(self, event: Event) -> bool:
        async with self._discovery:
            await self._cluster.registry.kill()
            await asyncio.sleep(event.seconds)
            await self._cluster.registry.start()
        return True

    # -- losses ----------------------------------------------------------------------------------

    async def _kill_worker(self, event: Event) -> bool:
        agent = self._cluster.slots[event.slot]
        pids = agent.workers()
        async with _stopped(pids):
            await self._lose(event, agent, pids)
            _send(pids, signal.SIGKILL)
        return bool(pids)

    async def _kill_agent(self, event: Event) -> bool:
        cluster = self._cluster
        async with self._slots[event.slot]:
            agent = cluster.slots[event.slot]
            pids = agent.workers()
            async with _stopped(pids):
                await self._lose(event, agent, pids)
                if event.variant == "node":
                    agent.process.kill()
                else:
                    agent.process.signal(signal.SIGKILL)
            await agent.ends()
            await asyncio.sleep(event.seconds)
            await cluster.start_agent(agent)
        return True

    async def _kill_scheduler(self, event: Event) -> bool:
        cluster, workload = self._cluster, self._workload
        async with self._scheduler, workload.without_scheduler():
            cluster.scheduler.group.signal(signal.SIGKILL)
            await cluster.scheduler.group.stop()
            port = cluster.to_scheduler.target if event.variant == "same port" else free_port()
            await cluster.new_scheduler(port)
            await workload.attach(cluster.scheduler.address)
        return True

    async def _reset(self, event: Event) -> bool:
        agent, proxy = self._cluster.slots[event.slot], self._cluster.to_scheduler
        async with proxy.cut(agent):
            await self._lose(event, agent, agent.workers())
            async with proxy.broken(agent):
                await asyncio.sleep(event.seconds)
        return True

    async def _outlast_stop(self, event: Event) -> bool:
        agent = self._cluster.slots[event.slot]
        pids = agent.workers()
        async with _stopped(pids):
            victims = await self._lose(event, agent, pids)
            await until(lambda: self._are_given_up(victims, pids), "they are given up", LEAVES)
        return bool(victims)

    async def _outlast_cut(self, event: Event) -> bool:
        agent = self._cluster.slots[event.slot]
        pids = agent.workers()
        async with self._cluster.to_scheduler.cut(agent):
            victims = await self._lose(event, agent, pids)
            await until(lambda: self._are_given_up(victims, pids), "they are given up", LEAVES)
        return bool(victims)

    async def _lose(self, event: Event, agent: Agent, pids: frozenset[int]) -> frozenset[str]:
        """Note what is lost with an agent's workers, which cannot say anything any more.

        The tables are read twice: what was on its way when the workers fell silent is in one of
        them.

        Returns
        -------
        frozenset of str
            The workers' addresses.
        """
        if not pids:
            return frozenset()
        while True:
            scheduler = self._cluster.scheduler
            try:
                async with asyncio.timeout(ASKING):
                    workers = await scheduler.workers()
                    victims = frozenset(workers.get(str(agent.peer), ()))
                    keys = await held_by(scheduler.address, victims)
                    await asyncio.sleep(MOMENT)
                    keys |= await held_by(scheduler.address, victims)
            except OSError:  # it is stopped; or it is being killed, and the next one is asked
                await asyncio.sleep(MOMENT)
            else:
                self._workload.note_loss(f"{event.kind}, slot {event.slot}", keys, pids)
                return victims

    async def _are_given_up(self, addresses: frozenset[str], pids: frozenset[int]) -> bool:
        """Whether workers are in no table any more, or have been ended."""
        if not any(map(psutil.pid_exists, pids)):
            return True
        status = await self._cluster.ask()
        if status is None:
            return False
        known = {address for workers in status["workers"].values() for address in workers}
        return not addresses & known


@asynccontextmanager
async def _stopped(pids: frozenset[int]) -> AsyncIterator[None]:
    """Processes do nothing in this context."""
    _send(pids, signal.SIGSTOP)
    try:
        yield
    finally:
        _send(pids, signal.SIGCONT)


def _send(pids: frozenset[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _pid(group: ProcessGroup) -> frozenset[int]:
    return frozenset() if group.pid is None or group.ended else frozenset({group.pid})
