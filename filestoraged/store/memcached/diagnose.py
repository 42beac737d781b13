"""Whether memcached servers are fit to keep objects: what they say of themselves, against what objects need."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from filestoraged.errors import StoreUnavailable
from filestoraged.store.memcached.manifest import CHUNK_SIZE
from filestoraged.store.memcached.pool import PoolServer, ServerPool, figure

# What a chunk's key, its header and its slot take beside its bytes.
_ITEM_OVERHEAD = 288

# Objects take up to so much more than they are, in percent: rests of pages, and pages begun.
_OVERHEAD = 3

_MIB = 1024 * 1024

_Stats = dict[bytes, Any]


GOOD, NOTE, BAD = "good", "note", "BAD"


class Diagnosis(NamedTuple):
    verdict: str
    text: str


def examine(servers: Sequence[str], size: int, *, timeout: float = 2.0) -> list[Diagnosis]:
    """What is good and what is not about keeping objects of `size` bytes in all on these servers, one sentence each.

    Raises ValueError where one of them is no HOST:PORT.
    """
    nodes = ServerPool(servers, timeout=timeout, connect_timeout=timeout).all
    # Chunks are spread evenly.
    share = size * (100 + _OVERHEAD) // 100 // len(nodes)
    return [finding for node in nodes for finding in _examine_node(node, share)]


class Usage(NamedTuple):
    items: int
    # Bytes.
    size: int


def usage(nodes: ServerPool) -> dict[str, Usage | None]:
    """How much each server keeps, by its name; None where it does not say. All are asked at once."""
    with ThreadPoolExecutor(len(nodes.all)) as threads:
        return dict(zip((node.name for node in nodes.all), threads.map(_usage, nodes.all)))


def _usage(node: PoolServer) -> Usage | None:
    try:
        stats = _stats(node)
    except StoreUnavailable:
        return None
    return Usage(figure(stats, b"curr_items"), figure(stats, b"bytes"))


def _examine_node(node: PoolServer, share: int) -> Iterator[Diagnosis]:
    try:
        stats, settings = _stats(node), _stats(node, "settings")
    except StoreUnavailable as error:
        yield Diagnosis(BAD, str(error.__cause__))
        return
    for finding in (
        _version(stats),
        _item_size(settings),
        _memory(stats, share),
        _evictions(stats),
        _when_full(settings),
    ):
        yield Diagnosis(finding.verdict, f"memcached {node.name}: {finding.text}")


def _stats(node: PoolServer, *names: str) -> _Stats:
    return node.ask(lambda link: link.stats(*names))


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
    # Who uses it as a cache wants just that.
    return Diagnosis(NOTE, "drops old objects when it is full; with -M it refuses new ones")
