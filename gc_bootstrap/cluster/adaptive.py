"""What ``cluster.scale`` and ``cluster.adapt`` are given, and what the latter returns."""

from __future__ import annotations

import math
import operator
from collections.abc import Awaitable, Callable, Generator, Mapping
from dataclasses import asdict
from datetime import timedelta
from typing import Any, Literal, Self

from gc_bootstrap.config import AdaptOptions
from gc_bootstrap.scheduler.resize import read_size


def number(value: Any, name: str) -> Any:
    """A number of agents as it is sent; numpy's numbers and 2.0 are welcome, as with Dask.

    Raises
    ------
    TypeError
        It is no number at all, which Dask compares in vain.
    """
    if isinstance(value, bool) or value in ("all", None):
        return value
    if isinstance(value, float):
        return int(value) if value.is_integer() else value
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: {value!r} is not a number of agents") from None


def change_of(
    minimum: Any, maximum: Any, others: Mapping[str, Any]
) -> tuple[dict[str, Any], AdaptOptions]:
    """The keys of ``gc-bootstrap.adapt`` that ``adapt()`` comes to, and the same as options.

    Raises
    ------
    ConfigError
        With all problems.
    TypeError
        As :func:`number`.
    """
    written = {
        key: value.total_seconds() if isinstance(value, timedelta) else value
        for key, value in others.items()
        if value is not None
    }
    written["minimum"] = number(minimum, "minimum")
    written["maximum"] = None if maximum == math.inf else number(maximum, "maximum")
    _, options = read_size(adapt=written)
    assert options is not None
    return asdict(options), options


class PoolAdaptive:
    """That a pool holds as many agents as the work needs; what ``cluster.adapt`` returns.

    It takes the place of Dask's ``Adaptive``: the pool itself decides, in its scheduler. Awaiting
    it waits until the pool knows.

    Attributes
    ----------
    minimum, maximum
        Numbers of agents; the latter may be infinite.
    interval, target_duration
        Seconds.
    wait_count
        For how many looks less has to be needed before any is let go.
    state
        ``running`` or ``stopped``.
    """

    def __init__(
        self, options: AdaptOptions, known: Awaitable[None] | None, freeze: Callable[[], Any]
    ) -> None:
        self.minimum = options.minimum
        self.maximum: float = math.inf if options.maximum is None else options.maximum
        self.interval = options.interval
        self.wait_count = options.wait_count
        self.target_duration = options.target_duration
        self.state: Literal["running", "stopped"] = "running"
        self._known = known
        self._freeze = freeze

    def __repr__(self) -> str:
        return f"<PoolAdaptive: {self.minimum} to {self.maximum}, {self.state}>"

    def __await__(self) -> Generator[Any, None, Self]:
        if self._known is not None:
            yield from self._known.__await__()
        return self

    def stop(self, reason: str = "unknown") -> Any:
        """Have the pool keep the number of agents that it has.

        Returns
        -------
        awaitable or None
            To be awaited where the cluster is asynchronous.
        """
        if self.state == "stopped":
            return None
        self.end()
        return self._freeze()

    def end(self) -> None:
        """Note that something else has taken its place."""
        self.state = "stopped"
