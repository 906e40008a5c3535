"""One pass of a pool: look, plan, begin to act."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from gc_bootstrap.config import PoolOptions
from gc_bootstrap.dist import Dist
from gc_bootstrap.peer import Peer
from gc_bootstrap.pool import plan as planning
from gc_bootstrap.pool.enact import Enactor
from gc_bootstrap.pool.look import Lookout
from gc_bootstrap.pool.plan import Plan
from gc_bootstrap.pool.record import Record
from gc_bootstrap.pool.sized import Sizing
from gc_bootstrap.pool.target import Target
from gc_bootstrap.stake import Stake


class Refresher:
    """Makes the passes of one pool, one after the other.

    Parameters
    ----------
    dist
        Is told what the pool holds, and says what others want.
    options
        The pool's policy.
    lookout, record, enactor
        The pool's.
    clock
        Monotonic seconds.

    Attributes
    ----------
    options
        As they are now.
    plan
        The last one.
    target
        What the pool should hold by it; None where it simply takes every peer.
    members
        Who was a member at the last one; None before the first.
    looks
        How many passes there have been that asked the discovery.
    active
        Whether plans are enacted.
    work_hinted
        Whether somebody has hinted at other work since the last pass.
    """

    def __init__(
        self,
        dist: Dist,
        options: PoolOptions,
        lookout: Lookout,
        record: Record,
        enactor: Enactor,
        clock: Callable[[], float],
    ) -> None:
        self.options = options
        self.plan = Plan()
        self.target: Target | None = None
        self.members: frozenset[Peer] | None = None
        self.looks = 0
        self.active = True
        self.work_hinted = True
        self._dist = dist
        self._lookout = lookout
        self._record = record
        self._enactor = enactor
        self._clock = clock
        self._one = asyncio.Lock()

    @property
    def is_simple(self) -> bool:
        """Whether the pool takes every peer, and neither asks others for theirs nor gives any."""
        return self.options.takes_all and not self.options.is_fair

    async def step(self, look: bool) -> Plan:
        """Make one pass, after the one that runs.

        Parameters
        ----------
        look
            Whether the discovery is asked, or its last answer has to do.

        Raises
        ------
        DiscoveryError, DistError
            As :meth:`.Pool.refresh`.
        """
        async with self._one:
            # Who is busy at any moment of the look is left alone: what is read of a peer while
            # its connect ends may be from before.
            busy = self._enactor.busy
            snapshot = await self._lookout.look() if look else self._lookout.snapshot
            if snapshot is None:
                return self.plan
            members = await self._lookout.members()
            # Thousands of peers cost milliseconds at each step; the loop gets a turn in between.
            await asyncio.sleep(0)
            # Only a look can count who is absent.
            seen = snapshot if look else replace(snapshot, complete=False)
            self._record.looked(seen, members)
            await asyncio.sleep(0)
            sizing = await self._sizing(members)
            plan = planning.plan(
                snapshot,
                members,
                self._record.history,
                self.options,
                self._clock(),
                busy | self._enactor.busy,
                self._enactor.disconnecting.keys(),
                sizing,
            )
            self._record.planned(self.plan, plan)
            self.plan, self.members = plan, members
            self.looks += look
            self._dist.tell(plan.stake or Stake(len(members), keeps=len(members)))
            await asyncio.sleep(0)
            if self.active:
                await self._enactor.enact(plan, sizing.claims if sizing is not None else ())
            return plan

    async def _sizing(self, members: frozenset[Peer]) -> Sizing | None:
        """What to plan with where the pool does not simply take every peer."""
        enactor, surveyor = self._enactor, self._enactor.surveyor
        if self.is_simple and not enactor.releasing:
            self.target = None
            return None
        self._record.freed(self._dist.freed())
        going = enactor.disconnecting.keys() | enactor.releasing.keys()
        hinted, self.work_hinted = self.work_hinted, False
        self.target = await self._lookout.target(
            self.options, members, going, self._record.history, hinted
        )
        # What still waits for a place would be one more than the plan knows of.
        enactor.forget_waiting()
        return Sizing(
            self.target,
            tuple(self._dist.claims()),
            frozenset(surveyor.running),
            frozenset(surveyor.slow),
            frozenset(enactor.claiming),
            tuple(enactor.releasing),
        )
