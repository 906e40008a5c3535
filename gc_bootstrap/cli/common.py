"""What the commands share: errors as lines on stderr."""

from __future__ import annotations

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
