"""Peers from a list that does not change.

The three outcomes: the list as it was given; an empty list is really no peers; "cannot know" does
not occur, because a list that cannot be read is refused at the start. ``static:`` alone is no list
but a slip: no pool is started for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gc_bootstrap.discovery.base import Discovery
from gc_bootstrap.errors import ConfigError, PeerError, UnconfiguredError
from gc_bootstrap.peer import DEFAULT_PORT, Peer, Snapshot


class StaticDiscovery(Discovery):
    """A fixed list of peers: ``static:10.0.0.5:8791,[fd00::5],node-3``.

    Parameters
    ----------
    peers
        Addresses, each ``host``, ``host:port``, ``[v6]:port`` or a bare IPv6 address.
    port
        The port of those that name none.

    Raises
    ------
    ConfigError
        With one problem per address that is none.
    """

    def __init__(self, peers: Sequence[str | Peer], port: int = DEFAULT_PORT) -> None:
        if isinstance(peers, str) or not isinstance(peers, Sequence):
            raise ConfigError(f"peers: {peers!r} is not a list of addresses")
        found: set[Peer] = set()
        problems: list[str] = []
        for text in peers:
            try:
                found.add(text if isinstance(text, Peer) else Peer.parse(text, port))
            except PeerError as exc:
                problems.append(str(exc))
        if problems:
            raise ConfigError("; ".join(problems))
        self._snapshot = Snapshot(frozenset(found))

    def __repr__(self) -> str:
        return "static"

    @classmethod
    def options_from_text(cls, text: str) -> Mapping[str, Any]:
        return cls.options_from_list([part for part in text.split(",") if part.strip()])

    @classmethod
    def options_from_list(cls, values: list[Any]) -> Mapping[str, Any]:
        if not values:
            raise UnconfiguredError("names no peer (is a variable unset?)")
        return {"peers": values}

    async def peers(self) -> Snapshot:
        return self._snapshot
