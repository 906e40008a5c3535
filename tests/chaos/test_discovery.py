"""The registry of the storms is a discovery as good as those of the package."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gc_bootstrap import Discovery, DiscoveryError, Peer
from gc_bootstrap.testing import DiscoveryContract
from tests.chaos.discovery import Registry, RegistryDiscovery
from tests.integration.harness import free_port


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncIterator[Registry]:
    registry = Registry(tmp_path, free_port())
    await registry.start()
    yield registry
    await registry.kill()


class TestRegistryDiscovery(DiscoveryContract):
    @pytest.fixture(autouse=True)
    def _registry(self, registry: Registry) -> None:
        self.registry = registry

    async def discovery_of(self, peers: frozenset[Peer]) -> Discovery:
        self.registry.peers = set(peers)
        self.registry.save()
        return RegistryDiscovery(self.registry.port)

    async def discovery_that_cannot_know(self) -> Discovery:
        await self.registry.kill()
        return RegistryDiscovery(self.registry.port)


async def test_what_is_leaving_is_said(registry: Registry) -> None:
    stays, goes = Peer("127.0.0.1", 1), Peer("127.0.0.1", 2)
    registry.peers, registry.leaving = {stays, goes}, {goes}
    registry.save()
    snapshot = await RegistryDiscovery(registry.port).peers()
    assert snapshot.peers == {stays, goes}
    assert snapshot.leaving == {goes}


async def test_a_registry_that_hangs_is_an_error_within_the_deadline(registry: Registry) -> None:
    registry.signal(signal.SIGSTOP)
    with pytest.raises(DiscoveryError, match=r"no answer in 0\.1 s"):
        await RegistryDiscovery(registry.port, timeout=0.1).peers()
    registry.signal(signal.SIGCONT)


async def test_an_answer_that_is_none_is_an_error(registry: Registry) -> None:
    registry._file.write_text('{"peers": ["nonsense:port"], "leaving": []}')
    with pytest.raises(DiscoveryError, match="nonsense:port"):
        await RegistryDiscovery(registry.port).peers()
    registry._file.write_text("[]")
    with pytest.raises(DiscoveryError):
        await RegistryDiscovery(registry.port).peers()
