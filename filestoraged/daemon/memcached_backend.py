"""memcached as a backend: it keeps the objects of files and repositories."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from filestoraged.api.metrics import Gauge
from filestoraged.clock import SYSTEM_CLOCK, Clock
from filestoraged.command_errors import StartError, UsageError
from filestoraged.daemon.backend import Backend, Check, CommonOptions, OpenStore
from filestoraged.daemon.fields import declare
from filestoraged.daemon.values import parse_size
from filestoraged.store.contract import Store
from filestoraged.store.disk.store import DiskStore
from filestoraged.store.hashing import HashThreads
from filestoraged.wire.exposition import Family, labelled

if TYPE_CHECKING:
    from filestoraged.check.throttle import Throttle
    from filestoraged.store.memcached.store import MemcachedStore

# Bytes. That of MemcachedStore, whose module is loaded where it is used.
_MEMORY = 256 * 1024 * 1024


def parse_servers(text: str) -> tuple[str, ...]:
    """Return the memcached servers of `HOST:PORT,…`."""
    from filestoraged.store.memcached.pool import parse_server

    servers = tuple(each.strip() for each in text.split(","))
    for server in servers:
        try:
            parse_server(server)
        except ValueError as error:
            raise UsageError(f"invalid memcached server {server!r}: expected HOST:PORT, HOST or [::1]:PORT") from error
    return servers


class MemcachedOptions(CommonOptions):
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
        default=_MEMORY,
        shown="256M",
    )


def _validate(options: MemcachedOptions) -> None:
    from filestoraged.store.memcached.manifest import MAX_SIZE

    if options.max_size is not None and options.max_size > MAX_SIZE:
        raise UsageError(f"--max-size {options.max_size} exceeds the {MAX_SIZE} bytes that --memcached accepts at most")


def _open(options: MemcachedOptions, workers: int, disk: DiskStore, clock: Clock) -> OpenStore:
    store = _connect(options, memory=options.memory // workers, hash_threads=disk.hash_threads, clock=clock)
    warnings = tuple(f"starting without {cause}; each request tries it again" for cause in store.unreachable_servers())
    return OpenStore(store, {"memcached": _gauge(store)}, warnings)


def _open_check(options: MemcachedOptions, *, throttle: Throttle, repair: bool, drops_elsewhere: bool) -> Check:
    from filestoraged.check.memcached import MemcachedCheck

    store = _connect(options)
    for cause in store.unreachable_servers():
        raise StartError(str(cause))
    return MemcachedCheck(store, throttle=throttle, repair=repair)


def _connect(
    options: MemcachedOptions,
    *,
    memory: int = _MEMORY,
    hash_threads: HashThreads | None = None,
    clock: Clock = SYSTEM_CLOCK,
) -> MemcachedStore:
    from filestoraged.store.memcached.manifest import MAX_SIZE
    from filestoraged.store.memcached.store import MemcachedStore

    max_size = MAX_SIZE if options.max_size is None else options.max_size
    try:
        return MemcachedStore(
            options.memcached,
            algorithm=options.hash,
            max_size=max_size,
            memory=memory,
            hash_threads=hash_threads,
            clock=clock,
        )
    except ImportError as error:
        # Where pymemcache is not installed; the message names it.
        raise StartError(str(error)) from error


def _gauge(store: Store) -> Gauge:
    """Items and bytes of each memcached server."""

    def collect() -> Iterator[Family]:
        used = store.usage()
        reached = {name: each for name, each in used.items() if each is not None}
        up = labelled("server", {name: int(name in reached) for name in used})
        items = labelled("server", {name: each.objects for name, each in reached.items()})
        sizes = labelled("server", {name: each.size for name, each in reached.items()})
        yield Family("filestoraged_memcached_up", "gauge", "1 where the memcached server answers.", up)
        yield Family("filestoraged_memcached_items", "gauge", "Items in memcached: manifests and chunks.", items)
        yield Family("filestoraged_memcached_bytes", "gauge", "Bytes of these items.", sizes)

    return collect


MEMCACHED: Backend[MemcachedOptions] = Backend(
    "memcached",
    _open,
    lambda options: f"memcached at {', '.join(options.memcached)}",
    _open_check,
    validate=_validate,
)
