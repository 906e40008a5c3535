"""``dask pool keygen``."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import click

from gc_bootstrap.cli.common import errors_as_lines
from gc_bootstrap.errors import ConfigError, os_reason
from gc_bootstrap.wire import keys

PRIVATE, PUBLIC = "private.pem", "public.pem"


@click.command("keygen")
@click.argument("folder", metavar="[DIR]", default=".", type=click.Path(path_type=Path))
def command(folder: Path) -> None:
    """Make a key pair in place of a cookie.

    Writes DIR/private.pem for the scheduler alone (--key-file) and DIR/public.pem for its agents
    (--public-key-file). Nothing is overwritten.
    """
    private, public = folder / PRIVATE, folder / PUBLIC
    with errors_as_lines():
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as exc:
            raise ConfigError(f"{folder}: {os_reason(exc)}") from exc
        secret, known = keys.generate()
        _write(private, secret, 0o600)
        try:
            _write(public, known, 0o644)
        except ConfigError:
            private.unlink()  # half a pair is of no use
            raise
    click.echo(f"Wrote {private} for the scheduler alone, and {public} for its agents.")


def _write(path: Path, content: bytes, mode: int) -> None:
    """Write a new file, whole or not at all."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except OSError as exc:
        raise ConfigError(f"{path}: {os_reason(exc)}; nothing has been written") from exc
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(content)
    except OSError as exc:
        with suppress(OSError):
            path.unlink()
        raise ConfigError(f"{path}: {os_reason(exc)}; nothing has been written") from exc
