"""Peers by DNS: ``dns:workers.prod``.

The three outcomes. Records are the peers. NXDOMAIN, or an empty NOERROR answer, from a server in
authority for the name (RFC 2308; the rule is at :func:`~.message.read`), for each name that a
search list makes of it, is really no peers. Everything else is "cannot know": no answer in time,
SERVFAIL, REFUSED, a server that cannot be reached or knows nothing about the name, a loop of
aliases, a search list of which one name does not exist and another could not be asked for.

A part of the truth, ``complete=False``: some targets of SRV records, or some addresses in reverse
look-ups, did not resolve (if none did, nothing is known); one of A and AAAA could not be asked for;
the records are those of a later name of a search list of which an earlier one could not be asked
for; and every answer with ``partial: true``.

A record that cannot be a peer (SRV target "." or port 0, a target that is no host name, 0.0.0.0)
is known to be none: it is skipped with a log line, and the answer is complete without it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Self, TypeVar

import dns.name
import dns.reversename
from dns.rdatatype import PTR, SRV

from gc_bootstrap.discovery.base import Discovery
from gc_bootstrap.discovery.dns.message import Records
from gc_bootstrap.discovery.dns.offload import Offload, Pause, TooLateError
from gc_bootstrap.discovery.dns.options import Options, read_options
from gc_bootstrap.discovery.dns.peers import (
    Peers,
    Row,
    address_rows,
    build,
    first_names,
    resolved_rows,
    service_rows,
)
from gc_bootstrap.discovery.dns.resolver import Found, Lookup, Resolver, SystemResolver
from gc_bootstrap.errors import DiscoveryError, several
from gc_bootstrap.peer import Peer, Snapshot

logger = logging.getLogger(__name__)

FEW = 100
"""Rows that are made into peers on the event loop; more of them in the thread."""

COMPUTE_TIMEOUT = 5.0
"""Seconds that making peers of records may take, after the look-up: 4,000 take a tenth of one."""

MOST_REMEMBERED = 10_000
"""Of how many peers is remembered with ``partial`` that an answer has named them, those of the last
answer included at the least."""

PARTIAL = "partial: each answer of the server has only some of the records"
"""Why an answer is not complete with ``partial: true``."""

NOBODY = Peers()

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Looked:
    """What one look-up found: peers, what may be missing, and for how many seconds it holds."""

    peers: Peers = NOBODY
    doubts: tuple[str, ...] = ()
    ttl: float = 0.0


class DnsDiscovery(Discovery):
    """Agents by A, AAAA or SRV records: ``dns:NAME?record-type=srv&nameservers=10.96.0.10``.

    Every look asks, with one deadline for all that it asks for.

    Parameters
    ----------
    domain
        The name. A relative one (without a dot at its end) goes through the system's search list
        and ``ndots``. A wildcard's records are like any others: where a suffix of the search list
        has one, only a dot at the end keeps a name from it.
    record_type
        ``"ip"``: A or AAAA records, each the address of an agent. ``"srv"``: SRV records.
    ipv6
        False asks for A records, True for AAAA, ``"both"`` for both. For ``"srv"``: to which
        addresses targets are resolved.
    host_type
        What the peers are called. For ``"ip"`` records the address (``"ip"``, the default) or
        what a reverse look-up says (``"hostname"``); for ``"srv"`` the target as it stands
        (``"hostname"``, the default) or its addresses (``"ip"``).
    port
        Of the agents, for ``"ip"`` records; default 8791. SRV records have their own.
    lookup_timeout
        Bounds all that one look asks for: a duration, default 5 s.
    nameservers
        Whom to ask, each ``host`` or ``host:port``, as a list or separated by commas; default:
        the system's. A host that is a name is resolved by the system's.
    partial
        The server hands out only some of the records in each answer.
    partial_ttl
        For how long a peer is remembered then after an answer has named it: default 10 minutes,
        in which 8 records out of 100 at a time, every 5 s, name each with a probability of
        0.99995.
    cache
        Keep an answer for as long as its TTL says, and ask no sooner. Only one that has records,
        and is complete, is kept.

    Raises
    ------
    ConfigError
        With one problem per option that is wrong.
    """

    def __init__(
        self,
        domain: str,
        record_type: str = "ip",
        ipv6: bool | str = False,
        host_type: str | None = None,
        port: int | None = None,
        lookup_timeout: str | float = "5s",
        nameservers: str | Sequence[str] | None = None,
        partial: bool = False,
        partial_ttl: str | float = "10m",
        cache: bool = False,
    ) -> None:
        self._options = read_options(
            domain=domain,
            record_type=record_type,
            ipv6=ipv6,
            host_type=host_type,
            port=port,
            lookup_timeout=lookup_timeout,
            nameservers=nameservers,
            partial=partial,
            partial_ttl=partial_ttl,
            cache=cache,
        )
        self._offload = Offload()
        self._resolver: Resolver = SystemResolver(
            self._offload,
            self._options.nameservers,
            search=not self._options.name.is_absolute(),
        )
        self._clock: Callable[[], float] = time.monotonic
        self._last: tuple[tuple[Records, ...], Peers] = ((), NOBODY)
        self._kept: tuple[Snapshot, float] | None = None
        self._seen: dict[Peer, tuple[float, Mapping[str, str]]] = {}
        self._said: dict[str, str] = {}

    @classmethod
    def using(
        cls,
        domain: str,
        *,
        resolver: Callable[[Offload, Options], Resolver],
        clock: Callable[[], float] = time.monotonic,
        **options: Any,
    ) -> Self:
        """Make one that asks another resolver, or lives by another clock: for tests.

        Parameters
        ----------
        resolver
            Makes it, of the discovery's thread and its options.
        clock
            Monotonic seconds, for ``partial_ttl`` and ``cache``.
        """
        discovery = cls(domain, **options)
        discovery._resolver = resolver(discovery._offload, discovery._options)
        discovery._clock = clock
        return discovery

    def __repr__(self) -> str:
        kind = "?record-type=srv" if self._options.record_type == "srv" else ""
        return f"dns:{self._options.domain}{kind}"

    @classmethod
    def options_from_text(cls, text: str) -> Mapping[str, Any]:
        return {"domain": text}

    async def peers(self) -> Snapshot:
        if self._kept is not None and self._clock() < self._kept[1]:
            return self._kept[0]
        looked = await self._look()
        self._say("skipped", looked.peers.skipped)
        self._say("the answer is not complete", looked.doubts)
        now = self._clock()
        if self._options.partial:
            snapshot = self._remember(looked, now)
        else:
            snapshot = Snapshot(
                looked.peers.peers,
                complete=not looked.doubts,
                labels=looked.peers.labels,
                reason=several(looked.doubts),
            )
        self._kept = None
        if self._options.cache and looked.ttl > 0 and not looked.doubts:
            self._kept = snapshot, now + looked.ttl
        return snapshot

    async def close(self) -> None:
        await self._offload.close()

    async def _look(self) -> _Looked:
        options = self._options
        lookup = await self._resolver.begin(options.lookup_timeout)
        types = (SRV,) if options.record_type == "srv" else options.address_types
        found = await lookup.find(options.name, types)
        if not found.answers:
            if found.doubts:
                raise DiscoveryError(several(found.doubts))
            return _Looked()
        ttl = min(answer.ttl for answer in found.answers)
        if (options.record_type == "srv") == (options.host_type == "hostname"):
            return _Looked(await self._as_it_stands(found.answers), found.doubts, ttl)
        return await self._resolved(lookup, found, ttl)

    async def _as_it_stands(self, answers: tuple[Records, ...]) -> Peers:
        """Peers of records whose hosts are not looked up any further; made once for each answer."""
        if _are_equal(self._last[0], answers):
            return self._last[1]

        def make(pause: Pause) -> Peers:
            return build(*self._rows(answers), pause)

        peers = await self._compute(make, sum(len(a.records) for a in answers))
        self._last = answers, peers
        return peers

    async def _resolved(self, lookup: Lookup, found: Found, ttl: float) -> _Looked:
        """Peers of records whose hosts are looked up themselves."""
        reverse = self._options.record_type == "ip"
        count = sum(len(answer.records) for answer in found.answers)
        rows, skipped = await self._compute(lambda _: self._rows(found.answers), count)
        hosts = dict.fromkeys(row.host for row in rows)
        if reverse:
            looks = await lookup.resolve(hosts, (PTR,), dns.reversename.from_address)
        else:
            looks = await lookup.resolve(hosts, self._options.address_types, dns.name.from_text)

        def make(pause: Pause) -> tuple[Peers, list[str]]:
            resolved, doubts = resolved_rows(rows, first_names(looks) if reverse else looks)
            return build(resolved, skipped, pause), doubts

        peers, doubts = await self._compute(make, count)
        if rows and not peers.peers and doubts:
            raise DiscoveryError(
                f"none of {len(hosts)} {'addresses' if reverse else 'targets'} of"
                f" {self._options.domain} could be resolved: {several(sorted(doubts))}"
            )
        ttls = [answer.ttl for look in looks.values() for answer in look.answers]
        return _Looked(peers, (*found.doubts, *doubts), min([ttl, *ttls]))

    def _rows(self, answers: tuple[Records, ...]) -> tuple[list[Row], list[str]]:
        if self._options.record_type == "srv":
            return service_rows(answers)
        return address_rows(answers, self._options.port), []

    async def _compute(self, make: Callable[[Pause], T], count: int) -> T:
        """Compute something, in the thread where it is about many rows."""
        if count <= FEW:
            return make(lambda: None)
        until = asyncio.get_running_loop().time() + COMPUTE_TIMEOUT
        try:
            return await self._offload.run(make, until)
        except TooLateError:
            raise DiscoveryError(
                f"{self._options.domain}: {count} records could not be made into peers within"
                f" {COMPUTE_TIMEOUT:g} s"
            ) from None

    def _remember(self, looked: _Looked, now: float) -> Snapshot:
        """Add what was found to what is remembered."""
        until = now + self._options.partial_ttl
        found = looked.peers
        fresh = {peer: (until, found.labels[peer]) for peer in found.peers}
        # Those that were named last stand last.
        old = {p: seen for p, seen in self._seen.items() if seen[0] > now and p not in fresh}
        old = dict(islice(old.items(), max(0, len(old) + len(fresh) - MOST_REMEMBERED), None))
        self._seen = old | fresh
        labels = {peer: label for peer, (_, label) in self._seen.items()}
        reason = several((PARTIAL, *looked.doubts))
        return Snapshot(frozenset(self._seen), complete=False, labels=labels, reason=reason)

    def _say(self, what: str, problems: Sequence[str]) -> None:
        """Log problems when they are others than at the last look."""
        text = several(sorted(problems))
        if text and text != self._said.get(what):
            logger.warning("%r: %s: %s", self, what, text)
        self._said[what] = text


def _are_equal(a: tuple[Records, ...], b: tuple[Records, ...]) -> bool:
    """Whether answers have the same records; quick where they are the very same objects."""
    return len(a) == len(b) and all(
        x.records == y.records and x.chain == y.chain for x, y in zip(a, b, strict=True)
    )
