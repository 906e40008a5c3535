"""Log lines that look like Dask's, and go where they go."""

from __future__ import annotations

import logging


def log_like_distributed() -> None:
    """Let ``gc_bootstrap``'s log lines go where ``distributed``'s go.

    Dask configures only the loggers that its configuration names. A configuration that names
    ``gc_bootstrap`` (``logging: {gc_bootstrap: debug}``) is left alone.
    """
    import distributed  # noqa: F401 - configures logging on import

    ours, theirs = logging.getLogger("gc_bootstrap"), logging.getLogger("distributed")
    if ours.handlers or ours.level != logging.NOTSET:
        return
    ours.setLevel(theirs.level)
    ours.propagate = theirs.propagate
    for handler in theirs.handlers:
        ours.addHandler(handler)
