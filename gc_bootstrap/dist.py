"""The dist contract."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gc_bootstrap.backends import Backend
from gc_bootstrap.config import DEFAULT_POOL, AdaptOptions, PoolOptions
from gc_bootstrap.errors import DistError
from gc_bootstrap.peer import Outcome, Peer
from gc_bootstrap.stake import Capacity, Claim, Stake, Survey

if TYPE_CHECKING:
    from distributed import Scheduler


@dataclass(frozen=True, slots=True)
class Owner:
    """For whom a dist works.

    Parameters
    ----------
    scheduler
        The Dask scheduler that the pool runs in.
    pool
        The pool's name.
    options
        The pool's options.
    """

    scheduler: Scheduler
    pool: str = DEFAULT_POOL
    options: PoolOptions = field(default_factory=PoolOptions)


@dataclass(frozen=True, slots=True)
class Needed:
    """How many peers the work needs.

    Parameters
    ----------
    count
        Of any kind, those in ``first`` included; whether so many can be had or not.
    first
        Peers to hold before any other, as only they can run some of the work; members or not, the
        most wanted one first.
    """

    count: int
    first: tuple[Peer, ...] = ()


class Dist(Backend, ABC):
    """Connects and disconnects peers, and says who is a member.

    Third parties subclass this and name the class as ``package.module:Class`` or by an entry
    point in the group ``gc_bootstrap.dist``. :class:`gc_bootstrap.testing.DistContract` holds an
    implementation to what is said here. :meth:`connect`, :meth:`disconnect` and what is a kind of
    them run concurrently for different peers, never twice at once for the same, and may be
    cancelled at their deadline.

    The three above are all that a dist needs. The others, each with a default, are for pools that
    do not simply take every peer: those of a size, and those that share with other schedulers.
    """

    def bind(self, owner: Owner) -> None:
        """Learn for whom to work; called before :meth:`start` by a scheduler's plugin."""

    async def start(self) -> None:
        """Get ready, as :meth:`.Discovery.start` does. Does not wait for peers."""

    @abstractmethod
    async def members(self) -> frozenset[Peer]:
        """Answer who is connected through us now, read from the truth itself.

        Raises
        ------
        DistError
            It cannot be known now.
        """

    @abstractmethod
    async def connect(self, peer: Peer) -> Outcome:
        """Make ``peer`` a member. Connecting a member again is harmless.

        Returns
        -------
        Outcome
            Done (it is a member now), refused (try again later) or ignored (not ours).

        Raises
        ------
        DistError
            The peer could not be asked, or made no sense.
        """

    @abstractmethod
    async def disconnect(self, peer: Peer) -> Outcome:
        """Let a member go. Returns when its data is safe and it is gone.

        Cancelled, it leaves a member that works as before: the peer is wanted again.

        Returns
        -------
        Outcome
            Done (it is no member any more; a reason says what was lost with it), refused (it stays
            a member; try again later) or ignored (not ours).

        Raises
        ------
        DistError
            The peer could not be asked, or made no sense. It stays a member.
        """

    def progress(self, peer: Peer) -> str:
        """How far the disconnect of a member has come, in one line for people; or nothing.

        Whoever asked for it: a member may leave by itself.
        """
        return ""

    async def changed(self) -> None:
        """Return when the pool should look: a member has been lost or is claimed, a peer is free.

        A hint, as :meth:`.Discovery.changed` is.
        """
        await asyncio.Event().wait()

    # -- size and share --------------------------------------------------------------------------

    async def survey(self, peer: Peer) -> Survey | Outcome:
        """Ask a peer that is no member what it can do and whose it is; changes nothing.

        Returns
        -------
        Survey or Outcome
            An outcome, never one that is done, where it could not be connected now in any case.

        Raises
        ------
        DistError
            The peer could not be asked, or made no sense.
        """
        return Survey()

    async def claim(self, peer: Peer, stake: Stake, wants: int) -> Outcome:
        """:meth:`connect` a peer that another scheduler holds, and tell that one that it is wanted.

        Parameters
        ----------
        stake
            What the pool holds now.
        wants
            How many peers it wants of that scheduler; 0: it would only hear when one is free.

        Returns
        -------
        Outcome
            As :meth:`connect`. Refused by who is held, it has :attr:`.Outcome.holder`.
        """
        return await self.connect(peer)

    async def release(self, peer: Peer, to: Claim | None = None) -> Outcome:
        """Let a member go that is not needed: as :meth:`disconnect`, but at no cost.

        Where its data cannot be placed, or its work does not end in time, it stays a member.

        Parameters
        ----------
        to
            Who claims it, and is told when it is free.
        """
        return await self.disconnect(peer)

    async def order(self, members: AbstractSet[Peer]) -> Sequence[Peer]:
        """In which order members would be let go: idle ones first, those with least data first.

        Those that must stay for now are left out.
        """
        return sorted(members)

    async def needed(
        self,
        capacities: Mapping[Peer, Capacity],
        held: AbstractSet[Peer],
        adapt: AdaptOptions,
    ) -> Needed:
        """How many peers the work needs that is there, no more than the maximum.

        Parameters
        ----------
        capacities
            What those peers can do that are no members.
        held
            Of those, the ones that another scheduler holds: they may be had some day.
        adapt
            How long the work should take, and how many peers the pool may hold.

        Raises
        ------
        DistError
            It does not know.
        """
        raise DistError("this dist does not know how many peers the work needs")

    def claims(self) -> Sequence[Claim]:
        """What others want of this pool's members, one claim for each who wants some."""
        return ()

    def freed(self) -> AbstractSet[Peer]:
        """Peers that have said since the last call that they are free."""
        return frozenset()

    def tell(self, stake: Stake) -> None:
        """Learn what the pool holds after each of its plans, for others that ask."""

    async def close(self) -> None:
        """Release everything, members excepted, and wait for it. May be called more than once."""
