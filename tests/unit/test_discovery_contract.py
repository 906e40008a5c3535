"""The discoveries that ship with the package keep the contract."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from gc_bootstrap.discovery import Discovery, FunctionDiscovery
from gc_bootstrap.discovery.local import LocalDiscovery
from gc_bootstrap.discovery.static import StaticDiscovery
from gc_bootstrap.errors import DiscoveryError
from gc_bootstrap.peer import Peer, Snapshot
from gc_bootstrap.testing import DiscoveryContract, ManualDiscovery
from gc_bootstrap.wire.registrations import Registrar, Registration


class TestStaticDiscovery(DiscoveryContract):
    async def discovery_of(self, peers: frozenset[Peer]) -> Discovery:
        return StaticDiscovery([str(peer) for peer in peers])

    async def discovery_that_cannot_know(self) -> None:
        return None


class TestFunctionDiscovery(DiscoveryContract):
    async def discovery_of(self, peers: frozenset[Peer]) -> Discovery:
        async def function() -> list[str]:
            return [str(peer) for peer in peers]

        return FunctionDiscovery(function)

    async def discovery_that_cannot_know(self) -> Discovery:
        async def function() -> list[str]:
            raise OSError("the database is\nnot there")

        return FunctionDiscovery(function)


class TestManualDiscovery(DiscoveryContract):
    async def discovery_of(self, peers: frozenset[Peer]) -> Discovery:
        return ManualDiscovery(peers)

    async def discovery_that_cannot_know(self) -> Discovery:
        discovery = ManualDiscovery()
        discovery.set(DiscoveryError("nobody knows"))
        return discovery

    async def discovery_that_knows_a_part(self) -> Discovery:
        return ManualDiscovery(Snapshot(self.some, complete=False, reason="one is silent"))


class TestLocalDiscovery(DiscoveryContract):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> Iterator[None]:
        self.folder = tmp_path / "agents"
        with contextlib.ExitStack() as self.registered:
            yield

    async def discovery_of(self, peers: frozenset[Peer]) -> Discovery:
        for peer in peers:
            registrar = Registrar(self.folder)
            registrar.register(Registration(peer, 4711))
            self.registered.callback(registrar.close)
        return LocalDiscovery(str(self.folder))

    async def discovery_that_cannot_know(self) -> Discovery:
        self.folder.mkdir(mode=0o755)
        self.folder.chmod(0o755)
        return LocalDiscovery(str(self.folder))

    async def discovery_that_knows_a_part(self) -> Discovery:
        discovery = await self.discovery_of(self.some)
        (self.folder / "link-1.agent").symlink_to("/nowhere")
        return discovery
