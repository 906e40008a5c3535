"""Turning what a configuration names into an object: built in, by entry point, or module:Class.

Belongs here: names, short forms and options. Does not belong here: what a backend does.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal
from urllib.parse import parse_qsl

from dask.config import interpret_value

from gc_bootstrap.errors import ConfigError, UnconfiguredError, one_line

Kind = Literal["discovery", "dist"]

_MODULE_ATTR = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*\Z")


class Backend:
    """What discoveries and dists have in common: how they are named in a configuration."""

    @classmethod
    def options_from_text(cls, text: str) -> Mapping[str, Any]:
        """Read the short form's part after ``name:`` and before ``?``.

        Parameters
        ----------
        text
            May be empty, as in ``local:``.

        Returns
        -------
        Mapping
            Keyword arguments of the constructor.

        Raises
        ------
        ConfigError
            The text is not one; the message says what was expected.
        """
        if text:
            raise ConfigError(f"{text!r}: nothing was expected here")
        return {}

    @classmethod
    def options_from_list(cls, values: list[Any]) -> Mapping[str, Any]:
        """Read ``{name: [...]}``; see :meth:`options_from_text`."""
        raise ConfigError(f"{values!r} is a list; expected {{option: value}}")


def names(kind: Kind) -> dict[str, EntryPoint]:
    """The names that a configuration can use, and where each leads."""
    return {point.name: point for point in entry_points(group=f"gc_bootstrap.{kind}")}


def load(kind: Kind, value: Any, key: str) -> Any:
    """Make the backend that ``value`` names. Constructors do no I/O, so this is quick and safe.

    Parameters
    ----------
    kind
        Of what to load.
    value
        ``"name"``, ``"name:text?option=value"``, ``"package.module:Class?option=value"``, or
        ``{name: options}``. Anything that is neither text nor a mapping is handed through.
    key
        The configuration key, for messages.

    Returns
    -------
    Any
        The object that the class made, or the function itself.

    Raises
    ------
    ConfigError
        Unknown name, unknown or missing option, or the backend refused an option.
    """
    if not isinstance(value, str | Mapping):
        return value
    if isinstance(value, Mapping):
        if len(value) != 1:
            raise ConfigError(f"{key}: {value!r} does not name one {kind}")
        ((name, options),) = value.items()
        target, text = _find(kind, str(name), key)
        if text:
            raise ConfigError(f"{key}: {name!r}: options belong under the name, not into it")
    else:
        target, text = _find(kind, value, key)
        options = text
    try:
        return _make(kind, target, _keywords(target, options))
    except UnconfiguredError as exc:
        raise UnconfiguredError(f"{key}: {value!r} {exc}") from exc
    except Exception as exc:
        # Whatever a third party's constructor raises is this configuration's problem.
        raise ConfigError(f"{key}: {one_line(exc)}") from exc


def _find(kind: Kind, value: str, key: str) -> tuple[Any, str]:
    """Split ``value`` into the object that its front names and the text behind it."""
    known = names(kind)
    front, query_mark, query = value.partition("?")
    name, _, text = front.partition(":")
    rest = text + query_mark + query
    if name in known:
        return _import(known[name].value, f"{key}: {value!r}"), rest
    why = ""
    if _MODULE_ATTR.match(front):
        try:
            return _import(front, f"{key}: {value!r}"), query_mark + query
        except ModuleNotFoundError as exc:
            why = f" ({exc})"
    close = difflib.get_close_matches(name.lower(), known, n=1)
    hint = f", did you mean {close[0]}?" if close else why
    raise ConfigError(
        f"{key}: {value!r} is not a known {kind}{hint}; there are: {', '.join(sorted(known))}, or"
        " package.module:Class"
    )


def _import(path: str, where: str) -> Any:
    """Import what ``module:attribute`` names; ModuleNotFoundError where there is no such module."""
    module_name, _, attributes = path.partition(":")
    try:
        target: Any = importlib.import_module(module_name)
    except Exception as exc:
        if isinstance(exc, ModuleNotFoundError) and module_name.startswith(exc.name or "\0"):
            raise
        # Whatever a third party's module raises on import is this configuration's problem.
        raise ConfigError(f"{where}: cannot import {module_name}: {one_line(exc)}") from exc
    for attribute in attributes.split("."):
        try:
            target = getattr(target, attribute)
        except AttributeError:
            raise ConfigError(f"{where}: {module_name} has no {attributes}") from None
    return target


def _keywords(target: Any, options: Any) -> dict[str, Any]:
    is_backend = isinstance(target, type) and issubclass(target, Backend)
    if options is None:
        return {}
    if isinstance(options, str):
        text, _, query = options.partition("?")
        keywords: dict[str, Any] = {}
        if is_backend:
            keywords.update(target.options_from_text(text))
        elif text:
            raise ConfigError(f"{text!r}: nothing was expected here")
        try:
            pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
        except ValueError:
            raise ConfigError(f"{query!r} is not option=value&option=value") from None
        keywords.update((option, interpret_value(text)) for option, text in pairs)
    elif isinstance(options, list) and is_backend:
        keywords = dict(target.options_from_list(options))
    elif isinstance(options, Mapping):
        keywords = dict(options)
    else:
        raise ConfigError(f"{options!r} is not {{option: value}}")
    return {str(option).replace("-", "_"): given for option, given in keywords.items()}


def _make(kind: Kind, target: Any, keywords: dict[str, Any]) -> Any:
    if not callable(target):
        raise ConfigError(f"{target!r} is neither a class nor a function")
    if kind == "discovery" and not isinstance(target, type):
        return _function(target, keywords)
    parameters = inspect.signature(target).parameters.values()
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        known = {p.name.replace("_", "-"): p.default is p.empty for p in parameters}
        for option in keywords:
            if (written := option.replace("_", "-")) not in known:
                there_are = f"there are: {', '.join(sorted(known))}" if known else "it takes none"
                raise ConfigError(f"unknown option {written!r}; {there_are}")
        for option, required in known.items():
            if required and option.replace("-", "_") not in keywords:
                raise ConfigError(f"option {option!r} is missing")
    return target(**keywords)


def _function(target: Any, keywords: dict[str, Any]) -> Any:
    """A function is called at each look, and with nothing."""
    name = getattr(target, "__qualname__", repr(target))
    if keywords:
        raise ConfigError(f"{name} is a function and takes no options")
    try:
        inspect.signature(target).bind()
    except TypeError as exc:
        raise ConfigError(f"{name} is a function and must need no argument: {exc}") from None
    except ValueError:
        pass  # written in C, and says nothing of itself
    return target
