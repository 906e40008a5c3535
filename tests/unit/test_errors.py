"""Errors: their texts, and that they survive a pickle."""

from __future__ import annotations

import pickle
import socket
import ssl

import pytest

from gc_bootstrap import errors
from gc_bootstrap.errors import ConfigError, DiscoveryError, DistError, GcBootstrapError, one_line


def test_a_config_error_keeps_its_problems_apart() -> None:
    assert ConfigError("one").problems == ("one",)
    assert ConfigError(line for line in ("one", "two")).problems == ("one", "two")
    assert str(ConfigError(["one", "two"])) == "one\ntwo"


def test_a_config_error_survives_a_pickle() -> None:
    again = pickle.loads(pickle.dumps(ConfigError(["one", "two"])))
    assert type(again) is ConfigError
    assert again.problems == ("one", "two")


@pytest.mark.parametrize("name", ["ConfigError", "PeerError", "DiscoveryError", "DistError"])
def test_all_of_ours_can_be_caught_together(name: str) -> None:
    assert issubclass(getattr(errors, name), GcBootstrapError)


def caused(exc: Exception, cause: Exception) -> Exception:
    exc.__cause__ = cause
    return exc


@pytest.mark.parametrize(
    ("exc", "line"),
    [
        (DistError("is not reachable"), "is not reachable"),
        (DiscoveryError("two\n  lines"), "two lines"),
        (ConfigError(["one", "two"]), "one two"),
        (DistError(), "DistError"),
        (ValueError("not enough values"), "ValueError: not enough values"),
        (KeyError("a"), "KeyError: 'a'"),
        (ValueError(), "ValueError"),
        (TimeoutError("\n"), "TimeoutError"),
        (caused(OSError("no"), ValueError("why")), "OSError: no (ValueError: why)"),
        (caused(OSError("no"), DistError("why")), "OSError: no (why)"),
        (caused(DistError("no"), ValueError("why")), "no"),
        (caused(DistError(), ValueError("why")), "DistError (ValueError: why)"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_exception_in_one_line(exc: Exception, line: str) -> None:
    assert one_line(exc) == line


def test_the_reason_of_a_tls_error_is_not_that_of_the_errno_with_the_same_number() -> None:
    wrong = ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number")
    assert errors.os_reason(wrong) == "[SSL: WRONG_VERSION_NUMBER] wrong version number"


def test_the_reason_of_a_name_that_does_not_resolve_is_the_resolvers_whoever_wraps_it() -> None:
    wrapped = OSError(socket.EAI_AGAIN, "Temporary failure in name resolution")
    for exc in (wrapped, socket.gaierror(*wrapped.args)):
        assert errors.os_reason(exc) == "Temporary failure in name resolution"
