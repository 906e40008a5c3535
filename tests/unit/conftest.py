"""A scheduler and an agent in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from distributed import Scheduler

from gc_bootstrap.agent.core import Agent
from gc_bootstrap.agent.state import State
from tests.unit.agents import options


@pytest.fixture
async def scheduler() -> AsyncIterator[Scheduler]:
    async with Scheduler(host="127.0.0.1", port=0, dashboard_address=":0") as scheduler:
        yield scheduler


@pytest.fixture
async def agent() -> AsyncIterator[Agent]:
    agent = Agent(options())
    await agent.warm_up(None)
    yield agent
    await agent.close()
    assert agent.life.state is State.ENDED
