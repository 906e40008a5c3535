"""Tests that need what not every machine has."""

from __future__ import annotations

import os

import pytest

VARIABLE = "GC_BOOTSTRAP_REQUIRE"


def require(name: str, *, found: object, by_all: bool = True) -> None:
    """Skip the test unless something was found, or fail it where that must not be missing.

    Parameters
    ----------
    name
        What is needed. The test fails without it if ``GC_BOOTSTRAP_REQUIRE`` is ``all`` or names
        it among others, separated by commas.
    found
        True, or anything like it, if it is there.
    by_all
        False for what ``all`` does not ask for: no machine can install it from a registry.
    """
    if found:
        return
    required = {word.strip() for word in os.environ.get(VARIABLE, "").split(",")}
    if name in required or (by_all and "all" in required):
        pytest.fail(f"{name} is required by {VARIABLE}, and is not there", pytrace=False)
    pytest.skip(f"needs {name}")
