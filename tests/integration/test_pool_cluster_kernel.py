"""A `PoolCluster` in a notebook: its example in a real kernel, and what that displays."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.manager import AsyncKernelManager

from tests.integration.harness import DEADLINE

EXAMPLE = Path(__file__).parents[2] / "examples" / "notebook" / "notebook.py"
WIDGET = "application/vnd.jupyter.widget-view+json"

pytestmark = pytest.mark.timeout(150)


@pytest.fixture
async def kernel(tmp_path: Path) -> AsyncIterator[AsyncKernelClient]:
    """A kernel in a process of its own; ended as a person ends it, by "shut down"."""
    manager = AsyncKernelManager(connection_file=str(tmp_path / "kernel.json"))
    await manager.start_kernel(cwd=str(tmp_path))
    client: AsyncKernelClient = manager.client()
    client.start_channels()
    try:
        await client.wait_for_ready(timeout=2 * DEADLINE)
        yield client
    finally:
        client.stop_channels()
        await manager.shutdown_kernel()
        manager.context.destroy()


def _cells() -> list[str]:
    """The example's cells of code."""
    cells = re.split(r"^# %%", EXAMPLE.read_text(), flags=re.MULTILINE)[1:]
    return [cell for cell in cells if not cell.startswith(" [markdown]")]


async def _execute(kernel: AsyncKernelClient, code: str) -> tuple[str, list[dict[str, Any]]]:
    """What a cell prints, and what it displays."""
    printed, shown = [], []

    def take(message: dict[str, Any]) -> None:
        content = message["content"]
        if message["msg_type"] == "stream":
            printed.append(content["text"])
        elif message["msg_type"] in ("display_data", "execute_result"):
            shown.append(content["data"])

    reply = await kernel.execute_interactive(code, timeout=2 * DEADLINE, output_hook=take)
    assert reply["content"]["status"] == "ok", reply["content"]
    return "".join(printed), shown


async def test_the_example_shows_its_widget_computes_and_leaves_nothing_without_a_close(
    kernel: AsyncKernelClient,
) -> None:
    *cells, closing = _cells()
    assert "cluster.close()" in closing, "and it is left out here"
    printed, shown = await _execute(kernel, cells[0])
    assert not printed, "nothing but the widget"
    (data,) = shown
    assert WIDGET in data
    assert data["text/plain"].startswith("PoolCluster(notebook, 'tcp://127.0.0.1:")
    assert "<strong>Pool default:</strong>" in data["text/html"]
    assert "by local" in data["text/html"]
    printed, _ = await _execute(kernel, cells[1])
    assert printed == "sum of squares: 285\n"
    printed, _ = await _execute(kernel, cells[2])
    assert re.fullmatch(r"found: 2 held: [012]\n", printed)
    # What a click on "Scale" does, in the thread of the kernel.
    click = "cluster._cached_widget.children[1].children[1].children[0].children[1].click()"
    await _execute(kernel, click)
    printed, _ = await _execute(kernel, "print(cluster.pool_status()['pools'][0]['size'])")
    assert printed == "0\n"
