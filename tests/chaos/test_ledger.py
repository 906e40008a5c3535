"""The rule about re-runs can be broken, and that is noticed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.ledger import Execution, Loss, read, violations
from tests.chaos.work import combine, leaf


def _loss(at: float, *keys: str, pids: tuple[int, ...] = ()) -> Loss:
    return Loss("SIGKILL", at, frozenset(keys), frozenset(pids))


def test_tasks_enter_their_executions(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    assert read(ledger) == []
    one = leaf(str(ledger), "one", 1, 0.0, 3)
    assert one == (1, b"\x01\x01\x01")
    assert combine(str(ledger), "sum", 0.0, one, (2, b"x")) == (3, b"x")
    assert [execution.key for execution in read(ledger)] == ["one", "sum"]


def test_one_execution_per_key_needs_no_reason() -> None:
    runs = [Execution("a", 1, 1.0), Execution("b", 1, 2.0)]
    assert violations(runs, [], ["a", "b"]) == []


def test_a_second_execution_without_a_loss_is_a_violation() -> None:
    runs = [Execution("a", 1, 1.0), Execution("a", 2, 2.0), Execution("b", 1, 1.0)]
    (found,) = violations(runs, [], ["a", "b"])
    assert found == "a was executed at 1.000 by 1, 2.000 by 2; lost by: nothing"


def test_a_loss_explains_one_execution_of_what_it_took() -> None:
    runs = [Execution("a", 1, 1.0), Execution("a", 2, 3.0)]
    assert violations(runs, [_loss(2.0, "a")], ["a"]) == []
    thrice = [*runs, Execution("a", 3, 4.0)]
    assert violations(thrice, [_loss(2.0, "a")], ["a"])
    assert violations(thrice, [_loss(2.0, "a"), _loss(3.5, "a")], ["a"]) == []


def test_a_loss_of_something_else_explains_nothing() -> None:
    runs = [Execution("a", 1, 1.0), Execution("a", 2, 3.0)]
    assert violations(runs, [_loss(2.0, "b", pids=(3,))], ["a"])


def test_a_loss_that_came_later_explains_nothing() -> None:
    runs = [Execution("a", 1, 1.0), Execution("a", 2, 3.0)]
    assert violations(runs, [_loss(3.5, "a")], ["a"])


@pytest.mark.parametrize(("pid", "at", "good"), [(2, 2.5, True), (2, 1.5, False), (4, 2.5, False)])
def test_what_a_victim_begins_after_its_loss_is_explained(pid: int, at: float, good: bool) -> None:
    runs = [Execution("a", 1, 1.0), Execution("a", pid, at)]
    assert (violations(runs, [_loss(2.0, pids=(2,))], ["a"]) == []) == good


def test_a_result_that_nobody_computed_is_a_violation() -> None:
    (found,) = violations([], [], ["a"])
    assert found == "a has a result and was never executed"
