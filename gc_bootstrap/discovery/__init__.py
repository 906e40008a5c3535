"""Finding peers: the :class:`Discovery` contract and its implementations.

Belongs here: asking something (a list, a folder, a name server, an API) who the peers are. Does
not belong here: deciding what to do about the answer, talking to a peer, knowing Dask.

A discovery has three outcomes, and each implementation states them at its top: these are the
peers; there are really none; we cannot know (:class:`~gc_bootstrap.errors.DiscoveryError`).
"""

from gc_bootstrap.discovery.base import Discovery
from gc_bootstrap.discovery.function import DiscoveryLike, FunctionDiscovery, as_discovery

__all__ = ["Discovery", "DiscoveryLike", "FunctionDiscovery", "as_discovery"]
