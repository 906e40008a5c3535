"""What a scheduler makes of claims on its peers, and of peers that have become free."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from distributed import Scheduler
from distributed.core import rpc

from gc_bootstrap.peer import Peer
from gc_bootstrap.scheduler import claims as claims_module
from gc_bootstrap.scheduler.claims import Claims
from gc_bootstrap.stake import Stake
from gc_bootstrap.wire.claims import KEPT_FOR, MOST_CLAIMANTS, ClaimCall, FreeCall
from gc_bootstrap.wire.messages import HolderReply
from gc_bootstrap.wire.names import CLAIM_HANDLER, FREE_HANDLER
from tests.unit.test_wire_claims import CALL, Clock

PEER = Peer("10.0.0.5", 8791)


class Hints:
    """Counts them."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def hints() -> Hints:
    return Hints()


@pytest.fixture
def claims(scheduler: Scheduler, clock: Clock, hints: Hints) -> Claims:
    claims = Claims(scheduler, clock=clock)
    claims.open("default", hints)
    claims.tell("default", Stake(4, 2.0, 1))
    return claims


def by(who: str, **changes: Any) -> dict[str, Any]:
    return replace(CALL, scheduler_id=who, **changes).content()


async def test_a_claim_is_kept_for_its_pool_which_looks_and_the_answer_is_what_it_has(
    claims: Claims, hints: Hints, scheduler: Scheduler
) -> None:
    answer = await claims.claim_for_agent(CALL.content())
    said = HolderReply(scheduler.address, scheduler.id, holds=4, weight=2.0, keeps=1)
    assert HolderReply.read(answer) == said
    assert claims.current("default") == (CALL.claim,)
    assert claims.current("other") == ()
    assert hints.count == 1


async def test_a_claim_that_is_only_repeated_lasts_longer_and_is_no_reason_to_look(
    claims: Claims, hints: Hints, clock: Clock
) -> None:
    await claims.claim_for_agent(CALL.content())
    clock.now += KEPT_FOR - 1.0
    await claims.claim_for_agent(CALL.content())
    assert hints.count == 1
    clock.now += KEPT_FOR - 1.0
    assert claims.current("default") == (CALL.claim,)
    await claims.claim_for_agent(replace(CALL, holds=2).content())
    assert hints.count == 2
    assert [claim.stake.holds for claim in claims.current("default")] == [2]
    clock.now += KEPT_FOR
    assert claims.current("default") == ()


async def test_claims_are_in_order_of_need_and_a_flood_of_them_is_bounded(claims: Claims) -> None:
    for number in range(3 * MOST_CLAIMANTS):
        await claims.claim_for_agent(by(f"Scheduler-{number}", holds=number % 150))
    kept = [claim.stake.holds for claim in claims.current("default")]
    assert len(kept) == MOST_CLAIMANTS
    assert kept == sorted(kept)


@pytest.mark.parametrize("stake", [Stake(4, 1.0, 4), Stake(4, 1.0, 5), Stake(0, 1.0, 0)])
async def test_a_pool_that_gives_none_says_so_and_does_not_look(
    claims: Claims, hints: Hints, stake: Stake
) -> None:
    claims.tell("default", stake)
    answer = HolderReply.read(await claims.claim_for_agent(CALL.content()))
    assert (answer.holds, answer.keeps) == (stake.holds, stake.keeps)
    assert hints.count == 0


async def test_who_has_nothing_to_say_of_a_pool_says_nothing(
    claims: Claims, scheduler: Scheduler, hints: Hints
) -> None:
    assert await claims.claim_for_agent(by("a", pool="no such pool")) is None
    claims.open("new", hints)
    assert await claims.claim_for_agent(by("a", pool="new")) is None, "it does not know yet"
    assert len(claims.current("new")) == 1, "it will"
    assert await claims.claim_for_agent(by(scheduler.id)) is None, "it does not claim from itself"
    assert claims.current("default") == ()


async def test_a_pool_that_is_closed_takes_no_part_unless_another_has_its_place(
    claims: Claims, scheduler: Scheduler
) -> None:
    first, second = Hints(), Hints()
    close_first = claims.open("default", first)
    close_second = claims.open("default", second)
    claims.tell("default", Stake(2))
    close_first()
    assert await claims.claim_for_agent(CALL.content()) is not None
    assert (first.count, second.count) == (0, 1)
    close_second()
    close_second()
    assert await claims.claim_for_agent(CALL.content()) is None
    assert not await claims.free_for_agent(FreeCall(scheduler.id, str(PEER), "default").content())
    claims.tell("default", Stake(2))
    assert (claims.current("default"), claims.freed("default")) == ((), frozenset())


async def test_a_peer_that_has_become_free_is_said_once_and_its_pool_looks(
    claims: Claims, scheduler: Scheduler, hints: Hints
) -> None:
    call = FreeCall(scheduler.id, str(PEER), "default").content()
    assert await claims.free_for_agent(call)
    assert hints.count == 1
    assert claims.freed("default") == {PEER}
    assert claims.freed("default") == frozenset()


async def test_what_is_meant_for_another_scheduler_or_pool_is_not_taken_in(
    claims: Claims, scheduler: Scheduler, hints: Hints
) -> None:
    for call in (
        FreeCall("the one that was here before", str(PEER), "default"),
        FreeCall(scheduler.id, str(PEER), "no such pool"),
        FreeCall(scheduler.id, "::::", "default"),
    ):
        assert not await claims.free_for_agent(call.content())
    assert (claims.freed("default"), hints.count) == (frozenset(), 0)


async def test_peers_that_nobody_looks_at_are_bounded(
    claims: Claims, scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims_module, "MOST_FREED", 3)
    for port in range(1, 10):
        assert await claims.free_for_agent(FreeCall(scheduler.id, f"a:{port}", "default").content())
    assert len(claims.freed("default")) == 3


@pytest.mark.parametrize(
    "call",
    [
        None,
        [],
        {},
        {"peer": "x"},
        CALL.content() | {"weight": float("nan")},
        CALL.content() | {"holds": -1},
        CALL.content() | {"wants": 10**9},
        CALL.content() | {"scheduler": "two\nlines"},
    ],
    ids=repr,
)
async def test_nonsense_is_answered_by_nothing_and_said_in_one_line(
    claims: Claims, hints: Hints, call: Any, caplog: pytest.LogCaptureFixture
) -> None:
    assert await claims.claim_for_agent(call) is None
    assert await claims.free_for_agent(call) is False
    assert (claims.current("default"), hints.count) == ((), 0)
    assert len(caplog.records) == 2
    assert not any("\n" in record.getMessage() for record in caplog.records)


async def test_it_is_asked_by_rpc_and_there_is_one_for_a_scheduler(
    scheduler: Scheduler, hints: Hints
) -> None:
    claims = Claims.of(scheduler)
    assert Claims.of(scheduler) is claims
    claims.open("default", hints)
    claims.tell("default", Stake(10**7, 1.0, 10**8))
    async with rpc(scheduler.address) as asked:
        answer = await getattr(asked, CLAIM_HANDLER)(claim=CALL.content())
        assert HolderReply.read(answer).holds == 1_000_000, "no more than the wire carries"
        free = FreeCall(scheduler.id, str(PEER), "default")
        assert await getattr(asked, FREE_HANDLER)(free=free.content()) is True
    assert claims.freed("default") == {PEER}
    assert ClaimCall.read(CALL.content()).claim in claims.current("default")
