"""Hashing in parallel: one core hashes while another receives and stores.

The invariant: a caller never waits for a thread that is not running. If no thread can be started, the caller hashes.
An exception on the hash thread is raised to the caller.
"""

from __future__ import annotations

import functools
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from filestoraged.clock import SYSTEM_CLOCK, Clock
from filestoraged.digest import Bytes, Digest, Expected, Hasher
from filestoraged.store.serial_executor import Call, SerialExecutor, start_thread

# 256 KiB: the hash stays ahead of the network and a thousand uploads stay under 256 MiB.
COPY_SIZE = 256 * 1024

# In bytes. For a smaller object, starting and waking a thread costs more than hashing on the caller's thread.
_MIN_THREADED_SIZE = 4 * COPY_SIZE

# In bytes. The caller hashes smaller pieces: that takes about as long as waking a thread (64 KiB: 50 to 150 us), and a
# client that sends so little at a time is slower than the hash, so it should not occupy a thread.
_MIN_QUEUED_SIZE = 64 * 1024

# Pieces queued for a hash thread, which absorb a slow write: about 2 MiB for each upload that has a thread.
_MAX_QUEUED_PIECES = 4

# Seconds without a piece after which a hash thread ends, so that another upload can have one.
_HASH_IDLE_TIMEOUT = 1.0

_Hash = Callable[[Bytes], None]


class _ThreadSlots(NamedTuple):
    """The semaphore of one process."""

    pid: int
    free: threading.BoundedSemaphore


class HashThreads:
    """Limits the hash threads of a process. All of its stores share one; any thread calls it.

    A forked child has none of its parent's threads, and counts anew.
    """

    def __init__(self, limit: int | None = None, clock: Clock = SYSTEM_CLOCK) -> None:
        """`limit` is the maximum number of threads. Default: one for each core, none on a single core."""
        self._limit = limit
        self.clock = clock
        self._slots: _ThreadSlots | None = None

    def start(self, run: Call) -> threading.Thread | None:
        """Start a thread that calls `run`. Returns None at the limit, or if the system refuses another thread."""
        slots = self._own_slots()
        if not slots.free.acquire(blocking=False):
            return None
        thread = start_thread(functools.partial(_run_in, slots, run), name="hash")
        if thread is None:
            slots.free.release()
        return thread

    def _own_slots(self) -> _ThreadSlots:
        slots = self._slots
        if slots is None or slots.pid != os.getpid():
            # If two threads get here at once, one thread more than the limit may be started, once.
            cores = len(os.sched_getaffinity(0))
            limit = self._limit if self._limit is not None else cores if cores > 1 else 0
            slots = self._slots = _ThreadSlots(os.getpid(), threading.BoundedSemaphore(limit))
        return slots


def _run_in(slots: _ThreadSlots, run: Call) -> None:
    try:
        run()
    finally:
        slots.free.release()


class OverlappedHasher:
    """A Hasher that moves to a hash thread once an object turns out to be large.

    One thread at a time calls it.
    """

    def __init__(self, algorithm: str, expected: Sequence[Expected], threads: HashThreads) -> None:
        self._hasher = Hasher(algorithm, expected)
        self._threads = threads
        self._hashed = 0
        # One for each piece that `update_marked` got: the mark of all bytes up to its end.
        self.marks: list[bytes] = []
        self._queue: _HashQueue | None = None

    def update(self, data: Bytes) -> None:
        """Hash more bytes. The buffer may be reused afterwards. Bytes that never change are not copied."""
        self._hash(self._hasher.update, data, _unchanging)

    def update_marked(self, data: Bytes) -> None:
        """Hash more bytes, in a buffer that never changes, and append their mark to `marks`."""
        self._hash(self._mark, data, _same)

    def _hash(self, hash_: _Hash, data: Bytes, copy: Callable[[Bytes], Bytes]) -> None:
        if self._queue is not None:
            self._queue.hash(hash_, data, copy)
            return
        hash_(data)
        self._hashed += len(data)
        if self._hashed >= _MIN_THREADED_SIZE:
            self._queue = _HashQueue(self._threads)

    def _mark(self, data: Bytes) -> None:
        self._hasher.update(data)
        self.marks.append(self._hasher.mark())

    def finish(self) -> Digest:
        """Return the digest of all bytes.

        Raises DigestMismatch if they are not the expected ones, and any exception of the hash thread.
        """
        self.pause()
        return self._hasher.digest()

    def pause(self) -> None:
        """Wait until all pieces are hashed, and end the thread. More may follow. Raises what the thread has raised."""
        queue = self._queue
        self.close()
        if queue is not None:
            queue.raise_failure()

    def close(self) -> None:
        """Wait until all pieces are hashed, and end the thread. A second call does nothing."""
        if self._queue is not None:
            self._queue.close()
            self._queue = None


def _same(data: Bytes) -> Bytes:
    return data


def _unchanging(data: Bytes) -> Bytes:
    """Return the same bytes in a buffer that never changes, and that the caller cannot release."""
    if isinstance(data, memoryview) and isinstance(data.obj, bytes):
        return memoryview(data)
    return bytes(data)


class _HashQueue(SerialExecutor):
    """Hashes pieces in order, on a hash thread if one is available, else on the caller's thread."""

    def __init__(self, threads: HashThreads) -> None:
        self._pieces: deque[Call] = deque()
        super().__init__(self._pieces, idle_timeout=_HASH_IDLE_TIMEOUT, clock=threads.clock)
        self._threads = threads
        self._failure: BaseException | None = None

    def hash(self, hash_: _Hash, data: Bytes, copy: Callable[[Bytes], Bytes]) -> None:
        """Hash the next piece, or queue what `copy` returns for it. Raises the exception of an earlier piece."""
        if not self._put(hash_, data, copy):
            hash_(data)

    def raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _put(self, hash_: _Hash, data: Bytes, copy: Callable[[Bytes], Bytes]) -> bool:
        """Queue a piece. Returns False if the caller has to hash it, which happens only when the queue is empty."""
        with self.changed:
            self.changed.wait_for(lambda: len(self._pieces) < _MAX_QUEUED_PIECES)
            self.raise_failure()
            if len(data) < _MIN_QUEUED_SIZE and not self._pieces and not self.is_busy:
                return False
            if not self.ensure_thread():
                return False
            self._pieces.append(functools.partial(hash_, copy(data)))
            self.changed.notify_all()
            return True

    def _start(self, run: Call) -> threading.Thread | None:
        return self._threads.start(run)

    def _on_error(self, error: BaseException) -> None:
        """Keep the exception for the caller. The digest is lost, so the other pieces need no hash."""
        with self.changed:
            self._failure = error
            self._pieces.clear()
            self.changed.notify_all()
