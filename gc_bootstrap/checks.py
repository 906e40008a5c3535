"""Checks of single values, one for each kind: of the configuration, of backends, of commands.

A check takes what a person wrote, and returns it as it is used or raises :class:`BadValueError`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from dask.utils import parse_timedelta

Check = Callable[[Any], Any]


class BadValueError(ValueError):
    """A value is not what was expected; the message follows the key and the value."""


SHORTEST, LONGEST = 0.001, 365 * 86400.0
"""Seconds that a duration has. A longer one is a slip of the pen, and what waits for it may count
in numbers that it does not fit into."""


def duration(value: Any, *, least: float = SHORTEST) -> float:
    """Read a duration: the one way, for configuration, backends and commands.

    Parameters
    ----------
    value
        A text such as ``5s``, as Dask reads it, or a number of seconds.
    least
        Seconds; shorter ones are refused. 0 allows to write ``0s``.

    Returns
    -------
    float
        Seconds, finite.

    Raises
    ------
    BadValueError
        It is none, or out of bounds.
    """
    seconds = math.nan
    # Dask puts a 1 before a text that does not begin with a digit: ".5s" would be 1.5 s.
    if isinstance(value, str) and value.strip()[:1].isdigit():
        with suppress(ValueError, KeyError, OverflowError):
            seconds = float(parse_timedelta(value.strip()))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        with suppress(OverflowError):
            seconds = float(value)
    if not (0 < seconds < math.inf or seconds == least):
        raise BadValueError("is not a duration such as 5s")
    if seconds < least:
        raise BadValueError(f"is shorter than {least:g} s")
    if seconds > LONGEST:
        raise BadValueError(f"is longer than {LONGEST / 86400:g} days")
    return seconds


def duration_or_zero(value: Any) -> float:
    """A duration, or ``0s``."""
    return duration(value, least=0.0)


def whole(minimum: int) -> Check:
    """A whole number of at least so much."""

    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            raise BadValueError(f"is not a whole number of at least {minimum}")
        return value

    return check


def number(minimum: float, maximum: float = math.inf) -> Check:
    """A number within bounds."""
    span = f"of at least {minimum:g}" if maximum == math.inf else f"from {minimum:g} to {maximum:g}"

    def check(value: Any) -> float:
        good = isinstance(value, int | float) and not isinstance(value, bool)
        if not good or not minimum <= value <= min(maximum, 1e300):
            raise BadValueError(f"is not a number {span}")
        return float(value)

    return check


def one_of(*choices: str) -> Check:
    """One of some words."""

    def check(value: Any) -> str:
        if value not in choices or not isinstance(value, str):
            raise BadValueError(f"is not one of {', '.join(choices)}")
        return value

    return check


def path(value: Any) -> str:
    """The path of a file."""
    if not isinstance(value, str) or not value.strip():
        raise BadValueError("is not the path of a file")
    return value


_ADDRESS = re.compile(r"([a-z][a-z0-9+]*://)?(\[[0-9a-fA-F:.%]+\]|[^\s:/\[\]]+):(\d{1,5})\Z")


def address(value: Any) -> str:
    """An address of Dask's, with a port."""
    match = _ADDRESS.match(value) if isinstance(value, str) else None
    if match is None or not 0 < int(match[3]) < 65536:
        raise BadValueError("is not an address such as tcp://10.0.0.1:8786")
    return str(value)


def backend(value: Any) -> Any:
    """A discovery or a dist as it is written; :mod:`gc_bootstrap.backends` loads it."""
    if isinstance(value, Mapping) and len(value) != 1:
        how_many = "more than one" if value else "none"
        raise BadValueError(f"names {how_many}; expected {{name: {{option: value}}}}")
    if value == "":
        raise BadValueError("is empty (is a variable unset?)")
    if isinstance(value, bool | int | float | list):
        raise BadValueError(
            'is neither a text such as "static:10.0.0.5" nor {name: {option: value}}'
        )
    return value


def optional(check: Check) -> Check:
    """Null, or what another check takes."""
    return lambda value: None if value is None else check(value)
