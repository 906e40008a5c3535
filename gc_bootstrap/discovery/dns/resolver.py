"""Asking name servers: which, in what order, and what their answers prove together.

dnspython's ``asyncresolver`` does not fit, though its parts are used: it reads answers on the event
loop, takes an empty answer of a server that knows nothing about the name for a proof, ends a
search list at the first empty answer, and drops what it knew when it asks the next name.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Protocol

import dns.name
import dns.rcode
from dns.name import Name
from dns.rdatatype import AAAA, A, RdataType

from gc_bootstrap.discovery.dns import message, transport
from gc_bootstrap.discovery.dns.message import (
    Alias,
    Answer,
    MalformedError,
    Nothing,
    Question,
    Records,
    Truncated,
    Unknown,
)
from gc_bootstrap.discovery.dns.offload import Offload, TooLateError
from gc_bootstrap.discovery.dns.system import RESOLV_CONF, ResolvConf, ResolvConfFile, candidates
from gc_bootstrap.discovery.dns.transport import NoAnswerError, SilentError
from gc_bootstrap.errors import DiscoveryError
from gc_bootstrap.peer import Peer

logger = logging.getLogger(__name__)

UDP_SHARE, TCP_SHARE = 0.25, 0.5
"""Parts of the lookup-timeout that one attempt may take: a lost datagram is asked for again."""

ROUNDS = 2
"""How often a server that is silent is asked the same; glibc's default (``attempts``)."""

CONCURRENCY = 64
"""Names of one look-up that are asked for at the same time; each has a socket."""

SMALL = message.EDNS_PAYLOAD
"""Octets up to which an answer is read on the event loop: 1 ms at most, and most take a tenth of
that, as a change of threads does. Look-ups of thousands of names have answers of this size."""

REMEMBERED = 8192
"""Answers that are remembered: those of one look-up, with all its targets or addresses. A message
holds fewer than 6,000 records."""

Exchange = Callable[[Peer, bytes, float], Awaitable[bytes]]
_Read = tuple[frozenset[bytes], Records]


@dataclass(frozen=True, slots=True)
class Found:
    """What is known about a name.

    Parameters
    ----------
    answers
        With records, one for each type that has some.
    doubts
        Why that is not the whole truth, one line each. No answers and no doubts: there is
        nothing. No answers but doubts: that cannot be known.
    """

    answers: tuple[Records, ...] = ()
    doubts: tuple[str, ...] = ()


class Lookup(Protocol):
    """One look-up, of any number of names, with one deadline."""

    async def find(self, name: Name, types: Sequence[RdataType]) -> Found:
        """Ask for a name that may be relative."""

    async def resolve(
        self, hosts: Collection[str], types: Sequence[RdataType], name_of: Callable[[str], Name]
    ) -> dict[str, Found]:
        """Ask for many hosts; ``name_of`` says by which absolute name."""


class Resolver(Protocol):
    """What a discovery asks; tests put in their own."""

    async def begin(self, timeout: float) -> Lookup:
        """Begin a look-up that ends in so many seconds.

        Raises
        ------
        DiscoveryError
            There is nobody to ask.
        """


class Reader:
    """Reads answers, large ones in a thread, and the same one only once.

    Parameters
    ----------
    offload
        The thread.
    """

    def __init__(self, offload: Offload) -> None:
        self._offload = offload
        self._last: dict[Question, _Read] = {}

    async def read(self, wire: bytes, question: Question, until: float) -> Answer:
        """Read an answer. One with the records of the last gives the very same ``records``.

        Raises
        ------
        MalformedError
            It is not a DNS message.
        TooLateError
            There was no time to read it.
        """
        last = self._last.get(question)
        if len(wire) <= SMALL:
            answer, fingerprint = _read(wire, question, last)
        else:
            answer, fingerprint = await self._offload.run(
                lambda pause: _read(wire, question, last, pause), until
            )
        if fingerprint is not None and isinstance(answer, Records):
            self._last[question] = fingerprint, answer
            if len(self._last) > REMEMBERED:
                del self._last[next(iter(self._last))]
        return answer


