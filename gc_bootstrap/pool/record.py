"""What came of a pool's plans: the one writer of its history, and of its counters and log lines."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace

from gc_bootstrap.config import PoolOptions
from gc_bootstrap.peer import Outcome, Peer, Snapshot
from gc_bootstrap.pool import history as histories
from gc_bootstrap.pool import shared
from gc_bootstrap.pool.history import History, Hold
from gc_bootstrap.pool.plan import Plan
from gc_bootstrap.stake import Claim, Survey

logger = logging.getLogger(__name__)

COUNTERS = (
    "attaches",
    "attach-failures",
    "drops",
    "drops-with-loss",
    "drops-cancelled",
    "drop-failures",
    "panics",
    "releases",
    "releases-called-off",
    "gives",
    "claims",
)
"""What :attr:`Record.counters` counts."""

JUST = 1.0
"""Seconds after which a peer that refuses may have been taken since it said that it is free."""


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
        # The last failure of each peer, which has been said. Its backoff may be forgotten before.
        self._said: dict[tuple[str, Peer], str] = {}

    @property
    def history(self) -> History:
        """All that is remembered, for the next plan."""
        return self._history

    def looked(self, snapshot: Snapshot, members: AbstractSet[Peer]) -> None:
        """Take in one look."""
        history = histories.observe(self._history, snapshot, members, self._clock())
        self._history = history
        known = (snapshot.peers, members, history.attempts, history.surveys)
        self._said = {
            (what, peer): reason
            for (what, peer), reason in self._said.items()
            if any(peer in some for some in known)
        }

    def freed(self, peers: AbstractSet[Peer]) -> None:
        """Take in that peers have said they are free."""
        if peers:
            logger.debug("Pool %s: free: %s", self._name, ", ".join(map(str, sorted(peers))))
            self._history = shared.freed(self._history, peers, self._clock())

    def asked(self, count: int) -> None:
        """Take in that so many peers are asked again, for whom nobody waits."""
        if count:
            self._history = shared.asked(self._history, count, self._clock())

    def surveyed(self, peer: Peer, survey: Survey | Outcome) -> None:
        """Take in what a peer has said of itself, or why it cannot be had."""
        now = self._clock()
        if isinstance(survey, Survey):
            self._history = shared.surveyed(self._history, peer, survey, now)
            return
        self._history = histories.attempted(
            shared.doubted(self._history, peer),
            peer,
            survey,
            self._options.reconnect,
            now,
            self._random(),
        )
        self._failed("attached", peer, survey, self._history.attempts[peer])

    def claiming(self, peer: Peer) -> None:
        """Take in that a peer's holder is told that it is wanted."""
        self.counters["claims"] += 1
        known = self._history.surveys.get(peer)
        if known is not None and known.survey.holder is not None:
            name = known.survey.holder.scheduler_id
            self._history = shared.claimed(self._history, name, self._clock())

    def connected(self, peer: Peer, outcome: Outcome, began: float) -> None:
        """Take in what has become of a connect or a claim, and when it began."""
        now = self._clock()
        known = self._history.surveys.get(peer)
        if known is not None and outcome.holder is not None:
            # Normal where schedulers share: it is asked again when it is free, or needed.
            survey = replace(known.survey, holder=outcome.holder)
            self._history = shared.surveyed(self._history, peer, survey, now)
            logger.debug("Pool %s: %s not attached: %s", self._name, peer, outcome.reason)
            return
        if known is not None and outcome.soon and began - known.at > JUST:
            # It was free when it was asked, and somebody was faster.
            self._history = shared.doubted(self._history, peer)
            logger.debug("Pool %s: %s not attached: %s", self._name, peer, outcome.reason)
            return
        if not outcome:
            self._history = shared.doubted(self._history, peer)
        self._history = histories.attempted(
            self._history, peer, outcome, self._options.reconnect, now, self._random()
        )
        if outcome:
            self._said.pop(("attached", peer), None)
            self.counters["attaches"] += 1
            logger.info("Pool %s: attached %s in %.3f s", self._name, peer, now - began)
            return
        self.counters["attach-failures"] += not outcome.expected
        self._failed("attached", peer, outcome, self._history.attempts[peer])

    def disconnected(self, peer: Peer, outcome: Outcome, began: float) -> None:
        """Take in what has become of a drop, and when it began."""
        now = self._clock()
        self._history = histories.departed(
            self._history, peer, outcome, self._options.reconnect, now, self._random()
        )
        if outcome:
            self._said.pop(("dropped", peer), None)
            self.counters["drops"] += 1
            self.counters["drops-with-loss"] += bool(outcome.reason)
            level = logging.WARNING if outcome.reason else logging.INFO
            text = f": {outcome.reason}" if outcome.reason else ""
            logger.log(
                level, "Pool %s: dropped %s in %.3f s%s", self._name, peer, now - began, text
            )
            return
        self.counters["drop-failures"] += 1
        self._failed("dropped", peer, outcome, self._history.departures[peer])

    def releasing(
        self, peer: Peer, to: Claim | None, claims: Sequence[Claim], by_rule: bool
    ) -> None:
        """Take in that the release of a member begins, perhaps for who claims it."""
        if to is not None:
            self._history = shared.given(self._history, peer, to, claims, by_rule)

    def released(self, peer: Peer, outcome: Outcome, began: float, to: Claim | None) -> None:
        """Take in what has become of a release, when it began, and for whom it was."""
        now = self._clock()
        by_rule = (gift := self._history.gifts.get(peer)) is not None and gift.by_rule
        self._history = shared.released(
            self._history, peer, outcome, to, self._options.reconnect, now, self._random()
        )
        if outcome:
            self._said.pop(("released", peer), None)
            self.counters["releases"] += 1
            self.counters["gives"] += by_rule
            whom = "" if to is None else f" to scheduler {to.scheduler}"
            what = "gave" if by_rule else "released"
            logger.info("Pool %s: %s %s%s in %.3f s", self._name, what, peer, whom, now - began)
            return
        self.counters["releases-called-off"] += 1
        self._failed("released", peer, outcome, self._history.called_off[peer])

    def release_cancelled(self, peer: Peer) -> None:
        """Take in that a release is cancelled."""
        self.counters["releases-called-off"] += 1
        self._history = shared.not_given(self._history, peer)
        logger.info("Pool %s: %s is needed again and not released", self._name, peer)

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

    def _failed(self, what: str, peer: Peer, outcome: Outcome, hold: Hold) -> None:
        """Say a failure once, and what is normal not as trouble."""
        if self._said.get((what, peer)) == outcome.reason:
            level = logging.DEBUG
        else:
            level = logging.INFO if outcome.expected else logging.WARNING
        self._said[what, peer] = outcome.reason
        left = hold.until - self._clock()
        retry = "" if hold.until == math.inf else f"; next try in {left:.1f} s"
        logger.log(level, "Pool %s: %s not %s: %s%s", self._name, peer, what, hold.reason, retry)
        self._on_failure(hold.until)
