"""Imported by the forkserver itself, before it forks anything: makes the workers' start quick.

The forkserver swallows an ``ImportError`` of what it preloads and dies of any other exception;
this module keeps either for the first child to report.
"""

from __future__ import annotations

import importlib
import os
import signal

VARIABLE = "_GC_BOOTSTRAP_PREIMPORT"
"""Names the modules to import; set in the forkserver only."""

FAILURES: dict[str, str] = {}


def _prepare(names: list[str]) -> None:
    from gc_bootstrap.agent._dask import get_versions

    for name in names:
        try:
            importlib.import_module(name)
        except Exception as exc:
            FAILURES[name] = f"{type(exc).__name__}: {exc}"
    # Every worker states the versions of a dozen packages; reading them once fills Dask's cache.
    get_versions()
    # Ctrl-C in a terminal reaches the workers as well as the agent. The agent alone acts on it:
    # it moves their data away first.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


if VARIABLE in os.environ:
    _prepare([name for name in os.environ[VARIABLE].split(",") if name])
