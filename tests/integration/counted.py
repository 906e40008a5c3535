"""Tasks that count their executions in a file, whichever process runs them."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path


def task(number: int, ledger: str, gate: str = "") -> int:
    """Write down that it runs, and wait until there is a gate, if one is named."""
    with Path(ledger).open("a") as file:
        file.write(f"{number}\n")
    while gate and not Path(gate).exists():
        time.sleep(0.01)
    return number


def executions(ledger: Path) -> Counter[int]:
    """How often each has run so far."""
    return Counter(map(int, ledger.read_text().split())) if ledger.exists() else Counter()
