"""The values that every layer speaks of: :class:`Peer`, :class:`Snapshot`, :class:`Outcome`."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from typing import ClassVar, Literal

from gc_bootstrap.errors import PeerError
from gc_bootstrap.stake import Holder

DEFAULT_PORT = 8791
"""Port of an agent's HTTP API where none is given."""

# RFC 1123 section 2.1 labels; the underscore occurs in real DNS names (RFC 2181 section 11).
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)\Z")
# Of a link-local IPv6 address (RFC 4007 section 11): an interface's name or number.
_ZONE = re.compile(r"[A-Za-z0-9_.-]{1,15}\Z")


@lru_cache(maxsize=65536)
def _canonical_host(host: str) -> str:
    if not isinstance(host, str):
        raise PeerError(f"{host!r} is neither an IP address nor a DNS name")
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        pass
    else:
        zone = getattr(ip, "scope_id", None)
        if zone is not None and not _ZONE.match(zone):
            raise PeerError(f"{host!r} is not an IPv6 address")
        return str(ip)
    name = host.removesuffix(".").lower()
    labels = name.split(".")
    if not name or len(name) > 253 or not all(_LABEL.match(label) for label in labels):
        raise PeerError(f"{host!r} is neither an IP address nor a DNS name")
    if labels[-1].isdigit():
        # No top-level domain is all digits (RFC 1123 section 2.1): this is a mistyped IPv4 address.
        raise PeerError(f"{host!r} is not an IPv4 address")
    return name


@dataclass(frozen=True, order=True, slots=True)
class Peer:
    """One agent as discovery names it. Identity only: equal peers are the same agent.

    Parameters
    ----------
    host
        IP address or DNS name, without brackets. Kept in canonical form: ``FD00::5`` becomes
        ``fd00::5``, ``Node-1.`` becomes ``node-1``.
    port
        TCP port of the agent's HTTP API, 1 to 65535.

    Raises
    ------
    PeerError
        The host or the port cannot be one.

    Examples
    --------
    >>> str(Peer.parse("[FD00::5]:8791"))
    '[fd00::5]:8791'
    """

    host: str
    port: int = DEFAULT_PORT

    def __post_init__(self) -> None:
        object.__setattr__(self, "host", _canonical_host(self.host))
        if isinstance(self.port, bool) or not isinstance(self.port, int):
            raise PeerError(f"port {self.port!r} is not a number")
        if not 0 < self.port < 65536:
            raise PeerError(f"port {self.port} is not between 1 and 65535")

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str, default_port: int = DEFAULT_PORT) -> Peer:
        """Read ``host``, ``host:port``, ``[v6]:port``, ``[v6]`` or a bare IPv6 address.

        ``fd00::5:8791`` is refused: it is an address, and another one with a port.

        Parameters
        ----------
        text
            What to read; white space around it is ignored.
        default_port
            The port where the text names none.

        Raises
        ------
        PeerError
            The text names no peer; the message quotes it.
        """
        if not isinstance(text, str):
            raise PeerError(f"{text!r} is not an address such as 10.0.0.5:{DEFAULT_PORT}")
        return _parse(text.strip(), default_port)


@lru_cache(maxsize=65536)
def _parse(text: str, default_port: int) -> Peer:
    # Cached: equal texts give the very same Peer, which keeps set operations over thousands of
    # peers in C (an identity check instead of a call of Peer.__eq__).
    port: str | None
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        port = rest[1:] if rest.startswith(":") else None
        if not bracket or ":" not in host or (rest and port is None):
            raise PeerError(f"{text!r} is not an address such as [fd00::5]:{DEFAULT_PORT}")
    elif text.count(":") > 1:
        if _has_a_port(text):
            front, _, back = text.rpartition(":")
            raise PeerError(
                f"{text!r} is ambiguous; expected [{front}]:{back}, or [{text}] where that is all"
                " of the address"
            )
        host, port = text, None
    else:
        host, colon, port_text = text.partition(":")
        port = port_text if colon else None
    if port is not None and not (port.isascii() and port.isdigit() and len(port) <= 5):
        raise PeerError(f"{text!r}: {port!r} is not a port between 1 and 65535")
    try:
        return Peer(host, default_port if port is None else int(port))
    except PeerError as exc:
        raise PeerError(f"{text!r}: {exc}") from None


