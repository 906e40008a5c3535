"""Where an agent listens, and whether others than this host can reach it."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from dataclasses import dataclass

from gc_bootstrap.errors import ConfigError
from gc_bootstrap.peer import DEFAULT_PORT, Peer

BACKLOG = 1024
"""Connections that the kernel keeps until they are accepted, where it allows so many."""


@dataclass(frozen=True, slots=True)
class Listen:
    """A host and a port to listen on.

    Parameters
    ----------
    host
        IP address or name; ``0.0.0.0`` or ``::`` for all addresses.
    port
        0 lets the system choose.
    fixed
        False where a person asked for nothing: another port will do if this one is taken.
    """

    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    fixed: bool = False

    @classmethod
    def parse(cls, text: str | None) -> Listen:
        """Read ``--listen HOST:PORT``.

        Raises
        ------
        ConfigError
            It is not that.
        """
        if text is None:
            return cls()
        host, colon, port = text.rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            colon = ""  # a bare IPv6 address has no port
        is_port = port.isascii() and port.isdigit() and len(port) <= 5
        if not colon or not is_port or int(port) > 65535:
            raise ConfigError(f"--listen {text}: is not HOST:PORT, such as 0.0.0.0:{DEFAULT_PORT}")
        return cls(host or "0.0.0.0", int(port), fixed=True)  # noqa: S104 - ":8791" says so

    def bind(self) -> socket.socket:
        """Bind a socket.

        Raises
        ------
        ConfigError
            The address is none of this host's, or is taken.
        """
        try:
            found = socket.getaddrinfo(
                self.host, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
        except socket.gaierror as exc:
            raise ConfigError(f"--listen {self.host}: {exc.strerror}") from exc
        except UnicodeError:
            raise ConfigError(f"--listen {self.host}: is not a host") from None
        family, kind, protocol, _, address = found[0]
        try:
            return _bound(family, kind, protocol, address)
        except OSError as exc:
            if exc.errno != errno.EADDRINUSE or self.fixed:
                reason = os.strerror(exc.errno) if exc.errno else str(exc)
                raise ConfigError(f"--listen {self.host}:{self.port}: {reason}") from exc
        return _bound(family, kind, protocol, (address[0], 0, *address[2:]))


def _bound(family: int, kind: int, protocol: int, address: tuple[object, ...]) -> socket.socket:
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # "::" means all addresses, IPv4 included, as it does for Dask's own listeners.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(address)
        # Now, not when it is served: until then somebody else could bind the same port.
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def is_loopback(sock: socket.socket) -> bool:
    """Whether only this host can reach the socket."""
    return ipaddress.ip_address(sock.getsockname()[0]).is_loopback


def only_host(sock: socket.socket) -> str | None:
    """The one address that the socket is bound to; None where it is all of this host's."""
    address = str(sock.getsockname()[0])
    return None if ipaddress.ip_address(address).is_unspecified else address


def local_peer(sock: socket.socket) -> Peer:
    """How a process on this host reaches the socket."""
    address, port = sock.getsockname()[:2]
    ip = ipaddress.ip_address(address)
    if ip.is_unspecified:
        return Peer("127.0.0.1" if ip.version == 4 else "::1", port)
    return Peer(address, port)
