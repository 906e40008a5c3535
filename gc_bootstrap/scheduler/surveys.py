"""What an agent's status says to a scheduler that may want it, as pure functions."""

from __future__ import annotations

from collections.abc import Mapping

from gc_bootstrap.errors import DistError, PeerError
from gc_bootstrap.peer import Outcome, Peer
from gc_bootstrap.stake import NOT_SAID, Capacity, Holder, Survey
from gc_bootstrap.wire import versions
from gc_bootstrap.wire.messages import StatusReply

NOT_READY = {"warming": "is warming up", "draining": "is draining"}
"""What an attach would be refused with, by the agent's state."""


def judge(
    status: StatusReply, peer: Peer, scheduler_id: str, pool: str, must_match: Mapping[str, str]
) -> Survey | Outcome:
    """What an attach would come to now.

    Parameters
    ----------
    status
        What the peer has answered.
    scheduler_id, pool
        Who asks.
    must_match
        The asking scheduler's versions; what is missing is not compared.

    Returns
    -------
    Survey or Outcome
        An outcome is a refusal. Of a holder that has not said yet what it has, all that is known
        is in the survey: it holds this one.

    Raises
    ------
    DistError
        The status makes no sense.
    """
    if status.state in NOT_READY:
        return Outcome.refused(NOT_READY[status.state], expected=True, soon=True)
    if status.scheduler_id == scheduler_id:
        refused = not_so(status.peer or "", status.pool or "", peer, pool)
        return Survey(_capacity(status)) if refused is None else refused
    if differ := versions.mismatch(status.versions, must_match):
        return Outcome.refused(f"incompatible versions: {differ}", soon=True)
    return Survey(_capacity(status), _holder(status))


def not_so(held_as: str, held_by: str, peer: Peer, pool: str) -> Outcome | None:
    """Why a peer that its own scheduler holds is not this pool's, under this name; None if it is.

    Raises
    ------
    DistError
        It is held as what is no peer.
    """
    if held_as != str(peer):
        try:
            same_as = Peer.parse(held_as)
        except PeerError as exc:
            raise DistError(f"is no gc_bootstrap agent: {exc}") from exc
        return Outcome.refused(f"is the same agent as {held_as}", same_as=same_as)
    if held_by != pool:
        return Outcome.refused(f"is attached by the pool {held_by!r}", soon=True)
    return None


def _capacity(status: StatusReply) -> Capacity:
    return Capacity(status.nworkers, status.nthreads, status.memory, status.resources)


def _holder(status: StatusReply) -> Holder | None:
    if status.scheduler_id is None:
        return None
    if status.scheduler is None:
        raise DistError("is no gc_bootstrap agent: it is held by a scheduler without an address")
    stake = status.holder.holder.stake if status.holder is not None else NOT_SAID
    return Holder(status.scheduler, status.scheduler_id, stake)
