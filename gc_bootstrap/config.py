"""Typed options, and every check of what a person wrote in ``gc-bootstrap:``.

Belongs here: reading Dask's configuration into values. Does not belong here: acting on them, and
importing anything that a configuration names (see :mod:`gc_bootstrap.backends`).
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from types import MappingProxyType
from typing import Any, Literal

import dask.config
import yaml

from gc_bootstrap import checks
from gc_bootstrap.checks import BadValueError, Check

NAMESPACE = "gc-bootstrap"
DEFAULT_POOL = "default"

DEFAULTS: Mapping[str, Any] = MappingProxyType(
    yaml.safe_load(files("gc_bootstrap").joinpath("gc_bootstrap.yaml").read_text())[NAMESPACE]
)
dask.config.update_defaults({NAMESPACE: dict(DEFAULTS)})

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
class AdaptOptions:
    """As many peers as the work needs, with the meaning of Dask's ``distributed.adaptive.*``.

    ``minimum`` and ``maximum`` count peers, None is no maximum; ``interval`` is the seconds between
    two looks at the work; less has to be needed ``wait_count`` looks in a row before any is let go;
    ``target_duration`` is the seconds that the work there is should take.
    """

    minimum: int = 0
    maximum: int | None = None
    interval: float = 1.0
    wait_count: int = 3
    target_duration: float = 5.0


@dataclass(frozen=True, slots=True)
class ShareOptions:
    """What a pool does about peers that another scheduler holds, or wants.

    ``policy``: ``fair`` asks for and gives, ``keep`` does neither; None is ``keep`` where the pool
    takes all peers, and else ``fair``. Who has twice the ``weight`` holds twice as many;
    ``guaranteed`` peers are never given.
    """

    policy: Literal["fair", "keep"] | None = None
    weight: float = 1.0
    guaranteed: int = 0


@dataclass(frozen=True, slots=True)
class PoolOptions:
    """The options of one pool, all checked. Durations are seconds.

    ``discovery`` and ``dist`` are still as they were written: :mod:`gc_bootstrap.backends` loads
    them. ``cookie_key`` is where ``cookie_file`` was written, for messages, and ``key_key`` where
    ``key_file`` was. ``size`` None is all peers; it says nothing where ``adapt`` is given.
    """

    discovery: Any = None
    dist: Any = "dask"
    size: int | None = None
    adapt: AdaptOptions | None = None
    share: ShareOptions = ShareOptions()
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

    @property
    def takes_all(self) -> bool:
        """Whether the pool holds every peer that it can get."""
        return self.size is None and self.adapt is None

    @property
    def is_fair(self) -> bool:
        """Whether the pool claims peers that others hold, and gives of its own."""
        return self.share.policy == "fair" or (self.share.policy is None and not self.takes_all)

    @property
    def kept(self) -> int:
        """How many peers are never given to others, at least."""
        return max(self.share.guaranteed, self.adapt.minimum if self.adapt is not None else 0)


def _size(value: Any) -> int | None:
    if value == "all":
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise BadValueError("is neither all nor a whole number of at least 0")
    return value


def _maximum(value: Any) -> int | None:
    return None if value in (None, math.inf) else int(checks.whole(0)(value))


_SCHEMA: Schema = {
    "discovery": checks.optional(checks.backend),
    "dist": checks.backend,
    "size": _size,
    "adapt": {
        "minimum": checks.whole(0),
        "maximum": _maximum,
        "interval": checks.duration,
        "wait-count": checks.whole(1),
        "target-duration": checks.duration,
    },
    "share": {
        "policy": checks.optional(checks.one_of("fair", "keep")),
        "weight": checks.number(0.001, 1000),
        "guaranteed": checks.whole(0),
    },
    "refresh-interval": checks.optional(checks.duration),
    "connect": {"timeout": checks.duration, "concurrency": checks.whole(1)},
    "reconnect": {
        "initial": checks.duration,
        "factor": checks.number(1),
        "max": checks.duration,
        "jitter": checks.number(0, 1),
    },
    "removal": {
        "policy": checks.one_of("keep", "drain"),
        "after": checks.whole(1),
        "grace": checks.duration_or_zero,
        "panic-threshold": checks.number(0, 1),
    },
    "drain": {"timeout": checks.duration},
    "cookie-file": checks.optional(checks.path),
    "key-file": checks.optional(checks.path),
    "scheduler-address": checks.optional(checks.address),
    "versions": checks.one_of("refuse", "warn", "ignore"),
}


def _canonical(section: Mapping[Any, Any]) -> dict[str, Any]:
    """Keys as they are documented: Dask takes ``refresh_interval`` for ``refresh-interval``."""
    return {str(key).replace("_", "-"): value for key, value in section.items()}


def _over(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """``top`` laid over ``base``; of the two a section is merged key by key."""
    merged = dict(base)
    for either in _ALTERNATIVES:
        # A pool with a key of its own does not want the cookie of all others beside it.
        if any(top.get(key) is not None for key in either):
            merged |= {key: DEFAULTS[key] for key in either if key not in top}
    for key, value in top.items():
        below = merged.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping) and key in _SECTIONS:
            merged[key] = {**below, **_canonical(value)}
        else:
            merged[key] = value
    return merged


_EITHER = ("cookie-file", "key-file")
"""What requests are signed with: one of them."""
_ALTERNATIVES = (_EITHER, ("size", "adapt"))
"""Keys of which a pool has one: its own puts out another one of those above."""
_SECTIONS = frozenset(key for key, check in _SCHEMA.items() if isinstance(check, Mapping))
_NULLABLE = frozenset({"adapt"})
"""Sections that may be null."""


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
            if value is None and key in _NULLABLE:
                read[key] = None
            elif isinstance(value, Mapping):
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
    adapt = read.pop("adapt", None)
    if adapt is not None:
        read["adapt"] = _adapt_options(adapt)
    for name, options in _OPTIONS.items():
        read[name] = options(**_names(read.pop(name, {})))
    return PoolOptions(**_names(read))


_OPTIONS: Mapping[str, Callable[..., Any]] = {
    "connect": ConnectOptions,
    "reconnect": ReconnectOptions,
    "removal": RemovalOptions,
    "drain": DrainOptions,
    "share": ShareOptions,
}


def _names(section: Mapping[str, Any]) -> dict[str, Any]:
    return {key.replace("-", "_"): value for key, value in section.items()}


def _adapt_options(section: Mapping[str, Any]) -> AdaptOptions:
    """Checked options, with Dask's own settings where they say nothing."""
    own = AdaptOptions()
    known: Mapping[str, Any] = dask.config.get("distributed.adaptive", {})
    schema = _SCHEMA["adapt"]
    assert isinstance(schema, Mapping)
    problems: list[str] = []
    dasks = _read({k: v for k, v in _canonical(known).items() if k in schema}, schema, "", problems)
    return replace(own, **_names(dasks | dict(section)))


