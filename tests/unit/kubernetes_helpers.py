"""What the tests of the discovery `kubernetes` share."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gc_bootstrap.discovery.kubernetes import (
    KubernetesDiscovery,
    api,
    credentials,
    discovery,
    reflector,
)
from gc_bootstrap.errors import DiscoveryError
from gc_bootstrap.peer import Peer, Snapshot
from tests.kube import SERVICE, KubeApi, kubeconfig, serving

A, B, C = (Peer(f"10.0.0.{n}", 8791) for n in (1, 2, 3))


def make_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deadlines and backoffs of tests, not of people."""
    for module, name, seconds in [
        (reflector, "BACKOFF", 0.02),
        (reflector, "BACKOFF_MOST", 0.1),
        (reflector, "BACKOFF_LASTING", 0.1),
        (api, "SILENCE", 30.0),
        (discovery, "FIRST_LIST", 2.0),
    ]:
        monkeypatch.setattr(module, name, seconds)


def isolate(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no credentials in from outside."""
    for name in list(os.environ):
        if name.startswith("KUBE") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(folder / "home"))
    monkeypatch.setattr(credentials, "SERVICE_ACCOUNT", folder / "nothing")
    monkeypatch.setattr(discovery, "FIRST_LIST", 3.0)


@asynccontextmanager
async def following(kube: KubeApi, folder: Path, **options: Any) -> AsyncIterator[Any]:
    """A started discovery on a server that is up."""
    async with serving(kube) as url:
        options = {"service": SERVICE, **options}
        found = KubernetesDiscovery(kubeconfig=str(kubeconfig(folder, url)), **options)
        try:
            await found.start()
            yield found
        finally:
            await found.close()


async def becomes(found: KubernetesDiscovery, wanted: Callable[[Snapshot], bool]) -> Snapshot:
    """Wait for an answer through hints alone, as a pool does."""
    async with asyncio.timeout(10):
        while not wanted(snapshot := await found.peers()):
            await found.changed()
        return snapshot


def watching(kube: KubeApi) -> Callable[[], object]:
    """Whether a watch is open."""
    return lambda: kube.watchers


async def ask(**options: Any) -> Snapshot:
    """Ask once, and close."""
    found = KubernetesDiscovery(SERVICE, **options)
    try:
        await found.start()
        return await found.peers()
    finally:
        await found.close()


async def error_of(**options: Any) -> str:
    """The one line that is said when it is asked once."""
    with pytest.raises(DiscoveryError) as caught:
        await ask(**options)
    assert "\n" not in str(caught.value)
    return str(caught.value)
