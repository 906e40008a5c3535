"""Typed options, and every check of what a person wrote in ``gc-bootstrap:``.

Belongs here: reading Dask's configuration into values. Does not belong here: acting on them, and
importing anything that a configuration names (see :mod:`gc_bootstrap.backends`).
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.resources import files
from types import MappingProxyType
from typing import Any, Literal

import dask.config
import yaml
from dask.utils import parse_timedelta

NAMESPACE = "gc-bootstrap"
DEFAULT_POOL = "default"

DEFAULTS: Mapping[str, Any] = MappingProxyType(
    yaml.safe_load(files("gc_bootstrap").joinpath("gc_bootstrap.yaml").read_text())[NAMESPACE]
)
dask.config.update_defaults({NAMESPACE: dict(DEFAULTS)})

Check = Callable[[Any], Any]
Schema = Mapping[str, "Check | Schema"]


@dataclass(frozen=True, slots=True)
class ConnectOptions:
    """How attaches run: ``timeout`` in seconds, ``concurrency`` as a count."""

    timeout: float = 30.0
    concurrency: int = 64

    @property
    def most(self) -> int:
        """How many attaches are under way at most, those included that take their time.

        A dead host holds a connection until its deadline, and costs nothing else.
        """
        return 8 * self.concurrency


@dataclass(frozen=True, slots=True)
class ReconnectOptions:
    """Backoff of one peer, in seconds; gRPC's connection-backoff numbers.

    After the n-th failure in a row a peer waits ``min(initial * factor**(n-1), max)`` times a
    random number in ``[1 - jitter, 1 + jitter]``.
    """

    initial: float = 1.0
    factor: float = 1.6
    max: float = 120.0
    jitter: float = 0.2


@dataclass(frozen=True, slots=True)
class RemovalOptions:
    """When a member goes that discovery no longer names; ``grace`` in seconds."""

    policy: Literal["keep", "drain"] = "keep"
    after: int = 3
    grace: float = 15.0
    panic_threshold: float = 0.5


@dataclass(frozen=True, slots=True)
class DrainOptions:
    """Deadline of dropping one member, in seconds."""

    timeout: float = 60.0


@dataclass(frozen=True, slots=True)
class PoolOptions:
    """The options of one pool, all checked. Durations are seconds.

    ``discovery`` and ``dist`` are still as they were written: :mod:`gc_bootstrap.backends` loads
    them. ``cookie_key`` is where ``cookie_file`` was written, for messages, and ``key_key`` where
    ``key_file`` was.
    """

    discovery: Any = None
    dist: Any = "dask"
    refresh_interval: float | None = 5.0
    connect: ConnectOptions = ConnectOptions()
    reconnect: ReconnectOptions = ReconnectOptions()
    removal: RemovalOptions = RemovalOptions()
    drain: DrainOptions = DrainOptions()
    cookie_file: str | None = None
    cookie_key: str = f"{NAMESPACE}.cookie-file"
    key_file: str | None = None
    key_key: str = f"{NAMESPACE}.key-file"
    scheduler_address: str | None = None
    versions: Literal["refuse", "warn", "ignore"] = "refuse"


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


def _duration_or_zero(value: Any) -> float:
    return duration(value, least=0.0)


def _whole(minimum: int) -> Check:
    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            raise BadValueError(f"is not a whole number of at least {minimum}")
        return value

    return check


def _number(minimum: float, maximum: float = math.inf) -> Check:
    span = f"of at least {minimum:g}" if maximum == math.inf else f"from {minimum:g} to {maximum:g}"

    def check(value: Any) -> float:
        good = isinstance(value, int | float) and not isinstance(value, bool)
        if not good or not minimum <= value <= min(maximum, 1e300):
            raise BadValueError(f"is not a number {span}")
        return float(value)

    return check


def _one_of(*choices: str) -> Check:
    def check(value: Any) -> str:
        if value not in choices or not isinstance(value, str):
            raise BadValueError(f"is not one of {', '.join(choices)}")
        return value

    return check


def _path(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise BadValueError("is not the path of a file")
    return value


_ADDRESS = re.compile(r"([a-z][a-z0-9+]*://)?(\[[0-9a-fA-F:.%]+\]|[^\s:/\[\]]+):(\d{1,5})\Z")


def _address(value: Any) -> str:
    match = _ADDRESS.match(value) if isinstance(value, str) else None
    if match is None or not 0 < int(match[3]) < 65536:
        raise BadValueError("is not an address such as tcp://10.0.0.1:8786")
    return str(value)


def _backend(value: Any) -> Any:
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


def _optional(check: Check) -> Check:
    return lambda value: None if value is None else check(value)


# Backends check their options the same way, and say it in the same words.
one_of = _one_of

_SCHEMA: Schema = {
    "discovery": _optional(_backend),
    "dist": _backend,
    "refresh-interval": _optional(duration),
    "connect": {"timeout": duration, "concurrency": _whole(1)},
    "reconnect": {
        "initial": duration,
        "factor": _number(1),
        "max": duration,
        "jitter": _number(0, 1),
    },
    "removal": {
        "policy": _one_of("keep", "drain"),
        "after": _whole(1),
        "grace": _duration_or_zero,
        "panic-threshold": _number(0, 1),
    },
    "drain": {"timeout": duration},
    "cookie-file": _optional(_path),
    "key-file": _optional(_path),
    "scheduler-address": _optional(_address),
    "versions": _one_of("refuse", "warn", "ignore"),
}


def _canonical(section: Mapping[Any, Any]) -> dict[str, Any]:
    """Keys as they are documented: Dask takes ``refresh_interval`` for ``refresh-interval``."""
    return {str(key).replace("_", "-"): value for key, value in section.items()}


def _over(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """``top`` laid over ``base``; of the two a section is merged key by key."""
    merged = dict(base)
    if any(top.get(key) is not None for key in _EITHER):
        # A pool with a key of its own does not want the cookie of all others beside it.
        merged |= dict.fromkeys(_EITHER)
    for key, value in top.items():
        below = merged.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping) and key in _SECTIONS:
            merged[key] = {**below, **_canonical(value)}
        else:
            merged[key] = value
    return merged


_EITHER = ("cookie-file", "key-file")
"""What requests are signed with: one of them."""
_SECTIONS = frozenset(key for key, check in _SCHEMA.items() if isinstance(check, Mapping))


def _unknown(key: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {close[0]}?" if close else f"there are: {', '.join(sorted(known))}"
    return f"unknown key; {hint}"


def _read(
    values: Mapping[str, Any], schema: Schema, prefix: str, problems: list[str]
) -> dict[str, Any]:
    """Check ``values`` one by one. What is wrong goes to ``problems`` and is left out."""
    read: dict[str, Any] = {}
    for key, value in values.items():
        check = schema.get(key)
        if check is None:
            written = key if key.isprintable() else repr(key)
            problems.append(f"{prefix}.{written}: {_unknown(key, schema)}")
        elif isinstance(check, Mapping):
            if isinstance(value, Mapping):
                read[key] = _read(_canonical(value), check, f"{prefix}.{key}", problems)
            else:
                problems.append(
                    f"{prefix}.{key}: {value!r} is not a section with {', '.join(check)}"
                )
        else:
            try:
                read[key] = check(value)
            except BadValueError as exc:
                problems.append(f"{prefix}.{key}: {value!r} {exc}")
    return read


def _pool(values: Mapping[str, Any], prefix: str, problems: list[str]) -> PoolOptions:
    read = _read(values, _SCHEMA, prefix, problems)
    removal = read.pop("removal", {})
    sections: dict[str, Any] = {
        "connect": ConnectOptions(**read.pop("connect", {})),
        "reconnect": ReconnectOptions(**read.pop("reconnect", {})),
        "removal": RemovalOptions(**{k.replace("-", "_"): v for k, v in removal.items()}),
        "drain": DrainOptions(**read.pop("drain", {})),
    }
    return PoolOptions(**{k.replace("-", "_"): v for k, v in read.items()}, **sections)


def _contradictions(options: PoolOptions, prefix: str) -> list[str]:
    """What is wrong with values that are each right by themselves."""
    backoff, problems = options.reconnect, []
    if backoff.initial > backoff.max:
        problems.append(f"{prefix}.reconnect.initial: {backoff.initial:g} s is more than max")
    if options.cookie_file is not None and options.key_file is not None:
        problems.append(f"{prefix}.key-file: contradicts cookie-file; keep one of them")
    return problems


_POOL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}\Z")


def read_pools(
    overrides: Mapping[str, Any] | None = None,
    configured: Mapping[str, Any] | None = None,
) -> tuple[dict[str, PoolOptions], list[str]]:
    """Read the options of every pool.

    Parameters
    ----------
    overrides
        Keys as in ``gc-bootstrap:`` that win over the configuration (command-line options,
        arguments of the plugin).
    configured
        The section to read; default: what ``dask.config`` holds.

    Returns
    -------
    tuple
        The pools by name, none where no discovery is configured; and all problems, one line each.
        Options with a problem have their default, so that the caller can look for more problems.
    """
    if configured is None:
        configured = dask.config.get(NAMESPACE)
    problems: list[str] = []
    if not isinstance(configured, Mapping):
        return {}, [f"{NAMESPACE}: {configured!r} is not a section"]
    values = _over(_over(DEFAULTS, _canonical(configured)), _canonical(overrides or {}))
    named = values.pop("pools", None)
    named = {} if named is None else named
    top = _pool(values, NAMESPACE, problems)
    problems += _contradictions(top, NAMESPACE)
    pools = {} if top.discovery is None else {DEFAULT_POOL: top}
    inherited = {key: value for key, value in values.items() if key in _SCHEMA}
    if isinstance(named, Mapping):
        for name, section in named.items():
            pool = _named_pool(name, section, inherited, pools, problems)
            if pool is not None:
                pools[name] = pool
    else:
        problems.append(f"{NAMESPACE}.pools: {named!r} is not a section of pools by name")
    return pools, problems


def _named_pool(
    name: Any,
    section: Any,
    inherited: Mapping[str, Any],
    taken: Mapping[str, PoolOptions],
    problems: list[str],
) -> PoolOptions | None:
    """Read one of ``pools``; None where it cannot be told what it should find."""
    prefix = f"{NAMESPACE}.pools.{name}"
    if not isinstance(name, str) or not _POOL_NAME.match(name):
        problems.append(f"{NAMESPACE}.pools: {name!r} is not a name of letters, digits, - _ .")
    elif name in taken:
        problems.append(f"{prefix}: the pool of {NAMESPACE}.discovery has this name already")
    elif not isinstance(section, Mapping):
        problems.append(f"{prefix}: {section!r} is not a section")
    elif (own := _canonical(section)).get("discovery") is None:
        problems.append(f"{prefix}.discovery: missing; each pool names its own")
    else:
        # Only the pool's own keys are checked here: those above have been checked once.
        read = _read(own, _SCHEMA, prefix, problems)
        pool = _pool(_over(inherited, own), prefix, [])
        if own.keys() & {"reconnect", *_EITHER}:
            problems += _contradictions(pool, prefix)
        if "cookie-file" in own:
            pool = replace(pool, cookie_key=f"{prefix}.cookie-file")
        if "key-file" in own:
            pool = replace(pool, key_key=f"{prefix}.key-file")
        return pool if "discovery" in read else None
    return None
