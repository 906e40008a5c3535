"""A worker's ``--lifetime``: it ends with a drain.

``Worker.close_gracefully`` has the scheduler retire the worker: that leaves running tasks alone, so
that they run again elsewhere, gives up where one key finds no place, which is then lost without a
word, and has no deadline (distributed 2026.8).
"""

from __future__ import annotations

import asyncio
import logging
import random
import weakref
from dataclasses import dataclass
from typing import Any

import dask.config
from dask.utils import parse_timedelta
from distributed import Worker

from gc_bootstrap.agent import _dask
from gc_bootstrap.agent.link import Link
from gc_bootstrap.errors import os_reason
from gc_bootstrap.wire.tag import Tag

logger = logging.getLogger(__name__)

ASK_AGAIN = 0.2
"""Seconds after which a drain is asked for again."""
END_TIMEOUT = 10.0
"""Seconds for a worker to close that is to be started again; it is killed after 0.8 of them."""
REASON = "worker-lifetime-reached"
"""Why the worker closes: what Dask calls it."""
_RANDOM = random.SystemRandom()


@dataclass(frozen=True, slots=True)
class Lifetime:
    """How long a worker lives, and what its drain may take.

    Parameters
    ----------
    seconds
        From its start.
    drain_timeout
        Seconds for its tasks and data to be elsewhere.
    """

    seconds: float
    drain_timeout: float

    @classmethod
    def take(cls, arguments: dict[str, Any], drain_timeout: float) -> Lifetime | None:
        """Take it out of a worker's arguments, or Dask's configuration; None where there is none.

        Parameters
        ----------
        arguments
            What the worker is made with; changed so that Dask ends it at no time.
        drain_timeout
            Seconds.
        """
        duration, stagger = (
            parse_timedelta(
                dask.config.get(f"distributed.worker.lifetime.{key}")
                if arguments.get(name) is None
                else arguments[name]
            )
            for name, key in (("lifetime", "duration"), ("lifetime_stagger", "stagger"))
        )
        if not duration:
            return None
        arguments["lifetime"] = 0
        return cls(duration + _RANDOM.uniform(-1, 1) * (stagger or 0.0), drain_timeout)

    def begin(self, worker: Worker, tag: Tag) -> None:
        """Have a worker end when it is over."""
        worker.lifetime = self.seconds
        alive = weakref.ref(worker)  # one that has ended before is not kept until then

        async def end() -> None:
            ending = alive()
            if ending is not None and _dask.runs(ending):
                await self._end(ending, tag)

        worker.loop.call_later(self.seconds, end)

    async def _end(self, worker: Worker, tag: Tag) -> None:
        logger.info("The lifetime of %s is over: it is drained", worker.address)
        nanny = str(worker.nanny) if worker.nanny and worker.lifetime_restart else None
        if nanny is not None:
            # Once drained, its next heartbeat may close it before this does, and its nanny for
            # good with it. A nanny that is told nothing starts another worker.
            worker.nanny = None
        link = Link(worker.scheduler.address, tag.scheduler_id, worker.security)
        deadline = asyncio.get_running_loop().time() + self.drain_timeout
        try:
            async with asyncio.timeout_at(deadline):
                while not await link.drain(tag, [worker.address], deadline, alone=True):
                    await asyncio.sleep(ASK_AGAIN)
        except TimeoutError:
            logger.warning("Not drained within %.3g s", self.drain_timeout)
        except OSError as exc:
            logger.warning("The scheduler could not be asked to take the data: %s", os_reason(exc))
        finally:
            await link.close()
        if nanny is not None:
            # Not by itself: it would wait for 2 s for word from its nanny (see WorkerGroup._ends),
            # and meanwhile its scheduler would attach the agent anew.
            await _dask.end_by_nanny(worker, nanny, END_TIMEOUT, REASON)
        await worker.close(reason=REASON)
