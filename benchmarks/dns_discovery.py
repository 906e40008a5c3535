"""One refresh of the discovery ``dns`` against a real Knot DNS on loopback.

For each number of A and of SRV records, in turns:

- *plain*: ``dns.asyncresolver.Resolver.resolve()``, what one would write without this project. It
  yields records, not peers.
- *first*: the first :meth:`peers` of a new discovery.
- *again*: a later one of the same discovery, over an answer that has not changed.

Printed: wall and CPU time (of the whole process, all threads) of each, and the longest
uninterrupted stretch on the event loop, measured in runs of their own beside a task that writes to
a socket every millisecond, as a scheduler's comms do: it has to wait for the interpreter's lock
after each write. Small ones are timed several in a row, since one takes less than the processor
needs to warm up. Garbage collection passes over what was there before. Targets: all found, no
stretch over 10 ms, *again* at most half the CPU time of *first*.

Not named ``dns.py``: a script's folder comes first in ``sys.path``, so that would be imported in
place of dnspython.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import random
import shutil
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import dns.asyncresolver
from common import Ticker, Times, isolated, process, run, table, verdict

from gc_bootstrap.discovery.dns import DnsDiscovery

STRETCH = 0.010
"""Seconds that a refresh may keep the event loop at a time."""
AGAIN = 0.5
"""Part of the first refresh's CPU time that a later one may take."""
RECORDS = 400
"""How many records, in how many refreshes in a row, are timed at least."""
LIMIT = 20.0
"""Seconds for Knot to start."""
A_SIZES = (10, 100, 1000, 3000)
SRV_SIZES = (10, 100, 1000)

CONF = """
server:
    listen: 127.0.0.1@{port}
    rundir: {folder}
    udp-workers: 1
    tcp-workers: 1
    background-workers: 1
log:
  - target: stderr
    any: warning
database:
    storage: {folder}/db
zone:
  - domain: workers.test
    file: {folder}/workers.test.zone
"""


def zone() -> str:
    """A zone with a name for each case."""
    lines = ["$ORIGIN workers.test.", "$TTL 30", "@ SOA ns hostmaster 1 10 10 10 5"]
    lines += ["@ NS ns", "ns A 127.0.0.1"]
    for size in A_SIZES:
        lines += [f"a{size} A 10.0.{i >> 8}.{i & 255}" for i in range(size)]
    for size in SRV_SIZES:
        lines += [f"_srv{size}._tcp SRV 0 0 8791 node-{i}" for i in range(size)]
    lines += [f"node-{i} A 10.0.{i >> 8}.{i & 255}" for i in range(max(SRV_SIZES))]
    return "\n".join(lines) + "\n"


@contextmanager
def knot(folder: Path) -> Iterator[int]:
    """A Knot DNS on a free port of loopback."""
    if shutil.which("knotd") is None:
        sys.exit("knotd is not installed (Debian: apt-get install knot)")
    port = random.randrange(20000, 32000)
    folder.joinpath("workers.test.zone").write_text(zone())
    conf = folder / "knot.conf"
    conf.write_text(CONF.format(port=port, folder=folder))
    log = folder / "knot.log"
    with log.open("w") as output, process("knotd", "-c", str(conf), stderr=output) as server:
        until = time.monotonic() + LIMIT
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            if server.poll() is not None or time.monotonic() > until:
                sys.exit(f"Knot does not start: {log.read_text()}")
            time.sleep(0.05)
        yield port


@dataclass
class Result:
    """What one way of asking gave."""

    wall: Times = field(default_factory=Times)
    cpu: Times = field(default_factory=Times)
    stretch: Times = field(default_factory=Times)


Refresh = Callable[[], Awaitable[int]]