def _read(
    wire: bytes, question: Question, last: _Read | None, pause: Callable[[], None] = lambda: None
) -> tuple[Answer, frozenset[bytes] | None]:
    """Read an answer, unless the last one said the same."""
    parsed = message.parse(wire)
    pause()
    fingerprint = message.fingerprint(parsed, question)
    pause()
    if last is not None and last[0] == fingerprint:
        return replace(last[1], ttl=message.ttl_of(parsed.answer)), fingerprint
    return message.read(parsed, question, pause), fingerprint


class SystemResolver:
    """Asks the given name servers, or those of ``resolv.conf``.

    Parameters
    ----------
    offload
        The thread that reads files and large answers; closed by its owner.
    nameservers
        In place of the system's. A host that is a name is resolved by the system's.
    search
        Whether relative names are going to be asked for. If not, and with addresses as
        ``nameservers``, the system's configuration is not read.
    resolv_conf
        The system's configuration.
    udp, tcp
        How one server is asked.
    """

    def __init__(
        self,
        offload: Offload,
        nameservers: Sequence[Peer] = (),
        search: bool = True,
        resolv_conf: Path = RESOLV_CONF,
        udp: Exchange = transport.udp,
        tcp: Exchange = transport.tcp,
    ) -> None:
        self._offload = offload
        self._reader = Reader(offload)
        self._nameservers = tuple(nameservers)
        self._is_self_sufficient = not search and all(map(_has_address, self._nameservers))
        self._file = ResolvConfFile(resolv_conf)
        self._udp, self._tcp = udp, tcp

    async def begin(self, timeout: float) -> Lookup:
        until = asyncio.get_running_loop().time() + timeout

        def lookup(conf: ResolvConf) -> Lookup:
            return _Lookup(self._reader, conf, timeout, until, self._udp, self._tcp)

        if self._nameservers and self._is_self_sufficient:
            return lookup(ResolvConf(self._nameservers))
        try:
            conf = await self._offload.run(lambda _: self._file.current(), until)
        except TooLateError:
            raise DiscoveryError(f"{self._file.path}: could not be read in time") from None
        system = lookup(conf)
        if self._nameservers:
            servers, problems = await _addresses(self._nameservers, system)
            if not servers:
                raise DiscoveryError("; ".join(problems))
            for problem in problems:
                logger.debug("%s", problem)
            return lookup(replace(conf, servers=tuple(servers)))
        if not conf.servers:
            raise DiscoveryError(f"{self._file.path}: is not there, or names no server")
        return system


def _has_address(server: Peer) -> bool:
    try:
        ip_address(server.host)
    except ValueError:
        return False
    return True


async def _addresses(nameservers: Sequence[Peer], system: Lookup) -> tuple[list[Peer], list[str]]:
    """Name servers with addresses for names."""
    servers: list[Peer] = []
    problems: list[str] = []
    for server in nameservers:
        if _has_address(server):
            servers.append(server)
        elif server.host == "localhost":  # no server is asked for it (RFC 6761 section 6.3)
            servers += [Peer("127.0.0.1", server.port), Peer("::1", server.port)]
        else:
            found = await system.find(dns.name.from_text(server.host, None), (A, AAAA))
            hosts = [record.host for answer in found.answers for record in answer.records]
            if not hosts:
                why = "; ".join(found.doubts) or "there is no such name"
                problems.append(f"nameserver {server}: {why}")
            servers += [Peer(host, server.port) for host in hosts]
    return servers, problems


