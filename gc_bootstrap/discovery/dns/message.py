"""DNS messages as values: what was asked, and what an answer proves.

dnspython reads names and records. Not its ``Message.from_wire``: that takes 23 ms for 1,000 A
records and 40 ms for 1,000 SRV whether or not they are the same as before, knows no deadline, and
gives way to the event loop only every 5 ms (``sys.getswitchinterval``). Here a message is first cut
into records (0.6 ms per 1,000), so that an answer that has not changed is recognized, and decoded
record by record, so that it can pause in between (measured with dnspython 2.9).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import dns.entropy
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdata
from dns.name import Name
from dns.rdataclass import IN
from dns.rdatatype import AAAA, CNAME, NS, OPT, SOA, SRV, A, RdataType

EDNS_PAYLOAD = 1232
"""Largest UDP answer that is asked for, in octets: never fragmented (DNS flag day 2020)."""

MAX_CHAIN = 16
"""Longest chain of aliases that is followed; BIND and Unbound follow 11 to 17."""

PAUSE_EVERY = 32
"""Records decoded between two calls of ``pause``; about half a millisecond."""

_HEADER = struct.Struct("!HHHHHH")
_RECORD = struct.Struct("!HHIH")
_POINTER = 0xC0  # the first octet of a compressed name's rest is at least this (RFC 1035 4.1.4)
_MAX_TTL = 2**31 - 1  # a larger one counts as 0 (RFC 2181 section 8)


class MalformedError(Exception):
    """The octets are not a DNS message."""


class Question(NamedTuple):
    """What is asked for: an absolute name and a type."""

    name: Name
    type: RdataType

    def __str__(self) -> str:
        return f"{self.name} {self.type.name}"


class Record(NamedTuple):
    """One record of the type that was asked for.

    ``host`` is the address or the target, ``port`` that of an SRV record, else 0. ``text`` is the
    record as a zone file has it, without TTL.
    """

    host: str
    port: int
    text: str


@dataclass(frozen=True, slots=True)
class Records:
    """There are records. ``chain`` has the aliases that led to them, ``ttl`` is in seconds."""

    records: tuple[Record, ...]
    ttl: int
    chain: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Alias:
    """The name is another name for ``target``, whose records the answer does not have."""

    target: Name
    ttl: int
    chain: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Nothing:
    """It is proven that there are no such records."""

    reason: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """The answer proves nothing, or there is none. ``rcode`` is the code of an error answer."""

    reason: str
    rcode: int = 0


@dataclass(frozen=True, slots=True)
class Truncated:
    """There is more than fitted."""


Answer = Records | Alias | Nothing | Unknown | Truncated


class _Raw(NamedTuple):
    """A record that is not decoded yet: ``owner`` in lower case, and where its data is."""

    owner: bytes
    type: int
    ttl: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Message:
    """A message, cut into records."""

    wire: bytes
    flags: int
    rcode: int
    answer: Sequence[_Raw]
    authority: Sequence[_Raw]


@contextmanager
def _malformed() -> Iterator[None]:
    """Turn whatever reading nonsense raises into one error."""
    try:
        yield
    except (struct.error, IndexError, ValueError, dns.exception.DNSException) as exc:
        raise MalformedError(f"{type(exc).__name__}: {exc}") from exc


def query(question: Question, *, edns: bool = True) -> bytes:
    """Make a query, with a random id, that asks for recursion.

    Parameters
    ----------
    edns
        Whether to say that large UDP answers are welcome (RFC 6891). Some old servers answer
        FORMERR or NOTIMP to that.
    """
    return dns.entropy.random_16().to_bytes(2, "big") + _query(question, edns)


@lru_cache(maxsize=4096)
def _query(question: Question, edns: bool) -> bytes:
    """A query without its id: the same at each look."""
    made = dns.message.make_query(
        question.name, question.type, use_edns=0 if edns else False, payload=EDNS_PAYLOAD
    )
    return made.to_wire()[2:]


def is_answer(wire: bytes, sent: bytes) -> bool:
    """Whether a message answers the query ``sent``: id, direction and question (RFC 5452)."""
    if len(wire) < _HEADER.size or wire[:2] != sent[:2]:
        return False
    _, flags, questions, *_ = _HEADER.unpack_from(wire)
    if not flags & dns.flags.QR:
        return False
    if questions == 0:  # some servers answer an error with the header only
        return flags & 0xF not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN)
    end = sent.index(0, _HEADER.size) + 5  # the name's end, type and class
    return wire[_HEADER.size : end].lower() == sent[_HEADER.size : end].lower()


def parse(wire: bytes) -> Message:
    """Cut a message into its records.

    Raises
    ------
    MalformedError
        It is none; the message says why.
    """
    with _malformed():
        _, flags, questions, *counts = _HEADER.unpack_from(wire)
        position = _HEADER.size
        for _ in range(questions):
            position += dns.name.from_wire(wire, position)[1] + 4
        owners: dict[int, bytes] = {}
        answer, position = _section(wire, position, counts[0], owners)
        authority, position = _section(wire, position, counts[1], owners)
        upper = _upper_code(wire, position, counts[2])
    return Message(wire, flags, upper << 4 | flags & 0xF, answer, authority)


def _upper_code(wire: bytes, position: int, count: int) -> int:
    """The upper bits of the answer's code, in the OPT record's TTL (RFC 6891 section 6.1.3).

    The rest of the additional section is only passed over: there may be thousands of records.
    """
    for _ in range(count):
        while (length := wire[position]) and length < _POINTER:
            position += length + 1
        position += 2 if length else 1
        kind, _, ttl, size = _RECORD.unpack_from(wire, position)
        if kind == OPT:
            return int(ttl >> 24)
        position += _RECORD.size + size
    return 0


def _section(
    wire: bytes, position: int, count: int, owners: dict[int, bytes]
) -> tuple[list[_Raw], int]:
    """Cut one section. ``owners`` has the names that pointers lead to: mostly it is one."""
    found = []
    for _ in range(count):
        pointer = wire[position] << 8 | wire[position + 1] if wire[position] >= _POINTER else 0
        owner = owners.get(pointer) if pointer else None
        if owner is None:
            name, used = dns.name.from_wire(wire, position)
            owner = name.to_digestable()
            if pointer:
                owners[pointer] = owner
            position += used
        else:
            position += 2
        kind, rdclass, ttl, length = _RECORD.unpack_from(wire, position)
        position += _RECORD.size
        end = position + length
        if end > len(wire):
            raise MalformedError("a record is longer than the message")
        if rdclass == IN:
            found.append(_Raw(owner, kind, ttl, position, end))
        position = end
    return found, position


def ttl_of(raws: Sequence[_Raw]) -> int:
    """The shortest time to live, in seconds."""
    shortest = min(raw.ttl for raw in raws)
    return 0 if max(raw.ttl for raw in raws) > _MAX_TTL else shortest


def fingerprint(message: Message, question: Question) -> frozenset[bytes] | None:
    """What an answer with records says, whatever their order, their TTL and their compression.

    Returns
    -------
    frozenset or None
        Two messages with the same one, of which the first was read as :class:`Records`, are read
        as the same records. None where that cannot be told cheaply.

    Raises
    ------
    MalformedError
        An alias in it is none.
    """
    if message.rcode != dns.rcode.NOERROR or message.flags & dns.flags.TC:
        return None
    wire = message.wire
    parts = set()
    for owner, kind, _, start, end in message.answer:
        if kind == CNAME:
            with _malformed():
                target = _target(wire, start, end)
            parts.add(b"%d %b %b" % (kind, owner, target.to_digestable()))
        elif kind == question.type:
            data = wire[start:end]
            # Perhaps compressed, and what that means depends on the rest of the message? A whole
            # name ends with 0; a compressed one with an octet of at least 0xC0 and one more.
            if kind not in (A, AAAA) and (data[-1:] != b"\0" or data[-2:-1] >= b"\xc0"):
                return None
            parts.add(b"%d %b %b" % (kind, owner, data))
    return frozenset(parts)


def read(message: Message, question: Question, pause: Callable[[], None] = lambda: None) -> Answer:
    """Say what a message proves about a question.

    - NOERROR with records of the type, under the name or under what it is an alias of: records.
    - NXDOMAIN, or NOERROR without such records, from a server in authority: nothing. RFC 2308
      section 2: a denial carries the SOA record of the zone that denies, also when a resolver
      hands it on. A server that sets AA instead speaks for its own zone (RFC 2308 sections 2.1
      and 2.2, the types without SOA), but for the name in the question only, not for the end of a
      chain (RFC 1035 section 4.1.1), and not where it refers to other servers (NS records).
    - All else proves nothing: a referral, an empty answer without SOA and AA, SERVFAIL, REFUSED.

    Parameters
    ----------
    message
        With an answer to this very question.
    pause
        Called every now and then between two records; whatever it raises is passed on.

    Raises
    ------
    MalformedError
        A record in it is none.
    """
    if message.flags & dns.flags.TC:  # what did fit is ignored (RFC 2181 section 9)
        return Truncated()
    if message.rcode not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        return Unknown(f"answered {_code(message)}", message.rcode)
    with _malformed():
        return _read(message, question, pause)


def _read(message: Message, question: Question, pause: Callable[[], None]) -> Answer:
    names, chain = _follow(message, question)
    if len(chain) > MAX_CHAIN:
        return Unknown(f"answered more than {MAX_CHAIN} aliases in a row, beginning {chain[0]}")
    if len(names) > len(set(names)):
        return Unknown("answered a loop of aliases: " + "; ".join(chain))
    last = names[-1]
    owner = last.to_digestable()
    asked = [raw for raw in message.answer if raw.type == question.type]
    matching = [raw for raw in asked if raw.owner == owner]
    code = _code(message)
    if matching and message.rcode == dns.rcode.NOERROR:
        records = _decode(message, last, question.type, matching, pause)
        return Records(records, ttl_of(message.answer), chain)
    if asked:
        return Unknown(f"answered {code} with records that do not belong to the question")
    if _is_denied(message, last, chained=bool(chain)):
        return Nothing(f"{last} {question.type.name}: {code}")
    if chain:
        return Alias(last, ttl_of(message.answer), chain)
    if any(raw.type == NS for raw in message.authority):
        return Unknown(f"answered {code} and refers to other servers: not in authority")
    return Unknown(f"answered {code} without proof of authority (neither SOA nor AA)")


def _code(message: Message) -> str:
    return dns.rcode.to_text(dns.rcode.Rcode.make(message.rcode))


def _target(wire: bytes, start: int, end: int) -> Name:
    """What a CNAME record's data says; a name, and nothing else."""
    name, used = dns.name.from_wire(wire, start)
    if start + used != end:
        raise MalformedError("an alias is not as long as it says")
    return name


