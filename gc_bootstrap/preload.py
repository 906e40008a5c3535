"""``dask scheduler --preload gc_bootstrap.preload``."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, NoReturn

import click

from gc_bootstrap.errors import ConfigError
from gc_bootstrap.logs import log_like_distributed
from gc_bootstrap.scheduler.plugin import BootstrapPlugin

if TYPE_CHECKING:
    from distributed import Scheduler

logger = logging.getLogger(__name__)


@click.command(name="gc_bootstrap.preload")
@click.option(
    "--discovery",
    metavar="SPEC",
    help="Whose agents to attach, such as local, static:HOST,HOST or dns:NAME.",
)
@click.option("--cookie-file", metavar="FILE", help="File with the secret that the agents share.")
@click.option(
    "--key-file", metavar="FILE", help="File with the private key whose public half agents have."
)
@click.option("--refresh-interval", metavar="DURATION", help="How often to look, such as 5s.")
async def dask_setup(
    scheduler: Scheduler,
    discovery: str | None,
    cookie_file: str | None,
    key_file: str | None,
    refresh_interval: str | None,
) -> None:
    """Attach the agents that a discovery finds."""
    log_like_distributed()
    try:
        plugin = _PreloadedPlugin.unchecked(
            discovery=discovery,
            cookie_file=cookie_file,
            key_file=key_file,
            refresh_interval=refresh_interval,
        )
        await asyncio.to_thread(plugin.prepare, scheduler)
    except ConfigError as exc:
        await _give_up(exc)
    except Exception:
        logger.exception("The pools could not be made; ending the scheduler")
        await _end_process(1)
    if plugin.pools:  # if not, it has said why
        scheduler.add_plugin(plugin)


class _PreloadedPlugin(BootstrapPlugin):
    """Ends a scheduler whose configuration turns out at its start to be a bad one."""

    async def start(self, scheduler: Scheduler) -> None:
        try:
            await super().start(scheduler)
        except ConfigError as exc:
            await _give_up(exc)


async def _give_up(exc: ConfigError) -> NoReturn:
    for problem in exc.problems:
        click.echo(f"gc_bootstrap: {problem}", err=True)
    await _end_process(2)


async def _end_process(code: int) -> NoReturn:
    """End the scheduler, tidily, from within its start.

    Dask logs an exception of a preload and carries on without it; a scheduler that looks healthy
    and attaches nobody is worse than one that does not start. Raised from a callback and not from
    this task, `SystemExit` leaves the event loop without asyncio reporting a failed task.
    """

    def leave() -> NoReturn:
        raise SystemExit(code)

    asyncio.get_running_loop().call_soon(leave)
    await asyncio.Event().wait()
    raise AssertionError("the event loop went on after SystemExit")
