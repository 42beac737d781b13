"""Memory and speed of the memcached store, compared with pymemcache: `python -m tests.proofs.memcached [ROUNDS]`.

pymemcache moves the same chunks without a digest and without checks. Both alternate on one server; ratios are of the
same round.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator

from filestoraged.store.memcached.manifest import CHUNK_SIZE, MAX_SIZE, Manifest, unpack
from filestoraged.store.memcached.store import MemcachedStore
from tests.store.memcached.servers import Memcached

ROUNDS = 15


@contextlib.contextmanager
def memcached(*options: str) -> Iterator[Memcached]:
    server = Memcached("-m", "1024", *options)
    try:
        yield server
    finally:
        server.stop()


def overhead() -> None:
    """Print the memory that memcached takes, with one object and with ten."""
    data = os.urandom(MAX_SIZE)
    for count in (1, 10):
        with memcached() as server:
            store = MemcachedStore([server.address])
            for number in range(count):
                store.put(data, name=str(number))
            payload = count * len(data)
            used = int(server.client.stats()[b"bytes"])
            malloced = int(server.client.stats("slabs")[b"total_malloced"])
        print(
            f"{count} objects of 50 MiB: bytes {used / payload - 1:+.2%}, total_malloced {malloced / payload - 1:+.2%}"
        )


def speed(rounds: int) -> None:
    data = os.urandom(MAX_SIZE)
    chunks = [data[start : start + CHUNK_SIZE] for start in range(0, len(data), CHUNK_SIZE)]
    keys = [f"plain-{number}" for number in range(len(chunks))]
    with memcached() as server:
        store, plain = MemcachedStore([server.address]), server.client

        def plain_put() -> None:
            for key, chunk in zip(keys, chunks):
                plain.set(key, chunk)

        def plain_get() -> None:
            for key in keys:
                assert plain.get(key) is not None

        def get() -> None:
            with store.get(digest) as stream:
                while stream.read(CHUNK_SIZE):
                    pass

        def two_passes() -> None:
            manifest = manifest_of(server)
            assert store.is_whole(manifest) and store.is_whole(manifest)

        digest = store.put(data)
        plain_put()
        figures: dict[str, list[float]] = {}
        for _ in range(rounds):
            for name, work, clear in (
                ("pymemcache put", plain_put, lambda: plain.delete_many(keys)),
                ("put", lambda: store.put(data), lambda: store.delete(digest)),
            ):
                clear()
                figures.setdefault(name, []).append(timed(work))
            for name, work in (("pymemcache get", plain_get), ("get", get), ("two passes", two_passes)):
                figures.setdefault(name, []).append(timed(work))
    for name, seconds in figures.items():
        low, middle, high = spread(seconds)
        print(
            f"{name:14} {middle * 1000:6.1f} ms ({low * 1000:.1f} to {high * 1000:.1f}), "
            f"{MAX_SIZE / middle / 1024 / 1024:.0f} MiB/s"
        )
    for name in ("put", "get"):
        ratios = [other / ours for other, ours in zip(figures[f"pymemcache {name}"], figures[name])]
        low, middle, high = spread(ratios)
        print(f"{name}: {middle:.2f} of the speed of pymemcache ({low:.2f} to {high:.2f})")


def manifest_of(server: Memcached) -> Manifest:
    (key,) = server.manifest_keys()
    return unpack(key, server.client.get(key))


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def spread(values: list[float]) -> tuple[float, float, float]:
    return min(values), statistics.median(values), max(values)


if __name__ == "__main__":
    overhead()
    speed(int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS)
