"""Dask clusters that form and heal themselves.

The names below are the library's public API; each is imported when it is first used, because
``dask`` loads this package at every start of its command line.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from gc_bootstrap.cluster.adaptive import PoolAdaptive as PoolAdaptive
    from gc_bootstrap.cluster.pool_cluster import PoolCluster as PoolCluster
    from gc_bootstrap.config import AdaptOptions as AdaptOptions
    from gc_bootstrap.config import ConnectOptions as ConnectOptions
    from gc_bootstrap.config import DrainOptions as DrainOptions
    from gc_bootstrap.config import PoolOptions as PoolOptions
    from gc_bootstrap.config import ReconnectOptions as ReconnectOptions
    from gc_bootstrap.config import RemovalOptions as RemovalOptions
    from gc_bootstrap.config import ShareOptions as ShareOptions
    from gc_bootstrap.discovery import Discovery as Discovery
    from gc_bootstrap.dist import Dist as Dist
    from gc_bootstrap.dist import Needed as Needed
    from gc_bootstrap.dist import Owner as Owner
    from gc_bootstrap.errors import ConfigError as ConfigError
    from gc_bootstrap.errors import DiscoveryError as DiscoveryError
    from gc_bootstrap.errors import DistError as DistError
    from gc_bootstrap.errors import GcBootstrapError as GcBootstrapError
    from gc_bootstrap.errors import PeerError as PeerError
    from gc_bootstrap.peer import Outcome as Outcome
    from gc_bootstrap.peer import Peer as Peer
    from gc_bootstrap.peer import Snapshot as Snapshot
    from gc_bootstrap.pool import Hold as Hold
    from gc_bootstrap.pool import Plan as Plan
    from gc_bootstrap.pool import Pool as Pool
    from gc_bootstrap.pool import PoolNumbers as PoolNumbers
    from gc_bootstrap.pool import PoolStatus as PoolStatus
    from gc_bootstrap.scheduler.plugin import BootstrapPlugin as BootstrapPlugin
    from gc_bootstrap.stake import Capacity as Capacity
    from gc_bootstrap.stake import Claim as Claim
    from gc_bootstrap.stake import Holder as Holder
    from gc_bootstrap.stake import Stake as Stake
    from gc_bootstrap.stake import Survey as Survey

_HOME = {
    "AdaptOptions": "config",
    "BootstrapPlugin": "scheduler.plugin",
    "Capacity": "stake",
    "Claim": "stake",
    "ConfigError": "errors",
    "ConnectOptions": "config",
    "Discovery": "discovery",
    "DiscoveryError": "errors",
    "Dist": "dist",
    "DistError": "errors",
    "DrainOptions": "config",
    "GcBootstrapError": "errors",
    "Hold": "pool",
    "Holder": "stake",
    "Needed": "dist",
    "Outcome": "peer",
    "Owner": "dist",
    "Peer": "peer",
    "PeerError": "errors",
    "Plan": "pool",
    "Pool": "pool",
    "PoolAdaptive": "cluster.adaptive",
    "PoolCluster": "cluster.pool_cluster",
    "PoolOptions": "config",
    "PoolNumbers": "pool",
    "PoolStatus": "pool",
    "ReconnectOptions": "config",
    "RemovalOptions": "config",
    "ShareOptions": "config",
    "Snapshot": "peer",
    "Stake": "stake",
    "Survey": "stake",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
