"""One user's agents and schedulers find each other on a host where another user was there first."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.harness import free_port, until
from tests.require import require

SOMEBODY = 1234


@pytest.fixture
def user() -> Iterator[int]:
    """A user whom this host does not know; ``unshare`` lets a process be anybody."""
    user = random.SystemRandom().randrange(100_000, 2_000_000)
    works = shutil.which("unshare") and subprocess.run(_as(user, "true"), check=False)
    require("userns", found=os.getuid() == 0 and works and works.returncode == 0, by_all=False)
    yield user
    for path in Path("/tmp").glob(f"gc_bootstrap-{user}*"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _as(user: int, *command: str) -> list[str]:
    return ["unshare", "--user", f"--map-user={user}", *command]


@pytest.fixture
def place(user: int) -> str:
    """Where the user's agents would register; somebody else has made a link to /tmp there."""
    place = f"/tmp/gc_bootstrap-{user}"
    link = ["ln", "-s", "/tmp", place]
    subprocess.run(link, user=SOMEBODY, group=SOMEBODY, extra_groups=[], check=True)
    return place


async def test_an_agent_is_found_by_its_user_although_somebody_else_has_taken_the_place(
    user: int, place: str, tmp_path: Path
) -> None:
    port = free_port()
    environ = {k: v for k, v in os.environ.items() if "RUNTIME_DIR" not in k}
    dask = _as(user, sys.executable, "-m", "dask", "pool")
    log = tmp_path / "agent.log"
    with log.open("wb") as out:
        agent = await asyncio.create_subprocess_exec(
            *(*dask, "agent", "--listen", f"127.0.0.1:{port}", "--nthreads", "1"),
            env=environ,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        await until(lambda: "is ready" in log.read_text(), "the agent is ready")
        look = await asyncio.create_subprocess_exec(
            *(*dask, "peers", "local", "--json"), env=environ, stdout=asyncio.subprocess.PIPE
        )
        found, _ = await asyncio.wait_for(look.communicate(), 45)
        assert [peer["address"] for peer in json.loads(found)["peers"]] == [f"127.0.0.1:{port}"]
        assert f"{place} belongs to user " in log.read_text()
        assert f"registrations go to {place}-" in log.read_text()
    finally:
        os.killpg(agent.pid, signal.SIGTERM)
        await asyncio.wait_for(agent.wait(), 45)
