"""A count that takes long: one process makes it in the background, and all tell what it found last.

The process that is asked first takes a lock that dies with it, and counts from then on, whichever process is asked: so
what it remembers from one count to the next is in memory once. If it dies, the next one that is asked takes over.
Nothing is counted before it is asked for.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import struct
import threading
import time
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

from filestoraged.errors import StoreUnavailable

log = logging.getLogger(__name__)

# A call of this is put wherever a count may wait for a moment, a millisecond apart at most. Raises Stopped.
Pause = Callable[[], None]
Count = Callable[[Pause], Any]

# What a count may take of one core: it has Python's lock meanwhile, which the loop of the same process waits for. For
# the same reason the thread keeps its priority: one that waits for a core would keep the loop waiting.
_SHARE = 0.2
# Seconds of work between two waits: longer ones would show in the loop's answers.
_SLICE = 0.001

# Seconds that an answer waits for a new count, unless the last one took longer. Where there is little, it is as of now.
_PATIENCE = 0.008
_LOOK = 0.0005

# When the count that is under way began, 0 where none is. Times are on the monotonic clock, which all processes share.
_UNDER_WAY = struct.Struct("=d")
# When the last one began, and how many seconds it took; the length of what follows, and its checksum.
_HEAD = struct.Struct("=ddII")
_LARGEST = 4096
# A reader that finds half a write looks again.
_ATTEMPTS = 10


class CountStopped(Exception):
    """The process drains."""


class Counted(NamedTuple):
    """`age` is in seconds. `value` is what was counted, as JSON keeps it."""

    value: Any
    age: float


class _Known(NamedTuple):
    began: float
    took: float
    # None where nothing was counted so far.
    value: Any


class SharedCount:
    """Made before the fork, and used by any thread of any worker. The lock guards the start of the one that counts."""

    def __init__(self) -> None:
        self._record = os.memfd_create("count")
        os.pwrite(self._record, bytes(_UNDER_WAY.size + _HEAD.size), 0)
        self._listening, self._bell = os.pipe()
        os.set_blocking(self._bell, False)
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._ends = threading.Event()

    def latest(self, count: Count) -> Counted | None:
        """Have it counted by `count` in the background, and return what was counted last; None until something was.

        Raises StoreUnavailable where the last count failed.
        """
        asked = time.monotonic()
        self._start(count)
        with contextlib.suppress(BlockingIOError):
            # Where the pipe is full, it is rung already.
            os.write(self._bell, b"!")
        known = self._read()
        while self._is_due(known, asked) and time.monotonic() - asked < _PATIENCE:
            time.sleep(_LOOK)
            known = self._read()
        if known.value is None:
            return None
        if "failed" in known.value:
            raise StoreUnavailable(known.value["failed"])
        return Counted(known.value["counted"], time.monotonic() - known.began)

    def _is_due(self, known: _Known, asked: float) -> bool:
        """Whether a count that is younger than the question may be there in a moment."""
        (began,) = _UNDER_WAY.unpack(os.pread(self._record, _UNDER_WAY.size, 0))
        takes_long = known.took >= _PATIENCE or 0 < began < asked - _PATIENCE
        return known.began < asked and not takes_long

    def stop(self) -> None:
        """Count no more in this process."""
        self._ends.set()
        with self._starting:
            thread, self._thread = self._thread, None
        if thread is not None:
            with contextlib.suppress(BlockingIOError):
                os.write(self._bell, b"!")
            thread.join()
            fcntl.lockf(self._record, fcntl.LOCK_UN)

    def close(self) -> None:
        self.stop()
        for descriptor in (self._record, self._listening, self._bell):
            os.close(descriptor)

    def _start(self, count: Count) -> None:
        with self._starting:
            if self._thread is None and not self._ends.is_set() and self._takes_over():
                thread = threading.Thread(target=self._run, args=(count,), name="count", daemon=True)
                try:
                    thread.start()
                    self._thread = thread
                except RuntimeError as error:
                    # The next one who asks tries again.
                    log.warning("cannot start a thread to count objects: %s", error)

    def _takes_over(self) -> bool:
        try:
            # Of the process, not of the descriptor, which all processes have from their master.
            fcntl.lockf(self._record, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    # The rest runs on the thread that counts.

    def _run(self, count: Count) -> None:
        while True:
            os.read(self._listening, _LARGEST)
            if self._ends.is_set():
                return
            began = time.monotonic()
            os.pwrite(self._record, _UNDER_WAY.pack(began), 0)
            try:
                self._write(began, {"counted": count(_Pauses(self._ends))})
            except CountStopped:
                return
            except Exception as error:
                self._write(began, {"failed": str(error)[:1000]})
            os.pwrite(self._record, _UNDER_WAY.pack(0.0), 0)

    def _write(self, began: float, value: Any) -> None:
        data = json.dumps(value).encode()
        if len(data) > _LARGEST:
            raise ValueError(f"a count of {len(data)} bytes: at most {_LARGEST} are shared")
        head = _HEAD.pack(began, time.monotonic() - began, len(data), zlib.crc32(data))
        os.pwrite(self._record, head + data, _UNDER_WAY.size)

    def _read(self) -> _Known:
        for _ in range(_ATTEMPTS):
            record = os.pread(self._record, _HEAD.size + _LARGEST, _UNDER_WAY.size)
            began, took, size, checksum = _HEAD.unpack_from(record)
            data = record[_HEAD.size : _HEAD.size + size]
            if not size:
                break
            if zlib.crc32(data) == checksum:
                return _Known(began, took, json.loads(data))
        return _Known(0.0, 0.0, None)


class _Pauses:
    """Waits, when it is called, for as long as its share of the time demands."""

    def __init__(self, ends: threading.Event) -> None:
        self._ends = ends
        self._since = time.thread_time()

    def __call__(self) -> None:
        # By the processor's time: where others keep it waiting, that is no work of its own.
        worked = time.thread_time() - self._since
        if worked >= _SLICE:
            self._ends.wait(worked * (1 / _SHARE - 1))
            self._since = time.thread_time()
        if self._ends.is_set():
            raise CountStopped
