"""A count that takes long: one process makes it in the background, and shares the result with all others.

The first process that needs a result acquires a lock that dies with it, and makes all counts from then on, whichever
process requests them: so what it remembers from one count to the next is in memory once. If it dies, the next process
that needs a result takes over. Nothing is counted before the first request.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import struct
import threading
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

from filestoraged.clock import SYSTEM_CLOCK, Clock
from filestoraged.errors import StoreUnavailable
from filestoraged.file_lock import try_lock_as_process, unlock_as_process

log = logging.getLogger(__name__)

# Called by a count wherever it may pause, at least every millisecond. Raises CountStopped.
Pause = Callable[[], None]
Count = Callable[[Pause], Any]

# The share of one core that a count may use: it holds Python's lock meanwhile, which the loop of the same process waits
# for. For the same reason the thread keeps its priority: while it waited for a core, the loop would wait for the lock.
_CORE_SHARE = 0.2
# The share of one core over a long time: in between, numbers are old. A count of a million objects that change uses 4 s
# of CPU time, and begins every 200 s at most. Counts that requests wait for are not delayed.
_AVERAGE_SHARE = 0.02
# Seconds of work between two pauses. Longer ones would delay the loop noticeably.
_WORK_SLICE = 0.001

# Seconds that a request waits for a new count, unless the last one took longer: small stores get current numbers.
_RESULT_TIMEOUT = 0.008
_RESULT_POLL = 0.0005

# When the count in progress began, 0 for none. Times are on the monotonic clock, which all processes share.
_IN_PROGRESS = struct.Struct("=d")
# When the last count began, and its duration in seconds; the length of the result that follows, and its checksum.
_RECORD_HEAD = struct.Struct("=ddII")
# In bytes.
_MAX_RESULT_SIZE = 4096
# A reader that finds a partial write reads again.
_READ_ATTEMPTS = 10


class CountStopped(Exception):
    """The count was stopped, because the process drains."""


class Counted(NamedTuple):
    """`age` is the time since the count began, in seconds. `value` is its result after a round trip through JSON."""

    value: Any
    age: float


class _LastCount(NamedTuple):
    began: float
    took: float
    # None before the first count.
    value: Any


class SharedCount:
    """Make it before the fork. Any thread of any worker calls it; the lock guards the start of the counting thread."""

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._record = os.memfd_create("count")
        os.pwrite(self._record, bytes(_IN_PROGRESS.size + _RECORD_HEAD.size), 0)
        self._request_reader, self._request_writer = os.pipe()
        os.set_blocking(self._request_writer, False)
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()

    def latest(self, count: Count) -> Counted | None:
        """Request a new count by `count` in the background, and return the last result; None before the first.

        Raises StoreUnavailable if the last count failed.
        """
        requested = self._clock.now()
        self._start(count)
        with contextlib.suppress(BlockingIOError):
            # A full pipe contains requests already.
            os.write(self._request_writer, b"!")
        last = self._read()
        while self._is_due(last, requested) and self._clock.now() - requested < _RESULT_TIMEOUT:
            self._clock.sleep(_RESULT_POLL)
            last = self._read()
        if last.value is None:
            return None
        if "failed" in last.value:
            raise StoreUnavailable(last.value["failed"])
        return Counted(last.value["counted"], self._clock.now() - last.began)

    def _is_due(self, last: _LastCount, requested: float) -> bool:
        """Whether a count that is newer than the request may be complete in a moment."""
        (began,) = _IN_PROGRESS.unpack(os.pread(self._record, _IN_PROGRESS.size, 0))
        takes_long = last.took >= _RESULT_TIMEOUT or 0 < began < requested - _RESULT_TIMEOUT
        return last.began < requested and not takes_long

    def stop(self) -> None:
        """Stop counting in this process."""
        self._stopping.set()
        with self._starting:
            thread, self._thread = self._thread, None
        if thread is not None:
            with contextlib.suppress(BlockingIOError):
                os.write(self._request_writer, b"!")
            thread.join()
            unlock_as_process(self._record)

    def close(self) -> None:
        self.stop()
        for descriptor in (self._record, self._request_reader, self._request_writer):
            os.close(descriptor)

    def _start(self, count: Count) -> None:
        with self._starting:
            if self._thread is None and not self._stopping.is_set() and try_lock_as_process(self._record):
                thread = threading.Thread(target=self._run, args=(count,), name="count", daemon=True)
                try:
                    thread.start()
                    self._thread = thread
                except RuntimeError as error:
                    # The next request tries again.
                    log.warning("cannot start a thread to count objects: %s", error)

    # The rest runs on the counting thread.

    def _run(self, count: Count) -> None:
        while True:
            os.read(self._request_reader, _MAX_RESULT_SIZE)
            if self._stopping.is_set():
                return
            began, worked = self._clock.now(), self._clock.thread_time()
            os.pwrite(self._record, _IN_PROGRESS.pack(began), 0)
            try:
                self._write(began, {"counted": count(_Pauses(self._stopping, self._clock))})
            except CountStopped:
                return
            except Exception as error:
                self._write(began, {"failed": str(error)[:1000]})
            os.pwrite(self._record, _IN_PROGRESS.pack(0.0), 0)
            self._clock.wait(
                self._stopping, _pause_after(self._clock.now() - began, self._clock.thread_time() - worked)
            )

    def _write(self, began: float, value: Any) -> None:
        data = json.dumps(value).encode()
        if len(data) > _MAX_RESULT_SIZE:
            raise ValueError(f"count result has {len(data)} bytes, which exceeds {_MAX_RESULT_SIZE}")
        head = _RECORD_HEAD.pack(began, self._clock.now() - began, len(data), zlib.crc32(data))
        os.pwrite(self._record, head + data, _IN_PROGRESS.size)

    def _read(self) -> _LastCount:
        for _ in range(_READ_ATTEMPTS):
            record = os.pread(self._record, _RECORD_HEAD.size + _MAX_RESULT_SIZE, _IN_PROGRESS.size)
            began, took, size, checksum = _RECORD_HEAD.unpack_from(record)
            data = record[_RECORD_HEAD.size : _RECORD_HEAD.size + size]
            if not size:
                break
            if zlib.crc32(data) == checksum:
                return _LastCount(began, took, json.loads(data))
        return _LastCount(0.0, 0.0, None)


def _pause_after(took: float, worked: float) -> float:
    """The seconds until the next count may begin, after one that took so long and used so much CPU time."""
    return worked * (1 / _AVERAGE_SHARE - 1) if took >= _RESULT_TIMEOUT else 0.0


class _Pauses:
    """Waits, when it is called, as long as the share of the core demands."""

    def __init__(self, stopping: threading.Event, clock: Clock) -> None:
        self._stopping = stopping
        self._clock = clock
        self._since = self._clock.thread_time()

    def __call__(self) -> None:
        # Processor time: time in which the thread waits for a core is not work.
        worked = self._clock.thread_time() - self._since
        if worked >= _WORK_SLICE:
            self._clock.wait(self._stopping, worked * (1 / _CORE_SHARE - 1))
            self._since = self._clock.thread_time()
        if self._stopping.is_set():
            raise CountStopped
