"""The dist contract."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gc_bootstrap.backends import Backend
from gc_bootstrap.config import DEFAULT_POOL, PoolOptions
from gc_bootstrap.peer import Outcome, Peer

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


class Dist(Backend, ABC):
    """Connects and disconnects peers, and says who is a member.

    Third parties subclass this and name the class as ``package.module:Class`` or by an entry
    point in the group ``gc_bootstrap.dist``. :class:`gc_bootstrap.testing.DistContract` holds an
    implementation to what is said here. :meth:`connect` and :meth:`disconnect` run concurrently
    for different peers, never twice at once for the same, and may be cancelled at their deadline.
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
        """Return when a member has been lost. A hint, as :meth:`.Discovery.changed` is."""
        await asyncio.Event().wait()

    async def close(self) -> None:
        """Release everything, members excepted, and wait for it. May be called more than once."""
