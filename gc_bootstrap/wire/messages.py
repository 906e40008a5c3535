"""The agent's HTTP messages, as pure functions of bytes.

The same messages are described for everybody else in ``agent/openapi.yaml``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gc_bootstrap.config import DEFAULT_POOL
from gc_bootstrap.stake import Holder, Stake
from gc_bootstrap.wire import fields
from gc_bootstrap.wire.fields import LONGEST_TEXT as LONGEST_TEXT
from gc_bootstrap.wire.fields import MAX_BODY as MAX_BODY
from gc_bootstrap.wire.fields import MOST as MOST
from gc_bootstrap.wire.fields import TIMEOUTS as TIMEOUTS
from gc_bootstrap.wire.fields import Message as Message
from gc_bootstrap.wire.fields import WireError as WireError
from gc_bootstrap.wire.fields import field, part
from gc_bootstrap.wire.fields import from_json as from_json
from gc_bootstrap.wire.fields import to_json as to_json

RETIRED = "was retired by Dask's retire_workers, and stays away until the agent is started anew"
"""Why an agent refuses a scheduler that names it in :attr:`AttachRequest.retired`."""


@dataclass(frozen=True, slots=True)
class AttachClaim(Message):
    """Within an attach: if another holds the agent, it is to know who wants how many more."""

    holds: int = field(fields.whole(0))
    weight: float = field(fields.number(*fields.WEIGHTS))
    wants: int = field(fields.whole(0))


@dataclass(frozen=True, slots=True)
class AttachRequest(Message):
    """``POST /v1/attach``: be this scheduler's.

    ``retired`` is the id of an agent whose workers were retired there: that one stays away.
    """

    scheduler: str = field(fields.text)
    scheduler_id: str = field(fields.text)
    peer: str = field(fields.text)
    pool: str = field(fields.text, default=DEFAULT_POOL)
    versions: Mapping[str, str] = field(fields.versions, default={})
    timeout: float | None = field(fields.seconds, default=None)
    retired: str | None = field(fields.optional_text, default=None)
    claim: AttachClaim | None = part(AttachClaim)


@dataclass(frozen=True, slots=True)
class AttachReply(Message):
    """Answer to an attach: whose the agent is now, by which name, with which workers."""

    is_answer = True

    scheduler_id: str = field(fields.text)
    peer: str = field(fields.text)
    pool: str = field(fields.text)
    workers: tuple[str, ...] = field(fields.workers, fields.write_workers)
    versions: Mapping[str, str] = field(fields.versions)


@dataclass(frozen=True, slots=True)
class DetachClaim(Message):
    """Within a detach: who is to be told when the agent is free."""

    scheduler: str = field(fields.text)
    scheduler_id: str = field(fields.text)
    pool: str = field(fields.text)


@dataclass(frozen=True, slots=True)
class DetachRequest(Message):
    """``POST /v1/detach``: be nobody's again. ``peer`` is the name that the agent is held under.

    With ``abandon`` the workers end at once, and take what they hold with them.
    """

    scheduler_id: str = field(fields.text)
    peer: str = field(fields.text)
    claim: DetachClaim | None = part(DetachClaim)
    abandon: bool = field(fields.flag, default=False, added=True)


@dataclass(frozen=True, slots=True)
class HolderReply(Message):
    """Within an answer: who holds the agent, and what of its pool's peers it says it has."""

    is_answer = True

    scheduler: str = field(fields.text)
    scheduler_id: str = field(fields.text)
    holds: int = field(fields.whole(0))
    weight: float = field(fields.number(*fields.WEIGHTS))
    keeps: int = field(fields.whole(0))

    @property
    def holder(self) -> Holder:
        """The same as a value."""
        stake = Stake(self.holds, self.weight, self.keeps)
        return Holder(self.scheduler, self.scheduler_id, stake)


@dataclass(frozen=True, slots=True)
class StateReply(Message):
    """Answer to a detach, and to ``GET /readyz``: what the agent does now."""

    is_answer = True

    state: str = field(fields.text)


@dataclass(frozen=True, slots=True)
class StatusReply(Message):
    """Answer to ``GET /v1/status``. Whose the agent is, is None where it is nobody's.

    ``memory`` is the bytes of each worker, 0 where that is not limited; ``agent`` the id of this
    start of it; ``holder`` what its scheduler has last said of itself, None where it has not.
    """

    is_answer = True

    state: str = field(fields.text)
    scheduler: str | None = field(fields.optional_text)
    scheduler_id: str | None = field(fields.optional_text)
    peer: str | None = field(fields.optional_text)
    pool: str | None = field(fields.optional_text)
    workers: tuple[str, ...] = field(fields.workers, fields.write_workers)
    nworkers: int = field(fields.whole(1))
    nthreads: int = field(fields.whole(1))
    memory_limit: str = field(fields.text)
    versions: Mapping[str, str] = field(fields.versions)
    refusals: Mapping[str, int] = field(fields.counts, default={})
    memory: int = field(fields.whole(0, fields.MOST_BYTES), default=0)
    resources: Mapping[str, float] = field(fields.amounts, default={})
    agent: str | None = field(fields.optional_text, default=None)
    holder: HolderReply | None = part(HolderReply, added=False)


@dataclass(frozen=True, slots=True)
class ErrorReply(Message):
    """Answer to a request that the agent does not accept.

    ``holder`` is who holds it, where that is why, it was claimed, and its scheduler has answered.
    """

    is_answer = True

    error: str = field(fields.reason)
    holder: HolderReply | None = part(HolderReply)
