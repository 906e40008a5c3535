"""DNS messages as servers send them, made with dnspython, and servers that need no network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

from gc_bootstrap.discovery.dns.message import Question
from gc_bootstrap.discovery.dns.transport import NoAnswerError
from gc_bootstrap.peer import Peer

SOA = "workers.test. 30 SOA ns.workers.test. hostmaster.workers.test. 1 10 10 10 5"


def question(name: str, kind: str = "A") -> Question:
    return Question(dns.name.from_text(name), dns.rdatatype.from_text(kind))


def rrset(text: str) -> dns.rrset.RRset:
    """One record, as `name TTL TYPE data`."""
    name, ttl, kind, data = text.split(maxsplit=3)
    return dns.rrset.from_text(name, int(ttl), "IN", kind, data)


def answer_to(
    query: bytes,
    answer: Iterable[str] = (),
    authority: Iterable[str] = (),
    *,
    additional: Iterable[str] = (),
    rcode: str = "NOERROR",
    aa: bool = True,
    tc: bool = False,
) -> bytes:
    """The answer to a query, its records in this order."""
    asked = dns.message.from_wire(query)
    made = dns.message.make_response(asked, recursion_available=not aa)
    made.set_rcode(dns.rcode.from_text(rcode))
    made.flags |= (dns.flags.AA if aa else 0) | (dns.flags.TC if tc else 0)
    made.answer = [rrset(text) for text in answer]
    made.authority = [rrset(text) for text in authority]
    made.additional = [rrset(text) for text in additional]
    return made.to_wire(max_size=65535)


Behaviour = Callable[[bytes], bytes]


class Servers:
    """Name servers without a network, each with a behaviour for every name and type.

    Attributes
    ----------
    asked
        ``(server, "name TYPE", "udp" | "tcp")`` in the order of the queries.
    """

    def __init__(self, behaviours: dict[str, Mapping[str, Behaviour | Exception]]) -> None:
        self.behaviours = behaviours
        self.asked: list[tuple[str, str, str]] = []

    def _answer(self, server: Peer, sent: bytes, how: str) -> bytes:
        (asked,) = dns.message.from_wire(sent).question
        text = f"{asked.name} {dns.rdatatype.to_text(asked.rdtype)}"
        self.asked.append((str(server), text, how))
        known = self.behaviours.get(str(server))
        if known is None:
            raise NoAnswerError("cannot be reached: Connection refused")
        behaviour = known.get(f"{text} {how}") or known.get(text) or known.get("*", refused)
        if isinstance(behaviour, Exception):
            raise behaviour
        return behaviour(sent)

    async def udp(self, server: Peer, sent: bytes, timeout: float) -> bytes:
        return self._answer(server, sent, "udp")

    async def tcp(self, server: Peer, sent: bytes, timeout: float) -> bytes:
        return self._answer(server, sent, "tcp")


def records(*texts: str) -> Behaviour:
    """Answer these."""
    return lambda sent: answer_to(sent, texts)


def code(rcode: str) -> Behaviour:
    """Answer an error."""
    return lambda sent: answer_to(sent, rcode=rcode, aa=False)


def nxdomain(sent: bytes) -> bytes:
    """Say that there is no such name, as a resolver says it."""
    (asked,) = dns.message.from_wire(sent).question
    soa = f"{asked.name.parent()} 30 SOA ns.test. hostmaster.test. 1 10 10 10 5"
    return answer_to(sent, (), [soa], rcode="NXDOMAIN", aa=False)


def truncated(sent: bytes) -> bytes:
    """Say that it does not fit."""
    return answer_to(sent, tc=True)


refused = code("REFUSED")
servfail = code("SERVFAIL")
