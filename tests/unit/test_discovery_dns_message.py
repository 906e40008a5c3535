"""What an answer proves, and what it does not: for any message that a server may send."""

from __future__ import annotations

import random
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address
from itertools import pairwise

import dns.message
import dns.rrset
import pytest
from dns.rdatatype import RdataType
from hypothesis import given
from hypothesis import strategies as st

from gc_bootstrap.discovery.dns import message
from gc_bootstrap.discovery.dns.message import (
    Alias,
    Answer,
    MalformedError,
    Nothing,
    Records,
    Truncated,
    Unknown,
    fingerprint,
    is_answer,
    parse,
    query,
    read,
)
from tests.unit.dns_helpers import SOA, answer_to, question

A = question("cpu.workers.test.")
SRV = question("cpu.workers.test.", "SRV")
NS = "workers.test. 30 NS ns.workers.test."


def read_answer(*texts: str, asked: message.Question = A, **how: object) -> Answer:
    return read(parse(answer_to(query(asked), texts, **how)), asked)  # type: ignore[arg-type]


def hosts(answer: Answer) -> set[tuple[str, int]]:
    assert isinstance(answer, Records), answer
    return {(record.host, record.port) for record in answer.records}


def test_records_are_an_answer() -> None:
    answer = read_answer("cpu.workers.test. 30 A 10.0.0.5", "cpu.workers.test. 30 A 10.0.0.6")
    assert hosts(answer) == {("10.0.0.5", 0), ("10.0.0.6", 0)}
    assert isinstance(answer, Records)
    assert answer.records[0].text == "cpu.workers.test. A 10.0.0.5"
    assert answer.ttl == 30


@pytest.mark.parametrize("rcode", ["NOERROR", "NXDOMAIN"])
@pytest.mark.parametrize("aa", [True, False])
def test_a_denial_with_the_soa_of_the_zone_is_proof(rcode: str, aa: bool) -> None:
    assert isinstance(read_answer(rcode=rcode, aa=aa, authority=[SOA]), Nothing)


@pytest.mark.parametrize("rcode", ["NOERROR", "NXDOMAIN"])
def test_a_denial_by_an_authoritative_server_is_proof(rcode: str) -> None:
    assert isinstance(read_answer(rcode=rcode, aa=True), Nothing)


@pytest.mark.parametrize("rcode", ["NOERROR", "NXDOMAIN"])
def test_a_denial_by_nobody_in_authority_is_no_proof(rcode: str) -> None:
    answer = read_answer(rcode=rcode, aa=False)
    assert isinstance(answer, Unknown)
    assert "without proof of authority" in answer.reason


@pytest.mark.parametrize("aa", [True, False])
@pytest.mark.parametrize("zone", [".", "test.", "workers.test."])
def test_a_referral_is_no_proof(aa: bool, zone: str) -> None:
    """The lame server's answer: empty, with the servers of the root or of another zone."""
    answer = read_answer(aa=aa, authority=[f"{zone} 30 NS ns.workers.test."])
    assert isinstance(answer, Unknown)
    assert "refers to other servers" in answer.reason


def test_the_soa_of_another_zone_is_no_proof() -> None:
    other = SOA.replace("workers.test. 30", "other.test. 30", 1)
    assert isinstance(read_answer(authority=[other], aa=False, rcode="NXDOMAIN"), Unknown)


@pytest.mark.parametrize(
    "rcode", ["SERVFAIL", "REFUSED", "FORMERR", "NOTIMP", "NOTAUTH", "BADVERS"]
)
def test_an_error_code_is_no_proof(rcode: str) -> None:
    answer = read_answer(rcode=rcode, authority=[SOA])
    assert isinstance(answer, Unknown)
    assert rcode in answer.reason.replace("BADSIG", "BADVERS")  # both are 16 (RFC 8945)


def test_a_truncated_answer_is_not_looked_at() -> None:
    assert read_answer("cpu.workers.test. 30 A 10.0.0.5", tc=True) == Truncated()


def test_a_chain_of_aliases_is_followed() -> None:
    chain = [
        "b.workers.test. 20 CNAME c.workers.test.",
        "c.workers.test. 30 A 10.0.0.5",
        "cpu.workers.test. 10 CNAME B.workers.test.",
    ]
    answer = read_answer(*chain)
    assert hosts(answer) == {("10.0.0.5", 0)}
    assert isinstance(answer, Records)
    assert answer.ttl == 10
    assert answer.chain == (
        "cpu.workers.test. CNAME b.workers.test.",
        "b.workers.test. CNAME c.workers.test.",
    )


@pytest.mark.parametrize("length", [1, 2, 5])
def test_a_loop_of_aliases_is_an_error(length: int) -> None:
    names = ["cpu", *(f"n{i}" for i in range(1, length)), "cpu"]
    chain = [f"{a}.workers.test. 30 CNAME {b}.workers.test." for a, b in pairwise(names)]
    answer = read_answer(*chain)
    assert isinstance(answer, Unknown)
    assert "loop" in answer.reason


