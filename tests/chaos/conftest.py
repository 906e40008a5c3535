"""Seeds by option, and a summary of what was done to the clusters."""

from __future__ import annotations

import pytest

from tests.chaos.tally import TALLY, Tally


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" in metafunc.fixturenames:
        start = metafunc.config.getoption("--chaos-start")
        count = metafunc.config.getoption("--chaos-seeds")
        metafunc.parametrize("seed", range(start, start + count))


@pytest.fixture
def tally(pytestconfig: pytest.Config) -> Tally:
    return pytestconfig.stash.setdefault(TALLY, Tally())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    tally = terminalreporter.config.stash.get(TALLY, None)
    if tally is not None and tally.storms:
        terminalreporter.write_sep("=", "chaos")
        for line in tally.lines():
            terminalreporter.write_line(line)
