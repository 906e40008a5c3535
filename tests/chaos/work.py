"""The tasks of the storms. Workers import this: it has to stay light."""

from __future__ import annotations

import os
import time

Result = tuple[int, bytes]


def note(ledger: str, key: str) -> None:
    """Enter an execution that begins now; one write, so that lines never mix."""
    line = f"{key} {os.getpid()} {time.monotonic():.6f}\n"
    fd = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(fd, line.encode())
    finally:
        os.close(fd)


def leaf(ledger: str, key: str, number: int, seconds: float, size: int) -> Result:
    """Make a number and some bytes."""
    note(ledger, key)
    time.sleep(seconds)
    return number, bytes([number % 256]) * size


def combine(ledger: str, key: str, seconds: float, *parts: Result) -> Result:
    """Add up numbers, and take the last bytes."""
    note(ledger, key)
    time.sleep(seconds)
    return sum(number for number, _ in parts), parts[-1][1]
