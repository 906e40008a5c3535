"""Which ports are open once workers run: those of the process tree, read from the kernel."""

from __future__ import annotations

import asyncio
import ipaddress
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from gc_bootstrap.cli.processes import ProcessGroup
from gc_bootstrap.peer import Peer
from tests.integration.harness import Processes, free_port, until

pytestmark = pytest.mark.timeout(180)


def _listening(pid: int) -> dict[tuple[str, int], str]:
    """Addresses and ports that a process and all that it has started listen on, and who does."""
    process = psutil.Process(pid)
    found = {}
    for one in (process, *process.children(recursive=True)):
        # One that ends meanwhile listens no more.
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            who = f"{one.pid} {' '.join(one.cmdline())}"
            for socket in one.net_connections("inet"):
                if socket.status == psutil.CONN_LISTEN:
                    found[socket.laddr.ip, socket.laddr.port] = who
    return found


def _hosts(group: ProcessGroup) -> set[str]:
    assert group.pid is not None
    return {host for host, _ in _listening(group.pid)}


def _off_loopback(listening: dict[tuple[str, int], str]) -> dict[tuple[str, int], str]:
    return {
        address: who
        for address, who in listening.items()
        if not ipaddress.ip_address(address[0]).is_loopback
    }


@pytest.mark.parametrize(
    ("options", "sockets"),
    [
        ((), 4),  # the API, the nanny, the worker, the worker's HTTP server
        (("--nworkers", "2", "--dashboard-address", ":0"), 7),
        (("--no-nanny",), 3),
    ],
)
async def test_an_attached_agent_on_loopback_opens_nothing_elsewhere(
    processes: Processes, options: tuple[str, ...], sockets: int
) -> None:
    group = await processes.start("pool", "agent", "--nthreads", "1", *options)
    scheduler = await processes.scheduler("local")
    workers = 2 if "--nworkers" in options else 1

    async def formed() -> bool:
        return [len(w) for w in (await scheduler.workers()).values()] == [workers]

    await until(formed, "the agent is a member")
    assert group.pid is not None
    listening = _listening(group.pid)
    assert len(listening) == sockets
    assert _off_loopback(listening) == {}


async def test_the_demo_opens_nothing_to_other_hosts(processes: Processes) -> None:
    group = await processes.start("pool", "demo", "--agents", "1")
    assert group.pid is not None
    seen: dict[tuple[str, int], str] = {}
    while not group.ended:
        with suppress(psutil.NoSuchProcess):
            seen |= _listening(group.pid)
        await asyncio.sleep(0.05)
    assert group.returncode == 0, group.tail()
    assert len(seen) > 8, "two schedulers, an agent and its three workers, with nannies and HTTP"
    assert _off_loopback(seen) == {}


@pytest.mark.parametrize(
    ("listen", "options", "expected"),
    [
        ("127.0.0.2", (), {"127.0.0.2"}),
        ("[::1]", (), {"::1"}),
        ("127.0.0.2", ("--host", "127.0.0.3"), {"127.0.0.2", "127.0.0.3"}),
        ("127.0.0.2", ("--interface", "lo"), {"127.0.0.2", "127.0.0.1"}),
        ("127.0.0.2", ("--dashboard-address", "127.0.0.4:0"), {"127.0.0.2", "127.0.0.4"}),
        ("127.0.0.2", ("--listen-address", "tcp://127.0.0.3:0"), {"127.0.0.2", "127.0.0.3"}),
    ],
)
async def test_workers_listen_where_the_agent_does_unless_they_are_told(
    processes: Processes, listen: str, options: tuple[str, ...], expected: set[str]
) -> None:
    peer = Peer.parse(f"{listen}:{free_port()}")
    given = ["--listen", str(peer), "--nthreads", "1", *options]
    group = await processes.start("pool", "agent", *given)
    scheduler = await processes.scheduler([peer])
    await scheduler.formed([peer])
    assert _hosts(group) == expected


async def test_an_agent_on_all_addresses_leaves_it_to_dask(
    processes: Processes, tmp_path: Path
) -> None:
    cookie = tmp_path / "cookie"
    cookie.write_text("a secret that is long enough")
    peer = Peer("127.0.0.1", free_port())
    given = ["--listen", f"0.0.0.0:{peer.port}", "--cookie-file", str(cookie), "--nthreads", "1"]
    group = await processes.start("pool", "agent", *given)
    scheduler = await processes.scheduler([peer], "--cookie-file", str(cookie))
    await scheduler.formed([peer])
    assert "0.0.0.0" in _hosts(group)
