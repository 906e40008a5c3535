"""The commands as a user types them: exit codes, one line per problem, nothing left running."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from gc_bootstrap import __version__
from gc_bootstrap.peer import Peer
from gc_bootstrap.wire.registrations import Registrar, Registration
from tests.integration.harness import Processes, free_port, run_cli, until

pytestmark = pytest.mark.timeout(180)

SCHEDULER = ["scheduler", "--host", "127.0.0.1", "--port", "0", "--dashboard-address", ":0"]
PRELOAD = [*SCHEDULER, "--preload", "gc_bootstrap.preload"]


async def test_a_bad_configuration_ends_the_scheduler_with_a_line_per_problem() -> None:
    environ = {"DASK_GC_BOOTSTRAP__CONNECT__CONCURRENCY": "0", "DASK_GC_BOOTSTRAP__FOO": "1"}
    code, _, err = await run_cli(
        *PRELOAD, "--discovery", "static:host:99999", "--refresh-interval", "5 parsecs",
        environ=environ,
    )  # fmt: skip
    assert code == 2
    lines = [line for line in err.splitlines() if line.startswith("gc_bootstrap: ")]
    assert [line.split(": ")[1] for line in lines] == [
        "gc-bootstrap.connect.concurrency",
        "gc-bootstrap.foo",
        "gc-bootstrap.refresh-interval",
        "gc-bootstrap.discovery",
    ] or len(lines) == 4, err
    assert "'5 parsecs' is not a duration such as 5s" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            ["--discovery", "nope:x"],
            "is not a known discovery (No module named 'nope'); there are: ",
        ),
        (["--discovery", "dsn:x"], "is not a known discovery, did you mean dns?; there are: "),
        (["--discovery", ""], "gc-bootstrap.discovery: '' is empty (is a variable unset?)"),
        (["--discovery", "static:fd00::5:8791"], "is ambiguous; expected [fd00::5]:8791, or ["),
        (["--discovery", "static:a?ports=1"], "unknown option 'ports'; there are: peers, port"),
        (["--discovery", "no_such_module:X"], "No module named 'no_such_module'"),
        (["--discovery", "local", "--cookie-file", "/nope"], "cookie-file /nope: cannot be read"),
    ],
)
async def test_a_bad_option_ends_the_scheduler(options: list[str], expected: str) -> None:
    code, _, err = await run_cli(*PRELOAD, *options)
    assert (code, expected in err) == (2, True), err
    assert "Traceback" not in err


async def test_nothing_starts_when_nothing_is_configured(tmp_path: Path) -> None:
    async with Processes(tmp_path) as processes:
        file = tmp_path / "s.json"
        group = await processes.start(*PRELOAD, "--scheduler-file", str(file))
        await until(file.exists, "the scheduler is up")
        warning = (
            "WARNING - Nothing is started: gc-bootstrap.discovery is null and there are no pools"
        )
        await until(lambda: warning in group.tail(50), "it is said, and why")
        code, _, err = await run_cli("pool", "status", "--scheduler-file", str(file))
        assert (code, "has no pools" in err) == (1, True), err
        assert "Traceback" not in err


async def test_a_plugin_with_nothing_to_do_says_so_in_the_log_and_in_the_status(
    tmp_path: Path,
) -> None:
    from distributed import Client

    from gc_bootstrap import BootstrapPlugin

    async with Processes(tmp_path) as processes:
        file = tmp_path / "s.json"
        group = await processes.start(*SCHEDULER, "--scheduler-file", str(file))
        await until(file.exists, "the scheduler is up")
        async with Client(scheduler_file=str(file), asynchronous=True) as client:
            await client.register_plugin(BootstrapPlugin())
            why = "othing is started: gc-bootstrap.discovery is null and there are no pools"
            assert f"WARNING - N{why}" in group.tail(50)
            arguments = ["pool", "status", "--scheduler-file", str(file)]
            code, out, err = await run_cli(*arguments)
            assert (code, err, f"n{why}" in out) == (0, "", True), out
            assert (await run_cli(*arguments, "--check"))[:2] == (
                1,
                f"NOT WELL: n{why} (is a variable unset?)\n",
            )
            await client.register_plugin(BootstrapPlugin("static:"))
            code, out, _ = await run_cli(*arguments)
            reason = "gc-bootstrap.discovery: 'static:' names no peer (is a variable unset?)"
            assert f"pool default is not started: {reason}" in out
            assert "Traceback" not in group.tail(200)


async def test_status_of_nobody_is_one_line() -> None:
    code, out, err = await run_cli("pool", "status", "tcp://127.0.0.1:1", "--timeout", "1")
    assert (code, out) == (1, "")
    assert err.startswith("Error: cannot ask the scheduler at tcp://127.0.0.1:1")
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("command", ["peers", "status"])
async def test_a_timeout_is_a_duration(command: str) -> None:
    code, out, err = await run_cli("pool", command, "local", "--timeout", "inf")
    assert (code, out) == (2, "")
    assert err.endswith(
        "Error: Invalid value for '--timeout': 'inf' is not a duration such as 5s\n"
    )


async def test_peers_prints_what_a_discovery_finds(runtime_dir: Path) -> None:
    code, out, _ = await run_cli("pool", "peers", "--json", "static:10.0.0.5,[fd00::5]:1234")
    assert code == 0
    assert json.loads(out) == {
        "complete": True,
        "peers": [
            {"address": "10.0.0.5:8791", "leaving": False, "labels": {}},
            {"address": "[fd00::5]:1234", "leaving": False, "labels": {}},
        ],
    }
    registrar = Registrar(runtime_dir)
    registrar.register(Registration(Peer("127.0.0.1", 4000), 4711, "the secret that nobody sees"))
    code, out, err = await run_cli("pool", "peers", "local")
    registrar.close()
    assert (code, err) == (0, "")
    assert "127.0.0.1:4000" in out
    assert "1 peer" in out
    assert "secret" not in out


async def test_peers_says_why_an_answer_is_not_complete(runtime_dir: Path) -> None:
    registrar = Registrar(runtime_dir)
    registrar.register(Registration(Peer("127.0.0.1", 4000), 4711))
    link = runtime_dir / "link-1.agent"
    link.symlink_to("/nowhere")
    _, out, _ = await run_cli("pool", "peers", "local")
    code, json_out, _ = await run_cli("pool", "peers", "--json", "local")
    registrar.close()
    link.unlink()
    assert "1 peer; the answer is not complete: " in out
    assert "link-1.agent: not a registration" in out
    answer = json.loads(json_out)
    assert (code, answer["complete"], len(answer["peers"])) == (0, False, 1)
    assert "link-1.agent: not a registration" in answer["incomplete"]


async def test_peers_of_a_discovery_that_cannot_know_exits_with_1(runtime_dir: Path) -> None:
    await asyncio.to_thread(runtime_dir.mkdir)
    await asyncio.to_thread(runtime_dir.chmod, 0o777)
    code, out, err = await run_cli("pool", "peers", "local")
    assert (code, out) == (1, "")
    assert "is open to other users" in err
    assert len(err.splitlines()) == 1
    assert (await run_cli("pool", "peers", "nope"))[0] == 2


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--listen", "0.0.0.0:0"], "other hosts can reach it"),
        (["--listen", "here"], "is not HOST:PORT"),
        (["--listen", "127.0.0.1:99999"], "is not HOST:PORT"),
        (["--cookie-file", "/nope"], "--cookie-file /nope: cannot be read"),
        (["--drain-timeout", "soon"], "'soon' is not a duration"),
        (["--drain-timeout", ""], "'' is not a duration"),
        (["--drain-timeout", "1e999s"], "'1e999s' is not a duration"),
        (["--lease-timeout", "0s"], "'0s' is not a duration"),
        (["--lease-timeout", "500ms"], "'500ms' is shorter than 1 s"),
        (["--pod-deletion-cost"], "--pod-deletion-cost: POD_NAME is not set; expected an env"),
        (["--resources", "GPU"], "is not NAME=NUMBER"),
        (["--memory-limit", "lots"], "--memory-limit lots: is neither bytes such as 4GiB"),
        (["--interface", "nope0"], "--interface nope0: 'nope0' is not a valid network interface"),
        (["--local-directory", "/dev/null"], "/dev/null is not a folder"),
        (["--host", "192.0.2.1"], "cannot listen at '192.0.2.1': Cannot assign requested address"),
        (["--lifetime", "soon"], "--lifetime soon: is not a duration"),
        (["--nworkers", "many"], "is neither a whole number nor 'auto'"),
        (["--nworkers", "2", "--no-nanny"], "--no-nanny: runs one worker"),
        (["--worker-class", "no.such.Class"], "--worker-class no.such.Class"),
        (["--preload", "no_such_module"], "--preload: ModuleNotFoundError"),
        (["--no-such-option"], "No such option"),
        (["--import", "no_such_module"], "--import no_such_module: ModuleNotFoundError"),
        (["tcp://127.0.0.1:8786"], "unexpected extra argument"),
    ],
)
async def test_a_bad_agent_option_is_said_and_exits_with_2(
    options: list[str], expected: str
) -> None:
    code, _, err = await run_cli("pool", "agent", *options)
    assert (code, expected in err) == (2, True), err
    assert "Traceback" not in err


async def test_a_flag_of_the_environment_is_as_click_has_it() -> None:
    name = "GC_BOOTSTRAP_POD_DELETION_COST"
    for value, expected in (("true", "POD_NAME is not set"), ("maybe", "not a valid boolean")):
        code, _, err = await run_cli("pool", "agent", environ={name: value})
        assert (code, expected in err) == (2, True), err
    _, out, _ = await run_cli("pool", "agent", "--help")
    assert f"[env: {name}]" in " ".join(out.split())


async def test_a_short_or_doubled_cookie_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cookie").write_text("short")
    code, _, err = await run_cli("pool", "agent", "--cookie-file", str(tmp_path / "cookie"))
    assert (code, "the cookie has 5 characters" in err) == (2, True), err
    environ = {"GC_BOOTSTRAP_COOKIE": "a secret that is long enough"}
    code, _, err = await run_cli("pool", "agent", "--insecure", environ=environ)
    assert (code, "--insecure: contradicts" in err) == (2, True), err
    assert "long enough" not in err


async def test_a_cookie_in_the_environment_is_not_inherited_by_workers(tmp_path: Path) -> None:
    from distributed import Client

    environ = {"GC_BOOTSTRAP_COOKIE": "a secret that is long enough"}
    async with Processes(tmp_path) as processes:
        agents = await processes.agents(1, environ=environ)
        scheduler = await processes.scheduler(agents, environ=environ)
        await scheduler.formed(agents)
        async with Client(scheduler.address, asynchronous=True) as client:
            await client.wait_for_workers(1, timeout=30)

            def environment() -> str:
                return repr(os.environ)

            (seen,) = (await client.run(environment)).values()
            assert "long enough" not in seen
            (group,) = agents.values()
            assert "long enough" not in group.tail(500) + scheduler.group.tail(500)


async def test_the_demo_tells_what_happens_and_leaves_no_process() -> None:
    code, out, err = await run_cli("pool", "demo", deadline=150)
    assert (code, err) == (0, ""), out + err
    for event in ("Formed", "Killed the worker", "Healed", "Killed the scheduler", "All attached"):
        assert event in out
    assert out.splitlines()[-1].endswith("Every process has been ended.")


@pytest.mark.parametrize(
    ("number", "times"),
    # One handler serves all three; what a second one does is the same for each.
    [(signal.SIGINT, 1), (signal.SIGINT, 2), (signal.SIGTERM, 1), (signal.SIGHUP, 1)],
)
async def test_an_interrupted_demo_leaves_no_process(number: signal.Signals, times: int) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "dask", "pool", "demo", "--agents", "1"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None
    while b"Scheduler 1 is up" not in await asyncio.wait_for(process.stdout.readline(), 60):
        pass
    started = psutil.Process(process.pid).children(recursive=True)
    assert len(started) >= 2, "an agent and a scheduler"
    for _ in range(times):
        with suppress(ProcessLookupError):  # it may be that quick
            os.kill(process.pid, number)  # send_signal may reap it, and its exit code is lost
        await asyncio.sleep(0.3)
    _, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 128 + number
    assert err.decode() == "Interrupted; every process has been ended.\n"
    assert not [p for p in started if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


async def test_the_version_is_this_projects() -> None:
    assert await run_cli("pool", "--version") == (0, f"gc_bootstrap, version {__version__}\n", "")


async def test_help_names_the_options_of_dask_worker() -> None:
    code, out, _ = await run_cli("pool", "agent", "--help")
    assert code == 0
    for option in ("--listen", "--cookie-file", "--import", "--nworkers", "--resources"):
        assert option in out
    assert "--scheduler-file" not in out


async def test_an_agent_whose_temporary_folder_is_too_long_for_a_socket_says_so(
    tmp_path: Path,
) -> None:
    folder = tmp_path / ("x" * 110)
    folder.mkdir()
    code, _, err = await run_cli(
        "pool", "agent", "--listen", f"127.0.0.1:{free_port()}", environ={"TMPDIR": str(folder)}
    )
    assert code == 2
    assert f"Error: warming up: no forkserver in {folder} (TMPDIR): OSError: AF_UNIX path" in err
    assert "Traceback" not in err
