"""A recorded attach is of no use: not to the same agent, nor after its restart, nor to another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from gc_bootstrap.errors import DistError
from gc_bootstrap.peer import Peer
from gc_bootstrap.scheduler import signing
from gc_bootstrap.scheduler.client import Answer
from gc_bootstrap.scheduler.signing import SignedClient
from gc_bootstrap.wire.messages import DetachRequest
from gc_bootstrap.wire.names import ATTACH, DETACH, NONCE
from tests.integration.harness import (
    COOKIE,
    SECRET,
    Processes,
    agent_here,
    free_port,
    is_ready,
    nonce_of,
    request,
    run_cli,
)
from tests.integration.recorder import Recorder, replay

pytestmark = pytest.mark.timeout(180)

DETACH_NOBODY = DetachRequest("Scheduler-1", "10.0.0.5:8791")


async def _secrets(how: str, folder: Path) -> tuple[list[str], list[str]]:
    """Options of the agents and of the scheduler."""
    if how == "key pair":
        assert (await run_cli("pool", "keygen", str(folder)))[0] == 0
        public, private = folder / "public.pem", folder / "private.pem"
        return ["--public-key-file", str(public)], ["--key-file", str(private)]
    cookie = folder / "cookie"
    cookie.write_text(SECRET)
    return ["--cookie-file", str(cookie)], ["--cookie-file", str(cookie)]


@pytest.mark.parametrize("how", ["cookie", "key pair"])
async def test_a_recorded_attach_is_refused_everywhere(
    processes: Processes, tmp_path: Path, how: str
) -> None:
    agents_options, scheduler_options = await _secrets(how, tmp_path)
    first, other = Peer("127.0.0.1", free_port()), Peer("127.0.0.1", free_port())
    groups = await processes.agents([first, other], *agents_options)
    async with Recorder(first) as recorder:
        scheduler = await processes.scheduler([recorder.peer], *scheduler_options)
        await scheduler.formed([recorder.peer])
        # Refused once for want of a nonce, and then good.
        refused, attach = recorder.requests
        await scheduler.group.stop()
    for recorded in (refused, attach):
        assert recorded.startswith(f"POST {ATTACH} ".encode())

    status, answer = await replay(first, attach)
    assert (status, "the token has been used before" in answer) == (401, True)
    for recorded in (refused, attach):
        status, answer = await replay(other, recorded)
        assert (status, "the token lacks this agent's nonce" in answer) == (401, True)

    before = await nonce_of(first)
    await groups[first].stop()
    again = await processes.start("pool", "agent", "--listen", str(first), *agents_options)
    await is_ready(again)
    assert await nonce_of(first) != before
    for recorded in (refused, attach):
        status, answer = await replay(first, recorded)
        assert (status, "the token lacks this agent's nonce" in answer) == (401, True)


# -- at no extra request ---------------------------------------------------------------------------


@asynccontextmanager
async def _client() -> AsyncIterator[SignedClient]:
    client = SignedClient(COOKIE, None, concurrency=2)
    client.start()
    try:
        yield client
    finally:
        await client.close()


async def _ask(client: SignedClient, peer: Peer) -> Answer:
    deadline = asyncio.get_running_loop().time() + 10.0
    return await client.ask(peer, DETACH, DETACH_NOBODY, deadline)


async def test_a_known_agent_is_asked_once_and_a_new_life_of_it_twice() -> None:
    port = free_port()
    async with Recorder(Peer("127.0.0.1", port)) as recorder, _client() as client:
        counts = []
        for asked in (2, 1):
            async with agent_here(cookie=COOKIE, listen=f"127.0.0.1:{port}"):
                for _ in range(asked):
                    assert (await _ask(client, recorder.peer)).status == 200
                    counts.append(len(recorder.requests))
        # Two for the first acquaintance, one each while it lives, two after its restart.
        assert counts == [2, 3, 5]


async def test_the_nonce_of_a_peer_that_is_gone_is_forgotten() -> None:
    async with _client() as client:
        async with agent_here(cookie=COOKIE) as agent:
            await _ask(client, agent.peer)
            assert list(client._nonces) == [agent.peer]
        with pytest.raises(DistError, match="is not reachable"):
            await _ask(client, agent.peer)
        assert not client._nonces


async def test_the_memory_of_nonces_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signing, "MOST_NONCES", 1)
    async with (
        _client() as client,
        agent_here(cookie=COOKIE) as one,
        agent_here(cookie=COOKIE) as two,
    ):
        for agent in (one, two, one):
            assert (await _ask(client, agent.peer)).status == 200
            assert list(client._nonces) == [agent.peer]


@pytest.mark.parametrize(
    "nonces", [["a new one each time"], ["x" * 4000], ["\u00fc"], [""], ["always the same"]]
)
@pytest.mark.parametrize("fresh", [signing.FRESH, -1.0], ids=["quick host", "slow host"])
async def test_a_peer_that_always_wants_another_nonce_is_asked_twice(
    nonces: list[str], fresh: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a slow one, cookies that were read for the first request may be out of date by the second.
    monkeypatch.setattr(signing, "FRESH", fresh)
    asked: list[str] = []

    async def refuse(got: web.BaseRequest) -> web.Response:
        await got.read()
        asked.append(got.headers["Authorization"])
        nonce = f"{nonces[0]} {len(asked)}" if nonces[0].startswith("a new") else nonces[0]
        return web.json_response({"error": "again"}, status=401, headers={NONCE: nonce})

    runner = web.ServerRunner(web.Server(refuse))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", free_port())
    await site.start()
    try:
        peer = Peer("127.0.0.1", site._port)
        async with _client() as client:
            with pytest.raises(DistError, match="refuses this scheduler: again"):
                await _ask(client, peer)
    finally:
        await runner.cleanup()
    assert len(asked) == len(set(asked))
    assert len(asked) <= 2


# -- what an agent says ----------------------------------------------------------------------------


async def test_every_answer_has_the_nonce_where_tokens_are_wanted() -> None:
    async with agent_here(cookie=COOKIE) as agent:
        nonce = await nonce_of(agent.peer)
        assert nonce is not None
        assert len(nonce) >= 22, "of 128 random bits"
        for method, path in (("GET", "/v1/status"), ("GET", "/nowhere"), ("PUT", "/v1/attach")):
            status, answer = await replay(
                agent.peer, f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
            )
            assert status in (401, 404, 405)
            assert f"{NONCE}: {nonce}".lower() in answer.lower()
        assert (await request(agent.peer, "GET", "/v1/status", cookie=COOKIE))[0] == 200
    async with agent_here(insecure=True) as agent:
        assert await nonce_of(agent.peer) is None
