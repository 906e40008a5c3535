"""The options of `dask worker`: all of them, read as `dask worker` reads them."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import click
import pytest
from dask.system import CPU_COUNT
from distributed import Nanny, Worker
from distributed.cli import dask_worker

from gc_bootstrap.agent.options import WorkerOptions, click_parameters, worker_options
from gc_bootstrap.errors import ConfigError


def parse(*arguments: str) -> dict[str, Any]:
    """What click makes of a command line."""
    command = click.Command("agent", params=click_parameters(), callback=lambda **given: given)
    given: dict[str, Any] = command.main(list(arguments), standalone_mode=False)
    return given


def options(*arguments: str) -> WorkerOptions:
    return worker_options(parse(*arguments))


def problems(*arguments: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        options(*arguments)
    return caught.value.problems


def test_every_option_of_dask_worker_is_there_but_those_about_the_scheduler() -> None:
    ours = {parameter.name for parameter in click_parameters()}
    theirs = {parameter.name for parameter in dask_worker.main.params}
    assert ours <= theirs
    left_out = theirs - ours
    assert left_out == {"scheduler", "scheduler_file", "version", "dashboard_prefix"} & theirs


def test_the_default_is_one_worker_with_a_nanny() -> None:
    found = options()
    assert (found.nanny, found.worker_class, found.nthreads) == (True, Worker, CPU_COUNT)
    (worker,) = found.workers
    assert worker["worker_class"] is Worker
    assert worker["name"] is None
    assert worker["resources"] is None
    assert worker["memory_limit"] == "auto"
    assert found.contact_address is None


@pytest.mark.parametrize("arguments", [(), ("--nworkers", "2"), ("--no-nanny",)])
def test_dask_takes_what_is_passed_through(arguments: tuple[str, ...]) -> None:
    found = options(*arguments)
    known = set(inspect.signature(Worker).parameters)
    if found.nanny:
        known |= set(inspect.signature(Nanny).parameters)
    for worker in found.workers:
        assert worker.keys() <= known


def test_what_is_not_ours_is_passed_through_unchanged(tmp_path: Path) -> None:
    (worker,) = options(
        *("--memory-limit", "2GB", "--local-directory", f"{tmp_path}/new", "--death-timeout", "30"),
        *("--lifetime", "1h", "--protocol", "tcp", "--no-dashboard"),
        *("--host", "127.0.0.1", "--dashboard-address", ":8787"),
    ).workers
    expected = {
        "memory_limit": "2GB",
        "local_directory": f"{tmp_path}/new",
        "lifetime": "1h",
        "protocol": "tcp",
        "dashboard": False,
        "host": "127.0.0.1",
        "dashboard_address": ":8787",
    }
    assert worker.items() >= expected.items()
    assert float(worker["death_timeout"]) == 30


# -- how many --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "count", "threads"),
    [
        (("--nworkers", "3", "--nthreads", "2"), 3, 2),
        (("--nworkers", "1"), 1, CPU_COUNT),
        (("--nworkers", "-1"), CPU_COUNT, 1),
        (("--nworkers", str(10 * CPU_COUNT)), 10 * CPU_COUNT, 1),
        (("--no-nanny", "--nthreads", "5"), 1, 5),
    ],
)
def test_workers_and_threads_are_counted(
    arguments: tuple[str, ...], count: int, threads: int
) -> None:
    found = options(*arguments)
    assert len(found.workers) == count
    assert found.nthreads == threads
    assert {worker["nthreads"] for worker in found.workers} == {threads}


def test_auto_uses_every_core() -> None:
    found = options("--nworkers", "auto")
    assert len(found.workers) * found.nthreads == CPU_COUNT


@pytest.mark.parametrize(
    ("count", "reason"),
    [
        ("many", "--nworkers many: is neither a whole number nor 'auto'"),
        ("1.5", "--nworkers 1.5: is neither a whole number nor 'auto'"),
        ("0", "--nworkers 0: leaves no worker to start"),
        ("-1000000", "--nworkers -1000000: leaves no worker to start"),
        ("10001", "--nworkers 10001: is more than 10000"),
    ],
)
def test_a_count_that_is_none_is_one_line(count: str, reason: str) -> None:
    assert problems("--nworkers", count) == (reason,)


# -- names, ports, addresses -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (("--name", "w"), ["w"]),
        (("--name", "7"), [7]),
        (("--name", "w", "--nworkers", "2"), ["w-0", "w-1"]),
        (("--name", "7", "--nworkers", "2"), ["7-0", "7-1"]),
        (("--nworkers", "2"), [None, None]),
        (("--name", ""), [None]),
    ],
)
def test_names_are_those_of_dask_worker(arguments: tuple[str, ...], names: list[Any]) -> None:
    found = [worker["name"] for worker in options(*arguments).workers]
    assert found == names
    assert [type(name) for name in found] == [type(name) for name in names]


def test_a_range_of_ports_is_shared_out() -> None:
    found = options("--nworkers", "2", "--worker-port", "3000:3003", "--nanny-port", "4000:4001")
    assert [(worker["worker_port"], worker["port"]) for worker in found.workers] == [
        ([3000, 3002], 4000),
        ([3001, 3003], 4001),
    ]


def test_without_a_nanny_the_port_is_the_workers() -> None:
    (worker,) = options("--no-nanny", "--worker-port", "3000").workers
    assert worker["port"] == 3000
    assert (
        worker.keys() & {"worker_port", "worker_class", "preload_nanny", "listen_address"} == set()
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ("--worker-port", "3000:3000"),
        ("--nworkers", "3", "--worker-port", "3000:3001"),
        ("--nworkers", "3", "--nanny-port", "3000"),
    ],
)
def test_ranges_that_do_not_do_are_one_line(arguments: tuple[str, ...]) -> None:
    (line,) = problems(*arguments)
    assert line.startswith("--worker-port, --nanny-port: ")
    assert "\n" not in line


@pytest.mark.parametrize("option", ["--worker-port", "--nanny-port"])
@pytest.mark.parametrize(
    "text", ["http", "", "-1", "65536", "3003:3000", "1:99999999999", "1:2:3", "²"]
)
def test_ports_that_are_none_are_one_line(option: str, text: str) -> None:
    reason = "is neither a port nor a range of ports such as 3000:3026"
    assert problems(f"{option}={text}") == (f"{option} {text}: {reason}",)


def test_a_listen_address_says_host_and_port() -> None:
    found = options("--listen-address", "tcp://[::1]:3000")
    (worker,) = found.workers
    assert (worker["host"], worker["worker_port"]) == ("[::1]", 3000)
    assert found.contact_address == worker["contact_address"] == "tcp://[::1]:3000"
    assert worker["listen_address"] == "tcp://[::1]:3000"


def test_a_contact_address_is_what_others_dial() -> None:
    arguments = ("--listen-address", "tcp://0.0.0.0:3000", "--contact-address", "tcp://node-3:80")
    found = options(*arguments)
    assert found.contact_address == found.workers[0]["contact_address"] == "tcp://node-3:80"


LISTEN = ("--listen-address", "tcp://0.0.0.0:3000")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (
            ("--contact-address", "tcp://a:1"),
            "--contact-address: --listen-address is missing beside it",
        ),
        (
            (*LISTEN, "--nworkers", "2"),
            "--listen-address: is for one worker, but --nworkers asks for more",
        ),
        (
            (*LISTEN, "--host", "a"),
            "--listen-address: says already what --worker-port and --host say",
        ),
        (
            (*LISTEN, "--worker-port", "3000"),
            "--listen-address: says already what --worker-port and --host say",
        ),
        (
            ("--no-nanny", "--nworkers", "2"),
            "--no-nanny: runs one worker, but --nworkers asks for more",
        ),
        (("--resources", "GPU"), "--resources GPU: 'GPU' is not NAME=NUMBER"),
        (("--resources", "GPU=-1"), "--resources GPU=-1: 'GPU=-1' is not NAME=NUMBER"),
        (("--resources", "GPU=nan"), "--resources GPU=nan: 'GPU=nan' is not NAME=NUMBER"),
        (("--resources", "=1"), "--resources =1: '=1' is not NAME=NUMBER"),
        (("--resources", "GPU=two"), "--resources GPU=two: 'GPU=two' is not NAME=NUMBER"),
    ],
)
def test_options_that_contradict_each_other_are_one_line(
    arguments: tuple[str, ...], reason: str
) -> None:
    assert problems(*arguments) == (reason,)


def test_an_address_without_a_port_is_one_line_that_names_the_option() -> None:
    (line,) = problems("--listen-address", "tcp://0.0.0.0")
    assert line.startswith("--listen-address tcp://0.0.0.0: ")


# -- resources and the worker's class --------------------------------------------------------------


@pytest.mark.parametrize("text", ["GPU=2 MEM=1.5e9", "GPU=2,MEM=1.5e9", "GPU=2, MEM=1.5e9"])
def test_resources_are_numbers_by_name(text: str) -> None:
    (worker,) = options("--resources", text).workers
    assert worker["resources"] == {"GPU": 2.0, "MEM": 1.5e9}


def test_a_class_of_ones_own_is_imported() -> None:
    found = options("--worker-class", "distributed.Nanny", "--no-nanny")
    assert found.worker_class is Nanny


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("no.such.Class", "ModuleNotFoundError: No module named 'no'"),
        ("distributed.NoSuchClass", "AttributeError: "),
        ("os.getcwd", "is not a class of workers"),
        ("builtins.int", "is not a class of workers"),
    ],
)
def test_a_class_that_cannot_be_imported_is_one_line(path: str, reason: str) -> None:
    (line,) = problems("--worker-class", path)
    assert line.startswith(f"--worker-class {path}: {reason}")


def test_all_problems_are_said_at_once() -> None:
    lines = problems(
        *("--nworkers", "x", "--resources", "GPU", "--worker-class", "os.getcwd"),
        *("--worker-port", "http", "--contact-address", "tcp://a:1"),
    )
    assert [line.split(":")[0].split(" ")[0].rstrip(",") for line in lines] == [
        "--nworkers",
        "--contact-address",
        "--resources",
        "--worker-class",
        "--worker-port",
    ]


# -- the rest --------------------------------------------------------------------------------------


def test_preloads_are_known() -> None:
    assert options("--preload", "json").preload == ("json",)
    assert options().preload == ()


@pytest.mark.parametrize(
    ("arguments", "host", "expected"),
    [
        ((), "127.0.0.1", ("127.0.0.1", [(None, 0)])),
        ((), "fd00::5", ("[fd00::5]", [(None, 0)])),
        ((), None, (None, [(None, 0)])),
        (("--host", "0.0.0.0"), "127.0.0.1", ("0.0.0.0", [(None, 0)])),
        (("--interface", "lo"), "127.0.0.1", (None, [(None, 0)])),
        (("--listen-address", "tcp://[::1]:9"), "127.0.0.1", ("[::1]", [(None, 0)])),
        (("--dashboard-address", "8787,:8788"), "::1", ("[::1]", [(None, 8787), (None, 8788)])),
        (("--dashboard-address", "0.0.0.0:8787"), "127.0.0.1", ("127.0.0.1", "0.0.0.0:8787")),
        (("--dashboard-address", "localhost"), "127.0.0.1", ("127.0.0.1", "localhost")),
    ],
)
def test_workers_listen_where_the_agent_does_unless_they_are_told(
    arguments: tuple[str, ...], host: str | None, expected: tuple[object, object]
) -> None:
    (worker,) = options(*arguments).listening_at(host).workers
    assert (worker["host"], worker["dashboard_address"]) == expected


def test_security_does_not_show_itself() -> None:
    assert "security" not in repr(WorkerOptions(Worker, True, (), 1))


def test_without_tls_options_the_workers_take_dasks_own_settings() -> None:
    found = options()
    assert found.security is not None
    assert found.workers[0]["security"] is found.security
    assert not found.security.require_encryption
