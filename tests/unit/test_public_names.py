"""The names that others build on: all there, and all that they lead to as well."""

from __future__ import annotations

import collections.abc
import inspect
import typing
from collections.abc import Iterator
from typing import Any

import distributed
import pytest
from tornado.ioloop import IOLoop

import gc_bootstrap
from gc_bootstrap.config import DEFAULTS

PUBLIC = {name: getattr(gc_bootstrap, name) for name in gc_bootstrap.__all__}


def test_dir_shows_the_public_names() -> None:
    assert set(gc_bootstrap.__all__) <= set(dir(gc_bootstrap))
    assert "__version__" in dir(gc_bootstrap)


def test_what_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Pols'"):
        _ = gc_bootstrap.Pols


def _signatures(kind: type) -> Iterator[tuple[str, Any]]:
    for name, member in inspect.getmembers(kind):
        if name.startswith("_") and name != "__init__":
            continue
        function = member.fget if isinstance(member, property) else member
        if inspect.isfunction(function) or inspect.ismethod(function):
            yield name, function
    if "__annotations__" in vars(kind):
        yield "its fields", kind


def _leaves(hint: Any) -> Iterator[Any]:
    yield hint
    for argument in typing.get_args(hint):
        yield from _leaves(argument)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_class_in_a_public_signature_is_public(name: str) -> None:
    # What only type checkers import.
    there = {**vars(collections.abc), **vars(distributed), "IOLoop": IOLoop, **PUBLIC}
    for member, function in _signatures(PUBLIC[name]):
        module = inspect.getmodule(function)
        assert module is not None
        if not module.__name__.startswith("gc_bootstrap"):
            continue
        hints = typing.get_type_hints(function, {**there, **vars(module)})
        for hint in (leaf for value in hints.values() for leaf in _leaves(value)):
            if inspect.isclass(hint) and hint.__module__.startswith("gc_bootstrap"):
                assert hint in PUBLIC.values(), f"{name}, {member}: {hint.__qualname__}"


def test_the_plugins_docstring_names_every_option() -> None:
    text = gc_bootstrap.BootstrapPlugin.__doc__
    assert text is not None
    for key in DEFAULTS:
        assert f"{key.replace('-', '_')} : " in text or key == "discovery", key
