"""Letting members go: their workers are drained, and then ended by their agent."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

from gc_bootstrap.errors import DistError
from gc_bootstrap.peer import Outcome, Peer
from gc_bootstrap.scheduler.client import Answer
from gc_bootstrap.scheduler.drains import cancel_and_wait
from gc_bootstrap.scheduler.loss import Loss
from gc_bootstrap.scheduler.members import Members
from gc_bootstrap.stake import Claim

logger = logging.getLogger(__name__)

Drains = Callable[[Peer, str, float], Awaitable[Mapping[str, Loss]]]
"""Drains a peer's workers for a pool, until a deadline."""


class Dropping:
    """Lets the members of one pool go.

    Parameters
    ----------
    members
        Of the scheduler.
    pool
        The pool's name.
    detach
        Asks an agent to end its workers, and to tell somebody when it is free.
    """

    def __init__(
        self,
        members: Members,
        pool: str,
        detach: Callable[[Peer, Claim | None], Awaitable[Answer]],
    ) -> None:
        self._members = members
        self._pool = pool
        self._detach = detach
        self._ending: dict[Peer, asyncio.Task[Answer]] = {}

    async def let_go(
        self, peer: Peer, drain: Drains, deadline: float, to: Claim | None = None
    ) -> Outcome:
        """Drain a peer's workers, and have its agent end them.

        Parameters
        ----------
        drain, deadline
            How, and until when.
        to
            Who is told when the agent is free.

        Raises
        ------
        DistError
            There was nothing to drain, and the agent cannot be asked.
        """
        try:
            drained = await drain(peer, self._pool, deadline)
        except asyncio.CancelledError:
            if not self._members.workers(self._pool, peer):
                self._end(peer, to)  # it was too late
            raise
        logger.info("%s is to end its workers", peer)
        try:
            # It goes on where this is cancelled: the workers have been forgotten.
            answer = await asyncio.shield(self._end(peer, to))
            if answer.status != 200:
                refused = answer.outcome
                if not drained:
                    return refused
                logger.info("%s is drained; it answers: %s", peer, refused.reason)
        except DistError as exc:
            if not drained:
                raise
            logger.info("%s is drained; it could not be told: %s", peer, exc)
        losses = "; ".join(f"{loss} at {address}" for address, loss in drained.items() if loss)
        if losses:
            return Outcome("done", f"the time was over, lost {losses}")
        return Outcome.DONE

    async def ended(self, peer: Peer) -> None:
        """Return when an agent has answered that was asked to end its workers, if one was."""
        if (ending := self._ending.get(peer)) is not None:
            await asyncio.wait([ending])

    async def close(self) -> None:
        """Ask no more, and wait for that. May be called more than once."""
        await cancel_and_wait(self._ending.values())

    def _end(self, peer: Peer, to: Claim | None) -> asyncio.Task[Answer]:
        async def detach() -> Answer:
            return await self._detach(peer, to)

        name = f"gc_bootstrap pool {self._pool}: end {peer}"
        ending = self._ending[peer] = asyncio.create_task(detach(), name=name)
        ending.add_done_callback(lambda task: self._is_over(peer, task))
        return ending

    def _is_over(self, peer: Peer, ending: asyncio.Task[Answer]) -> None:
        if self._ending.get(peer) is ending:
            del self._ending[peer]
        if not ending.cancelled() and ending.exception() is not None:
            logger.debug("%s: %s", peer, ending.exception())  # perhaps nobody waits for it
