"""A page of a list, decoded piece by piece. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\n\r]*")


def read_list(body: bytes) -> Iterator[tuple[str, Any]]:
    """The parts of a list one after another: ``("items", object)`` for each, and all other keys.

    A whole page would keep the interpreter, and so the event loop, for longer than one may.

    Raises
    ------
    ValueError
        It is no JSON object.
    """
    text = body.decode()
    at = _after(text, 0, "{")
    while not _is(text, at, "}"):
        key, at = _value(text, at)
        at = _after(text, at, ":")
        if key == "items" and _is(text, at, "["):
            at = _after(text, at, "[")
            while not _is(text, at, "]"):
                item, at = _value(text, at)
                yield key, item
                at = _comma(text, at, "]")
            at = _after(text, at, "]")
        else:
            value, at = _value(text, at)
            if key != "items" or value is not None:
                yield key, value
        at = _comma(text, at, "}")


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def _is(text: str, at: int, character: str) -> bool:
    at = _skip(text, at)
    return text[at : at + 1] == character


def _after(text: str, at: int, character: str) -> int:
    at = _skip(text, at)
    if text[at : at + 1] != character:
        raise json.JSONDecodeError(f"expected {character}", text, at)
    return at + 1


def _comma(text: str, at: int, end: str) -> int:
    return at if _is(text, at, end) else _after(text, at, ",")


def _value(text: str, at: int) -> tuple[Any, int]:
    return _DECODER.raw_decode(text, _skip(text, at))
