"""Memory and speed of the memcached store, compared with pymemcache: `python -m tests.proofs.memcached`.

pymemcache moves the same chunks without a digest and without checks, on the same server.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator

from filestoraged.store.memcached.manifest import CHUNK_SIZE, MAX_SIZE
from filestoraged.store.memcached.store import MemcachedStore
from tests.bench.command import run
from tests.bench.contest import Bench, timed
from tests.bench.figures import Figure
from tests.bench.machine import MIB
from tests.store.memcached.servers import Memcached


def overhead(_: Bench) -> list[Figure]:
    """The memory that memcached takes above the bytes of ten objects."""
    data = os.urandom(MAX_SIZE)
    with _stored() as (server, store):
        for number in range(10):
            store.put(data, name=str(number))
        used = {
            "bytes": server.client.stats()[b"bytes"],  # type: ignore[no-untyped-call]
            "total_malloced": server.client.stats("slabs")[b"total_malloced"],  # type: ignore[no-untyped-call]
        }
    samples = {what: [100 * int(value) / (10 * MAX_SIZE) - 100] for what, value in used.items()}
    return [Figure("memory above that of ten objects of 50 MiB", "%", samples, [])]


def speed(bench: Bench) -> list[Figure]:
    data = os.urandom(MAX_SIZE)
    chunks = {f"plain-{start}": data[start : start + CHUNK_SIZE] for start in range(0, MAX_SIZE, CHUNK_SIZE)}

    def rate(work: Callable[[], object], clear: Callable[[], object] = int) -> float:
        clear()
        return MAX_SIZE / MIB / timed(work)

    with _stored() as (server, store):
        digest, plain = store.put(data), server.client

        def get() -> None:
            with store.get(digest) as stream:
                while stream.read(CHUNK_SIZE):
                    pass

        puts = {
            "put": lambda: rate(lambda: store.put(data), lambda: store.delete(digest)),
            "pymemcache": lambda: rate(
                lambda: [plain.set(key, chunk) for key, chunk in chunks.items()], lambda: plain.delete_many(chunks)
            ),
        }
        gets = {"get": lambda: rate(get), "pymemcache": lambda: rate(lambda: [plain.get(key) for key in chunks])}
        return [
            bench.compare("put of 50 MiB", "MiB/s", puts, {"pymemcache": 0.5}),
            bench.compare("get of 50 MiB", "MiB/s", gets, {"pymemcache": 0.5}),
        ]


@contextlib.contextmanager
def _stored() -> Iterator[tuple[Memcached, MemcachedStore]]:
    server = Memcached("-m", "1024")
    try:
        yield server, MemcachedStore([server.address])
    finally:
        server.stop()


if __name__ == "__main__":
    sys.exit(run("tests.proofs.memcached", {"overhead": overhead, "speed": speed}))
