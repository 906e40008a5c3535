"""What there is to do in a scheduler, and who does it: read from the scheduler itself."""

from __future__ import annotations

import asyncio
import math
from itertools import islice
from typing import TYPE_CHECKING

from gc_bootstrap.peer import Peer
from gc_bootstrap.scheduler import _dask
from gc_bootstrap.scheduler._dask import Status
from gc_bootstrap.scheduler.drains import Drainer
from gc_bootstrap.scheduler.kinds import ANYWHERE, Agent, Amount, Kind, Shape
from gc_bootstrap.scheduler.members import Members
from gc_bootstrap.scheduler.spare import Holding

if TYPE_CHECKING:
    from distributed import Scheduler
    from distributed.scheduler import TaskState, WorkerState

WINDOW = 5_000
"""Tasks that no worker can run: one look takes the newest so many, and as many of the others."""
REACH = 100
"""Windows from either end that are looked at: as many tasks are passed over in 5 ms."""
SAMPLE = 10_000
"""Tasks that workers have, of which one look is taken, all in all."""
LEAST_SAMPLE = 10
"""Of each worker, at least."""
SLICE = 250
"""Tasks that are looked at in one turn of the event loop; about 1 ms."""
PER_WORKER = 10
"""As how many tasks each worker counts."""

NOWHERE = Kind(resources=frozenset({("", math.inf)}))
"""Of tasks that ask for nothing sensible."""

Amounts = dict[Kind, Amount]


