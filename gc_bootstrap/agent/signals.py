"""Signals that reach a whole process group or cgroup: only the agent acts on them.

systemd, some container runtimes and Ctrl-C signal the workers as well as the agent, and the agent
needs them for its drain. A handler that does nothing, and not ``SIG_IGN``: what a task starts
would inherit that, and could then not be ended by its signal.
"""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT)

_before: dict[signal.Signals, Any] = {}
_fork = threading.local()


def leave_to_the_agent(number: int, frame: Any) -> None:
    """Handle a signal: by nothing."""


def shield_forkserver() -> None:
    """Have a forkserver live through the signals.

    What it forks has SIGTERM as it was: it may be a process that a task starts, and not a worker.
    """
    if not _before:
        os.register_at_fork(before=_hold, after_in_parent=_release, after_in_child=_restore)
    for number in SIGNALS:
        found = signal.getsignal(number)
        if found is not leave_to_the_agent:
            _before[number] = found
            _shield(number)


def shield_worker() -> None:
    """Have a worker live through the signals, except where something has its own idea of them.

    What a task forks has them as they were.
    """
    for number in SIGNALS:
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            _shield(number)


def _shield(number: signal.Signals) -> None:
    signal.signal(number, leave_to_the_agent)
    signal.siginterrupt(number, False)


def _hold() -> None:
    """Let a signal wait that comes while this thread forks: the child has its handlers anew."""
    _fork.mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def _release() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _fork.mask)


def _restore() -> None:
    for number, before in _before.items():
        if signal.getsignal(number) is leave_to_the_agent:
            signal.signal(number, before)
    _release()
