"""Claims between real schedulers, over real agents."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from distributed import Client, Scheduler

from gc_bootstrap.agent import claims as agent_claims
from gc_bootstrap.agent.run import AgentServer
from gc_bootstrap.config import PoolOptions
from gc_bootstrap.errors import DistError
from gc_bootstrap.peer import Outcome, Peer
from gc_bootstrap.scheduler.dask import DaskDist
from gc_bootstrap.stake import Claim, Holder, Stake, Survey
from gc_bootstrap.wire import tokens
from gc_bootstrap.wire.claims import MOST_CLAIMANTS
from gc_bootstrap.wire.messages import AttachClaim, AttachRequest
from tests.integration.clusters import DistFactory
from tests.integration.harness import (
    COOKIE,
    Processes,
    agent_here,
    free_port,
    nonce_of,
    request,
    scheduler_here,
    until,
)

NEEDY, SATED = Stake(0, 2.0), Stake(5, 2.0)


@pytest.fixture
async def second(stack: AsyncExitStack) -> Scheduler:
    return await stack.enter_async_context(scheduler_here())


@pytest.fixture
async def third(stack: AsyncExitStack) -> Scheduler:
    return await stack.enter_async_context(scheduler_here())


@pytest.fixture
async def agent() -> AsyncIterator[AgentServer]:
    async with agent_here(cookie=COOKIE) as agent:
        yield agent


class Parties:
    """Dists that share a cookie with the agents."""

    def __init__(self, dists: DistFactory, cookie_file: str) -> None:
        self._dists, self._options = dists, PoolOptions(cookie_file=cookie_file)

    async def __call__(self, scheduler: Scheduler | None = None, pool: str = "default") -> DaskDist:
        return await self._dists(self._options, scheduler=scheduler, pool=pool)


@pytest.fixture
def parties(dists: DistFactory, cookie_file: str) -> Parties:
    return Parties(dists, cookie_file)


async def gave(dist: DaskDist, peer: Peer, to: Claim | None) -> None:
    answer = await dist._detach(peer, str(peer), to)
    assert answer.status == 200


async def freed(dist: DaskDist) -> frozenset[Peer]:
    found: frozenset[Peer] = await until(dist.freed, "a peer has become free")
    return found


async def test_a_claim_reaches_who_holds_the_agent_and_its_answer_says_what_that_one_has(
    parties: Parties, scheduler: Scheduler, second: Scheduler, agent: AgentServer
) -> None:
    ours, theirs = await parties(), await parties(second, pool="theirs")
    assert await ours.connect(agent.peer)
    ours.tell(Stake(4, 2.0, 1))
    looks = asyncio.create_task(ours.changed())
    outcome = await theirs.claim(agent.peer, NEEDY, 3)
    holder = Holder(scheduler.address, scheduler.id, Stake(4, 2.0, 1))
    reason = f"held by scheduler {scheduler.id} at {scheduler.address}, which holds 4"
    assert outcome == Outcome.refused(reason, soon=True, holder=holder)
    assert ours.claims() == (Claim(second.address, second.id, "theirs", NEEDY, 3),)
    await asyncio.wait_for(looks, 20)
    survey = await theirs.survey(agent.peer)
    assert isinstance(survey, Survey)
    assert survey.holder == holder
    assert agent.agent.state == "attached"
    _, metrics = await request(agent.peer, "GET", "/metrics")
    assert "gc_bootstrap_agent_claims_total 1.0" in metrics
    assert 'gc_bootstrap_agent_refusals_total{reason="held"} 1.0' in metrics


async def test_a_plain_attach_of_a_held_agent_is_refused_as_ever_and_nobody_hears_of_it(
    parties: Parties, scheduler: Scheduler, second: Scheduler, agent: AgentServer
) -> None:
    ours, theirs = await parties(), await parties(second)
    assert await ours.connect(agent.peer)
    ours.tell(Stake(4))
    reason = f"held by scheduler {scheduler.id} at {scheduler.address}"
    assert await theirs.connect(agent.peer) == Outcome.refused(reason, soon=True)
    assert ours.claims() == ()
    await ours.disconnect(agent.peer)
    assert agent.agent.claims.count == 0


async def test_a_claim_attaches_an_idle_agent_and_is_none_for_who_holds_it_already(
    parties: Parties, agent: AgentServer
) -> None:
    dist = await parties()
    for _ in range(2):
        assert await dist.claim(agent.peer, NEEDY, 1)
    assert await dist.members() == {agent.peer}
    assert (agent.agent.claims.count, dist.claims()) == (0, ())


async def test_a_claimant_of_other_versions_could_not_use_it_and_is_not_heard(
    parties: Parties, second: Scheduler, agent: AgentServer
) -> None:
    ours, theirs = await parties(), await parties(second)
    assert await ours.connect(agent.peer)
    agent.agent.versions["distributed"] = "2020.1.0"
    assert (await theirs.claim(agent.peer, NEEDY, 1)).reason.startswith("incompatible versions: ")
    assert (agent.agent.claims.count, ours.claims()) == (0, ())


async def test_a_freed_agent_tells_whom_it_is_given_to_and_then_the_neediest(
    parties: Parties,
    second: Scheduler,
    third: Scheduler,
    agent: AgentServer,
    stack: AsyncExitStack,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fourth = await stack.enter_async_context(scheduler_here())
    monkeypatch.setattr(agent_claims, "APART", 1.0)
    ours, given = await parties(), await parties(second)
    needy, sated = await parties(third), await parties(fourth)
    assert await ours.connect(agent.peer)
    await needy.claim(agent.peer, NEEDY, 1)
    await sated.claim(agent.peer, SATED, 1)
    waiting = [asyncio.create_task(dist.changed()) for dist in (given, needy, sated)]
    to = Claim(second.address, second.id, "default", SATED)
    await gave(ours, agent.peer, to)
    done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    assert done == {waiting[0]}
    assert given.freed() == {agent.peer}
    done, _ = await asyncio.wait(waiting[1:], return_when=asyncio.FIRST_COMPLETED)
    assert done == {waiting[1]}
    assert needy.freed() == {agent.peer}
    assert await needy.connect(agent.peer)
    await until(lambda: not agent.agent.claims._tellings, "nobody else is told")
    assert sated.freed() == frozenset()
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_an_agent_that_is_asked_for_by_its_alias_is_said_to_be_free_by_that(
    parties: Parties, second: Scheduler, agent: AgentServer
) -> None:
    ours, theirs = await parties(), await parties(second)
    assert await ours.connect(agent.peer)
    alias = Peer("localhost", agent.peer.port)
    assert (await theirs.claim(alias, NEEDY, 1)).kind == "refused"
    (claim,) = ours.claims()
    await gave(ours, agent.peer, claim)
    assert await freed(theirs) == {alias}


@pytest.mark.parametrize("how", ["retired", "abandoned", "closed"])
async def test_whatever_frees_an_agent_its_claimants_are_told(
    parties: Parties, second: Scheduler, agent: AgentServer, how: str, stack: AsyncExitStack
) -> None:
    holder = await stack.enter_async_context(scheduler_here())
    ours, theirs = await parties(holder), await parties(second)
    assert await ours.connect(agent.peer)
    assert (await theirs.claim(agent.peer, NEEDY, 1)).kind == "refused"
    if how == "retired":
        async with Client(holder.address, asynchronous=True) as client:
            await client.retire_workers(list(holder.workers))
    elif how == "abandoned":
        assert await ours.abandon(agent.peer)
    else:
        await holder.close()
    assert await freed(theirs) == {agent.peer}
    assert await theirs.connect(agent.peer)


async def test_a_claimant_that_is_gone_costs_the_next_one_nothing(
    parties: Parties,
    second: Scheduler,
    agent: AgentServer,
    stack: AsyncExitStack,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(agent_claims, "APART", 3600.0)
    gone = await stack.enter_async_context(scheduler_here())
    ours, theirs, dead = await parties(), await parties(second), await parties(gone)
    assert await ours.connect(agent.peer)
    await theirs.claim(agent.peer, SATED, 1)
    await dead.claim(agent.peer, NEEDY, 1)
    await gone.close()
    await gave(ours, agent.peer, Claim(gone.address, gone.id, "default", NEEDY))
    assert await freed(theirs) == {agent.peer}


@pytest.mark.timeout(120)
async def test_a_holder_that_hangs_or_is_killed_keeps_no_claimant_waiting(
    processes: Processes, parties: Parties, second: Scheduler, cookie_file: str
) -> None:
    ((peer, _),) = (await processes.agents(1, "--cookie-file", cookie_file)).items()
    first = await processes.scheduler([peer], "--cookie-file", cookie_file)
    await first.formed([peer])
    theirs = await parties(second)

    async def holder() -> Holder | None:
        outcome = await theirs.claim(peer, NEEDY, 1)
        assert outcome.kind == "refused"
        assert outcome.reason.startswith(f"held by scheduler {identity} at {first.address}")
        return outcome.holder

    identity = (await first.status())["id"]
    keeps_it = Holder(first.address, identity, Stake(1, 1.0, keeps=1))

    async def says_so() -> bool:
        return await holder() == keeps_it

    await until(says_so, "it has looked, and answers")
    first.group.signal(signal.SIGSTOP)
    assert [await holder() for _ in range(2)] == [None, None]
    first.group.signal(signal.SIGCONT)
    await until(says_so, "it answers again")
    first.group.signal(signal.SIGKILL)
    assert await freed(theirs) == {peer}
    assert await theirs.connect(peer)


# -- who may claim ---------------------------------------------------------------------------------


def body_of(scheduler: Scheduler, pool: str = "default", holds: int = 0) -> bytes:
    claim = AttachClaim(holds, 1.0, 1)
    return AttachRequest(
        scheduler.address, scheduler.id, "localhost:1", pool=pool, claim=claim
    ).encode()


async def test_a_claim_takes_the_cookie_as_an_attach_does(
    dists: DistFactory, parties: Parties, second: Scheduler, agent: AgentServer, tmp_path: Path
) -> None:
    ours = await parties()
    assert await ours.connect(agent.peer)
    wrong = tmp_path / "wrong"
    wrong.write_text("another secret that is long enough")
    for options in (PoolOptions(), PoolOptions(cookie_file=str(wrong))):
        theirs = await dists(options, scheduler=second)
        with pytest.raises(DistError, match="refuses this scheduler"):
            await theirs.claim(agent.peer, NEEDY, 1)
    assert (agent.agent.claims.count, ours.claims()) == (0, ())


async def test_a_claim_that_is_replayed_is_refused(
    parties: Parties, second: Scheduler, agent: AgentServer
) -> None:
    ours = await parties()
    assert await ours.connect(agent.peer)
    body = body_of(second)
    header = tokens.sign(
        COOKIE, "POST", "/v1/attach", body, time.time(), await nonce_of(agent.peer)
    )

    async def ask(body: bytes) -> tuple[int, Any]:
        return await request(
            agent.peer, "POST", "/v1/attach", body, headers={"Authorization": header}
        )

    assert (await ask(body_of(second, holds=9)))[0] == 401, "it is for another body"
    assert (await ask(body))[0] == 409
    assert await ask(body) == (401, {"error": "the token has been used before"})
    assert agent.agent.claims.count == 1


@pytest.mark.parametrize(
    "lie",
    [{"holds": -1}, {"weight": 1e9}, {"weight": 0}, {"wants": -1}, {"wants": 10**9}],
    ids=repr,
)
async def test_a_claim_beyond_all_bounds_is_refused_and_not_passed_on(
    parties: Parties, second: Scheduler, agent: AgentServer, lie: dict[str, Any]
) -> None:
    ours = await parties()
    assert await ours.connect(agent.peer)
    content = json.loads(body_of(second))
    content["claim"] |= lie
    status, answer = await request(
        agent.peer, "POST", "/v1/attach", json.dumps(content).encode(), cookie=COOKIE
    )
    assert (status, answer["error"].split(" is not ")[0]) == (422, f"field 'claim.{min(lie)}'")
    assert ours.claims() == ()


async def test_only_an_address_that_a_scheduler_could_have_is_kept_to_be_dialled(
    parties: Parties, agent: AgentServer
) -> None:
    ours = await parties()
    assert await ours.connect(agent.peer)
    for address in ("nonsense", "tcp://127.0.0.1:0", "tcp://[::1"):
        claim = AttachRequest(address, "me", "x:1", claim=AttachClaim(0, 1.0, 1))
        status, answer = await request(
            agent.peer, "POST", "/v1/attach", claim.encode(), cookie=COOKIE
        )
        assert (status, answer["error"]) == (422, f"{address!r} is not a scheduler's address")
        assert agent.agent.claims.count == 0
        to = Claim(address, "me", "default", NEEDY)
        refused = await ours._detach(agent.peer, str(agent.peer), to)
        assert refused.status == 422
        assert "is not a scheduler's address" in refused.error
    assert agent.agent.state == "attached"


async def test_a_flood_of_claims_is_bounded_in_agent_and_holder(
    parties: Parties, second: Scheduler, agent: AgentServer
) -> None:
    ours, theirs = await parties(), await parties(second)
    assert await ours.connect(agent.peer)
    ours.tell(Stake(1))
    nonce = await nonce_of(agent.peer)

    async def claim(number: int) -> int:
        body = body_of(second, f"pool-{number}", holds=number % 7)
        header = tokens.sign(COOKIE, "POST", "/v1/attach", body, time.time(), nonce)
        headers = {"Authorization": header}
        return (await request(agent.peer, "POST", "/v1/attach", body, headers=headers))[0]

    assert await claim(0) == 409
    for begin in range(0, 3 * MOST_CLAIMANTS, 50):
        answered = await asyncio.gather(*map(claim, range(begin, begin + 50)))
        assert set(answered) == {409}
    assert len(ours.claims()) <= MOST_CLAIMANTS
    assert len(agent.agent.claims._claimants.current()) == MOST_CLAIMANTS
    outcome = await theirs.claim(agent.peer, replace(NEEDY, weight=1000.0), 1)
    assert outcome.holder is not None
    assert ours.claims()[0].pool == "default", "the neediest is heard above all"


@pytest.mark.parametrize("what", ["nobody", "another"])
async def test_a_claimant_that_the_agent_cannot_reach_is_told_so_and_its_holder_hears_nothing(
    dists: DistFactory,
    parties: Parties,
    cookie_file: str,
    second: Scheduler,
    third: Scheduler,
    agent: AgentServer,
    what: str,
) -> None:
    ours = await parties()
    assert await ours.connect(agent.peer)
    there = third.address if what == "another" else f"tcp://127.0.0.1:{free_port()}"
    options = PoolOptions(cookie_file=cookie_file, scheduler_address=there)
    theirs = await dists(options, scheduler=second)
    reason = "another scheduler is at" if what == "another" else "cannot reach the scheduler at"
    for _ in range(2):
        with pytest.raises(DistError, match=f"{reason} {there}"):
            await theirs.claim(agent.peer, NEEDY, 1)
    assert (agent.agent.claims.count, ours.claims()) == (0, ())
