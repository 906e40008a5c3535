"""Who is a member of a scheduler: the one index of the workers that our agents run there."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from distributed.diagnostics.plugin import SchedulerPlugin

from gc_bootstrap.errors import PeerError
from gc_bootstrap.peer import Peer
from gc_bootstrap.scheduler import _dask
from gc_bootstrap.wire.tag import Tag

if TYPE_CHECKING:
    from distributed import Scheduler

RETIRED_KEPT = 1000
"""Workers retired on purpose that are remembered; their agents ask within seconds."""


class Members(SchedulerPlugin):
    """Indexes the scheduler's worker table by pool and peer; get it with :meth:`of`.

    The table is the truth: nobody is a member who is not in it. The index follows it in the very
    turn in which it changes, as Dask tells of each worker that comes and goes. It knows only
    workers that this scheduler attached, by their tag: not those of one that had its address
    before.

    Parameters
    ----------
    scheduler
        Whose workers.
    """

    name = "gc_bootstrap-members"

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler_id = scheduler.id
        self._table = scheduler.workers
        self._tags: dict[str, Tag] = {}
        self._pools: dict[str, dict[Peer, set[str]]] = {}
        self._listeners: dict[str, list[Callable[[], None]]] = {}
        self._retired: deque[str] = deque(maxlen=RETIRED_KEPT)
        self._retiring: set[str] = set()
        self._retired_agents: dict[tuple[str, Peer], str] = {}
        for address in scheduler.workers:
            self.add_worker(scheduler, address)

    @classmethod
    def of(cls, scheduler: Scheduler) -> Members:
        """The only one of a scheduler; made when it is first needed."""
        return _dask.only_plugin(scheduler, cls.name, lambda: cls(scheduler))

    def peers(self, pool: str) -> frozenset[Peer]:
        """The members of a pool."""
        of_pool = self._pools.get(pool, {})
        none_is_there = self._table.keys().isdisjoint
        gone = [peer for peer, found in of_pool.items() if none_is_there(found)]
        return frozenset(of_pool).difference(gone)

    def workers(self, pool: str, peer: Peer) -> list[str]:
        """The addresses of the workers that a peer runs for a pool."""
        found = self._pools.get(pool, {}).get(peer, ())
        return [address for address in found if address in self._table]

    def by_peer(self, pool: str) -> dict[Peer, list[str]]:
        """All workers of a pool."""
        return {peer: sorted(self.workers(pool, peer)) for peer in self.peers(pool)}

    def tag(self, address: str) -> Tag | None:
        """What the agent of a worker says of it; None where it is no worker of ours."""
        return self._tags.get(address) if address in self._table else None

    def promised(self, pool: str) -> dict[Peer, int]:
        """How many workers each member runs for a pool when all is well."""
        return {
            peer: max(self._tags[worker].nworkers for worker in self.workers(pool, peer))
            for peer in self.peers(pool)
        }

    def was_retired(self, worker: str) -> bool:
        """Whether a worker of ours went that none is to replace; see :meth:`let_go`."""
        return worker in self._retired

    def let_go(self, worker: str) -> None:
        """Note that a worker goes on purpose, as one does that ``retire_workers`` takes."""
        self._retired.append(worker)

    def retired_agent(self, pool: str, peer: Peer) -> str | None:
        """Which start of a peer's agent it was whose last worker was retired, if it was."""
        return self._retired_agents.get((pool, peer))

    def on_loss(self, pool: str, listener: Callable[[], None]) -> Callable[[], None]:
        """Call somebody whenever a pool has lost a worker.

        Returns
        -------
        callable
            Ends it.
        """
        listeners = self._listeners.setdefault(pool, [])
        listeners.append(listener)
        return lambda: listeners.remove(listener)

    def _note_retired(self, tag: Tag, peer: Peer) -> None:
        if len(self._retired_agents) >= RETIRED_KEPT:
            del self._retired_agents[next(iter(self._retired_agents))]
        self._retired_agents[tag.pool, peer] = tag.agent

    # -- what Dask calls -------------------------------------------------------------------------

    def add_worker(self, scheduler: Scheduler, worker: str) -> None:
        """Note whose a worker is."""
        if worker in self._tags:
            self.remove_worker(scheduler, worker)  # nobody has told of its end
        tag = Tag.decode(_dask.startup_information(scheduler.workers[worker]))
        if tag is None or tag.scheduler_id != self._scheduler_id:
            return
        with suppress(PeerError):  # somebody else's use of the key
            peer = Peer.parse(tag.peer)
            self._tags[worker] = tag
            if worker in self._retired:  # its port is fixed, and it is another one
                self._retired = deque((w for w in self._retired if w != worker), RETIRED_KEPT)
            self._pools.setdefault(tag.pool, {}).setdefault(peer, set()).add(worker)
            self._retired_agents.pop((tag.pool, peer), None)

    def remove_worker(
        self, scheduler: Scheduler, worker: str, *, stimulus_id: str = "", **kwargs: Any
    ) -> None:
        """Forget it, and say so to the pool that has lost it."""
        tag = self._tags.pop(worker, None)
        if tag is None:
            return
        peer, of_pool = Peer.parse(tag.peer), self._pools[tag.pool]
        of_pool[peer].discard(worker)
        if stimulus_id.startswith(_dask.RETIREMENT) or worker in self._retiring:
            self._retired.append(worker)
            if not of_pool[peer]:
                self._note_retired(tag, peer)
        self._retiring.discard(worker)
        if not of_pool[peer]:
            del of_pool[peer]
        if not of_pool:
            del self._pools[tag.pool]
        for listener in list(self._listeners.get(tag.pool, ())):
            listener()

    def log_event(self, topic: str, msg: Any) -> None:
        """Note that a worker has been retired that goes later: ``retire_workers(remove=False)``."""
        if topic in self._tags and _dask.is_retirement(msg):
            self._retiring.add(topic)
