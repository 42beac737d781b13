"""Hashing beside the writing: one core hashes while another receives and stores.

The invariant: a caller never waits for a thread that is not running. Where no thread can be started, the caller hashes
by itself. An exception on the hash thread is raised to the caller.
"""

from __future__ import annotations

import functools
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from filestoraged.digest import Bytes, Expected, Hasher

# 256 KiB: the hash stays ahead of the network and a thousand uploads stay under 256 MiB.
COPY_SIZE = 256 * 1024

# Below a few pieces, starting a thread and waking it costs more than what it takes over.
_WORTH_A_THREAD = 4 * COPY_SIZE

# Smaller pieces are hashed by the caller: that takes about as long as waking a thread (64 KiB: 50 to 150 us), and a
# client that sends so little at a time is slower than the hash, so it should not occupy a thread.
_WORTH_WAKING = 64 * 1024

# Pieces queued for a hash thread, which absorb a slow write: 2 MiB for each upload that has a thread.
_AHEAD = 8

# Seconds without a piece after which a hash thread ends, so that another upload can have one.
_PATIENCE = 1.0

_Hash = Callable[[Bytes], None]


class _Places(NamedTuple):
    """The semaphore of one process."""

    pid: int
    free: threading.BoundedSemaphore


class HashThreads:
    """Limits the hash threads of a process. Shared by all of its stores; any thread may call it.

    A forked child counts anew, since it has none of its parent's threads.
    """

    def __init__(self, limit: int | None = None) -> None:
        """`limit` is the largest number of threads. Default: one for each core, none on a single core."""
        self._limit = limit
        self._places: _Places | None = None

    def start(self, run: Callable[[], None]) -> threading.Thread | None:
        """Start a thread that calls `run`. Returns None at the limit, or if the system refuses another thread."""
        places = self._own_places()
        if not places.free.acquire(blocking=False):
            return None
        thread = threading.Thread(target=_run_in, args=(places, run), name="hash", daemon=True)
        try:
            thread.start()
        except (RuntimeError, MemoryError):
            # "can't start new thread": RLIMIT_NPROC, or pids.max of the control group.
            places.free.release()
            return None
        return thread

    def _own_places(self) -> _Places:
        places = self._places
        if places is None or places.pid != os.getpid():
            # If two threads get here at once, one thread more than the limit may be started, once.
            cores = len(os.sched_getaffinity(0))
            limit = self._limit if self._limit is not None else cores if cores > 1 else 0
            places = self._places = _Places(os.getpid(), threading.BoundedSemaphore(limit))
        return places


def _run_in(places: _Places, run: Callable[[], None]) -> None:
    try:
        run()
    finally:
        places.free.release()


class OverlappedHasher:
    """A Hasher that moves to a hash thread once an object turns out to be large.

    One thread at a time calls it.
    """

    def __init__(self, algorithm: str, expected: Sequence[Expected], threads: HashThreads) -> None:
        self._hasher = Hasher(algorithm, expected)
        self._threads = threads
        self._hashed = 0
        # Of all bytes up to the end of each piece that was marked.
        self.marks: list[bytes] = []
        self._beside: _Beside | None = None

    def update(self, data: Bytes) -> None:
        """Take more bytes. The buffer may be reused afterwards."""
        self._take(self._hasher.update, data, bytes)

    def update_marked(self, data: Bytes) -> None:
        """Take more bytes, in a buffer that nobody changes, and note their mark in `marks`."""
        self._take(self._mark, data, _same)

    def _take(self, hash_: _Hash, data: Bytes, copy: Callable[[Bytes], Bytes]) -> None:
        if self._beside is not None:
            self._beside.hash(hash_, data, copy)
            return
        hash_(data)
        self._hashed += len(data)
        if self._hashed >= _WORTH_A_THREAD:
            self._beside = _Beside(self._threads)

    def _mark(self, data: Bytes) -> None:
        self._hasher.update(data)
        self.marks.append(self._hasher.mark())

    def finish(self) -> str:
        """Return the digest of all bytes.

        Raises DigestMismatch if they are not the expected ones, and any exception of the hash thread.
        """
        beside = self._beside
        self.close()
        if beside is not None:
            beside.raise_failure()
        self._hasher.check()
        return self._hasher.digest()

    def close(self) -> None:
        """Wait until all is hashed, and end the thread, if there is one. Again is harmless."""
        if self._beside is not None:
            self._beside.close()
            self._beside = None


def _same(data: Bytes) -> Bytes:
    return data


class _Beside:
    """Hashes pieces in order, on a hash thread if one is available, else on the caller's thread.

    The condition guards all attributes.
    """

    def __init__(self, threads: HashThreads) -> None:
        self._threads = threads
        self._changed = threading.Condition()
        self._jobs: deque[Callable[[], None]] = deque()
        # The thread runs a job, which it has taken from `_jobs`.
        self._busy = False
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._closed = False

    def hash(self, hash_: _Hash, data: Bytes, copy: Callable[[Bytes], Bytes]) -> None:
        """Hash the next piece, or queue what `copy` returns for it. Raises the exception of an earlier piece."""
        if not self._put(hash_, data, copy):
            hash_(data)

    def raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join()

    def _put(self, hash_: _Hash, data: Bytes, copy: Callable[[Bytes], Bytes]) -> bool:
        """Queue a piece. Returns False if the caller has to hash it, which happens only when the queue is empty."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._jobs) < _AHEAD)
            self.raise_failure()
            if len(data) < _WORTH_WAKING and not self._jobs and not self._busy:
                return False
            if self._thread is None:
                self._thread = self._threads.start(self._run)
            if self._thread is None:
                return False
            self._jobs.append(functools.partial(hash_, copy(data)))
            self._changed.notify_all()
            return True

    def _run(self) -> None:
        try:
            job = self._next_job()
            while job is not None:
                job()
                job = self._next_job()
        except BaseException as error:
            # Raised to the caller, which must stop waiting for this thread.
            self._fail(error)

    def _next_job(self) -> Callable[[], None] | None:
        """Wait for the next job. Returns None if there is none for _PATIENCE seconds; the thread ends then."""
        with self._changed:
            self._busy = False
            self._changed.wait_for(lambda: self._jobs or self._closed, _PATIENCE)
            if not self._jobs:
                self._thread = None
                return None
            self._busy = True
            self._changed.notify_all()
            return self._jobs.popleft()

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            self._failure = error
            self._jobs.clear()
            self._busy = False
            self._thread = None
            self._changed.notify_all()
