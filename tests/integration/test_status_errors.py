"""`dask pool status` where there is nothing to be asked: one line, soon, that says why."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from distributed import Worker

from gc_bootstrap.cli.ask import HTTP, NEEDS_TLS
from gc_bootstrap.wire.names import STATUS_HANDLER
from tests.integration.harness import agent_here, free_port, run_cli, scheduler_here
from tests.integration.test_tls import Certificates

pytestmark = pytest.mark.timeout(120)
DEADLINE = "60s"
"""For the answer. All that is asked here says soon what it is; a run is cut short at 45 s."""


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("tls") / "ours")


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("tls") / "theirs")


@pytest.fixture
async def silent() -> AsyncIterator[int]:
    """The port of somebody who accepts and never says anything."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


async def complaint(address: str, *options: str, code: int = 1, timeout: str = DEADLINE) -> str:
    """The only line that is said of an address."""
    found, out, err = await run_cli("pool", "status", address, "--timeout", timeout, *options)
    assert (found, out) == (code, ""), err
    (line,) = err.splitlines()
    return line.removeprefix("Error: ")


async def test_a_port_that_nobody_listens_on() -> None:
    address = f"tcp://127.0.0.1:{free_port()}"
    assert await complaint(address) == (
        f"cannot ask the scheduler at {address}: Connection refused"
    )


async def test_a_name_that_does_not_resolve() -> None:
    line = await complaint("tcp://no-such-host.invalid:8786")
    assert line.startswith("cannot ask the scheduler at tcp://no-such-host.invalid:8786: ")
    assert "Unknown error" not in line
    assert "name" in line.casefold()


async def test_an_agent_is_no_scheduler() -> None:
    async with agent_here() as agent:
        assert await complaint(str(agent.peer)) == (
            f"cannot ask the scheduler at {agent.peer}: {HTTP}"
        )


async def test_a_dashboard_is_no_scheduler() -> None:
    async with scheduler_here(dashboard_address="127.0.0.1:0") as scheduler:
        address = f"tcp://127.0.0.1:{vars(scheduler.http_server)['port']}"
        assert (await complaint(address)).endswith(HTTP)


async def test_a_scheduler_or_an_agent_with_tls_is_asked_without(
    certificates: Certificates,
) -> None:
    async with (
        scheduler_here(host="tls://127.0.0.1", security=certificates.security) as scheduler,
        agent_here(*certificates.options) as agent,
    ):
        for place in (scheduler.address.removeprefix("tls://"), str(agent.peer)):
            assert await complaint(f"tcp://{place}") == (
                f"cannot ask the scheduler at tcp://{place}: {NEEDS_TLS}"
            )
        ca = ["--tls-ca-file", str(certificates.folder / "ca.pem")]
        for options in ([], ca):
            line = await complaint(scheduler.address, *options, code=2)
            assert line.startswith(f"{scheduler.address}: TLS needs --tls-ca-file, --tls-cert and ")
        assert await complaint(scheduler.address, *certificates.options) == (
            f"the scheduler at {scheduler.address} has no pools; its log says why"
        )


async def test_a_scheduler_of_another_ca(certificates: Certificates, foreign: Certificates) -> None:
    async with scheduler_here(host="tls://127.0.0.1", security=foreign.security) as scheduler:
        line = await complaint(scheduler.address, *certificates.options)
        assert ": its certificate is not trusted: " in line


async def test_certificates_that_are_none(tmp_path: Path, certificates: Certificates) -> None:
    (tmp_path / "none.pem").write_text("nothing")
    options = [*certificates.options, "--tls-ca-file", str(tmp_path / "none.pem")]
    assert (await complaint("tls://127.0.0.1:1", *options, code=2)).startswith("TLS: ")


async def test_a_worker_is_no_scheduler() -> None:
    async with (
        scheduler_here() as scheduler,
        Worker(scheduler.address, host="127.0.0.1", dashboard_address=":0") as worker,
    ):
        line = await complaint(worker.address)
        assert line == f"the scheduler at {worker.address} has no pools; its log says why"


async def test_a_scheduler_with_another_version_of_this() -> None:
    async def status() -> dict[str, object]:
        pool = {"name": "default", "members": []}
        return {"scheduler": {"address": "x", "id": "y"}, "not-started": [], "pools": [pool]}

    async with scheduler_here() as scheduler:
        scheduler.handlers[STATUS_HANDLER] = status
        line = await complaint(scheduler.address, "--check")
        assert line.startswith(f"the scheduler at {scheduler.address} runs another version of gc_")


async def test_who_says_nothing_is_waited_for_as_long_as_was_said(silent: int) -> None:
    address = f"tcp://127.0.0.1:{silent}"
    assert await complaint(address, timeout="2s") == f"no answer from {address} within 2 s"


async def test_who_talks_something_else_is_no_scheduler() -> None:
    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example.com ESMTP\r\n")
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(talk, "127.0.0.1", 0) as server:
        line = await complaint(f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        assert line.endswith(": what answers there is no Dask scheduler")


@pytest.mark.parametrize(
    "address", ["lots", "tcp://10.0.0.1", "tcp://:0", "a:b:c", "://", "tcp://a:1x"]
)
async def test_what_is_no_address(address: str) -> None:
    expected = f"{address!r} is not an address such as tcp://10.0.0.1:8786"
    assert await complaint(address, code=2) == expected


async def test_a_protocol_that_nobody_knows() -> None:
    assert "unknown address scheme 'smoke'" in await complaint("smoke://127.0.0.1:8786")
