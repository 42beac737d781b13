"""Where the objects of files and repositories are kept: the table BACKENDS, and the options of its rows.

A new backend is a row here, with its options in StoreOptions, and a package below `store`.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from filestoraged.api import metrics
from filestoraged.api.metrics import Gauge
from filestoraged.daemon.fields import declare
from filestoraged.daemon.values import parse_directory, parse_hash, parse_max_size, parse_servers, parse_size
from filestoraged.digest import ALGORITHMS
from filestoraged.errors import StartError, UsageError
from filestoraged.store.contract import Store
from filestoraged.store.disk.store import DiskStore
from filestoraged.store.hashing import HashThreads
from filestoraged.store.memcached.manifest import MAX_SIZE
from filestoraged.store.memcached.store import MEMORY, MemcachedStore


def default_store() -> str:
    """Return the service manager's state directory, else `./store`."""
    # systemd separates several directories by colons; the first is the store's.
    return os.environ.get("STATE_DIRECTORY", "").split(":")[0] or "./store"


@dataclass(frozen=True)
class StoreOptions:
    """What backends are opened by."""

    store: str = declare(
        parse_directory,
        "DIR",
        "directory of the store, created with mode 0700; keys and drops are in it with every backend",
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
    memory: int = declare(
        parse_size,
        "BYTES",
        "memory for all downloads from memcached together, shared by the workers; more downloads wait up to 30 s",
        default=MEMORY,
        shown="256M",
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


class OpenStore(NamedTuple):
    """An opened backend. The metrics of the directory come with that: keys and drops are in it with every backend."""

    store: Store
    gauges: Mapping[str, Gauge] = {}
    # Faults that the daemon starts with all the same; a log line each.
    warnings: tuple[str, ...] = ()


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


def selected(options: StoreOptions) -> Backend:
    """Return the backend that keeps the objects: the first row whose option is set."""
    return next(backend for backend in BACKENDS if getattr(options, backend.option))


def _validate_memcached(options: StoreOptions) -> None:
    if options.max_size is not None and options.max_size > MAX_SIZE:
        raise UsageError(f"--max-size {options.max_size} exceeds the {MAX_SIZE} bytes that --memcached accepts at most")


def _open_memcached(options: StoreOptions, workers: int, _: DiskStore, threads: HashThreads) -> OpenStore:
    store = _connect(options, memory=options.memory // workers, hash_threads=threads)
    warnings = tuple(f"starting without {cause}; each request tries it again" for cause in store.unreachable_servers())
    return OpenStore(store, {"memcached": metrics.memcached(store)}, warnings)


def _check_memcached(options: StoreOptions, **settings: Any) -> Check:
    store = _connect(options)
    for cause in store.unreachable_servers():
        raise StartError(str(cause))
    return _load("filestoraged.check.memcached", "MemcachedCheck")(store, **settings)


def _connect(options: StoreOptions, **settings: Any) -> MemcachedStore:
    max_size = MAX_SIZE if options.max_size is None else options.max_size
    try:
        return MemcachedStore(options.memcached, algorithm=options.hash, max_size=max_size, **settings)
    except ImportError as error:
        # Where pymemcache is not installed; the message names it.
        raise StartError(str(error)) from error


def _check_disk(options: StoreOptions, **settings: Any) -> Check:
    return _load("filestoraged.check.disk", "DiskCheck")(options.store, algorithm=options.hash, **settings)


def _load(module: str, name: str) -> Callable[..., Check]:
    """Import a check. A daemon runs for long, and needs no memory for checks."""
    loaded: Callable[..., Check] = getattr(importlib.import_module(module), name)
    return loaded


# The directory is last: it is always set.
BACKENDS = (
    Backend(
        option="memcached",
        validate=_validate_memcached,
        open=_open_memcached,
        describe=lambda options: f"memcached at {', '.join(options.memcached)}",
        check=_check_memcached,
    ),
    Backend(
        option="store",
        validate=lambda options: None,
        open=lambda options, workers, disk, threads: OpenStore(disk),
        describe=lambda options: os.path.abspath(options.store),
        check=_check_disk,
    ),
)
