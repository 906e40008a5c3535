"""What a worker of ours can tell its scheduler that Dask's own workers cannot."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from distributed.diagnostics.plugin import WorkerPlugin

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
        worker.stream_handlers[REPORT_REQUEST] = partial(_report, worker)


def _report(worker: Worker, report: str) -> None:
    state = worker.state
    keys = [ts.key for ts in (*state.executing, *state.long_running)]
    worker.batched_send({"op": REPORT_ANSWER, "report": report, "keys": keys})
