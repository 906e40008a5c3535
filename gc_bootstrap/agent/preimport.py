"""Imported by the forkserver itself, before it forks anything: makes the workers' start quick.

The forkserver swallows an ``ImportError`` of what it preloads and dies of any other exception;
this module keeps either for the first child to report.
"""

from __future__ import annotations

import importlib
import os

from gc_bootstrap.agent import signals

VARIABLE = "_GC_BOOTSTRAP_PREIMPORT"
"""Names the agent's process, whose forkserver this is for, and the modules to import. It stays in
the agent's environment for the next forkserver, should this one die."""

FAILURES: dict[str, str] = {}


def _prepare(names: list[str]) -> None:
    signals.shield_forkserver()  # at once: importing may take long
    from gc_bootstrap.agent._dask import get_versions

    for name in names:
        try:
            importlib.import_module(name)
        except Exception as exc:
            FAILURES[name] = f"{type(exc).__name__}: {exc}"
    # Every worker states the versions of a dozen packages; reading them once fills Dask's cache.
    get_versions()
    signals.shield_forkserver()  # a module may have set a handler of its own


_agent, _, _names = os.environ.get(VARIABLE, "").partition(":")
if _agent == str(os.getppid()):
    del os.environ[VARIABLE]  # workers and what they start need not know it
    _prepare([name for name in _names.split(",") if name])
