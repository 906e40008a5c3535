"""Who wants a worker drained, how, and until when."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Asker = Literal["agent", "pool"]
"""Who can ask for a drain: an agent that ends, or a pool that drops or releases a peer."""


@dataclass(frozen=True, eq=False, slots=True)
class Want:
    """One caller's wish to have workers drained.

    Parameters
    ----------
    deadline
        When it has to be over.
    asker
        Who asks, for people.
    release
        Whether the worker goes only if that costs nothing; else it goes in any case.
    """

    deadline: float
    asker: Asker
    release: bool = False


class Wants:
    """All who wait for one worker's drain.

    Those who want it to go in any case decide: of their deadlines the earliest counts, and only
    where there is none of them the drain is a release.

    Parameters
    ----------
    want
        The first.
    clock
        Monotonic seconds.

    Attributes
    ----------
    release
        Whether it is to go only if that costs nothing; of the last ones, where there are none left.
    asked_by
        All that have ever asked.
    """

    def __init__(self, want: Want, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._wants = [want]
        self._since = clock()
        self.release = want.release
        self.asked_by: dict[Asker, None] = {want.asker: None}

    def add(self, want: Want) -> None:
        """Have one more."""
        self._wants.append(want)
        self.asked_by[want.asker] = None
        self._settle()

    def remove(self, want: Want) -> bool:
        """Have one less; False where it was the last."""
        self._wants.remove(want)
        if self._wants:
            self._settle()
        return bool(self._wants)

    def _settle(self) -> None:
        release = all(want.release for want in self._wants)
        if release != self.release:
            self._since = self._clock()  # a release takes no time from who comes later
        self.release = release

    @property
    def left(self) -> float:
        """Seconds until it has to be over."""
        return self._deadline - self._clock()

    @property
    def spent(self) -> float:
        """The share of its time that is over."""
        time = self._deadline - self._since
        return (self._clock() - self._since) / time if time > 0 else 1.0

    @property
    def _deadline(self) -> float:
        count = (want.deadline for want in self._wants if want.release == self.release)
        return min(count, default=self._since)
