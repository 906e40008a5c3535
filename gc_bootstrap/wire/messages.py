"""The agent's HTTP messages, as pure functions of bytes.

Both ends use it. The same messages are described for everybody else in ``agent/openapi.yaml``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from gc_bootstrap.config import DEFAULT_POOL
from gc_bootstrap.errors import GcBootstrapError

REPORTS = "reports"
"""Key of a worker's tag that says that it answers :data:`REPORT_REQUEST`."""

MAX_BODY = 64 * 1024
"""Most bytes of a request's or an answer's body; real ones have a few hundred."""


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
