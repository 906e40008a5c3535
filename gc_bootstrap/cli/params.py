"""Types of options that several commands have."""

from __future__ import annotations

from typing import Any

import click

from gc_bootstrap import checks


class Duration(click.ParamType):  # type: ignore[type-arg]  # no generic in click 8.1
    """A duration such as ``5s``, in seconds; read and bounded as in the configuration.

    Parameters
    ----------
    least
        Seconds; shorter ones are refused. 0 allows to write ``0s``.
    """

    name = "duration"

    def __init__(self, least: float = checks.SHORTEST) -> None:
        self.least = least

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Read what was written."""
        try:
            return checks.duration(value, least=self.least)
        except checks.BadValueError as exc:
            self.fail(f"{value!r} {exc}", param, ctx)
