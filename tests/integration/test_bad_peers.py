"""Whatever listens where an agent should be: one clear reason, and nobody else is delayed."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import pytest
from aiohttp import web

from gc_bootstrap.agent import server
from gc_bootstrap.config import ConnectOptions, PoolOptions
from gc_bootstrap.dist import Owner
from gc_bootstrap.errors import DistError
from gc_bootstrap.peer import Outcome, Peer
from gc_bootstrap.pool import Pool
from gc_bootstrap.scheduler import client
from gc_bootstrap.scheduler.dask import DaskDist
from gc_bootstrap.testing import ManualDiscovery
from tests.integration.harness import agent_here, free_port, scheduler_here, until

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def listener(talk: Talk) -> AsyncIterator[Peer]:
    """Somebody who listens, and talks as the test says."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await talk(reader, writer)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield Peer("127.0.0.1", server.sockets[0].getsockname()[1])
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()


@contextmanager
def black_hole() -> Iterator[Peer]:
    """An address where a connection is neither accepted nor refused, as with a host that is gone:
    a queue of connections that is full."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen(0)
        address = sock.getsockname()
        with socket.socket() as first, socket.socket() as second:
            for waiting in (first, second):
                waiting.setblocking(False)
                waiting.connect_ex(address)
            yield Peer(*address)


async def _silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def _hangs_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")


async def _garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"\x00\xff\x13 SSH-2.0-OpenSSH_9.9\r\n" * 3)
    await writer.drain()
    await reader.read()


def _answers(head: bytes, body: bytes, times: int = 1) -> Talk:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head + b"\r\n\r\n")
        for _ in range(times):
            writer.write(body)
            await writer.drain()

    return talk


_OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json"
_MEGABYTE = b" " * 2**20

BAD = {
    "garbage": (_garbage, "is no gc_bootstrap agent"),
    "hangs up": (_hangs_up, "closed the connection without an HTTP answer"),
    "10 MB": (_answers(_OK, _MEGABYTE, 10), "answers with more than 65536 bytes"),
    "claims 1 TB": (
        _answers(_OK + b"\r\nContent-Length: 1099511627776", b"{}"),
        "is no gc_bootstrap agent|broke the connection off",
    ),
    "a lying length": (
        _answers(_OK + b"\r\nContent-Length: -5", b"{}"),
        "is no gc_bootstrap agent",
    ),
    "10 MB of headers": (
        _answers(b"HTTP/1.1 200 OK", b"X: y\r\n" * 2**17, 10),
        "is no gc_bootstrap",
    ),
    "no JSON": (_answers(_OK, b"<html>hello</html>"), "is no gc_bootstrap agent"),
    "other JSON": (_answers(_OK, b'{"workers": 5}'), "is no gc_bootstrap agent"),
    "deep JSON": (_answers(_OK, b"[" * 60000), "is no gc_bootstrap agent"),
    "not UTF-8": (_answers(_OK, b"\xff\xfe\x00"), "is no gc_bootstrap agent"),
    "an error page": (
        _answers(b"HTTP/1.1 500 Oops\r\nContent-Type: text/html", b"<h1>Oops</h1>"),
        "is no gc_bootstrap agent: it answers HTTP 500",
    ),
    "a redirect": (
        _answers(b"HTTP/1.1 307 Go\r\nLocation: http://127.0.0.1:1/v1/attach", b""),
        "is no gc_bootstrap agent: it answers HTTP 307",
    ),
    "an error with line breaks": (
        _answers(b"HTTP/1.1 409 Held\r\nContent-Type: application/json", b'{"error": "a\\nb"}'),
        "a b",
    ),
}


@pytest.fixture
async def dist() -> AsyncIterator[DaskDist]:
    async with scheduler_here() as scheduler:
        dist = DaskDist.for_scheduler(
            Owner(scheduler, options=PoolOptions(connect=ConnectOptions(timeout=2.0)))
        )
        await dist.start()
        yield dist
        await dist.close()


async def _reason(dist: DaskDist, peer: Peer) -> str:
    try:
        outcome = await dist.connect(peer)
    except DistError as exc:
        return str(exc)
    assert outcome.kind == "refused"
    return outcome.reason


@pytest.mark.parametrize("name", BAD)
async def test_a_peer_that_is_no_agent_is_said_to_be_none(dist: DaskDist, name: str) -> None:
    talk, expected = BAD[name]
    async with listener(talk) as peer:
        reason = await _reason(dist, peer)
        assert any(part in reason for part in expected.split("|")), reason
        assert "\n" not in reason
        assert len(reason) < 600
    assert await dist.members() == frozenset()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_port_where_nobody_listens_is_asked_again_soon(dist: DaskDist, host: str) -> None:
    with pytest.raises(DistError, match=r"^is not reachable: Connection refused$") as caught:
        await dist.connect(Peer(host, free_port()))
    assert caught.value.soon


async def test_an_agent_that_somebody_else_holds_is_asked_again_soon(dist: DaskDist) -> None:
    async with scheduler_here() as other, agent_here() as agent:
        holder = DaskDist.for_scheduler(Owner(other))
        await holder.start()
        try:
            assert await holder.connect(agent.peer)
            refused = await dist.connect(agent.peer)
        finally:
            await holder.close()
    assert refused.reason.startswith(f"held by scheduler {other.id}")
    assert refused.soon


async def test_an_agent_that_another_pool_holds_is_asked_again_soon() -> None:
    async with scheduler_here() as scheduler, agent_here() as agent:
        cpu, gpu = (DaskDist.for_scheduler(Owner(scheduler, pool)) for pool in ("cpu", "gpu"))
        await cpu.start()
        await gpu.start()
        try:
            assert await cpu.connect(agent.peer)
            refused = await gpu.connect(agent.peer)
        finally:
            await cpu.close()
            await gpu.close()
    assert refused == Outcome.refused("is attached by the pool 'cpu'", soon=True)


async def test_a_name_that_does_not_resolve_is_not_reachable(dist: DaskDist) -> None:
    reason = await _reason(dist, Peer("no-such-host.invalid"))
    assert reason.startswith("its name does not resolve: ")
    assert "Unknown error" not in reason


async def test_a_port_that_accepts_and_says_nothing_is_given_up(dist: DaskDist) -> None:
    async with listener(_silent) as peer:
        reason = await _reason(dist, peer)
        assert re.fullmatch(r"is connected, but gave no answer within (2|1\.\d+) s", reason)


async def test_who_hangs_is_given_up_long_before_who_starts_its_workers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(client, "ANSWER_TIMEOUT", 0.5)
    monkeypatch.setattr(server, "PROCESSING", 0.1)
    slow = tmp_path / "slow.py"
    slow.write_text("import asyncio\nasync def dask_setup(worker): await asyncio.sleep(1.5)\n")
    async with (
        scheduler_here() as scheduler,
        listener(_silent) as silent,
        agent_here("--preload", str(slow)) as agent,
    ):
        options = PoolOptions(connect=ConnectOptions(timeout=60.0))
        dist = DaskDist.for_scheduler(Owner(scheduler, options=options))
        await dist.start()
        try:
            hung = asyncio.create_task(_reason(dist, silent))
            assert await dist.connect(agent.peer) == Outcome.DONE
            assert hung.done()
            assert await hung == "is connected, but gave no answer within 0.5 s"
        finally:
            await dist.close()


async def test_peers_that_hang_or_are_black_holes_hold_up_nobody() -> None:
    options = PoolOptions(connect=ConnectOptions(timeout=600.0, concurrency=4))
    async with AsyncExitStack() as stack:
        scheduler = await stack.enter_async_context(scheduler_here())
        agents = [await stack.enter_async_context(agent_here()) for _ in range(2)]
        dead = [await stack.enter_async_context(listener(_silent)) for _ in range(10)]
        dead += [stack.enter_context(black_hole()) for _ in range(10)]
        discovery = ManualDiscovery(dead)
        dist = DaskDist.for_scheduler(Owner(scheduler, options=options))
        pool = await stack.enter_async_context(Pool(discovery, dist, options=options))
        # All of them at first, and another one later.
        discovery.set([*dead, agents[0].peer])
        attached = pool._record.counters
        await until(lambda: attached["attaches"] == 1, "the first agent is attached")
        discovery.set([*dead, *(agent.peer for agent in agents)])
        await until(lambda: attached["attaches"] == 2, "the second agent is attached")
        assert len((await pool.status()).connecting) > options.connect.concurrency


async def test_another_http_server_is_no_agent(dist: DaskDist) -> None:
    application = web.Application()
    runner = web.AppRunner(application)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        peer = Peer("127.0.0.1", runner.addresses[0][1])
        assert await _reason(dist, peer) == "is no gc_bootstrap agent: it answers HTTP 404"
    finally:
        await runner.cleanup()


async def test_a_dask_port_is_no_agent_and_survives_being_asked(dist: DaskDist) -> None:
    async with scheduler_here() as other:
        peer = Peer.parse(other.address.removeprefix("tcp://"))
        assert "is no gc_bootstrap agent" in await _reason(dist, peer)
        assert other.status.name == "running"


async def test_bad_peers_are_logged_once_each_and_delay_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    options = PoolOptions(refresh_interval=0.2, connect=ConnectOptions(timeout=20.0))
    async with (
        scheduler_here() as scheduler,
        listener(_silent) as silent,
        listener(_garbage) as garbage,
        agent_here() as first,
        agent_here() as second,
    ):
        dead = Peer("127.0.0.1", free_port())
        discovery = ManualDiscovery([silent, garbage, dead, first.peer, second.peer])
        dist = DaskDist.for_scheduler(Owner(scheduler, options=options))
        with caplog.at_level(logging.INFO, "gc_bootstrap"):
            async with Pool(discovery, dist, options=options) as pool:
                await until(lambda: len(scheduler.workers) == 2, "both agents are attached")
                status = await pool.status()
                assert set(status.members) == {first.peer, second.peer}
                assert silent in status.connecting
                assert "is no gc_bootstrap agent" in status.held[garbage]
                await until(
                    lambda: pool._record.history.attempts[dead].failures >= 2,
                    "the dead one is tried again",
                )
        for peer in (garbage, dead):
            lines = [r for r in caplog.records if str(peer) in r.message]
            assert [r.levelname for r in lines] == ["WARNING"], lines
