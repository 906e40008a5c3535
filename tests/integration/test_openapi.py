"""The API keeps to openapi.yaml, whatever schemathesis thinks of."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import pytest
import schemathesis
import yaml
from hypothesis import HealthCheck, settings

from gc_bootstrap.peer import Peer
from gc_bootstrap.wire import tokens
from tests.integration.harness import COOKIE, agent_here, nonce_of

SCHEMA = yaml.safe_load(files("gc_bootstrap.agent").joinpath("openapi.yaml").read_text())
# Every request is signed here, so what the description says of unsigned ones is left out;
# test_agent_api.py has the tests of those.
# And no scheduler but one that is not there, on this host: nothing else is to be dialled.
SCHEMA["components"]["schemas"]["Attach"]["properties"]["scheduler"] = {
    "const": "tcp://127.0.0.1:1"
}
for operations in SCHEMA["paths"].values():
    for operation in operations.values():
        operation.pop("security", None)
schema = schemathesis.openapi.from_dict({k: v for k, v in SCHEMA.items() if k != "security"})


@pytest.fixture(scope="module")
def served() -> Iterator[Peer]:
    """An agent in a thread: schemathesis asks synchronously."""
    up: list[Peer] = []
    ready, done = threading.Event(), threading.Event()

    async def serve() -> None:
        async with agent_here(cookie=COOKIE) as agent:
            up.append(agent.peer)
            ready.set()
            await asyncio.to_thread(done.wait)

    thread = threading.Thread(target=lambda: asyncio.run(serve()), name="the agent under test")
    thread.start()
    assert ready.wait(30)
    yield up[0]
    done.set()
    thread.join(30)


class Signed:
    """Signs what schemathesis has made; without it nothing would get past the 401."""

    def __init__(self, method: str, path: str, nonce: str | None) -> None:
        self.method, self.path, self.nonce = method, path, nonce

    def __call__(self, request: object) -> object:
        body = getattr(request, "body", None) or b""
        body = body if isinstance(body, bytes) else str(body).encode()
        header = tokens.sign(COOKIE, self.method, self.path, body, time.time(), self.nonce)
        request.headers["Authorization"] = header  # type: ignore[attr-defined]
        return request


@schema.parametrize()
@settings(max_examples=25, suppress_health_check=list(HealthCheck))
def test_every_answer_is_one_that_the_description_allows(
    case: schemathesis.Case[Any], served: Peer
) -> None:
    nonce = asyncio.run(nonce_of(served))
    auth = Signed(case.method, case.path, nonce) if case.path.startswith("/v1/") else None
    response = case.call(base_url=f"http://{served}", auth=auth, timeout=30)
    # 502 is what the description promises where the scheduler cannot be reached.
    assert response.status_code < 500 or response.status_code in (502, 503)
    case.validate_response(response, excluded_checks=[schemathesis.checks.not_a_server_error])
