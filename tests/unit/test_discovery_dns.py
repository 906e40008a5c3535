"""The discovery `dns`, with resolvers of the tests' own: outcomes, options, what is remembered."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from ipaddress import IPv4Address
from typing import Any

import dns.name
import dns.rdatatype
import pytest
from dns.name import Name
from dns.rdatatype import RdataType
from hypothesis import given
from hypothesis import strategies as st

from gc_bootstrap.discovery import Discovery
from gc_bootstrap.discovery.dns import DnsDiscovery, discovery
from gc_bootstrap.discovery.dns.message import Record, Records
from gc_bootstrap.discovery.dns.peers import LABEL, Row, build
from gc_bootstrap.discovery.dns.resolver import Found, Lookup
from gc_bootstrap.errors import DiscoveryError
from gc_bootstrap.peer import Peer, Snapshot
from gc_bootstrap.testing import DiscoveryContract

NAME = "workers.test."
UNKNOWN = Found((), ("workers.test. A: 10.96.0.10:53 answered SERVFAIL",))


def found(*data: str, name: str = NAME, kind: str = "A", ttl: int = 30) -> Found:
    """Records of one name, as the resolver hands them out."""
    records = []
    for text in data:
        *_, host = text.split()
        port = int(text.split()[2]) if kind == "SRV" else 0
        records.append(Record(host, port, f"{name} {kind} {text}"))
    return Found((Records(tuple(records), ttl),))


class FakeResolver:
    """Answers what the test says; nothing, for what it does not."""

    def __init__(self, answers: dict[str, Found] | DiscoveryError) -> None:
        self.answers = answers
        self.asked: list[str] = []

    async def begin(self, timeout: float) -> Lookup:
        if isinstance(self.answers, DiscoveryError):
            raise self.answers
        return self

    async def find(self, name: Name, types: Sequence[RdataType]) -> Found:
        assert not isinstance(self.answers, DiscoveryError)
        one = Found()
        for kind in types:
            key = f"{name} {dns.rdatatype.to_text(kind)}"
            self.asked.append(key)
            more = self.answers.get(key, Found())
            one = Found(one.answers + more.answers, one.doubts + more.doubts)
        return one

    async def resolve(
        self, hosts: Collection[str], types: Sequence[RdataType], name_of: Callable[[str], Name]
    ) -> dict[str, Found]:
        return {host: await self.find(name_of(host), types) for host in hosts}


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Asked:
    """A discovery over a :class:`FakeResolver`, and its clock."""

    def __init__(self, discovery: DnsDiscovery, resolver: FakeResolver, clock: Clock) -> None:
        self.discovery, self.resolver, self.clock = discovery, resolver, clock

    async def peers(self, answers: dict[str, Found] | DiscoveryError | None = None) -> set[str]:
        """The addresses in a complete answer."""
        snapshot = await self.snapshot(answers)
        assert snapshot.complete
        return {str(peer) for peer in snapshot.peers}

    async def part(self, answers: dict[str, Found] | DiscoveryError | None = None) -> set[str]:
        """The addresses in an answer that is a part of the truth."""
        snapshot = await self.snapshot(answers)
        assert not snapshot.complete
        return {str(peer) for peer in snapshot.peers}

    async def snapshot(self, answers: dict[str, Found] | DiscoveryError | None = None) -> Snapshot:
        if answers is not None:
            self.resolver.answers = answers
        return await self.discovery.peers()


def asking(**options: Any) -> AbstractAsyncContextManager[Asked]:
    @asynccontextmanager
    async def context() -> Any:
        resolver, clock = FakeResolver({}), Clock()
        discovery = DnsDiscovery.using(NAME, resolver=lambda *_: resolver, clock=clock, **options)
        await discovery.start()
        yield Asked(discovery, resolver, clock)
        await discovery.close()

    return context()


async def snapshot_of(answers: dict[str, Found], **options: Any) -> Snapshot:
    async with asking(**options) as asked:
        return await asked.snapshot(answers)


def a(*addresses: str) -> dict[str, Found]:
    return {f"{NAME} A": found(*addresses)}


# -- the three outcomes --------------------------------------------------------------------------


async def test_records_are_the_peers() -> None:
    async with asking() as asked:
        assert await asked.peers(a("10.0.0.5", "10.0.0.6")) == {"10.0.0.5:8791", "10.0.0.6:8791"}


async def test_nothing_is_really_no_peers() -> None:
    async with asking() as asked:
        assert await asked.peers({}) == set()


async def test_error_is_not_an_empty_answer() -> None:
    async with asking() as asked:
        with pytest.raises(DiscoveryError, match="10.96.0.10:53 answered SERVFAIL"):  # noqa: RUF043
            await asked.peers({f"{NAME} A": UNKNOWN})
        with pytest.raises(DiscoveryError, match="nobody to ask"):
            await asked.peers(DiscoveryError("nobody to ask"))


async def test_a_part_of_the_truth_is_not_complete_and_says_why(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with asking(ipv6="both") as asked:
        answers = {f"{NAME} A": found("10.0.0.5"), f"{NAME} AAAA": UNKNOWN}
        for _ in range(3):
            assert await asked.part(answers) == {"10.0.0.5:8791"}
    (line,) = [record.message for record in caplog.records]
    assert line == f"dns:{NAME}: the answer is not complete: {UNKNOWN.doubts[0]}"
    assert (await snapshot_of(answers, ipv6="both")).reason == UNKNOWN.doubts[0]


async def test_a_server_with_partial_answers_is_why_they_are_not_complete() -> None:
    why = "partial: each answer of the server has only some of the records"
    assert (await snapshot_of(a("10.0.0.5"), partial=True)).reason == why
    both = {f"{NAME} A": found("10.0.0.5"), f"{NAME} AAAA": UNKNOWN}
    reason = (await snapshot_of(both, partial=True, ipv6="both")).reason
    assert reason == f"{why}; {UNKNOWN.doubts[0]}"


# -- addresses -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ipv6", "expected"),
    [
        (False, {"10.0.0.5:9000"}),
        (True, {"[fd00::5]:9000"}),
        ("both", {"10.0.0.5:9000", "[fd00::5]:9000"}),
    ],
)
async def test_ipv6_chooses_the_records(ipv6: bool | str, expected: set[str]) -> None:
    async with asking(ipv6=ipv6, port=9000) as asked:
        answers = {f"{NAME} A": found("10.0.0.5"), f"{NAME} AAAA": found("fd00::5", kind="AAAA")}
        assert await asked.peers(answers) == expected


async def test_labels_have_the_records() -> None:
    async with asking() as asked:
        chain = Records(found("10.0.0.5").answers[0].records, 30, ("w.test. CNAME workers.test.",))
        snapshot = await asked.snapshot({f"{NAME} A": Found((chain,))})
        assert snapshot.labels == {
            Peer("10.0.0.5"): {LABEL: "w.test. CNAME workers.test.; workers.test. A 10.0.0.5"}
        }


@pytest.mark.parametrize("address", ["0.0.0.0", "255.255.255.255", "224.0.0.1"])
async def test_nobodys_addresses_are_skipped_with_one_log_line(
    address: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with asking() as asked:
        for _ in range(3):
            assert await asked.peers(a(address, "10.0.0.5")) == {"10.0.0.5:8791"}
    (line,) = [record.message for record in caplog.records]
    assert f"workers.test. A {address}: {address} is nobody's address" in line


async def test_a_reverse_look_up_names_the_peers() -> None:
    async with asking(host_type="hostname") as asked:
        answers = a("10.0.0.5", "10.0.0.6") | {
            "5.0.0.10.in-addr.arpa. PTR": found("node-5.test.", kind="PTR"),
            "6.0.0.10.in-addr.arpa. PTR": found("z.test.", "node-6.test.", kind="PTR"),
        }
        assert await asked.peers(answers) == {"node-5.test:8791", "node-6.test:8791"}
        snapshot = await asked.snapshot()
        assert snapshot.labels[Peer("node-5.test")][LABEL].startswith("workers.test. A 10.0.0.5; ")


@pytest.mark.parametrize("missing", [UNKNOWN, Found()])
async def test_an_address_without_a_name_makes_the_answer_a_part(missing: Found) -> None:
    async with asking(host_type="hostname") as asked:
        answers = a("10.0.0.5", "10.0.0.6") | {
            "5.0.0.10.in-addr.arpa. PTR": found("node-5.test.", kind="PTR"),
            "6.0.0.10.in-addr.arpa. PTR": missing,
        }
        assert await asked.part(answers) == {"node-5.test:8791"}


@pytest.mark.parametrize("missing", [UNKNOWN, Found()])
async def test_addresses_of_which_none_has_a_name_are_an_error(missing: Found) -> None:
    async with asking(host_type="hostname") as asked:
        answers = a("10.0.0.5") | {"5.0.0.10.in-addr.arpa. PTR": missing}
        with pytest.raises(DiscoveryError, match="none of 1 addresses"):
            await asked.peers(answers)


# -- services ------------------------------------------------------------------------------------


def srv(*data: str, **hosts: Found) -> dict[str, Found]:
    return {f"{NAME} SRV": found(*data, kind="SRV")} | {
        f"{host}.test. A": answer for host, answer in hosts.items()
    }


async def test_services_keep_their_targets_names_and_ports() -> None:
    async with asking(record_type="srv") as asked:
        answers = srv("0 0 9000 node-1.test.", "10 5 9001 Node-2.test.")
        assert await asked.peers(answers) == {"node-1.test:9000", "node-2.test:9001"}
        assert asked.resolver.asked == [f"{NAME} SRV"]


async def test_targets_are_resolved_when_addresses_are_wanted() -> None:
    async with asking(record_type="srv", host_type="ip") as asked:
        answers = srv("0 0 9000 n.test.", "0 0 9001 n.test.", n=found("10.0.0.5", "10.0.0.6"))
        assert await asked.peers(answers) == {
            f"10.0.0.{n}:{port}" for n in (5, 6) for port in (9000, 9001)
        }
        assert asked.resolver.asked == [f"{NAME} SRV", "n.test. A"]


@pytest.mark.parametrize("missing", [UNKNOWN, Found()])
async def test_targets_that_resolve_in_part_are_a_part_of_the_truth(missing: Found) -> None:
    async with asking(record_type="srv", host_type="ip") as asked:
        answers = srv("0 0 1 m.test.", "0 0 2 n.test.", m=missing, n=found("10.0.0.5"))
        assert await asked.part(answers) == {"10.0.0.5:2"}


@pytest.mark.parametrize("missing", [UNKNOWN, Found()])
async def test_targets_of_which_none_resolves_are_an_error(missing: Found) -> None:
    async with asking(record_type="srv", host_type="ip") as asked:
        with pytest.raises(DiscoveryError, match="none of 1 targets of workers"):
            await asked.peers(srv("0 0 1 m.test.", m=missing))


@pytest.mark.parametrize("host_type", ["ip", "hostname"])
async def test_services_that_cannot_be_peers_are_skipped_with_a_log_line(
    host_type: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with asking(record_type="srv", host_type=host_type) as asked:
        good = srv("0 0 0 zero.test.", "0 0 80 .", "0 0 9000 n.test.", n=found("10.0.0.5"))
        expected = {"10.0.0.5:9000" if host_type == "ip" else "n.test:9000"}
        assert await asked.peers(good) == expected
    (line,) = [record.message for record in caplog.records]
    assert "SRV 0 0 0 zero.test.: port 0 is none" in line
    assert "SRV 0 0 80 .: the target says that there is no such service" in line


async def test_a_target_that_is_no_host_name_is_skipped(caplog: pytest.LogCaptureFixture) -> None:
    async with asking(record_type="srv") as asked:
        answers = srv("0 0 80 a\\032b.test.", "0 0 9000 n.test.")
        assert await asked.peers(answers) == {"n.test:9000"}
    assert "neither an IP address nor a DNS name" in caplog.text


async def test_a_service_that_is_not_offered_has_no_peers() -> None:
    """RFC 2782: a single record with the target "."."""
    async with asking(record_type="srv") as asked:
        assert await asked.peers(srv("0 0 0 .")) == set()


# -- partial answers -----------------------------------------------------------------------------


async def test_partial_answers_add_peers_and_prove_no_absence() -> None:
    async with asking(partial=True, partial_ttl="60s") as asked:
        assert await asked.part(a("10.0.0.5")) == {"10.0.0.5:8791"}
        asked.clock.now += 30
        assert await asked.part(a("10.0.0.6")) == {"10.0.0.5:8791", "10.0.0.6:8791"}
        asked.clock.now += 29
        assert await asked.part({}) == {"10.0.0.5:8791", "10.0.0.6:8791"}
        asked.clock.now += 1
        assert await asked.part(a("10.0.0.7")) == {"10.0.0.6:8791", "10.0.0.7:8791"}
        snapshot = await asked.snapshot()
        assert snapshot.labels.keys() == snapshot.peers


async def test_an_error_makes_nobody_forgotten() -> None:
    async with asking(partial=True, partial_ttl="60s") as asked:
        await asked.part(a("10.0.0.5"))
        with pytest.raises(DiscoveryError):
            await asked.part({f"{NAME} A": UNKNOWN})
        asked.clock.now += 59
        assert await asked.part({}) == {"10.0.0.5:8791"}


async def test_of_too_many_partial_answers_the_newest_are_remembered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(discovery, "MOST_REMEMBERED", 3)
    async with asking(partial=True) as asked:
        await asked.part(a("10.0.0.1", "10.0.0.2"))
        await asked.part(a("10.0.0.3"))
        await asked.part(a("10.0.0.1"))  # named again: not the oldest any more
        found = await asked.part(a("10.0.0.4"))
        assert found == {"10.0.0.1:8791", "10.0.0.3:8791", "10.0.0.4:8791"}
        many = [f"10.0.0.{n}" for n in range(5, 10)]
        assert await asked.part(a(*many)) == {f"{address}:8791" for address in many}


@given(st.lists(st.tuples(st.floats(0, 50), st.sets(st.integers(1, 9), max_size=4)), max_size=20))
def test_a_peer_is_remembered_exactly_for_its_time(looks: list[tuple[float, set[int]]]) -> None:
    async def main() -> None:
        seen: dict[str, float] = {}
        async with asking(partial=True, partial_ttl="60s") as asked:
            for passed, hosts in looks:
                asked.clock.now += passed
                addresses = [f"10.0.0.{n}" for n in hosts]
                seen |= {f"{address}:8791": asked.clock.now for address in addresses}
                expected = {p for p, at in seen.items() if asked.clock.now < at + 60}
                assert await asked.part(a(*addresses) if addresses else {}) == expected

    asyncio.run(main())


# -- asking, and not asking ----------------------------------------------------------------------


async def test_every_look_asks() -> None:
    async with asking() as asked:
        for addresses in (["10.0.0.5"], ["10.0.0.6"]):
            assert await asked.peers(a(*addresses)) == {f"{addresses[0]}:8791"}
        assert len(asked.resolver.asked) == 2


async def test_a_cached_answer_is_kept_for_its_ttl() -> None:
    async with asking(cache=True) as asked:
        assert await asked.peers({f"{NAME} A": found("10.0.0.5", ttl=30)}) == {"10.0.0.5:8791"}
        asked.clock.now += 29.9
        assert await asked.peers(a("10.0.0.6")) == {"10.0.0.5:8791"}
        asked.clock.now += 0.1
        assert await asked.peers() == {"10.0.0.6:8791"}


async def test_the_cache_keeps_for_the_shortest_ttl_of_all_that_was_asked() -> None:
    async with asking(cache=True, record_type="srv", host_type="ip") as asked:
        await asked.peers(srv("0 0 1 n.test.", n=found("10.0.0.5", ttl=5)))
        asked.clock.now += 5
        assert await asked.peers(srv("0 0 1 n.test.", n=found("10.0.0.6"))) == {"10.0.0.6:1"}


@pytest.mark.parametrize(
    "answers",
    [
        {},
        {f"{NAME} A": found("10.0.0.5", ttl=0)},
        {f"{NAME} A": Found(found("10.0.0.5").answers, ("?",))},
    ],
    ids=["nothing", "TTL 0", "a part"],
)
async def test_what_might_hide_a_change_is_not_cached(answers: dict[str, Found]) -> None:
    async with asking(cache=True) as asked:
        await asked.snapshot(answers)
        assert await asked.peers(a("10.0.0.6")) == {"10.0.0.6:8791"}


async def test_an_error_is_not_cached() -> None:
    async with asking(cache=True) as asked:
        with pytest.raises(DiscoveryError):
            await asked.peers({f"{NAME} A": UNKNOWN})
        assert await asked.peers(a("10.0.0.6")) == {"10.0.0.6:8791"}


async def test_peers_of_an_unchanged_answer_are_made_once() -> None:
    """The very same set, which makes planning over thousands of peers cheap."""
    async with asking() as asked:
        one = await asked.snapshot(a(*(f"10.0.{i >> 8}.{i & 255}" for i in range(1, 500))))
        two = await asked.snapshot()
        assert two.peers is one.peers
        assert len(two.peers) == 499


async def test_a_new_problem_is_logged_again(caplog: pytest.LogCaptureFixture) -> None:
    async with asking() as asked:
        for address in ("0.0.0.0", "0.0.0.0", "224.0.0.1", "10.0.0.5", "0.0.0.0"):
            await asked.peers(a(address))
    assert len([r for r in caplog.records if r.levelno == logging.WARNING]) == 3


addresses = st.integers(1, 0xDFFFFFFF).map(lambda number: str(IPv4Address(number)))


@given(st.lists(st.tuples(addresses, st.integers(1, 65535)), max_size=50))
def test_each_usable_row_is_a_peer_and_has_a_label(rows: list[tuple[str, int]]) -> None:
    built = build([Row(host, port, f"r{host}") for host, port in rows], ["before"])
    assert built.peers == {Peer(host, port) for host, port in rows}
    assert built.labels.keys() == built.peers
    assert built.skipped == ("before",)


class TestDnsDiscovery(DiscoveryContract):
    async def discovery_of(self, peers: frozenset[Peer]) -> Discovery:
        data = [f"0 0 {peer.port} {peer.host.replace('127.0.0.1', 'n.test.')}" for peer in peers]
        answers = {
            f"{NAME} SRV": found(*data, kind="SRV") if data else Found(),
            "n.test. A": found("127.0.0.1"),
        }
        return DnsDiscovery.using(
            NAME, resolver=lambda *_: FakeResolver(answers), record_type="srv", host_type="ip"
        )

    async def discovery_that_cannot_know(self) -> Discovery:
        return DnsDiscovery.using(NAME, resolver=lambda *_: FakeResolver({f"{NAME} A": UNKNOWN}))

    async def discovery_that_knows_a_part(self) -> Discovery:
        answers = {f"{NAME} A": found("127.0.0.1"), f"{NAME} AAAA": UNKNOWN}
        return DnsDiscovery.using(NAME, resolver=lambda *_: FakeResolver(answers), ipv6="both")
