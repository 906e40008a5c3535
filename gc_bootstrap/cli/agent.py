"""``dask pool agent``."""

from __future__ import annotations

import atexit
import gc
import logging
import os
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click
import dask.config

from gc_bootstrap.agent import warm
from gc_bootstrap.agent._dask import (
    asyncio_run,
    enable_proctitle_on_children,
    enable_proctitle_on_current,
    get_loop_factory,
)
from gc_bootstrap.agent.deletion_cost import Pod
from gc_bootstrap.agent.listen import Listen
from gc_bootstrap.agent.options import click_parameters, worker_options
from gc_bootstrap.agent.run import AgentOptions, run
from gc_bootstrap.cli.common import errors_as_lines
from gc_bootstrap.cli.params import Duration
from gc_bootstrap.config import DEFAULTS
from gc_bootstrap.errors import ConfigError, one_line, os_reason
from gc_bootstrap.logs import log_like_distributed
from gc_bootstrap.wire import cookie as cookies
from gc_bootstrap.wire import keys
from gc_bootstrap.wire.keys import Trusted

_SECRETS = ("GC_BOOTSTRAP_COOKIE", "GC_BOOTSTRAP_KEY", "DASK_GC_BOOTSTRAP__")
"""How variables begin that hold a secret, or say where one is."""

SHORTEST_LEASE = 1.0
"""Seconds. Within them a scheduler is asked several times; a busy one needs a moment to answer."""


class _AgentCommand(click.Command):
    """Reads a bad ``--preload`` as a usage error: Dask imports it while it parses."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as exc:
            raise click.UsageError(f"--preload: {one_line(exc)}", ctx) from exc


@click.command("agent", cls=_AgentCommand, context_settings={"ignore_unknown_options": True})
@click.option(
    "--listen",
    metavar="HOST:PORT",
    help="Where to serve the control API."
    "  [default: 127.0.0.1:8791, or a free port where that is taken]",
)
@click.option(
    "--cookie-file",
    metavar="FILE",
    help="File with the secret that the scheduler shares.  [env: GC_BOOTSTRAP_COOKIE_FILE]",
)
@click.option(
    "--public-key-file",
    metavar="FILE",
    help="In place of a cookie: file with the public key of each scheduler that may attach it."
    "  [env: GC_BOOTSTRAP_PUBLIC_KEY_FILE]",
)
@click.option(
    "--drain-timeout",
    default="60s",
    show_default=True,
    type=Duration(least=0),
    help="How long SIGTERM waits for tasks to finish and data to be moved away.",
)
@click.option(
    "--lease-timeout",
    default="5m",
    show_default=True,
    type=Duration(least=SHORTEST_LEASE),
    help="How long a scheduler may give no sign of life before another can attach this agent;"
    f" at least {SHORTEST_LEASE:g}s.",
)
@click.option(
    "--import",
    "imports",
    multiple=True,
    metavar="MODULES",
    help="Modules to import before any worker starts, separated by commas.",
)
@click.option(
    "--pod-deletion-cost",
    is_flag=True,
    envvar="GC_BOOTSTRAP_POD_DELETION_COST",
    help="In Kubernetes: have a scale-down of a Deployment take idle agents first, by an annotation"
    " of the agent's own pod. Needs the right to patch pods/status, and POD_NAME and POD_NAMESPACE."
    "  [env: GC_BOOTSTRAP_POD_DELETION_COST]",
)
@click.option("--insecure", is_flag=True, help="Let whoever reaches the agent run code here.")
def command(
    listen: str | None,
    cookie_file: str | None,
    public_key_file: str | None,
    drain_timeout: float,
    lease_timeout: float,
    imports: Sequence[str],
    pod_deletion_cost: bool,
    insecure: bool,
    pid_file: str,
    **worker: Any,
) -> None:
    """Wait until a scheduler attaches this machine, then run Dask workers for it.

    Takes the options of `dask worker`, and needs no scheduler: the scheduler finds the agent.
    """
    # As `dask worker` does: https://github.com/dask/distributed/issues/1653
    gc.set_threshold(*(3 * threshold for threshold in gc.get_threshold()))
    enable_proctitle_on_current()
    enable_proctitle_on_children()
    log_like_distributed()
    with errors_as_lines():
        own = [name.strip() for text in imports for name in text.split(",") if name.strip()]
        options = AgentOptions(
            workers=worker_options({**worker, "pid_file": pid_file}),
            listen=Listen.parse(listen),
            trusted=_trusted(cookie_file, public_key_file),
            insecure=insecure,
            drain_timeout=drain_timeout,
            lease_timeout=lease_timeout,
            pod=Pod.find(os.environ, "--pod-deletion-cost") if pod_deletion_cost else None,
        )
        if pid_file:
            try:
                Path(pid_file).write_text(str(os.getpid()))
            except OSError as exc:
                raise ConfigError(f"--pid-file {pid_file}: {os_reason(exc)}") from exc
            atexit.register(partial(Path(pid_file).unlink, missing_ok=True))
        prepare = partial(warm.warm_up, own, options.workers.preload)
        if not options.workers.nanny:
            prepare = partial(warm.import_here, own)
        asyncio_run(_run(options, prepare, pid_file), loop_factory=get_loop_factory())


async def _run(
    options: AgentOptions, prepare: Callable[[], Awaitable[None]], pid_file: str
) -> None:
    if await run(options, prepare):
        # asyncio would wait for the thread that is left: for minutes, or for ever.
        warm.stop_forkserver()
        if pid_file:
            Path(pid_file).unlink(missing_ok=True)  # noqa: ASYNC240 - nobody else is left to wait
        logging.shutdown()
        os._exit(0)


command.params.extend(click_parameters())


def _trusted(cookie_file: str | None, public_key_file: str | None) -> Trusted | None:
    """What requests must be signed with: what an option names, else the environment or Dask's."""
    try:
        if cookie_file is not None and public_key_file is not None:
            raise ConfigError("--public-key-file: contradicts --cookie-file; keep one of them")
        if cookie_file is not None:
            return _cookie(cookie_file)
        public = keys.find_public(public_key_file)
        if public_key_file is not None:
            return public
        cookie = _cookie(None)
        if public is not None and cookie is not None:
            raise ConfigError(f"{public.where}: contradicts the cookie from {cookie.where}")
        return public or cookie
    finally:
        _hide_from_workers()


def _cookie(file: str | None) -> cookies.Cookie | None:
    configured = dask.config.get("gc-bootstrap.cookie-file", None)
    key = "--cookie-file"
    if file is None and configured is not None and not os.environ.get(cookies.FILE_VARIABLE):
        file, key = str(configured), "gc-bootstrap.cookie-file"
    return cookies.find(file, key=key)


def _hide_from_workers() -> None:
    """Forget what leads to a secret: workers inherit this process' environment and Dask's settings.

    Who may attach agents is none of their business, nor is where that is written.
    """
    for name in list(os.environ):
        if name.upper().startswith(_SECRETS):
            del os.environ[name]
    dask.config.set({"gc-bootstrap": dict(DEFAULTS)})
