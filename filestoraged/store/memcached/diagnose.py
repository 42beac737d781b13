"""Compares the settings and statistics of memcached servers with the needs of objects."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from filestoraged.errors import StoreUnavailable
from filestoraged.store.diagnosis import BAD, GOOD, NOTE, Diagnosis
from filestoraged.store.memcached.manifest import CHUNK_SIZE
from filestoraged.store.memcached.pool import PoolServer, ServerPool, figure

# In bytes. The key, the header and the slot of a chunk beside its data.
_ITEM_OVERHEAD = 288

# In percent. Objects take up to this much more memory than their size: unused ends of pages, and partly used pages.
_MEMORY_OVERHEAD = 3

_MIB = 1024 * 1024

_Stats = dict[bytes, Any]


def examine(servers: Sequence[str], size: int, *, timeout: float = 2.0) -> list[Diagnosis]:
    """Diagnose whether the servers can hold objects of `size` bytes in total.

    Raises ValueError if one of them is not HOST:PORT.
    """
    with contextlib.closing(ServerPool(servers, timeout=timeout, connect_timeout=timeout)) as pool:
        # Chunks are spread evenly.
        share = size * (100 + _MEMORY_OVERHEAD) // 100 // len(pool.servers)
        return [diagnosis for server in pool.servers for diagnosis in _examine_server(server, share)]


def _examine_server(server: PoolServer, share: int) -> Iterator[Diagnosis]:
    try:
        stats, settings = _stats(server), _stats(server, "settings")
    except StoreUnavailable as error:
        yield Diagnosis(BAD, str(error.__cause__))
        return
    for diagnosis in (
        _version(stats),
        _item_size(settings),
        _memory(stats, share),
        _evictions(stats),
        _when_full(settings),
    ):
        yield Diagnosis(diagnosis.verdict, f"memcached {server.name}: {diagnosis.text}")


def _stats(server: PoolServer, *names: str) -> _Stats:
    return server.call(lambda client: client.stats(*names))


def _version(stats: _Stats) -> Diagnosis:
    version = stats.get(b"version", b"").decode("ascii", "replace")
    return Diagnosis(GOOD if version else BAD, f"is reachable, version {version or 'unknown'}")


def _item_size(settings: _Stats) -> Diagnosis:
    largest, needed = figure(settings, b"item_size_max"), CHUNK_SIZE + _ITEM_OVERHEAD
    return Diagnosis(
        GOOD if largest >= needed else BAD, f"takes items of up to {largest} bytes; {needed} are needed (-I)"
    )


def _memory(stats: _Stats, share: int) -> Diagnosis:
    limit, used = figure(stats, b"limit_maxbytes"), figure(stats, b"bytes")
    free = max(0, limit - used)
    return Diagnosis(
        GOOD if free >= share else BAD,
        f"has {limit // _MIB} MiB, {free // _MIB} of them free; {-(-share // _MIB)} are needed (-m)",
    )


def _evictions(stats: _Stats) -> Diagnosis:
    count = figure(stats, b"evictions")
    return Diagnosis(BAD if count else GOOD, f"has evicted {count} items so far")


def _when_full(settings: _Stats) -> Diagnosis:
    if settings.get(b"evictions") == b"off":
        return Diagnosis(GOOD, "refuses new objects when it is full")
    # Intended where memcached is used as a cache.
    return Diagnosis(NOTE, "drops old objects when it is full; with -M it refuses new ones")
