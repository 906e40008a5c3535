"""The agent's open connections: accepted here, and closed where there are too many.

Files are what a flood of connections takes from an agent first, and the nannies of its workers need
some, too. So there is a limit well below that of the process, and who keeps others waiting goes.
"""

from __future__ import annotations

import asyncio
import logging
import math
import resource
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

from gc_bootstrap.agent.refusals import Refusals
from gc_bootstrap.errors import os_reason

logger = logging.getLogger(__name__)

LEAST, MOST = 16, 512
"""Fewest and most connections that the limit can be, whatever the process may open."""
OWN_FILES = 64
"""Files that the agent itself may have open; an idle one has 10."""
FILES_PER_WORKER = 32
"""Files that a nanny may have open for its worker; a busy one has about 10."""
SILENCE = 1.0
"""Seconds after which one that has sent nothing goes before all others."""
HEARING = 0.2
"""Seconds that each has to ask, however many come; the kernel keeps those that wait."""
QUIET = 60.0
"""Seconds without a full house after which the next one is said again."""
AT_ONCE = 16
"""Connections that are accepted in one turn of the event loop."""
PAUSE = 0.1
"""Seconds without accepting where the system has no files or no memory left."""

T = TypeVar("T")


def limit_of(files: int, workers: int) -> int:
    """How many connections an agent may have open.

    Half of what the agent and its nannies leave: users' code that runs in this process opens files
    as well.

    Parameters
    ----------
    files
        How many the process may open; negative for any number.
    workers
        How many an attach starts.
    """
    if files < 0:
        return MOST
    return max(LEAST, min(MOST, (files - OWN_FILES - FILES_PER_WORKER * workers) // 2))


def victim(silent: Mapping[T, float], asking: Mapping[T, float], now: float) -> T | None:
    """Which connection makes room for a new one; None where all are being served.

    The oldest that has been silent for a while; else whoever has had the longest time to ask. So
    neither silent connections nor those that send a byte each keep a new one from being heard.

    Parameters
    ----------
    silent
        Since when each has been open that has sent nothing, oldest first.
    asking
        Since when each has sent something, but no whole request yet that is being served.
    now
        On the same clock.
    """
    first, second = next(iter(silent), None), next(iter(asking), None)
    if first is None or second is None:
        return second if first is None else first
    has_had_its_time = now - silent[first] >= SILENCE
    return first if has_had_its_time or silent[first] <= asking[second] else second


class Connection:
    """One connection, from when it is accepted to its end."""

    def __init__(self, owner: Connections, sock: socket.socket, host: str) -> None:
        self.host = host
        self.sock = sock
        self.task: asyncio.Task[None] | None = None
        self.has_begun = False
        self._transport: asyncio.BaseTransport | None = None
        self._owner = owner

    @property
    def is_made(self) -> bool:
        """Whether its protocol knows it; where there is TLS, the handshake is over."""
        return self._transport is not None

    def made(self, transport: asyncio.BaseTransport) -> None:
        """Its protocol knows it from now on, and tells of its end."""
        self._transport = transport

    @contextmanager
    def served(self) -> Iterator[None]:
        """It has asked for something that it may ask for, and is not closed while that lasts."""
        self._owner.serve(self)
        try:
            yield
        finally:
            self._owner.hear(self)

    def lost(self) -> None:
        """It has ended."""
        self._owner.forget(self)

    def abort(self) -> None:
        """End it now."""
        if isinstance(self._transport, asyncio.WriteTransport):
            self._transport.abort()
        elif self.task is not None:
            self.task.cancel()
        else:
            asyncio.get_running_loop().remove_reader(self.sock)
            self.sock.close()


class Connections:
    """Accepts connections on a socket, so many at a time at most.

    One that has sent nothing is a socket and nothing else: a flood of them costs little.

    Parameters
    ----------
    sock
        Listens already.
    make
        Makes a connection's protocol, which tells the connection what happens.
    limit
        How many at most.
    refusals
        Told of those that were closed to make room, and of failed handshakes.
    tls
        The server's side of TLS, or None.
    timeout
        Seconds to send something, and seconds for a TLS handshake.
    """

    def __init__(
        self,
        sock: socket.socket,
        make: Callable[[Connection], asyncio.Protocol],
        *,
        limit: int,
        refusals: Refusals,
        tls: ssl.SSLContext | None,
        timeout: float,
    ) -> None:
        self.limit = limit
        self._sock = sock
        self._make = make
        self._refusals = refusals
        self._tls = tls
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._listens = False
        self._resume: asyncio.TimerHandle | None = None
        self._sweep: asyncio.TimerHandle | None = None
        self._full = ""
        self._full_at = -math.inf
        # In the order of since when.
        self._silent: dict[Connection, float] = {}
        self._asking: dict[Connection, float] = {}
        self._served: set[Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._silent) + len(self._asking) + len(self._served)

    def start(self) -> None:
        """Accept from now on."""
        self._sock.setblocking(False)
        self._resume = None
        self._listens = True
        self._loop.add_reader(self._sock, self._accept)

    def stop(self) -> None:
        """Accept no more. May be called more than once."""
        if self._resume is not None:
            self._resume.cancel()
            self._resume = None
        if self._listens:
            self._loop.remove_reader(self._sock)
            self._listens = False

    async def close(self) -> None:
        """End all of them. May be called more than once."""
        self.stop()
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        for connection in (*self._silent, *self._asking, *self._served):
            self.forget(connection)
            connection.abort()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # -- what connections tell -----------------------------------------------------------------

    def hear(self, connection: Connection) -> None:
        """It has sent something, or is not being served any more."""
        if connection not in self._asking and self.forget(connection):
            self._asking[connection] = self._loop.time()

    def serve(self, connection: Connection) -> None:
        """It is being served."""
        if self.forget(connection):
            self._served.add(connection)

    def forget(self, connection: Connection) -> bool:
        """It has ended, or is not what it was; False where it was not known."""
        if connection in self._served:
            self._served.remove(connection)
            return True
        silent, asking = self._silent.pop(connection, None), self._asking.pop(connection, None)
        return silent is not None or asking is not None

    # -- accepting ------------------------------------------------------------------------------

    def _accept(self) -> None:
        """Accept some: the event loop calls again where there are more, and others have a turn."""
        for _ in range(AT_ONCE):
            if (wait := self._patience()) > 0:
                self._pause(wait)
                return
            try:
                sock, address = self._sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as exc:
                self._make_room()
                reason = f"none can be accepted: {os_reason(exc)}"
                self._refusals.add("connections", "connections", reason)
                self._pause(PAUSE)
                return
            sock.setblocking(False)
            self._admit(Connection(self, sock, str(address[0])))

    def _admit(self, connection: Connection) -> None:
        if len(self) >= self.limit:
            self._say_full()
            if not self._make_room():
                connection.sock.close()
                return
        self._silent[connection] = self._loop.time()
        self._loop.add_reader(connection.sock, self._begin, connection)
        if self._sweep is None:
            self._sweep = self._loop.call_later(self._timeout, self._end_silent)

    def _end_silent(self) -> None:
        """Close those that have sent nothing in time."""
        latest = self._loop.time() - self._timeout
        for connection, since in list(self._silent.items()):
            if since > latest:
                self._sweep = self._loop.call_at(since + self._timeout, self._end_silent)
                return
            self.forget(connection)
            connection.abort()
        self._sweep = None

    def _begin(self, connection: Connection) -> None:
        """It has sent something, or closed: it gets a protocol, or is closed."""
        self._loop.remove_reader(connection.sock)
        try:
            is_over = not connection.sock.recv(1, socket.MSG_PEEK)
        except OSError:
            is_over = True
        if is_over:
            self.forget(connection)
            connection.sock.close()
            return
        self.hear(connection)
        task = connection.task = self._loop.create_task(self._open(connection))
        self._tasks.add(task)
        task.add_done_callback(lambda task: self._opened(connection, task))

    async def _open(self, connection: Connection) -> None:
        connection.has_begun = True
        timeout = None if self._tls is None else self._timeout
        await self._loop.connect_accepted_socket(
            lambda: self._make(connection),
            connection.sock,
            ssl=self._tls,
            ssl_handshake_timeout=timeout,
            ssl_shutdown_timeout=timeout,
        )

    def _opened(self, connection: Connection, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not connection.has_begun:
            connection.sock.close()  # else it is its transport's
        if connection.is_made:
            return
        self.forget(connection)
        exc = None if task.cancelled() else task.exception()
        if isinstance(exc, ssl.SSLError):
            self._refusals.add("tls", connection.host, f"no TLS connection: {os_reason(exc)}")
        elif exc is not None and not isinstance(exc, OSError):
            logger.error("A connection from %s failed", connection.host, exc_info=exc)

    def _pause(self, seconds: float) -> None:
        self.stop()
        self._resume = self._loop.call_later(seconds, self.start)

    def _patience(self) -> float:
        """Seconds until the next can be accepted without closing one that could not yet ask."""
        if len(self) < self.limit:
            return 0.0
        now = self._loop.time()
        connection = victim(self._silent, self._asking, now)
        if connection is None:
            return 0.0
        since = self._silent.get(connection) or self._asking[connection]
        return since + HEARING - now

    def _make_room(self) -> bool:
        connection = victim(self._silent, self._asking, self._loop.time())
        if connection is None:
            return False
        self.forget(connection)
        connection.abort()
        return True

    def _say_full(self) -> None:
        now = self._loop.time()
        if now - self._full_at > QUIET:
            hosts = Counter(c.host for c in (*self._silent, *self._asking, *self._served))
            ((host, count),) = hosts.most_common(1)
            self._full = (
                f"{len(self)} are open, as many as may be, {count} of them from {host}; the oldest"
                " that ask for nothing are closed"
            )
            self._refusals.forget("connections")
        self._full_at = now
        self._refusals.add("connections", "connections", self._full)


def allowed_files() -> int:
    """How many files this process may open; negative for any number."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return -1 if soft == resource.RLIM_INFINITY else soft
