"""A pool's peers in a notebook: HTML, of texts that discoveries and agents have said."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from gc_bootstrap.cli.report import STATES, Row, claimed, incomplete, rows, summary

MOST = 100
"""Rows that are shown; the others are counted."""
_COLOURS = {
    "green": "#2e7d32",
    "yellow": "#b26a00",
    "cyan": "#00838f",
    "red": "#c62828",
    "dim": "#757575",
}
_LEFT = 'style="text-align: left;"'


def pools(status: Mapping[str, Any]) -> str:
    """Rows of a table: each pool in a line, with its peers below.

    Parameters
    ----------
    status
        As ``dask pool status --json`` prints it.
    """
    lines = [_line(_coloured(line, "yellow")) for line in status["not-started"]]
    return "".join([*lines, *map(_pool, status["pools"])])


def _line(content: str) -> str:
    return f'<tr><td colspan="2" {_LEFT}>{content}</td></tr>'


def _coloured(text: str, colour: str) -> str:
    return f'<span style="color: {_COLOURS.get(colour, "inherit")};">{escape(text)}</span>'


def _pool(pool: Mapping[str, Any]) -> str:
    title = f"<strong>Pool {escape(pool['name'])}:</strong> {escape(summary(pool))}"
    said = [(pool["error"], "red"), (pool["warning"], "yellow"), (incomplete(pool), "yellow")]
    said += [(line, "dim") for line in claimed(pool)]
    notes = "".join(f"<br>{_coloured(text, colour)}" for text, colour in said if text)
    found = rows(pool)
    more = f"<p>and {len(found) - MOST} more</p>" if len(found) > MOST else ""
    head = "".join(
        f"<th {_LEFT}>{name}</th>" for name in ("Agent", "State", "Workers or reason", "")
    )
    body = "".join(map(_row, found[:MOST]))
    table = f'<table style="width: 100%;"><tr>{head}</tr>{body}</table>'
    peers = f"<details><summary>{len(found)} agents</summary>{table}{more}</details>"
    return _line(title + notes + (peers if found else ""))


def _row(row: Row) -> str:
    cells = (
        escape(row.peer),
        _coloured(row.state, STATES[row.state]),
        escape(row.detail),
        escape(row.labels),
    )
    return f"<tr>{''.join(f'<td {_LEFT}>{cell}</td>' for cell in cells)}</tr>"


def sizes(status: Mapping[str, Any]) -> str:
    """What each pool should hold and does: the widget's page on scaling."""
    rows = "".join(_size(pool) for pool in status["pools"])
    return f"<table>{rows}</table>"


def _size(pool: Mapping[str, Any]) -> str:
    adapt, size = pool["adapt"], pool["size"]
    if adapt is not None:
        maximum = "all that there are" if adapt["maximum"] is None else adapt["maximum"]
        mode = f"adaptive, {adapt['minimum']} to {maximum}"
    else:
        mode = "all that nobody else needs" if size == "all" else f"{size}"
    wanted = "" if pool["wanted"] is None else f" of {pool['wanted']} wanted"
    text = f"{pool['name']}: {mode}; has {len(pool['members'])}{wanted}"
    return f"<tr><td {_LEFT}>{escape(text)}</td></tr>"
