"""What a :class:`PoolCluster` is made with, all checked, before anything is started."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import dask.config
from distributed.security import Security

from gc_bootstrap import backends, checks, config
from gc_bootstrap.checks import BadValueError
from gc_bootstrap.config import DEFAULT_POOL, NAMESPACE, PoolOptions
from gc_bootstrap.errors import ConfigError

LOCAL = "local"
"""The discovery that finds agents of this machine, and those that a cluster starts."""
MOST_AGENTS = 1024
"""More processes than that on one machine are a slip of the pen."""
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Settings:
    """What to start.

    Parameters
    ----------
    overrides
        Keys of the ``gc-bootstrap`` configuration that win over it.
    pools
        What they come to, together with the configuration.
    where
        ``here`` (in this process) or ``process`` (in one of its own): the scheduler.
    scheduler
        Keyword arguments of :class:`distributed.Scheduler`.
    security
        TLS, if any.
    agents
        How many agents to start.
    """

    overrides: Mapping[str, Any]
    pools: Mapping[str, PoolOptions]
    where: Literal["here", "process"]
    scheduler: Mapping[str, Any]
    security: Security = field(repr=False)
    agents: int = 0


def read(
    *,
    discovery: Any,
    options: Mapping[str, Any],
    scheduler: str,
    host: str | None,
    scheduler_port: int,
    security: Any,
    dashboard_address: str | None,
    scheduler_kwargs: Mapping[str, Any] | None,
    agents: int,
) -> Settings:
    """Read the arguments of a :class:`PoolCluster`.

    Raises
    ------
    ConfigError
        With all problems, one line each: key, value, what was expected.
    TypeError
        ``security`` is none.
    """
    problems: list[str] = []
    if scheduler not in ("here", "process"):
        problems.append(f"scheduler: {scheduler!r} is not one of here, process")
    for name, value, most in (
        ("agents", agents, MOST_AGENTS),
        ("scheduler_port", scheduler_port, 65535),
    ):
        if problem := _is_no_count(value, most):
            problems.append(f"{name}: {value!r} {problem}")
    overrides = _overrides(discovery, options)
    pools, wrong = config.read_pools(overrides)
    problems += wrong
    if agents and not any(map(_finds_local_agents, pools.values())) and not wrong:
        found = ", ".join(str(pool.discovery) for pool in pools.values())
        problems.append(
            f"agents: {agents!r} on this machine would be found by the discovery {LOCAL} only, and"
            f" the discovery is {found}"
        )
    if problems:
        raise ConfigError(dict.fromkeys([*problems, *_unknown_backends(pools)]))
    secured = security_of(security)
    return Settings(
        overrides,
        pools,
        "process" if scheduler == "process" else "here",
        _scheduler_arguments(
            host, scheduler_port, secured, dashboard_address, scheduler_kwargs or {}
        ),
        secured,
        agents,
    )


def _is_no_count(value: Any, most: int) -> str:
    try:
        checks.whole(0)(value)
    except BadValueError as exc:
        return str(exc)
    return f"is more than {most}" if value > most else ""


def _overrides(discovery: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """What was given, over what a person expects of a cluster of their own."""
    given = {key.replace("_", "-"): value for key, value in options.items() if value is not None}
    configured = dask.config.get(NAMESPACE)
    known = configured if isinstance(configured, Mapping) else {}
    if discovery is not None:
        given["discovery"] = discovery
    elif not (given.get("pools") or known.get("pools") or known.get("discovery")):
        given["discovery"] = LOCAL
    share = given.get("share", {})
    policy = known.get("share", {}) if isinstance(known.get("share", {}), Mapping) else {}
    if isinstance(share, Mapping) and not (share.get("policy") or policy.get("policy")):
        # Two people each with a notebook: the second one does not want to be the first's standby.
        given["share"] = {**share, "policy": "fair"}
    return given


def _finds_local_agents(options: PoolOptions) -> bool:
    written = options.discovery
    if isinstance(written, Mapping):
        return LOCAL in written
    return str(written).partition("?")[0].partition(":")[0] == LOCAL


def _unknown_backends(pools: Mapping[str, PoolOptions]) -> list[str]:
    """What else is wrong, where something is: what would have been found when they are loaded."""
    problems: list[str] = []
    for name, options in pools.items():
        prefix = NAMESPACE if name == DEFAULT_POOL else f"{NAMESPACE}.pools.{name}"
        written: dict[backends.Kind, Any] = {"discovery": options.discovery, "dist": options.dist}
        for kind, value in written.items():
            try:
                backends.load(kind, value, f"{prefix}.{kind}")
            except ConfigError as exc:
                problems += exc.problems
    return problems


def security_of(given: Any) -> Security:
    """As ``LocalCluster`` reads it."""
    if given is True:
        made: Security = Security.temporary()
        return made
    if not given:
        return Security()
    if not isinstance(given, Security):
        raise TypeError("security must be a Security object")
    return given


def _scheduler_arguments(
    host: str | None,
    port: int,
    security: Security,
    dashboard_address: str | None,
    more: Mapping[str, Any],
) -> dict[str, Any]:
    scheme, separator, name = (host or "").rpartition("://")
    protocol = scheme + separator or ("tls://" if security.require_encryption else "tcp://")
    return {
        "host": LOOPBACK if host is None else name,
        "port": port,
        "protocol": protocol,
        "security": security,
        "dashboard": dashboard_address is not None,
        "dashboard_address": dashboard_address,
        **more,
    }
