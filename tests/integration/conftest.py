"""A scheduler in this process, dists for it, and clusters of agents."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from distributed import Scheduler

from tests.integration.clusters import DistFactory, Form, Hands, Ledger, new_ledger
from tests.integration.harness import Processes, scheduler_here

SECRET = "correct horse battery staple"


@pytest.fixture
async def scheduler() -> AsyncIterator[Scheduler]:
    async with scheduler_here() as scheduler:
        yield scheduler


@pytest.fixture
async def processes(tmp_path: Path) -> AsyncIterator[Processes]:
    async with Processes(tmp_path) as processes:
        yield processes


@pytest.fixture
async def dists(scheduler: Scheduler) -> AsyncIterator[DistFactory]:
    factory = DistFactory(scheduler)
    yield factory
    await factory.close()


@pytest.fixture
def cookie_file(tmp_path: Path) -> str:
    path = tmp_path / "cookie"
    path.write_text(f"{SECRET}\n")
    return str(path)


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
async def form(scheduler: Scheduler, dists: DistFactory, stack: AsyncExitStack) -> Form:
    return Form(scheduler, dists, stack)


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    ledger = new_ledger()
    yield ledger
    ledger.open.set()


@pytest.fixture
def hands() -> Hands:
    return Hands()
