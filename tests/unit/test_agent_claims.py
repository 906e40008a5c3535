"""Claims on an agent; who holds it and who claims it are real Dask servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from distributed.core import Server

from gc_bootstrap.agent import claims as claims_module
from gc_bootstrap.agent.claims import MOST_RELAYS, Claims
from gc_bootstrap.agent.link import Link
from gc_bootstrap.wire.claims import KEPT_FOR, MOST_CLAIMANTS, ClaimCall, FreeCall
from gc_bootstrap.wire.messages import AttachClaim, AttachRequest, DetachClaim, HolderReply
from gc_bootstrap.wire.names import CLAIM_HANDLER, FREE_HANDLER
from tests.unit.helpers import eventually
from tests.unit.test_agent_link import closed_port
from tests.unit.test_wire_claims import Clock

PEER = "10.0.0.5:8791"
HOLDS = HolderReply("tcp://as.it.sees.itself:1", "holder", 4, 2.0, 1)


class Other:
    """A scheduler as far as claims go: what it answers, and what it was told."""

    def __init__(self) -> None:
        self.holds: dict[str, Any] | None = HOLDS.content()
        self.wants = True
        self.hangs = False
        self.address = ""
        self.claimed: list[ClaimCall] = []
        self.freed: list[FreeCall] = []
        self.let_go = asyncio.Event()
        self.on_free: Callable[[], object] = lambda: None

    async def answer_claim(self, claim: Any) -> Any:
        self.claimed.append(ClaimCall.read(claim))
        if self.hangs:
            await self.let_go.wait()
        return self.holds

    async def answer_free(self, free: Any) -> bool:
        self.freed.append(FreeCall.read(free))
        self.on_free()
        if self.hangs:
            await self.let_go.wait()
        return self.wants


@asynccontextmanager
async def served() -> AsyncIterator[Other]:
    other = Other()
    handlers: dict[str, Callable[..., Any]] = {
        CLAIM_HANDLER: other.answer_claim,
        FREE_HANDLER: other.answer_free,
    }
    server = Server(handlers)
    await server.listen("tcp://127.0.0.1:0")
    other.address = server.address
    try:
        yield other
    finally:
        other.let_go.set()
        await server.close()


@pytest.fixture
async def holder() -> AsyncIterator[Other]:
    async with served() as holder:
        yield holder


@pytest.fixture
async def claimant() -> AsyncIterator[Other]:
    async with served() as claimant:
        yield claimant


@pytest.fixture
async def another() -> AsyncIterator[Other]:
    async with served() as another:
        yield another


@pytest.fixture
async def link(holder: Other) -> AsyncIterator[Link]:
    link = Link(holder.address, "holder", None)
    yield link
    await link.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def claims(clock: Clock) -> AsyncIterator[Claims]:
    claims = Claims(clock)
    yield claims
    await claims.close()
    await claims.close()


def held_by(link: Link) -> AttachRequest:
    return AttachRequest(link.address, "holder", "held-as:1", "pool-of-holder")


def claim(address: str, who: str = "claimant", holds: int = 1, **changes: Any) -> AttachRequest:
    request = AttachRequest(address, who, PEER, "gpu", claim=AttachClaim(holds, 2.0, 3))
    return replace(request, **changes)


# -- who holds it ----------------------------------------------------------------------------------


async def test_the_holder_is_told_and_what_it_says_is_the_answer(
    claims: Claims, holder: Other, link: Link
) -> None:
    held = await claims.note(claim("tcp://10.0.0.2:8786"), held_by(link), link)
    assert (held.status, str(held)) == (
        409,
        f"held by scheduler holder at {holder.address}, which holds 4",
    )
    said = replace(HOLDS, scheduler=holder.address)
    assert held.holder == claims.holder == said, "it is where the agent reaches it"
    (call,) = holder.claimed
    assert call == ClaimCall(
        peer="held-as:1",
        pool="pool-of-holder",
        scheduler="tcp://10.0.0.2:8786",
        scheduler_id="claimant",
        for_pool="gpu",
        holds=1,
        weight=2.0,
        wants=3,
    )
    assert claims.count == 1


async def test_a_holder_that_has_nothing_to_say_is_named_all_the_same(
    claims: Claims, holder: Other, link: Link
) -> None:
    holder.holds = None
    held = await claims.note(claim("tcp://10.0.0.2:8786"), held_by(link), link)
    assert (str(held), held.holder) == (f"held by scheduler holder at {holder.address}", None)


@pytest.mark.parametrize(
    "answer",
    [HOLDS.content() | {"scheduler_id": "the one after it"}, {"holds": 4}, 7, "yes"],
    ids=repr,
)
async def test_an_answer_of_somebody_else_counts_for_nothing(
    claims: Claims, holder: Other, link: Link, answer: Any
) -> None:
    holder.holds = answer
    held = await claims.note(claim("tcp://10.0.0.2:8786"), held_by(link), link)
    assert held.holder is None
    assert claims.holder is None


async def test_a_holder_that_is_gone_costs_a_claimant_nothing_but_its_answer(
    claims: Claims, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims_module, "RELAY_TIMEOUT", 0.05)
    link = Link(f"tcp://127.0.0.1:{closed_port()}", "holder", None)
    held = await claims.note(claim("tcp://10.0.0.2:8786"), held_by(link), link)
    assert held.holder is None
    await link.close()


async def test_a_holder_that_hangs_is_not_waited_for_and_a_flood_of_claims_is_not_relayed(
    claims: Claims, holder: Other, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims_module, "RELAY_TIMEOUT", 0.5)
    holder.hangs = True
    requests = [claim("tcp://10.0.0.2:8786", str(n)) for n in range(10 * MOST_RELAYS)]
    held = await asyncio.gather(*(claims.note(r, held_by(link), link) for r in requests))
    assert {answer.holder for answer in held} == {None}
    assert len(holder.claimed) <= MOST_RELAYS
    assert claims.count == 10 * MOST_RELAYS
    await eventually(lambda: not claims._relays)
    holder.hangs = False
    again = await claims.note(claim("tcp://10.0.0.2:8786"), held_by(link), link)
    assert again.holder is not None, "it hangs no more"


async def test_a_claimant_that_goes_leaves_its_claim_with_the_holder(
    claims: Claims, holder: Other, link: Link
) -> None:
    holder.hangs = True
    request = claim("tcp://10.0.0.2:8786")
    asking = asyncio.create_task(claims.note(request, held_by(link), link))
    await eventually(lambda: holder.claimed)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    holder.let_go.set()
    await eventually(lambda: claims.holder is not None)
    assert claims.is_next(request)


# -- who claims it ---------------------------------------------------------------------------------


async def test_who_claims_it_is_told_that_it_is_free_by_the_names_of_its_own(
    claims: Claims, link: Link, claimant: Other
) -> None:
    await claims.note(claim(claimant.address), held_by(link), link)
    assert claimant.freed == []
    claims.over(None, is_free=True)
    assert claims.holder is None
    await eventually(lambda: claimant.freed)
    assert claimant.freed == [FreeCall("claimant", PEER, "gpu")]


async def test_the_neediest_is_told_first_and_the_next_if_that_one_does_not_take_it(
    claims: Claims, link: Link, claimant: Other, another: Other, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims_module, "APART", 0.05)
    order: list[str] = []
    claimant.on_free = lambda: order.append("claimant")
    another.on_free = lambda: order.append("another")
    await claims.note(claim(claimant.address, "claimant", holds=5), held_by(link), link)
    await claims.note(claim(another.address, "another", holds=1), held_by(link), link)
    claims.over(None, is_free=True)
    await eventually(lambda: len(order) == 2)
    assert order == ["another", "claimant"]
    await eventually(lambda: not claims._tellings)
    assert order == ["another", "claimant"], "each is told once"


async def test_nobody_else_is_told_once_it_is_taken(
    claims: Claims, link: Link, claimant: Other, another: Other, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims_module, "APART", 3600.0)
    first = claim(claimant.address, "claimant", holds=0)
    second = claim(another.address, "another", holds=5)
    for request in (first, second):
        await claims.note(request, held_by(link), link)
    claimant.on_free = lambda: claims.taken(first)
    claims.over(None, is_free=True)
    await eventually(lambda: claimant.freed and not claims._tellings)
    assert another.freed == []
    assert claims.is_next(second), "what the other claims stands"
    assert not claims.is_next(first)


async def test_whom_the_holder_gives_it_to_is_told_before_the_neediest(
    claims: Claims, link: Link, claimant: Other, another: Other, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims_module, "APART", 0.05)
    order: list[str] = []
    claimant.on_free = lambda: order.append("claimant")
    another.on_free = lambda: order.append("another")
    await claims.note(claim(claimant.address, "claimant", holds=0), held_by(link), link)
    claims.give(DetachClaim(another.address, "another", "default"), "held-as:1")
    claims.over(None, is_free=True)
    await eventually(lambda: len(order) == 2)
    assert order == ["another", "claimant"]
    assert another.freed == [FreeCall("another", "held-as:1", "default")]


async def test_whom_it_is_given_to_is_told_by_its_own_name_for_the_agent_if_that_is_known(
    claims: Claims, link: Link, claimant: Other
) -> None:
    await claims.note(claim(claimant.address), held_by(link), link)
    claims.give(DetachClaim(claimant.address, "claimant", "gpu"), "held-as:1")
    claims.over(None, is_free=True)
    await eventually(lambda: claimant.freed)
    await asyncio.sleep(0)
    assert claimant.freed == [FreeCall("claimant", PEER, "gpu")]


@pytest.mark.parametrize("how", ["gone", "no address", "not interested", "hangs"])
async def test_one_that_cannot_be_told_costs_the_next_nothing(
    claims: Claims,
    link: Link,
    claimant: Other,
    another: Other,
    how: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A minute, unless who hangs is to be passed over.
    monkeypatch.setattr(claims_module, "APART", 0.05 if how == "hangs" else 60.0)
    monkeypatch.setattr(claims_module, "TELL_TIMEOUT", 60.0)
    another.wants, another.hangs = how != "not interested", how == "hangs"
    gone = f"tcp://127.0.0.1:{closed_port()}"
    address = {"gone": gone, "no address": "tcp://:0"}.get(how, another.address)
    await claims.note(claim(claimant.address, "claimant", holds=7), held_by(link), link)
    claims.give(DetachClaim(address, "another", "default"), PEER)
    claims.over(None, is_free=True)
    await eventually(lambda: claimant.freed)


async def test_claims_are_forgotten_after_a_while_and_a_flood_of_them_is_bounded(
    claims: Claims, link: Link, claimant: Other, clock: Clock
) -> None:
    for number in range(2 * MOST_CLAIMANTS):
        await claims.note(claim(claimant.address, str(number)), held_by(link), link)
    assert len(claims._claimants.current()) == MOST_CLAIMANTS
    clock.now += KEPT_FOR
    claims.over(None, is_free=True)
    await eventually(lambda: not claims._tellings)
    assert claimant.freed == []


async def test_an_agent_that_ends_tells_nobody(
    claims: Claims, link: Link, claimant: Other, monkeypatch: pytest.MonkeyPatch
) -> None:
    await claims.note(claim(claimant.address), held_by(link), link)
    claims.over(None, is_free=False)
    assert not claims._tellings
    monkeypatch.setattr(claims_module, "APART", 3600.0)
    claims.over(None, is_free=True)
    await eventually(lambda: claimant.freed)
    assert claims._tellings
    await claims.close()
    await asyncio.sleep(0)
    assert not claims._tellings
