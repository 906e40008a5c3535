"""What a worker of ours can tell its scheduler that Dask's own workers cannot."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from distributed.diagnostics.plugin import WorkerPlugin

from gc_bootstrap.agent import _dask
from gc_bootstrap.wire.names import REPORT_ANSWER, REPORT_REQUEST

if TYPE_CHECKING:
    from distributed import Worker


class Reports(WorkerPlugin):
    """Answers which tasks the worker runs, in order with all else that it says about its tasks.

    A heartbeat says that, too, but it may be seconds old, and travels by another way.
    """

    name = "gc_bootstrap-reports"

    def setup(self, worker: Worker) -> None:
        """Called when the worker starts, before it registers."""
        _dask.add_stream_handler(worker, REPORT_REQUEST, partial(_report, worker))


def _report(worker: Worker, report: str) -> None:
    answer = {"op": REPORT_ANSWER, "report": report, "keys": _dask.running_keys(worker)}
    _dask.send_by_stream(worker, answer)