def test_an_endless_chain_is_an_error() -> None:
    names = ["cpu", *(f"n{i}" for i in range(100))]
    chain = [f"{a}.workers.test. 30 CNAME {b}.workers.test." for a, b in pairwise(names)]
    answer = read_answer(*chain)
    assert isinstance(answer, Unknown)
    assert "more than 16 aliases" in answer.reason


def test_aa_says_nothing_about_the_end_of_a_chain() -> None:
    """RFC 1035 section 4.1.1: AA is about the first name."""
    alias = "cpu.workers.test. 30 CNAME cpu.elsewhere.test."
    answer = read_answer(alias, aa=True)
    assert isinstance(answer, Alias)
    assert str(answer.target) == "cpu.elsewhere.test."
    soa = SOA.replace("workers.test. 30", "elsewhere.test. 30", 1)
    assert isinstance(read_answer(alias, aa=True, authority=[soa]), Nothing)


def test_records_of_another_name_are_neither_peers_nor_proof() -> None:
    answer = read_answer("other.workers.test. 30 A 10.0.0.5", aa=True)
    assert isinstance(answer, Unknown)
    assert "do not belong" in answer.reason


def test_records_under_nxdomain_are_a_contradiction() -> None:
    assert isinstance(
        read_answer("cpu.workers.test. 30 A 10.0.0.5", rcode="NXDOMAIN", authority=[SOA]), Unknown
    )


def test_a_ttl_with_the_highest_bit_is_zero() -> None:
    wire = bytearray(answer_to(query(A), ["cpu.workers.test. 30 A 10.0.0.5"]))
    position = wire.index((30).to_bytes(4, "big"))
    wire[position] = 0x80
    answer = read(parse(bytes(wire)), A)
    assert isinstance(answer, Records)
    assert answer.ttl == 0


def with_record(kind: int, data: bytes) -> bytes:
    """An answer with one record of the name in the question, its data as it is given."""
    wire = bytearray(answer_to(query(SRV)))
    wire[6:8] = b"\0\1"
    record = b"\xc0\x0c" + kind.to_bytes(2, "big") + b"\0\1\0\0\0\0\0" + bytes([len(data)])
    wire[-11:-11] = record + data  # before the OPT record, which has 11 octets
    return bytes(wire)


def test_compressed_targets_are_read_and_never_taken_for_unchanged() -> None:
    """RFC 2782 forbids compression in SRV; a receiver has to stand it."""
    whole = parse(with_record(33, b"\0\0\0\0\x23\x28\1x\7workers\4test\0"))
    after_cpu = bytes([12 + len(b"\3cpu")])
    compressed = parse(with_record(33, b"\0\0\0\0\x23\x28\1x\xc0" + after_cpu))
    for parsed in (whole, compressed):
        assert hosts(read(parsed, SRV)) == {("x.workers.test.", 9000)}
    assert fingerprint(whole, SRV) is not None
    assert fingerprint(compressed, SRV) is None


def test_an_alias_never_looks_like_an_address() -> None:
    """61.1.97.0 has the octets of "=", and of the name "a."."""
    address = parse(answer_to(query(A), ["cpu.workers.test. 30 A 61.1.97.0"]))
    alias = parse(answer_to(query(A), ["cpu.workers.test. 30 CNAME a."]))
    assert fingerprint(address, A) != fingerprint(alias, A)


def test_only_an_answer_to_the_very_query_is_taken() -> None:
    sent = query(A)
    good = answer_to(sent, rcode="NXDOMAIN")
    assert is_answer(good, sent)
    assert is_answer(answer_to(sent.replace(b"cpu", b"CpU")), sent)
    assert not is_answer(sent, sent), "a query is no answer"
    assert not is_answer(good, bytes([sent[0] ^ 1]) + sent[1:]), "another id"
    assert not is_answer(good, sent.replace(b"cpu", b"gpu")), "another name"
    assert not is_answer(good, sent[:2] + query(SRV)[2:]), "another type"
    assert not is_answer(b"", sent)
    header = sent[:2] + b"\x80\x01" + bytes(8)
    assert is_answer(header, sent), "an error may come without the question"
    assert not is_answer(sent[:2] + b"\x80\x03" + bytes(8), sent), "a denial may not"


def test_queries_have_random_ids_and_say_that_large_answers_are_welcome() -> None:
    made = [dns.message.from_wire(query(A)) for _ in range(20)]
    assert len({message.id for message in made}) > 10
    assert {(message.edns, message.payload) for message in made} == {(0, 1232)}
    assert dns.message.from_wire(query(A, edns=False)).edns == -1


