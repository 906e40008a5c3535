"""A TCP proxy that can hold back or break what passes through it, in both directions.

Held back is what a network does that loses packets: nothing arrives, nobody is told, and once it
is mended TCP delivers what was sent meanwhile. (One thing differs: a new connection is accepted and
then silent, where a real one would not be established.) Broken is what a firewall or a load
balancer does: connections end with RST, and so do new ones.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator, Callable, Hashable, Mapping
from contextlib import asynccontextmanager, suppress

CHUNK = 65536


class Proxy:
    """Passes connections to a port of this host.

    Parameters
    ----------
    target
        The port; may be changed, for the connections to come.
    sources
        Says who has opened connections, by the ports that they come from. Asked only while
        somebody is cut off or broken; whom it does not name is None.
    """

    def __init__(self, target: int, sources: Callable[[], Mapping[int, Hashable]] = dict) -> None:
        self.target = target
        self.port = 0
        self._sources = sources
        self._server: asyncio.Server | None = None
        self._links: set[_Link] = set()
        self._cut: Counter[Hashable] = Counter()
        self._broken: Counter[Hashable] = Counter()

    async def start(self, port: int) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", port)
        self.port = port

    async def close(self) -> None:
        """Break all connections, and listen no more. May be called more than once."""
        if self._server is not None:
            self._server.close()
            for link in list(self._links):
                link.reset()
            await asyncio.gather(*(link.ended() for link in list(self._links)))
            await self._server.wait_closed()

    @asynccontextmanager
    async def cut(self, source: Hashable = None) -> AsyncIterator[None]:
        """Let nothing pass from or to a source; contexts may overlap."""
        self._cut[source] += 1
        self._hold()
        try:
            yield
        finally:
            self._cut[source] -= 1
            self._hold()

    @asynccontextmanager
    async def broken(self, source: Hashable = None) -> AsyncIterator[None]:
        """Break a source's connections now, and its new ones while the context lasts."""
        self._broken[source] += 1
        sources = self._sources()
        for link in list(self._links):
            if sources.get(link.port) == source:
                link.reset()
        try:
            yield
        finally:
            self._broken[source] -= 1

    def _hold(self) -> None:
        sources = self._sources() if any(self._cut.values()) else {}
        for link in self._links:
            link.hold(self._cut[sources.get(link.port)] > 0)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = _Link(reader, writer)
        self._links.add(link)
        try:
            if any(self._cut.values()) or any(self._broken.values()):
                source = self._sources().get(link.port)
                if self._broken[source]:
                    link.reset()
                    return
                link.hold(self._cut[source] > 0)
            await link.run(self.target)
        finally:
            self._links.discard(link)
            link.finish()


class _Link:
    """One connection from a client, and the one that it leads to."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.port: int = writer.get_extra_info("peername")[1]
        self._near = (reader, writer)
        self._writers = [writer]
        self._passes = asyncio.Event()
        self._passes.set()
        self._reset = asyncio.Event()
        self._ended = asyncio.Event()

    def hold(self, held: bool) -> None:
        """Let nothing pass, or all of it."""
        if held:
            self._passes.clear()
        else:
            self._passes.set()

    def reset(self) -> None:
        """Break both connections off."""
        self._reset.set()

    async def ended(self) -> None:
        """Wait for the end."""
        await self._ended.wait()

    async def run(self, target: int) -> None:
        """Pass on what comes, until both sides have ended or one breaks."""
        passing = asyncio.create_task(self._pass(target))
        resetting = asyncio.create_task(self._reset.wait())
        try:
            await asyncio.wait([passing, resetting], return_when=asyncio.FIRST_COMPLETED)
            if passing.done() and passing.exception() is not None:
                self._reset.set()  # one side broke: so does the other
        finally:
            for task in (passing, resetting):
                task.cancel()
            await asyncio.gather(passing, resetting, return_exceptions=True)

    async def _pass(self, target: int) -> None:
        await self._passes.wait()
        far = await asyncio.open_connection("127.0.0.1", target)
        self._writers.append(far[1])
        async with asyncio.TaskGroup() as group:
            group.create_task(self._pump(self._near[0], far[1]))
            group.create_task(self._pump(far[0], self._near[1]))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await self._passes.wait()
            data = await reader.read(CHUNK)
            await self._passes.wait()
            if not data:
                writer.write_eof()
                return
            writer.write(data)
            await writer.drain()

    def finish(self) -> None:
        """Close both sockets, the hard way where the connection was broken."""
        for writer in self._writers:
            if self._reset.is_set():
                sock = writer.get_extra_info("socket")
                with suppress(OSError):  # the other side was quicker
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()
            else:
                writer.close()
        self._ended.set()
