"""What the commands share: errors as lines on stderr, and where tables go."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gc_bootstrap.errors import ConfigError, GcBootstrapError, one_line

PIPED_WIDTH = 100_000
"""Of lines that no person looks at: nothing is wrapped that a program is to read."""


def console() -> Console:
    """Make the console for tables: as wide as a terminal, and endless where it is piped."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else PIPED_WIDTH)


def show(out: Console, made: Table) -> None:
    """Print a table; piped, without the blanks that fill its last column."""
    with out.capture() as captured:
        out.print(made)
    lines = captured.get().splitlines()
    out.file.write("".join(f"{line.rstrip()}\n" for line in lines))


def table(
    headings: Sequence[str], rows: Iterable[Sequence[Text | str]], *, whole: Sequence[str]
) -> Table:
    """Make a table of texts, shown as they are: rich would take ``[fd00::5]`` for a style.

    Parameters
    ----------
    headings
        Of the columns. One without any content is left out.
    whole
        The columns that are never wrapped, on no terminal however narrow.
    """
    texts = [[cell if isinstance(cell, Text) else Text(cell) for cell in row] for row in rows]
    shown = [place for place in range(len(headings)) if any(row[place] for row in texts)]
    made = Table(box=None)
    for place in shown:
        heading = headings[place]
        made.add_column(heading, no_wrap=heading in whole, overflow="fold")
    for row in texts:
        made.add_row(*(row[place] for place in shown))
    return made


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
