"""Hashing beside the writing: one core hashes while another receives and stores."""

from __future__ import annotations

import queue
import threading
from typing import Optional, Sequence

from filestoraged.digest import Bytes, Expected, Hasher

# 256 KiB: the hash stays ahead of the network and a thousand uploads stay under 256 MiB.
COPY_SIZE = 256 * 1024

# Below a few pieces, starting a thread and waking it costs more than what it takes over.
_WORTH_A_THREAD = 4 * COPY_SIZE

# Pieces that may wait for the hash: enough to ride out a slow write, 2 MiB an upload.
_AHEAD = 8


class OverlappedHasher:
    """A Hasher that moves to a thread of its own once an object turns out to be large.

    One thread calls it. The other only ever takes pieces off the queue, so nothing here needs a lock.
    """

    def __init__(self, algorithm: str, expected: Sequence[Expected]) -> None:
        self._hasher = Hasher(algorithm, expected)
        self._hashed = 0
        self._pieces: "queue.Queue[Optional[bytes]]" = queue.Queue(_AHEAD)
        self._thread: Optional[threading.Thread] = None

    def update(self, data: Bytes) -> None:
        """Take more bytes. The buffer may be reused afterwards."""
        if self._thread is not None:
            self._pieces.put(bytes(data))
            return
        self._hasher.update(data)
        self._hashed += len(data)
        if self._hashed >= _WORTH_A_THREAD:
            self._thread = threading.Thread(target=self._run, name="hash", daemon=True)
            self._thread.start()

    def finish(self) -> str:
        """Return the digest of all bytes. Raises DigestMismatch where they are not the expected ones."""
        self.close()
        self._hasher.check()
        return self._hasher.digest()

    def close(self) -> None:
        """End the thread, if there is one. Again is harmless."""
        if self._thread is not None:
            self._pieces.put(None)
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        for piece in iter(self._pieces.get, None):
            self._hasher.update(piece)
