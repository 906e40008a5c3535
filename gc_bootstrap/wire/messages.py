"""The agent's HTTP messages, as pure functions of bytes.

Each message is a dataclass that encodes and decodes itself; a new field is one line there. The
same messages are described for everybody else in ``agent/openapi.yaml``.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from gc_bootstrap.config import DEFAULT_POOL
from gc_bootstrap.errors import GcBootstrapError

MAX_BODY = 64 * 1024
"""Most bytes of a request's or an answer's body; real ones have a few hundred."""
LONGEST_TEXT = 512
"""Most characters of a text in a message."""
TIMEOUTS = 1.0, 3600.0
"""Least and most seconds of a request's ``timeout``."""


class WireError(GcBootstrapError):
    """A message that is not accepted.

    Parameters
    ----------
    status
        The HTTP status that says so.
    reason
        One line.
    refusal
        What an agent counts it as, where the status does not say it; "" for nothing.
    """

    def __init__(self, status: int, reason: str, refusal: str | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.refusal = refusal

    def __reduce__(self) -> tuple[type[WireError], tuple[int, str, str | None]]:
        return type(self), (self.status, str(self), self.refusal)


# -- fields --------------------------------------------------------------------------------------


def _text(value: Any, name: str) -> str:
    # Printable: these end up in log lines, which must stay lines.
    good = isinstance(value, str) and 0 < len(value) <= LONGEST_TEXT
    if not good or not value.isascii() or not value.isprintable():
        raise WireError(
            422, f"field {name!r} is not 1 to {LONGEST_TEXT} printable ASCII characters"
        )
    return str(value)


def _optional_text(value: Any, name: str) -> str | None:
    return None if value is None else _text(value, name)


def _reason(value: Any, name: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise WireError(422, f"field {name!r} is not a text")
    return " ".join(value.split())[:LONGEST_TEXT]


def _count(value: Any, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise WireError(422, f"field {name!r} is not a whole number of at least 1")
    return value


def _versions(value: Any, name: str) -> Mapping[str, str]:
    if not isinstance(value, Mapping) or not value.keys() <= {"python", "distributed"}:
        raise WireError(422, f"field {name!r} is not an object of python and distributed")
    return {program: _text(version, program) for program, version in value.items()}


def _counts(value: Any, name: str) -> Mapping[str, int]:
    good = isinstance(value, Mapping)
    if not good or not all(type(number) is int and number >= 0 for number in value.values()):
        raise WireError(422, f"field {name!r} is not an object of whole numbers")
    return {_text(what, name): number for what, number in value.items()}


def _seconds(value: Any, name: str) -> float | None:
    least, most = TIMEOUTS
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise WireError(
            422, f"field {name!r} is not a number of seconds from {least:g} to {most:g}"
        )
    return float(value)


def _workers(value: Any, name: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(worker, Mapping) for worker in value):
        raise WireError(422, f"field {name!r} is not a list of objects")
    return tuple(_text(worker.get("address"), "address") for worker in value)


def _write_workers(addresses: tuple[str, ...]) -> list[dict[str, str]]:
    return [{"address": address} for address in addresses]


def _field(
    read: Callable[[Any, str], Any],
    write: Callable[[Any], Any] | None = None,
    default: Any = dataclasses.MISSING,
) -> Any:
    """A field of a message, and how its value is read and written."""
    how = {"read": read, "write": write}
    if default is dataclasses.MISSING:
        return dataclasses.field(metadata=how)
    return dataclasses.field(default_factory=lambda: default, metadata=how)


# -- messages ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Message:
    """A JSON object with known fields."""

    is_answer: ClassVar[bool] = False
    """Whether an agent says it: one of a later version may have more fields."""

    def encode(self) -> bytes:
        """The JSON of it."""
        content = {}
        for field in dataclasses.fields(self):
            value, write = getattr(self, field.name), field.metadata["write"]
            content[field.name] = write(value) if write is not None else value
        return to_json(content)

    @classmethod
    def decode(cls, body: bytes) -> Self:
        """Read one.

        Raises
        ------
        WireError
            400 where it is no JSON, 422 where it is not this request, 502 where it is not this
            answer: whoever gave it is no agent.
        """
        content = from_json(body)
        try:
            return cls._read(content)
        except WireError:
            if not cls.is_answer:
                raise
            raise WireError(502, "the answer is not an agent's") from None

    @classmethod
    def _read(cls, content: Any) -> Self:
        if not isinstance(content, Mapping):
            raise WireError(422, "the body is not a JSON object")
        known = {field.name: field for field in dataclasses.fields(cls)}
        if not cls.is_answer and (unknown := content.keys() - known):
            there_are = ", ".join(sorted(known))
            raise WireError(422, f"unknown field {min(unknown)!r}; there are {there_are}")
        required = {n for n, f in known.items() if f.default_factory is dataclasses.MISSING}
        if missing := required - content.keys():
            raise WireError(422, f"field {min(missing)!r} is missing")
        return cls(
            **{
                name: field.metadata["read"](content[name], name)
                for name, field in known.items()
                if name in content
            }
        )


@dataclass(frozen=True, slots=True)
class AttachRequest(Message):
    """``POST /v1/attach``: be this scheduler's.

    ``retired`` is the id of an agent whose workers were retired there: that one stays away.
    """

    scheduler: str = _field(_text)
    scheduler_id: str = _field(_text)
    peer: str = _field(_text)
    pool: str = _field(_text, default=DEFAULT_POOL)
    versions: Mapping[str, str] = _field(_versions, default={})
    timeout: float | None = _field(_seconds, default=None)
    retired: str | None = _field(_optional_text, default=None)


@dataclass(frozen=True, slots=True)
class AttachReply(Message):
    """Answer to an attach: whose the agent is now, by which name, with which workers."""

    is_answer = True

    scheduler_id: str = _field(_text)
    peer: str = _field(_text)
    pool: str = _field(_text)
    workers: tuple[str, ...] = _field(_workers, _write_workers)
    versions: Mapping[str, str] = _field(_versions)


@dataclass(frozen=True, slots=True)
class DetachRequest(Message):
    """``POST /v1/detach``: be nobody's again. ``peer`` is the name that the agent is held under."""

    scheduler_id: str = _field(_text)
    peer: str = _field(_text)


@dataclass(frozen=True, slots=True)
class StateReply(Message):
    """Answer to a detach, and to ``GET /readyz``: what the agent does now."""

    is_answer = True

    state: str = _field(_text)


@dataclass(frozen=True, slots=True)
class StatusReply(Message):
    """Answer to ``GET /v1/status``. Whose the agent is, is None where it is nobody's."""

    is_answer = True

    state: str = _field(_text)
    scheduler: str | None = _field(_optional_text)
    scheduler_id: str | None = _field(_optional_text)
    peer: str | None = _field(_optional_text)
    pool: str | None = _field(_optional_text)
    workers: tuple[str, ...] = _field(_workers, _write_workers)
    nworkers: int = _field(_count)
    nthreads: int = _field(_count)
    memory_limit: str = _field(_text)
    versions: Mapping[str, str] = _field(_versions)
    refusals: Mapping[str, int] = _field(_counts, default={})


@dataclass(frozen=True, slots=True)
class ErrorReply(Message):
    """Answer to a request that the agent does not accept."""

    is_answer = True

    error: str = _field(_reason)


# -- JSON ----------------------------------------------------------------------------------------


def to_json(value: Mapping[str, Any]) -> bytes:
    """JSON of an object."""
    return json.dumps(value, separators=(",", ":")).encode()


def from_json(body: bytes) -> Any:
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
