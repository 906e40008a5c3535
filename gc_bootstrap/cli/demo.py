"""``dask pool demo``: a cluster forms, is broken twice, and heals."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import click
from distributed import Client, Future
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from gc_bootstrap.cli.common import errors_as_lines
from gc_bootstrap.cli.processes import ProcessGroup
from gc_bootstrap.errors import GcBootstrapError
from gc_bootstrap.wire import registrations
from gc_bootstrap.wire.names import STATUS_HANDLER

DEADLINE = 120.0
"""Seconds for each step; a cold disk and two slow cores take their time."""
POLL = 0.05
BLOCKS, POINTS = 64, 20_000
"""Of random points; without numpy, of which Dask itself has no need."""
INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@click.command("demo")
@click.option("--agents", default=3, show_default=True, help="How many agents to start.")
def command(agents: int) -> None:
    """Form a cluster on this machine, break it twice, and watch it heal.

    Starts a scheduler and some agents, computes pi from random points, kills a worker process,
    then kills the scheduler and starts another. Leaves no process behind.
    """
    if agents < 1:
        raise click.BadParameter("at least one agent is needed", param_hint="--agents")
    demo = _Demo(agents)
    with errors_as_lines():
        number = asyncio.run(_until_signal(demo))
    if number is not None:
        for further in INTERRUPTS:
            # Python gives signals their default action back while it ends; ignored, they stay so.
            signal.signal(further, signal.SIG_IGN)
        click.echo("Interrupted; every process has been ended.", err=True)
        raise SystemExit(128 + number)


async def _until_signal(demo: _Demo) -> int | None:
    """Run the demo; return the signal that interrupted it, if one did.

    The first signal ends the demo in good order, a further one kills what is left at once.
    """
    loop = asyncio.get_running_loop()
    task = asyncio.create_task(demo.run())
    received: list[int] = []

    def interrupt(number: int) -> None:
        received.append(number)
        if len(received) == 1:
            task.cancel()
        else:
            demo.kill_all()

    def handle(number: int, frame: object) -> None:
        # Not with add_signal_handler, which ends with the loop: a signal that comes when
        # everything has been ended already must not change how this process ends.
        if not loop.is_closed():
            loop.call_soon_threadsafe(interrupt, number)

    for number in INTERRUPTS:
        signal.signal(number, handle)
    await asyncio.wait([task])
    if task.cancelled():
        return received[0]
    task.result()
    return None


def _inside(block: int) -> int:
    """How many of a block's random points, the same each time, are in the unit circle."""
    draw = random.Random(block).random  # noqa: S311 - nothing depends on who can guess them
    return sum(draw() ** 2 + draw() ** 2 < 1.0 for _ in range(POINTS))


