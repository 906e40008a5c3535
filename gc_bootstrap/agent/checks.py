"""Whether workers could start with the options of ``dask worker`` that it reads when it starts one.

An agent starts its workers when a scheduler attaches it: that is too late to tell whoever wrote the
options. Each check yields one line per problem: the option, the value, what was expected. Dask's
own parsers are asked where it has one.
"""

from __future__ import annotations

import math
import re
import socket
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gc_bootstrap.agent import _dask
from gc_bootstrap.checks import SHORTEST, BadValueError, duration
from gc_bootstrap.errors import one_line, os_reason

if TYPE_CHECKING:
    from distributed.security import Security

LEAST_MEMORY = 2**20
"""Bytes. Python alone needs more; whoever writes less has forgotten the unit."""
MOST_WORKERS = 10_000
HIGHEST_PORT = 65535

_PORTS = re.compile(r"([0-9]{1,5})(?::([0-9]{1,5}))?\Z")
_UNENCRYPTED = ("tcp", "ws")


def memory_limit(text: str, nthreads: int) -> Iterator[str]:
    """Yield what is wrong with ``--memory-limit``."""
    try:
        limit = _dask.parse_memory_limit(text, max(1, nthreads)) if text else -1
    except Exception:  # Dask's parser raises whatever comes of what it did not expect
        limit = -1
    if limit is not None and limit < 0:
        yield (
            f"--memory-limit {text}: is neither bytes such as 4GiB, nor a fraction of all memory,"
            " nor 'auto'"
        )
    elif limit is not None and limit < LEAST_MEMORY:
        yield f"--memory-limit {text}: is less than 1 MiB, in which no worker can run"


def nthreads(count: int) -> Iterator[str]:
    """Yield what is wrong with ``--nthreads``."""
    if count < 0:
        yield f"--nthreads {count}: is not a whole number of at least 0 (0: as many as cores)"


def resources(text: str | None) -> tuple[dict[str, float] | None, list[str]]:
    """Read ``--resources``; the problems beside it."""
    if not text:
        return None, []
    found: dict[str, float] = {}
    problems = []
    for pair in text.replace(",", " ").split():
        name, _, amount = pair.partition("=")
        try:
            found[name] = float(amount)
        except ValueError:
            found[name] = math.nan
        if not name or not 0 <= found[name] < math.inf:
            problems.append(f"--resources {text}: {pair!r} is not NAME=NUMBER")
    return found, problems


