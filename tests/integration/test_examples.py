"""The examples run as they stand."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"

pytestmark = pytest.mark.timeout(120)


@pytest.mark.parametrize(
    "command", [["bash", "local/cluster.sh"], [sys.executable, "local/cluster.py"]]
)
async def test_the_local_examples_form_a_cluster_and_compute(command: list[str]) -> None:
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
    assert "sum of squares: 285" in out.decode()
