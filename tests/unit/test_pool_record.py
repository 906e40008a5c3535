"""What a pool says in its log of what came of its plans."""

from __future__ import annotations

import logging

import pytest

from gc_bootstrap.config import PoolOptions
from gc_bootstrap.peer import Outcome, Peer, Snapshot
from gc_bootstrap.pool.record import Record
from gc_bootstrap.stake import Capacity, Holder, Stake, Survey

A = Peer("10.0.0.1")
UNREACHABLE = Outcome.refused("cannot reach the scheduler that claims it", soon=True)
HELD = Survey(Capacity(), Holder("tcp://10.0.0.9:8786", "Scheduler-9", Stake(3)))


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def warnings(caplog: pytest.LogCaptureFixture) -> int:
    return sum(record.levelno == logging.WARNING for record in caplog.records)


def a_record(clock: Clock) -> Record:
    return Record("default", PoolOptions(), lambda _: None, clock, lambda: 0.5)


def test_claims_that_fail_again_and_again_are_said_once(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    record = a_record(clock)
    for _ in range(100):
        record.surveyed(A, HELD)
        record.connected(A, UNREACHABLE, clock.now)
        clock.now += 1
    assert warnings(caplog) == 1


def test_a_failure_after_a_success_is_said_again(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    record = a_record(clock)
    for _ in range(2):
        record.connected(A, UNREACHABLE, clock.now)
        record.connected(A, Outcome.DONE, clock.now)
    assert warnings(caplog) == 2


def test_a_failure_is_said_again_of_a_peer_that_went_and_came_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = Clock()
    record = a_record(clock)
    for found in ({A}, set(), {A}):
        record.looked(Snapshot(frozenset(found)), frozenset())
        if found:
            record.connected(A, UNREACHABLE, clock.now)
    assert warnings(caplog) == 2
