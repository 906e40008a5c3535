"""What is not needed is not imported: every start of ``dask`` and of a scheduler pays for it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest


def loaded_by(module: str) -> set[str]:
    """The top-level packages that a fresh Python has after importing a module."""
    script = f"import json, sys, {module}; print(json.dumps([*sys.modules]))"
    answer = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=30
    )
    return {name.partition(".")[0] for name in json.loads(answer.stdout)}


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("gc_bootstrap", {"dask", "distributed", "aiohttp", "dns", "jwt", "kubernetes", "rich"}),
        ("gc_bootstrap.cli", {"distributed", "aiohttp", "dns", "jwt", "kubernetes", "rich"}),
        ("gc_bootstrap.preload", {"aiohttp", "dns", "jwt", "kubernetes", "rich"}),
    ],
)
def test_importing_loads_nothing_heavy(module: str, heavy: set[str]) -> None:
    assert loaded_by(module) & heavy == set()
