"""What came of a pool's plans: the one writer of its history, and of its counters and log lines."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from collections.abc import Set as AbstractSet

from gc_bootstrap.config import PoolOptions
from gc_bootstrap.peer import Outcome, Peer, Snapshot
from gc_bootstrap.pool import history as histories
from gc_bootstrap.pool.history import History, Hold
from gc_bootstrap.pool.plan import Plan

logger = logging.getLogger(__name__)

COUNTERS = (
    "attaches",
    "attach-failures",
    "drops",
    "drops-with-loss",
    "drops-cancelled",
    "drop-failures",
    "panics",
)
"""What :attr:`Record.counters` counts."""


class Record:
    """Folds into the history what a pool has seen and what has come of its connects and drops.

    Parameters
    ----------
    name
        The pool's, for logs.
    options
        The pool's: backoff.
    on_failure
        Called with the time at which a peer that could not be connected, or let go, may be tried
        again.
    clock
        Monotonic seconds.
    random
        Uniform in [0, 1).

    Attributes
    ----------
    counters
        How often what has happened, for metrics.
    """

    def __init__(
        self,
        name: str,
        options: PoolOptions,
        on_failure: Callable[[float], None],
        clock: Callable[[], float],
        random: Callable[[], float],
    ) -> None:
        self.counters = dict.fromkeys(COUNTERS, 0)
        self._history = History()
        self._name = name
        self._options = options
        self._on_failure = on_failure
        self._clock = clock
        self._random = random

    @property
    def history(self) -> History:
        """All that is remembered, for the next plan."""
        return self._history

    def looked(self, snapshot: Snapshot, members: AbstractSet[Peer]) -> None:
        """Take in one look."""
        self._history = histories.observe(self._history, snapshot, members, self._clock())

    def connected(self, peer: Peer, outcome: Outcome, began: float) -> None:
        """Take in what has become of a connect, and when it began."""
        before, now = self._history.attempts.get(peer), self._clock()
        self._history = histories.attempted(
            self._history, peer, outcome, self._options.reconnect, now, self._random()
        )
        if outcome:
            self.counters["attaches"] += 1
            logger.info("Pool %s: attached %s in %.3f s", self._name, peer, now - began)
            return
        self.counters["attach-failures"] += not outcome.expected
        self._failed("attached", peer, outcome, before, self._history.attempts[peer])

    def disconnected(self, peer: Peer, outcome: Outcome, began: float) -> None:
        """Take in what has become of a drop, and when it began."""
        before, now = self._history.departures.get(peer), self._clock()
        self._history = histories.departed(
            self._history, peer, outcome, self._options.reconnect, now, self._random()
        )
        if outcome:
            self.counters["drops"] += 1
            self.counters["drops-with-loss"] += bool(outcome.reason)
            level = logging.WARNING if outcome.reason else logging.INFO
            text = f": {outcome.reason}" if outcome.reason else ""
            logger.log(
                level, "Pool %s: dropped %s in %.3f s%s", self._name, peer, now - began, text
            )
            return
        self.counters["drop-failures"] += 1
        self._failed("dropped", peer, outcome, before, self._history.departures[peer])

    def cancelled(self, peer: Peer) -> None:
        """Take in that a drop is cancelled."""
        self.counters["drops-cancelled"] += 1
        logger.info("Pool %s: the drop of %s is cancelled", self._name, peer)

    def planned(self, last: Plan, plan: Plan) -> None:
        """Take in a plan, and what it and the last one warn of."""
        untried = [peer for peer in plan.connect if peer not in plan.retries]
        self._history = histories.planned(self._history, untried, self._clock())
        before, warning = last.warning, plan.warning
        if warning and not before:
            self.counters["panics"] += 1
        if warning and warning != before:
            logger.warning("Pool %s: %s", self._name, warning)
        elif before and not warning:
            logger.info("Pool %s: over: %s", self._name, before)

    def _failed(
        self, what: str, peer: Peer, outcome: Outcome, before: Hold | None, hold: Hold
    ) -> None:
        """Say a failure once, and what is normal not as trouble."""
        if before is not None and before.reason == outcome.reason:
            level = logging.DEBUG
        else:
            level = logging.INFO if outcome.expected else logging.WARNING
        left = hold.until - self._clock()
        retry = "" if hold.until == math.inf else f"; next try in {left:.1f} s"
        logger.log(level, "Pool %s: %s not %s: %s%s", self._name, peer, what, hold.reason, retry)
        self._on_failure(hold.until)
