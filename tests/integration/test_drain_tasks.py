"""What becomes of the tasks of a worker that drains, and how long they have."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import Any

import pytest

from gc_bootstrap.agent import lease as agent_lease
from gc_bootstrap.peer import Outcome
from gc_bootstrap.scheduler.drains import Drainer
from gc_bootstrap.scheduler.handback import AT_ONCE
from gc_bootstrap.wire.tag import Tag
from tests.integration.clusters import (
    Cluster,
    Form,
    Hands,
    Ledger,
    cancelled,
    draining,
    form_by,
    looks_on,
    results,
    run,
    running,
)
from tests.integration.harness import until


def has_reported(cluster: Cluster, number: int) -> bool:
    drain = Drainer.of(cluster.scheduler)._drains[cluster.address(number)]
    return drain.duty.begun is not None


async def test_a_task_that_is_stolen_for_a_draining_worker_goes_elsewhere_at_once(
    form: Form, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = await form(2)
    thief = await running(cluster, ledger, 1, "thief")
    victim = await running(cluster, ledger, 0, "victim")
    stolen = cluster.client.submit(
        run, "stolen", workers=[cluster.address(0)], allow_other_workers=True, pure=False
    )
    await until(lambda: len(cluster.state(0).processing) == 2, "it waits")
    answers: list[dict[str, Any]] = []
    handlers = cluster.scheduler.stream_handlers
    confirm = handlers["steal-response"]
    monkeypatch.setitem(handlers, "steal-response", lambda **answer: answers.append(answer))
    ts = cluster.scheduler.tasks[stolen.key]
    stealing = cluster.scheduler.extensions["stealing"]
    stealing.move_task_request(ts, cluster.state(0), cluster.state(1))
    await until(lambda: answers, "the victim gives it up")
    drop = await draining(cluster, 1)
    await until(lambda: has_reported(cluster, 1), "the thief has said what it runs")
    await looks_on(cluster, 1)  # and what it has not begun has been handed back
    (answer,) = answers
    confirm(**answer)
    assert ts.processing_on is cluster.state(1)
    await until(lambda: ts.processing_on is cluster.state(0), "it is handed back")
    assert not drop.done()
    ledger.open.set()
    assert await drop == Outcome.DONE
    assert await cluster.client.gather([thief, victim, stolen]) == ["thief", "victim", "stolen"]
    assert set(ledger.runs.values()) == {1}


@pytest.mark.parametrize("why", ["restricted", "last"])
async def test_a_task_that_can_run_nowhere_else_gets_the_whole_time(
    form: Form, ledger: Ledger, hands: Hands, caplog: pytest.LogCaptureFixture, why: str
) -> None:
    cluster = await form_by(form, hands, 2 if why == "restricted" else 1)
    await cluster.client.amm.stop()  # which would ask for its result by chance
    future = await running(cluster, ledger, 0, only_there=why == "restricted")
    with caplog.at_level(logging.INFO, "gc_bootstrap.scheduler"):
        drop = await draining(cluster, 0)
        hands.now = 59.0
        await until(lambda: "its data moves" in caplog.text, "the tasks' share is over")
        await looks_on(cluster, 0)
        assert [ts.key for ts in cluster.state(0).processing] == [future.key]
        if why == "last":
            await form.add(cluster)
            await until(lambda: ledger.entered.acquire(blocking=False), "it starts again there")
        ledger.open.set()
        outcome = await drop
    if why == "restricted":
        assert outcome == Outcome.DONE
        assert "start again" not in caplog.text
        assert ledger.runs == {"held": 1}
    assert await future == "held"


async def test_a_task_that_can_run_nowhere_else_is_given_up_when_the_time_is_over(
    form: Form, ledger: Ledger, hands: Hands
) -> None:
    cluster = await form_by(form, hands, 2)
    future = await running(cluster, ledger, 0, only_there=True)
    drop = await draining(cluster, 0)
    hands.now = 59.9
    await looks_on(cluster, 0)
    assert not drop.done()
    hands.now = 60.1
    await until(lambda: len(cluster.scheduler.workers) == 1, "the worker is given up")
    ledger.open.set()
    assert "lost 1 tasks that no other worker can run, which wait for one" in (await drop).reason
    assert future.status == "pending"


async def test_a_caller_that_leaves_takes_its_deadline_along(
    form: Form, ledger: Ledger, hands: Hands
) -> None:
    cluster = await form_by(form, hands, 2)
    future = await running(cluster, ledger, 0)
    peer = cluster.agents[0].peer
    drainer = Drainer.of(cluster.scheduler)
    drop = await draining(cluster, 0)
    assert drainer.progress(peer, "default").endswith(", 60 s left")
    short = asyncio.create_task(drainer.drain_peer(peer, "default", drainer.within(2.0)))
    await until(lambda: drainer.progress(peer, "default").endswith(", 2 s left"), "it has joined")
    await cancelled(short)
    assert drainer.progress(peer, "default").endswith(", 60 s left")
    hands.now = 20.0
    await looks_on(cluster, 0)
    assert not drop.done()
    assert [ts.key for ts in cluster.state(0).processing] == [future.key]
    ledger.open.set()
    assert await drop == Outcome.DONE
    assert await future == "held"
    assert ledger.runs == {"held": 1}


async def test_a_caller_that_stays_has_its_earlier_deadline_kept(
    form: Form, ledger: Ledger, hands: Hands
) -> None:
    cluster = await form_by(form, hands, 2)
    future = await running(cluster, ledger, 0)
    drop = await draining(cluster, 0)
    peer = cluster.agents[0].peer
    drainer = Drainer.of(cluster.scheduler)
    short = asyncio.create_task(drainer.drain_peer(peer, "default", drainer.within(2.0)))
    await until(lambda: drainer.progress(peer, "default").endswith(", 2 s left"), "it has joined")
    hands.now = 1.5
    await until(lambda: ledger.entered.acquire(blocking=False), "the task starts again elsewhere")
    ledger.open.set()
    assert list(map(str, (await short).values())) == ["1 running tasks, which start again (0 B)"]
    assert "lost 1 running tasks" in (await drop).reason
    assert await future == "held"


async def test_a_worker_that_cannot_report_has_time_for_what_it_runs(
    form: Form, ledger: Ledger, hands: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As an agent of an older release tags its workers.
    monkeypatch.setattr(agent_lease, "Tag", partial(Tag, reports=False))
    cluster = await form_by(form, hands, 2)
    assert cluster.state(0).extra["gc_bootstrap"]["reports"] is False
    held = await running(cluster, ledger, 0)
    futures = await results(cluster, 5, workers=[cluster.address(1)])
    drop = await draining(cluster, 0)
    hands.now = 29.0
    await looks_on(cluster, 0)
    assert not drop.done()
    assert not has_reported(cluster, 0)
    assert [ts.key for ts in cluster.state(0).processing] == [held.key]
    ledger.open.set()
    assert await drop == Outcome.DONE
    assert await cluster.client.gather([held, *futures]) == ["held", *range(5)]
    assert set(ledger.runs.values()) == {1}


async def test_thousands_of_tasks_are_handed_back_in_slices(
    form: Form, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 2_000
    cluster = await form(1)
    held = await running(cluster, ledger, 0)
    waiting = cluster.client.map(
        run, range(count), pure=False, workers=[cluster.address(0)], allow_other_workers=True
    )
    await until(lambda: len(cluster.state(0).processing) == count + 1, "the tasks wait")
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    slices: list[tuple[int, int]] = []
    transitions = cluster.scheduler.transitions

    def recorded(recommendations: dict[Any, Any], stimulus_id: str) -> None:
        if stimulus_id.startswith("gc_bootstrap-drain-"):
            slices.append((turns, len(recommendations)))
        transitions(recommendations, stimulus_id)

    monkeypatch.setattr(cluster.scheduler, "transitions", recorded)
    counting = asyncio.create_task(count_turns())
    drop = await draining(cluster, 0)
    await until(lambda: len(cluster.state(0).processing) == 1, "they are handed back")
    await cancelled(counting)
    sizes = [size for _, size in slices]
    assert sum(sizes) == count
    assert max(sizes) <= AT_ONCE
    assert len(sizes) == count / AT_ONCE
    assert len({turn for turn, _ in slices}) == len(slices), "two in one turn of the loop"
    await cancelled(drop)
    for future in waiting:
        future.release()
    ledger.open.set()
    assert await held == "held"
