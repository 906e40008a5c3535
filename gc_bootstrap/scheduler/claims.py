"""What other schedulers claim of this one's peers, and which claimed peers have become free.

Agents bring both by RPC. Who can call it could as well submit tasks to this scheduler. A claim that
lies about what its pool holds, its weight or its wants is heard as if it were true: at worst the
liar gets the share by weight of what the cookie lets it attach in any case.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from distributed.diagnostics.plugin import SchedulerPlugin

from gc_bootstrap.errors import PeerError
from gc_bootstrap.peer import Peer
from gc_bootstrap.scheduler import _dask
from gc_bootstrap.stake import Claim, Stake
from gc_bootstrap.wire.claims import Claimants, ClaimCall, FreeCall
from gc_bootstrap.wire.fields import MOST
from gc_bootstrap.wire.messages import HolderReply, WireError
from gc_bootstrap.wire.names import CLAIM_HANDLER, FREE_HANDLER

if TYPE_CHECKING:
    from distributed import Scheduler

logger = logging.getLogger(__name__)

MOST_FREED = 10_000
"""Peers that are free and that their pool has not looked at yet; it looks within milliseconds."""


@dataclass(eq=False)
class _Open:
    """A pool that takes part."""

    hint: Callable[[], None]
    claimants: Claimants[Claim]
    stake: Stake | None = None
    freed: set[Peer] = field(default_factory=set)


class Claims(SchedulerPlugin):
    """Takes in what agents say of claims; get it with :meth:`of`.

    Parameters
    ----------
    scheduler
        To whom they say it.
    clock
        Monotonic seconds.
    """

    name = "gc_bootstrap-claims"

    def __init__(
        self, scheduler: Scheduler, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._scheduler = scheduler
        self._clock = clock
        self._pools: dict[str, _Open] = {}

    @classmethod
    def of(cls, scheduler: Scheduler) -> Claims:
        """The only one of a scheduler; made when it is first needed."""

        def make() -> Claims:
            made = cls(scheduler)
            _dask.add_rpc(scheduler, CLAIM_HANDLER, made.claim_for_agent)
            _dask.add_rpc(scheduler, FREE_HANDLER, made.free_for_agent)
            return made

        return _dask.only_plugin(scheduler, cls.name, make)

    def open(self, pool: str, hint: Callable[[], None]) -> Callable[[], None]:
        """Take part for a pool.

        Parameters
        ----------
        hint
            Called whenever there is a reason for the pool to look.

        Returns
        -------
        callable
            Ends it.
        """
        mine = self._pools[pool] = _Open(hint, Claimants(self._clock))

        def close() -> None:
            if self._pools.get(pool) is mine:
                del self._pools[pool]

        return close

    def tell(self, pool: str, stake: Stake) -> None:
        """Learn what a pool holds, for agents that ask."""
        if pool in self._pools:
            self._pools[pool].stake = stake

    def current(self, pool: str) -> Sequence[Claim]:
        """What is claimed of a pool now, one claim for each pool that claims, by need."""
        found = self._pools.get(pool)
        return () if found is None else tuple(found.claimants.current().values())

    def freed(self, pool: str) -> frozenset[Peer]:
        """Peers of a pool that have become free since the last call."""
        found = self._pools.get(pool)
        if found is None:
            return frozenset()
        freed = frozenset(found.freed)
        found.freed.clear()
        return freed

    async def claim_for_agent(self, claim: Any = None) -> dict[str, Any] | None:
        """RPC of an agent that a pool here holds: somebody claims it.

        Parameters
        ----------
        claim
            The content of a :class:`.ClaimCall`.

        Returns
        -------
        dict or None
            The content of a :class:`.HolderReply`. None where there is no such pool, it does not
            know yet what it holds, or the claim is none.
        """
        try:
            call = ClaimCall.read(claim)
        except WireError as exc:
            logger.warning("An agent relays a claim that is none: %s", exc)
            return None
        found = self._pools.get(call.pool)
        if found is None or call.scheduler_id == self._scheduler.id:
            return None
        key, stake = (call.scheduler_id, call.for_pool), call.claim.stake
        is_new = found.claimants.note(key, stake, call.claim)
        mine = found.stake
        if mine is None:
            return None
        if is_new and mine.holds > mine.keeps:
            found.hint()
        holds, keeps = min(mine.holds, MOST), min(mine.keeps, MOST)
        address, own = self._scheduler.address, self._scheduler.id
        return HolderReply(address, own, holds, mine.weight, keeps).content()

    async def free_for_agent(self, free: Any = None) -> bool:
        """RPC of an agent that a pool here has claimed: it is free.

        Parameters
        ----------
        free
            The content of a :class:`.FreeCall`.

        Returns
        -------
        bool
            Whether there is such a pool here.
        """
        try:
            call = FreeCall.read(free)
            peer = Peer.parse(call.peer)
        except (WireError, PeerError) as exc:
            logger.warning("An agent says that it is free, and makes no sense: %s", exc)
            return False
        found = self._pools.get(call.pool)
        if found is None or call.scheduler_id != self._scheduler.id:
            return False
        if len(found.freed) < MOST_FREED:
            found.freed.add(peer)
        found.hint()
        return True
