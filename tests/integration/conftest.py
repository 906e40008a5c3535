"""A scheduler in this process, and dists for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from distributed import Scheduler

from gc_bootstrap.config import PoolOptions
from gc_bootstrap.dist import Owner
from gc_bootstrap.dist.dask import DaskDist
from tests.integration.harness import scheduler_here

SECRET = "correct horse battery staple"


@pytest.fixture
async def scheduler() -> AsyncIterator[Scheduler]:
    async with scheduler_here() as scheduler:
        yield scheduler


@pytest.fixture
async def dists(scheduler: Scheduler) -> AsyncIterator[DistFactory]:
    factory = DistFactory(scheduler)
    yield factory
    await factory.close()


class DistFactory:
    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._made: list[DaskDist] = []

    async def __call__(
        self,
        options: PoolOptions | None = None,
        *,
        pool: str = "default",
        scheduler: Scheduler | None = None,
    ) -> DaskDist:
        owner = Owner(scheduler or self._scheduler, pool, options or PoolOptions())
        dist = await asyncio.to_thread(DaskDist.for_scheduler, owner)  # it reads files
        self._made.append(dist)
        await dist.start()
        return dist

    async def close(self) -> None:
        for dist in self._made:
            await dist.close()


@pytest.fixture
def cookie_file(tmp_path: Path) -> str:
    path = tmp_path / "cookie"
    path.write_text(f"{SECRET}\n")
    return str(path)
