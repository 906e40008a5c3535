"""The agent's states and its lease, without any HTTP."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable

from dask.utils import parse_timedelta

from gc_bootstrap.agent.claims import Claims
from gc_bootstrap.agent.lease import Lease
from gc_bootstrap.agent.link import Link, check_address
from gc_bootstrap.agent.options import WorkerOptions
from gc_bootstrap.agent.reach import Reach
from gc_bootstrap.agent.refusals import Refusals
from gc_bootstrap.agent.state import Event, Life
from gc_bootstrap.wire import versions
from gc_bootstrap.wire.messages import (
    RETIRED,
    AttachReply,
    AttachRequest,
    DetachRequest,
    StatusReply,
    WireError,
)

START_TIMEOUT = 30.0
"""Seconds for the workers of one attach to start and register, where the scheduler says nothing."""
DRAIN_TIMEOUT = 60.0
"""Seconds for moving data away, unless ``--drain-timeout`` says otherwise."""
LEASE_TIMEOUT = 300.0
"""Seconds without a sign of life, unless ``--lease-timeout`` says otherwise. Dask's scheduler gives
up a worker that is silent for as long (``distributed.scheduler.worker-ttl``)."""
RELEASE_TIMEOUT = 5.0
"""Seconds that an attach waits for the workers of the last scheduler to be gone."""
ENDING_PATIENCE = 0.5
"""Seconds that a claim waits for workers that are ending, if who claims is next."""


class Agent:
    """Waits for a scheduler, runs workers for it, and waits again.

    Parameters
    ----------
    options
        The workers to start.
    drain_timeout
        Seconds for moving data away before workers are ended on request.
    lease_timeout
        Seconds that a scheduler may give no sign of life before the agent is free again.
    """

    def __init__(
        self,
        options: WorkerOptions,
        *,
        drain_timeout: float = DRAIN_TIMEOUT,
        lease_timeout: float = LEASE_TIMEOUT,
    ) -> None:
        self.options = options
        self.drain_timeout = drain_timeout
        self.lease_timeout = lease_timeout
        self.id = f"Agent-{uuid.uuid4()}"
        self.versions = versions.installed()
        self.attaches = 0
        self.failures = 0
        self.refusals = Refusals()
        self.life = Life()
        self.claims = Claims()
        self._reach = Reach(options.security)
        self._lease: Lease | None = None
        self._left: list[asyncio.Future[None]] = []

    @property
    def state(self) -> str:
        """What its state is called: one of :data:`.state.WORDS`."""
        return self.life.state.word

    @property
    def has_left_a_task(self) -> bool:
        """Whether a task still runs in this process that nothing can stop."""
        return not all(closing.done() for closing in self._left)

    async def warm_up(self, warm: Callable[[], Awaitable[None]] | None) -> None:
        """Get ready to be attached.

        Parameters
        ----------
        warm
            Does it; None where there is nothing to do.

        Raises
        ------
        Exception
            Whatever ``warm`` raised.
        """
        if warm is not None:
            await warm()
        self.life.tell(Event.WARMED)

    async def attach(self, request: AttachRequest) -> AttachReply:
        """Be the scheduler's, with workers that have registered there.

        Attaching again for the same scheduler id changes nothing, and answers when all runs. Where
        another one holds the agent, a claim is kept and told to that one.

        Raises
        ------
        WireError
            409 held by another, incompatible or retired there, 422 the address of who claims is
            none, 502 the scheduler cannot be reached, 500 a worker does not start, 503 warming up,
            draining, or left to somebody else for a moment.
        """
        self._check_ready()
        if request.claim is not None:
            await self._claim(request)
        deadline = asyncio.get_running_loop().time() + self._start_timeout(request)
        if self._lease is not None and self.life.frees_itself:
            await self._released(self._lease)
            self._check_ready()
        lease = self._lease
        if lease is None:
            self._check_fits(request)
            self.claims.check_turn(request)
            lease = self._take(request, deadline)
        elif lease.request.scheduler_id != request.scheduler_id:
            holder = lease.request
            raise WireError(409, f"held by scheduler {holder.scheduler_id} at {holder.scheduler}")
        # Shielded: a scheduler that gives up waiting does not stop the start of its workers.
        await asyncio.shield(lease.started)
        try:
            async with asyncio.timeout_at(deadline):
                await lease.group.ready()
        except TimeoutError:
            raise WireError(500, "a worker has not come back in time") from None
        held = lease.request
        return AttachReply(
            held.scheduler_id,
            held.peer,
            held.pool,
            tuple(lease.group.addresses),
            self.versions,
        )

    async def detach(self, request: DetachRequest) -> None:
        """Drain and end the workers, or abandon them at once, and be nobody's.

        Raises
        ------
        WireError
            409 where another scheduler holds the agent.
        """
        lease = self._lease
        if lease is None:
            return
        if lease.request.scheduler_id != request.scheduler_id:
            raise WireError(409, f"held by scheduler {lease.request.scheduler_id}, not by you")
        if lease.request.peer != request.peer:
            raise WireError(409, f"held as {lease.request.peer}")
        if request.claim is not None and request.claim.scheduler_id != request.scheduler_id:
            check_address(request.claim.scheduler)
            self.claims.give(request.claim, request.peer)
        if request.abandon:
            await lease.end(abandon=True)
        else:
            await lease.drain(self._drain_deadline())

    def status(self) -> StatusReply:
        """What ``GET /v1/status`` answers."""
        lease = self._lease
        held = lease.request if lease is not None else None
        return StatusReply(
            state=self.state,
            scheduler=held.scheduler if held else None,
            scheduler_id=held.scheduler_id if held else None,
            peer=held.peer if held else None,
            pool=held.pool if held else None,
            workers=tuple(lease.group.addresses) if lease is not None else (),
            nworkers=len(self.options.workers),
            nthreads=self.options.nthreads,
            memory_limit=str(self.options.workers[0].get("memory_limit")),
            versions=self.versions,
            refusals=dict(self.refusals.counts),
            memory=self.options.memory,
            resources=self.options.resources,
            agent=self.id,
            holder=self.claims.holder,
        )

    async def drain(self) -> None:
        """Have the scheduler take the workers' data, end them, and take no attach any more."""
        self.life.tell(Event.LEAVE)
        await self.claims.close()
        if self._lease is not None:
            await self._lease.drain(self._drain_deadline())

    async def close(self) -> None:
        """End everything now. May be called more than once."""
        self.life.tell(Event.LEAVE)
        if self._lease is not None:
            await self._lease.end(abandon=True)
        await self.claims.close()

    def _check_ready(self) -> None:
        if not self.life.ready:
            if self.life.leaves:
                raise WireError(503, "is draining", "draining")
            raise WireError(503, "is warming up", "warming")

    def _check_fits(self, request: AttachRequest) -> None:
        if differ := versions.mismatch(self.versions, request.versions):
            raise WireError(409, f"incompatible versions: {differ}", "version")
        if request.retired == self.id:
            raise WireError(409, RETIRED, "retired")

    async def _claim(self, request: AttachRequest) -> None:
        """Refuse a claim while another scheduler holds the agent, and see to it that it counts."""
        lease = self._lease
        if lease is None or lease.request.scheduler_id == request.scheduler_id:
            return
        self._check_fits(request)
        check_address(request.scheduler)
        # Who cannot be reached from here could not have it, and would be given it again and again.
        await self._reach.check(request.scheduler, request.scheduler_id)
        lease = self._lease
        if lease is None or lease.request.scheduler_id == request.scheduler_id:
            return  # meanwhile
        held = await self.claims.note(request, lease.request, lease.link)
        if self.life.workers_end and self.claims.is_next(request):
            await asyncio.wait([lease.task], timeout=ENDING_PATIENCE)
        if self._lease is not None or not self.claims.is_next(request):
            raise held
        self._check_ready()  # it has become free meanwhile, for whoever asks

    def _drain_deadline(self) -> float:
        return asyncio.get_running_loop().time() + self.drain_timeout

    def _take(self, request: AttachRequest, deadline: float) -> Lease:
        link = Link(request.scheduler, request.scheduler_id, self.options.security)
        self.life.tell(Event.ATTACH)
        self.claims.taken(request)
        lease = self._lease = Lease(
            request,
            self.options,
            self.life,
            link,
            deadline=deadline,
            silence=self.lease_timeout,
            drain_timeout=self.drain_timeout,
            agent=self.id,
        )
        lease.started.add_done_callback(self._count)
        lease.task.add_done_callback(lambda _: self._over(lease))
        return lease

    def _count(self, started: asyncio.Future[None]) -> None:
        if started.exception() is None:
            self.attaches += 1
        else:
            self.failures += 1

    def _over(self, lease: Lease) -> None:
        self._left += lease.group.left
        self._lease = None
        self.life.tell(Event.OVER)
        self.claims.over(self.options.security, is_free=self.life.ready)

    def _start_timeout(self, request: AttachRequest) -> float:
        """Seconds for the workers to start: a moment less than the scheduler waits for them."""
        asked = START_TIMEOUT if request.timeout is None else request.timeout
        given = self.options.workers[0].get("death_timeout")
        own = 0.0 if given is None else float(parse_timedelta(given))
        return max(asked - min(1.0, asked / 10), own)

    async def _released(self, lease: Lease) -> None:
        """Wait until a lease that is ending has ended: its workers close, or are being killed."""
        await asyncio.wait([lease.task], timeout=RELEASE_TIMEOUT)
        if not lease.task.done():
            raise WireError(503, "the workers of its last scheduler have not ended yet", "held")
