"""All objects of a list, followed through the events of a watch. Pure: no clock, no I/O.

:class:`Store` holds the objects and answers with the snapshot that they amount to. One object that
changes costs what is in it, not what is in all. :class:`Follower` keeps a store in step with a
server: a relist fills a new store, which then takes the place of the old one at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from gc_bootstrap.discovery.kubernetes.objects import Entry, Json, Reading, merged_leaving
from gc_bootstrap.discovery.kubernetes.options import Family
from gc_bootstrap.errors import one_line, several
from gc_bootstrap.peer import Peer, Snapshot

Read = Callable[[Json], Reading]

_NOTHING = Reading({})


class StrangeAnswerError(Exception):
    """The server sent what the API does not know; the message says what."""


class _Index:
    """The peers of one family, and what is said of each."""

    def __init__(self) -> None:
        self.objects = 0
        self.labels: dict[Peer, Mapping[str, str]] = {}
        self.leaving: set[Peer] = set()
        self._entries: dict[Peer, tuple[Entry, ...]] = {}

    def update(self, old: Mapping[Peer, Entry], new: dict[Peer, Entry]) -> bool:
        """Put what an object says now in the place of what it said; whether peers have changed."""
        changed = False
        for peer, before in old.items():
            after = new.get(peer)
            if after == before:
                new[peer] = before
            else:
                kept = tuple(entry for entry in self._entries[peer] if entry is not before)
                changed |= self._set(peer, kept if after is None else (*kept, after))
        for peer, after in new.items():
            if peer not in old:
                changed |= self._set(peer, (*self._entries.get(peer, ()), after))
        return changed

    def _set(self, peer: Peer, entries: tuple[Entry, ...]) -> bool:
        was = (peer in self._entries, peer in self.leaving)
        if not entries:
            del self._entries[peer], self.labels[peer]
            self.leaving.discard(peer)
            return True
        self._entries[peer] = entries
        staying = [entry for entry in entries if not entry.leaving]
        self.labels[peer] = (staying or entries)[0].labels
        if merged_leaving(entries):
            self.leaving.add(peer)
        else:
            self.leaving.discard(peer)
        return was != (True, peer in self.leaving)


class Store:
    """Objects by name, and the snapshot that they amount to.

    Parameters
    ----------
    read
        What one object says.
    family
        The family that was asked for; of objects of another one, nothing is taken.
    usual
        Where none was asked for: the family to take where there are objects of both.
    """

    def __init__(self, read: Read, family: Family | None, usual: Family) -> None:
        self._read = read
        self._family = family
        self._usual = usual
        self._objects: dict[str, Reading] = {}
        self._indexes: dict[Family | None, _Index] = {}
        self._partial: set[str] = set()
        self._snapshot: Snapshot | None = None

    def __len__(self) -> int:
        return len(self._objects)

    def put(self, obj: Json) -> bool:
        """Take an object as it is now; whether the snapshot has changed by it."""
        return self._replace(name_of(obj), self._reading(obj))

    def remove(self, obj: Json) -> bool:
        """Forget an object; whether the snapshot has changed by it."""
        return self._replace(name_of(obj), None)

    def snapshot(self) -> Snapshot:
        """What all objects together say."""
        if self._snapshot is None:
            indexes = [self._indexes[family] for family in self._families()]
            empty: frozenset[Peer] = frozenset()
            labels: dict[Peer, Mapping[str, str]] = {}
            for index in indexes:
                labels.update(index.labels)
            self._snapshot = Snapshot(
                frozenset(labels),
                empty.union(*(index.leaving for index in indexes)),
                complete=not self._partial,
                labels=MappingProxyType(labels),
                reason=several(self.problems()),
            )
        return self._snapshot

    def problems(self) -> list[str]:
        """Why the snapshot is not complete, one line for each object."""
        return [self._objects[name].problem for name in sorted(self._partial)]

    def _families(self) -> list[Family | None]:
        """Which objects count: those without a family always, and those of one family."""
        found: set[Family | None] = {f for f, index in self._indexes.items() if index.objects}
        wanted = self._family or self._usual
        if self._family is None and wanted not in found:
            wanted = "ipv4" if wanted == "ipv6" else "ipv6"
        return [family for family in (None, wanted) if family in found]

    def _reading(self, obj: Json) -> Reading:
        try:
            return self._read(obj)
        except (AttributeError, KeyError, IndexError, TypeError, ValueError) as exc:
            return Reading({}, problem=f"{name_of(obj)}: cannot be read: {one_line(exc)}")

    def _replace(self, name: str, new: Reading | None) -> bool:
        families = self._families()
        complete = not self._partial
        old = self._objects.get(name)
        changed = False
        for family in {r.family for r in (old, new) if r is not None}:
            index = self._indexes.setdefault(family, _Index())
            before = old if old is not None and old.family == family else None
            after = new if new is not None and new.family == family else None
            index.objects += (after is not None) - (before is not None)
            touched = index.update((before or _NOTHING).entries, after.entries if after else {})
            changed |= touched and family in families
        if new is None:
            self._objects.pop(name, None)
        else:
            self._objects[name] = new
        partial = new is not None and bool(new.problem)
        (self._partial.add if partial else self._partial.discard)(name)
        # Labels may have changed all the same.
        self._snapshot = None
        moved = set(families) ^ set(self._families())
        changed |= any(self._indexes[family].labels for family in moved)
        return changed or complete == bool(self._partial)


class Follower:
    """A store that is kept in step with a server.

    Parameters
    ----------
    make_store
        Makes an empty one.

    Attributes
    ----------
    store
        As of :attr:`version`, or as of the last list or event where that is None. None before the
        first list.
    version
        The resource version to watch from; None where there is a gap, so that only a list helps.
    """

    def __init__(self, make_store: Callable[[], Store]) -> None:
        self._make_store = make_store
        self._filling: Store | None = None
        self.store: Store | None = None
        self.version: str | None = None

    def gap(self) -> None:
        """Events may have been missed. What is known stays until there is a new list."""
        self.version = None

    def begin(self) -> None:
        """A list begins, in place of one that has begun before."""
        self.version = None
        self._filling = self._make_store()

    def item(self, obj: Json) -> None:
        """The list goes on."""
        assert self._filling is not None, "begin() comes first"
        self._filling.put(obj)

    def end(self, version: str) -> bool:
        """The list is whole; whether the snapshot has changed by it."""
        assert self._filling is not None, "begin() comes first"
        before, self.store, self._filling = self.store, self._filling, None
        self.version = version
        return before is None or before.snapshot() != self.store.snapshot()

    def event(self, event: Any) -> bool:
        """An event of the watch that is not of type ERROR; whether the snapshot has changed by it.

        Raises
        ------
        StrangeAnswerError
            It is no event. There is a gap then.
        """
        assert self.store is not None, "the list comes first"
        try:
            kind, obj = event["type"], event["object"]
            version = obj["metadata"]["resourceVersion"]
            if not isinstance(version, str) or not version:
                raise TypeError("no resource version")
            changed = False
            if kind in ("ADDED", "MODIFIED"):
                changed = self.store.put(obj)
            elif kind == "DELETED":
                changed = self.store.remove(obj)
            elif kind != "BOOKMARK":
                raise TypeError(f"an event of type {kind!r}")
        except (KeyError, TypeError) as exc:
            self.gap()
            raise StrangeAnswerError(f"the watch sent no event: {one_line(exc)}") from exc
        self.version = version
        return changed


def name_of(obj: Json) -> str:
    """The name of an object; KeyError or TypeError where it has none."""
    name = obj["metadata"]["name"]
    if not isinstance(name, str) or not name:
        raise TypeError("an object without a name")
    return name
