"""Where a cluster's scheduler runs: in this process, in one of its own, or somewhere else."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Mapping
from contextlib import suppress
from typing import Any

from distributed import Scheduler
from distributed.core import rpc
from distributed.security import Security

from gc_bootstrap.cli.ask import ask
from gc_bootstrap.cluster import processes
from gc_bootstrap.cluster.processes import Child
from gc_bootstrap.cluster.settings import Settings
from gc_bootstrap.errors import ConfigError, GcBootstrapError
from gc_bootstrap.logs import log_like_distributed
from gc_bootstrap.scheduler.leaving import LeavingPlugin
from gc_bootstrap.wire.names import RESIZE_HANDLER, STATUS_HANDLER

TERMINATE_TIMEOUT = 8.0
"""Seconds for a scheduler process to let its agents go and end."""
ANSWER_TIMEOUT = 10.0
"""Seconds for a scheduler to say what pools it has, or to change one: it takes no time. Dask itself
waits for ever for one that hangs."""


class Place(ABC):
    """A scheduler with pools: how it is begun and ended."""

    scheduler: Scheduler | None = None
    """The scheduler itself, where it is in this process."""
    process: Child | None = None
    """Its process, where it has one of its own."""

    @abstractmethod
    async def start(self) -> str:
        """See to it that there is a scheduler, and return its address."""

    @abstractmethod
    async def close(self) -> None:
        """End what :meth:`start` has begun, however far it came. May be called more than once."""


class Here(Place):
    """A scheduler in this process, on the event loop that runs it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._plugin = LeavingPlugin.unchecked(**settings.overrides)

    async def start(self) -> str:
        """Start the scheduler, then its pools.

        Raises
        ------
        ConfigError
            What the options name cannot be used.
        """
        log_like_distributed()
        self.scheduler = Scheduler(**self._settings.scheduler)  # listens already
        await self.scheduler
        await self.scheduler.register_scheduler_plugin(self._plugin, idempotent=False)
        return self.scheduler.address

    async def close(self) -> None:
        """Close it, and have its agents idle."""
        if self.scheduler is not None:
            await self._plugin.leave(self.scheduler)


class Apart(Place):
    """A scheduler in a process of its own."""

    def __init__(self, settings: Settings) -> None:
        self.process = processes.scheduler_process(settings.overrides, settings.scheduler)
        self._security = settings.security
        self._address: str | None = None

    async def start(self) -> str:
        """Start the process; see :func:`.processes.start_scheduler`."""
        assert self.process is not None
        self._address = await processes.start_scheduler(self.process)
        return self._address

    async def close(self) -> None:
        """Have the scheduler end, and the process with it."""
        assert self.process is not None
        if self._address is not None and not self.process.ended:
            arguments = self._security.get_connection_args("client")
            # It may hang, or end before it has answered; then the process is ended all the same.
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(TERMINATE_TIMEOUT):
                    async with rpc(self._address, connection_args=arguments) as scheduler:
                        await scheduler.terminate()
                    await self.process.wait()
        await self.process.stop()


class Elsewhere(Place):
    """A scheduler that is none of this cluster's business, but for the sizes of its pools."""

    def __init__(self, address: str, security: Security) -> None:
        self._address = address
        self._security = security

    async def start(self) -> str:
        """Ask whether it is there, and has pools.

        Raises
        ------
        GcBootstrapError
            It is not, or has none.
        """
        await ask(self._address, self._security, ANSWER_TIMEOUT)
        return self._address

    async def close(self) -> None:
        """Leave it as it is."""


def place(settings: Settings) -> Place:
    """Where the settings want the scheduler."""
    return Here(settings) if settings.where == "here" else Apart(settings)


async def pools_of(scheduler: Any) -> dict[str, Any]:
    """What ``dask pool status`` shows, by a comm that there is already.

    Raises
    ------
    GcBootstrapError
        It has no pools, or does not answer.
    """
    return await _of_plugin(getattr(scheduler, STATUS_HANDLER)(), "pools")


async def resize(scheduler: Any, pool: str | None, change: Mapping[str, Any]) -> None:
    """Give a pool another size.

    Raises
    ------
    ConfigError
        The scheduler does not take it; with all problems.
    GcBootstrapError
        It has no pools, or does not answer.
    """
    asked = getattr(scheduler, RESIZE_HANDLER)(pool=pool, **change)
    answer = await _of_plugin(asked, "problems")
    if problems := answer["problems"]:
        raise ConfigError(problems)


async def _of_plugin(asked: Awaitable[dict[str, Any]], key: str) -> dict[str, Any]:
    """An answer, unless it is what Dask says to an operation that it does not know."""
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT) as deadline:
            answer = await asked
    except TimeoutError:
        if not deadline.expired():
            raise
        raise GcBootstrapError(
            f"the scheduler has not answered within {ANSWER_TIMEOUT:g} s"
        ) from None
    if key not in answer:
        raise GcBootstrapError("the scheduler has no pools, or those of an older gc_bootstrap")
    return answer
