"""How much ``import gc_bootstrap.preload`` adds to ``import distributed``.

Every scheduler that is started with the preload pays it. Measured as wall time inside fresh
interpreters, two kinds in turn: one imports ``distributed`` only, the other the preload after it.
Two figures: the time of the second import itself, and the difference of the two kinds' medians,
which contains more noise. Target: under 100 ms.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

from common import TIMES_HEADER, Times, in_subprocess, run, table, verdict

TARGET = 0.100

_TIMER = """
import json, time
t = [time.perf_counter()]
for name in {names!r}:
    __import__(name)
    t.append(time.perf_counter())
print(json.dumps([b - a for a, b in zip(t, t[1:])]))
"""


def measure(*names: str) -> list[float]:
    """Import modules one after another in a fresh interpreter; seconds for each."""
    seconds: list[float] = json.loads(in_subprocess("-c", _TIMER.format(names=names)))
    return seconds


def most_expensive(count: int) -> list[list[str]]:
    """Modules that the preload brings in, with their own times, from ``-X importtime``."""
    code = (
        "import distributed; import sys; print('---', file=sys.stderr); import gc_bootstrap.preload"
    )
    command = [sys.executable, "-X", "importtime", "-c", code]
    log = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    rows = [line.partition("import time:")[2] for line in log.partition("---")[2].splitlines()]
    found = [[cell.strip() for cell in row.split("|")] for row in rows if row.count("|") == 2]
    found.sort(key=lambda cells: -int(cells[0]))
    return [[name, f"{int(own) / 1000:.1f}"] for own, _, name in found[:count]]


def main() -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--modules", type=int, default=5, help="list so many slow modules")
    given = parser.parse_args()
    measure("distributed", "gc_bootstrap.preload")  # writes missing .pyc files, fills disk caches
    alone, both, added = Times(), Times(), Times()
    for _ in range(given.runs):
        alone.add(sum(measure("distributed")))
        seconds = measure("distributed", "gc_bootstrap.preload")
        both.add(sum(seconds))
        added.add(seconds[1])
    if given.modules:
        table(["added by (own time)", "ms"], most_expensive(given.modules))
        print()
    rows = [
        ["import distributed", *alone.cells()],
        ["import distributed, gc_bootstrap.preload", *both.cells()],
        ["of that, gc_bootstrap.preload", *added.cells()],
    ]
    table(["wall time", *TIMES_HEADER], rows)
    print(
        f"ratio: the preload adds {added.median / alone.median:.2f} of `import distributed`"
        f" ({1000 * added.median:.0f} ms; by difference {1000 * (both.median - alone.median):.0f}"
        f" ms); target: under {1000 * TARGET:.0f} ms: {verdict(added.median < TARGET)}"
    )


if __name__ == "__main__":
    run(main)
