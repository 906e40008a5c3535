"""The systemd unit: it is one, and stopping the service as systemd stops it loses nothing."""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from distributed import Client

from gc_bootstrap.cli.processes import ProcessGroup
from gc_bootstrap.peer import Peer
from tests.integration.harness import SECRET, Processes, free_port, is_ready, until
from tests.require import require

UNIT = Path(__file__).parents[2] / "examples" / "systemd" / "dask-agent.service"
CGROUPS = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"))

pytestmark = pytest.mark.timeout(180)


def settings() -> dict[str, list[str]]:
    """What the unit sets, by key; several lines of one key add up."""
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text().splitlines():
        key, is_one, value = line.partition("=")
        if is_one and not line.startswith("#"):
            found.setdefault(key, []).append(value)
    return found


class Service(ProcessGroup):
    """The unit's process, with what systemd puts in place of its variables, in a cgroup."""

    def __init__(self, log: Path, folder: Path, cgroup: Path | None, options: str) -> None:
        (command,) = settings()["ExecStart"]
        for specifier, path in (("%d", "credentials"), ("%C", "cache"), ("%t", "run")):
            command = command.replace(specifier, str(folder / path))
        words = shlex.split(command.replace("$DASK_AGENT_OPTIONS", options))
        assert words[0].endswith("/dask")
        environ = {**os.environ, "GC_BOOTSTRAP_RUNTIME_DIR": str(folder / "run")}
        super().__init__(words[1:], log, environ)
        self._cgroup = cgroup

    async def start(self) -> None:
        """Start it, in its cgroup from the first."""
        enter = f"echo $$ > {self._cgroup}/cgroup.procs; " if self._cgroup else ""
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *("sh", "-c", f'{enter}exec "$@"', "sh", sys.executable, "-m", "dask"),
                *self.arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environ,
                start_new_session=True,
            )

    def processes(self) -> list[int]:
        """All of the service's."""
        if self._cgroup is None:
            out = subprocess.run(["pgrep", "-g", str(self.pid)], capture_output=True, text=True)
            return list(map(int, out.stdout.split()))
        return list(map(int, (self._cgroup / "cgroup.procs").read_text().split()))

    def stop_as_systemd_does(self) -> None:
        """KillMode=control-group: a signal to each process, the main one first."""
        assert self.pid is not None
        for pid in sorted(self.processes(), key=lambda pid: pid != self.pid):
            os.kill(pid, signal.SIGTERM)


@pytest.fixture
def cgroup() -> Iterator[Path | None]:
    """A cgroup of our own; None where this machine gives none: a process group is one as well."""
    for root in CGROUPS:
        folder = root / f"gc_bootstrap-test-{os.getpid()}"
        if (root / "cgroup.procs").exists():
            try:
                folder.mkdir()
                (folder / "cgroup.procs").read_text()
            except OSError:
                continue
            yield folder
            folder.rmdir()
            return
    yield None


def test_the_unit_is_one(tmp_path: Path) -> None:
    require("systemd", found=shutil.which("systemd-analyze"))
    unit = tmp_path / UNIT.name
    # It is looked at whether the program is there.
    unit.write_text(UNIT.read_text().replace("/opt/dask/bin/dask", sys.executable))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True
    )
    said = [line for line in done.stderr.splitlines() if UNIT.name in line]
    assert (done.returncode, said) == (0, [])


def test_the_service_may_take_longer_to_stop_than_its_drain() -> None:
    found = settings()
    (command,) = found["ExecStart"]
    words = shlex.split(command)
    drain = words[words.index("--drain-timeout") + 1]
    assert drain.endswith("s")
    assert int(found["TimeoutStopSec"][0]) >= int(drain[:-1]) + 15
    assert found["KillMode"] == ["control-group"]


def _number(number: int) -> tuple[int, bytes]:
    return number, os.urandom(8)


async def test_stopping_the_service_loses_nothing(
    processes: Processes, tmp_path: Path, cgroup: Path | None
) -> None:
    (tmp_path / "credentials").mkdir()
    (tmp_path / "credentials" / "cookie").write_text(SECRET)
    (tmp_path / "credentials" / "cookie").chmod(0o400)
    peer = Peer("127.0.0.1", free_port())
    options = f"--listen {peer} --nthreads 1 --nworkers 2 --host 127.0.0.1"
    service = Service(tmp_path / "service.log", tmp_path, cgroup, options)
    await service.start()
    try:
        await is_ready(service)
        environ = {"GC_BOOTSTRAP_COOKIE": SECRET}
        others = await processes.agents(1, environ=environ)
        scheduler = await processes.scheduler([*others, peer], environ=environ)

        async def formed() -> bool:
            found = await scheduler.workers()
            return len(found) == 2 and len(found.get(str(peer), ())) == 2

        await until(formed, "all are there")
        going = list((await scheduler.workers())[str(peer)])
        async with Client(scheduler.address, asynchronous=True) as client:
            ran = client.map(_number, range(50), workers=going, allow_other_workers=True)
            before = await client.gather(ran)
            values = await client.scatter(list(range(5)), workers=going)
            assert len(service.processes()) >= 5, "agent, resource tracker, forkserver, 2 workers"
            service.stop_as_systemd_does()
            await until(lambda: service.ended, "the service has stopped")
            assert service.returncode == 0, service.tail(100)
            assert await client.gather(ran) == before, "results were computed again"
            assert await client.gather(values) == list(range(5))
        await until(lambda: not service.processes(), "nothing of it is left")
        assert "Traceback" not in service.tail(500)
    finally:
        await service.stop()
