"""The agent's HTTP API against well-formed, malformed, slow and hostile clients."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator

import pytest

from gc_bootstrap.agent import protocol
from gc_bootstrap.agent import server as server_module
from gc_bootstrap.agent.run import AgentServer
from gc_bootstrap.errors import ConfigError
from gc_bootstrap.peer import Peer
from gc_bootstrap.wire import messages, tokens, versions
from gc_bootstrap.wire.cookie import Cookie
from tests.integration.harness import COOKIE, agent_here, nonce_of, request, scheduler_here

ATTACH = messages.to_json({"scheduler": "tcp://127.0.0.1:1", "scheduler_id": "me", "peer": "x:1"})
POST = b"POST /v1/attach HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"


@pytest.fixture
async def agent() -> AsyncIterator[AgentServer]:
    async with agent_here(cookie=COOKIE) as agent:
        yield agent


async def _raw(peer: Peer, data: bytes) -> tuple[int, dict[str, str]]:
    """Send bytes as they are; return the status and the JSON of the answer."""
    reader, writer = await asyncio.open_connection(peer.host, peer.port)
    try:
        writer.write(data)
        await writer.drain()
        answer = await asyncio.wait_for(reader.read(), 20)
    finally:
        writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"content-type: application/json" in head.lower(), answer
    return int(head.split()[1]), json.loads(body)


async def test_probes_and_metrics_need_no_cookie(agent: AgentServer) -> None:
    assert await request(agent.peer, "GET", "/healthz") == (200, {"status": "ok"})
    assert await request(agent.peer, "GET", "/readyz") == (200, {"state": "idle"})
    status, text = await request(agent.peer, "GET", "/metrics")
    assert status == 200
    assert 'gc_bootstrap_agent_state{state="idle"} 1.0' in text
    assert "gc_bootstrap_agent_attaches_total 0.0" in text


async def test_readiness_ends_with_draining(agent: AgentServer) -> None:
    await agent.drain()
    assert await request(agent.peer, "GET", "/readyz") == (503, {"state": "draining"})
    assert (await request(agent.peer, "GET", "/healthz"))[0] == 200


async def test_status_says_who_holds_the_agent(agent: AgentServer) -> None:
    _, idle = await request(agent.peer, "GET", "/v1/status", cookie=COOKIE)
    assert (idle["state"], idle["scheduler"], idle["workers"]) == ("idle", None, [])
    async with scheduler_here() as scheduler:
        body = messages.AttachRequest(scheduler.address, scheduler.id, str(agent.peer)).encode()
        status, attached = await request(agent.peer, "POST", "/v1/attach", body, cookie=COOKIE)
        assert status == 200
        (address,) = scheduler.workers
        assert attached["workers"] == [{"address": address}]
        _, held = await request(agent.peer, "GET", "/v1/status", cookie=COOKIE)
        assert (held["state"], held["scheduler_id"]) == ("attached", scheduler.id)
        assert held["versions"] == versions.installed()
        detach = messages.DetachRequest("another", str(agent.peer)).encode()
        status, error = await request(agent.peer, "POST", "/v1/detach", detach, cookie=COOKIE)
        assert (status, scheduler.id in error["error"]) == (409, True)
        # A request that was meant for another agent of the same scheduler.
        detach = messages.DetachRequest(scheduler.id, "10.0.0.9:8791").encode()
        status, error = await request(agent.peer, "POST", "/v1/detach", detach, cookie=COOKIE)
        assert (status, error["error"]) == (409, f"held as {agent.peer}")
        detach = messages.DetachRequest(scheduler.id, str(agent.peer)).encode()
        answer = await request(agent.peer, "POST", "/v1/detach", detach, cookie=COOKIE)
        assert answer == (200, {"state": "idle"})


@pytest.mark.parametrize("path", ["/v1/attach", "/v1/detach", "/v1/status"])
async def test_v1_needs_the_cookie(agent: AgentServer, path: str) -> None:
    method = "GET" if path == "/v1/status" else "POST"
    status, answer = await request(agent.peer, method, path, ATTACH)
    assert (status, answer["error"].split(";")[0]) == (401, "no token")
    other = Cookie("somebody else's secret", "the test")
    status, answer = await request(agent.peer, method, path, ATTACH, cookie=other)
    assert (status, answer["error"]) == (401, "the token was signed with another cookie")


async def test_a_token_serves_once_and_for_its_own_request_only(agent: AgentServer) -> None:
    nonce = await nonce_of(agent.peer)
    header = tokens.sign(
        COOKIE, "POST", "/v1/detach", b'{"scheduler_id":"a","peer":"p"}', time.time(), nonce
    )

    async def ask(method: str, path: str, body: bytes) -> tuple[int, str]:
        headers = {"Authorization": header}
        status, answer = await request(agent.peer, method, path, body, headers=headers)
        return status, answer.get("error", "")

    assert await ask("POST", "/v1/detach", b'{"scheduler_id":"b","peer":"p"}') == (
        401,
        "the token is for another body",
    )
    assert await ask("POST", "/v1/attach", b'{"scheduler_id":"a","peer":"p"}') == (
        401,
        "the token is for another request",
    )
    assert (await ask("POST", "/v1/detach", b'{"scheduler_id":"a","peer":"p"}'))[0] == 200
    assert await ask("POST", "/v1/detach", b'{"scheduler_id":"a","peer":"p"}') == (
        401,
        "the token has been used before",
    )


async def test_an_expired_token_is_refused(agent: AgentServer) -> None:
    body = b'{"scheduler_id":"a","peer":"p"}'
    header = tokens.sign(COOKIE, "POST", "/v1/detach", body, time.time() - 90, None)
    status, answer = await request(
        agent.peer, "POST", "/v1/detach", body, headers={"Authorization": header}
    )
    assert status == 401
    assert "expired" in answer["error"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"\x80\x04\x95 a pickle", 400),
        (b"{", 400),
        (b"[" * 50_000, 400),
        (b'{"scheduler_id": NaN}', 400),
        (b"null", 422),
        (b"[]", 422),
        (b"{}", 422),
        (b'{"scheduler_id": 5}', 422),
        (b'{"scheduler_id": ""}', 422),
        (b'{"scheduler_id": "a\\nb"}', 422),
        (b'{"scheduler_id": "a", "more": 1}', 422),
        (json.dumps({"scheduler_id": "x" * 600}).encode(), 422),
    ],
)
async def test_a_bad_body_is_a_4xx_with_a_reason(
    agent: AgentServer, body: bytes, status: int
) -> None:
    answered, answer = await request(agent.peer, "POST", "/v1/detach", body, cookie=COOKIE)
    assert answered == status
    assert answer["error"]


async def test_an_address_that_is_none_is_a_422(agent: AgentServer) -> None:
    ports = [f"tcp://127.0.0.1:{port}" for port in ("0", "99999", "port", "")]
    for address in (*ports, "nonsense", "tcp://", "tcp://[::1"):
        body = messages.to_json({"scheduler": address, "scheduler_id": "me", "peer": "x:1"})
        status, answer = await request(agent.peer, "POST", "/v1/attach", body, cookie=COOKIE)
        assert status == 422, (address, answer)
        assert "is not a scheduler's address" in answer["error"]
    assert agent.agent.state == "idle"


async def test_unknown_paths_and_methods(agent: AgentServer) -> None:
    assert (await request(agent.peer, "GET", "/"))[0] == 404
    assert (await request(agent.peer, "GET", "/v1/attach"))[0] == 405
    assert (await request(agent.peer, "DELETE", "/healthz"))[0] == 405
    assert (await request(agent.peer, "HEAD", "/healthz"))[0] == 200


async def test_a_large_body_is_refused_whatever_length_it_claims(agent: AgentServer) -> None:
    big = b"x" * (messages.MAX_BODY + 1)
    assert (await request(agent.peer, "POST", "/v1/attach", big, cookie=COOKIE))[0] == 413
    chunked = POST + b"Transfer-Encoding: chunked\r\n\r\n"
    chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    assert (await _raw(agent.peer, chunked + chunk * 3))[0] == 413


@pytest.mark.parametrize(
    "head",
    [
        b"POST /nowhere HTTP/1.1\r\nHost: a\r\nContent-Length: 900000\r\n\r\n",
        POST + b"Content-Length: 900000\r\n\r\n",
        POST + b"Content-Length: -1\r\n\r\n",
    ],
)
async def test_an_answer_that_comes_early_is_not_lost(agent: AgentServer, head: bytes) -> None:
    reader, writer = await asyncio.open_connection(agent.peer.host, agent.peer.port)
    for data in (head, *(b"x" * 9_000 for _ in range(100))):
        writer.write(data)
        await writer.drain()
    answer = await asyncio.wait_for(reader.read(), 20)
    writer.close()
    assert answer.split()[1].startswith(b"4")
    assert answer.endswith(b"}")


async def test_a_client_that_goes_in_the_middle_of_its_body_is_no_error_of_the_agent(
    agent: AgentServer, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(5):
        _, writer = await asyncio.open_connection(agent.peer.host, agent.peer.port)
        writer.write(POST + b"Content-Length: 10\r\n\r\nabc")
        await writer.drain()
        # Answered after it: the agent has begun to read the body.
        assert (await request(agent.peer, "GET", "/healthz"))[0] == 200
        writer.transport.abort()
    assert (await request(agent.peer, "GET", "/healthz"))[0] == 200
    assert [r.getMessage() for r in caplog.records if r.levelname in ("WARNING", "ERROR")] == []
    assert agent.agent.refusals.counts == {}


@pytest.mark.parametrize("pieces", [1, 1_000_000])
async def test_a_client_that_does_not_close_after_its_answer_is_closed(
    agent: AgentServer, pieces: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "LINGER_TIME", 0.2 if pieces == 1 else 3600)
    reader, writer = await asyncio.open_connection(agent.peer.host, agent.peer.port)
    writer.write(b"POST /nowhere HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\n\r\n")
    assert (await asyncio.wait_for(reader.read(), 20)).startswith(b"HTTP/1.1 404")

    async def send_on() -> None:
        for _ in range(pieces):
            writer.write(b"x" * 9_000)
            await writer.drain()
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.02)

    with pytest.raises(ConnectionError):
        await asyncio.wait_for(send_on(), 20)
    writer.close()


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64 + b"\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /healthz HTTP/9.9\r\n\r\n",
        b"POST /v1/attach HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/attach HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n",
        b"POST /v1/attach HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nab",
        b"POST /v1/attach HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /healthz HTTP/1.1\r\nBad Header: x\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nX: " + b"y" * 20_000 + b"\r\n\r\n",
        b"GET /" + b"y" * 20_000 + b" HTTP/1.1\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\n" + b"X: y\r\n" * 5_000 + b"\r\n",
    ],
)
async def test_malformed_http_is_a_4xx_with_a_json_error(agent: AgentServer, data: bytes) -> None:
    status, answer = await _raw(agent.peer, data)
    assert 400 <= status < 500
    assert answer.keys() == {"error"}
    assert (await request(agent.peer, "GET", "/healthz"))[0] == 200


async def test_a_compressed_body_is_refused(agent: AgentServer) -> None:
    headers = {"Content-Encoding": "gzip"}
    status, _ = await request(agent.peer, "POST", "/v1/attach", b"\x1f\x8b", headers=headers)
    assert status == 415


@pytest.mark.parametrize("secured", [True, False])
@pytest.mark.parametrize("path", ["/v1/attach", "/v1/detach"])
async def test_no_web_page_can_change_anything(path: str, secured: bool) -> None:
    cookie = COOKIE if secured else None
    body = messages.to_json({"scheduler_id": "me", "peer": "x:1"})
    async with agent_here(cookie=cookie, insecure=not secured) as agent:

        async def ask(headers: dict[str, str]) -> tuple[int, str]:
            status, answer = await request(
                agent.peer, "POST", path, body, cookie=cookie, headers=headers
            )
            return status, answer.get("error", "")

        # What a form or a script of any page may send without asking first.
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
            status, reason = await ask({"Content-Type": kind})
            assert (status, reason) == (
                415,
                f"the Content-Type is {kind!r}, not 'application/json'",
            )
        head = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{{}}"
        assert (await _raw(agent.peer, head.encode()))[0] == 415
        for origin in ("https://example.com", "http://127.0.0.1:8791", "null", ""):
            status, reason = await ask({"Origin": origin})
            assert (status, reason) == (
                403,
                "the request has an Origin header; web pages may not ask this",
            )
        assert (await ask({"Content-Type": "Application/JSON; charset=utf-8"}))[0] in (200, 422)


async def test_slow_headers_and_bodies_are_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "REQUEST_TIMEOUT", 0.3)
    async with agent_here(cookie=COOKIE) as agent:
        reader, writer = await asyncio.open_connection(agent.peer.host, agent.peer.port)
        writer.write(b"GET /healthz HTTP/1.1\r\nX: ")
        assert await asyncio.wait_for(reader.read(), 20) == b""
        writer.close()
        status, answer = await _raw(agent.peer, POST + b"Content-Length: 10\r\n\r\nabc")
        assert (status, "has not come" in answer["error"]) == (408, True)


async def test_a_pipelined_second_request_is_not_served(agent: AgentServer) -> None:
    reader, writer = await asyncio.open_connection(agent.peer.host, agent.peer.port)
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n" * 2)
    answer = await asyncio.wait_for(reader.read(), 20)
    writer.close()
    assert answer.count(b"HTTP/1.1 200") == 1
    assert b"connection: close" in answer.lower()


async def test_an_agent_says_whom_it_refused_and_why_in_metrics_status_and_log(
    agent: AgentServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "gc_bootstrap.agent.refusals")

    async def ask(
        body: bytes, cookie: Cookie | None = COOKIE, headers: dict[str, str] | None = None
    ) -> int:
        answer = await request(
            agent.peer, "POST", "/v1/attach", body, cookie=cookie, headers=headers
        )
        return answer[0]

    old = messages.AttachRequest("tcp://127.0.0.1:1", "old", "x:1", versions={"python": "2.7.18"})
    for _ in range(3):
        assert await ask(ATTACH, cookie=None) == 401
        assert await ask(ATTACH, cookie=Cookie("somebody else's secret", "the test")) == 401
        assert await ask(old.encode()) == 409
        assert await ask(b"{}") == 422
        assert await ask(ATTACH, headers={"Origin": "http://example.com"}) == 403
    await agent.drain()
    assert await ask(ATTACH) == 503
    expected = {"token": 6, "version": 3, "request": 3, "web": 3, "draining": 1}
    _, status = await request(agent.peer, "GET", "/v1/status", cookie=COOKIE)
    assert status["refusals"] == expected
    _, text = await request(agent.peer, "GET", "/metrics")
    for reason, count in expected.items():
        assert f'gc_bootstrap_agent_refusals_total{{reason="{reason}"}} {count}.0' in text
    assert 'gc_bootstrap_agent_refusals_total{reason="held"} 0.0' in text
    said = [message for message in caplog.messages if message.startswith("Refused ")]
    assert [message.split(":")[0] for message in said] == [
        "Refused 127.0.0.1",
        "Refused scheduler old at tcp",
        "Refused 127.0.0.1",
        "Refused 127.0.0.1",
        "Refused scheduler me at tcp",
    ]


async def test_a_standby_scheduler_is_counted_as_refused_because_the_agent_is_held(
    agent: AgentServer,
) -> None:
    async with scheduler_here() as scheduler:
        body = messages.AttachRequest(scheduler.address, scheduler.id, str(agent.peer)).encode()
        assert (await request(agent.peer, "POST", "/v1/attach", body, cookie=COOKIE))[0] == 200
        assert (await request(agent.peer, "POST", "/v1/attach", ATTACH, cookie=COOKIE))[0] == 409
        assert agent.agent.refusals.counts == {"held": 1}
        await agent.drain()


async def test_an_idle_agent_opens_no_port_but_its_own() -> None:
    import psutil

    def listening() -> set[int]:
        found = psutil.Process().net_connections("tcp")
        return {c.laddr.port for c in found if c.status == psutil.CONN_LISTEN}

    before = listening()
    async with agent_here() as agent:
        assert listening() - before == {agent.peer.port}


async def test_a_port_open_to_other_hosts_needs_a_secret() -> None:
    with pytest.raises(ConfigError, match=r"--listen 0\.0\.0\.0:0: other hosts can reach it"):
        async with agent_here(listen="0.0.0.0:0"):
            pass
    async with agent_here(listen="0.0.0.0:0", cookie=COOKIE) as agent:
        assert (await request(agent.peer, "GET", "/v1/status"))[0] == 401


async def test_insecure_takes_anybody_and_contradicts_a_cookie() -> None:
    async with agent_here(listen="0.0.0.0:0", insecure=True) as agent:
        assert (await request(agent.peer, "GET", "/v1/status"))[0] == 200
    with pytest.raises(ConfigError, match="--insecure: contradicts the cookie"):
        async with agent_here(insecure=True, cookie=COOKIE):
            pass


async def test_ipv6_loopback() -> None:
    async with agent_here(listen="[::1]:0") as agent:
        assert str(agent.peer).startswith("[::1]:")
        assert (await request(agent.peer, "GET", "/healthz"))[0] == 200


async def test_a_taken_port_is_said() -> None:
    async with agent_here() as agent:
        with pytest.raises(ConfigError, match="Address already in use"):
            async with agent_here(listen=str(agent.peer)):
                pass
