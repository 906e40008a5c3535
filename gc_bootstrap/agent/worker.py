"""What makes a worker of an agent's out of Dask's, in the process where the worker runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from distributed import Worker

from gc_bootstrap.agent import _dask, reports, signals
from gc_bootstrap.agent.lifetime import Lifetime
from gc_bootstrap.wire import tag as tags
from gc_bootstrap.wire.tag import Tag


@dataclass(frozen=True, slots=True)
class OwnWorker:
    """Makes workers; a nanny takes it for their class.

    All that an agent adds is added once the worker has been made, so that nothing a class gives
    itself (``plugins``, ``startup_information``) is replaced.

    Parameters
    ----------
    worker_class
        What they are.
    tag
        Who attached them; each worker tells its scheduler.
    own_process
        Whether each has a process of its own, and the agent ends it.
    drain_timeout
        Seconds for the drain of one whose lifetime is over.
    """

    worker_class: Callable[..., Worker]
    tag: Tag
    own_process: bool
    drain_timeout: float

    def __call__(self, *args: Any, **kwargs: Any) -> Worker:
        """Make one."""
        if self.own_process:
            signals.shield_worker()
        lifetime = Lifetime.take(kwargs, self.drain_timeout)
        worker = self.worker_class(*args, **kwargs)
        _dask.add_startup_information(worker, tags.KEY, partial(_constant, self.tag.encode()))
        reports.answer(worker)
        _dask.let_close(worker)
        if lifetime is not None:
            lifetime.begin(worker, self.tag)
        return worker


def _constant(value: Any, worker: Worker) -> Any:
    return value
