"""A test without its server is skipped, or fails where that server is required."""

from __future__ import annotations

import pytest

from tests.require import VARIABLE, require


def test_what_is_there_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "all")
    require("knot", found="/usr/sbin/knotd")


@pytest.mark.parametrize("required", ["", "kind", "knots, kind"])
def test_what_is_not_there_skips(monkeypatch: pytest.MonkeyPatch, required: str) -> None:
    monkeypatch.setenv(VARIABLE, required)
    with pytest.raises(pytest.skip.Exception, match="needs knot"):
        require("knot", found=None)


@pytest.mark.parametrize("required", ["all", "knot", "kind, knot"])
def test_what_is_required_and_not_there_fails(
    monkeypatch: pytest.MonkeyPatch, required: str
) -> None:
    monkeypatch.setenv(VARIABLE, required)
    with pytest.raises(pytest.fail.Exception, match="knot is required"):
        require("knot", found=None)


def test_all_is_what_any_machine_can_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "all")
    with pytest.raises(pytest.skip.Exception, match="needs e2e"):
        require("e2e", found=None, by_all=False)
    monkeypatch.setenv(VARIABLE, "all,e2e")
    with pytest.raises(pytest.fail.Exception, match="e2e is required"):
        require("e2e", found=None, by_all=False)
