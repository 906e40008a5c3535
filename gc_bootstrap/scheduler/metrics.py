"""What the pools hold and want, on the page of metrics that Dask's scheduler has."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from gc_bootstrap.pool.status import PoolNumbers
from gc_bootstrap.scheduler import _dask

if TYPE_CHECKING:
    from distributed import Scheduler
    from prometheus_client.metrics_core import Metric

    from gc_bootstrap.pool import Pool

GAUGES: Mapping[str, tuple[str, Callable[[PoolNumbers], int | None]]] = {
    "wanted": (
        "Agents that the pool would hold, were there so many; where it takes all, all it finds",
        lambda numbers: numbers.wanted,
    ),
    "members": ("Agents that are attached", lambda numbers: numbers.members),
    "peers": ("Agents that the discovery names", lambda numbers: numbers.peers),
    "claims": (
        "Agents of the pool that other schedulers have claimed lately",
        lambda numbers: numbers.claimed,
    ),
}
"""By the end of its name: what a gauge says, and where it is taken from."""


class PoolMetrics:
    """Reads the numbers of pools when it is asked: there are no counters to keep in step.

    ``prometheus_client`` has one registry in a process, of which Dask makes the page of each
    scheduler that runs there. A page shows the pools of its own scheduler only. What is not known
    yet is not there: who starts agents by these numbers must not take it for none.
    """

    def __init__(self) -> None:
        self._pools: dict[int, tuple[Scheduler, Mapping[str, Pool]]] = {}

    def show(self, scheduler: Scheduler, pools: Mapping[str, Pool]) -> Callable[[], None]:
        """Show the pools of a scheduler, where ``prometheus-client`` is installed.

        Returns
        -------
        callable
            Ends it. May be called more than once.
        """
        try:
            from prometheus_client import REGISTRY
        except ImportError:
            return _nothing
        if not self._pools:
            REGISTRY.register(self)
        shown = self._pools[id(pools)] = scheduler, pools

        def hide() -> None:
            if self._pools.get(id(pools)) is shown:
                del self._pools[id(pools)]
                if not self._pools:
                    REGISTRY.unregister(self)

        return hide

    def describe(self) -> Iterator[Metric]:
        """Name the metrics, for ``prometheus_client.CollectorRegistry``."""
        return self._collect([])

    def collect(self) -> Iterator[Metric]:
        """Read the numbers, for the same."""
        asked = _dask.scraped_scheduler()
        shown = [pools for whose, pools in self._pools.values() if asked in (None, whose)]
        return self._collect(shown)

    def _collect(self, shown: list[Mapping[str, Pool]]) -> Iterator[Metric]:
        from prometheus_client.core import GaugeMetricFamily

        numbers = {name: pool.numbers for pools in shown for name, pool in pools.items()}
        for end, (help_text, value_of) in GAUGES.items():
            gauge = GaugeMetricFamily(f"gc_bootstrap_pool_{end}", help_text, labels=["pool"])
            for name, found in numbers.items():
                value = value_of(found)
                if value is not None:
                    gauge.add_metric([name], value)
            yield gauge


METRICS = PoolMetrics()
"""The only one of a process."""


def _nothing() -> None:
    """Nothing is shown."""
