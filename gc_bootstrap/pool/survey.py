"""Asking peers what they can do and whose they are: many at once, bounded, each with its deadline.

A survey costs a request and changes nothing, so that dead peers are found out before they are given
a place that somebody else could have.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Iterable
from functools import partial

from gc_bootstrap.config import PoolOptions
from gc_bootstrap.dist import Dist
from gc_bootstrap.peer import Outcome, Peer
from gc_bootstrap.pool.attempt import PATIENCE, attempt
from gc_bootstrap.pool.record import Record
from gc_bootstrap.stake import Survey

SURVEY_TIMEOUT = 5.0
"""Seconds for a peer to say whose it is: some lost packets are sent again within."""


class Surveyor:
    """Runs one pool's surveys.

    Parameters
    ----------
    dist
        Does them.
    name
        The pool's, for logs.
    options
        The pool's: concurrency.
    record
        Takes in what comes of them.
    on_news
        Called when one has ended, or become slow, that somebody waits for.

    Attributes
    ----------
    running
        What runs now, by peer.
    slow
        Of those, the ones without an answer for :data:`PATIENCE`.
    """

    def __init__(
        self,
        dist: Dist,
        name: str,
        options: PoolOptions,
        record: Record,
        on_news: Callable[[], None],
    ) -> None:
        self.running: dict[Peer, asyncio.Task[None]] = {}
        self.slow: set[Peer] = set()
        self._dist = dist
        self._name = name
        self._options = options
        self._record = record
        self._on_news = on_news
        self._waiting: deque[Peer] = deque()
        self._awaited: Collection[Peer] = ()
        self._closed = False

    def ask(self, peers: Iterable[Peer], awaited: Collection[Peer]) -> None:
        """Ask peers, in this order; those that still wait for a place from before are forgotten.

        Parameters
        ----------
        awaited
            Of those, and of those that run, the ones that somebody waits for.
        """
        self._waiting = deque(peer for peer in peers if peer not in self.running)
        self._awaited = awaited
        self._fill()

    def forget_waiting(self) -> None:
        """Ask nobody more."""
        self._waiting.clear()

    async def settled(self) -> None:
        """Wait until all have answered, or not answered in time."""
        while tasks := [*self.running.values()]:
            await asyncio.wait(tasks)
            await asyncio.sleep(0)  # their callbacks give the places to the next ones

    async def close(self) -> None:
        """Cancel what runs, and wait for it. May be called more than once."""
        self._closed = True
        self._waiting.clear()
        tasks = [*self.running.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _fill(self) -> None:
        options = self._options.connect
        while (
            self._waiting
            and len(self.running) - len(self.slow) < options.concurrency
            and len(self.running) < options.most
        ):
            peer = self._waiting.popleft()
            task = asyncio.create_task(
                self._survey(peer), name=f"gc_bootstrap pool {self._name}: survey {peer}"
            )
            self.running[peer] = task
            task.add_done_callback(partial(self._ended, peer))

    def _ended(self, peer: Peer, _task: asyncio.Task[None]) -> None:
        del self.running[peer]
        self.slow.discard(peer)
        self._told(peer)

    def _is_slow(self, peer: Peer) -> None:
        self.slow.add(peer)
        self._told(peer)

    def _told(self, peer: Peer) -> None:
        if not self._closed:
            self._fill()
            if peer in self._awaited:
                self._on_news()

    async def _survey(self, peer: Peer) -> None:
        timer = asyncio.get_running_loop().call_later(PATIENCE, self._is_slow, peer)
        try:
            found = await self._attempt(peer)
        finally:
            timer.cancel()
        self._record.surveyed(peer, found)

    async def _attempt(self, peer: Peer) -> Survey | Outcome:
        timeout = min(SURVEY_TIMEOUT, self._options.connect.timeout)
        found = await attempt(self._dist.survey(peer), peer, self._name, timeout, "answer")
        if not isinstance(found, Survey) and found.kind == "done":
            return Outcome.refused("a bug in the dist: a survey attaches nobody")
        return found