def _has_a_port(text: str) -> bool:
    """Whether a bare IPv6 address may as well be a shorter one with a port behind it."""
    front, _, back = text.rpartition(":")
    if not (back.isascii() and back.isdigit()):
        return False
    try:
        ipaddress.IPv6Address(front)
    except ValueError:
        return False
    return True


def _no_labels() -> Mapping[Peer, Mapping[str, str]]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One answer of a discovery.

    Parameters
    ----------
    peers
        All that the answer names, the leaving ones included.
    leaving
        Of those, the ones that still serve and are about to go.
    complete
        False where absence from this answer proves nothing.
    labels
        What is known about a peer (pod, node, zone), for people and metrics; never for decisions.
    reason
        With ``complete=False``: why, in one line for people; the pool's status shows it.

    Raises
    ------
    ValueError
        ``leaving`` names somebody that ``peers`` does not, or a complete answer has a reason not
        to be.
    TypeError
        ``reason`` is no text, but an exception, say.
    """

    peers: frozenset[Peer]
    leaving: frozenset[Peer] = frozenset()
    complete: bool = True
    labels: Mapping[Peer, Mapping[str, str]] = field(default_factory=_no_labels, compare=False)
    reason: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.reason, str):
            raise TypeError(f"reason: expected a text, got {self.reason!r}")
        if self.complete and self.reason:
            raise ValueError(f"complete, and yet not because: {self.reason}")
        if not self.leaving <= self.peers:
            strangers = ", ".join(sorted(map(str, self.leaving - self.peers)))
            raise ValueError(f"leaving, but not among the peers: {strangers}")

    @classmethod
    def of(cls, peers: Snapshot | Iterable[Peer | str]) -> Snapshot:
        """Make a snapshot of whatever a plain discovery function returned.

        Raises
        ------
        PeerError
            One of the texts names no peer.
        TypeError
            What was returned is no collection of peers.
        """
        if isinstance(peers, Snapshot):
            return peers
        if isinstance(peers, str) or not isinstance(peers, Iterable):
            raise TypeError(f"expected a Snapshot or a collection of peers, got {peers!r}")
        return cls(frozenset(p if isinstance(p, Peer) else Peer.parse(p) for p in peers))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one connect or disconnect.

    Parameters
    ----------
    kind
        ``"done"``; ``"refused"``: not now, try again later; ``"ignored"``: not ours, never again.
    reason
        One line for people. Empty when done, unless something was lost by it.
    same_as
        The member that this peer is another name of. It is not asked again while that one stays.
    expected
        Whether a refusal is part of the peer's normal life, and nothing that an operator has to
        see: it starts or ends at this moment.
    soon
        Whether the peer may be had at any moment and is cheap to ask: it is asked again within
        seconds, however often it has refused.
    holder
        Of a refusal: the other scheduler that holds the peer, where that is why.
    """

    kind: Literal["done", "refused", "ignored"]
    reason: str = ""
    same_as: Peer | None = None
    expected: bool = False
    soon: bool = False
    holder: Holder | None = None

    DONE: ClassVar[Outcome]

    @classmethod
    def refused(
        cls,
        reason: str,
        same_as: Peer | None = None,
        *,
        expected: bool = False,
        soon: bool = False,
        holder: Holder | None = None,
    ) -> Outcome:
        """Not now; the pool tries again later."""
        return cls("refused", reason, same_as, expected, soon, holder)

    @classmethod
    def ignored(cls, reason: str) -> Outcome:
        """Not ours; the pool asks no more while the peer stays in discovery."""
        return cls("ignored", reason)

    def __bool__(self) -> bool:
        return self.kind == "done"


Outcome.DONE = Outcome("done")
