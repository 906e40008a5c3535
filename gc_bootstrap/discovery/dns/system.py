"""The system's resolver configuration, ``/etc/resolv.conf``, and how it completes names."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import dns.exception
import dns.name
import dns.resolver
from dns.name import Name

from gc_bootstrap.errors import DiscoveryError, PeerError, one_line
from gc_bootstrap.peer import Peer

RESOLV_CONF = Path("/etc/resolv.conf")
DNS_PORT = 53

MAX_NDOTS = 15
"""glibc takes a larger ``ndots`` for this (RES_MAXNDOTS)."""


@dataclass(frozen=True, slots=True)
class ResolvConf:
    """What ``resolv.conf`` says: whom to ask, and how relative names are completed."""

    servers: tuple[Peer, ...] = ()
    search: tuple[Name, ...] = ()
    ndots: int = 1


def read_resolv_conf(path: Path) -> ResolvConf:
    """Read the file, with dnspython's reader. Blocks.

    Returns
    -------
    ResolvConf
        Without servers where the file names none or does not exist.

    Raises
    ------
    DiscoveryError
        It cannot be read, or makes no sense.
    """
    resolver = dns.resolver.Resolver(configure=False)
    try:
        with suppress(dns.resolver.NoResolverConfiguration), path.open(encoding="utf-8") as file:
            resolver.read_resolv_conf(file)
        servers = tuple(Peer(str(server), DNS_PORT) for server in resolver.nameservers)
    except FileNotFoundError:
        servers = ()
    except OSError as exc:
        raise DiscoveryError(f"{path}: cannot be read: {exc.strerror}") from exc
    except (dns.exception.DNSException, ValueError, PeerError) as exc:
        raise DiscoveryError(f"{path}: makes no sense: {one_line(exc)}") from exc
    search = resolver.search or [resolver.domain]
    ndots = 1 if resolver.ndots is None else min(max(resolver.ndots, 0), MAX_NDOTS)
    return ResolvConf(servers, tuple(search), ndots)


class ResolvConfFile:
    """The file, read again when it has changed.

    Parameters
    ----------
    path
        Where it is.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stamp: tuple[int, ...] = ()
        self._read = ResolvConf()

    def current(self) -> ResolvConf:
        """What it says now. Blocks.

        Raises
        ------
        DiscoveryError
            As :func:`read_resolv_conf`.
        """
        stamp: tuple[int, ...] = ()
        with suppress(OSError):  # reading it says what is wrong
            status = os.stat(self.path)
            stamp = (status.st_mtime_ns, status.st_ino, status.st_dev, status.st_size)
        if stamp != self._stamp or not stamp:
            self._read, self._stamp = read_resolv_conf(self.path), stamp
        return self._read


def candidates(name: Name, search: Sequence[Name], ndots: int) -> list[Name]:
    """The absolute names that a name may mean, in the order in which they are tried.

    As glibc does it (``res_search``), and with it ``getent`` inside a pod: a name that ends with
    a dot means itself; one with at least ``ndots`` dots is tried as it stands and then with each
    suffix; any other first with each suffix, and then as it stands.

    Returns
    -------
    list
        Without repetitions, and without those that would be too long.
    """
    itself = name.derelativize(dns.name.root)
    if name.is_absolute():
        return [itself]
    completed = []
    for suffix in search:
        try:
            completed.append(name.derelativize(suffix))
        except dns.name.NameTooLong:
            continue
    dots = len(name.labels) - 1
    ordered = [itself, *completed] if dots >= ndots else [*completed, itself]
    return list(dict.fromkeys(ordered))
