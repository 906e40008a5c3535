"""A way to a server that can be cut."""

from __future__ import annotations

import asyncio
from contextlib import suppress


class Relay:
    """Carries connections to a port of this host, until they are cut.

    Attributes
    ----------
    port
        Where it listens, on loopback.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._carried: dict[asyncio.Task[None], list[asyncio.StreamWriter]] = {}
        self.port = 0

    async def __aenter__(self) -> Relay:
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()
        await self.cut()
        await self._server.wait_closed()

    async def cut(self) -> None:
        """Break off all connections. New ones are carried."""
        for writers in self._carried.values():
            for writer in writers:
                writer.transport.abort()
        await asyncio.gather(*self._carried)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        writers = self._carried[task] = [writer]
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
            writers.append(far_writer)
            await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))
        except OSError:
            pass  # the server is not there: as if this were it
        finally:
            for one in writers:
                one.transport.abort()
            del self._carried[task]


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Carry one direction to its end, or until either side has broken off."""
    with suppress(OSError):
        while data := await reader.read(2**16):
            writer.write(data)
            await writer.drain()
    if not writer.is_closing():
        writer.transport.close()
