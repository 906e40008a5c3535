"""``dask pool status``."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import dask.config
from distributed.security import Security
from rich.text import Text

from gc_bootstrap.cli.ask import ask
from gc_bootstrap.cli.common import console, errors_as_lines, show, table
from gc_bootstrap.cli.params import Duration
from gc_bootstrap.cli.report import STATES, claimed, drained, incomplete, rows, summary, troubles
from gc_bootstrap.errors import ConfigError, GcBootstrapError, one_line, os_reason

DEFAULT_SCHEDULER = "tcp://127.0.0.1:8786"

_pem = click.Path(exists=True, resolve_path=True)


@click.command("status")
@click.argument("scheduler", required=False)
@click.option("--scheduler-file", type=click.Path(), help="As written by `dask scheduler`.")
@click.option("--tls-ca-file", type=_pem, help="CA certificate(s) for TLS, in PEM format.")
@click.option("--tls-cert", type=_pem, help="Client certificate for TLS, in PEM format.")
@click.option("--tls-key", type=_pem, help="Client key for TLS, in PEM format.")
@click.option(
    "--timeout",
    default="10s",
    show_default=True,
    type=Duration(),
    help="How long to wait for the answer.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--check",
    is_flag=True,
    help="Print one line, and exit with 1 unless all is well: every pool is started and not paused,"
    " has a complete answer and no error or warning; every peer is a member with all of its"
    " workers, unless it is leaving, not needed or another scheduler's share; and no drain of the"
    " last 10 minutes has lost anything.",
)
def command(
    scheduler: str | None,
    scheduler_file: str | None,
    tls_ca_file: str | None,
    tls_cert: str | None,
    tls_key: str | None,
    timeout: float,
    as_json: bool,
    check: bool,
) -> None:
    """Print what the pools of SCHEDULER know: members, peers held and why, errors.

    SCHEDULER is an address such as tcp://10.0.0.1:8786. Default: Dask's `scheduler-address`
    setting, then port 8786 of this host.
    """
    given = {"tls_ca_file": tls_ca_file, "tls_client_cert": tls_cert, "tls_client_key": tls_key}
    with errors_as_lines():
        address = _address(scheduler, scheduler_file)
        try:
            security = Security(**{key: value for key, value in given.items() if value is not None})
        except (TypeError, ValueError) as exc:
            raise ConfigError(f"TLS: {one_line(exc)}") from exc
        status = asyncio.run(ask(address, security, timeout))
        if as_json:
            click.echo(json.dumps(status))
        try:
            well, line = _check(status) if check else (True, "")
            if not (check or as_json):
                _print(status)
        except (KeyError, TypeError) as exc:
            raise GcBootstrapError(
                f"the scheduler at {address} runs another version of gc_bootstrap, whose answer"
                f" this one does not understand: {one_line(exc)}"
            ) from exc
        if check:
            click.echo(line, err=as_json)
        sys.exit(0 if well else 1)


def _address(scheduler: str | None, file: str | None) -> str:
    if file is not None:
        try:
            return str(json.loads(Path(file).read_text())["address"])
        except OSError as exc:
            raise ConfigError(f"--scheduler-file {file}: {os_reason(exc)}") from exc
        except (ValueError, KeyError, TypeError):
            raise ConfigError(f"--scheduler-file {file}: is not a scheduler file") from None
    configured: str | None = dask.config.get("scheduler-address", None)
    return scheduler or configured or DEFAULT_SCHEDULER


def _print(status: Mapping[str, Any]) -> None:
    out = console()
    scheduler = status["scheduler"]
    out.print(f"Scheduler {scheduler['address']} ({scheduler['id']})", soft_wrap=True)
    for line in status["not-started"]:
        out.print(Text(line, "yellow"), soft_wrap=True)
    for pool in status["pools"]:
        out.print()
        title = Text.assemble(("Pool ", "bold"), (pool["name"], "bold"), f": {summary(pool)}")
        out.print(title.append(", paused", "yellow") if pool["paused"] else title, soft_wrap=True)
        for key, colour in (("error", "red"), ("warning", "yellow")):
            if pool[key]:
                out.print(Text(f"{key}: {pool[key]}", colour), soft_wrap=True)
        if why := incomplete(pool):
            out.print(Text(why, "yellow"), soft_wrap=True)
        found = [
            (row.peer, Text(row.state, STATES[row.state]), row.detail, row.labels)
            for row in rows(pool)
        ]
        if found:
            headings = ["peer", "state", "workers or reason", "labels"]
            show(out, table(headings, found, whole=["peer", "state"]))
        for line in claimed(pool):
            out.print(Text(line, "cyan"), soft_wrap=True)
        for line, colour in drained(pool):
            out.print(Text(line, colour), soft_wrap=True)


def _check(status: Mapping[str, Any]) -> tuple[bool, str]:
    """Whether all is well, and the line that says so."""
    if wrong := troubles(status):
        return False, f"NOT WELL: {'; '.join(wrong)}"
    members = sum(len(pool["members"]) for pool in status["pools"])
    return True, f"OK: pools {len(status['pools'])}, members {members}"
