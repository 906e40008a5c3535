"""The proxy does to connections what it says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.chaos.proxy import Proxy
from tests.integration.harness import free_port

MOMENT = 0.2
"""Seconds in which what passes would have passed long ago."""


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(1000):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


@asynccontextmanager
async def proxied() -> AsyncIterator[Proxy]:
    server = await asyncio.start_server(_echo, "127.0.0.1", 0)
    proxy = Proxy(server.sockets[0].getsockname()[1])
    await proxy.start(free_port())
    try:
        yield proxy
    finally:
        await proxy.close()
        server.close()
        await server.wait_closed()


@asynccontextmanager
async def connected(
    proxy: Proxy,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def _says(reader: asyncio.StreamReader, length: int) -> bytes:
    async with asyncio.timeout(10):
        return await reader.readexactly(length)


async def test_it_passes_what_comes_and_the_end_of_it() -> None:
    async with proxied() as proxy, connected(proxy) as (reader, writer):
        sent = bytes(1_000_000)
        writer.write(sent)
        assert await _says(reader, len(sent)) == sent
        writer.write_eof()
        async with asyncio.timeout(10):
            assert await reader.read() == b""


async def test_what_is_sent_while_it_is_cut_arrives_afterwards() -> None:
    async with proxied() as proxy, connected(proxy) as (reader, writer):
        writer.write(b"one")
        assert await _says(reader, 3) == b"one"
        async with proxy.cut(), proxy.cut():
            writer.write(b"two")
            async with connected(proxy) as (late_reader, late_writer):
                late_writer.write(b"four")
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(MOMENT):
                        await reader.read(3)
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(MOMENT):
                        await late_reader.read(4)
        assert await _says(reader, 3) == b"two"


async def test_a_break_is_seen_at_once_by_old_and_new_connections() -> None:
    async with proxied() as proxy, connected(proxy) as (reader, writer):
        writer.write(b"one")
        assert await _says(reader, 3) == b"one"
        async with proxy.broken():
            with pytest.raises(ConnectionResetError):
                await _says(reader, 1)
            with pytest.raises(ConnectionResetError):
                async with connected(proxy) as (late, _):
                    await _says(late, 1)
        async with connected(proxy) as (again, again_writer):
            again_writer.write(b"two")
            assert await _says(again, 3) == b"two"


async def test_only_the_source_that_is_meant_is_cut_off_or_broken() -> None:
    ours: list[int] = []
    async with proxied() as proxy:
        proxy._sources = lambda: dict.fromkeys(ours, "ours")
        async with connected(proxy) as (reader, writer), connected(proxy) as (other, other_writer):
            ours.append(writer.get_extra_info("sockname")[1])
            async with proxy.cut("ours"):
                for each in (writer, other_writer):
                    each.write(b"one")
                assert await _says(other, 3) == b"one"
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(MOMENT):
                        await reader.read(3)
            assert await _says(reader, 3) == b"one"
            async with proxy.broken("ours"):
                other_writer.write(b"two")
                assert await _says(other, 3) == b"two"
                with pytest.raises(ConnectionResetError):
                    await _says(reader, 1)


async def test_where_nobody_listens_the_connection_breaks() -> None:
    async with proxied() as proxy:
        proxy.target = free_port()
        async with connected(proxy) as (reader, _):
            with pytest.raises(ConnectionResetError):
                await _says(reader, 1)
