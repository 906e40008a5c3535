"""How many connections an agent has open, and which of them makes room."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gc_bootstrap.agent import connections as module
from gc_bootstrap.agent.connections import (
    LEAST,
    MOST,
    SILENCE,
    Connection,
    Connections,
    limit_of,
    victim,
)
from gc_bootstrap.agent.refusals import Refusals
from tests.unit.helpers import eventually

# -- decisions -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "workers", "limit"),
    [(1024, 1, 464), (256, 1, 80), (1024, 16, 224), (-1, 1, MOST), (1_000_000, 8, MOST)],
)
def test_the_limit_is_half_of_what_agent_and_nannies_leave(
    files: int, workers: int, limit: int
) -> None:
    assert limit_of(files, workers) == limit


@given(st.integers(0, 100_000), st.integers(1, 500))
def test_the_limit_is_never_none_and_never_what_the_process_may_open(
    files: int, workers: int
) -> None:
    limit = limit_of(files, workers)
    assert LEAST <= limit <= MOST
    assert limit == LEAST or 2 * limit <= files - workers


def test_the_oldest_silent_one_makes_room() -> None:
    assert victim({"a": 1.0, "b": 2.0}, {}, 10.0) == "a"


def test_one_that_asks_is_kept_while_one_has_been_silent_for_long() -> None:
    assert victim({"silent": 8.0}, {"asks": 1.0}, 8.0 + SILENCE) == "silent"


def test_one_that_came_a_moment_ago_is_kept_while_another_has_had_longer_to_ask() -> None:
    # Else those who send one byte each would keep all others from being heard.
    assert victim({"new": 8.0}, {"slow": 1.0}, 8.1) == "slow"
    assert victim({"new": 8.0}, {"newer": 8.05}, 8.1) == "new"


def test_where_all_are_being_served_nobody_makes_room() -> None:
    assert victim({}, {}, 10.0) is None
    assert victim({}, {"asks": 9.9}, 10.0) == "asks"


# -- sockets ---------------------------------------------------------------------------------------


class Echo(asyncio.Protocol):
    """Is being served as soon as it is made; tells its connection, as it must."""

    def __init__(self, connection: Connection, *, serves: bool) -> None:
        self.connection = connection
        self.serves = serves
        self.serving = connection.served()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self.connection.made(transport)
        if self.serves:
            self.serving.__enter__()
        transport.write(b"hello")

    def connection_lost(self, exc: BaseException | None) -> None:
        self.connection.lost()


@asynccontextmanager
async def listening(
    limit: int, *, serves: bool = False, timeout: float = 60.0
) -> AsyncIterator[tuple[Connections, tuple[str, int]]]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        connections = Connections(
            sock,
            lambda connection: Echo(connection, serves=serves),
            limit=limit,
            refusals=Refusals(),
            tls=None,
            timeout=timeout,
        )
        connections.start()
        try:
            yield connections, sock.getsockname()
        finally:
            await connections.close()
            await connections.close()
            assert len(connections) == 0


Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _open(address: tuple[str, int], *, says: bytes = b"") -> Stream:
    reader, writer = await asyncio.open_connection(*address)
    writer.write(says)
    return reader, writer


async def _heard(stream: Stream) -> bytes:
    return await asyncio.wait_for(stream[0].read(5), 10)


async def test_above_the_limit_the_oldest_silent_are_closed_and_the_new_are_heard(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with listening(4) as (connections, address):
        silent = [await _open(address) for _ in range(4)]
        await eventually(lambda: len(connections) == 4)
        talking = [await _open(address, says=b"x") for _ in range(3)]
        for stream in talking:
            assert await _heard(stream) == b"hello"
        for stream in silent[:3]:
            assert await _heard(stream) == b""
        assert len(connections) == 4
        assert connections._refusals.counts == {"connections": 3}
        said = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
        (line,) = said
        assert line.startswith("Refused connections: 4 are open, as many as may be, 4 of them from")
        for _, writer in silent + talking:
            writer.close()
        await eventually(lambda: len(connections) == 0)


async def test_each_has_a_moment_to_ask_however_many_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "HEARING", 3600.0)
    async with listening(2) as (connections, address):
        first = [await _open(address) for _ in range(5)]
        await eventually(lambda: len(connections) == 2)
        first[0][1].write(b"x")
        assert await _heard(first[0]) == b"hello"
        assert connections._refusals.counts == {}
        for _, writer in first:
            writer.close()


async def test_one_that_is_being_served_is_never_closed_for_another() -> None:
    async with listening(2, serves=True) as (connections, address):
        served = [await _open(address, says=b"x") for _ in range(2)]
        for stream in served:
            assert await _heard(stream) == b"hello"
        refused = await _open(address)
        assert await _heard(refused) == b""
        assert len(connections) == 2
        for _, writer in [*served, refused]:
            writer.close()
        await eventually(lambda: len(connections) == 0)


async def test_one_that_sends_nothing_in_time_is_closed() -> None:
    async with listening(10, timeout=0.1) as (connections, address):
        for _ in range(2):
            streams = [await _open(address) for _ in range(3)]
            for stream in streams:
                assert await _heard(stream) == b""
                stream[1].close()
        assert len(connections) == 0
        assert connections._refusals.counts == {}


async def test_one_that_closes_without_a_word_is_forgotten() -> None:
    async with listening(10) as (connections, address):
        _, writer = await _open(address)
        await eventually(lambda: len(connections) == 1)
        writer.close()
        await eventually(lambda: len(connections) == 0)


async def test_where_no_file_is_left_it_waits_and_accepts_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "PAUSE", 0.05)
    async with listening(10) as (connections, address):
        real, tries = connections._sock, 0

        class Exhausted:
            def accept(self) -> tuple[socket.socket, tuple[str, int]]:
                nonlocal tries
                tries += 1
                if tries <= 3:
                    raise OSError(24, "Too many open files")
                return real.accept()

            def fileno(self) -> int:
                return real.fileno()

            def setblocking(self, flag: bool) -> None:
                real.setblocking(flag)

        monkeypatch.setattr(connections, "_sock", Exhausted())
        stream = await _open(address, says=b"x")
        assert await _heard(stream) == b"hello"
        assert connections._refusals.counts == {"connections": 3}
        stream[1].close()
        await eventually(lambda: len(connections) == 0)
