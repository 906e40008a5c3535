"""The plugin of a scheduler whose end is the end of its cluster: it sets all of its agents free."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from gc_bootstrap.errors import DistError, one_line
from gc_bootstrap.peer import Peer
from gc_bootstrap.scheduler.dask import DaskDist
from gc_bootstrap.scheduler.plugin import BootstrapPlugin

if TYPE_CHECKING:
    from distributed import Scheduler

logger = logging.getLogger(__name__)

LEAVE_TIMEOUT = 5.0
"""Seconds for all agents together to end their workers. Those that are not told find out by
themselves that their scheduler has gone, but about a second later."""


class LeavingPlugin(BootstrapPlugin):
    """Has its agents idle again once the scheduler has ended. Data is not moved: nobody is left."""

    def __init__(self, discovery: Any = None, **options: Any) -> None:
        super().__init__(discovery, **options)
        self._held: dict[DaskDist, set[Peer]] = {}

    async def before_close(self) -> None:
        """Note who is held, and stop attaching."""
        await self._note()
        await super().before_close()

    async def leave(self, scheduler: Scheduler) -> None:
        """Close the scheduler, then let all agents go. May be called more than once.

        In this order, as a scheduler that lost its workers first would mind it, and say so.
        """
        await self._note()  # it may never have been told of this plugin
        await scheduler.close()
        await self.close()
        held, self._held = self._held, {}
        await asyncio.gather(*(_let_go(dist, peers) for dist, peers in held.items()))

    async def _note(self) -> None:
        for pool in self.pools.values():
            if not isinstance(pool.dist, DaskDist):
                continue  # of somebody's own: its close is all that is known of it
            try:
                status = await pool.status()
            except DistError as exc:
                logger.warning("Pool %s: %s", pool.name, one_line(exc))
            else:
                under_way = (*status.connecting, *status.disconnecting)
                self._held.setdefault(pool.dist, set()).update(status.members, under_way)


async def _let_go(dist: DaskDist, peers: set[Peer]) -> None:
    async def tell(peer: Peer) -> None:
        try:
            outcome = await dist.abandon(peer)
        except DistError as exc:
            logger.info("%s could not be told that it is free: %s", peer, exc)
        else:
            if not outcome:
                logger.info("%s is let go; it answers: %s", peer, outcome.reason)

    try:
        async with asyncio.timeout(LEAVE_TIMEOUT), dist.opened_again():
            await asyncio.gather(*map(tell, peers))
    except TimeoutError:
        logger.info("Not all agents have answered within %g s that they are free", LEAVE_TIMEOUT)