class _Lookup:
    """One look-up at the name servers of ``conf``."""

    def __init__(
        self,
        reader: Reader,
        conf: ResolvConf,
        timeout: float,
        until: float,
        udp: Exchange,
        tcp: Exchange,
    ) -> None:
        self._reader = reader
        self._conf = conf
        self._timeout, self._until = timeout, until
        self._udp, self._tcp = udp, tcp
        self._silent: set[Peer] = set()

    async def find(self, name: Name, types: Sequence[RdataType]) -> Found:
        """Ask for what the name may mean, until there are records.

        A name that could not be asked for leaves a doubt, and the next one is tried all the same
        (as glibc goes on after SERVFAIL): what that has is then a part of the truth.
        """
        doubts: tuple[str, ...] = ()
        for candidate in candidates(name, self._conf.search, self._conf.ndots):
            found = await self._resolve(candidate, types)
            doubts += found.doubts
            if found.answers:
                return Found(found.answers, doubts)
        return Found((), doubts)

    async def resolve(
        self, hosts: Collection[str], types: Sequence[RdataType], name_of: Callable[[str], Name]
    ) -> dict[str, Found]:
        """Ask for many hosts, some at a time."""
        waiting = iter(hosts)
        found: dict[str, Found] = {}

        async def work() -> None:
            for host in waiting:
                found[host] = await self._resolve(name_of(host), types)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(min(CONCURRENCY, len(hosts))):
                tasks.create_task(work(), name="gc_bootstrap dns: look-up")
        return found

    async def _resolve(self, name: Name, types: Sequence[RdataType]) -> Found:
        """Ask for one name."""
        questions = [Question(name, kind) for kind in types]
        if len(questions) == 1:
            answers = [await self._follow(questions[0])]
        else:
            async with asyncio.TaskGroup() as tasks:
                asked = [
                    tasks.create_task(self._follow(question), name=f"gc_bootstrap dns: {question}")
                    for question in questions
                ]
            answers = [task.result() for task in asked]
        return Found(
            tuple(answer for answer in answers if isinstance(answer, Records)),
            tuple(answer.reason for answer in answers if isinstance(answer, Unknown)),
        )

    async def _follow(self, question: Question) -> Records | Nothing | Unknown:
        """Ask, and ask again for what the name is an alias of where the answer ends there."""
        asked, ttl = question, 2**31
        chain: tuple[str, ...] = ()
        names = {question.name}
        while True:
            answer = await self._ask(asked)
            if isinstance(answer, Records):
                return replace(answer, chain=chain + answer.chain, ttl=min(ttl, answer.ttl))
            if isinstance(answer, Unknown) and chain:
                return Unknown("; ".join((*chain, answer.reason)))
            if not isinstance(answer, Alias):
                return answer
            chain, ttl = chain + answer.chain, min(ttl, answer.ttl)
            asked = Question(answer.target, question.type)
            if asked.name in names or len(chain) > message.MAX_CHAIN:
                return Unknown(f"{question}: a loop of aliases: " + "; ".join(chain))
            names.add(asked.name)

    async def _ask(self, question: Question) -> Records | Alias | Nothing | Unknown:
        """Ask one server after the other until one can say."""
        # The first of each server: the same failure is to be told in the same words at each look.
        failures: dict[Peer, str] = {}
        # Those that have been silent before come last: thousands of names are not to wait for them.
        servers = sorted(self._conf.servers, key=self._silent.__contains__)
        for _ in range(ROUNDS):
            for server in servers:
                try:
                    answer = await self._ask_server(server, question)
                except (NoAnswerError, MalformedError) as exc:
                    if isinstance(exc, SilentError):
                        self._silent.add(server)
                    failures.setdefault(server, str(exc))
                else:
                    if not isinstance(answer, Unknown):
                        return answer
                    failures.setdefault(server, answer.reason)
            servers = [server for server in servers if server in self._silent]
            if not servers:
                break
        said = "; ".join(f"{server} {failure}" for server, failure in failures.items())
        return Unknown(f"{question}: {said}")

    async def _ask_server(
        self, server: Peer, question: Question
    ) -> Records | Alias | Nothing | Unknown:
        sent = message.query(question)
        answer = await self._exchange(self._udp, UDP_SHARE, server, sent, question)
        if isinstance(answer, Unknown) and answer.rcode in (dns.rcode.FORMERR, dns.rcode.NOTIMP):
            sent = message.query(question, edns=False)  # RFC 6891 section 6.2.2
            answer = await self._exchange(self._udp, UDP_SHARE, server, sent, question)
        if isinstance(answer, Truncated):
            answer = await self._exchange(self._tcp, TCP_SHARE, server, sent, question)
        if isinstance(answer, Truncated):
            return Unknown("has more records than fit into an answer (65,535 octets)")
        return answer

    async def _exchange(
        self, exchange: Exchange, share: float, server: Peer, sent: bytes, question: Question
    ) -> Answer:
        left = self._until - asyncio.get_running_loop().time()
        if left <= 0:
            raise SilentError(f"was not asked: the lookup-timeout of {self._timeout:.3g} s is over")
        wire = await exchange(server, sent, min(left, share * self._timeout))
        try:
            return await self._reader.read(wire, question, self._until)
        except MalformedError as exc:
            raise MalformedError(f"answered what is not a DNS message ({exc})") from exc
        except TooLateError:
            raise NoAnswerError("answered too late to be read in time") from None
