"""Real agents and schedulers, in this process or as processes of their own."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import psutil
from distributed import Scheduler
from distributed.core import rpc

from gc_bootstrap.agent.listen import Listen
from gc_bootstrap.agent.options import WorkerOptions, click_parameters, worker_options
from gc_bootstrap.agent.run import AgentOptions, AgentServer
from gc_bootstrap.cli.processes import ProcessGroup
from gc_bootstrap.peer import Peer
from gc_bootstrap.wire import tokens
from gc_bootstrap.wire.cookie import Cookie
from gc_bootstrap.wire.keys import Signer, Trusted
from gc_bootstrap.wire.names import NONCE, STATUS_HANDLER
from tests.zygote import is_plain, zygote

DEADLINE = 45.0
PORT_SHARES = 8
_RANDOM = random.SystemRandom()  # hypothesis seeds the usual one
_GIVEN: set[int] = set()
SECRET = "correct horse battery staple"
COOKIE = Cookie(SECRET, "the test")


async def until(
    condition: Callable[[], Any | Awaitable[Any]], what: str, deadline: float = DEADLINE
) -> Any:
    """Wait until a condition is true, and return what it returned."""
    began = time.monotonic()
    while True:
        value = condition()
        if isinstance(value, Awaitable):
            value = await value
        if value:
            return value
        assert time.monotonic() - began < deadline, f"waited {deadline:g} s in vain until {what}"
        await asyncio.sleep(0.02)


def free_port() -> int:
    """A port that nobody listens on now, and that is given to nobody else.

    Below Linux' ephemeral ports (32768 and up): one of those may be somebody's a moment later.
    Test processes that run beside one another (pytest-xdist) have a share of them each.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % PORT_SHARES
    share = (32000 - 20000) // PORT_SHARES
    while True:
        port = 20000 + worker * share + _RANDOM.randrange(share)
        if port in _GIVEN:
            continue
        with socket.socket() as sock, suppress(OSError):
            sock.bind(("127.0.0.1", port))
            _GIVEN.add(port)
            return port


def workers_of(pid: int) -> list[psutil.Process]:
    """Worker processes of an agent: children of its forkserver."""
    found = []
    for child in psutil.Process(pid).children():
        if child.status() != psutil.STATUS_ZOMBIE and "forkserver" in " ".join(child.cmdline()):
            found += [w for w in child.children() if w.status() != psutil.STATUS_ZOMBIE]
    return found


def options_of(*arguments: str) -> WorkerOptions:
    """What `dask pool agent ARGUMENTS` would run."""
    import click

    command = click.Command("agent", params=click_parameters())
    host = () if "--listen-address" in arguments else ("--host", "127.0.0.1")
    given = ["--nthreads", "1", "--no-dashboard", *host, *arguments]
    return worker_options(command.make_context("agent", given).params)


@asynccontextmanager
async def agent_here(
    *arguments: str,
    cookie: Trusted | None = None,
    listen: str = "127.0.0.1:0",
    insecure: bool = False,
    warm: Callable[[], Awaitable[None]] | None = None,
) -> AsyncIterator[AgentServer]:
    """An agent in this process; its worker runs in this process, too."""
    options = AgentOptions(
        workers=options_of("--no-nanny", *arguments),
        listen=Listen.parse(listen),
        trusted=cookie,
        insecure=insecure,
    )
    async with AgentServer(options, warm) as server:
        yield server


@asynccontextmanager
async def scheduler_here(**keywords: Any) -> AsyncIterator[Scheduler]:
    """A scheduler in this process."""
    keywords = {"host": "127.0.0.1", "port": 0, "dashboard_address": ":0", **keywords}
    async with Scheduler(**keywords) as scheduler:
        yield scheduler


async def nonce_of(peer: Peer | str, tls: Any = None) -> str | None:
    """What tokens for an agent have to carry: it is in each of its answers."""
    scheme = "http" if tls is None else "https"
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{scheme}://{peer}/healthz", ssl=tls or True) as response,
    ):
        return response.headers.get(NONCE)


async def request(
    peer: Peer | str,
    method: str,
    path: str,
    body: bytes = b"",
    *,
    cookie: Signer | None = None,
    headers: Mapping[str, str] | None = None,
    tls: Any = None,
) -> tuple[int, Any]:
    """One request to an agent, as anybody with an HTTP client sends it."""
    sent = {"Content-Type": "application/json"} if method == "POST" else {}
    sent |= dict(headers or {})
    if cookie is not None:
        nonce = await nonce_of(peer, tls)
        sent["Authorization"] = tokens.sign(cookie, method, path, body, time.time(), nonce)
    scheme = "http" if tls is None else "https"
    async with (
        aiohttp.ClientSession() as session,
        session.request(
            method, f"{scheme}://{peer}{path}", data=body, headers=sent, ssl=tls or True
        ) as response,
    ):
        text = await response.read()
        is_json = response.content_type == "application/json"
        return response.status, json.loads(text) if is_json and text else text.decode()


