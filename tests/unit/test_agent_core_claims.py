"""An agent that is claimed, given and abandoned, between two real schedulers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
from distributed import Scheduler

from gc_bootstrap.agent import claims as claims_module
from gc_bootstrap.agent.core import Agent
from gc_bootstrap.wire.messages import (
    AttachClaim,
    AttachRequest,
    DetachClaim,
    DetachRequest,
    WireError,
)
from gc_bootstrap.wire.names import CLAIM_HANDLER, DRAIN_HANDLER, FREE_HANDLER
from tests.unit.agents import PEER, attach_by, refused
from tests.unit.helpers import eventually


@pytest.fixture
async def second() -> AsyncIterator[Scheduler]:
    async with Scheduler(host="127.0.0.1", port=0, dashboard_address=":0") as second:
        yield second


@pytest.fixture
async def third() -> AsyncIterator[Scheduler]:
    async with Scheduler(host="127.0.0.1", port=0, dashboard_address=":0") as third:
        yield third


@pytest.fixture
def asked(scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The claims of which the first scheduler was told; it never answers."""
    told: list[Any] = []

    async def hang(claim: Any) -> None:
        told.append(claim)
        await asyncio.Event().wait()

    scheduler.handlers[CLAIM_HANDLER] = hang
    monkeypatch.setattr(claims_module, "RELAY_TIMEOUT", 60.0)
    return told


def claim_by(scheduler: Scheduler, **changes: Any) -> AttachRequest:
    return attach_by(scheduler, claim=AttachClaim(0, 1.0, 1), **changes)


async def test_who_claims_the_agent_in_the_moment_in_which_it_becomes_free_has_it(
    agent: Agent, scheduler: Scheduler, second: Scheduler, asked: list[Any]
) -> None:
    await agent.attach(attach_by(scheduler))
    claiming = asyncio.create_task(agent.attach(claim_by(second)))
    await eventually(lambda: asked)
    await agent.detach(DetachRequest(scheduler.id, PEER))
    assert (await claiming).scheduler_id == second.id
    assert len(second.workers) == 1


async def test_who_claims_the_agent_while_it_is_given_to_another_is_refused_and_that_one_is_told(
    agent: Agent, scheduler: Scheduler, second: Scheduler, third: Scheduler, asked: list[Any]
) -> None:
    told = asyncio.Event()

    async def take(free: Any) -> bool:
        told.set()
        return True

    second.handlers[FREE_HANDLER] = take
    await agent.attach(attach_by(scheduler))
    claiming = asyncio.create_task(agent.attach(claim_by(third)))
    await eventually(lambda: asked)
    to = DetachClaim(second.address, second.id, "default")
    await agent.detach(DetachRequest(scheduler.id, PEER, to))
    assert await refused(claiming) == (
        409,
        f"held by scheduler {scheduler.id} at {scheduler.address}",
    )
    await asyncio.wait_for(told.wait(), 20)
    assert agent.state == "idle"


async def test_an_agent_that_is_given_to_somebody_is_left_to_that_one_for_a_moment(
    agent: Agent, scheduler: Scheduler, second: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever asks by chance in that moment would have it else, and another would be given."""
    monkeypatch.setattr(claims_module, "APART", 60.0)
    await agent.attach(attach_by(scheduler))
    to = DetachClaim(second.address, second.id, "default")
    second.handlers[FREE_HANDLER] = lambda free: True
    await agent.detach(DetachRequest(scheduler.id, PEER, to))
    for request in (attach_by(scheduler), claim_by(scheduler)):
        with pytest.raises(WireError, match=f"is left to scheduler {second.id} first") as refusal:
            await agent.attach(request)
        assert refusal.value.status == 503
    assert (await agent.attach(attach_by(second))).scheduler_id == second.id
    await agent.detach(DetachRequest(second.id, PEER))
    assert (await agent.attach(attach_by(scheduler))).scheduler_id == scheduler.id


async def test_an_agent_is_not_left_to_who_is_gone(
    agent: Agent, scheduler: Scheduler, second: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims_module, "APART", 60.0)
    await agent.attach(attach_by(scheduler))
    to = DetachClaim(second.address, second.id, "default")
    await second.close()
    await agent.detach(DetachRequest(scheduler.id, PEER, to))

    async def attached() -> bool:
        with suppress(WireError):
            return bool(await agent.attach(attach_by(scheduler)))
        return False

    async with asyncio.timeout(20):
        while not await attached():
            await asyncio.sleep(0.01)


async def test_an_agent_that_is_abandoned_asks_nobody_to_take_its_data(
    agent: Agent, scheduler: Scheduler
) -> None:
    drained: list[Any] = []

    async def note(**keywords: Any) -> dict[str, str]:
        drained.append(keywords)
        return {}

    scheduler.handlers[DRAIN_HANDLER] = note
    await agent.attach(attach_by(scheduler))
    await agent.detach(DetachRequest(scheduler.id, PEER, abandon=True))
    assert (agent.state, drained) == ("idle", [])
    await agent.attach(attach_by(scheduler))
    await agent.detach(DetachRequest(scheduler.id, PEER))
    assert len(drained) == 1
