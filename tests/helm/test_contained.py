"""Rendered pods as a container runtime runs them: read-only, without capabilities, with limits."""

from __future__ import annotations

import asyncio
import errno
import sys
import tempfile
from pathlib import Path
from unittest.mock import patch

import pytest
from distributed import Client

from gc_bootstrap.cli.processes import ProcessGroup
from tests.helm.chart import Values, render
from tests.helm.pods import Machine
from tests.helm.test_cluster import RELEASE, SCHEDULER, publish
from tests.kube import NAMESPACE, KubeApi, kubeconfig, serving
from tests.require import require

pytestmark = pytest.mark.timeout(150)

# The container's cgroup as its own processes see it; https://docs.kernel.org/admin-guide/cgroup-v2.html
CONTAINER = """#!/bin/sh
exec unshare --mount --cgroup --propagation private sh -ec '
    mount --bind "$0" "$0"
    mount -t tmpfs tmpfs /sys/fs/cgroup
    echo "50000 100000" > /sys/fs/cgroup/cpu.max
    echo 1073741824 > /sys/fs/cgroup/memory.max
    for point in / /tmp /var /root /home; do
        if mountpoint -q $point; then mount -o remount,bind,ro $point; fi
    done
    exec setpriv --no-new-privs --bounding-set=-all "$@"' {folder} {python} "$@"
"""
LIMITS: Values = {"limits": {"cpu": "500m", "memory": "1Gi"}}


async def _namespaces() -> bool:
    command = "unshare --mount --cgroup --propagation private mount -t tmpfs tmpfs /sys/fs/cgroup"
    probe = await asyncio.create_subprocess_exec(
        *command.split(), stderr=asyncio.subprocess.DEVNULL
    )
    return await probe.wait() == 0


def _write(folder: str | None) -> int | None:
    """Write a file; the number of the error."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            file.write(b"x")
    except OSError as exc:
        return exc.errno
    return None


async def test_pods_run_read_only_and_workers_follow_the_containers_limits(tmp_path: Path) -> None:
    require("mountns", found=await _namespaces())
    values: Values = {"pools": {"default": {"replicas": 1, "resources": LIMITS}}}
    objects = render(values, namespace=NAMESPACE)
    api = KubeApi()
    async with serving(api) as url:
        config = await asyncio.to_thread(kubeconfig, tmp_path, url)
        async with Machine(objects, tmp_path, KUBECONFIG=str(config)) as machine:
            runtime = tmp_path / "runtime.sh"
            runtime.write_text(CONTAINER.format(folder=machine.folder, python=sys.executable))
            runtime.chmod(0o755)
            machine.kind = ProcessGroup
            with patch("gc_bootstrap.cli.processes.sys.executable", str(runtime)):
                await machine.start(f"{RELEASE}-default")
                publish(api, machine)
                await machine.start(SCHEDULER)
            code, out = await machine.run(f"{RELEASE}-test")
            assert code == 0, out
            address = machine.scheduler(SCHEDULER).address
            async with Client(address, asynchronous=True) as client:
                assert await client.submit(_write, None) is None
                assert await client.submit(_write, str(tmp_path)) == errno.EROFS
                found = await client.scheduler.identity(n_workers=-1)
            (worker,) = found["workers"].values()
            # Half a CPU is one thread, as in the arguments that are not there.
            assert (worker["nthreads"], worker["memory_limit"]) == (1, 2**30)
            assert worker["local_directory"].startswith(machine.folder)
