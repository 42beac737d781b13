"""What a backend declares, the options that all of them have, and what they share.

A backend is a module beside this one, with its options and its row, and a package below `store`. The modules that only
its stores and checks need are imported where it opens them: a daemon has no memory for what it does not use.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Generic, NamedTuple, Protocol, TypeVar

from filestoraged.api.metrics import Gauge
from filestoraged.clock import Clock
from filestoraged.daemon.fields import Options, declare
from filestoraged.daemon.values import parse_database, parse_directory, parse_hash, parse_max_size, parse_size
from filestoraged.digest import ALGORITHMS
from filestoraged.store import layout
from filestoraged.store.contract import Store
from filestoraged.store.disk.store import DiskStore

if TYPE_CHECKING:
    from filestoraged.check.findings import CheckTotals, Finding
    from filestoraged.check.inventory import CheckedStore
    from filestoraged.check.rows import RegistryKind, RowRegistry
    from filestoraged.check.throttle import Throttle
    from filestoraged.store.postgresql.url import DatabaseAddress
    from filestoraged.store.s3.segment_objects import SegmentObjects


def default_store() -> str:
    """Return the service manager's state directory, else `./store`."""
    # systemd separates several directories by colons; the first is the store's.
    return os.environ.get("STATE_DIRECTORY", "").split(":")[0] or "./store"


class CommonOptions(Options):
    """What every backend is opened by. A backend adds its own in a subclass."""

    store: str = declare(
        parse_directory,
        "DIR",
        "directory of the store, created with mode 0700; without --database, its databases are in it, too",
        make_default=default_store,
        shown="./store; under systemd $STATE_DIRECTORY",
    )
    database: DatabaseAddress | None = declare(
        parse_database,
        "URL",
        "PostgreSQL database that keeps keys, drops, locks and names, instead of files in the directory:"
        " postgresql://[USER[:PASSWORD]@]HOST[:PORT]/NAME[?PARAMETER=VALUE]",
        shown="none",
    )
    cache: int = declare(
        parse_size,
        "BYTES",
        "memory for small objects in demand and for the requests for them, divided among the workers; 0 for none",
        default=128 * 1024 * 1024,
        shown="128M",
    )
    hash: str = declare(
        parse_hash,
        "NAME",
        f"digest that names new objects of files, one of {' '.join(ALGORITHMS)}; stored objects keep their names",
        default="sha256",
    )
    max_size: int | None = declare(
        parse_max_size,
        "BYTES",
        "largest object that is accepted, such as 10M or 1G; larger ones get status 413",
        shown="none; on memcached 50M",
    )
    drop_size: int = declare(
        parse_max_size,
        "BYTES",
        "largest drop that is accepted, by form and by resumable upload; larger ones get status 413",
        default=16 * 1024 * 1024,
        shown="16M",
    )


# A backend's own class of options.
_O_contra = TypeVar("_O_contra", bound=CommonOptions, contravariant=True)


class OpenStore(NamedTuple):
    """An opened backend. The metrics of the directory come with that: the databases are in it with every backend."""

    store: Store
    gauges: Mapping[str, Gauge] = {}
    # Faults that the daemon starts with all the same; a log line each.
    warnings: tuple[str, ...] = ()
    # Where the bytes of drops are; None for the directory.
    drops: Store | None = None
    # Where the bytes of unfinished resumable uploads can be; None for the directory.
    segments: SegmentObjects | None = None


class Check(Protocol):
    """One check of everything that a backend keeps."""

    totals: CheckTotals

    def findings(self, pause: float) -> Iterator[Finding | None]: ...


class OpenCheck(Protocol[_O_contra]):
    def __call__(self, options: _O_contra, *, throttle: Throttle, repair: bool, drops_elsewhere: bool) -> Check:
        """With `drops_elsewhere`, another backend has the bytes of drops. Raises StartError."""


class OpenPrune(Protocol[_O_contra]):
    def __call__(self, options: _O_contra, repository: str, throttle: Throttle, *, moves: bool) -> CheckedStore:
        """Return what `prune` reads. Raises StartError if it cannot, or if objects are to be moved and cannot be."""


class Backend(NamedTuple, Generic[_O_contra]):
    """A row of BACKENDS. `open` gets the directory's store, which is there with every backend."""

    # The attribute of the option that selects it, and that names it for the check.
    option: str
    # For a daemon of so many workers, which hash by the threads of the directory's store. Raises StartError.
    open: Callable[[_O_contra, int, DiskStore, Clock], OpenStore]
    # Where its objects are, for the log.
    describe: Callable[[_O_contra], str]
    check: OpenCheck[_O_contra]
    # None if objects cannot be listed.
    prune: OpenPrune[_O_contra] | None = None
    # Whether it has the bytes of drops, and with a database those of unfinished resumable uploads.
    keeps_drops: bool = False
    # Raises UsageError where options contradict each other.
    validate: Callable[[_O_contra], None] = lambda _: None


def drop_store(options: CommonOptions, opened: OpenStore, disk: DiskStore) -> Store:
    """Where the bytes of drops are: in the backend, or in a part of the directory."""
    root = os.path.join(disk.root, layout.DROPS)
    # What is fetched once is not kept in memory.
    return opened.drops or DiskStore(root, max_size=options.drop_size, cache_size=0, within=disk)


def remote_registry(options: CommonOptions, kind: RegistryKind) -> RowRegistry | None:
    """The rows of a kind in the database; None for those in the directory. Raises StoreUnavailable and StoreFailed."""
    if options.database is None:
        return None
    from filestoraged.check.rows import SEGMENTS, STORED
    from filestoraged.check.tables import PostgresRegistry, PostgresSegments, PostgresStored

    if kind == SEGMENTS:
        return PostgresSegments(options.database)
    return PostgresStored(options.database) if kind == STORED else PostgresRegistry(options.database, kind)
