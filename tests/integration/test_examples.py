"""The examples run as they stand."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.require import require

EXAMPLES = Path(__file__).parents[2] / "examples"

pytestmark = pytest.mark.timeout(120)


async def _run(*command: str) -> str:
    """Run an example as it stands, and return what it prints."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=EXAMPLES,
        env={**os.environ, "PATH": path, "NO_COLOR": "1"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 90)
    assert process.returncode == 0, err.decode()
    return out.decode()


@pytest.mark.parametrize(
    "command",
    [
        ["bash", "local/cluster.sh"],
        [sys.executable, "local/cluster.py"],
        [sys.executable, "notebook/notebook.py"],
    ],
)
async def test_the_local_examples_form_a_cluster_and_compute(command: list[str]) -> None:
    assert "sum of squares: 285" in await _run(*command)


async def test_the_dns_example_follows_its_zone() -> None:
    require("knot", found=shutil.which("knotd") and shutil.which("knotc"))
    out = await _run("bash", "dns/cluster.sh")
    for text in ("records=cpu.workers.example. A 127.0.0.2", "node-2.workers.example:"):
        assert text in out
    assert "sum of squares: 285" in out
    assert "members 1, peers 1 by dns:cpu.workers.example" in out