@dataclass
class Case:
    """One name and how many records it has."""

    kind: str
    size: int
    port: int
    results: dict[str, Result] = field(
        default_factory=lambda: {way: Result() for way in ("plain", "first", "again")}
    )

    @property
    def name(self) -> str:
        """The name, absolute."""
        front = f"_srv{self.size}._tcp" if self.kind == "SRV" else f"a{self.size}"
        return f"{front}.workers.test."

    def discovery(self) -> DnsDiscovery:
        """A new one."""
        record_type = "srv" if self.kind == "SRV" else "ip"
        server = f"127.0.0.1:{self.port}"
        return DnsDiscovery(self.name, record_type=record_type, nameservers=server)

    async def plain(self) -> int:
        """Ask as dnspython does."""
        resolver = dns.asyncresolver.Resolver(configure=False)
        resolver.nameservers, resolver.port = ["127.0.0.1"], self.port
        return len(await resolver.resolve(self.name, self.kind))

    @property
    def batch(self) -> int:
        """How many refreshes are timed in a row."""
        return -(-RECORDS // self.size)

    @asynccontextmanager
    async def ways(self) -> AsyncIterator[dict[str, Refresh]]:
        """The three ways to ask, each a batch; what they need is made before and ended after."""
        discoveries = [self.discovery() for _ in range(self.batch)]

        async def plain() -> int:
            return min([await self.plain() for _ in discoveries])

        async def look() -> int:
            return min([len((await discovery.peers()).peers) for discovery in discoveries])

        try:
            yield {"plain": plain, "first": look, "again": look}
        finally:
            for discovery in discoveries:
                await discovery.close()


@asynccontextmanager
async def neighbour() -> AsyncIterator[None]:
    """Something else on the event loop, that lets go of the interpreter's lock now and then."""
    here, there = socket.socketpair()
    here.setblocking(False)
    there.setblocking(False)

    async def work() -> None:
        while True:
            here.send(b"x")
            there.recv(16)
            await asyncio.sleep(0.001)

    task = asyncio.create_task(work())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        here.close()
        there.close()


async def measure(case: Case, runs: int) -> None:
    """Measure one case."""
    for _ in range(runs):
        async with case.ways() as ways:
            for way, refresh in ways.items():
                await asyncio.sleep(0.02)
                wall, cpu = time.perf_counter(), time.process_time()
                found = await refresh()
                case.results[way].wall.add((time.perf_counter() - wall) / case.batch)
                case.results[way].cpu.add((time.process_time() - cpu) / case.batch)
                if found != case.size:
                    sys.exit(f"{way}: found {found} of {case.size} {case.kind} records")
        async with neighbour(), case.ways() as ways:
            for way, refresh in ways.items():
                ticker = Ticker()
                await asyncio.sleep(0.02)
                with ticker.watching():
                    await asyncio.sleep(0)
                    await refresh()
                    await asyncio.sleep(0)  # the stretch that ends here is over, and counted
                case.results[way].stretch.add(ticker.longest)


def report(cases: list[Case]) -> None:
    """Print the figures and, at the end, the ratios."""
    rows = []
    for case in cases:
        for way, result in case.results.items():
            figures = [
                f"{1000 * figure:.2f}"
                for times in (result.wall, result.cpu, result.stretch)
                for figure in (times.median, times.range[1])
            ]
            plain = case.results["plain"].cpu.median
            rows.append(
                [
                    f"{case.kind}, {case.size:,}: {way}",
                    *figures,
                    f"{result.cpu.median / plain:.2f}",
                    str(len(result.cpu.seconds)),
                ]
            )
    header = ["records", "wall ms", "max", "CPU ms", "max", "stretch ms", "max", "x plain", "runs"]
    table(header, rows)
    ours = [case.results[way].stretch.median for case in cases for way in ("first", "again")]
    print(f"all found; longest stretch, as medians: {1000 * max(ours):.1f} ms (target: at most"
          f" {1000 * STRETCH:g}: {verdict(max(ours) <= STRETCH)})")  # fmt: skip
    for case in cases:
        ratio = case.results["again"].cpu.median / case.results["first"].cpu.median
        print(
            f"ratio: {case.kind}, {case.size:,}: an unchanged answer costs {ratio:.2f} of the first"
            f" (target: at most {AGAIN:g}: {verdict(ratio <= AGAIN)})"
        )


def main() -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=15)
    given = parser.parse_args()
    with isolated() as folder, knot(folder) as port:
        cases = [Case("A", size, port) for size in A_SIZES]
        cases += [Case("SRV", size, port) for size in SRV_SIZES]
        asyncio.run(measure(cases[0], 2))  # imports and caches
        cases[0] = Case("A", A_SIZES[0], port)
        gc.collect()
        gc.freeze()
        for case in cases:
            asyncio.run(measure(case, given.runs))
    report(cases)


if __name__ == "__main__":
    run(main)
