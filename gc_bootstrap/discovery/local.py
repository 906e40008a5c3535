"""Every agent that this user runs on this host, found without any configuration.

The three outcomes: the agents whose registrations are locked, so alive; no folder or nobody in it,
so really no peers; a folder that cannot be read or is not private, so "cannot know". A file in it
that makes no sense is a part of the truth: ``complete=False``.
"""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path

from gc_bootstrap.discovery.base import Discovery
from gc_bootstrap.errors import DiscoveryError, several
from gc_bootstrap.peer import Snapshot
from gc_bootstrap.wire import registrations

logger = logging.getLogger(__name__)

POLL_INTERVAL = 0.1
"""Seconds between two looks at the folders' modification times, for :meth:`changed`."""


class LocalDiscovery(Discovery):
    """Agents of this user on this host: ``local``.

    Parameters
    ----------
    folder
        The runtime folder; default: wherever agents register themselves.
    """

    def __init__(self, folder: str | None = None) -> None:
        self._folder = Path(folder) if folder is not None else None
        self._watched: list[Path] = []
        self._seen: list[int] = []
        self._problems: list[str] = []

    def __repr__(self) -> str:
        return "local"

    async def peers(self) -> Snapshot:
        # Before the look: what changes during it makes changed() return.
        self._watched = await asyncio.to_thread(self._folders)
        seen = await asyncio.to_thread(self._modified)
        try:
            found, problems = await asyncio.to_thread(self._read)
        except registrations.RuntimeFolderError as exc:
            raise DiscoveryError(str(exc)) from exc
        for problem in problems:
            if problem not in self._problems:
                logger.warning("%s", problem)
        self._seen, self._problems = seen, problems
        return Snapshot(
            frozenset(registration.peer for registration in found),
            complete=not problems,
            labels={r.peer: {"pid": str(r.pid)} for r in found},
            reason=several(problems),
        )

    async def changed(self) -> None:
        """Return when an agent has registered itself or has taken that back.

        One that was killed is not noticed here, but its workers' loss is noticed by the dist. Nor
        is the first one in a folder that was made because somebody else has taken the usual name.
        """
        while await asyncio.to_thread(self._modified) == self._seen:
            await asyncio.sleep(POLL_INTERVAL)

    def _read(self) -> tuple[list[registrations.Registration], list[str]]:
        if self._folder is not None:
            return registrations.read(self._folder)
        return registrations.read_all()

    def _folders(self) -> list[Path]:
        return [self._folder] if self._folder is not None else registrations.folders()

    def _modified(self) -> list[int]:
        times = []
        for folder in self._watched:
            try:
                times.append(os.stat(folder).st_mtime_ns)
            except OSError:
                times.append(0)  # peers() says what is wrong with it
        return times
