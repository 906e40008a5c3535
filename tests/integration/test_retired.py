"""Workers that somebody retires by Dask's own means: their agent stays away from that scheduler."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest
from distributed import Client, Scheduler

from gc_bootstrap.peer import Outcome, Peer
from gc_bootstrap.wire.messages import RETIRED
from tests.integration.clusters import DistFactory
from tests.integration.harness import Processes, agent_here, scheduler_here, until

STAYS_AWAY = Outcome.refused(RETIRED, expected=True, soon=True)


@pytest.mark.timeout(120)
async def test_an_agent_whose_worker_was_retired_is_held_until_it_is_started_anew(
    processes: Processes,
) -> None:
    agents = await processes.agents(2)
    (peer, group), (other, _) = agents.items()
    scheduler = await processes.scheduler(agents, "--refresh-interval", "100ms")
    workers = await scheduler.formed(agents)
    async with Client(scheduler.address, asynchronous=True) as client:
        futures = client.map(abs, range(20), pure=False)
        assert await client.gather(futures) == list(range(20))
        assert await client.retire_workers(workers[str(peer)])

        async def held() -> str:
            status = await scheduler.status()
            assert list(status["members"]) == [str(other)]
            found: str = status["held"].get(str(peer), "")
            return found if RETIRED in found else ""

        await until(held, "it is held")
        before = await scheduler.status()

        async def looked_often() -> bool:
            status = await scheduler.status()
            assert list(status["members"]) == [str(other)]
            return bool(status["refreshes"] >= before["refreshes"] + 10)

        await until(looked_often, "the pool has looked some more times")
        assert (await scheduler.status())["counters"]["attach-failures"] == 0
        assert f"{RETIRED}; asked again in " in await until(held, "it is held")
        await group.stop()
        await processes.agents([peer])
        await scheduler.formed(agents)
        assert await client.gather(futures) == list(range(20))


@pytest.mark.parametrize("remove", [True, False])
async def test_retired_in_whichever_way_it_stays_away_under_each_name(
    scheduler: Scheduler, dists: DistFactory, stack: AsyncExitStack, remove: bool
) -> None:
    agent = await stack.enter_async_context(agent_here(insecure=True))
    dist, other = await dists(), Peer("localhost", agent.peer.port)
    assert await dist.connect(agent.peer) == Outcome.DONE
    assert (await dist.connect(other)).same_as == agent.peer
    await scheduler.retire_workers(list(scheduler.workers), close_workers=True, remove=remove)
    await until(lambda: agent.agent.state == "idle", "its worker has ended")
    await until(lambda: not scheduler.workers, "the scheduler knows")
    assert await dist.connect(agent.peer) == STAYS_AWAY
    assert await dist.connect(other) == STAYS_AWAY
    assert agent.agent.refusals.counts == {"retired": 2}
    # Another scheduler may have it, and so may this one when the agent has been started anew.
    async with scheduler_here() as standby:
        theirs = await dists(scheduler=standby)
        assert await theirs.connect(agent.peer) == Outcome.DONE
        assert await theirs.disconnect(agent.peer) == Outcome.DONE
        await theirs.close()
    assert await dist.connect(agent.peer) == STAYS_AWAY
    port = agent.peer.port
    await agent.close()
    again = await stack.enter_async_context(agent_here(insecure=True, listen=f"127.0.0.1:{port}"))
    assert await dist.connect(again.peer) == Outcome.DONE


async def test_a_retirement_that_is_given_up_holds_nobody(
    scheduler: Scheduler, dists: DistFactory, stack: AsyncExitStack
) -> None:
    agent = await stack.enter_async_context(agent_here(insecure=True))
    dist = await dists()
    assert await dist.connect(agent.peer) == Outcome.DONE
    client = await Client(scheduler.address, asynchronous=True)
    stack.push_async_callback(client.close)
    await client.scatter([1, 2, 3])
    assert await scheduler.retire_workers(list(scheduler.workers)) == {}
    assert len(scheduler.workers) == 1
    assert await dist.disconnect(agent.peer)
    assert await dist.connect(agent.peer) == Outcome.DONE
