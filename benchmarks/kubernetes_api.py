"""The discovery `kubernetes` against an API server: how soon, how many, at what price.

The server is a thread of this process that sends what has been encoded before: slices as the
EndpointSlice controller makes them, 100 endpoints each, over HTTP/1.1 as the real one does.

- *event to attach*: a real :class:`Pool` with the dist ``dask`` follows a Service. The clock runs
  from before the watch event is sent to the first byte of the attach request at the agent's port.
  Against: a poll every 5 s, as libcluster and a refresh without hints do (2.5 s on average).
- *list*: from ``start()`` until ``peers()`` has answered with all endpoints.
- *changes*: that many events, each with one endpoint of one slice turned, as fast as they can be
  sent, while somebody asks for the peers after each hint as a pool does. At the end the answer has
  to be the server's state.
- *stretch*: the longest uninterrupted stretch on the event loop meanwhile, judged by the median of
  the runs: a busy machine can only make it longer. Its processor time is what is left of that.
- *memory*: what the store and its caches hold for each endpoint once they are listed.
- *import*: how long loading this discovery takes in a fresh process, in a thread, and for how long
  the event loop gets no turn meanwhile.

Not named after the package that it is about: a script's folder comes first on the import path.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import queue
import random
import threading
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from common import TIMES_HEADER, BothClocks, Times, in_subprocess, isolated, run, table, verdict
from distributed import Scheduler

from gc_bootstrap import Peer, Pool
from gc_bootstrap.config import PoolOptions
from gc_bootstrap.dist import Owner
from gc_bootstrap.scheduler.dask import DaskDist
from gc_bootstrap.wire.cookie import Cookie, generate

LATENCY = 0.020
"""Seconds from the event to the attach request, at the median."""
STRETCH = 0.010
"""Seconds that the discovery may keep the event loop at a time."""
POLL = 5.0
"""Seconds between two looks of those who poll."""
PER_SLICE = 100
"""Endpoints; the EndpointSlice controller's default for --max-endpoints-per-slice."""
LIMIT = 60.0
"""Seconds after which something has gone wrong."""


def address_of(number: int) -> str:
    """The address of an endpoint."""
    return f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"


def encoded_slice(
    number: int, addresses: list[str], version: int, leaving: int = -1, port: int = 8791
) -> bytes:
    """A slice as the controller makes it; ``leaving`` is the index of one that terminates."""
    obj = {
        "metadata": {
            "name": f"cpu-{number:05}",
            "generateName": "cpu-",
            "namespace": "pools",
            "uid": f"fa58052b-941d-4292-8fb7-4f646d{number:06}",
            "resourceVersion": str(version),
            "generation": version,
            "labels": {
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
                "kubernetes.io/service-name": "cpu",
            },
        },
        "addressType": "IPv4",
        "endpoints": [
            {
                "addresses": [address],
                "conditions": {"ready": i != leaving, "serving": True, "terminating": i == leaving},
                "targetRef": {
                    "kind": "Pod",
                    "namespace": "pools",
                    "name": f"cpu-5f7d8c9b6-{number:03}{i:02}",
                    "uid": f"a2b960fe-ac26-48d2-af7d-{number:06}{i:06}",
                },
                "nodeName": f"node-{i % 50}",
                "zone": f"zone-{i % 3}",
            }
            for i, address in enumerate(addresses)
        ],
        "ports": [{"name": "agent", "protocol": "TCP", "port": port}],
    }
    return json.dumps(obj).encode()


def event(obj: bytes) -> bytes:
    """A line of a watch."""
    return b'{"type":"MODIFIED","object":' + obj + b"}\n"


