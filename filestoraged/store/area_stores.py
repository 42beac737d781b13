"""Where the objects of each area are. It knows neither limits nor what is counted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from filestoraged.store import layout
from filestoraged.store.contract import SMALL, Store
from filestoraged.store.limits import DATA, DROPS, FILES, NAMED_KINDS, RESTIC


class Part(NamedTuple):
    """Where objects of an area are. `prefix` is what their keys have before their names."""

    store: Store
    prefix: str = ""
    # In bytes: objects of at most this size do not count.
    free: int = -1


class AreaStores:
    """Any thread calls it. It has no areas of names, whose objects are those that names lead to."""

    def __init__(self, objects: Store, drops: Store) -> None:
        """`objects` and `drops` are the stores without limits."""
        self.objects = objects
        self.drops = drops
        # An oid is a SHA-256 digest, whatever --hash says.
        self._named = {
            DATA: objects.namespace(layout.REPOSITORIES, algorithm="sha256"),
            RESTIC: objects.namespace(layout.RESTIC, algorithm="sha256"),
        }

    def areas(self, kind: str) -> Iterator[str]:
        """The areas of a kind that may have objects. Raises ListingUnsupported."""
        if kind not in NAMED_KINDS:
            yield kind
            return
        store = self._named[kind]
        page = store.list_namespaces()
        while page:
            yield from (f"{kind}/{name}" for name in page)
            page = store.list_namespaces(page[-1])

    def parts(self, area: str) -> Sequence[Part]:
        """Where all objects of an area are."""
        kind, _, name = area.partition("/")
        if kind == FILES:
            return [Part(self.objects)]
        if kind == DROPS:
            return [Part(self.drops)]
        store = self._named[kind]
        if kind == DATA:
            return [Part(store.namespace(name))]
        namespaces = (name, *(f"{name}/{each}" for each in layout.RESTIC_DIRECTORIES))
        return [restic_part(store.namespace(each), each) for each in namespaces]


def restic_part(store: Store, namespace: str) -> Part:
    """The part of a namespace `REPOSITORY/TYPE`. Locks are free, so that restic can make room."""
    type_ = namespace.partition("/")[2]
    return Part(store, f"{type_}/", SMALL if type_ == "locks" else -1)
