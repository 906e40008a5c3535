"""The refresh loop of one pool: look, plan, act.

Belongs here: asking a discovery and a dist, deciding what to do about the answers as a pure
function (:mod:`~gc_bootstrap.pool.plan`), making it happen, saying what is known. Does not belong
here: anything of Dask's; a pool also runs outside of any scheduler.
"""

from gc_bootstrap.pool.history import Hold
from gc_bootstrap.pool.loop import Pool
from gc_bootstrap.pool.plan import Plan
from gc_bootstrap.pool.status import PoolNumbers, PoolStatus

__all__ = ["Hold", "Plan", "Pool", "PoolNumbers", "PoolStatus"]
