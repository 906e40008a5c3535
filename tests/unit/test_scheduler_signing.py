"""What a request is signed with; the other end is a real control API."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest

from gc_bootstrap.agent.core import Agent
from gc_bootstrap.agent.listen import Listen, local_peer
from gc_bootstrap.agent.server import ControlServer
from gc_bootstrap.errors import DistError
from gc_bootstrap.peer import Peer
from gc_bootstrap.scheduler import signing
from gc_bootstrap.scheduler.client import Answer
from gc_bootstrap.scheduler.signing import SignedClient
from gc_bootstrap.wire.cookie import Cookie
from gc_bootstrap.wire.keys import Signer, Trusted
from gc_bootstrap.wire.messages import DetachRequest, StatusReply
from gc_bootstrap.wire.names import DETACH, STATUS
from gc_bootstrap.wire.registrations import Registrar, Registration
from tests.unit.agents import options

SHARED = Cookie("correct horse battery staple", "a file")
OWN = "the agent made this one by itself"
DETACH_NOBODY = DetachRequest("Scheduler-1", "10.0.0.5:8791")


@asynccontextmanager
async def served(trusted: Trusted | None) -> AsyncIterator[Peer]:
    """An idle agent's API; it has nothing to detach, and answers 200."""
    agent = Agent(options())
    await agent.warm_up(None)
    sock = await asyncio.to_thread(Listen("127.0.0.1", 0).bind)
    peer = local_peer(sock)
    server = ControlServer(agent, sock, trusted=trusted)
    await server.start()
    try:
        yield peer
    finally:
        await server.close()
        await agent.close()


@asynccontextmanager
async def client_with(signer: Signer | None) -> AsyncIterator[SignedClient]:
    client = SignedClient(signer, None, concurrency=2)
    client.start()
    try:
        yield client
    finally:
        await client.close()


@contextmanager
def registered(peer: Peer, cookie: str | None) -> Iterator[None]:
    registrar = Registrar()
    registrar.register(Registration(peer, os.getpid(), cookie))
    try:
        yield
    finally:
        registrar.close()


async def asked(client: SignedClient, peer: Peer) -> Answer:
    deadline = asyncio.get_running_loop().time() + 10.0
    return await client.ask(peer, DETACH, DETACH_NOBODY, deadline)


async def test_the_shared_cookie_signs() -> None:
    async with served(SHARED) as peer, client_with(SHARED) as client:
        assert (await asked(client, peer)).status == 200


async def test_what_is_only_looked_at_is_signed_as_well() -> None:
    async with served(SHARED) as peer, client_with(SHARED) as client:
        for _ in range(2):
            deadline = asyncio.get_running_loop().time() + 10.0
            answer = await client.ask(peer, STATUS, None, deadline)
            assert (answer.status, StatusReply.decode(answer.body).state) == (200, "idle")
    async with served(SHARED) as peer, client_with(None) as client:
        with pytest.raises(DistError, match="no cookie is known"):
            await client.ask(peer, STATUS, None, asyncio.get_running_loop().time() + 10.0)


async def test_an_agent_that_has_made_its_own_cookie_gets_that_one() -> None:
    async with served(Cookie(OWN, "its registration")) as peer, client_with(SHARED) as client:
        with registered(peer, OWN):
            assert (await asked(client, peer)).status == 200
            by_name = Peer("localhost", peer.port)
            assert (await asked(client, by_name)).status == 200


async def test_an_agent_that_registers_without_a_cookie_shares_one() -> None:
    async with served(SHARED) as peer, client_with(SHARED) as client:
        with registered(peer, None):
            assert (await asked(client, peer)).status == 200


async def test_a_cookie_that_was_refused_is_read_again_unless_it_is_fresh(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(signing, "OWN_COOKIES_FOR", 3600.0)
    monkeypatch.setattr(signing, "FRESH", 3600.0)
    async with served(Cookie(OWN, "its registration")) as peer, client_with(None) as client:
        before = "that of the agent that was here before"
        with registered(peer, before), pytest.raises(DistError, match="another cookie"):
            await asked(client, peer)
        with registered(peer, OWN):
            with pytest.raises(DistError, match="another cookie"):
                await asked(client, peer)
            monkeypatch.setattr(signing, "FRESH", -1.0)
            assert (await asked(client, peer)).status == 200


@pytest.mark.parametrize(
    ("cookie", "how"),
    [
        (Cookie("another horse, another staple", "the wrong file"), "signed with the cookie from"),
        (None, "not signed: no cookie is known"),
    ],
)
async def test_a_refused_request_says_how_it_was_signed(cookie: Cookie | None, how: str) -> None:
    async with served(SHARED) as peer, client_with(cookie) as client:
        with pytest.raises(DistError) as caught:
            await asked(client, peer)
    assert "refuses this scheduler" in str(caught.value)
    assert how in str(caught.value)
    assert "horse" not in str(caught.value)


async def test_other_refusals_are_the_callers_business() -> None:
    async with served(None) as peer, client_with(None) as client:
        deadline = asyncio.get_running_loop().time() + 10.0
        answer = await client.ask(peer, "/v1/nothing", DETACH_NOBODY, deadline)
    assert (answer.status, answer.error) == (404, "there is no '/v1/nothing' here")
