"""Imported by the forkserver itself, before it forks anything: makes the workers' start quick.

The forkserver swallows an ``ImportError`` of what it preloads and dies of any other exception;
this module keeps either for the first child to report.
"""

from __future__ import annotations

import importlib
import os

from distributed.versions import get_versions

VARIABLE = "_GC_BOOTSTRAP_PREIMPORT"

FAILURES: dict[str, str] = {}

for _name in filter(None, os.environ.get(VARIABLE, "").split(",")):
    try:
        importlib.import_module(_name)
    except Exception as _exc:
        FAILURES[_name] = f"{type(_exc).__name__}: {_exc}"

# Every worker states the versions of a dozen packages; reading them once fills Dask's cache.
get_versions()
