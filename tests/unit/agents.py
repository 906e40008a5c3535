"""Agents without an HTTP server: how they are made and asked."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

import click
import pytest
from distributed import Scheduler

from gc_bootstrap.agent.options import WorkerOptions, click_parameters, worker_options
from gc_bootstrap.wire.messages import AttachRequest, WireError

PEER = "127.0.0.1:8791"


def options(*arguments: str) -> WorkerOptions:
    given = ["--no-nanny", "--no-dashboard", "--nthreads", "1", "--host", "127.0.0.1", *arguments]
    command = click.Command("agent", params=click_parameters())
    return worker_options(command.make_context("agent", given).params)


def attach_by(scheduler: Scheduler, **changes: Any) -> AttachRequest:
    fields: dict[str, Any] = {
        "scheduler": scheduler.address,
        "scheduler_id": scheduler.id,
        "peer": PEER,
        **changes,
    }
    return AttachRequest(**fields)


async def refused(attempt: Awaitable[object]) -> tuple[int, str]:
    with pytest.raises(WireError) as caught:
        await attempt
    return caught.value.status, str(caught.value)
