"""Where the objects of files and repositories are kept: the table BACKENDS, and the options of its rows.

A new backend is a row here, with its options in StoreOptions, and a package below `store`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

from filestoraged.api.metrics import Gauge
from filestoraged.daemon.fields import Options, declare
from filestoraged.daemon.loading import deferred, load
from filestoraged.daemon.values import (
    parse_database,
    parse_directory,
    parse_hash,
    parse_max_size,
    parse_path,
    parse_region,
    parse_s3_url,
    parse_servers,
    parse_size,
)
from filestoraged.digest import ALGORITHMS
from filestoraged.errors import StartError
from filestoraged.store import layout
from filestoraged.store.contract import Store
from filestoraged.store.disk.store import DiskStore
from filestoraged.store.hashing import HashThreads

# Bytes. That of MemcachedStore, whose module is loaded where it is used.
_MEMORY = 256 * 1024 * 1024


def default_store() -> str:
    """Return the service manager's state directory, else `./store`."""
    # systemd separates several directories by colons; the first is the store's.
    return os.environ.get("STATE_DIRECTORY", "").split(":")[0] or "./store"


class StoreOptions(Options):
    """What backends are opened by."""

    store: str = declare(
        parse_directory,
        "DIR",
        "directory of the store, created with mode 0700; without --database, keys, drops and locks are in it, too",
        make_default=default_store,
        shown="./store; under systemd $STATE_DIRECTORY",
    )
    memcached: tuple[str, ...] = declare(
        parse_servers,
        "HOST:PORT[,...]",
        "memcached servers that keep the objects of files and repositories, instead of the directory",
        default=(),
        shown="none",
    )
    s3: Any = declare(
        parse_s3_url,
        "URL",
        "S3 store that keeps the objects of files, repositories and drops: https://HOST[:PORT]/BUCKET[/PREFIX]",
        shown="none",
    )
    s3_region: str = declare(
        parse_region,
        "NAME",
        "region that requests to the S3 store are signed for",
        default="us-east-1",
    )
    s3_credentials: str | None = declare(
        parse_path,
        "FILE",
        "credentials for the S3 store, in AWS' INI format, section default; without it, the AWS_* variables",
        shown="none",
    )
    database: Any = declare(
        parse_database,
        "URL",
        "PostgreSQL database that keeps keys, drops and locks, instead of files in the directory:"
        " postgresql://[USER[:PASSWORD]@]HOST[:PORT]/NAME[?PARAMETER=VALUE]",
        shown="none",
    )
    memory: int = declare(
        parse_size,
        "BYTES",
        "memory for all downloads from memcached together, shared by the workers; more downloads wait up to 30 s",
        default=_MEMORY,
        shown="256M",
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


class OpenStore(NamedTuple):
    """An opened backend. The metrics of the directory come with that: the databases are in it with every backend."""

    store: Store
    gauges: Mapping[str, Gauge] = {}
    # Faults that the daemon starts with all the same; a log line each.
    warnings: tuple[str, ...] = ()
    # Where the bytes of drops are; None for the directory.
    drops: Store | None = None
    # Where the bytes of unfinished resumable uploads can be (SegmentObjects); None for the directory.
    segments: Any = None


class Check(Protocol):
    """One check of everything that a backend keeps."""

    totals: Any

    def findings(self, pause: float) -> Iterator[Any]: ...


class Backend(NamedTuple):
    """A row of BACKENDS. `open` gets the directory's store, which is there with every backend."""

    # The attribute of the option that selects it, and that names it for the check.
    option: str
    # Raises UsageError where options contradict each other.
    validate: Callable[[StoreOptions], None]
    # For a daemon of so many workers. Raises StartError.
    open: Callable[[StoreOptions, int, DiskStore, HashThreads], OpenStore]
    # Where its objects are, for the log.
    describe: Callable[[StoreOptions], str]
    # Raises StartError. The keywords are those of all checks.
    check: Callable[..., Check]
    # What `prune` reads (CheckedStore), None if objects cannot be listed. It gets the name of a repository, a throttle,
    # and whether objects are to be moved. Raises StartError if that cannot be done.
    prune: Callable[[StoreOptions, str, Any, bool], Any] | None = None


def selected(options: StoreOptions) -> Backend:
    """Return the backend that keeps the objects: the first row whose option is set."""
    return next(backend for backend in BACKENDS if getattr(options, backend.option))


def drop_store(options: StoreOptions, opened: OpenStore, disk: DiskStore) -> Store:
    """Where the bytes of drops are: in the backend, or in a part of the directory."""
    root = os.path.join(disk.root, layout.DROPS)
    # What is fetched once is not kept in memory.
    return opened.drops or DiskStore(root, max_size=options.drop_size, cache_size=0, within=disk)


def drop_registry(options: StoreOptions) -> Any:
    """The registry of drops in the database; None for that in the directory."""
    return None if options.database is None else load("check.postgresql", "PostgresRegistry")(options.database)


def upload_registry(options: StoreOptions) -> Any:
    """The registry of resumable uploads in the database; None for that in the directory."""
    if options.database is None:
        return None
    return load("check.postgresql", "PostgresRegistry")(options.database, load("check.rows", "UPLOADS"))


def _open_prune(options: StoreOptions, repository: str, throttle: Any, moves: bool) -> Any:
    path = os.path.join(options.store, layout.REPOSITORIES, repository)
    if not os.path.isdir(path):
        raise StartError(f"there is no repository {repository!r} in the store {options.store!r}")
    if os.path.islink(path):
        # It may be another repository, whose objects the list does not name.
        raise StartError(f"cannot prune the repository {repository!r}: its directory is a symbolic link")
    if moves and not os.access(path, os.W_OK | os.X_OK):
        raise StartError(f"cannot prune the repository {repository!r}: it cannot be written")
    return load("check.disk", "CheckedDisk")(options.store, throttle)


# The directory is last: it is always set.
BACKENDS = (
    Backend(
        option="s3",
        validate=deferred("daemon.s3_backend", "validate"),
        open=deferred("daemon.s3_backend", "open_store"),
        describe=lambda options: f"the S3 store {options.s3}",
        check=deferred("daemon.s3_backend", "open_check"),
        prune=deferred("daemon.s3_backend", "open_prune"),
    ),
    Backend(
        option="memcached",
        validate=deferred("daemon.memcached_backend", "validate"),
        open=deferred("daemon.memcached_backend", "open_store"),
        describe=lambda options: f"memcached at {', '.join(options.memcached)}",
        check=deferred("daemon.memcached_backend", "open_check"),
    ),
    Backend(
        option="store",
        validate=lambda options: None,
        open=lambda options, workers, disk, threads: OpenStore(disk),
        describe=lambda options: os.path.abspath(options.store),
        check=lambda options, **settings: load("check.disk", "check_disk")(
            options.store,
            algorithm=options.hash,
            has_drops=not options.s3,
            drops=drop_registry(options),
            has_uploads=not (options.s3 and options.database),
            uploads=upload_registry(options),
            **settings,
        ),
        prune=_open_prune,
    ),
)
