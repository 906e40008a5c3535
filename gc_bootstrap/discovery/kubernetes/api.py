"""Asking the API server: pages of a list, lines of a watch, and every error as one line."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlencode

import aiohttp

from gc_bootstrap.discovery.kubernetes.credentials import Access, Connection
from gc_bootstrap.discovery.kubernetes.options import Options
from gc_bootstrap.discovery.kubernetes.resources import Resource
from gc_bootstrap.errors import DiscoveryError, one_line, os_reason

DIAL_TIMEOUT = 5.0
"""Seconds to get a TCP and TLS connection."""
LIST_TIMEOUT = 20.0
"""Seconds for one page of a list."""
WATCH_TIMEOUT = 10.0
"""Seconds until a watch begins. The server sends the headers at once."""
SILENCE = 90.0
"""Seconds after which a silent watch is not trusted. Bookmarks come about once a minute
(https://kubernetes.io/docs/reference/using-api/api-concepts/#watch-bookmarks, and the API server's
defaultBookmarkFrequency)."""
CHUNK = 2**16
"""Bytes of a watch to take at a time. All that has arrived may be megabytes, and copying those
keeps the event loop for longer than one may."""
LONGEST_LINE = 64 * 2**20
"""Bytes. An object in etcd has at most 1.5 MiB."""


class ApiError(DiscoveryError):
    """The API server could not be asked, or refused. The message is one line for people.

    Parameters
    ----------
    lasting
        Asking again does not help; somebody has to do something.
    retry_after
        Seconds that the server wants to be left alone.
    """

    def __init__(
        self, message: str, *, lasting: bool = False, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.lasting = lasting
        self.retry_after = retry_after


class GoneError(ApiError):
    """410: the resource version, or the token of a list's next page, is too old."""


class NotServedError(ApiError):
    """404: the server does not know this resource."""


class SilentError(ApiError):
    """The watch has said nothing for too long."""


class _RefusedError(ApiError):
    """401."""


class Api:
    """Lists and watches in one namespace.

    Parameters
    ----------
    options
        Whose objects to select.
    access
        The credentials; closed by their owner.
    """

    def __init__(self, options: Options, access: Access) -> None:
        self._options = options
        self._access = access

    async def page(self, resource: Resource, limit: int | None, token: str | None) -> bytes:
        """One page of a list, as it was received.

        Raises
        ------
        ApiError
            GoneError where ``token`` has expired; NotServedError.
        """
        query: dict[str, Any] = {} if limit is None else {"limit": limit}
        if token is not None:
            query["continue"] = token
        try:
            async with (
                asyncio.timeout(None) as deadline,
                self._get("list", resource, query, deadline, LIST_TIMEOUT) as response,
            ):
                return bytes(await response.read())
        except TimeoutError:
            raise ApiError(f"list {resource.name}: no answer within {LIST_TIMEOUT:g} s") from None
        except (aiohttp.ClientError, OSError) as exc:
            raise ApiError(f"list {resource.name}: {broken(exc)}") from exc

    @asynccontextmanager
    async def watch(
        self, resource: Resource, version: str, seconds: int
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Watch from a version on: a context once the server has begun, whose value yields lines.

        Parameters
        ----------
        seconds
            After so many the server ends the watch, and the lines end.

        Raises
        ------
        ApiError
            GoneError; SilentError, from the iterator.
        """
        query = {
            "watch": "1",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": seconds,
        }
        try:
            async with (
                asyncio.timeout(None) as deadline,
                self._get("watch", resource, query, deadline, WATCH_TIMEOUT) as response,
            ):
                deadline.reschedule(None)
                async with aclosing(_lines(response, resource)) as lines:
                    yield lines
        except TimeoutError:
            raise ApiError(f"watch {resource.name}: no answer within {WATCH_TIMEOUT:g} s") from None
        except (aiohttp.ClientError, OSError) as exc:
            raise ApiError(f"watch {resource.name}: {broken(exc)}") from exc

    @asynccontextmanager
    async def _get(
        self,
        verb: str,
        resource: Resource,
        query: Mapping[str, Any],
        deadline: asyncio.Timeout,
        seconds: float,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request; the credentials are read once more where they are refused.

        The deadline is set for each try, and not for what an exec plugin takes before it.
        """
        for refused in (False, True):
            deadline.reschedule(None)
            connection = await self._access.connection(refused)
            deadline.reschedule(asyncio.get_running_loop().time() + seconds)
            response = await self._send(connection, resource, query)
            try:
                if response.status == 200:
                    yield response
                    return
                error = failure(
                    response.status,
                    response.headers,
                    await response.content.read(2**16),
                    verb=verb,
                    resource=resource,
                    namespace=str(self._access.namespace),
                    source=connection.source,
                )
            finally:
                response.close()
            if refused or not isinstance(error, _RefusedError):
                raise error

    async def _send(
        self, connection: Connection, resource: Resource, query: Mapping[str, Any]
    ) -> aiohttp.ClientResponse:
        path = resource.path(str(self._access.namespace))
        given = {**resource.selection(self._options), **query}
        return await send(connection, "GET", f"{path}?{urlencode(given)}")


async def send(
    connection: Connection, method: str, path: str, body: Any = None, content: str | None = None
) -> aiohttp.ClientResponse:
    """Send one request; the answer, of which the headers have come.

    Parameters
    ----------
    connection
        Where to, and as whom.
    method, path
        The path with its query.
    body, content
        What is sent as JSON, and its type where that is another one.

    Raises
    ------
    ApiError
        The server could not be reached.
    """
    headers = dict(connection.headers) | ({} if content is None else {"Content-Type": content})
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=DIAL_TIMEOUT, connect=DIAL_TIMEOUT)
    server = connection.server
    try:
        answer = await connection.client.request(
            method, f"{server}{path}", headers=headers, body=body, _request_timeout=timeout
        )
    except aiohttp.ClientConnectorCertificateError as exc:
        raise ApiError(
            f"{server}: its certificate is not trusted: {exc.certificate_error}", lasting=True
        ) from exc
    except aiohttp.ServerTimeoutError as exc:
        raise ApiError(
            f"{server} is not reachable: no connection within {DIAL_TIMEOUT:g} s"
        ) from exc
    except aiohttp.ClientSSLError as exc:
        raise ApiError(f"{server}: no TLS connection: {one_line(exc)}") from exc
    except aiohttp.ClientConnectorError as exc:
        raise ApiError(f"{server} is not reachable: {os_reason(exc)}") from exc
    except (aiohttp.InvalidURL, ValueError) as exc:
        raise ApiError(f"{server}: {one_line(exc)}", lasting=True) from exc
    response: aiohttp.ClientResponse = answer.response
    return response