def durations(given: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the options that are durations."""
    least = {"death_timeout": SHORTEST, "lifetime": SHORTEST, "lifetime_stagger": 0.0}
    for name, shortest in least.items():
        text = given[name]
        try:
            if text is not None:
                duration(text, least=shortest)
        except BadValueError as exc:
            yield f"--{name.replace('_', '-')} {text}: {exc}"


def ports(option: str, text: str | None) -> Iterator[str]:
    """Yield what is wrong with ``--worker-port`` or ``--nanny-port``."""
    match = _PORTS.match(text) if text is not None else None
    if text is not None and (
        match is None or not 0 <= int(match[1]) <= int(match[2] or match[1]) <= HIGHEST_PORT
    ):
        yield f"{option} {text}: is neither a port nor a range of ports such as 3000:3026"


def local_directory(text: str | None) -> Iterator[str]:
    """Yield why workers could not make a folder of their own there."""
    if text is None:
        return
    folder = Path(text).absolute()
    try:
        there = next(path for path in (folder, *folder.parents) if path.exists())
        if not there.is_dir():
            yield f"--local-directory {text}: {there} is not a folder"
        else:
            # Tried, and not asked for: to the superuser a read-only file system says that it can.
            with tempfile.TemporaryDirectory(prefix="gc_bootstrap-", dir=there):
                pass
    except (OSError, ValueError) as exc:  # a name that is too long, a null byte
        yield f"--local-directory {text}: no folder can be made there: {_why(exc)}"


def network(given: Mapping[str, Any], security: Security | None) -> Iterator[str]:
    """Yield what is wrong with the addresses at which workers and nannies listen."""
    host, interface = given["host"], given["interface"]
    yield from _protocol(given["protocol"], security)
    if interface is not None:
        try:
            _dask.get_ip_interface(interface)
        except ValueError as exc:
            yield f"--interface {interface}: {exc}"
        if host:
            yield "--interface: says already what --host says"
    if host and not given["listen_address"]:  # of which it would be a part
        try:
            name, port = _dask.parse_host_port(host, 0)
        except ValueError as exc:
            yield f"--host {host}: {exc}"
        else:
            yield from _ours(f"--host {host}", name, port)
    for option in ("listen_address", "contact_address"):
        yield from address(option, given[option])
    yield from _dashboard(given["dashboard_address"])


def _protocol(text: str | None, security: Security | None) -> Iterator[str]:
    if text is None:
        return
    scheme = text.removesuffix("://")
    try:
        _dask.get_backend(scheme)
    except Exception as exc:  # a backend of a third party's may raise anything
        yield f"--protocol {text}: {exc if isinstance(exc, ValueError) else one_line(exc)}"
        return
    if security is None:  # that has been said
        return
    if security.require_encryption and scheme in _UNENCRYPTED:
        yield f"--protocol {text}: is not encrypted, but Dask's settings require encryption"
    try:
        tls = security.get_listen_args("worker")["ssl_context"]
    except (OSError, ValueError):
        return  # the agent itself says so when it listens
    if scheme in ("tls", "wss") and tls is None:
        yield f"--protocol {text}: there is no certificate (--tls-ca-file, --tls-cert, --tls-key)"


def address(name: str, text: str | None) -> Iterator[str]:
    """Yield what is wrong with ``--listen-address`` or ``--contact-address``."""
    if not text:
        return
    option = f"--{name.replace('_', '-')} {text}"
    try:
        host, port = _dask.get_address_host_port(text, strict=True)
    except Exception as exc:  # a backend of a third party's may raise anything
        yield f"{option}: {exc if isinstance(exc, ValueError) else one_line(exc)}"
        return
    if name == "listen_address":
        yield from _ours(option, host, port)
    elif not 0 < port <= HIGHEST_PORT:
        yield f"{option}: {port} is not a port between 1 and {HIGHEST_PORT}"


def _dashboard(text: str | None) -> Iterator[str]:
    try:
        found = _dask.clean_dashboard_address(text or 0)
    except (ValueError, TypeError):
        found = [{"address": "", "port": -1}]
    for each in found:
        if not 0 <= each["port"] <= HIGHEST_PORT:
            yield f"--dashboard-address {text}: is not an address such as :8787 or 10.0.0.5:8787"
        else:
            yield from _ours(f"--dashboard-address {text}", each["address"], 0)


def _ours(option: str, host: str, port: int) -> Iterator[str]:
    """Yield why workers could not listen at a host."""
    if not 0 <= port <= HIGHEST_PORT:
        yield f"{option}: {port} is not a port between 0 and {HIGHEST_PORT}"
        return
    host = host.removeprefix("[").removesuffix("]")
    try:
        found = socket.getaddrinfo(
            host or None, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, ValueError) as exc:  # ValueError: no name at all
        yield f"{option}: cannot listen at {host!r}: {_why(exc)}"
        return
    failures = []
    for family, kind, protocol, _, place in found:
        try:
            with socket.socket(family, kind, protocol) as sock:
                sock.bind(place)
        except OSError as exc:
            failures.append(os_reason(exc))
    # One will do: "localhost" is an IPv6 address as well, where there is no IPv6.
    if len(failures) == len(found):
        yield f"{option}: cannot listen at {host!r}: {failures[0]}"


def _why(exc: OSError | ValueError) -> str:
    return os_reason(exc) if isinstance(exc, OSError) else str(exc)


def preload_nanny(names: tuple[str, ...]) -> Iterator[str]:
    """Yield what of ``--preload-nanny`` cannot be imported; Dask imports it for each attach."""
    for name in names:
        try:
            _dask.import_preload(name)
        except Exception as exc:  # whatever the module raises
            yield f"--preload-nanny {name}: {one_line(exc)}"
