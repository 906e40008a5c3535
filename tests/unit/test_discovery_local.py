"""The discovery `local`: beyond the contract."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gc_bootstrap.discovery.local import LocalDiscovery
from gc_bootstrap.errors import DiscoveryError
from gc_bootstrap.peer import Peer
from gc_bootstrap.wire import registrations
from gc_bootstrap.wire.registrations import Registrar, Registration
from tests.unit.helpers import eventually

A, B = Peer("127.0.0.1", 1), Peer("127.0.0.1", 2)


@asynccontextmanager
async def registered(peer: Peer, pid: int = 11, folder: Path | None = None) -> AsyncIterator[None]:
    registrar = Registrar(folder)
    await asyncio.to_thread(registrar.register, Registration(peer, pid))
    try:
        yield
    finally:
        await asyncio.to_thread(registrar.close)


def later(folder: Path) -> bool:
    """Whether a change of the folder would now get another time than its last one."""
    probe = folder.with_name("probe")
    probe.touch()
    return probe.stat().st_mtime_ns > folder.stat().st_mtime_ns


async def test_agents_are_found_in_whatever_order_they_start(runtime_dir: Path) -> None:
    discovery = LocalDiscovery()
    assert (await discovery.peers()).peers == frozenset()
    async with registered(B):
        async with registered(A):
            assert (await discovery.peers()).peers == {A, B}
        assert (await discovery.peers()).peers == {B}
    assert (await discovery.peers()).peers == frozenset()


async def test_a_label_says_which_process_it_is(runtime_dir: Path) -> None:
    async with registered(A, pid=4711):
        assert (await LocalDiscovery().peers()).labels == {A: {"pid": "4711"}}


async def test_every_folder_that_an_agent_may_have_used_is_looked_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GC_BOOTSTRAP_RUNTIME_DIR")
    places = [tmp_path / "one", tmp_path / "two"]
    monkeypatch.setattr(registrations, "folders", lambda environ=None: places)
    discovery = LocalDiscovery()
    async with registered(A, folder=tmp_path / "one"), registered(B, folder=tmp_path / "two"):
        assert (await discovery.peers()).peers == {A, B}


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
    async with registered(A):
        link = runtime_dir / "link-1.agent"
        link.symlink_to("/nowhere")
        discovery = LocalDiscovery()
        for _ in range(2):
            snapshot = await discovery.peers()
            assert snapshot.peers == {A}
            assert not snapshot.complete
            assert f"{link}: not a registration" in snapshot.reason
        assert caplog.text.count(f"{link}: not a registration") == 1
        link.unlink()
        assert (await discovery.peers()).complete


async def test_it_hints_when_an_agent_comes_and_when_it_goes(runtime_dir: Path) -> None:
    async with registered(B):
        discovery = LocalDiscovery()
        await discovery.peers()
        await eventually(lambda: later(runtime_dir))
        async with registered(A):
            await asyncio.wait_for(discovery.changed(), 5)
            assert (await discovery.peers()).peers == {A, B}
            await eventually(lambda: later(runtime_dir))
        await asyncio.wait_for(discovery.changed(), 5)
        assert (await discovery.peers()).peers == {B}


async def test_it_hints_when_the_folder_is_made(runtime_dir: Path) -> None:
    discovery = LocalDiscovery()
    await discovery.peers()
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(asyncio.wait_for(discovery.changed(), 5))
        await asyncio.sleep(0)
        assert not waiting.done()
        async with registered(A):
            await waiting


async def test_a_change_during_the_look_is_hinted_at(runtime_dir: Path) -> None:
    class Slow(LocalDiscovery):
        def _read(self) -> tuple[list[Registration], list[str]]:
            found = super()._read()
            os.utime(runtime_dir, ns=(0, 4711))
            return found

    async with registered(A):
        discovery = Slow()
        await discovery.peers()
        await asyncio.wait_for(discovery.changed(), 5)
