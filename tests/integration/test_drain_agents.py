"""Drains that an agent asks for, and what it does around them."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from dask.typing import Key
from distributed import wait
from distributed.diagnostics.plugin import SchedulerPlugin
from distributed.scheduler import TaskStateState

from gc_bootstrap.agent.listen import Listen
from gc_bootstrap.agent.run import AgentOptions, AgentServer
from gc_bootstrap.peer import Outcome
from gc_bootstrap.wire.messages import AttachRequest
from tests.integration.clusters import Cluster, Form, Ledger, results
from tests.integration.harness import agent_here, free_port, options_of, until


@asynccontextmanager
async def agent_by_name(cluster: Cluster) -> AsyncIterator[tuple[AgentServer, str]]:
    """An agent whose worker is announced by a host name, and the worker's contact address."""
    port = free_port()
    contact = f"tcp://localhost:{port}"
    workers = options_of(
        *("--no-nanny", "--listen-address", f"tcp://127.0.0.1:{port}"),
        *("--contact-address", contact),
    )
    options = AgentOptions(workers, Listen.parse("127.0.0.1:0"), insecure=True)
    async with AgentServer(options) as agent:
        cluster.agents.append(agent)
        yield agent, contact


@pytest.mark.parametrize("who", ["agent", "pool"])
async def test_a_worker_with_a_contact_address_by_name_is_attached_once_and_drained(
    form: Form, ledger: Ledger, caplog: pytest.LogCaptureFixture, who: str
) -> None:
    cluster = await form(1)
    with caplog.at_level(logging.INFO, "gc_bootstrap"):
        async with agent_by_name(cluster) as (agent, contact):
            assert await cluster.dist.connect(agent.peer) == Outcome.DONE
            assert await cluster.dist.connect(agent.peer) == Outcome.DONE
            assert await cluster.dist.members() == {a.peer for a in cluster.agents}
            assert agent.agent.attaches == 1
            assert "are none here" not in caplog.text
            assert cluster.address(1) == contact
            (there,) = set(cluster.scheduler.workers) - {cluster.address(0)}
            futures = await results(cluster, 10, workers=[there])
            await (agent.drain() if who == "agent" else cluster.drop(1))
            assert list(cluster.scheduler.workers) == [cluster.address(0)]
            assert await cluster.client.gather(futures) == list(range(10))
    assert set(ledger.runs.values()) == {1}


class Runs(SchedulerPlugin):
    """Counts how often each task has been computed, in whichever process."""

    def __init__(self) -> None:
        self.runs: Counter[Key] = Counter()

    def transition(
        self, key: Key, start: TaskStateState, finish: TaskStateState, *args: Any, **kwargs: Any
    ) -> None:
        self.runs[key] += (start, finish) == ("processing", "memory")


@pytest.mark.parametrize("who", ["agent", "pool"])
async def test_all_workers_of_an_agent_are_drained(form: Form, who: str) -> None:
    cluster = await form(1)
    executions = Runs()
    cluster.scheduler.add_plugin(executions)
    options = AgentOptions(
        options_of("--nworkers", "2"), Listen.parse("127.0.0.1:0"), insecure=True
    )
    async with AgentServer(options) as agent:
        cluster.agents.append(agent)
        assert await cluster.dist.connect(agent.peer) == Outcome.DONE
        theirs = list(agent.agent.status().workers)
        assert len(theirs) == 2
        futures = cluster.client.map(abs, range(20), pure=False, workers=theirs)
        await wait(futures)
        assert all(cluster.scheduler.workers[address].has_what for address in theirs)
        if who == "agent":
            await agent.drain()
        else:
            assert await cluster.drop(1) == Outcome.DONE
        assert list(cluster.scheduler.workers) == [cluster.address(0)]
        assert await cluster.client.gather(futures) == list(range(20))
    assert executions.runs == {future.key: 1 for future in futures}


@pytest.mark.parametrize("end", ["drain", "close"])
async def test_an_agent_ends_also_in_the_turn_in_which_its_workers_have_started(
    form: Form, end: str
) -> None:
    cluster = await form(1)
    async with agent_here(insecure=True) as agent:
        request = AttachRequest(cluster.scheduler.address, cluster.scheduler.id, str(agent.peer))
        attach = asyncio.create_task(agent.agent.attach(request))
        await asyncio.sleep(0)
        lease = agent.agent._lease
        assert lease is not None
        while lease._starting is None or not lease._starting.done():
            await asyncio.sleep(0)
        assert not lease.started.done(), "the turn is over"
        async with asyncio.timeout(20):
            # Not the server's, which does something else first.
            await (agent.agent.drain() if end == "drain" else agent.agent.close())
        await asyncio.gather(attach, return_exceptions=True)
        assert lease.task.done()
        assert agent.agent._lease is None

        def gone() -> bool:
            return list(cluster.scheduler.workers) == [cluster.address(0)]

        await until(gone, "the scheduler has forgotten its worker")
