"""Hashing beside the writing: one core hashes while another receives and stores."""

from __future__ import annotations

import functools
import os
import threading
from collections import deque
from typing import Callable, Deque, List, Optional, Sequence

from filestoraged.digest import Bytes, Expected, Hasher

# 256 KiB: the hash stays ahead of the network and a thousand uploads stay under 256 MiB.
COPY_SIZE = 256 * 1024

# Below a few pieces, starting a thread and waking it costs more than what it takes over.
_WORTH_A_THREAD = 4 * COPY_SIZE

# Pieces that may wait for the hash: enough to ride out a slow write, 2 MiB an upload.
_AHEAD = 8

# A thread that gets nothing for so many seconds ends: of a client that pauses, nothing is left but what it has sent.
_PATIENCE = 1.0


class OverlappedHasher:
    """A Hasher that has its work done by a thread of its own once an object turns out to be large, if there is a core.

    One thread at a time calls it.
    """

    def __init__(self, algorithm: str, expected: Sequence[Expected]) -> None:
        self._hasher = Hasher(algorithm, expected)
        self._hashed = 0
        # Of all bytes up to the end of each piece that was marked.
        self.marks: List[bytes] = []
        self._beside: Optional[_Beside] = None

    def update(self, data: Bytes) -> None:
        """Take more bytes. The buffer may be reused afterwards."""
        self._take(self._hasher.update, data if self._beside is None else bytes(data))

    def update_marked(self, data: Bytes) -> None:
        """Take more bytes, in a buffer that nobody changes, and note their mark in `marks`."""
        self._take(self._mark, data)

    def _take(self, hash_: Callable[[Bytes], None], data: Bytes) -> None:
        if self._beside is not None:
            self._beside.put(functools.partial(hash_, data))
            return
        hash_(data)
        self._hashed += len(data)
        if self._hashed >= _WORTH_A_THREAD and len(os.sched_getaffinity(0)) > 1:
            self._beside = _Beside()

    def _mark(self, data: Bytes) -> None:
        self._hasher.update(data)
        self.marks.append(self._hasher.mark())

    def finish(self) -> str:
        """Return the digest of all bytes. Raises DigestMismatch where they are not the expected ones."""
        self.close()
        self._hasher.check()
        return self._hasher.digest()

    def close(self) -> None:
        """Wait until all is hashed, and end the thread, if there is one. Again is harmless."""
        if self._beside is not None:
            self._beside.close()
            self._beside = None


class _Beside:
    """Does jobs in their order, on a thread that is there while they come. A condition guards what they share."""

    def __init__(self) -> None:
        self._jobs: Deque[Callable[[], None]] = deque()
        self._changed = threading.Condition()
        self._thread: Optional[threading.Thread] = None
        self._closed = False

    def put(self, job: Callable[[], None]) -> None:
        with self._changed:
            self._changed.wait_for(lambda: len(self._jobs) < _AHEAD)
            self._jobs.append(job)
            self._changed.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="hash", daemon=True)
                self._thread.start()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._changed.wait_for(lambda: self._jobs or self._closed, _PATIENCE) or not self._jobs:
                    self._thread = None
                    return
                job = self._jobs.popleft()
                self._changed.notify_all()
            job()
