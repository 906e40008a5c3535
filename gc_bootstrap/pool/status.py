"""What a pool knows, as plain values for people and programs."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from gc_bootstrap.config import AdaptOptions, ShareOptions
from gc_bootstrap.peer import Peer
from gc_bootstrap.stake import Claim


@dataclass(frozen=True, slots=True)
class PoolNumbers:
    """How many of what a pool has, by its last look; None where it is not known yet.

    Parameters
    ----------
    wanted
        Peers that it would hold, were there so many: all that are found, where it takes all.
    members
        Peers that it holds.
    peers
        Peers that the discovery names.
    claimed
        Peers that others have claimed lately.
    """

    wanted: int | None
    members: int | None
    peers: int | None
    claimed: int


@dataclass(frozen=True, slots=True)
class PoolStatus:
    """What a pool knows; see :meth:`Pool.status`.

    Parameters
    ----------
    incomplete
        Why the last answer of the discovery was not complete, so that absence from it proves
        nothing; None where it was.
    incomplete_for
        Seconds since the first of the answers that were not; None where the last one was.
    progress
        How far the drops that run have come, and the drains that others have asked for.
    counters
        How often what has happened since the pool was made.
    held
        Peers and members that are left alone for now, and why.
    leaving
        Of the peers, those that are about to go.
    labels
        What the discovery says of its peers (pod, node, zone).
    same_as
        Peers that are other names of members, and of which one.
    size, adapt
        How many peers it is to hold, None: all; or as many as the work needs.
    share
        What it does about peers that others hold, or want.
    wanted
        How many peers it should hold now; None: all.
    claims
        What others want of its members.
    releasing
        Members that are being released.
    spare
        Peers that are not needed.
    held_by
        Peers that another scheduler holds, and its address, in a pool of a size or that shares.
    """

    name: str
    discovery: str
    dist: str
    paused: bool
    refresh_interval: float | None
    refreshes: int
    error: str | None
    warning: str | None
    incomplete: str | None
    incomplete_for: float | None
    peers: tuple[Peer, ...]
    members: tuple[Peer, ...]
    connecting: tuple[Peer, ...]
    disconnecting: tuple[Peer, ...]
    progress: dict[Peer, str] = field(default_factory=dict)
    counters: dict[str, int] = field(default_factory=dict)
    held: dict[Peer, str] = field(default_factory=dict)
    leaving: tuple[Peer, ...] = ()
    labels: dict[Peer, dict[str, str]] = field(default_factory=dict)
    same_as: dict[Peer, Peer] = field(default_factory=dict)
    size: int | None = None
    adapt: AdaptOptions | None = None
    share: ShareOptions = field(default_factory=ShareOptions)
    wanted: int | None = None
    claims: tuple[Claim, ...] = ()
    releasing: tuple[Peer, ...] = ()
    spare: tuple[Peer, ...] = ()
    held_by: dict[Peer, str] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether the last answer of the discovery was complete."""
        return self.incomplete is None

    def to_json(self) -> dict[str, Any]:
        """The same, of types that JSON and msgpack know."""
        return {
            "name": self.name,
            "discovery": self.discovery,
            "dist": self.dist,
            "paused": self.paused,
            "refresh-interval": self.refresh_interval,
            "refreshes": self.refreshes,
            "error": self.error,
            "warning": self.warning,
            "complete": self.complete,
            "incomplete": self.incomplete,
            "incomplete-for": self.incomplete_for,
            "peers": [str(peer) for peer in self.peers],
            "members": [str(peer) for peer in self.members],
            "connecting": [str(peer) for peer in self.connecting],
            "disconnecting": [str(peer) for peer in self.disconnecting],
            "progress": {str(peer): text for peer, text in self.progress.items()},
            "counters": self.counters,
            "held": {str(peer): reason for peer, reason in self.held.items()},
            "leaving": [str(peer) for peer in self.leaving],
            "labels": {str(peer): labels for peer, labels in self.labels.items()},
            "same-as": {str(peer): str(member) for peer, member in self.same_as.items()},
            "size": "all" if self.size is None else self.size,
            "adapt": None if self.adapt is None else _section(self.adapt),
            "share": _section(self.share),
            "wanted": self.wanted,
            "claims": [
                {
                    "scheduler": claim.scheduler,
                    "scheduler-id": claim.scheduler_id,
                    "pool": claim.pool,
                    "holds": claim.stake.holds,
                    "weight": claim.stake.weight,
                    "wants": claim.wants,
                }
                for claim in self.claims
            ],
            "releasing": [str(peer) for peer in self.releasing],
            "spare": [str(peer) for peer in self.spare],
            "held-by": {str(peer): address for peer, address in self.held_by.items()},
        }


def _section(options: AdaptOptions | ShareOptions) -> dict[str, Any]:
    """Options as they are written in a configuration, durations in seconds."""
    return {name.replace("_", "-"): value for name, value in asdict(options).items()}
