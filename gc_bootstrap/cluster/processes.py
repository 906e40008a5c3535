"""The processes that a cluster starts: agents, and a scheduler of its own.

They end with the cluster, and with the process that it is in, however that ends: see
:mod:`gc_bootstrap.cluster.child`. What they say goes to files without a name, which are gone with
them: a pipe would be full at some time while nobody reads it, and its writer would stand still.
"""

from __future__ import annotations

import asyncio
import copy
import http.client
import json
import math
import os
import ssl
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import dask.config
from dask.system import CPU_COUNT
from distributed.security import Security

from gc_bootstrap.cli.processes import ProcessGroup
from gc_bootstrap.cluster import child
from gc_bootstrap.errors import ConfigError, GcBootstrapError, one_line
from gc_bootstrap.wire import registrations

START_TIMEOUT = 120.0
"""Seconds for a process to be ready. Importing Dask from a cold disk takes long."""
READY_POLL = 0.05
READY_TIMEOUT = 2.0
"""Seconds for one answer to "are you ready?"."""
DRAIN_TIMEOUT = "5s"
"""Of agents that end with a cluster while somebody else's scheduler holds them."""
KEPT = 256 * 1024
"""Bytes of what a process has said last that are shown."""


class Child(ProcessGroup):
    """A process that ends with this one.

    Parameters
    ----------
    name
        What it is called in logs.
    packed
        What it does; see :func:`.child.pack`.
    """

    def __init__(self, name: str, packed: bytes) -> None:
        super().__init__((name,), Path(os.devnull), os.environ)
        self.name = name
        self._packed = packed
        self._said: IO[bytes] | None = None
        self._last_words = ""

    async def start(self) -> None:
        """Start it, and tell it what to do."""
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - kept for as long as this
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", child.__name__),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=self._said,
            env=self._environ,
            start_new_session=True,
        )
        assert self._process.stdin is not None
        self._process.stdin.write(self._packed)
        with suppress(ConnectionError):  # it has ended at once; whoever waits for it says so
            await self._process.stdin.drain()

    async def answer(self) -> Any:
        """The line that it says when it is ready.

        Raises
        ------
        GcBootstrapError
            It has ended without one.
        """
        assert self._process is not None
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            raise self.failure()
        return json.loads(line)

    def failure(self) -> GcBootstrapError:
        """That it has ended, and its last words."""
        return GcBootstrapError(f"{self.name} has ended by itself; it said:\n{self.tail()}")

    @property
    def said(self) -> str:
        """What it has said; the end of it, where that is much."""
        if self._said is None:
            return self._last_words
        size = os.fstat(self._said.fileno()).st_size
        kept = os.pread(self._said.fileno(), KEPT, max(0, size - KEPT))
        return kept.decode(errors="replace")

    def tail(self, lines: int = 15) -> str:
        """The end of what it has said."""
        return "\n".join(self.said.splitlines()[-lines:])

    async def stop(self) -> None:
        """End it and all that it has started. May be called more than once."""
        await super().stop()
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
        if self._said is not None:
            self._last_words = self.said
            self._said.close()
            self._said = None


def scheduler_process(overrides: Mapping[str, Any], arguments: Mapping[str, Any]) -> Child:
    """A scheduler with pools in a process of its own.

    Raises
    ------
    ConfigError
        The options have something that cannot be handed to another process.
    """
    try:
        packed = child.pack(
            {"config": _config(), "overrides": dict(overrides), "scheduler": dict(arguments)}
        )
    except Exception as exc:  # whatever pickling an object of somebody's raises
        raise ConfigError(
            f"scheduler: 'process' needs options that another process can be given: {one_line(exc)}"
        ) from exc
    return Child("Scheduler process", packed)


async def start_scheduler(process: Child) -> str:
    """Start it, and return its address.

    Raises
    ------
    ConfigError
        The configuration cannot be used.
    GcBootstrapError
        It does not start.
    """
    await process.start()
    try:
        async with asyncio.timeout(START_TIMEOUT):
            answer = await process.answer()
    except TimeoutError:
        raise GcBootstrapError(f"the scheduler is not up after {START_TIMEOUT:g} s") from None
    if problems := answer.get("problems"):
        raise ConfigError(problems)
    if "error" in answer:
        raise GcBootstrapError(f"the scheduler does not start: {answer['error']}")
    return str(answer["address"])


def agent_processes(count: int, cookie_file: str | None, security: Security) -> list[Child]:
    """Agents that share this machine's cores and memory as a ``LocalCluster``'s workers do.

    Parameters
    ----------
    cookie_file
        With the secret that they share with the scheduler. Without one they find what the
        scheduler finds in the environment, or make cookies of their own.
    security
        TLS, if any.
    """
    if not count:
        return []
    threads = max(1, math.ceil(CPU_COUNT / count))
    arguments = ["pool", "agent", "--listen", "127.0.0.1:0", "--nthreads", str(threads)]
    arguments += ["--memory-limit", str(1 / count), "--drain-timeout", DRAIN_TIMEOUT]
    arguments += ["--cookie-file", cookie_file] if cookie_file is not None else []
    packed = child.pack({"config": _with_tls(_config(), security), "arguments": arguments})
    return [Child(f"Agent {number}", packed) for number in range(count)]


async def start_agents(agents: Sequence[Child], security: Security) -> None:
    """Start them, and wait until each can be attached.

    Raises
    ------
    GcBootstrapError
        One of them does not start; with its last words.
    """
    if not agents:
        return
    tls = security.get_connection_args("client")["ssl_context"]
    try:
        async with asyncio.timeout(START_TIMEOUT):
            await asyncio.gather(*(agent.start() for agent in agents))
            waiting = list(agents)
            while waiting:
                ready = await asyncio.to_thread(_ready, {agent.pid for agent in waiting}, tls)
                waiting = [agent for agent in waiting if agent.pid not in ready]
                for agent in waiting:
                    if agent.ended:
                        raise agent.failure()
                await asyncio.sleep(READY_POLL)
    except TimeoutError:
        names = ", ".join(agent.name for agent in waiting)
        raise GcBootstrapError(
            f"not ready after {START_TIMEOUT:g} s: {names}; it said:\n{waiting[0].tail()}"
        ) from None


def _ready(pids: set[int | None], tls: ssl.SSLContext | None) -> set[int]:
    """Of some processes, those that are agents that can be attached."""
    found, _ = registrations.read_all()
    return {r.pid for r in found if r.pid in pids and _says_ready(r.peer.host, r.peer.port, tls)}


def _says_ready(host: str, port: int, tls: ssl.SSLContext | None) -> bool:
    connection = (
        http.client.HTTPConnection(host, port, timeout=READY_TIMEOUT)
        if tls is None
        else http.client.HTTPSConnection(host, port, timeout=READY_TIMEOUT, context=tls)
    )
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _config() -> dict[str, Any]:
    """Dask's configuration as it is here: what was set by ``dask.config.set`` included."""
    return copy.deepcopy(dask.config.config)


def _with_tls(settings: dict[str, Any], security: Security) -> dict[str, Any]:
    """Dask's settings with certificates that a person gave as an object."""
    if not security.require_encryption:
        return settings
    roles = {
        role: {part: getattr(security, f"tls_{role}_{part}", None) for part in ("cert", "key")}
        for role in ("client", "scheduler", "worker")
    }
    given = {
        "require-encryption": True,
        "tls": {"ca-file": getattr(security, "tls_ca_file", None), **roles},
    }
    settings["distributed"] = dask.config.merge(settings["distributed"], {"comm": given})
    return settings
