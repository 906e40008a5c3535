"""Floods of connections against an agent: it stays reachable, and attaches, within its files."""

from __future__ import annotations

import asyncio
import resource
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path

import aiohttp
import psutil
import pytest
from distributed import Client

from gc_bootstrap.agent import connections as connections_module
from gc_bootstrap.agent import server as server_module
from gc_bootstrap.cli.processes import ProcessGroup
from gc_bootstrap.dist import Owner
from gc_bootstrap.errors import DistError
from gc_bootstrap.peer import Peer
from gc_bootstrap.scheduler.dask import DaskDist
from tests.integration.harness import (
    DEADLINE,
    Processes,
    agent_here,
    request,
    scheduler_here,
    until,
)
from tests.integration.test_tls import Certificates
from tests.zygote import zygote

FILES = 512
"""What the agent may open: few, so that a flood is quick."""
WAVES, AT_ONCE = 3, 800


FLOOD = """
import socket, sys
address, says, at_once = (sys.argv[1], int(sys.argv[2])), sys.argv[3].encode(), int(sys.argv[4])
while True:
    opened = []
    for _ in range(at_once):
        sock = socket.create_connection(address)
        opened.append(sock)
        try:
            sock.sendall(says)
        except OSError:
            pass  # it is closed already
    for sock in opened:
        sock.close()
    print("a wave", flush=True)
"""


@contextmanager
def few_files() -> Iterator[None]:
    """What is started now may open few files."""
    pid = zygote().pid
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (FILES, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


@asynccontextmanager
async def flooded(peer: Peer, says: str) -> AsyncIterator[None]:
    """Open thousands of connections that say this and nothing more, as fast as they are taken."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", FLOOD, peer.host, str(peer.port), says, str(AT_ONCE)),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        assert await asyncio.wait_for(process.stdout.readline(), DEADLINE)
        yield
        for _ in range(WAVES - 1):
            assert await asyncio.wait_for(process.stdout.readline(), DEADLINE)
    finally:
        process.kill()
        await process.communicate()


@pytest.mark.parametrize("says", ["", "G"], ids=["silent", "one byte each"])
async def test_an_agent_under_a_flood_answers_probes_attaches_and_computes(
    tmp_path: Path, says: str
) -> None:
    async with Processes(tmp_path) as processes, scheduler_here() as scheduler:
        with few_files():
            ((peer, group),) = (await processes.agents(1)).items()
            process = psutil.Process(group.pid)
            before = process.num_fds()
            lines = len(_log(group))
            dist = DaskDist.for_scheduler(Owner(scheduler))
            await dist.start()
            async with flooded(peer, says):
                await until(lambda: _refused(group, lines), "there are as many as may be")
                for path in ("/healthz", "/readyz", "/metrics"):
                    await until(partial(_answers, peer, path), f"{path} is answered")
                await until(lambda: _attaches(dist, peer), "it is attached")
            async with Client(scheduler.address, asynchronous=True) as client:
                assert await client.submit(sum, [1, 2]) == 3
        said = _log(group)[lines:]
        (line,) = _refused(group, lines)
        assert "as many as may be" in line  # and not that files had run out
        assert len(said) < 40, said
        assert await dist.disconnect(peer)
        await dist.close()
        # The fork server is what has come since: two pipes.
        await until(lambda: process.num_fds() <= before + 4, "all sockets are gone")


async def _answers(peer: Peer, path: str) -> bool:
    """Whether a probe is answered; as a kubelet, one tries again where its own host is slow."""
    with suppress(aiohttp.ClientError):
        return (await request(peer, "GET", path))[0] == 200
    return False


async def _attaches(dist: DaskDist, peer: Peer) -> bool:
    with suppress(DistError):
        return bool(await dist.connect(peer))
    return False


def _refused(group: ProcessGroup, after: int) -> list[str]:
    return [line for line in _log(group)[after:] if "Refused connections: " in line]


def _log(group: ProcessGroup) -> list[str]:
    return group.log.read_text().splitlines()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("tls") / "ours")


@pytest.mark.parametrize("says", [b"", b"\x16"], ids=["silent", "a handshake's first byte"])
async def test_with_tls_those_that_do_not_shake_hands_make_room_too(
    certificates: Certificates, says: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections_module, "MOST", 8)
    monkeypatch.setattr(connections_module, "LEAST", 8)
    async with agent_here(*certificates.options) as agent:
        tls = certificates.context(certificate=True)
        opened = []
        for _ in range(40):
            reader, writer = await asyncio.open_connection(agent.peer.host, agent.peer.port)
            writer.write(says)
            opened.append((reader, writer))
        assert (await request(agent.peer, "GET", "/healthz", tls=tls))[0] == 200
        assert (await request(agent.peer, "GET", "/v1/status", tls=tls))[0] == 200
        # The oldest have been closed: to the client an end or a reset.
        for reader, writer in opened[:32]:
            with suppress(ConnectionError):
                assert await asyncio.wait_for(reader.read(), 20) == b""
            writer.close()
        assert agent.agent.refusals.counts["connections"] >= 32
        for _, writer in opened[32:]:
            writer.close()


async def test_a_tls_handshake_has_as_long_as_headers_have(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "REQUEST_TIMEOUT", 0.3)
    async with agent_here(*certificates.options) as agent:
        for says in (b"", b"\x16\x03\x01"):
            reader, writer = await asyncio.open_connection(agent.peer.host, agent.peer.port)
            writer.write(says)
            assert await asyncio.wait_for(reader.read(), 20) == b""
            writer.close()


async def test_a_client_that_does_not_speak_tls_is_a_refusal(certificates: Certificates) -> None:
    async with agent_here(*certificates.options) as agent:
        reader, writer = await asyncio.open_connection(agent.peer.host, agent.peer.port)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
        with suppress(ConnectionError):
            await asyncio.wait_for(reader.read(), 20)
        writer.close()
        assert agent.agent.refusals.counts == {"tls": 1}
