"""The Dask dist against agents in this process and a real scheduler."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from distributed import Client, Scheduler, Worker

from gc_bootstrap.config import PoolOptions
from gc_bootstrap.discovery.local import LocalDiscovery
from gc_bootstrap.dist import Dist, Owner
from gc_bootstrap.errors import ConfigError, DistError
from gc_bootstrap.peer import Outcome, Peer
from gc_bootstrap.scheduler import signing
from gc_bootstrap.scheduler.dask import DaskDist
from gc_bootstrap.testing import DistContract
from tests.integration.clusters import DistFactory
from tests.integration.harness import COOKIE, agent_here, free_port, scheduler_here, until


class TestContract(DistContract):
    @pytest.fixture(autouse=True)
    async def _stack(self) -> AsyncIterator[None]:
        async with AsyncExitStack() as self.stack:
            self.scheduler = await self.stack.enter_async_context(scheduler_here())
            yield

    async def dist(self) -> Dist:
        return DaskDist.for_scheduler(Owner(self.scheduler))

    async def peer(self) -> Peer:
        return (await self.stack.enter_async_context(agent_here())).peer

    async def dead_peer(self) -> Peer:
        return Peer("127.0.0.1", free_port())


async def test_an_attached_agent_computes(scheduler: Scheduler, dists: DistFactory) -> None:
    async with agent_here() as agent:
        dist = await dists()
        assert await dist.connect(agent.peer)
        async with Client(scheduler.address, asynchronous=True) as client:
            assert await client.submit(sum, [1, 2, 3]) == 6
        assert agent.agent.state == "attached"


async def test_a_worker_that_nobody_attached_is_no_member_and_is_left_alone(
    scheduler: Scheduler, dists: DistFactory
) -> None:
    async with Worker(scheduler.address) as stranger, agent_here() as agent:
        dist = await dists()
        assert await dist.members() == frozenset()
        await dist.connect(agent.peer)
        await dist.disconnect(agent.peer)
        assert await dist.members() == frozenset()
        assert list(scheduler.workers) == [stranger.address]


async def test_an_agent_goes_back_to_idle_when_its_scheduler_retires_the_worker(
    scheduler: Scheduler, dists: DistFactory
) -> None:
    async with agent_here() as agent:
        dist = await dists()
        await dist.connect(agent.peer)
        await scheduler.retire_workers(list(scheduler.workers), close_workers=True)
        await until(lambda: agent.agent.state == "idle", "the agent is idle")
        assert await dist.members() == frozenset()
        async with scheduler_here() as other:
            theirs = await dists(scheduler=other)
            assert await theirs.connect(agent.peer), "another cannot attach it"
            await theirs.close()


async def test_losing_a_worker_is_hinted(scheduler: Scheduler, dists: DistFactory) -> None:
    async with agent_here() as agent:
        dist = await dists()
        await dist.connect(agent.peer)
        changed = asyncio.create_task(dist.changed())
        await agent.agent.close()
        await asyncio.wait_for(changed, 10)


async def test_one_agent_under_two_names_is_one_member(dists: DistFactory) -> None:
    async with agent_here() as agent:
        dist = await dists()
        other_name = Peer("localhost", agent.peer.port)
        assert await dist.connect(agent.peer)
        outcome = await dist.connect(other_name)
        assert outcome == Outcome.refused(f"is the same agent as {agent.peer}", agent.peer)
        assert await dist.members() == {agent.peer}


async def test_an_agent_of_another_pool_is_refused_and_not_counted(dists: DistFactory) -> None:
    async with agent_here() as agent:
        first, second = await dists(pool="first"), await dists(pool="second")
        assert await first.connect(agent.peer)
        outcome = await second.connect(agent.peer)
        assert (outcome.kind, outcome.reason) == ("refused", "is attached by the pool 'first'")
        assert await second.members() == frozenset()
        assert await first.members() == {agent.peer}


async def test_an_agent_held_by_another_scheduler_is_refused_and_says_by_whom(
    scheduler: Scheduler, dists: DistFactory
) -> None:
    async with scheduler_here() as second, agent_here() as agent:
        assert await (await dists()).connect(agent.peer)
        theirs = await dists(scheduler=second)
        outcome = await theirs.connect(agent.peer)
        assert outcome.kind == "refused"
        assert outcome.reason == f"held by scheduler {scheduler.id} at {scheduler.address}"
        assert (await theirs.disconnect(agent.peer)).kind == "refused"
        assert len(scheduler.workers) == 1


async def test_a_draining_agent_refuses(dists: DistFactory) -> None:
    async with agent_here() as agent:
        await agent.drain()
        assert await (await dists()).connect(agent.peer) == Outcome.refused(
            "is draining", expected=True, soon=True
        )


async def test_a_warming_agent_refuses(dists: DistFactory) -> None:
    warm = asyncio.Event()

    async def slowly() -> None:
        await warm.wait()

    warming = agent_here(warm=slowly)
    entering = asyncio.create_task(warming.__aenter__())
    dist = await dists()
    local = LocalDiscovery()
    (peer,) = await until(lambda: _found(local), "the agent is registered")
    assert await dist.connect(peer) == Outcome.refused("is warming up", expected=True, soon=True)
    warm.set()
    await entering
    assert await dist.connect(peer)
    await warming.__aexit__(None, None, None)


async def _found(discovery: LocalDiscovery) -> frozenset[Peer]:
    return (await discovery.peers()).peers


async def test_a_shared_cookie_attaches(dists: DistFactory, cookie_file: str) -> None:
    async with agent_here(cookie=COOKIE) as agent:
        assert await (await dists(PoolOptions(cookie_file=cookie_file))).connect(agent.peer)


async def test_a_missing_cookie_is_said(dists: DistFactory) -> None:
    async with agent_here(cookie=COOKIE) as agent:
        with pytest.raises(
            DistError, match=r"refuses this scheduler: no token.*no cookie is known"
        ):
            await (await dists()).connect(agent.peer)
        assert agent.agent.state == "idle"


async def test_a_wrong_cookie_is_said(dists: DistFactory, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("another secret that is long enough")
    async with agent_here(cookie=COOKIE) as agent:
        dist = await dists(PoolOptions(cookie_file=str(wrong)))
        with pytest.raises(DistError, match="signed with another cookie"):
            await dist.connect(agent.peer)
        assert agent.agent.state == "idle"


async def test_an_agent_without_a_cookie_takes_this_users_schedulers_only(
    dists: DistFactory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with agent_here() as agent:
        monkeypatch.setenv("GC_BOOTSTRAP_RUNTIME_DIR", str(tmp_path / "somebody else's"))
        with pytest.raises(DistError, match="no token"):
            await (await dists()).connect(agent.peer)


async def test_an_unreadable_cookie_file_is_a_configuration_error(scheduler: Scheduler) -> None:
    with pytest.raises(ConfigError, match=r"gc-bootstrap.cookie-file /nope: cannot be read"):
        DaskDist.for_scheduler(Owner(scheduler, options=PoolOptions(cookie_file="/nope")))


async def test_an_address_that_the_agent_cannot_reach_is_said(dists: DistFactory) -> None:
    nowhere = f"tcp://127.0.0.1:{free_port()}"
    async with agent_here() as agent:
        dist = await dists(PoolOptions(scheduler_address=nowhere))
        with pytest.raises(DistError, match=f"cannot reach the scheduler at {nowhere}"):
            await dist.connect(agent.peer)
        assert agent.agent.state == "idle"


async def test_the_configured_address_is_what_agents_dial(
    scheduler: Scheduler, dists: DistFactory
) -> None:
    port = scheduler.address.rpartition(":")[2]
    async with agent_here() as agent:
        dist = await dists(PoolOptions(scheduler_address=f"tcp://localhost:{port}"))
        assert await dist.connect(agent.peer)
        assert agent.agent.status().scheduler == f"tcp://localhost:{port}"


@pytest.mark.parametrize("other", [{"python": "3.9.1"}, {"distributed": "2020.1.0"}])
async def test_other_versions_are_refused(dists: DistFactory, other: dict[str, str]) -> None:
    async with agent_here() as agent:
        agent.agent.versions |= other
        outcome = await (await dists()).connect(agent.peer)
        assert outcome.kind == "refused"
        assert outcome.reason.startswith("incompatible versions: ")
        assert agent.agent.state == "idle"


async def test_other_versions_are_attached_and_logged_where_the_policy_is_to_warn(
    dists: DistFactory, caplog: pytest.LogCaptureFixture
) -> None:
    async with agent_here() as agent:
        agent.agent.versions["distributed"] = "2020.1.0"
        with caplog.at_level(logging.WARNING, "gc_bootstrap"):
            assert await (await dists(PoolOptions(versions="warn"))).connect(agent.peer)
        assert "distributed 2020.1.0 at the agent" in caplog.text


async def test_other_versions_are_not_looked_at_where_the_policy_is_to_ignore(
    dists: DistFactory, caplog: pytest.LogCaptureFixture
) -> None:
    async with agent_here() as agent:
        agent.agent.versions["distributed"] = "2020.1.0"
        with caplog.at_level(logging.WARNING, "gc_bootstrap"):
            assert await (await dists(PoolOptions(versions="ignore"))).connect(agent.peer)
        assert "2020.1.0" not in caplog.text


async def test_a_worker_that_does_not_start_is_said_with_the_reason(dists: DistFactory) -> None:
    bad = "def dask_setup(worker):\n    pass\n\nraise RuntimeError('no such luck')\n"
    async with agent_here() as agent:
        # As `--preload`, which Dask loads in the worker's constructor.
        (worker,) = agent.agent.options.workers
        assert isinstance(worker, dict)
        worker["preload"] = [bad]
        with pytest.raises(DistError, match=r"a worker does not start: RuntimeError: no such luck"):
            await (await dists()).connect(agent.peer)
        assert agent.agent.state == "idle"
        worker["preload"] = []
        assert await (await dists()).connect(agent.peer)


async def test_an_agent_that_was_restarted_on_its_port_is_attached_at_once(
    dists: DistFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    dist = await dists()
    async with agent_here() as first:
        assert await dist.connect(first.peer)
        await dist.disconnect(first.peer)
    monkeypatch.setattr(signing, "FRESH", -1.0)  # its cookie is remembered, and is not fresh
    async with agent_here(listen=str(first.peer)) as second:
        assert await dist.connect(second.peer)
