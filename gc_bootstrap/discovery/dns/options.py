"""What a person may write under ``dns:``, and its checks."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Literal, TypeVar

import dns.exception
import dns.name
from dns.name import Name
from dns.rdatatype import AAAA, A, RdataType

from gc_bootstrap.checks import BadValueError, duration, one_of
from gc_bootstrap.discovery.dns.system import DNS_PORT
from gc_bootstrap.errors import ConfigError, PeerError
from gc_bootstrap.peer import DEFAULT_PORT, Peer

T = TypeVar("T")

# RFC 1123 section 2.1, and the underscore of service names (RFC 2782).
_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)\Z")


@dataclass(frozen=True, slots=True)
class Options:
    """The options of a :class:`DnsDiscovery`, all checked. Durations are seconds."""

    domain: str
    name: Name
    record_type: Literal["ip", "srv"] = "ip"
    address_types: tuple[RdataType, ...] = (A,)
    host_type: Literal["ip", "hostname"] = "ip"
    port: int = DEFAULT_PORT
    lookup_timeout: float = 5.0
    nameservers: tuple[Peer, ...] = ()
    partial: bool = False
    partial_ttl: float = 600.0
    cache: bool = False


def read_options(
    domain: Any,
    record_type: Any,
    ipv6: Any,
    host_type: Any,
    port: Any,
    lookup_timeout: Any,
    nameservers: Any,
    partial: Any,
    partial_ttl: Any,
    cache: Any,
) -> Options:
    """Check what was written.

    Raises
    ------
    ConfigError
        With all problems: the option, the value, what was expected.
    """
    problems: list[str] = []

    def checked(option: str, value: Any, check: Callable[[Any], T], default: T) -> T:
        try:
            return default if value is None else check(value)
        except BadValueError as exc:
            problems.append(f"{option}: {value!r} {exc}")
            return default

    name = checked("domain", domain, _name, dns.name.root)
    kind = checked("record-type", record_type, one_of("ip", "srv"), "ip")
    usual = "hostname" if kind == "srv" else "ip"
    if kind == "srv" and port is not None:
        problems.append(f"port: {port!r} is for record-type ip; SRV records have their own")
    options = Options(
        domain=str(domain),
        name=name,
        record_type="srv" if kind == "srv" else "ip",
        address_types=checked("ipv6", ipv6, _address_types, (A,)),
        host_type=(
            "hostname"
            if checked("host-type", host_type, one_of("ip", "hostname"), usual) == "hostname"
            else "ip"
        ),
        port=checked("port", port, _port, DEFAULT_PORT),
        lookup_timeout=checked("lookup-timeout", lookup_timeout, duration, 5.0),
        nameservers=checked("nameservers", nameservers, _nameservers, ()),
        partial=checked("partial", partial, _flag, False),
        partial_ttl=checked("partial-ttl", partial_ttl, duration, 600.0),
        cache=checked("cache", cache, _flag, False),
    )
    if domain is None:
        problems.insert(0, "domain: None is not a DNS name such as workers.prod")
    if problems:
        raise ConfigError("; ".join(problems))
    return options


def _name(value: Any) -> Name:
    if not isinstance(value, str) or not value.strip("."):
        raise BadValueError("is not a DNS name such as workers.prod")
    try:
        ip_address(value)
    except ValueError:
        pass
    else:
        raise BadValueError("is an address and not a DNS name; the discovery for it is static")
    if ".." in value:
        raise BadValueError("has two adjacent dots")
    try:
        name = dns.name.from_text(value, None)  # takes international names, too
        dns.name.from_text(value)  # the root included, it must not be too long
    except dns.name.LabelTooLong:
        raise BadValueError("has a label of more than 63 characters") from None
    except dns.name.NameTooLong:
        raise BadValueError("is longer than 255 characters") from None
    except (dns.exception.DNSException, UnicodeError):
        raise BadValueError("is not a DNS name such as workers.prod") from None
    labels = [label.decode("ascii", "replace") for label in name.labels if label]
    if "\\" in value or not all(_LABEL.match(label) for label in labels):
        raise BadValueError("is not a DNS name such as workers.prod")
    return name


def _address_types(value: Any) -> tuple[RdataType, ...]:
    types: dict[Any, tuple[RdataType, ...]] = {False: (A,), True: (AAAA,), "both": (A, AAAA)}
    if not isinstance(value, bool | str) or value not in types:
        raise BadValueError("is not one of false, true, both")
    return types[value]


def _port(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 65536:
        raise BadValueError("is not a port between 1 and 65535")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise BadValueError("is neither true nor false")
    return value


def _nameservers(value: Any) -> tuple[Peer, ...]:
    listed = value.split(",") if isinstance(value, str) else value
    if not isinstance(listed, list | tuple) or not listed:
        raise BadValueError("is not a list of name servers such as 10.96.0.10 or 10.96.0.10:53")
    try:
        return tuple(Peer.parse(server, DNS_PORT) for server in listed)
    except PeerError as exc:
        raise BadValueError(f"is not a list of name servers: {exc}") from None
