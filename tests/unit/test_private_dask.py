"""What is private or undocumented in Dask stands behind two walls, and is there.

A failure names what a Dask lacks, since when Dask had it, and which feature of ours breaks.
"""

from __future__ import annotations

import ast
from collections.abc import AsyncIterator, Callable, Iterator
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import pytest
from distributed import Nanny, Scheduler, Worker
from distributed.active_memory_manager import ActiveMemoryManagerExtension
from distributed.deploy.cluster import Cluster
from distributed.nanny import WorkerProcess
from distributed.scheduler import WorkerState

import gc_bootstrap
from gc_bootstrap.agent import _dask as agent_side
from gc_bootstrap.cluster import _dask as cluster_side
from gc_bootstrap.scheduler import _dask as scheduler_side

SIDES = (agent_side.NEEDS, scheduler_side.NEEDS, cluster_side.NEEDS)
NEEDS = sorted({need for side in SIDES for need in side})
PACKAGE = Path(gc_bootstrap.__file__).parent

DOCUMENTED = {
    "distributed": {"Client", "Future", "Nanny", "Scheduler", "Worker"},
    "distributed.active_memory_manager": {
        "ActiveMemoryManagerExtension",
        "ActiveMemoryManagerPolicy",
        "RetireWorker",
        "Suggestion",
        "SuggestionGenerator",
    },
    "distributed.comm.addressing": {"parse_address"},
    "distributed.comm.core": {"connect"},
    "distributed.core": {"Server", "rpc"},
    "distributed.diagnostics.plugin": {"SchedulerPlugin", "WorkerPlugin"},
    "distributed.scheduler": {"TaskState", "WorkerState"},
    "distributed.security": {"Security"},
}
"""What Dask's own pages list, of all that is imported outside the walls."""


@pytest.fixture
async def instances() -> AsyncIterator[dict[str, object]]:
    """Objects of the classes whose names are made by their constructors."""
    async with Scheduler(host="127.0.0.1", port=0, dashboard_address=":0") as scheduler:
        worker = Worker(scheduler.address, nthreads=1)
        cluster = Cluster(asynchronous=True)
        nanny = Nanny(scheduler.address, nthreads=1)
        kind = "distributed.active_memory_manager:ActiveMemoryManagerExtension"
        yield {
            "distributed.scheduler:Scheduler": scheduler,
            "distributed.scheduler:WorkerState": _worker_state(scheduler),
            kind: ActiveMemoryManagerExtension(
                scheduler, policies=set(), register=False, start=False
            ),
            "distributed.deploy:Cluster": cluster,
            "distributed:Worker": worker,
            "distributed:Nanny": nanny,
            "distributed.core:ConnectionPool": worker.rpc,
            "distributed.nanny:WorkerProcess": _worker_process(),
        }
        await worker.close()
        await cluster.close()
        await nanny.close()


def _worker_process() -> WorkerProcess:
    return WorkerProcess(
        worker_kwargs={}, silence_logs=None, on_exit=print, worker=Worker, env={}, config={},
        pre_spawn_env={},
    )  # fmt: skip


def _worker_state(scheduler: Scheduler) -> WorkerState:
    return WorkerState(
        address="tcp://a:1", status=agent_side.Status.running, pid=0, name="w", nthreads=1,
        memory_limit=0, local_directory="", nanny=None, server_id="w", scheduler=scheduler,
    )  # fmt: skip


async def test_this_dask_has_every_name_that_we_use(instances: dict[str, object]) -> None:
    missing = []
    for where, name, since, feature in NEEDS:
        module, _, attribute = where.partition(":")
        home: Any = import_module(module)
        home = getattr(home, attribute) if attribute else home
        declared = getattr(home, "__annotations__", {})  # those that only exist for a while
        if not (hasattr(home, name) or hasattr(instances.get(where), name) or name in declared):
            missing.append(f"{where}.{name} (since {since}): {feature}")
    version = metadata.version("distributed")
    assert not missing, f"distributed {version} lacks " + "; ".join(missing)


async def test_a_name_that_is_not_there_is_missed(instances: dict[str, object]) -> None:
    for where, known in instances.items():
        assert not hasattr(known, "no_such_name"), where


def test_every_need_says_since_when_and_what_for() -> None:
    for side in SIDES:
        assert len({(where, name) for where, name, _, _ in side}) == len(side)
    for where, name, since, feature in NEEDS:
        year, month, patch = map(int, since.split("."))
        assert (year, month, patch) >= (2, 0, 0)
        assert len(feature) > 5, (where, name)


def _imports(tree: ast.AST) -> Iterator[tuple[str, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            yield from ((node.module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)


def _of_dask(of: Callable[[Path], bool]) -> set[tuple[str, str, str]]:
    found = set()
    for path in PACKAGE.rglob("*.py"):
        if of(path):
            for module, name in _imports(ast.parse(path.read_text())):
                if module.partition(".")[0] == "distributed":
                    found.add((str(path.relative_to(PACKAGE)), module, name))
    return found


def test_outside_the_walls_only_documented_names_are_imported() -> None:
    strangers = {
        (file, module, name)
        for file, module, name in _of_dask(lambda path: path.name != "_dask.py")
        if name not in DOCUMENTED.get(module, ()) and (module, name) != ("distributed", "")
    }
    assert not strangers


def test_what_the_walls_import_is_documented_or_a_need() -> None:
    needed = {(where.partition(":")[0], name) for where, name, _, _ in NEEDS}
    needed |= {where.partition(":")[::2] for where, _, _, _ in NEEDS}
    needed |= {(module, name) for module, names in DOCUMENTED.items() for name in names}
    for file, module, name in _of_dask(lambda path: path.name == "_dask.py"):
        is_module = (f"{module}.{name}") in {where.partition(":")[0] for where, _, _, _ in NEEDS}
        assert (module, name) in needed or is_module, f"{file} imports {module}.{name}"
