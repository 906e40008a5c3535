"""The agent's HTTP messages and their signing, as pure functions of bytes and time.

Both ends use it: :mod:`gc_bootstrap.dist.dask` and :mod:`gc_bootstrap.agent`. The same messages
are described for everybody else in ``agent/openapi.yaml``.
"""

from __future__ import annotations

import hashlib
import json
import platform
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import Any

import jwt

from gc_bootstrap.config import DEFAULT_POOL
from gc_bootstrap.cookie import Cookie
from gc_bootstrap.errors import GcBootstrapError

ATTACH = "/v1/attach"
DETACH = "/v1/detach"
STATUS = "/v1/status"

DRAIN_HANDLER = "gc_bootstrap_drain"
"""Name of the scheduler's RPC by which an agent has its workers drained."""
REPORT_REQUEST = "gc_bootstrap-report"
"""Name of the message that asks a worker which tasks it runs."""
REPORT_ANSWER = "gc_bootstrap-running"
"""Name of the worker's message that answers it."""
REPORTS = "reports"
"""Key of a worker's tag that says that it answers :data:`REPORT_REQUEST`."""

# Read from the disk once: the event loop has no time for it at each attach.
_DISTRIBUTED = version("distributed")

MAX_BODY = 64 * 1024
"""Most bytes of a request's or an answer's body; real ones have a few hundred."""
TOKEN_LIFETIME = 30.0
"""Seconds from a token's issue to its expiry."""
CLOCK_SKEW = 30.0
"""Seconds by which the clocks of scheduler and agent may differ."""


class WireError(GcBootstrapError):
    """A message that is not accepted.

    Parameters
    ----------
    status
        The HTTP status that says so.
    reason
        One line.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status

    def __reduce__(self) -> tuple[type[WireError], tuple[int, str]]:
        return type(self), (self.status, str(self))


@dataclass(frozen=True, slots=True)
class AttachRequest:
    """``POST /v1/attach``: be this scheduler's."""

    scheduler: str
    scheduler_id: str
    peer: str
    pool: str = DEFAULT_POOL
    versions: Mapping[str, str] = field(default_factory=dict)
    timeout: float | None = None


@dataclass(frozen=True, slots=True)
class DetachRequest:
    """``POST /v1/detach``: be nobody's again. ``peer`` is the name that the agent is held under."""

    scheduler_id: str
    peer: str


@dataclass(frozen=True, slots=True)
class AttachReply:
    """Answer to an attach: whose the agent is now, by which name, with which workers."""

    scheduler_id: str
    peer: str
    pool: str
    workers: tuple[str, ...]
    versions: Mapping[str, str]


def encode(message: Any) -> bytes:
    """JSON of a message, or of anything that JSON knows."""
    value = message if isinstance(message, Mapping) else asdict(message)
    return json.dumps(value, separators=(",", ":")).encode()


def decode(body: bytes) -> Any:
    """Read JSON.

    Raises
    ------
    WireError
        400: it is none.
    """

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    try:
        return json.loads(body.decode(), parse_constant=refuse)
    except RecursionError:
        raise WireError(400, "the body is not JSON: nested too deeply") from None
    except ValueError as exc:
        raise WireError(400, f"the body is not JSON: {exc}") from None


def _object(value: Any, known: frozenset[str], required: frozenset[str]) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise WireError(422, "the body is not a JSON object")
    if unknown := value.keys() - known:
        raise WireError(
            422, f"unknown field {min(unknown)!r}; there are {', '.join(sorted(known))}"
        )
    if missing := required - value.keys():
        raise WireError(422, f"field {min(missing)!r} is missing")
    return value


def _text(value: Mapping[str, Any], name: str, longest: int = 512) -> str:
    text = value[name]
    # Printable: these end up in log lines, which must stay lines.
    good = isinstance(text, str) and 0 < len(text) <= longest
    if not good or not text.isascii() or not text.isprintable():
        raise WireError(422, f"field {name!r} is not 1 to {longest} printable ASCII characters")
    return str(text)


def parse_attach(body: bytes) -> AttachRequest:
    """Read the body of an attach.

    Raises
    ------
    WireError
        400 where it is no JSON, 422 where it is not an attach.
    """
    required = frozenset({"scheduler", "scheduler_id", "peer"})
    value = _object(decode(body), required | {"pool", "versions", "timeout"}, required)
    versions = value.get("versions", {})
    if not isinstance(versions, Mapping) or not versions.keys() <= {"python", "distributed"}:
        raise WireError(422, "field 'versions' is not an object of python and distributed")
    return AttachRequest(
        scheduler=_text(value, "scheduler"),
        scheduler_id=_text(value, "scheduler_id"),
        peer=_text(value, "peer"),
        pool=_text(value, "pool") if "pool" in value else DEFAULT_POOL,
        versions={name: _text(versions, name) for name in versions},
        timeout=_seconds(value.get("timeout")),
    )


