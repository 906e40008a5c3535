"""Mutual TLS between scheduler and agent, from the same settings as Dask's own."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trustme
from distributed import Client
from distributed.security import Security

from gc_bootstrap.dist import Owner
from gc_bootstrap.errors import DistError
from gc_bootstrap.scheduler.dask import DaskDist
from gc_bootstrap.stake import Holder, Stake
from tests.integration.harness import COOKIE, agent_here, request, scheduler_here, until


class Certificates:
    """A cluster's CA, one certificate for all roles, and another cluster's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        authority = trustme.CA()
        authority.cert_pem.write_to_path(folder / "ca.pem")
        issued = authority.issue_cert("127.0.0.1", "localhost")
        issued.private_key_and_cert_chain_pem.write_to_path(folder / "cert.pem")

    @property
    def options(self) -> list[str]:
        ca, cert = str(self.folder / "ca.pem"), str(self.folder / "cert.pem")
        return ["--tls-ca-file", ca, "--tls-cert", cert, "--tls-key", cert]

    @property
    def security(self) -> Security:
        ca, cert = str(self.folder / "ca.pem"), str(self.folder / "cert.pem")
        roles = ("client", "scheduler", "worker")
        pairs = {f"tls_{role}_{what}": cert for role in roles for what in ("cert", "key")}
        return Security(require_encryption=True, tls_ca_file=ca, **pairs)

    def context(self, *, certificate: bool) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.folder / "ca.pem"))
        if certificate:
            context.load_cert_chain(self.folder / "cert.pem")
        return context


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("tls") / "ours")


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("tls") / "theirs")


async def test_a_cluster_forms_over_tls(certificates: Certificates) -> None:
    async with (
        scheduler_here(host="tls://127.0.0.1", security=certificates.security) as scheduler,
        agent_here(*certificates.options) as agent,
    ):
        dist = DaskDist.for_scheduler(Owner(scheduler))
        await dist.start()
        assert await dist.connect(agent.peer)
        (worker,) = scheduler.workers
        assert worker.startswith("tls://")
        async with Client(
            scheduler.address, security=certificates.security, asynchronous=True
        ) as client:
            assert await client.submit(sum, [1, 2]) == 3
        await dist.close()


async def test_probes_need_no_certificate_and_v1_does(certificates: Certificates) -> None:
    async with agent_here(*certificates.options) as agent:
        without = certificates.context(certificate=False)
        for path in ("/healthz", "/readyz", "/metrics"):
            assert (await request(agent.peer, "GET", path, tls=without))[0] == 200
        status, answer = await request(agent.peer, "GET", "/v1/status", tls=without)
        assert (status, answer["error"].split(";")[0]) == (403, "no client certificate")
        having = certificates.context(certificate=True)
        assert (await request(agent.peer, "GET", "/v1/status", tls=having))[0] == 200


async def test_with_a_cookie_both_are_needed(certificates: Certificates) -> None:
    async with agent_here(*certificates.options, cookie=COOKIE) as agent:
        tls = certificates.context(certificate=True)
        assert (await request(agent.peer, "GET", "/v1/status", tls=tls))[0] == 401
        assert (await request(agent.peer, "GET", "/v1/status", tls=tls, cookie=COOKIE))[0] == 200


async def test_a_scheduler_of_another_ca_is_refused_and_says_why(
    certificates: Certificates, foreign: Certificates
) -> None:
    async with (
        scheduler_here(host="tls://127.0.0.1", security=foreign.security) as scheduler,
        agent_here(*certificates.options) as agent,
    ):
        dist = DaskDist.for_scheduler(Owner(scheduler))
        await dist.start()
        with pytest.raises(DistError, match="certificate"):
            await dist.connect(agent.peer)
        assert agent.agent.state == "idle"
        await dist.close()


async def test_tls_on_one_side_only_is_said(certificates: Certificates) -> None:
    async with (
        scheduler_here() as plain,
        scheduler_here(host="tls://127.0.0.1", security=certificates.security) as secure,
        agent_here(*certificates.options) as tls_agent,
        agent_here() as plain_agent,
    ):
        for scheduler, agent in ((plain, tls_agent), (secure, plain_agent)):
            dist = DaskDist.for_scheduler(Owner(scheduler))
            await dist.start()
            with pytest.raises(DistError, match="TLS"):
                await dist.connect(agent.peer)
            await dist.close()


async def test_claims_and_what_has_become_free_are_told_over_tls(
    certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        scheduler_here(host="tls://127.0.0.1", security=certificates.security) as first,
        scheduler_here(host="tls://127.0.0.1", security=certificates.security) as second,
        agent_here(*certificates.options) as agent,
    ):
        ours, theirs = (DaskDist.for_scheduler(Owner(scheduler)) for scheduler in (first, second))
        for dist in (ours, theirs):
            await dist.start()
        assert await ours.connect(agent.peer)
        ours.tell(Stake(1))
        outcome = await theirs.claim(agent.peer, Stake(), 1)
        assert outcome.holder == Holder(first.address, first.id, Stake(1))
        (claim,) = ours.claims()
        assert claim.scheduler.startswith("tls://")
        assert await ours.abandon(agent.peer)
        assert await until(theirs.freed, "it is told") == {agent.peer}
        for dist in (ours, theirs):
            await dist.close()
    assert "TLS handshake failed" not in caplog.text
