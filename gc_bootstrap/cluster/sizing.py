"""How many agents a cluster holds: ``scale`` and ``adapt``, of one pool or of several."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from functools import partial
from typing import Any

from gc_bootstrap.cluster import page
from gc_bootstrap.cluster._dask import ManagedCluster
from gc_bootstrap.cluster.adaptive import PoolAdaptive, change_of, number
from gc_bootstrap.cluster.schedulers import pools_of, resize
from gc_bootstrap.errors import one_line
from gc_bootstrap.scheduler.resize import read_size

logger = logging.getLogger(__name__)


class SizedCluster(ManagedCluster):
    """A cluster whose scheduler has pools, each of a size that can be changed."""

    def __init__(self, **keywords: Any) -> None:
        self._pools: dict[str, Any] | None = None
        self._adapted: dict[str, Any] = {}
        self._asked_for: set[asyncio.Future[None]] = set()
        self._in_order = asyncio.Lock()
        super().__init__(**keywords)

    def scale(self, n: Any, pool: str | None = None) -> Any:
        """Have a pool hold so many agents; ends what :meth:`adapt` has begun.

        Agents that are too many are released: their work ends and their data moves first, so
        nothing is lost or run again. Agents are idle then, and others' to take.

        Parameters
        ----------
        n : int or "all"
            How many; "all" is all that nobody else needs.
        pool
            Which one, where there are several.

        Returns
        -------
        awaitable or None
            To be awaited where the cluster is asynchronous, by then or by awaiting the cluster. It
            does not wait for agents.

        Raises
        ------
        ValueError
            ``n`` is none, or there is no such pool; a :class:`ConfigError` with all problems.
        TypeError
            ``n`` is no number.
        """
        size = number(n, "n")
        read_size(size)
        self._end_adaptive()
        return self._resize(pool, size=size)

    def adapt(
        self,
        minimum: Any = 0,
        maximum: Any = None,
        *,
        interval: Any = None,
        wait_count: int | None = None,
        target_duration: Any = None,
        pool: str | None = None,
    ) -> PoolAdaptive:
        """Have a pool hold as many agents as the work needs.

        Its scheduler decides, of tasks that its agents could run; see ``adapt`` in the
        configuration. ``interval``, ``wait_count`` and ``target_duration`` stay as they are when
        this is called again without them, and are first those of ``distributed.adaptive``.

        Parameters
        ----------
        minimum, maximum
            Numbers of agents. Default: from none to all that there are.
        interval : str, float or timedelta
            Time between two looks at the work.
        wait_count
            For how many looks less has to be needed before any agent is released.
        target_duration : str, float or timedelta
            How long the work should take.
        pool
            Which one, where there are several.

        Raises
        ------
        ValueError, TypeError
            As :meth:`scale`.
        """
        asked = {
            "interval": interval,
            "wait_count": wait_count,
            "target_duration": target_duration,
        }
        asked = {key: value for key, value in asked.items() if value is not None}
        adapt, options = change_of(minimum, maximum, {**self._adapted, **asked})
        self._adapted |= asked
        self._end_adaptive()
        known = self._resize(pool, adapt=adapt)
        adaptive = PoolAdaptive(options, known, partial(self._freeze, pool))
        self._adaptive = adaptive
        return adaptive

    def _end_adaptive(self) -> None:
        if self._adaptive is not None:
            self._adaptive.end()
        self._adaptive = None

    def _freeze(self, pool: str | None) -> Any:
        """Have a pool keep the size that it has now."""
        status = self._pools["pools"] if self._pools is not None else ()
        held = [len(one["members"]) for one in status if pool in (None, one["name"])]
        return self._resize(pool, size=held[0]) if held else None

    def _resize(self, pool: str | None, **change: Any) -> Any:
        if not self.asynchronous:
            return self.sync(self._ask_for, pool, change)
        asking = asyncio.ensure_future(self._ask_for(pool, change))
        self._asked_for.add(asking)
        asking.add_done_callback(self._is_asked)
        return asking

    def _is_asked(self, asking: asyncio.Future[None]) -> None:
        self._asked_for.discard(asking)
        if not asking.cancelled() and (exc := asking.exception()) is not None:
            # Whoever does not await it learns it here.
            logger.warning("The size of a pool is not changed: %s", one_line(exc))

    async def _ask_for(self, pool: str | None, change: Mapping[str, Any]) -> None:
        async with self._in_order:  # what was said last counts
            await self._start()
            await resize(self.scheduler_comm, pool, change)
            self._pools = await self.pools_now()

    async def pools_now(self) -> dict[str, Any]:
        """What the pools know at this moment."""
        return await pools_of(self.scheduler_comm)

    async def forget_sizes(self) -> None:
        """Ask for nothing any more: the cluster ends."""
        self._end_adaptive()
        for asking in list(self._asked_for):
            asking.cancel()
        await asyncio.gather(*self._asked_for, return_exceptions=True)

    async def settled(self) -> None:
        """Wait until what :meth:`scale` and :meth:`adapt` have asked for is known to the pools."""
        await asyncio.gather(*self._asked_for)

    @property
    def _supports_scaling(self) -> bool:
        """Whether the widget can: it does not ask which pool."""
        return self._pools is None or len(self._pools["pools"]) == 1

    def _scaling_status(self) -> str:
        return page.sizes(self._pools) if self._pools is not None else ""
