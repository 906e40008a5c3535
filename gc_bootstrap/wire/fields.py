"""What the messages are made of: fields that are read, checked and written one by one.

A message is a dataclass that encodes and decodes itself; a new field is one line there.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from gc_bootstrap.errors import GcBootstrapError

MAX_BODY = 64 * 1024
"""Most bytes of a request's or an answer's body; real ones have a few hundred."""
LONGEST_TEXT = 512
"""Most characters of a text in a message."""
TIMEOUTS = 1.0, 3600.0
"""Least and most seconds of a request's ``timeout``."""
WEIGHTS = 0.001, 1000.0
"""Least and most weight of a pool, as its configuration allows."""
MOST = 1_000_000
"""Of whatever is counted: peers, workers, threads."""
MOST_BYTES = 2**63 - 1
"""Of memory."""


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


def text(value: Any, name: str) -> str:
    """Printable ASCII: it ends up in log lines, which must stay lines."""
    good = isinstance(value, str) and 0 < len(value) <= LONGEST_TEXT
    if not good or not value.isascii() or not value.isprintable():
        raise WireError(
            422, f"field {name!r} is not 1 to {LONGEST_TEXT} printable ASCII characters"
        )
    return str(value)


def optional_text(value: Any, name: str) -> str | None:
    """The same, or null."""
    return None if value is None else text(value, name)


def reason(value: Any, name: str) -> str:
    """What an answer says to people."""
    if not isinstance(value, str) or not value.strip():
        raise WireError(422, f"field {name!r} is not a text")
    return " ".join(value.split())[:LONGEST_TEXT]


def whole(least: int, most: int = MOST) -> Callable[[Any, str], int]:
    """A whole number within bounds; 4.0 is one as well, as JSON has one kind of numbers."""

    def read(value: Any, name: str) -> int:
        if type(value) not in (int, float) or not least <= value <= most or value % 1:
            raise WireError(422, f"field {name!r} is not a whole number from {least} to {most}")
        return int(value)

    return read


def number(least: float, most: float) -> Callable[[Any, str], float]:
    """A number within bounds; neither infinite nor none."""

    def read(value: Any, name: str) -> float:
        if type(value) not in (int, float) or not least <= value <= most:
            raise WireError(422, f"field {name!r} is not a number from {least:g} to {most:g}")
        return float(value)

    return read


def flag(value: Any, name: str) -> bool:
    """Yes or no."""
    if not isinstance(value, bool):
        raise WireError(422, f"field {name!r} is neither true nor false")
    return value


def versions(value: Any, name: str) -> Mapping[str, str]:
    """What has to match between the two programs."""
    if not isinstance(value, Mapping) or not value.keys() <= {"python", "distributed"}:
        raise WireError(422, f"field {name!r} is not an object of python and distributed")
    return {program: text(version, program) for program, version in value.items()}


def counts(value: Any, name: str) -> Mapping[str, int]:
    """Counters by name."""
    good = isinstance(value, Mapping)
    if not good or not all(type(count) is int and count >= 0 for count in value.values()):
        raise WireError(422, f"field {name!r} is not an object of whole numbers")
    return {text(what, name): count for what, count in value.items()}


def amounts(value: Any, name: str) -> Mapping[str, float]:
    """How much there is of each of Dask's resources, whose names may be any texts."""
    if not isinstance(value, Mapping) or not all(isinstance(what, str) for what in value):
        raise WireError(422, f"field {name!r} is not an object of numbers")
    read = number(0.0, float(MOST_BYTES))
    return {what: read(amount, name) for what, amount in value.items()}


def seconds(value: Any, name: str) -> float | None:
    """How long a request may take, or null."""
    least, most = TIMEOUTS
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise WireError(
            422, f"field {name!r} is not a number of seconds from {least:g} to {most:g}"
        )
    return float(value)


def workers(value: Any, name: str) -> tuple[str, ...]:
    """Addresses of workers, an object for each."""
    if not isinstance(value, list) or not all(isinstance(worker, Mapping) for worker in value):
        raise WireError(422, f"field {name!r} is not a list of objects")
    return tuple(text(worker.get("address"), "address") for worker in value)


def write_workers(addresses: tuple[str, ...]) -> list[dict[str, str]]:
    """The opposite of :func:`workers`."""
    return [{"address": address} for address in addresses]


def field(
    read: Callable[[Any, str], Any],
    write: Callable[[Any], Any] | None = None,
    default: Any = dataclasses.MISSING,
    *,
    added: bool = False,
) -> Any:
    """A field of a message, and how its value is read and written.

    One that was ``added`` later is left out where it has its default: a message that makes no use
    of it stays what it was, also for who does not know the field.
    """
    how = {"read": read, "write": write, "left_out": default if added else dataclasses.MISSING}
    if default is dataclasses.MISSING:
        return dataclasses.field(metadata=how)
    return dataclasses.field(default_factory=lambda: default, metadata=how)


def part(kind: type[Message], *, added: bool = True) -> Any:
    """A field that is an object of its own, or null."""
    return field(
        lambda value, name: None if value is None else kind.read(value, f"{name}."),
        lambda value: None if value is None else value.content(),
        default=None,
        added=added,
    )


# -- messages ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Message:
    """A JSON object with known fields."""

    is_answer: ClassVar[bool] = False
    """Whether an agent says it: one of a later version may have more fields."""

    def content(self) -> dict[str, Any]:
        """The object, of types that JSON and msgpack have."""
        content = {}
        for own in dataclasses.fields(self):
            value, write = getattr(self, own.name), own.metadata["write"]
            if value != own.metadata["left_out"]:
                content[own.name] = write(value) if write is not None else value
        return content

    def encode(self) -> bytes:
        """The JSON of it."""
        return to_json(self.content())

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
            return cls.read(content)
        except WireError:
            if not cls.is_answer:
                raise
            raise WireError(502, "the answer is not an agent's") from None

    @classmethod
    def read(cls, content: Any, within: str = "") -> Self:
        """Read one of what JSON or msgpack has made of it.

        Parameters
        ----------
        within
            What the names of its fields begin with, for people.

        Raises
        ------
        WireError
            422.
        """
        if not isinstance(content, Mapping):
            what = f"field {within[:-1]!r}" if within else "the body"
            raise WireError(422, f"{what} is not a JSON object")
        known = {own.name: own for own in dataclasses.fields(cls)}
        if not cls.is_answer and (unknown := content.keys() - known):
            there_are = ", ".join(sorted(known))
            first = f"{within}{min(map(str, unknown))}"
            raise WireError(422, f"unknown field {first!r}; there are {there_are}")
        required = {n for n, f in known.items() if f.default_factory is dataclasses.MISSING}
        if missing := required - content.keys():
            raise WireError(422, f"field {within + min(missing)!r} is missing")
        return cls(
            **{
                name: own.metadata["read"](content[name], within + name)
                for name, own in known.items()
                if name in content
            }
        )


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
