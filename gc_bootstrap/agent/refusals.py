"""Why nobody attaches the agent: whom it has refused, counted by reason, and said once."""

from __future__ import annotations

import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from gc_bootstrap.wire.messages import LONGEST_TEXT, WireError

logger = logging.getLogger(__name__)

REASONS = (
    "token",
    "certificate",
    "tls",
    "version",
    "held",
    "retired",
    "warming",
    "draining",
    "web",
    "request",
    "connections",
)
"""All reasons. ``web``: what a web page may send; ``request``: one that makes no sense."""
INTERVAL = 600.0
"""Seconds from one line that sums up to the next."""
LINES = 10
"""Most lines of a reason in one interval."""
REMEMBERED = 1000
"""Most pairs of a reason and a scheduler that are known to have been said."""

_ROUTINE = {"held", "retired", "warming", "draining"}
_BY_STATUS = {401: "token", 403: "certificate", 409: "held", 415: "web"}
_BY_STATUS |= dict.fromkeys((400, 408, 413, 422), "request")


class Refusals:
    """Counts refusals, and logs each reason once for each scheduler.

    Neither the memory nor the log grows with those who ask: a flood gets some lines and a sum.

    Parameters
    ----------
    clock
        Seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.counts: Counter[str] = Counter()
        self._clock = clock
        self._said: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._lines: Counter[str] = Counter()
        self._more: Counter[str] = Counter()
        self._began = clock()

    @contextmanager
    def of(self, who: str) -> Iterator[None]:
        """Count what is raised here.

        Parameters
        ----------
        who
            The scheduler, or the address of somebody who has not shown to be one.
        """
        try:
            yield
        except WireError as exc:
            reason = exc.refusal if exc.refusal is not None else _BY_STATUS.get(exc.status)
            if reason:
                self.add(reason, who, str(exc))
            raise

    def add(self, reason: str, who: str, text: str) -> None:
        """Count one.

        Parameters
        ----------
        reason
            One of :data:`REASONS`.
        who
            As for :meth:`of`.
        text
            More of it, in one line.
        """
        self.counts[reason] += 1
        now = self._clock()
        if now - self._began >= INTERVAL:
            self._sum_up(now)
        if (reason, who) in self._said:
            self._said.move_to_end((reason, who))
            self._more[reason] += 1
        elif self._lines[reason] >= LINES:
            self._more[reason] += 1
        else:
            self._lines[reason] += 1
            self._said[reason, who] = None
            if len(self._said) > REMEMBERED:
                self._said.popitem(last=False)
            level = logging.INFO if reason in _ROUTINE else logging.WARNING
            logger.log(level, "Refused %s: %s", who, _printable(text))

    def forget(self, *names: str) -> None:
        """These are not refused any more: what they are refused for next is said again."""
        for who in names:
            for reason in REASONS:
                self._said.pop((reason, who), None)

    def _sum_up(self, now: float) -> None:
        if self._more:
            counts = ", ".join(f"{n} {reason}" for reason, n in sorted(self._more.items()))
            minutes = (now - self._began) / 60
            logger.info("Refused in the last %.0f min beside those named: %s", minutes, counts)
        self._more.clear()
        self._lines.clear()
        self._began = now


def _printable(text: str) -> str:
    """One line, whatever a request has brought into it."""
    line = " ".join(text.split())
    return "".join(c if c.isprintable() else "?" for c in line)[:LONGEST_TEXT]
