"""Whom an agent has refused: counted always, said once, never more than is bounded."""

from __future__ import annotations

import logging

import pytest

from gc_bootstrap.agent import refusals as module
from gc_bootstrap.agent.refusals import INTERVAL, LINES, REASONS, REMEMBERED, Refusals
from gc_bootstrap.wire.messages import WireError


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(caplog: pytest.LogCaptureFixture) -> Clock:
    caplog.set_level(logging.INFO, module.__name__)
    return Clock()


def _refuse(refusals: Refusals, who: str, error: WireError) -> None:
    with pytest.raises(WireError), refusals.of(who):
        raise error


def test_each_reason_is_said_once_for_each_scheduler_and_counted_each_time(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    refusals = Refusals(clock)
    for _ in range(3):
        for who in ("scheduler A", "scheduler B"):
            refusals.add("token", who, "no token")
            refusals.add("version", who, "python 3.11 here, 3.12 there")
    assert refusals.counts == {"token": 6, "version": 6}
    assert sorted(caplog.messages) == [
        "Refused scheduler A: no token",
        "Refused scheduler A: python 3.11 here, 3.12 there",
        "Refused scheduler B: no token",
        "Refused scheduler B: python 3.11 here, 3.12 there",
    ]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (WireError(401, "no token"), "token"),
        (WireError(403, "no certificate"), "certificate"),
        (WireError(409, "held by another"), "held"),
        (WireError(409, "incompatible", "version"), "version"),
        (WireError(422, "field 'peer' is missing"), "request"),
        (WireError(503, "is draining", "draining"), "draining"),
        (WireError(401, "use this nonce", ""), None),
        (WireError(500, "a worker does not start"), None),
    ],
)
def test_the_reason_is_what_the_error_says_else_what_its_status_means(
    clock: Clock, error: WireError, reason: str | None
) -> None:
    refusals = Refusals(clock)
    _refuse(refusals, "10.0.0.1", error)
    assert refusals.counts == ({reason: 1} if reason else {})
    assert reason is None or reason in REASONS


def test_what_goes_well_counts_for_nothing_and_makes_the_next_refusal_news(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    refusals = Refusals(clock)
    refusals.add("token", "10.0.0.1", "another cookie")
    with refusals.of("10.0.0.1"):
        pass
    refusals.forget("10.0.0.1", "somebody who never was")
    refusals.add("token", "10.0.0.1", "another cookie")
    assert refusals.counts == {"token": 2}
    assert caplog.messages == ["Refused 10.0.0.1: another cookie"] * 2


def test_a_flood_from_everywhere_bounds_the_lines_and_the_memory_and_hides_no_other_reason(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    refusals = Refusals(clock)
    for number in range(20_000):
        refusals.add("token", f"address {number}", "no token")
    assert len(caplog.messages) == LINES
    refusals.add("version", "scheduler A", "another Python")
    assert caplog.messages[-1] == "Refused scheduler A: another Python"
    caplog.clear()
    clock.now += INTERVAL
    refusals.add("token", "address 20000", "no token")
    assert caplog.messages == [
        f"Refused in the last 10 min beside those named: {20_000 - LINES} token",
        "Refused address 20000: no token",
    ]
    for _ in range(2 * REMEMBERED // LINES):
        clock.now += INTERVAL
        for number in range(LINES):
            refusals.add("token", f"at {clock.now}, {number}", "no token")
    assert len(refusals._said) == REMEMBERED
    assert refusals.counts["token"] > 20_000


def test_who_is_refused_all_the_time_is_not_said_again_when_others_come_between(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    refusals = Refusals(clock)
    refusals.add("held", "the standby", "held by another")
    for round_ in range(2 * REMEMBERED // (LINES - 1)):
        clock.now += INTERVAL
        refusals.add("held", "the standby", "held by another")
        for number in range(LINES - 1):
            refusals.add("held", f"scheduler {round_}.{number}", "held by another")
    assert caplog.messages.count("Refused the standby: held by another") == 1


def test_a_refusal_is_one_printable_line_whatever_was_sent(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    Refusals(clock).add("token", "10.0.0.1", "the token\nis\x1b[2J not one " + "x" * 5000)
    (message,) = caplog.messages
    assert message.startswith("Refused 10.0.0.1: the token is?[2J not one xxx")
    assert len(message) < 600