class Reader:
    """Looks at a scheduler, never for long in one turn of the event loop.

    What is too much for one look is sampled and scaled up. A sample may miss for ever the one task
    that is bound to another place than all others. Bound tasks that nobody has begun are among
    those that no worker can run (none of them waits for a thread), and of those a look takes the
    newest, and in turn all others; what it has seen of them is remembered.

    Parameters
    ----------
    scheduler
        Where to look.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._members = Members.of(scheduler)
        self._drainer = Drainer.of(scheduler)
        self._windows: dict[int, Amounts] = {}

    async def work(self) -> tuple[Amounts, dict[str, Amounts]]:
        """Tasks that can be run now.

        Returns
        -------
        tuple
            Those that have not been begun, which are those that workers have beyond their threads,
            too: other workers would steal them. And those that have been begun, by the pool of
            their worker, which is empty for a worker of other origin.
        """
        tasks, pace = _Tasks(self._scheduler), _Pace()
        waiting: Amounts = {}
        begun: dict[str, Amounts] = {}
        await self._queued(waiting, pace)
        await self._unrunnable(waiting, tasks, pace)
        sample = max(LEAST_SAMPLE, SAMPLE // max(1, len(self._scheduler.workers)))
        for address, ws in list(self._scheduler.workers.items()):
            if ws.processing and address in self._scheduler.workers:
                tag = self._members.tag(address)
                pool = tag.pool if tag is not None else ""
                self._processing(ws, sample, tasks, waiting, begun.setdefault(pool, {}))
                if pace.passed(PER_WORKER + min(sample, len(ws.processing))):
                    await pace.turn()
        return waiting, begun

    async def workers(self) -> tuple[dict[str, list[Agent]], list[Holding]]:
        """Who is there.

        Returns
        -------
        tuple
            Members by pool, and workers of other origin with an empty name: busy ones rank before
            idle ones, and those before the ones that leave. And what each of all these holds.
        """
        pace = _Pace()
        workers = dict(self._scheduler.workers)
        may_go = _dask.may_leave(self._scheduler, workers.values())
        await pace.turn()
        parties: dict[tuple[str, Peer | str], list[WorkerState]] = {}
        for address, ws in workers.items():
            tag = self._members.tag(address)
            whose = ("", address) if tag is None else (tag.pool, Peer.parse(tag.peer))
            parties.setdefault(whose, []).append(ws)
            if pace.passed(1):
                await pace.turn()
        agents: dict[str, list[Agent]] = {}
        holdings = []
        for (pool, who), members in parties.items():
            # Without those that have gone meanwhile.
            found = [ws for ws in members if self._scheduler.workers.get(ws.address) is ws]
            if not found:
                continue
            peer = who if isinstance(who, Peer) else None
            held = self._holding(pool, peer, found, may_go.issuperset(found))
            holdings.append(held)
            agents.setdefault(pool, []).append(self._agent(held, found))
            if pace.passed(PER_WORKER * len(found)):
                await pace.turn()
        return agents, holdings

    # -- tasks -----------------------------------------------------------------------------------

    async def _queued(self, into: Amounts, pace: _Pace) -> None:
        total = Amount()
        for count, seconds in _dask.queued_work(self._scheduler):
            total = total.plus(Amount(count, count * seconds))
            if pace.passed(1):
                await pace.turn()
        if total.tasks:
            _add(into, ANYWHERE, total)

    async def _unrunnable(self, into: Amounts, tasks: _Tasks, pace: _Pace) -> None:
        count = len(self._scheduler.unrunnable)
        windows = -(-count // WINDOW)
        self._windows = {n: found for n, found in self._windows.items() if n < windows - 1}
        for number in self._next_windows(windows):
            # Not for a few: a task that begins in that turn would be seen twice.
            if pace.passed(min(count, WINDOW)):
                await pace.turn()
            start, stop = number * WINDOW, min(count, (number + 1) * WINDOW)
            found = _dask.unrunnable_tasks(self._scheduler, start, stop)
            seen = _Tally()
            for begin in range(0, len(found), SLICE):
                if begin:
                    await pace.turn()
                for ts in found[begin : begin + SLICE]:
                    seen.add(tasks.kind(ts), tasks.seconds(ts))
            self._windows.pop(number, None)  # it becomes the one that was seen last
            self._windows[number] = seen.amounts()
        known = sum(amount.tasks for found in self._windows.values() for amount in found.values())
        for amounts in self._windows.values():
            for kind, amount in amounts.items():
                _add(into, kind, amount.times(count / known))

    def _next_windows(self, windows: int) -> list[int]:
        """The newest tasks; and of all others those not seen yet, or else longest ago."""
        others = [n for n in range(windows - 1) if n < REACH or windows - n <= REACH]
        unseen = [n for n in others if n not in self._windows]
        again = [n for n in self._windows if n in others]
        return [windows - 1] * (windows > 0) + (unseen[-1:] or again[:1])

    def _processing(
        self, ws: WorkerState, sample: int, tasks: _Tasks, waiting: Amounts, begun: Amounts
    ) -> None:
        """Share out what a worker has to do, as a sample of its tasks is bound."""
        count, seceded = len(ws.processing), len(ws.long_running)
        running = min(count - seceded, ws.nthreads)
        part = running / (count - seceded) if running else 0.0
        seen, long = _Tally(), ws.long_running
        for ts in islice(ws.processing, sample):
            # As in WorkerState.occupancy: nobody knows how long those run that have seceded.
            seen.add(tasks.kind(ts), tasks.seconds(ts) if ts not in long else 0.0)
        found = seen.amounts()
        total = Amount()
        for amount in found.values():
            total = total.plus(amount)
        seconds = ws.occupancy / total.seconds if total.seconds else 0.0
        for kind, amount in found.items():
            whole = Amount(amount.tasks * count / total.tasks, amount.seconds * seconds)
            there = Amount(whole.tasks * (running + seceded) / count, whole.seconds * part)
            _add(begun, kind, there)
            if count > running + seceded:
                rest = Amount(whole.tasks - there.tasks, whole.seconds - there.seconds)
                _add(waiting, kind, rest)

    # -- workers ---------------------------------------------------------------------------------

    def _agent(self, held: Holding, workers: list[WorkerState]) -> Agent:
        like = workers[0]
        tag = self._members.tag(like.address)
        # One that its nanny starts again will be back.
        nworkers = max(len(workers), tag.nworkers if tag is not None else 1)
        shape = Shape(nworkers, like.nthreads, frozenset(like.resources.items()))
        hosts = frozenset(ws.host for ws in workers)
        addresses = frozenset(ws.address for ws in workers)
        rank = 2 if held.is_leaving else held.is_idle
        # A member that leaves can be called back.
        may_take = {Status.running, Status.closing_gracefully} if held.peer else {Status.running}
        takes = any(ws.status in may_take for ws in workers)
        return Agent(held.peer, shape, hosts, addresses, rank, takes)

    def _holding(
        self, pool: str, peer: Peer | None, workers: list[WorkerState], may_go: bool
    ) -> Holding:
        return Holding(
            pool=pool,
            peer=peer,
            limit=sum(ws.memory_limit or float("inf") for ws in workers),
            nbytes=sum(max(0, ws.nbytes) for ws in workers),
            has_data=any(ws.has_what or ws.actors for ws in workers),
            is_idle=not any(ws.processing for ws in workers),
            may_go=may_go and not any(ws.long_running or ws.actors for ws in workers),
            is_leaving=any(self._is_leaving(ws) for ws in workers),
        )

    def _is_leaving(self, ws: WorkerState) -> bool:
        return ws.status == Status.closing_gracefully or self._drainer.is_draining(ws.address)


class _Pace:
    """Gives the event loop a turn, as often as it takes."""

    def __init__(self) -> None:
        self._looked = 0

    def passed(self, looked: int) -> bool:
        """Note how much has been looked at; whether it is time for a turn of others."""
        self._looked += looked
        return self._looked >= SLICE

    async def turn(self) -> None:
        """Let others have a turn."""
        self._looked = 0
        await asyncio.sleep(0)


class _Tasks:
    """Says where tasks can run, and how long they take; for one look, which sees many alike."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._kinds: dict[object, Kind] = {}
        self._seconds: dict[object, float] = {}

    def kind(self, ts: TaskState) -> Kind:
        """Where a task can run. One that may run elsewhere in need can run anywhere."""
        found = _dask.places(ts)
        if found is None:
            return ANYWHERE
        workers, hosts, resources = found
        named = (frozenset(workers), frozenset(hosts)) if workers or hosts else None
        key = (named, tuple(resources.items()))
        try:
            kind = self._kinds.get(key)
        except TypeError:
            return NOWHERE  # of some resource it takes a list, or the like
        if kind is None:
            places = frozenset(map(self._scheduler.coerce_hostname, hosts))
            takes = frozenset((name, _amount(value)) for name, value in resources.items())
            kind = Kind(frozenset(workers), places, takes)
            self._kinds[key] = kind
        return kind

    def seconds(self, ts: TaskState) -> float:
        """How long a task takes, as far as it is known."""
        seconds = self._seconds.get(ts.prefix)
        if seconds is None:
            seconds = self._seconds[ts.prefix] = _dask.duration(self._scheduler, ts)
        return seconds


class _Tally:
    """Counts tasks one by one."""

    def __init__(self) -> None:
        self._found: dict[Kind, list[float]] = {}

    def add(self, kind: Kind, seconds: float) -> None:
        """Count one."""
        found = self._found.get(kind)
        if found is None:
            self._found[kind] = [1, seconds]
        else:
            found[0] += 1
            found[1] += seconds

    def amounts(self) -> Amounts:
        """The result."""
        return {kind: Amount(*found) for kind, found in self._found.items()}


def _amount(value: object) -> float:
    """How much of a resource a task takes; what is no number is more than anybody has."""
    if not isinstance(value, int | float) or math.isnan(value):
        return math.inf
    return float(value)


def _add(into: Amounts, kind: Kind, amount: Amount) -> None:
    before = into.get(kind)
    into[kind] = amount if before is None else before.plus(amount)