ipv4 = st.integers(0, 2**32 - 1).map(lambda n: str(IPv4Address(n)))
ipv6 = st.integers(0, 2**128 - 1).map(lambda n: str(IPv6Address(n)))
label = st.from_regex(r"[a-z0-9_]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True)
target = st.lists(label, min_size=1, max_size=4).map(lambda labels: ".".join(labels) + ".")
srv = st.builds("0 0 {} {}".format, st.integers(0, 65535), target | st.just("."))
record_sets = st.one_of(
    st.tuples(st.just("A"), st.sets(ipv4, min_size=1, max_size=150)),
    st.tuples(st.just("AAAA"), st.sets(ipv6, min_size=1, max_size=80)),
    st.tuples(st.just("SRV"), st.sets(srv, min_size=1, max_size=60)),
)


def texts_of(kind: str, data: list[str], ttl: int = 30) -> list[str]:
    return [f"cpu.workers.test. {ttl} {kind} {text}" for text in data]


@given(record_sets)
def test_what_is_read_is_what_was_sent(sent: tuple[str, set[str]]) -> None:
    kind, data = sent
    answer = read_answer(*texts_of(kind, sorted(data)), asked=question(A.name.to_text(), kind))
    expected = {
        (text.split()[3], int(text.split()[2])) if kind == "SRV" else (text, 0) for text in data
    }
    found = hosts(answer)
    if kind == "AAAA":  # written in more than one way
        found, expected = (
            {(str(IPv6Address(host)), port) for host, port in pairs} for pairs in (found, expected)
        )
    assert found == expected


@given(record_sets, st.randoms(use_true_random=False), st.integers(0, 3600))
def test_the_order_of_records_and_their_ttl_are_no_change(
    sent: tuple[str, set[str]], shuffle: random.Random, ttl: int
) -> None:
    kind, data = sent
    asked = question(A.name.to_text(), kind)
    other = sorted(data)
    shuffle.shuffle(other)
    one, two = (
        fingerprint(parse(answer_to(query(asked), texts)), asked)
        for texts in (texts_of(kind, sorted(data)), texts_of(kind, other, ttl))
    )
    assert one == two


@given(record_sets, st.data())
def test_any_other_set_of_records_is_a_change(
    sent: tuple[str, set[str]], data: st.DataObject
) -> None:
    kind, one = sent
    asked = question(A.name.to_text(), kind)
    other = {"A": ipv4, "AAAA": ipv6, "SRV": srv}[kind]
    two = data.draw(st.sets(other, min_size=1, max_size=5) | st.just(set(sorted(one)[1:])))
    if not two or two == one:
        return
    prints = [
        fingerprint(parse(answer_to(query(asked), texts_of(kind, sorted(texts)))), asked)
        for texts in (one, two)
    ]
    assert None in prints or prints[0] != prints[1]


@given(st.binary(max_size=200))
def test_whatever_comes_it_is_read_or_malformed(noise: bytes) -> None:
    with suppress(MalformedError):
        read(parse(noise), A)


@given(record_sets, st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=8))
def test_a_damaged_answer_is_read_or_malformed(
    sent: tuple[str, set[str]], damage: list[tuple[int, int]]
) -> None:
    kind, data = sent
    asked = question(A.name.to_text(), kind)
    wire = bytearray(answer_to(query(asked), texts_of(kind, sorted(data))))
    for position, value in damage:
        wire[position % len(wire)] = value
    with suppress(MalformedError):
        parsed = parse(bytes(wire))
        for reads in (fingerprint, read):
            with suppress(MalformedError):
                reads(parsed, asked)


@pytest.mark.parametrize("kind", [5, 33])
@pytest.mark.parametrize("data", [b"", b"\1", b"\xff", b"\xc0\xff", b"\0\0\0\0\0\0"])
def test_a_record_too_short_to_be_one_is_malformed(kind: int, data: bytes) -> None:
    parsed = parse(with_record(kind, data))
    with suppress(MalformedError):
        fingerprint(parsed, SRV)
    with pytest.raises(MalformedError):
        read(parsed, SRV)


def test_an_answer_is_cut_off_anywhere() -> None:
    whole = answer_to(query(SRV), texts_of("SRV", ["0 0 1 a.test.", "0 0 2 b.test."]))
    for end in range(len(whole)):
        with pytest.raises(MalformedError):
            read(parse(whole[:end]), SRV)


def test_reading_pauses_and_can_be_ended() -> None:
    asked = question(A.name.to_text(), "A")
    parsed = parse(
        answer_to(query(A), texts_of("A", [f"10.0.{i >> 8}.{i & 255}" for i in range(500)]))
    )
    pauses = []
    read(parsed, asked, lambda: pauses.append(1))
    assert len(pauses) >= 500 // 32

    class EndedError(Exception):
        pass

    def end() -> None:
        raise EndedError

    with pytest.raises(EndedError):
        read(parsed, asked, end)


def test_types_are_dnspythons() -> None:
    assert A.type is RdataType.A
    assert str(A) == "cpu.workers.test. A"
