"""What a worker of ours can tell its scheduler that Dask's own workers cannot."""

from __future__ import annotations

from functools import partial

from distributed import Worker

from gc_bootstrap.agent import _dask
from gc_bootstrap.wire.names import REPORT_ANSWER, REPORT_REQUEST


def answer(worker: Worker) -> None:
    """Have a worker answer which tasks it runs, in order with all else that it says about them.

    A heartbeat says that, too, but it may be seconds old, and travels by another way.
    """
    _dask.add_stream_handler(worker, REPORT_REQUEST, partial(_report, worker))


def _report(worker: Worker, report: str) -> None:
    message = {"op": REPORT_ANSWER, "report": report, "keys": _dask.running_keys(worker)}
    _dask.send_by_stream(worker, message)
