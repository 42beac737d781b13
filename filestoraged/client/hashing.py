"""Hashing beside a transfer: a thread hashes blocks while the next ones are sent or received."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence

from filestoraged.digest import ALGORITHMS, Bytes, Digest, digest_length, new_hash

# Bytes that are sent, received or hashed at once: few enough for the processor's cache.
BLOCK_SIZE = 256 * 1024

# Blocks that wait to be hashed: 2 MiB.
MAX_WAITING = 8

# Bytes that take less time to be hashed than a thread takes to start.
_SMALL_SIZE = 1024 * 1024


def algorithms_of(digest: str) -> Sequence[str]:
    """Return the algorithms that make digests of that length, the most usual first."""
    # `ALGORITHMS` has those of the SHA-2 family before the others.
    return [name for name in ALGORITHMS if digest_length(name) == len(digest)]


def _nothing() -> None:
    pass


class BackgroundHash:
    """Hashes bytes in the order in which they come. One thread uses it; `close` ends its own thread."""

    def __init__(self, algorithms: Sequence[str]) -> None:
        self.algorithms = algorithms
        # Bytes that were given.
        self.position = 0
        self._hashes = {name: new_hash(name) for name in algorithms}
        # Blocks, and what is called when each is hashed; None at the end.
        # A `Queue`, whose methods are in Python, can lose a wake-up where SIGINT interrupts one of them.
        self._waiting: queue.SimpleQueue[tuple[Bytes, Callable[[], None]] | None] = queue.SimpleQueue()
        # An element for each block that may still wait.
        self._room: queue.SimpleQueue[None] = queue.SimpleQueue()
        for _ in range(MAX_WAITING):
            self._room.put(None)
        self._thread: threading.Thread | None = None

    def __enter__(self) -> BackgroundHash:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def update(self, data: Bytes, then: Callable[[], None] = _nothing) -> None:
        """Hash bytes, which must not change before `then` is called, by this thread or the other one."""
        self.position += len(data)
        if self._thread is None and self.position <= _SMALL_SIZE:
            self._hash(data, then)
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="client hash", daemon=True)
            self._thread.start()
        self._room.get()
        self._waiting.put((data, then))

    def digest(self, algorithm: str) -> Digest:
        """Return the digest of everything so far. `algorithm` is one of `algorithms`."""
        self.close()
        return Digest(self._hashes[algorithm].hexdigest())

    def close(self) -> None:
        """Wait for the thread. More bytes start another one."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._waiting.put(None)
            thread.join()

    def _run(self) -> None:
        while (each := self._waiting.get()) is not None:
            self._hash(*each)
            self._room.put(None)

    def _hash(self, data: Bytes, then: Callable[[], None]) -> None:
        # `hashlib` lets other threads run meanwhile.
        for each in self._hashes.values():
            each.update(data)
        then()
