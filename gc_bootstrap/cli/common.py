"""What the commands share: errors as one line on stderr, and logs that look like Dask's."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

from gc_bootstrap.errors import ConfigError, GcBootstrapError, one_line


@contextmanager
def errors_as_lines(exit_code: int = 1) -> Iterator[None]:
    """End the process with one line per problem instead of a traceback.

    Exit code 2 for what the user wrote (:class:`ConfigError`), ``exit_code`` for what happened.
    """
    try:
        yield
    except ConfigError as exc:
        for problem in exc.problems:
            click.echo(f"Error: {problem}", err=True)
        sys.exit(2)
    except GcBootstrapError as exc:
        click.echo(f"Error: {one_line(exc)}", err=True)
        sys.exit(exit_code)


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
