"""Another size for a pool that runs."""

from __future__ import annotations

from dataclasses import replace

from gc_bootstrap.config import AdaptOptions, PoolOptions


def resized(options: PoolOptions, size: int | None, adapt: AdaptOptions | None) -> PoolOptions:
    """The options with another size; neither is all.

    Raises
    ------
    ValueError
        What is wrong with it, in one line.
    """
    most, guaranteed = size, options.share.guaranteed
    if size is not None and adapt is not None:
        raise ValueError(f"size: {size} contradicts adapt; give one of them")
    if size is not None and size < 0:
        raise ValueError(f"size: {size} is not a whole number of at least 0")
    if adapt is not None:
        most = adapt.maximum
        if adapt.minimum < 0 or (most is not None and adapt.minimum > most):
            raise ValueError(
                f"minimum: {adapt.minimum} is not between 0 and maximum,"
                f" {'which is not limited' if most is None else most}"
            )
    if most is not None and guaranteed > most:
        what = "size" if adapt is None else "maximum"
        raise ValueError(f"{what}: {most} is less than share.guaranteed, {guaranteed}")
    return replace(options, size=size, adapt=adapt)
