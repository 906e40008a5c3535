"""Asking a dist something about one peer: whatever goes wrong becomes a refusal with a reason."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import TypeVar

from gc_bootstrap.errors import DistError, one_line
from gc_bootstrap.peer import Outcome, Peer
from gc_bootstrap.pool.supervise import ends_task, reason_of

logger = logging.getLogger(__name__)

PATIENCE = 0.5
"""Seconds after which what has come to nothing yet gives its place to the next peer. It goes on: a
connection within a data centre takes milliseconds and an attach tenths of a second, but a lost SYN
is sent again after one second and then two, and some workers take seconds to start."""

Answer = TypeVar("Answer")


async def attempt(
    asked: Awaitable[Answer], peer: Peer, pool: str, timeout: float, missing: str
) -> Answer | Outcome:
    """Wait for a dist, within a deadline.

    Parameters
    ----------
    asked
        What it does.
    peer, pool
        For the log.
    timeout
        Seconds.
    missing
        What there is none of when they are over.
    """
    try:
        async with asyncio.timeout(timeout) as deadline:
            return await asked
    except DistError as exc:
        return Outcome.refused(one_line(exc), soon=exc.soon)
    except TimeoutError as exc:
        late = deadline.expired()
        return Outcome.refused(f"no {missing} within {timeout:g} s" if late else one_line(exc))
    except BaseException as exc:
        if ends_task(exc):
            raise  # the pool closes, or a drop is cancelled
        logger.exception("Pool %s: a bug in its dist, at %s", pool, peer)
        return Outcome.refused(reason_of(exc))
