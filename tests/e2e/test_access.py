"""A scheduler that follows a Service, while its access to a real API server goes and comes back."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from tests.e2e import scenarios
from tests.e2e.cluster import Cluster, Object
from tests.e2e.control_plane import ControlPlane
from tests.e2e.relay import Relay
from tests.integration.harness import Processes, SchedulerProcess, run_cli, until

pytestmark = pytest.mark.timeout(300)

DROPS_AT_ONCE = {
    f"DASK_GC_BOOTSTRAP__REMOVAL__{key}": value
    for key, value in (("POLICY", "drain"), ("AFTER", "1"), ("GRACE", "0s"))
} | {"DASK_GC_BOOTSTRAP__REMOVAL__PANIC_THRESHOLD": "1"}
"""Whoever is absent from a complete answer goes at once."""


class Follower:
    """A scheduler with the account of the README, of two agents of which the first is ready."""

    def __init__(self, cluster: Cluster, relay: Relay, folder: Path) -> None:
        self.cluster = cluster
        self._relay = relay
        self._folder = folder
        self.token = folder / "token"
        self.service = scenarios.Service(cluster, "endpointslices")
        self.objects = scenarios.documented(cluster)

    async def start(self, processes: Processes) -> None:
        """Make the account, with its right, and start the scheduler."""
        for kind in ("ServiceAccount", "Role", "RoleBinding"):
            await self.cluster.create(f"{kind.lower()}s", self.objects[kind])
        self.account: Object = await self.cluster.get("serviceaccounts", "dask-scheduler")
        self.token.write_text(await self.cluster.token_of("dask-scheduler"))
        self.first, self.second = await scenarios.agents(self.cluster, processes, 2)
        await self.service.ready(self.first)
        user = {"tokenFile": str(self.token)}
        config = self.cluster.config_of(self._folder, user, self._relay.port)
        cookie = processes.folder / "cookie"
        self.scheduler: SchedulerProcess = await processes.scheduler(
            scenarios.spec(self.cluster, config=config),
            *("--cookie-file", str(cookie)),
            environ=DROPS_AT_ONCE,
        )
        await self.scheduler.formed([self.first])

    async def says(self, *why: str) -> None:
        """Wait until `dask pool status` says for how long the answer has been old, and why."""

        async def said() -> bool:
            _, out, err = await run_cli("pool", "status", self.scheduler.address)
            assert err == ""
            lines = [line for line in out.splitlines() if re.match(r"incomplete for \d+ s: ", line)]
            return any(all(part in line for part in why) for line in lines)

        await until(said, f"status says {why}")

    async def knows_nothing_new(self) -> None:
        """A change that it cannot see: it drops nobody, and attaches nobody."""
        await self.cluster.delete("endpointslices", f"{scenarios.SERVICE}-{self.first.port}")
        await self.service.ready(self.second)
        enough = (await self.scheduler.status())["refreshes"] + 3

        async def looked() -> bool:
            return bool((await self.scheduler.status())["refreshes"] >= enough)

        await until(looked, "the pool has looked three times more")
        pool = await self.scheduler.status()
        assert list(pool["members"]) == [str(self.first)]
        assert (pool["complete"], pool["error"]) == (False, None)

    async def catches_up(self) -> None:
        """What has happened in the meantime is done at once."""
        await self.scheduler.formed([self.second])
        pool = await self.scheduler.status()
        assert (pool["complete"], pool["incomplete"], pool["incomplete-for"]) == (True, None, None)


@pytest.fixture
async def follower(
    cluster: Cluster, relay: Relay, processes: Processes, tmp_path: Path
) -> Follower:
    follower = Follower(cluster, relay, tmp_path)
    await follower.start(processes)
    return follower


async def test_a_role_that_is_taken_away_is_said_and_one_given_back_is_used(
    follower: Follower, cluster: Cluster, relay: Relay
) -> None:
    await cluster.delete("rolebindings", "dask-scheduler")
    await relay.cut()  # the API server itself would go on with the watch
    await follower.says(
        f"list endpointslices in namespace {cluster.namespace}: 403 Forbidden"
        f" for system:serviceaccount:{cluster.namespace}:dask-scheduler",
        "no Role or RoleBinding that gives it the rule",
    )
    await follower.knows_nothing_new()
    await cluster.create("rolebindings", follower.objects["RoleBinding"])
    await follower.catches_up()


async def test_a_token_that_expires_is_said_and_a_renewed_one_is_used(
    follower: Follower, cluster: Cluster, own: ControlPlane, relay: Relay
) -> None:
    good, ends = follower.token.read_text(), time.time() + 1
    follower.token.write_text(own.token(cluster.namespace, follower.account, ends))
    await until(lambda: time.time() > ends + 1, "the token has expired")
    await relay.cut()  # the API server itself would go on with the watch
    await follower.says(
        f"list endpointslices in namespace {cluster.namespace}: 401 Unauthorized",
        "the API server does not accept the",
    )
    await follower.knows_nothing_new()
    follower.token.write_text(good)
    await follower.catches_up()


async def test_a_token_of_the_tests_own_is_good_until_it_expires(
    cluster: Cluster, own: ControlPlane, tmp_path: Path
) -> None:
    account = await cluster.get("serviceaccounts", "default")
    for seconds, status in ((60, "403 Forbidden"), (-1, "401 Unauthorized")):
        token = own.token(cluster.namespace, account, time.time() + seconds)
        config = cluster.config_of(tmp_path, {"token": token})
        assert status in await scenarios.error_of(scenarios.spec(cluster, config=config))
