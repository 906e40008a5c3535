"""A TCP proxy that passes everything on, and keeps what came from whom."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Self

from gc_bootstrap.peer import Peer


class Recorder:
    """Stands before an agent; each connection is one request.

    Attributes
    ----------
    requests
        What the clients have sent, one after the other.
    """

    def __init__(self, target: Peer) -> None:
        self.requests: list[bytes] = []
        self._target = target
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def peer(self) -> Peer:
        """Where to ask."""
        assert self._server is not None
        return Peer("127.0.0.1", self._server.sockets[0].getsockname()[1])

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        number = len(self.requests)
        self.requests.append(b"")
        try:
            to_agent, from_agent = await asyncio.open_connection(*_pair(self._target))
        except OSError:
            writer.close()
            return
        answering = asyncio.create_task(_pass(to_agent, writer))
        try:
            while data := await reader.read(65536):
                self.requests[number] += data
                from_agent.write(data)
                await from_agent.drain()
            await answering
        except OSError:
            pass  # one of the two has gone
        finally:
            answering.cancel()
            await asyncio.gather(answering, return_exceptions=True)
            from_agent.close()
            writer.close()
            self._tasks.discard(task)


def _pair(peer: Peer) -> tuple[str, int]:
    return peer.host, peer.port


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


async def replay(peer: Peer, recorded: bytes) -> tuple[int, str]:
    """Send what was recorded to somebody; the status and the whole of the answer."""
    reader, writer = await asyncio.open_connection(*_pair(peer))
    try:
        writer.write(recorded)
        answer = (await asyncio.wait_for(reader.read(), 30)).decode()
    finally:
        writer.close()
    return int(answer.split()[1]), answer
