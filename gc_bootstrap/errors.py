"""The exceptions of gc_bootstrap. Each message is one line that a person can act on."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Iterable, Sequence


class GcBootstrapError(Exception):
    """Base of everything that gc_bootstrap raises on purpose."""


class ConfigError(GcBootstrapError, ValueError):
    """The configuration cannot be used.

    Parameters
    ----------
    problems
        One line each: the key, the value, what was expected.
    """

    def __init__(self, problems: str | Iterable[str]) -> None:
        self.problems = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))

    def __reduce__(self) -> tuple[type[ConfigError], tuple[tuple[str, ...]]]:
        return type(self), (self.problems,)


class UnconfiguredError(ConfigError):
    """What was written names nobody, as where a variable is unset: nothing is started for it."""


class PeerError(GcBootstrapError, ValueError):
    """A text or a (host, port) pair does not name a peer."""


class DiscoveryError(GcBootstrapError):
    """A discovery cannot know who the peers are. Never the same as "there are none"."""


class DistError(GcBootstrapError):
    """A dist could not ask a peer, or could not make sense of what it answered.

    Parameters
    ----------
    soon
        As :attr:`.Outcome.soon`.
    """

    def __init__(self, *args: object, soon: bool = False) -> None:
        super().__init__(*args)
        self.soon = soon


def one_line(exc: BaseException) -> str:
    """Describe an exception in one line, its cause included where it says more.

    Returns
    -------
    str
        The message of one of ours as it is; ``TypeName: message`` of any other.
    """
    text = " ".join(str(exc).split())
    if isinstance(exc, GcBootstrapError) and text:
        return text
    name = type(exc).__name__
    line = f"{name}: {text}" if text else name
    if exc.__cause__ is not None:
        line = f"{line} ({one_line(exc.__cause__)})"
    return line


def several(problems: Sequence[str], most: int = 3) -> str:
    """Say some problems in one line: so many, and how many more there are."""
    more = f"; and {len(problems) - most} more" if len(problems) > most else ""
    return "; ".join(problems[:most]) + more


def os_reason(exc: OSError) -> str:
    """The system's word for an error, without what libraries wrap around it."""
    inner = exc.__cause__ if exc.errno is None and isinstance(exc.__cause__, OSError) else exc
    # Those two count in numbers of their own; those of the resolver are negative, whoever wraps it.
    own_numbers = isinstance(inner, socket.gaierror | ssl.SSLError)
    if inner.errno is not None and inner.errno > 0 and not own_numbers:
        return os.strerror(inner.errno)
    return inner.strerror or one_line(inner)
