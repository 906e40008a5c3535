"""List, then watch, for as long as the discovery lives; and what to do when either breaks.

- The server ends a watch in good order: the next one begins where it ended.
- 410, or a watch that has been silent for too long: a new list, at once.
- Anything else: what is known serves as incomplete; then a new list, after a backoff or when the
  server asks for it (``Retry-After``).
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from gc_bootstrap.discovery.kubernetes.api import (
    ApiError,
    GoneError,
    NotServedError,
    SilentError,
    failure,
)
from gc_bootstrap.discovery.kubernetes.decode import read_list
from gc_bootstrap.discovery.kubernetes.resources import RESOURCES, Resource
from gc_bootstrap.discovery.kubernetes.store import Follower, Store, StrangeAnswerError
from gc_bootstrap.errors import DiscoveryError, one_line

logger = logging.getLogger(__name__)

WATCH_SECONDS = 300
"""Shortest time after which the server is asked to end a watch; at most twice that, as client-go
(tools/cache/reflector.go, minWatchTimeout): watches move to servers that joined later."""
BACKOFF = 0.8
"""Seconds after a first failure; doubled with each more (client-go's reflector)."""
BACKOFF_MOST = 10.0
"""Seconds. client-go has 30; a scheduler is one client, and its pool waits for new workers."""
BACKOFF_LASTING = 30.0
"""Seconds between two tries of what does not mend itself, such as a missing right."""
RETRY_AFTER_MOST = 300.0
"""Seconds; a server that asks for more is asked again all the same."""
STEADY = 10.0
"""Seconds that a watch has to last for the failures before it to be forgotten."""
SHORT = 1.0
"""A watch that ends sooner than so many seconds, without a line, has failed (as client-go)."""


class Server(Protocol):
    """What is needed of :class:`~gc_bootstrap.discovery.kubernetes.api.Api`."""

    async def page(self, resource: Resource, limit: int | None, token: str | None) -> bytes:
        """One page of a list."""

    def watch(
        self, resource: Resource, version: str, seconds: int
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """A watch: a context whose value yields lines."""


class Reflector:
    """Keeps a store in step with the API server.

    Parameters
    ----------
    server
        Whom to ask.
    resource
        What for; ``endpoints`` takes the place of ``endpointslices`` where those are not served.
    make_store
        Makes an empty store for objects of a resource.
    namespace
        Says the namespace, for messages; known once something has been asked.
    on_change
        Called when the snapshot, or why it cannot be trusted, has changed.
    clock
        Monotonic seconds.
    sleep
        Waits so many seconds.
    random
        Uniform in [0, 1).

    Attributes
    ----------
    error
        Why the store is not in step now; None while it is.
    settled
        Set when it is known what to answer: there is a list, or an error that lasts.
    """

    def __init__(
        self,
        server: Server,
        resource: Resource,
        make_store: Callable[[Resource], Store],
        namespace: Callable[[], str],
        on_change: Callable[[], None],
        *,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
        random: Callable[[], float],
    ) -> None:
        self._server = server
        self._wanted = self._resource = resource
        self._follower = Follower(lambda: make_store(self._resource))
        self._namespace = namespace
        self._on_change = on_change
        self._clock = clock
        self._sleep = sleep
        self._random = random
        self._fallback_said = False
        self._was_silent = False
        self._failures = 0
        self._last_gone = float("-inf")
        self.error: DiscoveryError | None = None
        self.settled = asyncio.Event()

    @property
    def store(self) -> Store | None:
        """What is known; None before the first list."""
        return self._follower.store

    async def run(self) -> None:
        """List and watch until cancelled. Raises nothing."""
        while True:
            try:
                if self._follower.version is None:
                    await self._list()
                await self._watch()
            except SilentError as exc:
                logger.debug("%s; listing anew", exc)
                self._was_silent = True
                self._follower.gap()
            except Exception as exc:
                self._follower.gap()
                if not self._is_first_gone(exc):
                    await self._sleep(self._broken(exc))

    async def _list(self) -> None:
        self._resource = self._wanted
        try:
            await self._list_pages(self._resource.page)
        except NotServedError:
            if self._wanted.name != "endpointslices":
                raise
            # discovery.k8s.io/v1 came with Kubernetes 1.21.
            self._resource = RESOURCES["endpoints"]
            await self._list_pages(self._resource.page)
            if not self._fallback_said:
                logger.info("The API server has no EndpointSlices: Endpoints are taken instead")
            self._fallback_said = True
        except GoneError:
            # Of a page in the middle: its token expired with the version that it belongs to.
            # Everything at once is never too old.
            await self._list_pages(None)

    async def _list_pages(self, limit: int | None) -> None:
        token: str | None = None
        while True:
            body = await self._server.page(self._resource, limit, token)
            if token is None:
                self._follower.begin()  # with the first page, the namespace is known
            try:
                version, token = await self._read_page(body)
            except (AttributeError, KeyError, TypeError, ValueError) as exc:
                what = f"list {self._resource.name}: the answer is no list"
                raise ApiError(f"{what}: {one_line(exc)}", lasting=True) from exc
            if not token:
                break
        first = self._follower.store is None
        changed = self._follower.end(version)
        if first:
            self.error = None  # of lists that failed before; no watch has failed yet
            if not len(self._follower.store or ()):
                logger.info("There are no %s of the kind asked for, yet", self._resource.name)
        self.settled.set()
        if changed and self._was_silent:
            logger.warning(
                "Kubernetes API: the watch has been silent while %s changed; does something on the"
                " way to the API server hold its answers back?",
                self._resource.name,
            )
        self._was_silent = False
        if changed:
            self._on_change()

    async def _read_page(self, body: bytes) -> tuple[str, str | None]:
        """Take the objects of a page; the list's version, and the next page's token if any."""
        metadata: dict[str, str] = {}
        for key, value in read_list(body):
            if key == "items":
                self._follower.item(value)
                await asyncio.sleep(0)  # the loop gets its turn after each object
            elif key == "metadata":
                metadata = value
        return metadata["resourceVersion"], metadata.get("continue")

    async def _watch(self) -> None:
        version = self._follower.version
        assert version is not None, "the list comes first"
        seconds = int(WATCH_SECONDS * (1 + self._random()))
        lines_seen = 0
        async with self._server.watch(self._resource, version, seconds) as lines:
            began = self._clock()
            self._mended()
            try:
                async for line in lines:
                    lines_seen += 1
                    if self._event(line):
                        self._on_change()
                    await asyncio.sleep(0)  # the loop gets its turn after each object
            finally:
                lasted = self._clock() - began
                if lasted >= STEADY:
                    self._failures = 0
        if lasted < SHORT and not lines_seen:
            raise ApiError(f"watch {self._resource.name}: the API server ended it at once")

    def _event(self, line: bytes) -> bool:
        try:
            event = json.loads(line)
        except ValueError as exc:
            raise StrangeAnswerError(f"the watch sent no JSON: {one_line(exc)}") from exc
        if isinstance(event, dict) and event.get("type") == "ERROR":
            status = event.get("object")
            code = status.get("code") if isinstance(status, dict) else None
            raise failure(
                code if isinstance(code, int) else 500,
                {},
                json.dumps(status).encode(),
                verb="watch",
                resource=self._resource,
                namespace=self._namespace(),
                source="credentials in use",
            )
        return self._follower.event(event)

    def _is_first_gone(self, exc: Exception) -> bool:
        """Whether this is a 410 to list anew for, at once: not when the last one was just now."""
        if not isinstance(exc, GoneError):
            return False
        before, self._last_gone = self._last_gone, self._clock()
        return self._last_gone - before >= STEADY

    def _broken(self, exc: Exception) -> float:
        """Take note of a failure, loudly once; how many seconds to wait."""
        if isinstance(exc, DiscoveryError):
            error, bug = exc, None
        elif isinstance(exc, StrangeAnswerError):
            error, bug = ApiError(str(exc)), None
        else:
            error, bug = DiscoveryError(one_line(exc)), exc
        news = self.error is None or str(self.error) != str(error)
        if news:
            # Without a list, whoever asks is told, and says it.
            known = self.store is not None
            kept = "; the last answer serves, as incomplete" if known else ""
            level = logging.WARNING if known or bug else logging.DEBUG
            logger.log(level, "Kubernetes API: %s%s", error, kept, exc_info=bug)
        self.error = error
        # What is no ApiError is about credentials, or a bug: it does not mend itself.
        lasting = not isinstance(error, ApiError) or error.lasting
        if self.store is None:
            (self.settled.set if lasting else self.settled.clear)()
        if news:
            self._on_change()
        self._failures += 1
        asked = error.retry_after if isinstance(error, ApiError) else None
        if asked is not None:
            # The jitter is added: nobody comes back before the server wants it.
            return min(asked, RETRY_AFTER_MOST) * (1 + 0.1 * self._random())
        most = BACKOFF_LASTING if lasting else BACKOFF_MOST
        seconds = min(most, BACKOFF * 2.0 ** min(self._failures - 1, 16))
        return seconds * (0.5 + 0.5 * self._random())

    def _mended(self) -> None:
        """The watch has begun: the store is in step from here on."""
        if self.error is not None:
            logger.info("Kubernetes API: the watch is back")
            self.error = None
            self._on_change()
