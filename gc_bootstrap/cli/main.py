"""The command group. Commands are imported when they are called or asked for help.

``dask`` imports this at every start, so it imports click and nothing else.
"""

from __future__ import annotations

from importlib import import_module

import click

_COMMANDS = {
    "agent": "Wait on a worker machine until a scheduler attaches it.",
    "demo": "Form a cluster on this machine, break it, and watch it heal.",
    "keygen": "Make a key pair: the scheduler signs with one half, agents hold the other.",
    "peers": "Ask a discovery once and print its answer.",
    "status": "Print what the pools of a scheduler know.",
}


class _Lazy(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = import_module(f"gc_bootstrap.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(sorted(_COMMANDS.items()))


@click.group(name="pool", cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="gc_bootstrap", prog_name="gc_bootstrap")
def pool() -> None:
    """Dask clusters that form and heal themselves."""
