"""The discovery `dns` against a real name server: its answers, its moods, its absence."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gc_bootstrap.discovery import Discovery
from gc_bootstrap.discovery.dns import DnsDiscovery
from gc_bootstrap.discovery.dns.peers import LABEL
from gc_bootstrap.discovery.dns.resolver import SystemResolver
from gc_bootstrap.errors import DiscoveryError
from gc_bootstrap.peer import Peer, Snapshot
from gc_bootstrap.testing import DiscoveryContract
from tests.integration.harness import run_cli
from tests.integration.knot import Knot
from tests.require import require

ZONE = "workers.test"
REVERSE = "0.0.10.in-addr.arpa"
EMPTY = "never.test"  # configured and never written: SERVFAIL


@pytest.fixture
async def knot(tmp_path: Path) -> AsyncIterator[Knot]:
    async with Knot(tmp_path, [ZONE, REVERSE, EMPTY]) as knot:
        yield knot


async def ask(knot: Knot, name: str, **options: Any) -> Snapshot:
    """What a new discovery says about a name, absolute if it ends with a dot."""
    discovery = DnsDiscovery(name, nameservers=knot.server, **options)
    await discovery.start()
    try:
        return await discovery.peers()
    finally:
        await discovery.close()


async def peers(knot: Knot, name: str, **options: Any) -> set[str]:
    """As :func:`ask`, of an answer that is complete."""
    snapshot = await ask(knot, name, **options)
    assert snapshot.complete
    return {str(peer) for peer in snapshot.peers}


async def error(knot: Knot, name: str, **options: Any) -> str:
    """What a look-up fails with."""
    with pytest.raises(DiscoveryError) as caught:
        await ask(knot, name, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


async def test_every_kind_of_record(knot: Knot) -> None:
    await knot.write(
        ZONE,
        *("cpu A 10.0.0.5", "cpu A 10.0.0.6", "cpu AAAA fd00::5"),
        *("_dask._tcp SRV 0 0 9000 cpu", "_dask._tcp SRV 0 0 9001 elsewhere.test."),
        *("alias CNAME other", "other CNAME cpu", "*.wild A 10.0.0.7"),
    )
    v4 = {"10.0.0.5:8791", "10.0.0.6:8791"}
    assert await peers(knot, f"cpu.{ZONE}.") == v4
    assert await peers(knot, "CPU.Workers.Test.", port=9000) == {"10.0.0.5:9000", "10.0.0.6:9000"}
    assert await peers(knot, f"cpu.{ZONE}.", ipv6=True) == {"[fd00::5]:8791"}
    assert await peers(knot, f"cpu.{ZONE}.", ipv6="both") == {*v4, "[fd00::5]:8791"}
    assert await peers(knot, f"alias.{ZONE}.") == v4
    for host in ("a", "b.c"):
        assert await peers(knot, f"{host}.wild.{ZONE}.") == {"10.0.0.7:8791"}
    srv = f"_dask._tcp.{ZONE}."
    assert await peers(knot, srv, record_type="srv") == {
        "cpu.workers.test:9000",
        "elsewhere.test:9001",
    }
    part = await ask(knot, srv, record_type="srv", host_type="ip", ipv6="both")
    assert not part.complete, "Knot refuses to speak about elsewhere.test"
    assert {*map(str, part.peers)} == {"10.0.0.5:9000", "10.0.0.6:9000", "[fd00::5]:9000"}
    assert part.labels[Peer("10.0.0.5", 9000)][LABEL] == (
        "_dask._tcp.workers.test. SRV 0 0 9000 cpu.workers.test.; cpu.workers.test. A 10.0.0.5"
    )


async def test_no_such_name_and_no_such_records_are_really_no_peers(knot: Knot) -> None:
    await knot.write(ZONE, "cpu A 10.0.0.5")
    assert await peers(knot, f"gpu.{ZONE}.") == set()
    assert await peers(knot, f"cpu.{ZONE}.", ipv6=True) == set()
    assert await peers(knot, f"cpu.{ZONE}.", record_type="srv") == set()


async def test_servfail_and_refused_are_errors_that_say_who_answered_what(knot: Knot) -> None:
    assert await error(knot, f"cpu.{EMPTY}.") == (
        f"cpu.{EMPTY}. A: {knot.server} answered SERVFAIL"
    )
    assert await error(knot, "cpu.other.test.", record_type="srv") == (
        f"cpu.other.test. SRV: {knot.server} answered REFUSED"
    )


async def test_aliases_that_lead_nowhere(knot: Knot) -> None:
    await knot.write(ZONE, "a CNAME b", "b CNAME a", "out CNAME cpu.other.test.", "gone CNAME nope")
    assert "a loop of aliases: a.workers.test. CNAME b" in await error(knot, f"a.{ZONE}.")
    assert "cpu.other.test. A" in (refused := await error(knot, f"out.{ZONE}."))
    assert "answered REFUSED" in refused
    assert await peers(knot, f"gone.{ZONE}.") == set()


async def test_an_answer_that_does_not_fit_udp_is_whole(knot: Knot) -> None:
    hosts = [f"10.1.{i >> 8}.{i & 255}" for i in range(3000)]
    await knot.write(
        ZONE,
        *(f"big A {host}" for host in hosts),
        *(f"_big SRV 0 0 {9000 + i} node-{i}" for i in range(1000)),
    )
    assert await peers(knot, f"big.{ZONE}.") == {f"{host}:8791" for host in hosts}
    assert await peers(knot, f"_big.{ZONE}.", record_type="srv") == {
        f"node-{i}.workers.test:{9000 + i}" for i in range(1000)
    }


async def test_addresses_of_many_targets_and_names_of_many_addresses(knot: Knot) -> None:
    numbers = range(1, 201)
    await knot.write(
        ZONE,
        *(f"_many SRV 0 0 9000 node-{n}" for n in numbers),
        *(f"node-{n} A 10.0.0.{n}" for n in numbers),
        *(f"many A 10.0.0.{n}" for n in numbers),
    )
    assert await peers(knot, f"_many.{ZONE}.", record_type="srv", host_type="ip") == {
        f"10.0.0.{n}:9000" for n in numbers
    }
    await knot.write(REVERSE, *(f"{n} PTR node-{n}.{ZONE}." for n in numbers if n % 2))
    names = await ask(knot, f"many.{ZONE}.", host_type="hostname")
    assert not names.complete
    assert {*map(str, names.peers)} == {f"node-{n}.workers.test:8791" for n in numbers if n % 2}
    await knot.write(REVERSE)
    assert "none of 200 addresses of many.workers.test. could be resolved" in await error(
        knot, f"many.{ZONE}.", host_type="hostname"
    )


async def test_a_zone_that_changes_is_followed_at_once(knot: Knot) -> None:
    discovery = DnsDiscovery(f"cpu.{ZONE}.", nameservers=knot.server)
    for hosts in (["10.0.0.5"], ["10.0.0.5", "10.0.0.6"], [], ["10.0.0.7"]):
        await knot.write(ZONE, *(f"cpu A {host}" for host in hosts))
        snapshot = await discovery.peers()
        assert {peer.host for peer in snapshot.peers} == set(hosts)
        assert snapshot.complete
    await discovery.close()


async def test_a_cached_answer_hides_a_change_until_its_ttl_is_over(knot: Knot) -> None:
    discovery = DnsDiscovery(f"cpu.{ZONE}.", nameservers=knot.server, cache=True)
    await knot.write(ZONE, "cpu 3600 A 10.0.0.5")
    before = await discovery.peers()
    await knot.write(ZONE, "cpu 3600 A 10.0.0.6")
    assert await discovery.peers() is before
    await discovery.close()


async def test_a_server_that_stops_answering_is_an_error_until_it_comes_back(knot: Knot) -> None:
    await knot.write(ZONE, "cpu A 10.0.0.5")
    discovery = DnsDiscovery(f"cpu.{ZONE}.", nameservers=knot.server, lookup_timeout="400ms")
    before = await discovery.peers()
    await knot.freeze()
    with pytest.raises(DiscoveryError, match=r"127.0.0.1:\d+ did not answer in time"):
        await discovery.peers()
    knot.thaw()
    await discovery.peers()
    await knot.stop()
    with pytest.raises(
        DiscoveryError, match=r"127.0.0.1:\d+ cannot be reached: Connection refused"
    ):
        await discovery.peers()
    await knot.start()
    assert await discovery.peers() == before
    await discovery.close()


async def test_the_lookup_timeout_bounds_the_whole_look_up(knot: Knot) -> None:
    """A thousand targets at a server that falls silent: one timeout, not a thousand."""
    await knot.write(ZONE, *(f"_many SRV 0 0 9000 node-{n}.other.test." for n in range(1000)))

    class Fragile(SystemResolver):
        async def begin(self, timeout: float) -> Any:
            lookup = await super().begin(timeout)
            find = lookup.find

            async def find_and_freeze(*arguments: Any) -> Any:
                found = await find(*arguments)
                await knot.freeze()
                return found

            setattr(lookup, "find", find_and_freeze)  # noqa: B010 - a protocol's method
            return lookup

    discovery = DnsDiscovery.using(
        f"_many.{ZONE}.",
        resolver=lambda offload, options: Fragile(offload, options.nameservers, search=False),
        nameservers=knot.server,
        record_type="srv",
        host_type="ip",
        lookup_timeout="1s",
    )
    async with asyncio.timeout(20):  # each name by itself would take half a second
        with pytest.raises(DiscoveryError, match="none of 1000 targets"):
            await discovery.peers()
    knot.thaw()
    await discovery.close()


async def test_the_second_server_answers_when_the_first_does_not(knot: Knot) -> None:
    await knot.write(ZONE, "cpu A 10.0.0.5")
    discovery = DnsDiscovery(f"cpu.{ZONE}.", nameservers=f"127.0.0.1:1,{knot.server}")
    assert {*map(str, (await discovery.peers()).peers)} == {"10.0.0.5:8791"}
    await discovery.close()


async def test_an_ipv6_only_server_with_ipv6_only_peers(tmp_path: Path) -> None:
    async with Knot(tmp_path, [ZONE], host="::1") as knot:
        hosts = [f"fd00::{n:x}" for n in range(1, 501)]
        await knot.write(ZONE, "cpu AAAA fd00::5", *(f"big AAAA {host}" for host in hosts))
        assert await peers(knot, f"cpu.{ZONE}.", ipv6=True) == {"[fd00::5]:8791"}
        assert await peers(knot, f"cpu.{ZONE}.") == set()
        assert await peers(knot, f"cpu.{ZONE}.", ipv6="both") == {"[fd00::5]:8791"}
        assert len(await peers(knot, f"big.{ZONE}.", ipv6=True)) == 500


async def test_the_search_list_of_the_system(knot: Knot, tmp_path: Path) -> None:
    await knot.write(ZONE, "cpu.prod A 10.0.0.5")
    conf = tmp_path / "resolv.conf"
    discovery = DnsDiscovery.using(
        "cpu.prod",
        resolver=lambda offload, options: SystemResolver(
            offload, options.nameservers, resolv_conf=conf
        ),
        nameservers=knot.server,
    )
    conf.write_text(f"search a.{ZONE} {ZONE}\noptions ndots:5\n")
    snapshot = await discovery.peers()
    assert snapshot.complete
    assert {*map(str, snapshot.peers)} == {"10.0.0.5:8791"}
    # Read again: now a name of the list cannot be asked for, and others do not exist.
    conf.write_text(f"search a.{ZONE} {EMPTY}\noptions ndots:5\n")
    os.utime(conf, ns=(0, 4711))
    with pytest.raises(DiscoveryError, match=r"cpu\.prod\.never\.test\. A: .* SERVFAIL"):
        await discovery.peers()
    await discovery.close()


IN_A_NAMESPACE = """
ip link set lo up
mount --bind {folder}/resolv.conf /etc/resolv.conf
knotd -c {folder}/inside.conf >{folder}/inside.log 2>&1 & knot=$!
until knotc -s {folder}/inside/knot.sock zone-status >/dev/null 2>&1; do sleep 0.05; done
for name in {names}; do
  echo "$name" $(getent hosts "$name" | awk '{{print $1}}' | sort -u)
