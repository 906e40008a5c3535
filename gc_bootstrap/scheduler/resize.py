"""Another size for a pool, as somebody has asked for it: checked as a configuration is."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from gc_bootstrap import config
from gc_bootstrap.config import DEFAULT_POOL, NAMESPACE, AdaptOptions
from gc_bootstrap.errors import ConfigError

MOST = 1_000_000
"""More agents than that are a slip of the pen, and perhaps a number that no message can carry."""


def read_size(size: Any = "all", adapt: Any = None) -> tuple[int | None, AdaptOptions | None]:
    """Read a size.

    Parameters
    ----------
    size
        ``"all"`` or a number of agents.
    adapt
        Keys as in ``gc-bootstrap.adapt``, or None. What it does not say is as this process' Dask is
        configured.

    Raises
    ------
    ConfigError
        With all problems, one line each.
    """
    # Nothing is looked for by this discovery; it is there for the rest to be a whole pool.
    given = {"discovery": "none", "size": size, "adapt": adapt}
    pools, problems = config.read_pools(given, configured={})
    if not problems:
        options = pools[DEFAULT_POOL]
        known = options.adapt if options.adapt is not None else AdaptOptions()
        counts = {
            "size": options.size,
            "adapt.minimum": known.minimum,
            "adapt.maximum": known.maximum,
        }
        problems = [
            f"{key}: {count} is more than {MOST}"
            for key, count in counts.items()
            if count is not None and count > MOST
        ]
    if problems:
        raise ConfigError(problem.removeprefix(f"{NAMESPACE}.") for problem in problems)
    return options.size, options.adapt


def which(pools: Collection[str], name: Any) -> str:
    """The pool of a name; without one, the only pool.

    Raises
    ------
    ConfigError
        There is none of that name, or there are several; the line names them.
    """
    there_are = f"there are: {', '.join(pools)}" if pools else "there are no pools"
    if name is None:
        if len(pools) != 1:
            raise ConfigError(f"pool: which one? {there_are}")
        (name,) = pools
    if not isinstance(name, str) or name not in pools:
        raise ConfigError(f"pool: {name!r} is none; {there_are}")
    return name
