"""The discovery contract."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod

from gc_bootstrap.backends import Backend
from gc_bootstrap.peer import Snapshot


class Discovery(Backend, ABC):
    """Finds peers.

    Third parties subclass this, give the constructor one keyword per option, and name the class
    as ``package.module:Class`` or by an entry point in the group ``gc_bootstrap.discovery``.
    :class:`gc_bootstrap.testing.DiscoveryContract` holds an implementation to what is said here.
    """

    async def start(self) -> None:
        """Get ready, before anything else is called. Does not wait for peers.

        Called once; again where it has raised, or not returned within half a minute. Such an
        attempt leaves nothing behind.

        Raises
        ------
        ConfigError
            It cannot work as it is configured; it is not called again.
        """

    @abstractmethod
    async def peers(self) -> Snapshot:
        """Answer who the peers are.

        Returns
        -------
        Snapshot
            The whole answer; ``Snapshot(frozenset())`` means that there really are none. A part
            of the truth has ``complete=False``, and a ``reason`` that says why.

        Raises
        ------
        DiscoveryError
            Who the peers are cannot be known now. Never return an empty snapshot for that.
        """

    async def changed(self) -> None:
        """Return when :meth:`peers` would now answer differently than it last did.

        A hint that makes the next refresh come sooner: missing one costs at most a refresh
        interval, a false one costs a look. It may be cancelled at any time. Default: never returns.
        """
        await asyncio.Event().wait()

    async def close(self) -> None:
        """Release everything, and wait until it is released. May be called more than once."""
