"""``dask pool peers``."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import click

from gc_bootstrap import backends
from gc_bootstrap.cli.common import console, errors_as_lines, show, table
from gc_bootstrap.cli.params import Duration
from gc_bootstrap.cli.report import labels_text
from gc_bootstrap.discovery import Discovery, as_discovery
from gc_bootstrap.errors import DiscoveryError
from gc_bootstrap.peer import Snapshot


@click.command("peers")
@click.argument("discovery")
@click.option(
    "--timeout",
    default="30s",
    show_default=True,
    type=Duration(),
    help="How long to wait for the answer.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(discovery: str, timeout: float, as_json: bool) -> None:
    """Ask DISCOVERY once and print its answer; exit with 1 if it cannot know.

    DISCOVERY is a short form: local, static:10.0.0.5,10.0.0.6, dns:NAME?record-type=srv,
    kubernetes:NAMESPACE/SERVICE, package.module:Class?option=value.
    """
    with errors_as_lines():
        found = as_discovery(backends.load("discovery", discovery, "DISCOVERY"))
        snapshot = asyncio.run(_ask(found, timeout))
    peers: list[dict[str, Any]] = [
        {
            "address": str(peer),
            "leaving": peer in snapshot.leaving,
            "labels": dict(snapshot.labels.get(peer, {})),
        }
        for peer in sorted(snapshot.peers)
    ]
    why = " ".join(snapshot.reason.split())
    if as_json:
        missing = {} if snapshot.complete else {"incomplete": why}
        click.echo(json.dumps({"complete": snapshot.complete, **missing, "peers": peers}))
        return
    rows = [
        (row["address"], "yes" if row["leaving"] else "", labels_text(row["labels"]))
        for row in peers
    ]
    if peers:
        show(console(), table(["peer", "leaving", "labels"], rows, whole=["peer"]))
    complete = "" if snapshot.complete else "; the answer is not complete"
    complete += f": {why}" if why else ""
    click.echo(f"{len(peers)} peer{'' if len(peers) == 1 else 's'}{complete}")


async def _ask(discovery: Discovery, timeout: float) -> Snapshot:
    try:
        async with asyncio.timeout(timeout):
            await discovery.start()
            return await discovery.peers()
    except TimeoutError:
        raise DiscoveryError(f"no answer within {timeout:g} s") from None
    finally:
        await discovery.close()
