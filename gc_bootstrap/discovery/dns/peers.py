"""From records to peers: pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from types import MappingProxyType
from typing import NamedTuple

from gc_bootstrap.discovery.dns.message import PAUSE_EVERY, Record, Records
from gc_bootstrap.discovery.dns.resolver import Found
from gc_bootstrap.errors import PeerError
from gc_bootstrap.peer import Peer

LABEL = "records"
"""Label that says which records a peer comes from, in the order in which they were followed."""


class Row(NamedTuple):
    """What may be a peer, and the records that say so."""

    host: str
    port: int
    records: str


@dataclass(frozen=True, slots=True)
class Peers:
    """The peers that records name, and why others are none."""

    peers: frozenset[Peer] = frozenset()
    labels: Mapping[Peer, Mapping[str, str]] = field(default_factory=lambda: MappingProxyType({}))
    skipped: tuple[str, ...] = ()


def _records(answers: Iterable[Records]) -> Iterator[tuple[Record, str]]:
    """Each record, and the text of it with the aliases that led there."""
    for answer in answers:
        front = "".join(f"{alias}; " for alias in answer.chain)
        for record in answer.records:
            yield record, front + record.text


def address_rows(answers: Iterable[Records], port: int) -> list[Row]:
    """What A and AAAA records say."""
    return [Row(record.host, port, text) for record, text in _records(answers)]


def service_rows(answers: Iterable[Records]) -> tuple[list[Row], list[str]]:
    """What SRV records say, and those that say that there is no service (RFC 2782, target ".")."""
    rows: list[Row] = []
    skipped: list[str] = []
    for record, text in _records(answers):
        if record.host == ".":
            skipped.append(f"{text}: the target says that there is no such service")
        elif record.port == 0:
            skipped.append(f"{text}: port 0 is none")
        else:
            rows.append(Row(record.host, record.port, text))
    return rows, skipped


def resolved_rows(rows: Iterable[Row], found: Mapping[str, Found]) -> tuple[list[Row], list[str]]:
    """Put what the hosts of rows have been resolved to in their place.

    Returns
    -------
    tuple
        A row for each address, or for the first of the names of an address; and why some rows
        have none or perhaps not all, one line per host.
    """
    resolved: list[Row] = []
    doubts: dict[str, str] = {}
    for row in rows:
        answer = found[row.host]
        for record, text in _records(answer.answers):
            resolved.append(Row(record.host, row.port, f"{row.records}; {text}"))
        if answer.doubts:
            doubts[row.host] = "; ".join(answer.doubts)
        elif not answer.answers:
            doubts[row.host] = f"{row.host} resolves to nothing"
    return resolved, list(doubts.values())


def first_names(found: Mapping[str, Found]) -> dict[str, Found]:
    """Reduce reverse look-ups to one name for each address: the first in alphabetical order."""
    return {
        host: Found(
            tuple(
                Records((min(answer.records),), answer.ttl, answer.chain) for answer in look.answers
            ),
            look.doubts,
        )
        for host, look in found.items()
    }


def build(
    rows: Sequence[Row], skipped: Sequence[str], pause: Callable[[], None] = lambda: None
) -> Peers:
    """Make peers of rows. Where two rows are the same peer, the first one labels it.

    Parameters
    ----------
    skipped
        Records that have turned out to be no peers already.
    pause
        Called every now and then.
    """
    labels: dict[Peer, Mapping[str, str]] = {}
    problems = list(skipped)
    for count, row in enumerate(rows, 1):
        try:
            # In brackets: 2001:db8::1:25 alone may have a port.
            written = f"[{row.host}]" if ":" in row.host else row.host
            peer = Peer.parse(written, row.port)
        except PeerError as exc:
            problems.append(f"{row.records}: {exc}")
        else:
            if _is_nobody(peer.host):
                problems.append(f"{row.records}: {peer.host} is nobody's address")
            else:
                labels.setdefault(peer, {LABEL: row.records})
        if count % PAUSE_EVERY == 0:
            pause()
    return Peers(frozenset(labels), MappingProxyType(labels), tuple(problems))


def _is_nobody(host: str) -> bool:
    """Whether it is an address that nobody has: 0.0.0.0 would be this very host."""
    try:
        address = ip_address(host)
    except ValueError:
        return False
    return address.is_unspecified or address.is_multicast or str(address) == "255.255.255.255"
