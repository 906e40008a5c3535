"""Connecting and disconnecting peers: the :class:`Dist` contract and its implementations.

Belongs here: talking to one peer at a time, and reading who is a member. Does not belong here:
finding peers, deciding which of them to connect or when (that is :mod:`gc_bootstrap.plan`).
"""

from gc_bootstrap.dist.base import Dist, Owner

__all__ = ["Dist", "Owner"]