def _follow(message: Message, question: Question) -> tuple[list[Name], tuple[str, ...]]:
    """Follow the aliases in an answer: the names from the first to the last, and the records."""
    aliases = {
        raw.owner: _target(message.wire, raw.start, raw.end).canonicalize()
        for raw in message.answer
        if raw.type == CNAME
    }
    names = [question.name.canonicalize()]
    chain: list[str] = []
    while len(set(names)) == len(names) and len(chain) <= MAX_CHAIN:
        target = aliases.get(names[-1].to_digestable())
        if target is None or question.type == CNAME:
            break
        chain.append(f"{names[-1]} CNAME {target}")
        names.append(target)
    return names, tuple(chain)


def _is_denied(message: Message, name: Name, *, chained: bool) -> bool:
    for raw in message.authority:
        if raw.type == SOA and name.is_subdomain(dns.name.from_wire(raw.owner, 0)[0]):
            return True
    refers = any(raw.type == NS for raw in message.authority)
    in_authority = bool(message.flags & dns.flags.AA) and not chained
    return in_authority and (message.rcode == dns.rcode.NXDOMAIN or not refers)


def _decode(
    message: Message,
    owner: Name,
    kind: RdataType,
    raws: Sequence[_Raw],
    pause: Callable[[], None],
) -> tuple[Record, ...]:
    front = f"{owner} {kind.name} "
    found = []
    for count, raw in enumerate(raws, 1):
        data = dns.rdata.from_wire(IN, kind, message.wire, raw.start, raw.end - raw.start)
        text = data.to_text()
        if kind == SRV:
            found.append(Record(str(data.target), data.port, front + text))  # type: ignore[attr-defined]
        else:
            found.append(Record(text, 0, front + text))
        if count % PAUSE_EVERY == 0:
            pause()
    return tuple(found)
