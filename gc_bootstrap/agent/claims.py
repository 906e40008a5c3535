"""Who else wants the agent: their claims are kept, its scheduler is told, and they when it is free.

Nothing is decided here: who gives how many is the holder's business, who takes the agent is
decided by who comes first, and the neediest is told first.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from distributed.security import Security

from gc_bootstrap.agent.link import Link
from gc_bootstrap.errors import one_line
from gc_bootstrap.stake import Stake
from gc_bootstrap.wire.claims import Claimants, ClaimCall, Key
from gc_bootstrap.wire.messages import AttachRequest, DetachClaim, HolderReply, WireError

logger = logging.getLogger(__name__)

RELAY_TIMEOUT = 1.0
"""Seconds for the scheduler that holds the agent to answer a claim; so long a claimant waits."""
MOST_RELAYS = 8
"""Claims that are under way to that scheduler at once. Those above are kept, and not relayed: who
made them makes them again."""
APART = 0.5
"""Seconds for a claimant that has been told to attach the agent, before the next one is told."""
TELL_TIMEOUT = 1.0
"""Seconds for a claimant to take in that the agent is free."""


class HeldError(WireError):
    """The agent was claimed, and another scheduler holds it.

    Parameters
    ----------
    scheduler, scheduler_id
        That one.
    holder
        What it says of itself; None where it has not answered.
    """

    def __init__(self, scheduler: str, scheduler_id: str, holder: HolderReply | None) -> None:
        holds = f", which holds {holder.holds}" if holder is not None else ""
        super().__init__(409, f"held by scheduler {scheduler_id} at {scheduler}{holds}")
        self.holder = holder


@dataclass(frozen=True, slots=True)
class _Claimant:
    """Whom to tell, and by which name it knows the agent."""

    scheduler: str
    scheduler_id: str
    pool: str
    peer: str

    @property
    def key(self) -> Key:
        return self.scheduler_id, self.pool


class Claims:
    """The claims on one agent.

    Parameters
    ----------
    clock
        Monotonic seconds.

    Attributes
    ----------
    count
        Claims that have come.
    holder
        What the scheduler that holds the agent has last said of itself.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.count = 0
        self.holder: HolderReply | None = None
        self._is_silent = False
        self._claimants: Claimants[_Claimant] = Claimants(clock)
        self._first: _Claimant | None = None
        self._turn: tuple[_Claimant, float] | None = None
        self._clock = clock
        self._relays: set[asyncio.Task[HolderReply | None]] = set()
        self._tellings: set[asyncio.Task[None]] = set()

    async def note(self, request: AttachRequest, held: AttachRequest, link: Link) -> HeldError:
        """Keep a claim, and tell who holds the agent.

        Parameters
        ----------
        request
            The claim.
        held
            By which attach the agent is held.
        link
            The way to who holds it.

        Returns
        -------
        HeldError
            The answer, after :data:`RELAY_TIMEOUT` at the latest.
        """
        asked = request.claim
        assert asked is not None, "it is no claim"
        self.count += 1
        claimant = _Claimant(request.scheduler, request.scheduler_id, request.pool, request.peer)
        self._claimants.note(claimant.key, Stake(asked.holds, asked.weight), claimant)
        call = ClaimCall(
            peer=held.peer,
            pool=held.pool,
            scheduler=request.scheduler,
            scheduler_id=request.scheduler_id,
            for_pool=request.pool,
            holds=asked.holds,
            weight=asked.weight,
            wants=asked.wants,
        )
        holder = await self._relayed(call, link)
        return HeldError(held.scheduler, held.scheduler_id, holder)

    def give(self, to: DetachClaim, peer: str) -> None:
        """Tell somebody first when the agent is free.

        Parameters
        ----------
        peer
            What the agent is called by who gives it, where it is not known how the other calls it.
        """
        claimant = _Claimant(to.scheduler, to.scheduler_id, to.pool, peer)
        self._first = self._claimants.current().get(claimant.key, claimant)

    def is_next(self, request: AttachRequest) -> bool:
        """Whether whoever claims is the first who would be told that the agent is free."""
        following = self._next(set())
        return following is not None and following.key == (request.scheduler_id, request.pool)

    def check_turn(self, request: AttachRequest) -> None:
        """Leave an agent that has just become free to who is told of it first.

        Raises
        ------
        WireError
            503: it is somebody else's turn, for half a second at most.
        """
        if self._turn is None:
            return
        claimant, until = self._turn
        if claimant.key != (request.scheduler_id, request.pool) and self._clock() < until:
            raise WireError(503, f"is left to scheduler {claimant.scheduler_id} first", "held")

    def taken(self, request: AttachRequest) -> None:
        """Somebody has attached the agent: nobody else is told any more that it is free."""
        self._claimants.forget((request.scheduler_id, request.pool))
        self._first = self._turn = None
        for task in self._tellings:
            task.cancel()

    def over(self, security: Security | None, *, is_free: bool) -> None:
        """Nobody holds the agent any more: tell those who claim it, if it can be had."""
        self.holder = None
        self._is_silent = False
        for task in self._relays:
            task.cancel()
        if is_free:
            following = self._next(set())
            self._turn = None if following is None else (following, self._clock() + APART)
            telling = asyncio.create_task(
                self._tell_all(security), name="gc_bootstrap agent: tell that it is free"
            )
            self._tellings.add(telling)
            telling.add_done_callback(self._tellings.discard)

    async def close(self) -> None:
        """Tell nobody anything any more, and wait for what is under way. May be called again."""
        tasks = [*self._relays, *self._tellings]
        for task in tasks:
            if not task.cancelling():  # it would not wait for what it has begun
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- who holds it ----------------------------------------------------------------------------

    async def _relayed(self, call: ClaimCall, link: Link) -> HolderReply | None:
        """Tell the holder, in a task that ends by itself: who waits for it may go."""
        if len(self._relays) >= MOST_RELAYS:
            return None
        relay = asyncio.create_task(self._relay(call, link), name="gc_bootstrap agent: a claim")
        self._relays.add(relay)
        relay.add_done_callback(self._relays.discard)
        await asyncio.wait([relay], timeout=RELAY_TIMEOUT)
        return relay.result() if relay.done() and not relay.cancelled() else None

    async def _relay(self, call: ClaimCall, link: Link) -> HolderReply | None:
        try:
            async with asyncio.timeout(RELAY_TIMEOUT):
                self.holder = await link.claim(call)
        except (OSError, TimeoutError) as exc:
            level = logging.DEBUG if self._is_silent else logging.INFO  # claims come every second
            logger.log(level, "%s is not told of a claim: %s", link.address, one_line(exc))
            self._is_silent = True
            return None
        self._is_silent = False
        return self.holder

    # -- who claims it ---------------------------------------------------------------------------

    async def _tell_all(self, security: Security | None) -> None:
        told: set[Key] = set()
        tasks: list[asyncio.Task[None]] = []
        loop = asyncio.get_running_loop()
        try:
            while (claimant := self._next(told)) is not None:
                told.add(claimant.key)
                until = loop.time() + APART
                heard: asyncio.Future[bool] = loop.create_future()
                tasks.append(asyncio.create_task(_tell(claimant, security, heard)))
                await asyncio.wait([heard], timeout=APART)
                if heard.done() and heard.result():
                    await asyncio.sleep(until - loop.time())
                self._turn = None
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _next(self, told: set[Key]) -> _Claimant | None:
        if self._first is not None and self._first.key not in told:
            return self._first
        current = self._claimants.current()
        return next((claimant for key, claimant in current.items() if key not in told), None)


async def _tell(
    claimant: _Claimant, security: Security | None, heard: asyncio.Future[bool]
) -> None:
    """Tell somebody that the agent is free, and say as soon as it is known whether it was heard."""
    link: Link | None = None
    try:
        link = Link(claimant.scheduler, claimant.scheduler_id, security)
        async with asyncio.timeout(TELL_TIMEOUT):
            heard.set_result(await link.free(claimant.peer, claimant.pool))
    except (OSError, TimeoutError, WireError) as exc:
        logger.info("%s claims the agent, and is not told: %s", claimant.scheduler, one_line(exc))
        heard.set_result(False)
    finally:
        if link is not None:
            await link.close()
