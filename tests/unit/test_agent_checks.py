"""Options that no worker could start with are refused before there is one."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import click
import pytest
from distributed import Scheduler
from hypothesis import example, given
from hypothesis import strategies as st

from gc_bootstrap.agent.options import click_parameters, worker_options
from gc_bootstrap.errors import ConfigError
from tests.unit.test_agent_options import options, problems
from tests.unit.test_config import NO_DURATION

TLS = {"distributed.comm.require-encryption": True}
NO_MEMORY = "is neither bytes such as 4GiB, nor a fraction of all memory, nor 'auto'"


@pytest.mark.parametrize("text", ["lots", "", "-1", "-2GB", "nan", "inf", "1e999", "4 parsecs"])
def test_a_memory_limit_that_is_none_is_one_line(text: str) -> None:
    assert problems(f"--memory-limit={text}") == (f"--memory-limit {text}: {NO_MEMORY}",)


@pytest.mark.parametrize("text", ["4", "100kB"])
def test_a_memory_limit_without_its_unit_is_one_line(text: str) -> None:
    (line,) = problems("--memory-limit", text)
    assert line == f"--memory-limit {text}: is less than 1 MiB, in which no worker can run"


@pytest.mark.parametrize("text", ["0", "auto", "0.5", "1.0", "512MiB", "1e9", "999TB"])
def test_a_memory_limit_is_what_dask_takes_for_one(text: str) -> None:
    assert options("--memory-limit", text).workers[0]["memory_limit"] == text


@pytest.mark.parametrize("option", ["death-timeout", "lifetime", "lifetime-stagger"])
@pytest.mark.parametrize("text", ["soon", "", "-1s", "1e999s"])
def test_a_duration_that_is_none_is_one_line(option: str, text: str) -> None:
    assert problems(f"--{option}={text}") == (f"--{option} {text}: {NO_DURATION}",)


def test_only_a_stagger_can_be_nothing() -> None:
    assert options("--lifetime-stagger", "0s").workers
    assert problems("--lifetime", "0s") == (f"--lifetime 0s: {NO_DURATION}",)


def test_threads_are_not_negative() -> None:
    (line,) = problems("--nthreads", "-1")
    assert line.startswith("--nthreads -1: is not a whole number of at least 0")


def test_a_local_directory_has_to_be_a_folder_or_to_become_one(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    assert problems("--local-directory", str(file)) == (
        f"--local-directory {file}: {file} is not a folder",
    )
    assert problems("--local-directory", f"{file}/inside") == (
        f"--local-directory {file}/inside: {file} is not a folder",
    )
    (line,) = problems("--local-directory", "x" * 5000)
    assert line.endswith(": no folder can be made there: File name too long")
    (line,) = problems("--local-directory", "/proc/gc_bootstrap")
    assert line.startswith("--local-directory /proc/gc_bootstrap: no folder can be made there: ")
    assert options("--local-directory", f"{tmp_path}/a/b").workers
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--interface", "nope0"), "--interface nope0: 'nope0' is not a valid network interface"),
        (("--interface", "lo", "--host", "127.0.0.1"), "--interface: says already what --host "),
        (("--host", "192.0.2.1"), "--host 192.0.2.1: cannot listen at '192.0.2.1': Cannot assign"),
        (("--host", "no such host"), "--host no such host: cannot listen at 'no such host': "),
        (("--host", "x" * 70), f"--host {'x' * 70}: cannot listen at "),
        (("--host", "::1"), "--host ::1: invalid address '::1'; maybe: ipv6 needs brackets"),
        (("--protocol", "smoke"), "--protocol smoke: unknown address scheme 'smoke' (known "),
        (("--protocol", "tls"), "--protocol tls: there is no certificate (--tls-ca-file, "),
        (("--listen-address", "smoke://a:1"), "--listen-address smoke://a:1: unknown address "),
        (("--listen-address", "tcp://192.0.2.1:1"), "--listen-address tcp://192.0.2.1:1: cannot"),
        (("--listen-address", "tcp://:99999"), "--listen-address tcp://:99999: 99999 is not a "),
        (("--dashboard-address", ":http"), "--dashboard-address :http: is not an address such as"),
        (("--dashboard-address", ":99999"), "--dashboard-address :99999: is not an address such"),
        (("--dashboard-address", "192.0.2.1:1"), "--dashboard-address 192.0.2.1:1: cannot listen"),
        (("--preload-nanny", "no_such_module"), "--preload-nanny no_such_module: ModuleNotFound"),
    ],
)
def test_an_address_that_workers_cannot_have_is_one_line(
    arguments: tuple[str, ...], reason: str
) -> None:
    (line,) = problems(*arguments)
    assert line.startswith(reason)


def test_a_contact_address_has_a_port() -> None:
    line = "tcp://a:0: 0 is not a port between 1 and 65535"
    assert problems("--listen-address", "tcp://:0", "--contact-address", "tcp://a:0") == (
        f"--contact-address {line}",
    )


def test_a_protocol_in_the_clear_contradicts_required_encryption() -> None:
    import dask.config

    with dask.config.set(TLS):
        (line,) = problems("--protocol", "tcp")
    assert line == "--protocol tcp: is not encrypted, but Dask's settings require encryption"


@pytest.mark.parametrize(
    "arguments",
    [
        ("--host", "127.0.0.1"),
        ("--host", "localhost"),
        ("--host", "[::1]:0"),
        ("--host", "tcp://127.0.0.1"),
        ("--interface", "lo"),
        ("--protocol", "tcp://"),
        ("--dashboard-address", "8787,127.0.0.1:8788"),
        ("--dashboard-address", ""),
        ("--preload-nanny", "json"),
        ("--no-nanny", "--preload-nanny", "no_such_module"),
    ],
)
def test_what_dask_takes_is_taken(arguments: tuple[str, ...]) -> None:
    assert options(*arguments).workers


# -- whatever is written ---------------------------------------------------------------------------

TEXTS = sorted(
    parameter.name
    for parameter in click_parameters()
    if isinstance(parameter, click.Option)
    and not parameter.is_flag
    # Those import, or read a file, as they are parsed.
    and parameter.name not in ("preload", "preload_nanny", "tls_ca_file", "tls_cert", "tls_key")
)


@given(name=st.sampled_from(TEXTS), text=st.text(max_size=10) | st.from_regex(r"-?[0-9.:e]{0,9}"))
@example("nthreads", "9" * 5000)
@example("memory_limit", "1" * 5000)
@example("n_workers", "9" * 400)
@example("local_directory", "\0")
@example("host", "\0")
@example("host", "\udc80")
@example("interface", "")
@example("resources", "a=b=c")
@example("worker_class", ".")
@example("dashboard_address", "a:b:c")
def test_whatever_is_written_is_taken_or_said_in_lines(name: str, text: str) -> None:
    option = {"n_workers": "--nworkers"}.get(name, f"--{name.replace('_', '-')}")
    command = click.Command("agent", params=click_parameters())
    said: tuple[str, ...] = ()
    try:
        worker_options(command.make_context("agent", [f"{option}={text}"]).params)
    except click.UsageError as exc:
        said = (exc.format_message(),)
    except ConfigError as exc:
        said = exc.problems
    assert all(line.startswith("--") or "Invalid value" in line for line in said)


@pytest.mark.parametrize(
    "arguments",
    [("--memory-limit", "512MiB"), ("--lifetime-stagger", "0s"), ("--dashboard-address", "")],
)
async def test_a_worker_starts_with_what_is_taken(arguments: tuple[str, ...]) -> None:
    from distributed import Worker

    found = options("--no-nanny", "--host", "127.0.0.1", "--nthreads", "1", *arguments)
    (own,) = found.workers
    keywords: dict[str, Any] = {**own, "dashboard_address": own["dashboard_address"] or ":0"}
    async with (
        Scheduler(host="127.0.0.1", port=0, dashboard_address=":0") as scheduler,
        Worker(scheduler.address, **keywords) as worker,
    ):
        async with asyncio.timeout(30):
            while worker.address not in scheduler.workers:
                await asyncio.sleep(0.01)
