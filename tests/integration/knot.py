"""A real Knot DNS server on loopback, whose zones a test writes."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

import dns.asyncquery
import dns.exception
import dns.message
import dns.rcode

from tests.integration.harness import free_port, until
from tests.require import require

CONF = """
server:
    listen: [{listen}]
    rundir: {folder}
    udp-workers: 1
    tcp-workers: 1
    background-workers: 1
log:
  - target: stderr
    any: info
database:
    storage: {folder}/db
template:
  - id: default
    storage: {folder}
    file: "%s.zone"
zone:
"""

HEAD = "$ORIGIN {zone}.\n$TTL 1\n@ SOA ns hostmaster {serial} 10 10 10 1\n@ NS ns\nns A 127.0.0.1\n"


class Knot:
    """``async with Knot(folder, ["workers.test"]) as knot: await knot.write("workers.test", …)``.

    Parameters
    ----------
    folder
        For its files.
    zones
        Those that it serves. One that is never written is answered with SERVFAIL; every other
        name with REFUSED.
    host
        Where it listens, over UDP and TCP, on :attr:`port`.
    """

    def __init__(self, folder: Path, zones: list[str], host: str = "127.0.0.1") -> None:
        require("knot", found=shutil.which("knotd"))
        self.folder = folder / f"knot-{host.replace(':', '_')}"
        self.host = host
        self.port = free_port()
        self._zones = zones
        self._serials: dict[str, int] = {}
        self._process: asyncio.subprocess.Process | None = None

    @property
    def server(self) -> str:
        """Its address, for ``nameservers``."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    async def __aenter__(self) -> Knot:
        self.folder.mkdir()
        conf = CONF.format(listen=f"{self.host}@{self.port}", folder=self.folder)
        conf += "".join(f"  - domain: {zone}\n" for zone in self._zones)
        (self.folder / "knot.conf").write_text(conf)
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start it, and wait until it answers; with the zones that have been written so far."""
        with (self.folder / "knot.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *("knotd", "-c", str(self.folder / "knot.conf")), stdout=log, stderr=log
            )
        for zone in self._zones:
            await until(partial(self._serves, zone), f"Knot serves {zone}")

    async def stop(self) -> None:
        """Kill it: its port is closed. Without effect on one that does not run."""
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        if process is not None:
            await process.wait()

    async def freeze(self) -> None:
        """Let it answer nothing, from now on. Returns when each of its threads has stopped."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)
        await asyncio.to_thread(_until_stopped, self._process.pid)

    def thaw(self) -> None:
        """Let it go on."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)

    async def write(self, zone: str, *records: str) -> None:
        """Replace a zone's records, and wait until they are served."""
        serial = self._serials[zone] = self._serials.get(zone, 0) + 1
        text = HEAD.format(zone=zone, serial=serial) + "\n".join(records) + "\n"
        (self.folder / f"{zone}.zone").write_text(text)
        if self._process is None:
            return
        control = str(self.folder / "knot.sock")
        knotc = await asyncio.create_subprocess_exec(
            *("knotc", "-s", control, "zone-reload", zone), stdout=asyncio.subprocess.PIPE
        )
        out, _ = await knotc.communicate()
        assert knotc.returncode == 0, out.decode()
        await until(partial(self._serves, zone), f"Knot serves {zone} as it is now")

    async def write_all(self, zones: Mapping[str, list[str]]) -> None:
        """Replace the records of several zones."""
        for zone, records in zones.items():
            await self.write(zone, *records)

    async def _serves(self, zone: str) -> bool:
        """Whether it answers with the zone that was written last, asked without our own code."""
        assert self._process is not None
        log = (self.folder / "knot.log").read_text()
        assert self._process.returncode is None, f"Knot has ended: {log}"
        query = dns.message.make_query(f"{zone}.", "SOA")
        try:
            answer = await dns.asyncquery.udp(query, self.host, timeout=0.1, port=self.port)
        except (dns.exception.DNSException, OSError):
            return False
        wanted = self._serials.get(zone)
        if wanted is None:
            return answer.rcode() == dns.rcode.SERVFAIL
        return any(rrset[0].serial == wanted for rrset in answer.answer)


def _until_stopped(pid: int) -> None:
    threads = Path(f"/proc/{pid}/task")
    while any(_state(thread) != "T" for thread in threads.iterdir()):
        time.sleep(0.001)


def _state(thread: Path) -> str:
    """A thread's state, as ``/proc/PID/task/TID/stat`` has it after the name in parentheses."""
    return (thread / "stat").read_text().rpartition(") ")[2][0]
