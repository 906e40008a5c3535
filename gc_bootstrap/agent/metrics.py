"""The agent's Prometheus metrics, where ``prometheus-client`` is installed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from gc_bootstrap.agent.core import Agent
from gc_bootstrap.agent.refusals import REASONS
from gc_bootstrap.agent.state import WORDS
from gc_bootstrap.wire.messages import WireError

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric


class AgentMetrics:
    """Reads one agent's numbers when asked: there are no counters to keep in step.

    Parameters
    ----------
    agent
        Whose numbers.
    """

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    def collect(self) -> Iterator[Metric]:
        """For ``prometheus_client.CollectorRegistry``."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        agent = self._agent
        state = GaugeMetricFamily(
            "gc_bootstrap_agent_state", "1 for the state the agent is in", labels=["state"]
        )
        for name in WORDS:
            state.add_metric([name], float(name == agent.state))
        yield state
        yield GaugeMetricFamily(
            "gc_bootstrap_agent_workers", "Workers that run now", len(agent.status().workers)
        )
        yield CounterMetricFamily(
            "gc_bootstrap_agent_attaches", "Attaches that succeeded", agent.attaches
        )
        yield CounterMetricFamily(
            "gc_bootstrap_agent_attach_failures", "Attaches that failed", agent.failures
        )
        yield CounterMetricFamily(
            "gc_bootstrap_agent_claims",
            "Attaches that found another scheduler, which was told that the agent is wanted",
            agent.claims.count,
        )
        refused = CounterMetricFamily(
            "gc_bootstrap_agent_refusals", "Requests and connections refused", labels=["reason"]
        )
        for reason in REASONS:
            refused.add_metric([reason], agent.refusals.counts[reason])
        yield refused

    def render(self) -> tuple[bytes, str]:
        """The text exposition and its content type.

        Raises
        ------
        WireError
            501 where ``prometheus-client`` is not installed.
        """
        try:
            from prometheus_client import CollectorRegistry
            from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
        except ImportError:
            raise WireError(501, "prometheus-client is not installed") from None
        registry = CollectorRegistry()
        registry.register(self)
        return generate_latest(registry), CONTENT_TYPE_LATEST