def _contradictions(options: PoolOptions, prefix: str) -> list[str]:
    """What is wrong with values that are each right by themselves."""
    backoff, problems = options.reconnect, []
    if backoff.initial > backoff.max:
        problems.append(f"{prefix}.reconnect.initial: {backoff.initial:g} s is more than max")
    if options.cookie_file is not None and options.key_file is not None:
        problems.append(f"{prefix}.key-file: contradicts cookie-file; keep one of them")
    return [*problems, *(f"{prefix}.{line}" for line in contradictory_sizes(options))]


def contradictory_sizes(options: PoolOptions) -> list[str]:
    """What is wrong with a size and with what is kept of it, each line beginning with its key."""
    size, adapt, guaranteed = options.size, options.adapt, options.share.guaranteed
    problems, most, what = [], size, "size"
    if adapt is not None:
        if size is not None:
            problems.append(f"size: {size} contradicts adapt; keep one of them")
        most, what = adapt.maximum, "adapt.maximum"
        if most is not None and adapt.minimum > most:
            problems.append(f"adapt.minimum: {adapt.minimum} is more than maximum, {most}")
    if most is not None and guaranteed > most:
        problems.append(f"share.guaranteed: {guaranteed} is more than {what}, {most}")
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
        if own.keys() & {"reconnect", "size", "adapt", "share", *_EITHER}:
            problems += _contradictions(pool, prefix)
        if "cookie-file" in own:
            pool = replace(pool, cookie_key=f"{prefix}.cookie-file")
        if "key-file" in own:
            pool = replace(pool, key_key=f"{prefix}.key-file")
        return pool if "discovery" in read else None
    return None
