"""Who may attach an agent, by key and by cookie, and what its workers know of either."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from distributed import Client

from gc_bootstrap.peer import Peer
from tests.integration.harness import Processes, free_port, is_ready, run_cli, until

pytestmark = pytest.mark.timeout(180)

SECRET = "a secret that is long enough"


async def _pair(folder: Path) -> tuple[str, str]:
    code, out, err = await run_cli("pool", "keygen", str(folder))
    assert (code, err) == (0, "")
    private, public = str(folder / "private.pem"), str(folder / "public.pem")
    assert out == f"Wrote {private} for the scheduler alone, and {public} for its agents.\n"
    return private, public


def _contents(folder: Path) -> dict[str, str]:
    return {file.name: file.read_text() for file in folder.iterdir()}


# -- making a pair ---------------------------------------------------------------------------------


async def test_a_pair_is_made_once_and_its_private_half_is_its_owners_alone(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "keys"
    private, _ = await _pair(folder)
    modes = {folder: 0o700, folder / "private.pem": 0o600}
    assert {path: stat.S_IMODE(path.stat().st_mode) for path in modes} == modes
    before = _contents(folder)
    code, out, err = await run_cli("pool", "keygen", str(folder))
    assert (code, out) == (2, "")
    assert err == f"Error: {private}: File exists; nothing has been written\n"
    assert _contents(folder) == before


async def test_no_half_pair_is_left(tmp_path: Path) -> None:
    (tmp_path / "public.pem").write_text("somebody's")
    code, _, err = await run_cli("pool", "keygen", str(tmp_path))
    assert code == 2
    assert err == f"Error: {tmp_path / 'public.pem'}: File exists; nothing has been written\n"
    assert _contents(tmp_path) == {"public.pem": "somebody's"}
    code, _, err = await run_cli("pool", "keygen", str(tmp_path / "public.pem"))
    assert (code, err) == (2, f"Error: {tmp_path / 'public.pem'}: File exists\n")


# -- attaching -------------------------------------------------------------------------------------


async def test_who_has_the_private_half_attaches_and_keys_are_replaced_one_by_one(
    processes: Processes, tmp_path: Path
) -> None:
    private, _ = await _pair(tmp_path / "old")
    new_private, _ = await _pair(tmp_path / "new")
    both = tmp_path / "both.pem"
    halves = (_contents(tmp_path / name)["public.pem"] for name in ("old", "new"))
    both.write_text("".join(halves))
    agents = await processes.agents(1, "--public-key-file", str(both))
    for key in (private, new_private):
        scheduler = await processes.scheduler(agents, "--key-file", key)
        await scheduler.formed(agents)
        await scheduler.group.stop()


async def test_others_are_refused_and_told_why(processes: Processes, tmp_path: Path) -> None:
    _, public = await _pair(tmp_path / "mine")
    private, _ = await _pair(tmp_path / "theirs")
    cookie = tmp_path / "cookie"
    cookie.write_text(SECRET)
    environ = {"GC_BOOTSTRAP_PUBLIC_KEY_FILE": public}
    agents = await processes.agents(1, environ=environ)
    for options, reason in (
        (("--key-file", private), "the token was signed with another key"),
        (("--cookie-file", str(cookie)), "the token is signed in another way; this agent wants"),
        ((), "no token; this agent wants requests signed with the private half of its key pair"),
    ):
        scheduler = await processes.scheduler(agents, *options)
        group = scheduler.group
        await until(lambda g=group, r=reason: r in g.tail(50), reason)  # type: ignore[misc]
        assert await scheduler.workers() == {}
        await scheduler.group.stop()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--public-key-file", "{private}"), "is a private key, which is the scheduler's alone"),
        (("--public-key-file", "{public}", "--cookie-file", "{cookie}"), "contradicts"),
        (("--public-key-file", "{public}", "--insecure"), "--insecure: contradicts the key from"),
        (("--cookie-file", "{public}"), "is a key and no cookie"),
        (("--public-key-file", "{folder}/none"), "cannot be read: No such file or directory"),
    ],
)
async def test_a_key_in_the_wrong_place_is_one_line(
    tmp_path: Path, options: tuple[str, ...], reason: str
) -> None:
    private, public = await _pair(tmp_path / "keys")
    cookie = tmp_path / "cookie"
    cookie.write_text(SECRET)
    given = [
        o.format(private=private, public=public, cookie=cookie, folder=tmp_path) for o in options
    ]
    code, _, err = await run_cli("pool", "agent", "--listen", "127.0.0.1:0", *given)
    assert code == 2
    (line,) = [line for line in err.splitlines() if line.startswith("Error: ")]
    assert reason in line


async def test_a_scheduler_with_the_public_half_does_not_start(tmp_path: Path) -> None:
    _, public = await _pair(tmp_path)
    command = "scheduler --host 127.0.0.1 --port 0 --dashboard-address :0 --discovery local"
    code, _, err = await run_cli(
        *command.split(), "--preload", "gc_bootstrap.preload", "--key-file", public
    )
    assert code == 2
    (line,) = [line for line in err.splitlines() if line.startswith("gc_bootstrap: ")]
    assert line == (
        f"gc_bootstrap: gc-bootstrap.key-file {public}: is a public key, which is the agents';"
        " expected the private one"
    )


# -- what workers know -----------------------------------------------------------------------------


def _looked_at_by_a_task() -> dict[str, str]:
    """All that a task sees of its environment and of that of the processes above it."""
    import dask

    seen = {"os.environ": repr(dict(os.environ)), "dask.config": repr(dask.config.config)}
    with open("/proc/self/environ", "rb") as file:
        seen["worker"] = repr(file.read())
    with open(f"/proc/{os.getppid()}/environ", "rb") as file:
        seen["fork server"] = repr(file.read())
    with open(f"/proc/{os.getppid()}/cmdline", "rb") as file:
        assert b"forkserver" in file.read()
    return seen


@pytest.mark.parametrize(
    "how", ["GC_BOOTSTRAP_COOKIE", "GC_BOOTSTRAP_COOKIE_FILE", "DASK_GC_BOOTSTRAP__COOKIE_FILE"]
)
async def test_no_cookie_and_no_way_to_one_is_in_a_workers_environment(
    processes: Processes, tmp_path: Path, how: str
) -> None:
    cookie = tmp_path / "the-cookie-is-here"
    cookie.write_text(SECRET)
    environ = {how: SECRET if how.endswith("COOKIE") else str(cookie)}
    peer = Peer("127.0.0.1", free_port())
    group = await processes.start("pool", "agent", "--listen", str(peer), environ=environ)
    await is_ready(group)
    scheduler = await processes.scheduler([peer], "--cookie-file", str(cookie))
    await scheduler.formed([peer])
    async with Client(scheduler.address, asynchronous=True) as client:
        seen = await client.submit(_looked_at_by_a_task)
    for where, text in seen.items():
        assert SECRET not in text, where
        assert "the-cookie-is-here" not in text, where
    assert SECRET not in group.tail(500) + scheduler.group.tail(500)