class ForkedGroup(ProcessGroup):
    """The same, forked by the zygote."""

    async def start(self) -> None:
        """Start it."""
        self._process = zygote().start(  # type: ignore[assignment]
            self.arguments, self._environ, self.log, self.log
        )


class Processes:
    """Agents and schedulers as processes, all of them ended with the context."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stack = AsyncExitStack()
        self._count = 0

    async def __aenter__(self) -> Processes:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    async def start(
        self, *arguments: str, environ: Mapping[str, str] | None = None
    ) -> ProcessGroup:
        """Start `dask ARGUMENTS`."""
        self._count += 1
        log = self.folder / f"{arguments[-1].replace('/', '_')[-20:]}-{self._count}.log"
        kind = ForkedGroup if is_plain(environ or {}) else ProcessGroup
        group = kind(arguments, log, {**os.environ, **(environ or {})})
        self._stack.push_async_callback(group.stop)
        await group.start()
        return group

    async def agents(
        self,
        peers: int | Iterable[Peer],
        *arguments: str,
        environ: Mapping[str, str] | None = None,
    ) -> dict[Peer, ProcessGroup]:
        """Start agents on these addresses, or so many on free ports; wait until they are warm."""
        found: dict[Peer, ProcessGroup] = {}
        if isinstance(peers, int):
            peers = [Peer("127.0.0.1", free_port()) for _ in range(peers)]
        for peer in peers:
            given = ["--listen", str(peer), "--nthreads", "1"]
            found[peer] = await self.start("pool", "agent", *given, *arguments, environ=environ)
        for group in found.values():
            await is_ready(group)
        return found

    async def scheduler(
        self,
        discovery: str | Iterable[Peer],
        *arguments: str,
        port: int = 0,
        environ: Mapping[str, str] | None = None,
    ) -> SchedulerProcess:
        """Start a scheduler with the preload, and wait until it is up."""
        if not isinstance(discovery, str):
            discovery = "static:" + ",".join(map(str, discovery))
        self._count += 1
        file = self.folder / f"scheduler-{self._count}.json"
        group = await self.start(
            *f"scheduler --host 127.0.0.1 --port {port} --dashboard-address :0".split(),
            *f"--scheduler-file {file} --preload gc_bootstrap.preload".split(),
            *("--discovery", discovery, "--refresh-interval", "1s", *arguments),
            environ=environ,
        )
        return SchedulerProcess(group, await until(lambda: _address(file), "the scheduler is up"))


async def is_ready(agent: ProcessGroup) -> None:
    """Wait until an agent is warm."""
    await until(lambda: agent.ended or "is ready" in agent.tail(200), f"{agent.log.name} is ready")
    assert not agent.ended, agent.tail()


def _address(file: Path) -> str | None:
    try:
        return str(json.loads(file.read_text())["address"])
    except (OSError, ValueError):
        return None


class SchedulerProcess:
    """A scheduler as a process, and what its pools say."""

    def __init__(self, group: ProcessGroup, address: str) -> None:
        self.group = group
        self.address = address

    async def status(self) -> dict[str, Any]:
        """Of the only pool."""
        async with rpc(self.address) as scheduler:
            status = await getattr(scheduler, STATUS_HANDLER)()
        (pool,) = status["pools"]
        return {**pool, "id": status["scheduler"]["id"]}

    async def workers(self) -> dict[str, list[str]]:
        """Workers by member."""
        workers: dict[str, list[str]] = (await self.status())["workers"]
        return workers

    async def formed(self, peers: Iterable[Peer], workers: int = 1) -> dict[str, list[str]]:
        """Wait until exactly these are members, each with so many workers."""
        wanted = set(map(str, peers))

        async def check() -> dict[str, list[str]] | None:
            found = await self.workers()
            good = found.keys() == wanted and all(len(w) == workers for w in found.values())
            return found if good else None

        found: dict[str, list[str]] = await until(check, f"{sorted(wanted)} are members")
        return found


async def run_cli(
    *arguments: str, environ: Mapping[str, str] | None = None, deadline: float = DEADLINE
) -> tuple[int, str, str]:
    """Run `dask ARGUMENTS` to its end: exit code, stdout, stderr."""
    environ = {"NO_COLOR": "1", "COLUMNS": "200", **(environ or {})}
    assert is_plain(environ)
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        process = zygote().start(arguments, {**os.environ, **environ}, out, err)
        try:
            async with asyncio.timeout(deadline):
                code = await process.wait()
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        return code, _text(out), _text(err)


def _text(path: Path) -> str:
    return path.read_text()
