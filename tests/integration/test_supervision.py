"""A scheduler whose discovery misbehaves: it attaches agents as soon as that one answers."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.harness import Processes, until

DISCOVERIES = """
import asyncio
from pathlib import Path
from gc_bootstrap import ConfigError, Discovery, Snapshot

class Moody(Discovery):
    '''Reads its peers from a file, and does what the file says instead if it says so.'''
    def __init__(self, path, where="peers"):
        self.path, self.where, self.starts = Path(path), where, 0
    def moody(self, where):
        mood = self.path.read_text().strip()
        if where == self.where and mood == "cancel":
            raise asyncio.CancelledError
        if where == self.where and mood == "raise":
            raise OSError("no such device")
        if where == self.where and mood == "misconfigured":
            raise ConfigError("there is no such table")
        return mood
    async def start(self):
        self.moody("start")
    async def peers(self):
        return Snapshot.of(self.moody("peers").split())
"""


@pytest.fixture
async def processes(tmp_path: Path) -> AsyncIterator[Processes]:
    (tmp_path / "moody_discoveries.py").write_text(DISCOVERIES)
    async with Processes(tmp_path) as processes:
        yield processes


@pytest.mark.parametrize(("where", "mood"), [("peers", "cancel"), ("start", "raise")])
async def test_agents_are_attached_once_a_discovery_answers_or_starts_that_did_not(
    processes: Processes, tmp_path: Path, where: str, mood: str
) -> None:
    agents = await processes.agents(1)
    file = tmp_path / "peers"
    file.write_text(mood)
    scheduler = await processes.scheduler(
        f"moody_discoveries:Moody?path={file}&where={where}", environ={"PYTHONPATH": str(tmp_path)}
    )
    expected = "discovery failed" if where == "peers" else "discovery does not start"

    async def error() -> bool:
        return str((await scheduler.status())["error"]).startswith(expected)

    await until(error, "the status says what is wrong")
    file.write_text(" ".join(map(str, agents)))
    await scheduler.formed(agents)
    assert (await scheduler.status())["error"] is None


async def test_a_discovery_that_finds_at_its_start_that_it_is_misconfigured_ends_the_scheduler(
    processes: Processes, tmp_path: Path
) -> None:
    file = tmp_path / "peers"
    file.write_text("misconfigured")
    group = await processes.start(
        *["scheduler", "--host", "127.0.0.1", "--port", "0", "--dashboard-address", ":0"],
        *["--preload", "gc_bootstrap.preload", "--discovery"],
        f"moody_discoveries:Moody?path={file}&where=start",
        environ={"PYTHONPATH": os.fspath(tmp_path)},
    )
    await until(lambda: group.ended, "the scheduler has ended")
    assert group.returncode == 2, group.tail()
    lines = group.tail(200).splitlines()
    assert "gc_bootstrap: pool default: there is no such table" in lines
    assert not any("Traceback" in line for line in lines), group.tail(200)
