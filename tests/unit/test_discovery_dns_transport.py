"""One query over real sockets of loopback: lost, refused, forged, cut off."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import cast

import pytest

from gc_bootstrap.discovery.dns.message import query
from gc_bootstrap.discovery.dns.transport import NoAnswerError, SilentError, tcp, udp
from gc_bootstrap.peer import Peer
from tests.unit.dns_helpers import answer_to, question

SENT = query(question("cpu.workers.test."))
OTHER = query(question("gpu.workers.test."))
GOOD = answer_to(SENT, ["cpu.workers.test. 30 A 10.0.0.5"])
HOSTS = ["127.0.0.1", "::1"]

Replies = Callable[[bytes], list[bytes]]


@asynccontextmanager
async def udp_server(replies: Replies, host: str = "127.0.0.1") -> AsyncIterator[Peer]:
    class Server(asyncio.DatagramProtocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = cast(asyncio.DatagramTransport, transport)

        def datagram_received(self, data: bytes, addr: object) -> None:
            for reply in replies(data):
                self.transport.sendto(reply, addr)  # type: ignore[arg-type]

    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(Server, local_addr=(host, 0))
    try:
        yield Peer(host, transport.get_extra_info("sockname")[1])
    finally:
        transport.close()


@asynccontextmanager
async def tcp_server(
    serve: Callable[[bytes, asyncio.StreamWriter], Awaitable[None]], host: str = "127.0.0.1"
) -> AsyncIterator[Peer]:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            length = await reader.readexactly(2)
            await serve(await reader.readexactly(int.from_bytes(length, "big")), writer)
        finally:
            writer.close()

    server = await asyncio.start_server(handle, host, 0)
    async with server:
        yield Peer(host, server.sockets[0].getsockname()[1])


@pytest.mark.parametrize("host", HOSTS)
async def test_an_answer_over_udp(host: str) -> None:
    async with udp_server(lambda sent: [GOOD] if sent == SENT else [], host) as server:
        assert await udp(server, SENT, 5) == GOOD


async def test_what_answers_something_else_is_waited_past() -> None:
    forged = bytes([GOOD[0] ^ 1]) + GOOD[1:]
    async with udp_server(lambda _: [b"", b"x", forged, answer_to(OTHER), SENT, GOOD]) as server:
        assert await udp(server, SENT, 5) == GOOD


async def test_an_answer_from_somebody_else_is_not_taken() -> None:
    """Who guesses id, port and name still has to send from the server's address."""
    loop = asyncio.get_running_loop()
    forger, _ = await loop.create_datagram_endpoint(
        asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0)
    )

    class Server(asyncio.DatagramProtocol):
        def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
            forger.sendto(GOOD, addr)

    transport, _ = await loop.create_datagram_endpoint(Server, local_addr=("127.0.0.1", 0))
    server = Peer("127.0.0.1", transport.get_extra_info("sockname")[1])
    with pytest.raises(SilentError):
        await udp(server, SENT, 0.2)
    transport.close()
    forger.close()


async def test_silence_over_udp_is_told_from_a_refused_connection() -> None:
    async with udp_server(lambda _: []) as server:
        with pytest.raises(SilentError, match="did not answer in time"):
            await udp(server, SENT, 0.1)
    with pytest.raises(NoAnswerError, match="cannot be reached: Connection refused") as caught:
        await udp(server, SENT, 5)
    assert not isinstance(caught.value, SilentError)


@pytest.mark.parametrize("host", HOSTS)
async def test_an_answer_over_tcp_may_come_in_pieces(host: str) -> None:
    async def serve(sent: bytes, writer: asyncio.StreamWriter) -> None:
        assert sent == SENT
        for octet in len(GOOD).to_bytes(2, "big") + GOOD:
            writer.write(bytes([octet]))
            await writer.drain()

    async with tcp_server(serve, host) as server:
        assert await tcp(server, SENT, 5) == GOOD


@pytest.mark.parametrize("reply", [b"", b"\0", b"\0\x50half of it"])
async def test_a_connection_that_ends_too_early_is_no_answer(reply: bytes) -> None:
    async def serve(sent: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(reply)

    async with tcp_server(serve) as server:
        with pytest.raises(NoAnswerError, match="closed the TCP connection instead of answering"):
            await tcp(server, SENT, 5)


async def test_another_answer_over_tcp_is_none() -> None:
    async def serve(sent: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(len(answer_to(OTHER)).to_bytes(2, "big") + answer_to(OTHER))

    async with tcp_server(serve) as server:
        with pytest.raises(NoAnswerError, match="answered another question over TCP"):
            await tcp(server, SENT, 5)


async def test_silence_over_tcp_ends() -> None:
    silent = asyncio.Event()

    async def serve(sent: bytes, writer: asyncio.StreamWriter) -> None:
        await silent.wait()

    async with tcp_server(serve) as server:
        with pytest.raises(SilentError, match="did not answer over TCP in time"):
            await tcp(server, SENT, 0.1)
        silent.set()
    with pytest.raises(NoAnswerError, match="cannot be reached over TCP: Connection refused"):
        await tcp(server, SENT, 5)


@pytest.mark.parametrize("ask", [udp, tcp])
async def test_a_cancelled_query_leaves_nothing(
    ask: Callable[[Peer, bytes, float], Awaitable[bytes]],
) -> None:
    released = asyncio.Event()

    async def serve(sent: bytes, writer: asyncio.StreamWriter) -> None:
        await released.wait()

    async with udp_server(lambda _: []) as over_udp, tcp_server(serve) as over_tcp:
        server = over_udp if ask is udp else over_tcp
        task = asyncio.ensure_future(ask(server, SENT, 3600))
        await asyncio.sleep(0.05)
        assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        released.set()
