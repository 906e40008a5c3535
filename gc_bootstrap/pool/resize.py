"""Another size for a pool that runs."""

from __future__ import annotations

from dataclasses import replace

from gc_bootstrap.config import AdaptOptions, PoolOptions, contradictory_sizes
from gc_bootstrap.errors import ConfigError


def resized(options: PoolOptions, size: int | None, adapt: AdaptOptions | None) -> PoolOptions:
    """The options with another size; neither is all.

    Raises
    ------
    ConfigError
        With all that is wrong with it.
    """
    changed = replace(options, size=size, adapt=adapt)
    least = size if adapt is None else adapt.minimum
    if least is not None and least < 0:
        key = "size" if adapt is None else "adapt.minimum"
        raise ConfigError(f"{key}: {least} is not a whole number of at least 0")
    if problems := contradictory_sizes(changed):
        raise ConfigError(problems)
    return changed
