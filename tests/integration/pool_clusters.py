"""`PoolCluster`s, and agents in this process for them: beside the cluster, or in its event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Any

from gc_bootstrap import PoolCluster
from gc_bootstrap.peer import Peer
from tests.integration.harness import DEADLINE, agent_here


def pool_cluster(discovery: Any = "local", **keywords: Any) -> PoolCluster:
    """One whose dashboard is in nobody's way."""
    return PoolCluster(discovery, **{"dashboard_address": ":0", "silence_logs": False, **keywords})


class Beside:
    """Agents in a thread with an event loop of its own."""

    def __init__(self, count: int, *arguments: str, **keywords: Any) -> None:
        self.peers: list[Peer] = []
        self._count, self._arguments, self._keywords = count, arguments, keywords
        self._ready = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="agents")

    def start(self) -> None:
        """Start them, and wait until they can be attached."""
        self._thread.start()
        assert self._ready.wait(DEADLINE)
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """End them."""
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive()
        if self._error is not None:
            raise self._error

    def states(self) -> list[str]:
        """What they do now."""
        return [server.agent.state for server in self._servers]

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as exc:
            self._error = exc
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        async with AsyncExitStack() as stack:
            self._servers = [
                await stack.enter_async_context(agent_here(*self._arguments, **self._keywords))
                for _ in range(self._count)
            ]
            self.peers = [server.peer for server in self._servers]
            self._ready.set()
            await self._stop.wait()


@contextmanager
def agents_beside(count: int, *arguments: str, **keywords: Any) -> Iterator[Beside]:
    """So many agents, ended with the context."""
    agents = Beside(count, *arguments, **keywords)
    agents.start()
    try:
        yield agents
    finally:
        agents.stop()
