"""The deletion cost of an agent's pod: what it is, and when it is told; nothing depends on it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from gc_bootstrap.agent.deletion_cost import (
    ANNOTATION,
    COSTS,
    HELD_COST,
    IDLE_COST,
    INTERVAL,
    LONGEST_INTERVAL,
    SETTLE,
    Annotator,
    DeletionCost,
    Pod,
)
from gc_bootstrap.agent.state import Event, Life, State
from gc_bootstrap.discovery.kubernetes.api import ApiError
from gc_bootstrap.errors import ConfigError, DiscoveryError
from tests.kube import NAMESPACE
from tests.unit.helpers import eventually

POD = Pod(NAMESPACE, "dask-default-5f4954c6b5-kzcwl")
ATTACH = (Event.ATTACH, Event.STARTED)
DETACH = (Event.DRAIN, Event.END, Event.OVER)


class Clock:
    """Sleeps that end when the test says so; how long each would have been."""

    def __init__(self) -> None:
        self.asked: list[float] = []
        self._sleeping: asyncio.Future[None] | None = None

    async def sleep(self, seconds: float) -> None:
        self.asked.append(seconds)
        self._sleeping = asyncio.get_running_loop().create_future()
        await self._sleeping

    async def pass_by(self) -> float:
        """Wait until something sleeps, and let it go on; how long it wanted to sleep."""
        await eventually(lambda: self._sleeping is not None)
        sleeping, self._sleeping = self._sleeping, None
        assert sleeping is not None
        sleeping.set_result(None)
        return self.asked[-1]


class FakePod:
    """Remembers the costs that it is given, and refuses while it is told to."""

    def __init__(self) -> None:
        self.costs: list[int] = []
        self.refuses: Exception | None = None
        self.tries = 0
        self.closed = 0

    async def annotate(self, annotations: dict[str, str]) -> None:
        self.tries += 1
        if self.refuses is not None:
            raise self.refuses
        ((key, cost),) = annotations.items()
        assert key == ANNOTATION
        self.costs.append(int(cost))

    async def close(self) -> None:
        self.closed += 1


@asynccontextmanager
async def keeping(
    life: Life, connect: Callable[[Pod], Annotator], clock: Clock
) -> AsyncIterator[None]:
    cost = DeletionCost(life, POD, connect, clock.sleep)
    cost.start()
    try:
        yield
    finally:
        await cost.close()
        await cost.close()


@pytest.fixture
def fake() -> FakePod:
    return FakePod()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def life() -> Life:
    life = Life()
    life.tell(Event.WARMED)
    return life


@pytest.fixture
async def kept(life: Life, fake: FakePod, clock: Clock) -> AsyncIterator[None]:
    async with keeping(life, lambda _: fake, clock):
        yield
    assert fake.closed <= 1


def tell(life: Life, *events: Event) -> None:
    for event in events:
        life.tell(event)


# -- what it is ------------------------------------------------------------------------------------


def test_an_idle_agent_costs_less_than_a_pod_that_says_nothing_and_that_less_than_a_held_one() -> (
    None
):
    assert COSTS[State.IDLE] == IDLE_COST < 0 < HELD_COST
    assert {COSTS[state] for state in COSTS.keys() - {State.IDLE}} == {HELD_COST}
    silent = {State.WARMING, State.LEAVING, State.CLOSING, State.ENDED}
    assert silent == set(State) - COSTS.keys()


# -- when it is told -------------------------------------------------------------------------------


@pytest.mark.usefixtures("kept")
async def test_it_follows_the_agent_from_idle_to_attached_and_back(
    life: Life, fake: FakePod, clock: Clock
) -> None:
    async def told(costs: list[int]) -> None:
        least, most = SETTLE
        assert least <= await clock.pass_by() <= most
        await eventually(lambda: fake.costs == costs)
        assert await clock.pass_by() >= INTERVAL

    await told([IDLE_COST])
    tell(life, *ATTACH)
    await told([IDLE_COST, HELD_COST])
    tell(life, *DETACH)
    await told([IDLE_COST, HELD_COST, IDLE_COST])


@pytest.mark.usefixtures("kept")
async def test_a_burst_of_attaches_and_detaches_is_one_update_or_none(
    life: Life, fake: FakePod, clock: Clock
) -> None:
    await clock.pass_by()
    await eventually(lambda: fake.costs == [IDLE_COST])
    # While the pod has just been updated ...
    for _ in range(100):
        tell(life, *ATTACH, *DETACH)
    await clock.pass_by()
    tell(life, *ATTACH)  # ... and while a change settles.
    await eventually(lambda: len(clock.asked) == 3)
    for _ in range(100):
        tell(life, *DETACH, *ATTACH)
    await clock.pass_by()
    await eventually(lambda: fake.costs == [IDLE_COST, HELD_COST])
    await clock.pass_by()
    tell(life, *DETACH)
    await eventually(lambda: len(clock.asked) == 5)
    tell(life, *ATTACH)
    await clock.pass_by()
    tell(life, *DETACH)
    await clock.pass_by()
    await eventually(lambda: len(fake.costs) == 3)
    assert fake.costs == [IDLE_COST, HELD_COST, IDLE_COST]


@pytest.mark.usefixtures("kept")
async def test_an_agent_that_leaves_says_nothing_more(
    life: Life, fake: FakePod, clock: Clock
) -> None:
    await eventually(lambda: clock.asked)
    tell(life, Event.LEAVE)
    await clock.pass_by()
    for _ in range(10):
        await asyncio.sleep(0)
    assert (fake.tries, len(clock.asked)) == (0, 1)


async def test_an_agent_that_warms_up_has_nothing_to_say_yet(fake: FakePod, clock: Clock) -> None:
    life = Life()
    async with keeping(life, lambda _: fake, clock):
        for _ in range(10):
            await asyncio.sleep(0)
        assert clock.asked == []
        tell(life, Event.WARMED)
        await clock.pass_by()
        await eventually(lambda: fake.costs == [IDLE_COST])


# -- when it cannot be told ------------------------------------------------------------------------


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


@pytest.mark.usefixtures("kept")
async def test_a_refusal_is_one_warning_and_is_tried_again_ever_more_rarely(
    life: Life, fake: FakePod, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    fake.refuses = ApiError("patch: 403 Forbidden")
    waits = []
    for tries in range(1, 9):
        await clock.pass_by()
        await eventually(lambda tries=tries: fake.tries == tries)  # type: ignore[misc]
        waits.append(await clock.pass_by())
        tell(life, *(DETACH if tries % 2 == 0 else ATTACH))
    for n, seconds in enumerate(waits, 1):
        base = min(INTERVAL * 2**n, LONGEST_INTERVAL)
        assert base <= seconds <= 1.2 * base
    (warning,) = warnings(caplog)
    assert str(POD) in warning
    assert "403 Forbidden" in warning
    assert "\n" not in warning
    fake.refuses = None
    await clock.pass_by()
    await eventually(lambda: fake.costs == [IDLE_COST])
    assert f"The deletion cost of pod {POD} is kept again" in caplog.messages
    assert INTERVAL <= await clock.pass_by() <= 1.2 * INTERVAL
    fake.refuses = ApiError("not reachable")
    tell(life, *ATTACH)
    await clock.pass_by()
    await eventually(lambda: len(warnings(caplog)) == 2)


@pytest.mark.usefixtures("kept")
async def test_what_has_failed_is_told_again_though_it_is_as_before(
    life: Life, fake: FakePod, clock: Clock
) -> None:
    """A patch that was not answered may have been done."""
    await clock.pass_by()
    await eventually(lambda: fake.costs == [IDLE_COST])
    await clock.pass_by()
    fake.refuses = ApiError("no answer")
    tell(life, *ATTACH)
    await clock.pass_by()
    await eventually(lambda: fake.tries == 2)
    fake.refuses = None
    tell(life, *DETACH)
    await clock.pass_by()
    await clock.pass_by()
    await eventually(lambda: fake.costs == [IDLE_COST, IDLE_COST])


async def test_no_credentials_are_a_warning_and_whatever_is_raised_ends_nothing(
    life: Life, fake: FakePod, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    problems: list[Exception] = [RuntimeError("no\nclient"), DiscoveryError("no credentials")]

    def connect(_: Pod) -> Annotator:
        if problems:
            raise problems.pop()
        return fake

    async with keeping(life, connect, clock):
        while not fake.costs:
            await clock.pass_by()
    assert fake.costs == [IDLE_COST]
    (warning,) = warnings(caplog)
    assert warning.endswith("no credentials")


async def test_the_client_is_made_off_the_event_loop(
    life: Life, fake: FakePod, clock: Clock
) -> None:
    loop = asyncio.get_running_loop()
    made = asyncio.Event()

    def connect(_: Pod) -> Annotator:
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()
        loop.call_soon_threadsafe(made.set)
        return fake

    async with keeping(life, connect, clock):
        await clock.pass_by()
        await made.wait()
        await eventually(lambda: fake.costs == [IDLE_COST])


async def test_it_is_closed_in_the_middle_of_a_patch(life: Life, clock: Clock) -> None:
    class Slow(FakePod):
        async def annotate(self, annotations: dict[str, str]) -> None:
            self.tries += 1
            await asyncio.Event().wait()

    slow = Slow()
    async with keeping(life, lambda _: slow, clock):
        await clock.pass_by()
        await eventually(lambda: slow.tries == 1)
    assert slow.closed == 1


# -- the pod's name --------------------------------------------------------------------------------


def test_the_pods_name_is_that_of_the_downward_api() -> None:
    environ = {"POD_NAMESPACE": "prod", "POD_NAME": "dask-0"}
    assert Pod.find(environ, "--pod-deletion-cost") == Pod("prod", "dask-0")


@pytest.mark.parametrize(
    ("environ", "problems"),
    [
        (
            {},
            [
                (
                    "--pod-deletion-cost: POD_NAMESPACE is not set; expected an environment"
                    " variable valueFrom: {fieldRef: {fieldPath: metadata.namespace}}"
                ),
                (
                    "--pod-deletion-cost: POD_NAME is not set; expected an environment variable"
                    " valueFrom: {fieldRef: {fieldPath: metadata.name}}"
                ),
            ],
        ),
        (
            {"POD_NAMESPACE": "prod", "POD_NAME": "../../secrets"},
            [
                (
                    "--pod-deletion-cost: POD_NAME is '../../secrets', which is no name of a pod;"
                    " expected an environment variable"
                    " valueFrom: {fieldRef: {fieldPath: metadata.name}}"
                )
            ],
        ),
    ],
)
def test_what_is_no_name_is_said(environ: dict[str, str], problems: list[str]) -> None:
    with pytest.raises(ConfigError) as refused:
        Pod.find(environ, "--pod-deletion-cost")
    assert list(refused.value.problems) == problems