def _seconds(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 1 <= value <= 3600:
        raise WireError(422, "field 'timeout' is not a number of seconds from 1 to 3600")
    return float(value)


def parse_detach(body: bytes) -> DetachRequest:
    """Read the body of a detach.

    Raises
    ------
    WireError
        As :func:`parse_attach`.
    """
    names = frozenset({"scheduler_id", "peer"})
    value = _object(decode(body), names, names)
    return DetachRequest(_text(value, "scheduler_id"), _text(value, "peer"))


def parse_reply(body: bytes) -> AttachReply:
    """Read the answer to an attach.

    Raises
    ------
    WireError
        It is not one: whoever answered is no agent.
    """
    value = decode(body)
    try:
        workers, versions = value["workers"], value["versions"]
        if not isinstance(workers, list) or not isinstance(versions, Mapping):
            raise TypeError
        return AttachReply(
            scheduler_id=_text(value, "scheduler_id"),
            peer=_text(value, "peer"),
            pool=_text(value, "pool"),
            workers=tuple(_text(worker, "address") for worker in workers),
            versions={name: _text(versions, name) for name in versions},
        )
    except (KeyError, TypeError, ValueError, AttributeError, WireError):
        raise WireError(502, "the answer is not an agent's") from None


def versions() -> dict[str, str]:
    """What has to match between scheduler and agent."""
    return {"python": platform.python_version(), "distributed": _DISTRIBUTED}


def mismatch(mine: Mapping[str, str], theirs: Mapping[str, str]) -> str | None:
    """Compare an agent's versions with a scheduler's.

    Python's minor and ``distributed``'s whole version have to be the same: pickled functions and
    Dask's protocol are compatible only then. What either does not state is not compared.

    Returns
    -------
    str or None
        What differs, in one line.
    """
    differ = []
    for name, label in (("python", "Python"), ("distributed", "distributed")):
        here, there = mine.get(name), theirs.get(name)
        if here is None or there is None:
            continue
        if name == "python":
            here, there = (".".join(v.split(".")[:2]) for v in (here, there))
        if here != there:
            differ.append(f"{label} {here} here and {there} at the scheduler")
    return "; ".join(differ) or None


# -- signing -------------------------------------------------------------------------------------


def sign(cookie: Cookie, method: str, path: str, body: bytes, now: float) -> str:
    """Make the value of the ``Authorization`` header for one request.

    A JSON Web Token (RFC 7519), HS256, with ``htm`` and ``htu`` after RFC 9449, the hash of the
    body, a random ``jti`` and half a minute to live.

    Parameters
    ----------
    now
        Seconds since the epoch.
    """
    claims = {
        "htm": method,
        "htu": path,
        "body": _digest(body),
        "jti": secrets.token_urlsafe(16),
        "iat": now,
        "exp": now + TOKEN_LIFETIME,
    }
    return "Bearer " + jwt.encode(claims, cookie.key, algorithm="HS256")


def _digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


class Verifier:
    """Checks tokens, and remembers each until it expires so that it serves once.

    Parameters
    ----------
    cookie
        The secret that the tokens must have been signed with.
    """

    def __init__(self, cookie: Cookie) -> None:
        self._cookie = cookie
        self._seen: dict[str, float] = {}

    def check(self, header: str | None, method: str, path: str, body: bytes, now: float) -> None:
        """Accept one request, or say why not.

        Parameters
        ----------
        header
            The ``Authorization`` header, if there was one.
        now
            Seconds since the epoch.

        Raises
        ------
        WireError
            401, with the reason.
        """
        scheme, _, token = (header or "").partition(" ")
        if scheme.lower() != "bearer" or not token or not token.isascii():
            raise WireError(401, "no token; this agent wants requests signed with its cookie")
        try:
            claims = jwt.decode(
                token.strip(),
                self._cookie.key,
                algorithms=["HS256"],
                # The times are checked below, against the caller's clock.
                options={
                    "require": ["htm", "htu", "body", "jti", "iat", "exp"],
                    "verify_exp": False,
                    "verify_iat": False,
                    "verify_nbf": False,
                },
            )
        except jwt.InvalidSignatureError:
            raise WireError(401, "the token was signed with another cookie") from None
        except jwt.InvalidTokenError as exc:
            raise WireError(401, f"the token is not one: {exc}") from None
        self._check_claims(claims, method, path, body, now)

    def _check_claims(
        self, claims: Mapping[str, Any], method: str, path: str, body: bytes, now: float
    ) -> None:
        issued, expires, token_id = claims["iat"], claims["exp"], claims["jti"]
        if not all(type(t) in (int, float) and abs(t) < 1e12 for t in (issued, expires)):
            raise WireError(401, "the token's times are not numbers")
        if not isinstance(token_id, str) or not 0 < len(token_id) <= 64:
            raise WireError(401, "the token's id is not one")
        if not 0 < expires - issued <= TOKEN_LIFETIME:
            raise WireError(401, f"the token lives longer than {TOKEN_LIFETIME:g} s")
        if not issued - CLOCK_SKEW <= now:
            ahead = issued - now
            raise WireError(401, f"the token is from {ahead:.0f} s in the future; check the clocks")
        if not now <= expires + CLOCK_SKEW:
            late = now - expires
            raise WireError(401, f"the token expired {late:.0f} s ago; check the clocks")
        if (claims["htm"], claims["htu"]) != (method, path):
            raise WireError(401, "the token is for another request")
        if claims["body"] != _digest(body):
            raise WireError(401, "the token is for another body")
        for old in [jti for jti, until in self._seen.items() if until < now]:
            del self._seen[old]
        if token_id in self._seen:
            raise WireError(401, "the token has been used before")
        self._seen[token_id] = expires + CLOCK_SKEW
