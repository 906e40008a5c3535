"""What several unit tests need."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

from gc_bootstrap.config import ConnectOptions, PoolOptions, ReconnectOptions
from gc_bootstrap.discovery import Discovery
from gc_bootstrap.dist import Dist
from gc_bootstrap.pool import Pool

QUICK = PoolOptions(
    refresh_interval=0.01,
    connect=ConnectOptions(timeout=5.0),
    reconnect=ReconnectOptions(initial=0.01, max=0.02),
)
RARELY = replace(QUICK, refresh_interval=3600.0)
HANGS = 3600.0


@asynccontextmanager
async def opened(
    discovery: Discovery, dist: Dist, options: PoolOptions = RARELY
) -> AsyncIterator[Pool]:
    """A pool without a loop."""
    pool = Pool(discovery, dist, options=options)
    await pool.open()
    try:
        yield pool
    finally:
        await pool.close()


def refreshed(pool: Pool, times: int = 2) -> Callable[[], bool]:
    """Whether the pool has refreshed some more times from now on."""
    enough = pool._refreshes + times
    return lambda: pool._refreshes >= enough


async def eventually(condition: Callable[[], object], seconds: float = 20.0) -> None:
    """Wait until something is so, or fail when it takes too long."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.001)