done
{python} - {names} <<'PYTHON'
import asyncio, sys
from gc_bootstrap.discovery.dns import DnsDiscovery
from gc_bootstrap.errors import DiscoveryError

async def main():
    for name in sys.argv[1:]:
        discovery = DnsDiscovery(name)
        try:
            hosts = [peer.host for peer in (await discovery.peers()).peers]
        except DiscoveryError:
            hosts = []
        print(name, *sorted(hosts))
        await discovery.close()

asyncio.run(main())
PYTHON
kill $knot; wait
"""


async def test_names_mean_what_getent_makes_of_them(tmp_path: Path) -> None:
    """In a network namespace with a `resolv.conf` of its own, as in a pod: the system's own port,
    the system's own resolver beside ours."""
    require("knot", found=shutil.which("knotd"))
    probe = await asyncio.create_subprocess_exec(
        *("unshare", "-n", "-m", "true"), stderr=asyncio.subprocess.DEVNULL
    )
    require("netns", found=await probe.wait() == 0)
    (tmp_path / "inside").mkdir()
    zones = {
        "svc.test": ["web A 10.0.0.1", "web.prod A 10.0.0.2", "a.b.c A 10.0.0.3"],
        "prod.svc.test": ["web A 10.0.0.4", "api A 10.0.0.5", "api A 10.0.0.6"],
        "c": ["a.b A 10.0.0.7"],
    }
    conf = ["server:", "    listen: 127.0.0.1@53", f"    rundir: {tmp_path}/inside"]
    conf += ["database:", f"    storage: {tmp_path}/inside/db", "zone:"]
    for zone, records in zones.items():
        head = "$ORIGIN {0}.\n$TTL 1\n@ SOA ns h 1 10 10 10 1\n@ NS ns\nns A 127.0.0.1\n"
        (tmp_path / f"{zone}.zone").write_text(head.format(zone) + "\n".join(records) + "\n")
        conf += [f"  - domain: {zone}", f"    file: {tmp_path}/{zone}.zone"]
    (tmp_path / "inside.conf").write_text("\n".join(conf) + "\n")
    names = ["web", "api", "web.prod", "a.b.c", "a.b.c.", "web.svc.test", "api.prod", "web.prod."]
    for ndots in (1, 2, 5):
        (tmp_path / "resolv.conf").write_text(
            f"nameserver 127.0.0.1\nsearch prod.svc.test svc.test\noptions ndots:{ndots}\n"
        )
        script = IN_A_NAMESPACE.format(
            folder=tmp_path, names=" ".join(names), python=sys.executable
        )
        process = await asyncio.create_subprocess_exec(
            *("unshare", "-n", "-m", "bash", "-c", script),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(process.communicate(), 60)
        lines = out.decode().splitlines()
        theirs, ours = lines[: len(names)], lines[len(names) :]
        assert theirs == ours, (ndots, err.decode())
        found = {line.split()[0]: line.split()[1:] for line in ours}
        assert found["api"] == ["10.0.0.5", "10.0.0.6"]
        assert found["a.b.c"] == (["10.0.0.7"] if ndots < 3 else ["10.0.0.3"])
        assert found["a.b.c."] == ["10.0.0.7"]
        assert found["web.prod."] == []


async def test_the_command_prints_peers_and_their_records(knot: Knot) -> None:
    await knot.write(ZONE, "cpu A 10.0.0.5", "cpu AAAA fd00::5", "_cpu SRV 1 2 9000 cpu")
    spec = f"dns:cpu.{ZONE}?nameservers={knot.server}"
    code, out, err = await run_cli("pool", "peers", f"{spec}&ipv6=both")
    assert (code, err) == (0, "")
    for text in ("10.0.0.5:8791", "[fd00::5]:8791", "2 peers"):
        assert text in out
    assert "records=cpu.workers.test. A 10.0.0.5" in out
    assert "records=cpu.workers.test. AAAA fd00::5" in out
    code, out, _ = await run_cli(
        "pool", "peers", "--json", f"dns:_cpu.{ZONE}?nameservers={knot.server}&record-type=srv"
    )
    assert code == 0
    assert json.loads(out) == {
        "complete": True,
        "peers": [
            {
                "address": "cpu.workers.test:9000",
                "leaving": False,
                "labels": {"records": "_cpu.workers.test. SRV 1 2 9000 cpu.workers.test."},
            }
        ],
    }
    await knot.stop()
    code, out, err = await run_cli("pool", "peers", spec)
    assert (code, out) == (1, "")
    assert err == (
        f"Error: cpu.workers.test. A: {knot.server} cannot be reached: Connection refused\n"
    )


class TestDnsAgainstKnot(DiscoveryContract):
    @pytest.fixture(autouse=True)
    def _knot(self, knot: Knot) -> None:
        self.knot = knot

    async def discovery_of(self, peers: frozenset[Peer]) -> Discovery:
        records = [f"_dask._tcp SRV 0 0 {peer.port} local" for peer in peers]
        await self.knot.write(ZONE, "local A 127.0.0.1", *records)
        return DnsDiscovery(
            f"_dask._tcp.{ZONE}",
            record_type="srv",
            host_type="ip",
            nameservers=self.knot.server,
        )

    async def discovery_that_cannot_know(self) -> Discovery:
        return DnsDiscovery(f"cpu.{EMPTY}", nameservers=self.knot.server, lookup_timeout="1s")