class ApiServer:
    """Serves encoded slices, and sends lines into a watch."""

    def __init__(self, slices: list[bytes]) -> None:
        self.slices = slices
        self.lines: queue.Queue[list[bytes] | None] = queue.Queue()
        self.watched = threading.Event()
        self.sent_at = 0.0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                asked = {k: v[0] for k, v in parse_qs(urlsplit(self.path).query).items()}
                if "watch" in asked:
                    outer._watch(self)
                else:
                    outer._list(self, int(asked["limit"]), int(asked.get("continue", 0)))

            def log_message(self, *arguments: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    @contextmanager
    def serving(self, folder: Path) -> Iterator[str]:
        """Serve in a thread; yields the path of a kubeconfig."""
        config = {
            "current-context": "x",
            "contexts": [{"name": "x", "context": {"cluster": "x", "namespace": "pools"}}],
            "clusters": [{"name": "x", "cluster": {"server": self.url}}],
        }
        path = folder / "kubeconfig"
        path.write_text(json.dumps(config))
        thread = threading.Thread(target=self._http.serve_forever)
        thread.start()
        try:
            yield str(path)
        finally:
            self.lines.put(None)
            self._http.shutdown()
            self._http.server_close()
            thread.join()

    def _list(self, handler: BaseHTTPRequestHandler, limit: int, first: int) -> None:
        metadata = {"resourceVersion": "1"}
        if first + limit < len(self.slices):
            metadata["continue"] = str(first + limit)
        items = b",".join(self.slices[first : first + limit])
        body = b'{"metadata":' + json.dumps(metadata).encode() + b',"items":[' + items + b"]}"
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    def _watch(self, handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        handler.wfile.flush()
        self.watched.set()
        while (lines := self.lines.get()) is not None:
            for line in lines:
                self.sent_at = time.perf_counter()
                handler.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
        handler.wfile.write(b"0\r\n\r\n")
        handler.close_connection = True


class AgentPort:
    """Where agents would listen: notes when a request arrives, and says that it is draining."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.at = 0.0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Handle one connection."""
        line = await reader.readline()
        self.at = time.perf_counter()
        assert line.startswith(b"POST /v1/attach"), line
        body = b'{"error": "draining"}'
        head = b"HTTP/1.1 503 Draining\r\nContent-Type: application/json\r\nConnection: close\r\n"
        writer.write(head + b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        await writer.drain()
        writer.close()
        self.asked.set()


async def watched(api: ApiServer) -> None:
    """Wait until the watch has begun."""
    async with asyncio.timeout(LIMIT):
        while not api.watched.is_set():
            await asyncio.sleep(0.01)


async def latency(folder: Path, runs: int) -> Times:
    """From an event to the attach request that it brings about."""
    from gc_bootstrap.discovery.kubernetes import KubernetesDiscovery

    times, agents = Times(), AgentPort()
    server = await asyncio.start_server(agents, "0.0.0.0", 0)
    port = server.sockets[0].getsockname()[1]
    scheduler = Scheduler(host="127.0.0.1", port=0, dashboard_address=":0")
    api = ApiServer([encoded_slice(0, ["10.0.0.1"], 1)])
    async with server, scheduler:
        with api.serving(folder) as config:
            dist, options = DaskDist(), PoolOptions(refresh_interval=3600.0)
            dist.bind(Owner(scheduler, options=options))
            assert dist._client is not None
            dist._client.signer = Cookie(generate(), "the benchmark")
            discovery = KubernetesDiscovery("cpu", kubeconfig=config)
            async with Pool(discovery, dist, options=options):
                await watched(api)
                for number in range(runs + 1):
                    await asyncio.sleep(0.2 + 0.1 * random.random())
                    agents.asked.clear()
                    # The whole of 127.0.0.0/8 is this host: each run has an agent of its own.
                    ready = encoded_slice(0, [f"127.0.1.{number + 1}"], number + 2, port=port)
                    api.lines.put([event(ready)])
                    async with asyncio.timeout(LIMIT):
                        await agents.asked.wait()
                    if number:  # the first pays for caches that all others find filled
                        times.add(agents.at - api.sent_at)
    return times


async def scale(folder: Path, slices: int, changes: int) -> dict[str, float]:
    """List, and follow changes: seconds and longest stretches of one run."""
    from gc_bootstrap.discovery.kubernetes import KubernetesDiscovery

    members = [[address_of(PER_SLICE * n + i) for i in range(PER_SLICE)] for n in range(slices)]
    api = ApiServer([encoded_slice(n, members[n], 1) for n in range(slices)])
    turned = dict.fromkeys(range(slices), -1)
    events = []
    for change in range(changes):
        number = random.randrange(slices)
        turned[number] = random.randrange(PER_SLICE)
        obj = encoded_slice(number, members[number], change + 2, leaving=turned[number])
        events.append(event(obj))
    leaving = {Peer(members[n][i], 8791) for n, i in turned.items() if i >= 0}
    found, ticker = {}, BothClocks()
    with api.serving(folder) as config:
        discovery = KubernetesDiscovery("cpu", kubeconfig=config)
        gc.collect()
        gc.freeze()  # what is measured is the discovery, not what this benchmark has made
        try:
            with ticker.watching():
                began = time.perf_counter()
                await discovery.start()
                snapshot = await discovery.peers()
                found["list"] = time.perf_counter() - began
            assert len(snapshot.peers) == slices * PER_SLICE
            found["list stretch"], found["list cpu"] = ticker.take()
            await watched(api)
            with ticker.watching():
                began = time.perf_counter()
                api.lines.put(events)
                async with asyncio.timeout(LIMIT):
                    while snapshot.leaving != leaving:
                        await discovery.changed()
                        snapshot = await discovery.peers()
                        await asyncio.sleep(0.05)  # as a pool does
                found["changes"] = time.perf_counter() - began
            found["changes stretch"], found["changes cpu"] = ticker.take()
            assert len(snapshot.peers) == slices * PER_SLICE
            assert snapshot.complete
        finally:
            gc.unfreeze()
            await discovery.close()
    return found


def memory(slices: int) -> float:
    """Bytes that each endpoint takes, once listed and answered."""
    from gc_bootstrap.discovery.kubernetes.decode import read_list
    from gc_bootstrap.discovery.kubernetes.objects import read_slice
    from gc_bootstrap.discovery.kubernetes.options import Options
    from gc_bootstrap.discovery.kubernetes.store import Store

    options = Options(service="cpu", namespace="pools")
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    store = Store(lambda obj: read_slice(obj, options), None, "ipv4")
    for n in range(slices):
        # From 11.0.0.0 on: no address is in a cache already.
        members = [f"11{address_of(PER_SLICE * n + i)[2:]}" for i in range(PER_SLICE)]
        page = b'{"items":[' + encoded_slice(n, members, 1) + b"]}"
        for _, obj in read_list(page):
            store.put(obj)
        del members, page, obj
    snapshot = store.snapshot()
    gc.collect()
    taken = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert len(snapshot.peers) == slices * PER_SLICE
    return taken / len(snapshot.peers)


async def import_time() -> tuple[float, float]:
    """Seconds that loading the discovery takes in a thread, and the longest pause of the loop."""
    from gc_bootstrap import backends

    pause, last, done = 0.0, time.perf_counter(), False

    async def tick() -> None:
        nonlocal pause, last
        last = time.perf_counter()
        while not done:
            await asyncio.sleep(0.0005)
            now = time.perf_counter()
            pause, last = max(pause, now - last), now

    ticking = asyncio.create_task(tick())
    await asyncio.sleep(0.05)
    pause, began = 0.0, time.perf_counter()
    await asyncio.to_thread(backends.load, "discovery", "kubernetes:pools/cpu", "x")
    seconds = time.perf_counter() - began
    done = True
    await ticking
    return seconds, pause


def main() -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--events", type=int, default=50, help="of the latency")
    parser.add_argument("--slices", type=int, default=100)
    parser.add_argument("--changes", type=int, default=1000)
    parser.add_argument("--import-only", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.import_only:
        print(*asyncio.run(import_time()))
        return
    found: dict[str, Times] = {}
    script = os.fspath(Path(__file__))
    for _ in range(given.runs):
        took, pause = map(float, in_subprocess(script, "--import-only").split())
        found.setdefault("import", Times()).add(took)
        found.setdefault("import, longest pause of the loop", Times()).add(pause)
    with isolated() as folder:
        found["event to attach request"] = asyncio.run(latency(folder, given.events))
        for _ in range(given.runs):
            once = asyncio.run(scale(folder, given.slices, given.changes))
            for name, seconds in once.items():
                found.setdefault(name, Times()).add(seconds)
        each = memory(given.slices)
    report(found, given.slices * PER_SLICE, given.slices, given.changes, each)


def report(found: dict[str, Times], endpoints: int, slices: int, changes: int, each: float) -> None:
    """Print the figures and, at the end, the ratios."""
    names = {
        "list": f"list {endpoints:,} endpoints in {slices:,} slices",
        "list stretch": "  longest stretch of the loop",
        "list cpu": "  the same, processor time",
        "changes": f"{changes:,} single changes",
        "changes stretch": "  longest stretch of the loop",
        "changes cpu": "  the same, processor time",
    }
    rows = [[names.get(name, name), *times.cells()] for name, times in found.items()]
    table(["", *TIMES_HEADER], rows)
    stretch = max(found["list stretch"].median, found["changes stretch"].median)
    cpu = max(found["list cpu"].median, found["changes cpu"].median)
    attach = found["event to attach request"].median
    print(f"memory: {each:,.0f} bytes per endpoint")
    print(
        f"longest stretch: {1000 * stretch:.1f} ms, {1000 * cpu:.1f} of processor time"
        f" (target: at most {1000 * STRETCH:g}: {verdict(stretch <= STRETCH)})"
    )
    print(
        f"ratio: an event is an attach request after {1000 * attach:.1f} ms (target: under"
        f" {1000 * LATENCY:g}: {verdict(attach < LATENCY)}), 1/{POLL / 2 / attach:,.0f} of what"
        f" polling every {POLL:g} s takes on average"
    )


if __name__ == "__main__":
    run(main)
