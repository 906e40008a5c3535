"""``dask pool status``."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import dask.config
from distributed.core import rpc
from distributed.security import Security
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gc_bootstrap.cli.common import errors_as_lines
from gc_bootstrap.errors import ConfigError, GcBootstrapError, one_line
from gc_bootstrap.wire.names import STATUS_HANDLER

DEFAULT_SCHEDULER = "tcp://127.0.0.1:8786"

_pem = click.Path(exists=True, resolve_path=True)


@click.command("status")
@click.argument("scheduler", required=False)
@click.option("--scheduler-file", type=click.Path(), help="As written by `dask scheduler`.")
@click.option("--tls-ca-file", type=_pem, help="CA certificate(s) for TLS, in PEM format.")
@click.option("--tls-cert", type=_pem, help="Client certificate for TLS, in PEM format.")
@click.option("--tls-key", type=_pem, help="Client key for TLS, in PEM format.")
@click.option("--timeout", default=10.0, show_default=True, help="Seconds to wait for the answer.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    scheduler: str | None,
    scheduler_file: str | None,
    tls_ca_file: str | None,
    tls_cert: str | None,
    tls_key: str | None,
    timeout: float,
    as_json: bool,
) -> None:
    """Print what the pools of SCHEDULER know: members, peers held and why, errors.

    SCHEDULER is an address such as tcp://10.0.0.1:8786. Default: Dask's `scheduler-address`
    setting, then port 8786 of this host.
    """
    given = {"tls_ca_file": tls_ca_file, "tls_client_cert": tls_cert, "tls_client_key": tls_key}
    with errors_as_lines():
        address = _address(scheduler, scheduler_file)
        security = Security(**{key: value for key, value in given.items() if value is not None})
        status = asyncio.run(_ask(address, security, timeout))
    if as_json:
        click.echo(json.dumps(status))
    else:
        _print(status)


def _address(scheduler: str | None, file: str | None) -> str:
    if file is not None:
        try:
            return str(json.loads(Path(file).read_text())["address"])
        except OSError as exc:
            raise ConfigError(f"--scheduler-file {file}: {exc.strerror}") from exc
        except (ValueError, KeyError, TypeError):
            raise ConfigError(f"--scheduler-file {file}: is not a scheduler file") from None
    configured: str | None = dask.config.get("scheduler-address", None)
    return scheduler or configured or DEFAULT_SCHEDULER


async def _ask(address: str, security: Security, timeout: float) -> dict[str, Any]:
    arguments = security.get_connection_args("client")
    try:
        async with (
            asyncio.timeout(timeout + 1),  # the connection's own timeout says more
            rpc(address, timeout=timeout, connection_args=arguments) as scheduler,
        ):
            status = await getattr(scheduler, STATUS_HANDLER)()
    except TimeoutError:
        raise GcBootstrapError(f"no answer from {address} within {timeout:g} s") from None
    except (OSError, ValueError, RuntimeError) as exc:
        raise GcBootstrapError(f"cannot ask the scheduler at {address}: {one_line(exc)}") from exc
    if not isinstance(status, dict):  # what Dask answers to an operation that it does not know
        raise GcBootstrapError(f"the scheduler at {address} has no pools")
    return status


def _print(status: Mapping[str, Any]) -> None:
    console = Console(highlight=False)
    scheduler = status["scheduler"]
    console.print(f"Scheduler {scheduler['address']} ({scheduler['id']})", soft_wrap=True)
    for pool in status["pools"]:
        members, peers = pool["members"], pool["peers"]
        every = pool["refresh-interval"]
        console.print(
            f"\n[bold]Pool {escape(pool['name'])}[/bold]: members {len(members)},"
            f" peers {len(peers)}{'' if pool['complete'] else ' (perhaps more)'}"
            f" by {escape(pool['discovery'])}, refreshes {pool['refreshes']}"
            f" ({'once' if every is None else f'every {every:g} s'})"
            + (", [yellow]paused[/yellow]" if pool["paused"] else ""),
            soft_wrap=True,
        )
        for key, colour in (("error", "red"), ("warning", "yellow")):
            if pool[key]:
                console.print(f"[{colour}]{key}: {escape(pool[key])}[/{colour}]", soft_wrap=True)
        if rows := _rows(pool):
            table = Table("peer", "state", "workers or reason", box=None)
            for row in rows:
                table.add_row(*map(escape, row))
            console.print(table)


def _rows(pool: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """A row per peer, members first."""
    rows = []
    for member in pool["members"]:
        state = "leaving" if member in pool["disconnecting"] else "member"
        reason = pool["progress"].get(member) or pool["held"].get(member)
        workers = ", ".join(pool["workers"].get(member, ()))
        rows.append((member, state, f"{workers} ({reason})" if reason else workers))
    rows += [(peer, "attaching", "") for peer in pool["connecting"] if peer not in pool["members"]]
    rows += [
        (peer, "held", reason)
        for peer, reason in pool["held"].items()
        if peer not in pool["members"]
    ]
    return rows
