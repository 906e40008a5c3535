"""An agent as a whole: socket, secret, registration, HTTP server and signals, in that order."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from gc_bootstrap.agent import listen as listening
from gc_bootstrap.agent._dask import wait_for_signals
from gc_bootstrap.agent.core import DRAIN_TIMEOUT, LEASE_TIMEOUT, Agent
from gc_bootstrap.agent.deletion_cost import DeletionCost, Pod
from gc_bootstrap.agent.listen import Listen
from gc_bootstrap.agent.options import WorkerOptions
from gc_bootstrap.agent.server import ControlServer
from gc_bootstrap.errors import ConfigError
from gc_bootstrap.peer import Peer
from gc_bootstrap.wire import cookie as cookies
from gc_bootstrap.wire import registrations
from gc_bootstrap.wire.cookie import Cookie
from gc_bootstrap.wire.keys import Trusted

logger = logging.getLogger(__name__)

REGISTRATION_INTERVAL = 30.0
"""Seconds between two looks at whether the registration is still there."""


@dataclass(frozen=True, slots=True)
class AgentOptions:
    """An agent's own options.

    Parameters
    ----------
    workers
        What to run once attached.
    listen
        Where to serve the control API.
    trusted
        The shared cookie, or the public keys of its schedulers, if there is one.
    insecure
        Take an attach from whoever asks.
    drain_timeout
        Seconds for moving data away after SIGTERM, and before a requested detach.
    lease_timeout
        Seconds that a scheduler may give no sign of life before the agent is free again.
    pod
        The agent's own pod, if its deletion cost is to be kept.
    """

    workers: WorkerOptions
    listen: Listen = field(default_factory=Listen)
    trusted: Trusted | None = None
    insecure: bool = False
    drain_timeout: float = DRAIN_TIMEOUT
    lease_timeout: float = LEASE_TIMEOUT
    pod: Pod | None = None


class AgentServer:
    """One agent that listens and is registered; ``async with`` starts and closes it.

    Parameters
    ----------
    options
        All of it.
    warm
        Gets the process ready; runs while the agent listens already and is not ready yet.

    Raises
    ------
    ConfigError
        The options contradict each other.
    """

    def __init__(
        self, options: AgentOptions, warm: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        if options.insecure and (trusted := options.trusted) is not None:
            raise ConfigError(f"--insecure: contradicts the {trusted.noun} from {trusted.where}")
        self.agent = Agent(
            options.workers,
            drain_timeout=options.drain_timeout,
            lease_timeout=options.lease_timeout,
        )
        self._options = options
        self._warm = warm
        self._server: ControlServer | None = None
        self._registrar: registrations.Registrar | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._registering: asyncio.Future[None] | None = None
        self._cost = DeletionCost(self.agent.life, options.pod) if options.pod else None
        self._peer: Peer | None = None

    @property
    def peer(self) -> Peer:
        """How this host's processes reach the agent."""
        if self._peer is None:
            raise RuntimeError("the agent has not been started")
        return self._peer

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def start(self) -> None:
        """Listen, register and warm up.

        Raises
        ------
        ConfigError
            The address is not to be had, or must not be listened on without a secret.
        """
        options = self._options
        security = options.workers.security
        try:
            tls = security.get_listen_args("worker")["ssl_context"] if security else None
        except (OSError, ValueError) as exc:
            raise ConfigError(f"TLS: {exc}") from exc
        sock = await asyncio.to_thread(options.listen.bind)
        try:
            secured = options.trusted is not None or tls is not None
            if not (secured or options.insecure or listening.is_loopback(sock)):
                raise ConfigError(
                    f"--listen {options.listen.host}:{options.listen.port}: other hosts can reach"
                    " it; expected a --cookie-file, a --public-key-file, Dask's TLS settings, or"
                    " --insecure"
                )
            own = None if secured or options.insecure else cookies.generate()
            trusted = Cookie(own, "its registration") if own is not None else options.trusted
            self._peer = listening.local_peer(sock)
            # An open Dask port is an open door: workers open none that the agent does not.
            self.agent.options = options.workers.listening_at(listening.only_host(sock))
            self._server = ControlServer(self.agent, sock, trusted=trusted, tls=tls)
            await self._server.start()
            await self._register_in_thread(own)
            self._keeper = asyncio.create_task(self._keep_registered(own))
            self._say_hello(trusted, tls is not None)
            await self.agent.warm_up(self._warm)
        except BaseException:
            await self.close()
            sock.close()
            raise
        logger.info("Agent at %s is ready", self._peer)
        if self._cost is not None:
            self._cost.start()

    async def _register_in_thread(self, own_cookie: str | None) -> None:
        """Register; the thread goes on where this is cancelled, and :meth:`close` waits for it."""
        thread = asyncio.to_thread(self._register, own_cookie)
        self._registering = asyncio.ensure_future(thread)
        await asyncio.shield(self._registering)

    def _register(self, own_cookie: str | None) -> None:
        registrar = registrations.Registrar()
        registration = registrations.Registration(self.peer, os.getpid(), own_cookie)
        try:
            registrar.register(registration)
        except registrations.RuntimeFolderError as exc:
            if own_cookie is not None:
                # Nobody could ever attach it.
                raise ConfigError(
                    f"cannot register for this user's schedulers: {exc}; give a --cookie-file or"
                    f" set {registrations.VARIABLE}"
                ) from exc
            logger.info("Not registered for the discovery `local`: %s", exc)
        self._registrar = registrar

    async def _keep_registered(self, own_cookie: str | None) -> None:
        """Register again where somebody has removed the registration of an agent that lives."""
        while True:
            await asyncio.sleep(REGISTRATION_INTERVAL)
            registrar = self._registrar
            if registrar is not None and registrar.lost:
                logger.info("The registration of %s was removed; registering again", self._peer)
                await asyncio.to_thread(registrar.close)
                try:
                    await self._register_in_thread(own_cookie)
                except ConfigError as exc:
                    logger.warning("Agent at %s %s", self._peer, exc)

    def _say_hello(self, trusted: Trusted | None, tls: bool) -> None:
        if self._options.trusted is None and trusted is not None:
            logger.info("Agent at %s; this user's schedulers can attach it", self._peer)
        elif trusted is not None or tls:
            needed = [str(trusted)] if trusted is not None else []
            needed += ["a client certificate"] if tls else []
            logger.info("Agent at %s; attaching it takes %s", self._peer, " and ".join(needed))
        else:
            logger.warning(
                "Agent at %s is insecure: whoever reaches it can run code here", self._peer
            )

    async def drain(self) -> None:
        """Let the workers go without losing their data; take no attach any more."""
        await self.agent.drain()

    async def close(self) -> None:
        """End everything. May be called more than once."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        if self._registering is not None:
            await asyncio.gather(self._registering, return_exceptions=True)
        if self._cost is not None:
            await self._cost.close()
        if self._registrar is not None:
            await asyncio.to_thread(self._registrar.close)
        await self.agent.close()
        if self._server is not None:
            await self._server.close()


async def run(options: AgentOptions, warm: Callable[[], Awaitable[None]] | None) -> bool:
    """Run an agent until SIGTERM or SIGINT, then drain it. A second signal ends it at once.

    Returns
    -------
    bool
        Whether a thread is left that nothing can stop, be it an import or a task: the process
        should then be left without waiting for it.

    Raises
    ------
    ConfigError
        As :meth:`AgentServer.start`.
    """
    server = AgentServer(options, warm)
    signalled = asyncio.create_task(wait_for_signals())
    starting = asyncio.create_task(server.start())
    try:
        await asyncio.wait([signalled, starting], return_when=asyncio.FIRST_COMPLETED)
        if not signalled.done():
            await starting
            await signalled
            logger.info("Draining for up to %g s", options.drain_timeout)
            await _unless_signalled(server.drain())
    finally:
        for task in (starting, signalled):
            task.cancel()
        await asyncio.gather(starting, signalled, return_exceptions=True)
        await server.close()
    return server.agent.has_left_a_task or starting.cancelled()


async def _unless_signalled(work: Awaitable[None]) -> None:
    """Wait for the work, or for one more signal."""
    again = asyncio.create_task(wait_for_signals())
    working = asyncio.ensure_future(work)
    try:
        await asyncio.wait([again, working], return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            await working
    finally:
        for task in (again, working):
            task.cancel()
        await asyncio.gather(again, working, return_exceptions=True)
