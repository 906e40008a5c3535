"""No property test has a deadline in wall time: a busy machine would fail it."""

from __future__ import annotations

import ast
from pathlib import Path

from hypothesis import HealthCheck, settings

TESTS = Path(__file__).parents[1]


def _deadlines(source: str) -> list[int]:
    """The lines on which a deadline is set for examples, be it none."""
    return [
        keyword.value.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
        and getattr(node.func, "id", getattr(node.func, "attr", "")) == "settings"
        for keyword in node.keywords
        if keyword.arg == "deadline"
    ]


def test_no_example_has_a_deadline() -> None:
    assert settings().deadline is None
    assert HealthCheck.too_slow in settings().suppress_health_check


def test_no_test_sets_one() -> None:
    assert _deadlines("@settings(max_examples=5,\n    deadline=200)\ndef test(): ...") == [2]
    assert _deadlines("import hypothesis\nx = hypothesis.settings(deadline=None)") == [2]
    setting = {path.name for path in TESTS.rglob("*.py") if _deadlines(path.read_text())}
    assert not setting
