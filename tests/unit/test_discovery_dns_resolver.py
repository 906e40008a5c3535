"""Which servers are asked what, and what their answers prove together."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import dns.name
import pytest
from dns.rdatatype import AAAA, A, RdataType

from gc_bootstrap.discovery.dns.offload import Offload
from gc_bootstrap.discovery.dns.resolver import CONCURRENCY, Found, SystemResolver
from gc_bootstrap.discovery.dns.transport import SilentError
from gc_bootstrap.errors import DiscoveryError
from gc_bootstrap.peer import Peer
from tests.unit.dns_helpers import (
    Behaviour,
    Servers,
    answer_to,
    code,
    nxdomain,
    records,
    refused,
    servfail,
    truncated,
)

ONE, TWO = "10.0.0.1:53", "10.0.0.2:53"
CONF = "nameserver 10.0.0.1\nnameserver 10.0.0.2\nsearch a.test b.test\noptions ndots:2\n"
SILENT = SilentError("did not answer in time")


def no_soa(sent: bytes) -> bytes:
    """The empty answer of a server that knows nothing about the name."""
    return answer_to(sent, aa=False)


@pytest.fixture
async def offload() -> AsyncIterator[Offload]:
    offload = Offload()
    yield offload
    await offload.close()


class Asked:
    """A resolver over servers without a network, asked through a `resolv.conf` of its own."""

    def __init__(self, offload: Offload, path: Path, *, nameservers: tuple[Peer, ...] = ()) -> None:
        self.path = path
        self.path.write_text(CONF)
        self.servers = Servers({})
        self.resolver = SystemResolver(
            offload, nameservers, resolv_conf=path, udp=self.servers.udp, tcp=self.servers.tcp
        )

    async def find(
        self,
        name: str,
        one: Mapping[str, Behaviour | Exception] | None = None,
        two: Mapping[str, Behaviour | Exception] | None = None,
        types: tuple[RdataType, ...] = (A,),
    ) -> Found:
        """Ask for a name; the servers behave as said, and cannot be reached otherwise."""
        given = {ONE: one, TWO: two}
        self.servers.behaviours |= {k: v for k, v in given.items() if v is not None}
        lookup = await self.resolver.begin(5.0)
        return await lookup.find(dns.name.from_text(name, None), types)


@pytest.fixture
def asked(offload: Offload, tmp_path: Path) -> Asked:
    return Asked(offload, tmp_path / "resolv.conf")


def hosts(found: Found) -> list[str]:
    return [record.host for answer in found.answers for record in answer.records]


GOOD = records("w.a.test. 30 A 10.1.0.1")


async def test_the_first_server_that_can_say_says(asked: Asked) -> None:
    found = await asked.find("w", {"w.a.test. A": GOOD})
    assert (hosts(found), found.doubts) == (["10.1.0.1"], ())
    assert asked.servers.asked == [(ONE, "w.a.test. A", "udp")]


@pytest.mark.parametrize("failure", [servfail, refused, no_soa, SILENT, code("NOTAUTH")])
async def test_another_server_is_asked_when_one_cannot_say(
    asked: Asked, failure: Behaviour | Exception
) -> None:
    found = await asked.find("w", {"*": failure}, {"w.a.test. A": GOOD})
    assert (hosts(found), found.doubts) == (["10.1.0.1"], ())


async def test_noise_is_no_answer(asked: Asked) -> None:
    found = await asked.find("w.a.test.", {"*": lambda sent: sent[:12] + b"\xff"}, {"*": servfail})
    (doubt,) = found.doubts
    assert "10.0.0.1:53 answered what is not a DNS message" in doubt


async def test_no_is_no_only_when_every_name_does_not_exist(asked: Asked) -> None:
    assert await asked.find("w", {"*": nxdomain}) == Found()
    names = [name for _, name, _ in asked.servers.asked]
    assert names == ["w.a.test. A", "w.b.test. A", "w. A"]


@pytest.mark.parametrize("failure", [servfail, refused, no_soa, SILENT])
@pytest.mark.parametrize("which", ["w.a.test. A", "w.b.test. A", "w. A"])
async def test_a_search_list_of_which_one_name_could_not_be_asked_is_unknown(
    asked: Asked, which: str, failure: Behaviour | Exception
) -> None:
    found = await asked.find("w", {"*": nxdomain, which: failure}, {"*": nxdomain, which: failure})
    assert found.answers == ()
    (doubt,) = found.doubts
    assert doubt.startswith(f"{which}: {ONE} ")
    assert TWO in doubt


async def test_records_after_a_name_that_could_not_be_asked_are_a_part_of_the_truth(
    asked: Asked,
) -> None:
    behaviours = {"w.a.test. A": servfail, "w.b.test. A": records("w.b.test. 30 A 10.1.0.2")}
    found = await asked.find("w", behaviours, behaviours)
    assert hosts(found) == ["10.1.0.2"]
    assert len(found.doubts) == 1


async def test_records_before_it_are_the_whole_truth(asked: Asked) -> None:
    found = await asked.find("w", {"w.a.test. A": GOOD, "*": servfail})
    assert (hosts(found), found.doubts) == (["10.1.0.1"], ())


async def test_nobody_reachable_is_an_error_that_names_everybody(asked: Asked) -> None:
    found = await asked.find("w.a.test.")
    (doubt,) = found.doubts
    assert doubt == (
        "w.a.test. A: 10.0.0.1:53 cannot be reached: Connection refused;"
        " 10.0.0.2:53 cannot be reached: Connection refused"
    )


async def test_a_silent_server_is_asked_again(asked: Asked) -> None:
    answers = iter([SILENT, None])

    def second(sent: bytes) -> bytes:
        failure = next(answers)
        if failure is not None:
            raise failure
        return GOOD(sent)

    found = await asked.find("w.a.test.", {"*": second})
    assert hosts(found) == ["10.1.0.1"]
    assert [server for server, *_ in asked.servers.asked] == [ONE, TWO, ONE]


async def test_a_failure_is_said_in_the_same_words_at_each_look(asked: Asked) -> None:
    """The pool logs an error when it is another one than before."""

    async def find() -> tuple[str, ...]:
        return (await asked.find("w", {"*": SILENT}, {"*": servfail})).doubts

    assert await find() == await find()
    (first, *_) = await find()
    assert first == f"w.a.test. A: {ONE} did not answer in time; {TWO} answered SERVFAIL"


async def test_a_server_that_was_silent_is_asked_last_from_then_on(asked: Asked) -> None:
    await asked.find("w", {"*": SILENT}, {"*": nxdomain})
    assert [server for server, *_ in asked.servers.asked] == [ONE, TWO, TWO, TWO]


async def test_both_families_are_asked_for(asked: Asked) -> None:
    both = {"w.a.test. A": GOOD, "w.a.test. AAAA": records("w.a.test. 30 AAAA fd00::1")}
    found = await asked.find("w", both, types=(A, AAAA))
    assert (hosts(found), found.doubts) == (["10.1.0.1", "fd00::1"], ())


async def test_one_family_is_enough_when_the_other_does_not_exist(asked: Asked) -> None:
    behaviours = {"w.a.test. A": GOOD, "w.a.test. AAAA": lambda sent: answer_to(sent, aa=True)}
    found = await asked.find("w", behaviours, types=(A, AAAA))
    assert (hosts(found), found.doubts) == (["10.1.0.1"], ())


async def test_one_family_is_a_part_of_the_truth_when_the_other_is_unknown(asked: Asked) -> None:
    behaviours = {"w.a.test. A": GOOD, "w.a.test. AAAA": servfail}
    found = await asked.find("w", behaviours, behaviours, types=(A, AAAA))
    assert hosts(found) == ["10.1.0.1"]
    (doubt,) = found.doubts
    assert "w.a.test. AAAA: 10.0.0.1:53 answered SERVFAIL" in doubt


async def test_a_truncated_answer_is_asked_for_again_over_tcp(asked: Asked) -> None:
    found = await asked.find("w", {"w.a.test. A udp": truncated, "w.a.test. A tcp": GOOD})
    assert hosts(found) == ["10.1.0.1"]
    assert [how for *_, how in asked.servers.asked] == ["udp", "tcp"]


async def test_an_answer_that_does_not_fit_tcp_either_is_unknown(asked: Asked) -> None:
    found = await asked.find("w.a.test.", {"*": truncated}, {"*": servfail})
    assert "more records than fit" in found.doubts[0]


@pytest.mark.parametrize("rcode", ["FORMERR", "NOTIMP"])
async def test_a_server_without_edns_is_asked_without(asked: Asked, rcode: str) -> None:
    def old(sent: bytes) -> bytes:
        return code(rcode)(sent) if dns.message.from_wire(sent).edns >= 0 else GOOD(sent)

    assert hosts(await asked.find("w", {"*": old})) == ["10.1.0.1"]


async def test_an_alias_into_another_zone_is_followed(asked: Asked) -> None:
    behaviours = {
        "w.a.test. A": records("w.a.test. 5 CNAME x.c.test."),
        "x.c.test. A": records("x.c.test. 30 CNAME y.c.test.", "y.c.test. 30 A 10.1.0.3"),
    }
    found = await asked.find("w", behaviours)
    assert hosts(found) == ["10.1.0.3"]
    (answer,) = found.answers
    assert answer.ttl == 5
    assert answer.chain == (
        "w.a.test. CNAME x.c.test.",
        "x.c.test. CNAME y.c.test.",
    )


async def test_an_alias_of_what_cannot_be_asked_is_unknown(asked: Asked) -> None:
    alias = {"w.a.test. A": records("w.a.test. 5 CNAME x.c.test.")}
    found = await asked.find("w.a.test.", alias, {})
    (doubt,) = found.doubts
    assert doubt.startswith("w.a.test. CNAME x.c.test.; x.c.test. A: 10.0.0.1:53 answered REFUSED")


async def test_a_loop_of_aliases_over_several_servers_is_an_error(asked: Asked) -> None:
    behaviours = {
        "w.a.test. A": records("w.a.test. 5 CNAME x.c.test."),
        "x.c.test. A": records("x.c.test. 5 CNAME w.a.test."),
    }
    (doubt,) = (await asked.find("w.a.test.", behaviours)).doubts
    assert "a loop of aliases" in doubt


async def test_the_systems_file_is_read_again_when_it_changes(asked: Asked) -> None:
    await asked.find("w", {"*": nxdomain}, {"*": nxdomain})
    asked.servers.asked.clear()
    asked.path.write_text("nameserver 10.0.0.2\nsearch c.test\n")
    os.utime(asked.path, ns=(0, 4711))
    await asked.find("w")
    assert [(s, name) for s, name, _ in asked.servers.asked] == [
        (TWO, "w.c.test. A"),
        (TWO, "w. A"),
    ]


async def test_a_system_without_servers_is_an_error(asked: Asked) -> None:
    asked.path.write_text("search a.test\n")
    with pytest.raises(DiscoveryError, match="names no server"):
        await asked.find("w")
    asked.path.unlink()
    with pytest.raises(DiscoveryError, match="is not there"):
        await asked.find("w")


async def test_given_servers_are_asked_and_the_search_list_is_the_systems(
    offload: Offload, tmp_path: Path
) -> None:
    asked = Asked(offload, tmp_path / "conf", nameservers=(Peer("10.0.0.9", 5300),))
    asked.servers.behaviours["10.0.0.9:5300"] = {"*": nxdomain}
    await asked.find("w")
    assert [(s, name) for s, name, _ in asked.servers.asked] == [
        ("10.0.0.9:5300", name) for name in ("w.a.test. A", "w.b.test. A", "w. A")
    ]


async def test_a_server_given_by_name_is_resolved_by_the_system(
    offload: Offload, tmp_path: Path
) -> None:
    asked = Asked(offload, tmp_path / "conf", nameservers=(Peer("consul", 8600),))
    asked.servers.behaviours["10.9.9.9:8600"] = {"*": nxdomain}
    consul: dict[str, Behaviour | Exception] = {
        "consul.a.test. A": records("consul.a.test. 30 A 10.9.9.9"),
        "*": nxdomain,
    }
    assert await asked.find("w.", consul) == Found()
    assert asked.servers.asked[-1] == ("10.9.9.9:8600", "w. A", "udp")
    asked.servers.behaviours[ONE] = {"*": nxdomain}
    with pytest.raises(DiscoveryError, match="nameserver consul:8600: there is no such name"):
        await asked.find("w.")
    asked.servers.behaviours[ONE] = {"*": servfail}
    with pytest.raises(DiscoveryError, match=r"nameserver consul:8600: .*answered SERVFAIL"):
        await asked.find("w.")


async def test_localhost_is_this_host(offload: Offload, tmp_path: Path) -> None:
    asked = Asked(offload, tmp_path / "conf", nameservers=(Peer("localhost", 5300),))
    asked.servers.behaviours["127.0.0.1:5300"] = {"*": nxdomain}
    assert await asked.find("w.", {}) == Found()
    assert asked.servers.asked == [("127.0.0.1:5300", "w. A", "udp")]


async def test_no_time_is_an_error_and_asks_nobody(asked: Asked) -> None:
    lookup = await asked.resolver.begin(5.0)
    lookup._until = 0.0  # type: ignore[attr-defined]
    (doubt,) = (await lookup.find(dns.name.from_text("w."), (A,))).doubts
    assert "was not asked: the lookup-timeout of 5 s is over" in doubt
    assert asked.servers.asked == []


async def test_many_names_are_asked_for_some_at_a_time(offload: Offload, tmp_path: Path) -> None:
    running, most = 0, 0

    async def udp(server: Peer, sent: bytes, timeout: float) -> bytes:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        return nxdomain(sent)

    conf = tmp_path / "resolv.conf"
    conf.write_text(CONF)
    resolver = SystemResolver(offload, resolv_conf=conf, udp=udp)
    lookup = await resolver.begin(20.0)
    names = [f"n{i}.test." for i in range(500)]
    found = await lookup.resolve(names, (A,), dns.name.from_text)
    assert found == dict.fromkeys(names, Found())
    assert 1 < most <= CONCURRENCY


@pytest.mark.parametrize("count", [2, 300])
async def test_an_answer_is_read_once(asked: Asked, count: int) -> None:
    """The very same records object, unless something has changed; its TTL is new."""
    texts = [f"w.test. 30 A 10.1.{i >> 8}.{i & 255}" for i in range(count)]
    first = await asked.find("w.test.", {"*": records(*texts)})
    later = [text.replace(" 30 ", " 20 ") for text in reversed(texts)]
    again = await asked.find("w.test.", {"*": records(*later)})
    other = await asked.find("w.test.", {"*": records(*later[1:])})
    assert len(first.answers[0].records) == count
    assert again.answers[0].records is first.answers[0].records
    assert (first.answers[0].ttl, again.answers[0].ttl) == (30, 20)
    assert len(other.answers[0].records) == count - 1
