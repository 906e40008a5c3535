"""Durations are read in one way by every command, and no text whatever makes a traceback."""

from __future__ import annotations

import click
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gc_bootstrap.checks import LONGEST, SHORTEST
from gc_bootstrap.cli import agent, peers, status
from gc_bootstrap.cli.params import Duration

DURATIONS = [
    (peers.command, ["local"], "timeout", SHORTEST),
    (status.command, [], "timeout", SHORTEST),
    (agent.command, [], "drain_timeout", 0.0),
    (agent.command, [], "lease_timeout", agent.SHORTEST_LEASE),
]
ids = [f"{command.name} --{name}" for command, _, name, _ in DURATIONS]


def test_these_are_all_durations_that_commands_have() -> None:
    found = {
        (command.name, parameter.name)
        for command in (peers.command, status.command, agent.command)
        for parameter in command.params
        if isinstance(parameter.type, Duration) or parameter.type is click.FLOAT
    }
    assert found == {(command.name, name) for command, _, name, _ in DURATIONS}


@pytest.mark.parametrize(("command", "arguments", "name", "least"), DURATIONS, ids=ids)
@given(
    text=st.text(max_size=12) | st.from_regex(r"[0-9.e+_ -]{0,9} ?[a-zA-Zµ]{0,3}", fullmatch=True)
)
@example("")
@example("0s")
@example("1e999s")
@example("-1s")
@example("nan")
@example("1e8s")
@example("\udc80")
def test_whatever_is_written_is_a_number_of_seconds_or_a_usage_error(
    command: click.Command, arguments: list[str], name: str, least: float, text: str
) -> None:
    option = f"--{name.replace('_', '-')}"
    said = ""
    try:
        context = command.make_context("x", [*arguments, f"{option}={text}"])
    except click.UsageError as exc:
        said = exc.format_message()
        code = exc.exit_code
    if said:
        assert (code, option in said, "\n" in said) == (2, True, False)
    else:
        assert least <= context.params[name] <= LONGEST


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "'' is not a duration such as 5s"),
        ("soon", "'soon' is not a duration such as 5s"),
        ("1e999s", "'1e999s' is not a duration such as 5s"),
        ("nan", "'nan' is not a duration such as 5s"),
        ("0s", "'0s' is not a duration such as 5s"),
        (".5s", "'.5s' is not a duration such as 5s"),
        ("999ms", "'999ms' is shorter than 1 s"),
        ("366d", "'366d' is longer than 365 days"),
    ],
)
def test_what_is_wrong_with_it_is_said(text: str, reason: str) -> None:
    with pytest.raises(click.BadParameter) as caught:
        Duration(least=1).convert(text, None, None)
    assert caught.value.message == reason


@pytest.mark.parametrize(("text", "seconds"), [("5", 5.0), ("1.5 m", 90.0), (" 2s ", 2.0)])
def test_a_duration_is_read_as_dask_reads_it(text: str, seconds: float) -> None:
    assert Duration().convert(text, None, None) == seconds
