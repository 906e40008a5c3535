"""The discovery that asks the registry, and the registry's process. Schedulers import this.

The three outcomes: the registry's answer; an answer without peers is really none; whatever keeps
it from answering within the deadline, or answers something else, is a ``DiscoveryError``.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

import aiohttp

from gc_bootstrap import Discovery, DiscoveryError, Peer, Snapshot
from gc_bootstrap.errors import PeerError, one_line

WATCH = 0.1
"""Seconds between two looks at whether the answer has changed."""
SPEC = "tests.chaos.discovery:RegistryDiscovery"


class RegistryDiscovery(Discovery):
    """Asks the registry on a port of this host.

    Parameters
    ----------
    port
        Where it listens.
    timeout
        Seconds for one answer.
    """

    def __init__(self, port: int, timeout: float = 1.0) -> None:
        self._url = f"http://127.0.0.1:{port}/"
        self._timeout = timeout
        self._last: Snapshot | None = None

    def __repr__(self) -> str:
        return "registry"

    async def peers(self) -> Snapshot:
        """Ask."""
        self._last = await self._ask()
        return self._last

    async def changed(self) -> None:
        """Ask again and again; where there is no answer, there is no change to tell of."""
        while True:
            await asyncio.sleep(WATCH)
            with suppress(DiscoveryError):
                if await self._ask() != self._last:
                    return

    async def _ask(self) -> Snapshot:
        timeout = aiohttp.ClientTimeout(total=self._timeout)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.get(self._url) as response,
            ):
                response.raise_for_status()
                answer = json.loads(await response.read())
            return Snapshot(
                frozenset(map(Peer.parse, answer["peers"])),
                frozenset(map(Peer.parse, answer["leaving"])),
            )
        except TimeoutError:
            raise DiscoveryError(f"the registry gave no answer in {self._timeout:g} s") from None
        except (aiohttp.ClientError, ValueError, KeyError, TypeError, PeerError) as exc:
            raise DiscoveryError(f"the registry: {one_line(exc)}") from exc


class Registry:
    """The registry's process and what it serves.

    Parameters
    ----------
    folder
        For its file.
    port
        Where it listens.
    """

    def __init__(self, folder: Path, port: int) -> None:
        self.port = port
        self.peers: set[Peer] = set()
        self.leaving: set[Peer] = set()
        self.blank = False
        self._file = folder / "registry.json"
        self._process: asyncio.subprocess.Process | None = None
        self.save()

    @property
    def spec(self) -> str:
        """What to configure as the discovery."""
        return f"{SPEC}?port={self.port}"

    async def start(self) -> None:
        """Start it, and wait until it answers."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(Path(__file__).with_name("registry.py")),
            str(self.port),
            str(self._file),
            stdin=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
        asking = RegistryDiscovery(self.port, timeout=10.0)
        async with asyncio.timeout(30):
            while True:
                with suppress(DiscoveryError):
                    await asking.peers()
                    return
                await asyncio.sleep(0.02)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process is not None, "start() comes first"
        with suppress(ProcessLookupError):
            os.kill(self._process.pid, number)

    async def kill(self) -> None:
        """Kill it, and wait until it is gone. May be called more than once."""
        if self._process is not None and self._process.returncode is None:
            self.signal(signal.SIGKILL)
            await self._process.wait()

    def save(self) -> None:
        """Serve what the attributes say now; nobody at all if it is :attr:`blank`."""
        peers = set() if self.blank else self.peers
        answer = {
            "peers": sorted(map(str, peers)),
            "leaving": sorted(map(str, self.leaving & peers)),
        }
        new = self._file.with_suffix(".new")
        new.write_text(json.dumps(answer))
        new.replace(self._file)