class _Demo:
    def __init__(self, agents: int) -> None:
        self._count = agents
        self._began = time.monotonic()
        self._console = Console(highlight=False)
        self._groups: list[ProcessGroup] = []
        self._killed: list[ProcessGroup] = []

    def _say(self, text: str) -> None:
        elapsed = time.monotonic() - self._began
        self._console.print(f"[dim]{elapsed:6.2f} s[/dim]  {text}", soft_wrap=True)

    async def run(self) -> None:
        # A scheduler that is killed is this demo's doing: its client need not say so.
        logging.getLogger("distributed").setLevel(logging.CRITICAL)
        async with AsyncExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gc_bootstrap-")))
            stack.push_async_callback(self._stop_all)
            try:
                await self._show(folder)
            except GcBootstrapError:
                for group in self._groups:
                    self._console.rule(f"the end of the log of: dask {' '.join(group.arguments)}")
                    self._console.print(group.tail(), markup=False)
                raise
        self._say("[green]Done.[/green] Every process has been ended.")

    async def _show(self, folder: Path) -> None:
        environ = {
            **os.environ,
            registrations.VARIABLE: str(folder / "run"),
            "PYTHONUNBUFFERED": "1",
        }
        environ["DASK_TEMPORARY_DIRECTORY"] = str(folder)
        for number in range(self._count):
            agent = ["pool", "agent", "--nthreads", "1"]
            await self._start(ProcessGroup(agent, folder / f"agent-{number}.log", environ))
        self._say(f"{self._count} agents started; they warm up and wait: dask pool agent")
        scheduler, address = await self._start_scheduler(folder, environ, 1)
        result = await self._first_act(address)
        self._killed.append(scheduler)
        scheduler.signal(signal.SIGKILL)
        await scheduler.stop()
        self._say("[red]Killed the scheduler[/red] (SIGKILL); the agents live on")
        _, address = await self._start_scheduler(folder, environ, 2)
        began = time.monotonic()
        async with _connected(address) as client:
            await self._formed(client)
            self._say(
                f"[green]All attached to the new scheduler[/green]"
                f" {time.monotonic() - began:.2f} s after it was up"
            )
            again = await self._compute(client)
            if again != result:
                raise GcBootstrapError(f"computed {again!r} where it was {result!r} before")

    async def _first_act(self, address: str) -> float:
        async with _connected(address) as client:
            peers = await self._formed(client)
            self._say(f"[green]Formed:[/green] attached {', '.join(sorted(peers))}")
            result = await self._compute(client)
            pids: dict[str, int] = await client.run(os.getpid)
            victim, pid = min(pids.items())
            began = time.monotonic()
            os.kill(pid, signal.SIGKILL)
            self._say(f"[red]Killed the worker process[/red] {pid} at {victim} (SIGKILL)")
            await self._formed(client, without=victim)
            self._say(f"[green]Healed[/green] in {time.monotonic() - began:.2f} s")
            if await self._compute(client) != result:
                raise GcBootstrapError("the second computation differs from the first")
        return result

    async def _start(self, group: ProcessGroup) -> ProcessGroup:
        self._groups.append(group)
        await group.start()
        return group

    async def _start_scheduler(
        self, folder: Path, environ: Mapping[str, str], number: int
    ) -> tuple[ProcessGroup, str]:
        file = folder / f"scheduler-{number}.json"
        command = f"scheduler --host 127.0.0.1 --port 0 --scheduler-file {file}"
        command += " --dashboard-address 127.0.0.1:0"
        preload = "--preload gc_bootstrap.preload --discovery local --refresh-interval 1s"
        group = ProcessGroup(
            [*command.split(), *preload.split()], folder / f"scheduler-{number}.log", environ
        )
        await self._start(group)
        async with _deadline(f"scheduler {number} is up"):
            while not file.exists() or not (text := file.read_text()).endswith("}"):
                await self._pause()
        address = str(json.loads(text)["address"])
        self._say(f"Scheduler {number} is up at {address}: dask scheduler {preload}")
        return group, address

    async def _formed(self, client: Client, without: str = "") -> set[str]:
        """Wait until every agent has a worker there, and return them."""
        async with _deadline(f"{self._count} agents are attached"):
            while True:
                status = await getattr(client.scheduler, STATUS_HANDLER)()
                workers: dict[str, list[str]] = status["pools"][0]["workers"]
                addresses = [address for of_peer in workers.values() for address in of_peer]
                if len(workers) == self._count and without not in addresses:
                    return set(workers)
                await self._pause()

    async def _pause(self) -> None:
        """Wait a moment; a process that has ended by itself ends the demo."""
        await asyncio.sleep(POLL)
        for group in self._groups:
            if group.ended and group not in self._killed:
                command = " ".join(group.arguments)
                raise GcBootstrapError(f"a process has ended by itself: dask {command}")

    async def _compute(self, client: Client) -> float:
        futures = client.map(_inside, range(BLOCKS), pure=False)
        columns = (TextColumn("          {task.description}"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, TimeElapsedColumn(), console=self._console) as progress:
            bar = progress.add_task("pi: random points in a circle", total=len(futures))
            async with _deadline("the computation is done"):
                while (done := sum(map(_finished, futures))) < len(futures):
                    progress.update(bar, completed=done)
                    await self._pause()
                progress.update(bar, completed=done)
                inside: int = await client.submit(sum, futures, pure=False)
        result = 4.0 * inside / (BLOCKS * POINTS)
        self._say(f"Computed pi from {len(futures)} blocks of random points: {result:.4f}")
        return result

    def kill_all(self) -> None:
        """End every process now."""
        for group in self._groups:
            group.kill()

    async def _stop_all(self) -> None:
        """End agents first, so that they can still tell their scheduler."""
        agents = [group for group in self._groups if group.arguments[0] == "pool"]
        others = [group for group in self._groups if group.arguments[0] != "pool"]
        for groups in (agents, others):
            await asyncio.gather(*(group.stop() for group in groups))


@asynccontextmanager
async def _connected(address: str) -> AsyncIterator[Client]:
    """A client that is closed also where Ctrl-C comes while it connects."""
    client = Client(address, asynchronous=True)
    try:
        await client
        yield client
    finally:
        await client.close()


def _finished(future: Future[Any]) -> bool:
    if future.status in ("error", "cancelled", "lost"):
        raise GcBootstrapError(f"the computation failed: {future.status}")
    return bool(future.status == "finished")


@asynccontextmanager
async def _deadline(what: str) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(DEADLINE):
            yield
    except TimeoutError:
        raise GcBootstrapError(f"gave up after {DEADLINE:g} s of waiting until {what}") from None
