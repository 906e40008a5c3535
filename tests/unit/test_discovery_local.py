"""The discovery `local`: beyond the contract."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from gc_bootstrap.discovery.local import LocalDiscovery
from gc_bootstrap.errors import DiscoveryError
from gc_bootstrap.peer import Peer
from gc_bootstrap.runtime import Registrar, Registration
from tests.unit.helpers import eventually

A, B = Peer("127.0.0.1", 1), Peer("127.0.0.1", 2)


def register(peer: Peer, pid: int = 11, folder: Path | None = None) -> Registrar:
    registrar = Registrar(folder)
    registrar.register(Registration(peer, pid))
    return registrar


def later(folder: Path) -> bool:
    """Whether a change of the folder would now get another time than its last one."""
    probe = folder.with_name("probe")
    probe.touch()
    return probe.stat().st_mtime_ns > folder.stat().st_mtime_ns


async def test_agents_are_found_in_whatever_order_they_start(runtime_dir: Path) -> None:
    discovery = LocalDiscovery()
    assert (await discovery.peers()).peers == frozenset()
    first = register(A)
    assert (await discovery.peers()).peers == {A}
    second = register(B)
    assert (await discovery.peers()).peers == {A, B}
    first.close()
    assert (await discovery.peers()).peers == {B}
    second.close()
    assert (await discovery.peers()).peers == frozenset()


async def test_a_label_says_which_process_it_is(runtime_dir: Path) -> None:
    registrar = register(A, pid=4711)
    assert (await LocalDiscovery().peers()).labels == {A: {"pid": "4711"}}
    registrar.close()


async def test_every_folder_that_an_agent_may_have_used_is_looked_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GC_BOOTSTRAP_RUNTIME_DIR")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "xdg"))
    discovery = LocalDiscovery()
    assert tmp_path / "xdg" / "gc_bootstrap" in discovery._folders
    discovery._folders = [tmp_path / "one", tmp_path / "two"]
    registrars = [register(A, folder=tmp_path / "one"), register(B, folder=tmp_path / "two")]
    assert (await discovery.peers()).peers == {A, B}
    for registrar in registrars:
        registrar.close()


async def test_a_folder_that_is_open_to_others_is_an_error_and_not_an_empty_answer(
    runtime_dir: Path,
) -> None:
    os.mkdir(runtime_dir)
    os.chmod(runtime_dir, 0o755)
    with pytest.raises(DiscoveryError, match=f"{runtime_dir} is open to other users"):
        await LocalDiscovery().peers()


async def test_a_file_that_makes_no_sense_is_a_part_of_the_truth_and_said_once(
    runtime_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    registrar = register(A)
    link = runtime_dir / "link"
    link.symlink_to("/nowhere")
    discovery = LocalDiscovery()
    for _ in range(2):
        snapshot = await discovery.peers()
        assert snapshot.peers == {A}
        assert not snapshot.complete
    assert caplog.text.count(f"{link}: not a registration") == 1
    link.unlink()
    assert (await discovery.peers()).complete
    registrar.close()


async def test_it_hints_when_an_agent_comes_and_when_it_goes(runtime_dir: Path) -> None:
    register(B).close()
    discovery = LocalDiscovery()
    await discovery.peers()
    await eventually(lambda: later(runtime_dir))
    registrar = register(A)
    async with asyncio.timeout(5):
        await discovery.changed()
    assert (await discovery.peers()).peers == {A}
    await eventually(lambda: later(runtime_dir))
    registrar.close()
    async with asyncio.timeout(5):
        await discovery.changed()
    assert (await discovery.peers()).peers == frozenset()


async def test_it_hints_when_the_folder_is_made(runtime_dir: Path) -> None:
    discovery = LocalDiscovery()
    await discovery.peers()
    waiting = asyncio.create_task(discovery.changed())
    await asyncio.sleep(0)
    assert not waiting.done()
    registrar = register(A)
    await asyncio.wait_for(waiting, 5)
    registrar.close()


async def test_a_change_during_the_look_is_hinted_at(runtime_dir: Path) -> None:
    class Slow(LocalDiscovery):
        def _read(self) -> tuple[list[Registration], list[str]]:
            found = super()._read()
            os.utime(runtime_dir, ns=(0, 4711))
            return found

    register(A).close()
    discovery = Slow()
    await discovery.peers()
    async with asyncio.timeout(5):
        await discovery.changed()
