"""Surveys: what agents say of themselves before anybody attaches them."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import dask
import pytest
from distributed import Client, Scheduler

from gc_bootstrap.config import ConnectOptions, PoolOptions
from gc_bootstrap.errors import DistError
from gc_bootstrap.peer import Outcome, Peer
from gc_bootstrap.scheduler import dask as dask_dist
from gc_bootstrap.scheduler.drains import Drainer
from gc_bootstrap.stake import Capacity, Holder, Stake, Survey
from gc_bootstrap.wire.messages import RETIRED
from tests.integration.clusters import DistFactory, Form, Ledger, results, running
from tests.integration.harness import (
    COOKIE,
    Processes,
    agent_here,
    free_port,
    scheduler_here,
    until,
)


async def test_a_free_agent_says_what_it_can_do_and_stays_free(dists: DistFactory) -> None:
    async with agent_here(
        "--nthreads", "3", "--memory-limit", "1 GiB", "--resources", "GPU=2"
    ) as agent:
        dist = await dists()
        assert await dist.survey(agent.peer) == Survey(Capacity(1, 3, 2**30, {"GPU": 2.0}))
        assert (agent.agent.state, agent.agent.attaches) == ("idle", 0)


async def test_resources_of_dasks_configuration_count(dists: DistFactory) -> None:
    with dask.config.set({"distributed.worker.resources": {"GPU": 1}}):
        async with agent_here("--memory-limit", "0") as agent:
            assert await (await dists()).survey(agent.peer) == Survey(
                Capacity(1, 1, 0, {"GPU": 1.0})
            )


async def test_whose_an_agent_is_is_said_to_others_and_to_its_own_scheduler_it_is_free(
    scheduler: Scheduler, dists: DistFactory
) -> None:
    async with scheduler_here() as second, agent_here() as agent:
        ours, theirs = await dists(), await dists(scheduler=second)
        assert await ours.connect(agent.peer)
        found = await theirs.survey(agent.peer)
        assert isinstance(found, Survey)
        assert found.holder == Holder(scheduler.address, scheduler.id, Stake(holds=1))
        own = await ours.survey(agent.peer)
        assert isinstance(own, Survey)
        assert own.holder is None
        alias = Peer("localhost", agent.peer.port)
        assert await ours.survey(alias) == Outcome.refused(
            f"is the same agent as {agent.peer}", agent.peer
        )
        other_pool = await dists(pool="other")
        assert await other_pool.survey(agent.peer) == Outcome.refused(
            "is attached by the pool 'default'", soon=True
        )


async def test_an_agent_that_was_retired_here_is_refused_and_others_may_have_it(
    scheduler: Scheduler, dists: DistFactory
) -> None:
    async with scheduler_here() as second, agent_here() as agent:
        dist = await dists()
        assert await dist.connect(agent.peer)
        alias = Peer("localhost", agent.peer.port)
        await dist.survey(alias)
        async with Client(scheduler.address, asynchronous=True) as client:
            await client.retire_workers(list(scheduler.workers))
        await until(lambda: agent.agent.state == "idle", "the agent is idle")
        refused = Outcome.refused(RETIRED, expected=True, soon=True)
        assert await dist.survey(agent.peer) == refused
        assert await dist.survey(alias) == refused
        assert isinstance(await (await dists(scheduler=second)).survey(agent.peer), Survey)


async def test_an_agent_that_drains_is_refused(dists: DistFactory) -> None:
    async with agent_here() as agent:
        await agent.drain()
        assert await (await dists()).survey(agent.peer) == Outcome.refused(
            "is draining", expected=True, soon=True
        )


async def test_a_survey_takes_the_cookie(
    dists: DistFactory, tmp_path: Path, cookie_file: str
) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("another secret that is long enough")
    async with agent_here(cookie=COOKIE) as agent:
        with pytest.raises(DistError, match="signed with another cookie"):
            await (await dists(PoolOptions(cookie_file=str(wrong)))).survey(agent.peer)
        with pytest.raises(DistError, match="no cookie is known"):
            await (await dists()).survey(agent.peer)
        dist = await dists(PoolOptions(cookie_file=cookie_file))
        assert isinstance(await dist.survey(agent.peer), Survey)


async def test_nobody_there_and_no_agent_there_is_said(dists: DistFactory) -> None:
    dist = await dists()
    with pytest.raises(DistError, match="is not reachable"):
        await dist.survey(Peer("127.0.0.1", free_port()))

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = b'{"state": "idle"}'
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(DistError, match="is no gc_bootstrap agent: "):
            await dist.survey(Peer("127.0.0.1", port))


async def test_an_agent_that_hangs_is_not_waited_for_as_long_as_one_that_works(
    processes: Processes, dists: DistFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dask_dist, "SURVEY_TIMEOUT", 0.3)
    ((peer, group),) = (await processes.agents(1)).items()
    dist = await dists(PoolOptions(connect=ConnectOptions(timeout=3600.0)))
    assert isinstance(await dist.survey(peer), Survey)
    group.signal(signal.SIGSTOP)
    try:
        with pytest.raises(DistError, match=r"is connected, but gave no answer within 0\.\d+ s"):
            await dist.survey(peer)
    finally:
        group.signal(signal.SIGCONT)


async def test_an_abandoned_member_ends_at_once_with_what_it_holds_and_runs(
    form: Form, ledger: Ledger
) -> None:
    cluster = await form(2)
    futures = await results(cluster, 8)
    there = len(cluster.state(0).has_what)
    assert there
    await running(cluster, ledger, 0)
    assert await cluster.dist.abandon(cluster.agents[0].peer)
    assert cluster.agents[0].agent.state == "idle"
    assert Drainer.of(cluster.scheduler).counters("default")["drains"] == 0
    ledger.open.set()
    assert await cluster.client.gather(futures) == list(range(8))
    assert sum(ledger.runs[key] for key in range(8)) == 8 + there, "nobody has moved them"
