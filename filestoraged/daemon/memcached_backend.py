"""The row of BACKENDS for memcached. It is loaded where that is chosen: it takes 0.6 MiB."""

from __future__ import annotations

from typing import Any

from filestoraged.api import metrics
from filestoraged.clock import Clock
from filestoraged.daemon.backends import Check, OpenStore, StoreOptions
from filestoraged.daemon.loading import load
from filestoraged.errors import StartError, UsageError
from filestoraged.store.disk.store import DiskStore
from filestoraged.store.hashing import HashThreads
from filestoraged.store.memcached.manifest import MAX_SIZE
from filestoraged.store.memcached.store import MemcachedStore


def validate(options: StoreOptions) -> None:
    if options.max_size is not None and options.max_size > MAX_SIZE:
        raise UsageError(f"--max-size {options.max_size} exceeds the {MAX_SIZE} bytes that --memcached accepts at most")


def open_store(options: StoreOptions, workers: int, _: DiskStore, threads: HashThreads, __: Clock) -> OpenStore:
    store = _connect(options, memory=options.memory // workers, hash_threads=threads)
    warnings = tuple(f"starting without {cause}; each request tries it again" for cause in store.unreachable_servers())
    return OpenStore(store, {"memcached": metrics.memcached(store)}, warnings)


def open_check(options: StoreOptions, **settings: Any) -> Check:
    store = _connect(options)
    for cause in store.unreachable_servers():
        raise StartError(str(cause))
    check: Check = load("check.memcached", "MemcachedCheck")(store, **settings)
    return check


def _connect(options: StoreOptions, **settings: Any) -> MemcachedStore:
    max_size = MAX_SIZE if options.max_size is None else options.max_size
    try:
        return MemcachedStore(options.memcached, algorithm=options.hash, max_size=max_size, **settings)
    except ImportError as error:
        # Where pymemcache is not installed; the message names it.
        raise StartError(str(error)) from error