async def _lines(response: aiohttp.ClientResponse, resource: Resource) -> AsyncGenerator[bytes]:
    """The lines of a watch. Ends where the server ends it in good order."""
    buffer = bytearray()
    while True:
        try:
            async with asyncio.timeout(SILENCE):
                chunk = await response.content.read(CHUNK)
        except TimeoutError:
            raise SilentError(f"watch {resource.name}: silent for {SILENCE:g} s") from None
        if not chunk:
            return  # a line that was cut off is no line
        searched = len(buffer)
        buffer += chunk
        if b"\n" not in chunk:
            if len(buffer) > LONGEST_LINE:
                raise ApiError(f"watch {resource.name}: a line of over {LONGEST_LINE} bytes")
            continue
        end = buffer.rindex(b"\n", searched)
        lines = bytes(buffer[:end]).split(b"\n")
        del buffer[: end + 1]
        for line in lines:
            if line.strip():
                yield line


def failure(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    verb: str,
    resource: Resource,
    namespace: str,
    source: str,
) -> ApiError:
    """What an answer other than 200, or an ERROR event, of a list or a watch means.

    Parameters
    ----------
    status, headers, body, source
        As :func:`refusal`.
    verb, resource, namespace
        What was asked for.
    """
    what = f"{verb} {resource.name} in namespace {namespace}"
    return refusal(status, headers, body, what=what, rule=resource.rule, source=source)


def refusal(
    status: int, headers: Mapping[str, str], body: bytes, *, what: str, rule: str, source: str
) -> ApiError:
    """What an answer means that is not what was asked for.

    Parameters
    ----------
    status, headers, body
        Of the answer; the body is a ``Status`` object where the API server itself answers.
    what
        Was asked for.
    rule
        Of a Role that allows it.
    source
        Where the credentials are from.
    """
    said, seconds = _read_status(body)
    if status == 401:
        return _RefusedError(
            f"{what}: 401 Unauthorized: the API server does not accept the {source};"
            f" it has to be one whose Role has the rule {rule}",
            lasting=True,
        )
    if status == 403:
        who = re.search(r'User "([^"]+)"', said)
        user = who[1] if who else f"the user of the {source}"
        return ApiError(
            f"{what}: 403 Forbidden for {user}; there is no Role or RoleBinding that gives it the"
            f" rule {rule}",
            lasting=True,
        )
    message = f"{what}: HTTP {status}{': ' if said else ''}{said}"
    if status == 410:
        return GoneError(message)
    if status == 404:
        return NotServedError(message, lasting=True)
    again = status == 429 or status >= 500
    asked = retry_after(headers.get("Retry-After"))
    return ApiError(message, lasting=not again, retry_after=seconds if asked is None else asked)


def retry_after(header: str | None, now: datetime | None = None) -> float | None:
    """Seconds that a ``Retry-After`` header asks for (RFC 9110 section 10.2.3)."""
    if header is None:
        return None
    if header.strip().isdecimal():
        return float(header)
    with suppress(ValueError, TypeError):
        at = parsedate_to_datetime(header)
        at = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
        return max(0.0, (at - (now or datetime.now(UTC))).total_seconds())
    return None


def _read_status(body: bytes) -> tuple[str, float | None]:
    """The message of a ``Status``, in one line, and its ``retryAfterSeconds``.

    Of whatever came instead, the beginning.
    """
    text, seconds = body.decode(errors="replace"), None
    with suppress(ValueError, KeyError, TypeError):
        status = json.loads(body)
        text = str(status["message"])
        seconds = (status.get("details") or {}).get("retryAfterSeconds")
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())[:300]
    return line, float(seconds) if isinstance(seconds, int) and seconds > 0 else None


def broken(exc: Exception) -> str:
    """What went wrong with a connection that was there."""
    if isinstance(exc, aiohttp.ServerDisconnectedError | aiohttp.ClientPayloadError):
        return "the API server broke the connection off"
    if isinstance(exc, aiohttp.ClientError) and not isinstance(exc, OSError):
        return f"the API server does not speak HTTP as it should: {one_line(exc)}"
    return f"the connection broke: {os_reason(exc)}" if isinstance(exc, OSError) else one_line(exc)
