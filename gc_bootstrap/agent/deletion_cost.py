"""Has Kubernetes take idle agents first where it scales a ReplicaSet down.

The ReplicaSet controller deletes pods of a lower cost first (on by default since Kubernetes 1.22,
as a beta; https://kubernetes.io/docs/concepts/workloads/controllers/replicaset/#pod-deletion-cost).
The agent annotates its own pod with the one cost while it is idle, and with the other one while a
scheduler holds it. That page warns of updating the annotation frequently: each time is an update of
the pod. So the agent waits a moment, in which what changes back costs nothing, and then some time
before it says another one.

It is a hint: nothing waits for it, and no failure of it is one of the agent's.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from gc_bootstrap.agent.state import Life, State
from gc_bootstrap.errors import ConfigError, GcBootstrapError, one_line

logger = logging.getLogger(__name__)

ANNOTATION = "controller.kubernetes.io/pod-deletion-cost"
IDLE_COST, HELD_COST = -100, 100
"""Beside pods without the annotation, which count as 0: whether those are idle nobody knows."""
SETTLE = 1.0, 5.0
"""Seconds from a change to when it is told, at random: a scheduler attaches many agents at once."""
INTERVAL = 15.0
"""Seconds between two updates of the pod, at least. A HorizontalPodAutoscaler looks as often."""
LONGEST_INTERVAL = 300.0
"""Seconds, at most, after failures: each doubles the interval."""
NAME_VARIABLE, NAMESPACE_VARIABLE = "POD_NAME", "POD_NAMESPACE"

_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?\Z")
_RANDOM = random.SystemRandom()

COSTS: Mapping[State, int] = {
    State.IDLE: IDLE_COST,
    State.ATTACHING: HELD_COST,
    State.ATTACHED: HELD_COST,
    State.DRAINING: HELD_COST,
    State.ENDING: HELD_COST,
}
"""What the pod costs. In all other states there is nothing to say: a pod that is not ready goes
first of all, and one that leaves is being deleted."""


@dataclass(frozen=True, slots=True)
class Pod:
    """The name of a pod."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.name} in namespace {self.namespace}"

    @classmethod
    def find(cls, environ: Mapping[str, str], option: str) -> Pod:
        """The agent's own, from the variables that the downward API sets.

        Raises
        ------
        ConfigError
            A variable is missing, or is no name.
        """
        found, problems = [], []
        for variable, field in ((NAMESPACE_VARIABLE, "namespace"), (NAME_VARIABLE, "name")):
            value = environ.get(variable, "")
            found.append(value)
            if not _NAME.match(value):
                is_what = f"is {value!r}, which is no {field} of a pod" if value else "is not set"
                problems.append(
                    f"{option}: {variable} {is_what}; expected an environment variable"
                    f" valueFrom: {{fieldRef: {{fieldPath: metadata.{field}}}}}"
                )
        if problems:
            raise ConfigError(problems)
        return cls(*found)


class Annotator(Protocol):
    """What puts annotations on a pod: :class:`.own_pod.OwnPod`, but for tests."""

    async def annotate(self, annotations: dict[str, str]) -> None:
        """Put them; raises a GcBootstrapError."""

    async def close(self) -> None:
        """Close what was opened."""


class DeletionCost:
    """Keeps the cost of the agent's pod, from :meth:`start` to :meth:`close`.

    Parameters
    ----------
    life
        Whose state counts.
    pod
        The pod.
    connect
        Makes what annotates it; called in a thread.
    sleep
        Waits for so many seconds.
    """

    def __init__(
        self,
        life: Life,
        pod: Pod,
        connect: Callable[[Pod], Annotator] | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._life = life
        self._pod = pod
        self._connect = connect or _connect
        self._sleep = sleep
        self._changed = asyncio.Event()
        self._api: Annotator | None = None
        self._task: asyncio.Task[None] | None = None
        self._said: int | None = None
        self._failures = 0

    def start(self) -> None:
        """Begin, in a task of its own."""
        self._life.on_change(self._changed.set)
        self._task = asyncio.create_task(self._keep(), name="pod-deletion-cost")

    async def close(self) -> None:
        """End. May be called more than once."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        api, self._api = self._api, None
        if api is not None:
            await api.close()

    def _due(self) -> int | None:
        """The cost to tell; None where there is none."""
        cost = COSTS.get(self._life.state)
        return None if cost == self._said else cost

    async def _keep(self) -> None:
        while True:
            self._changed.clear()
            if self._due() is None:
                await self._changed.wait()
                continue
            await self._sleep(_RANDOM.uniform(*SETTLE))
            cost = self._due()
            if cost is not None:
                await self._tell(cost)
                await self._sleep(self._interval())

    def _interval(self) -> float:
        longest: float = min(INTERVAL * 2.0 ** min(self._failures, 30), LONGEST_INTERVAL)
        return longest * _RANDOM.uniform(1.0, 1.2)

    async def _tell(self, cost: int) -> None:
        self._said = None  # whether a failure has changed the pod is not known
        try:
            if self._api is None:
                self._api = await asyncio.to_thread(self._connect, self._pod)
            await self._api.annotate({ANNOTATION: str(cost)})
        except Exception as exc:  # the client library may raise anything; the agent works without
            self._failed(exc)
            return
        if self._failures:
            logger.info("The deletion cost of pod %s is kept again", self._pod)
        self._failures = 0
        self._said = cost

    def _failed(self, exc: Exception) -> None:
        # Once: it is tried again for as long as the agent runs.
        level = logging.DEBUG if self._failures else logging.WARNING
        self._failures += 1
        unexpected = None if isinstance(exc, GcBootstrapError) else exc
        logger.log(
            level,
            "The deletion cost of pod %s cannot be kept: a scale-down may take the agent while"
            " others are idle; it is tried again: %s",
            self._pod,
            one_line(exc),
            exc_info=unexpected,
        )


def _connect(pod: Pod) -> Annotator:
    from gc_bootstrap.agent.own_pod import OwnPod

    return OwnPod(pod)
