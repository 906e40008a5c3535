"""Dask clusters that form and heal themselves.

The names below are the library's public API; each is imported when it is first used, because
``dask`` loads this package at every start of its command line.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from gc_bootstrap.discovery import Discovery as Discovery
    from gc_bootstrap.dist import Dist as Dist
    from gc_bootstrap.errors import ConfigError as ConfigError
    from gc_bootstrap.errors import DiscoveryError as DiscoveryError
    from gc_bootstrap.errors import DistError as DistError
    from gc_bootstrap.peer import Outcome as Outcome
    from gc_bootstrap.peer import Peer as Peer
    from gc_bootstrap.peer import Snapshot as Snapshot
    from gc_bootstrap.pool import Pool as Pool
    from gc_bootstrap.scheduler.plugin import BootstrapPlugin as BootstrapPlugin

_HOME = {
    "BootstrapPlugin": "scheduler.plugin",
    "ConfigError": "errors",
    "Discovery": "discovery",
    "DiscoveryError": "errors",
    "Dist": "dist",
    "DistError": "errors",
    "Outcome": "peer",
    "Peer": "peer",
    "Pool": "pool",
    "Snapshot": "peer",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
