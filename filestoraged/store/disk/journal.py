"""The journal of a process: segments, which are written one after the other, and then again.

A segment is a file that is filled with zeros and synced when it is made: to sync what is written into it later, the
file system changes none of its own structures, and does not wait for those of other programs. It is written again
once a checkpoint covers all of it. After a failed sync it is not written any more: the kernel reports the error once,
and the next sync would succeed.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import os
import queue
from collections.abc import Sequence

from filestoraged.errors import Error
from filestoraged.store import layout
from filestoraged.store.disk.directories import Directories, open_directory
from filestoraged.store.disk.records import Format, Group, Record, void
from filestoraged.store.permissions import PRIVATE
from filestoraged.store.system import Queue, System, write_at

log = logging.getLogger(__name__)

# In bytes. A larger one needs fewer checkpoints, each of which syncs the files of all records. A smaller one takes less
# time to replay.
SEGMENT_SIZE = 8 * 1024 * 1024

# Segments of a process. While a checkpoint waits for the disk, the others are written; when all are full, uploads wait.
_MAX_SEGMENTS = 4

_ZEROS = bytes(1024 * 1024)


class JournalSegment:
    """A file of the journal, open. `time` is that of its last record, `free` is where it goes to be written again."""

    def __init__(self, path: str, descriptor: int, free: Queue, *, size: int, system: System) -> None:
        self.path = path
        self.free = free
        self.descriptor = descriptor
        self.time = 0
        self.is_broken = False
        self._size = size
        self._position = 0
        self._system = system

    def has_room(self, size: int) -> bool:
        return not self.is_broken and self._position + size <= self._size

    def write(self, data: bytes) -> None:
        """Write a group, and make it durable. Raises OSError; then it is broken."""
        try:
            write_at(self._system, self.descriptor, data, self._position)
            self._system.fdatasync(self.descriptor)
        except BaseException:
            self.is_broken = True
            raise
        self._position += len(data)

    def check(self) -> None:
        """Raise FileNotFoundError if an operator has removed the staging area: no replay would find it."""
        if not self._system.fstat(self.descriptor).st_nlink:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self.path)

    def rewind(self) -> None:
        self._position = 0


class Journal:
    """One thread appends. Another one takes what is full, and gives it back; see `Committer`."""

    def __init__(
        self,
        area: str,
        directories: Directories,
        format_: Format,
        full: Queue,
        *,
        size: int = SEGMENT_SIZE,
        system: System,
    ) -> None:
        """`area` is the staging area of the process.

        To `full` go segments that a checkpoint is to cover, and None where one is needed.
        """
        self._area = area
        self._directories = directories
        self._format = format_
        self._size = size
        self._system = system
        self._numbers = itertools.count()
        self._count = 0
        self._current: JournalSegment | None = None
        self._full = full
        # Segments to be written, and exceptions: why there are none.
        self._free: Queue = system.queue()
        # The number and the time of the last group, and groups that failed and are not void yet.
        self._sequence = 0
        self._time = 0
        self._failed: list[int] = []

    def append(self, records: Sequence[Record]) -> int:
        """Make records durable, which are in the order of their times. Returns the number of their group.

        Raises OSError and Error: then they say nothing, unless the disk also fails to take the record that voids them.
        FileNotFoundError means that another journal is to be made.
        """
        if self._current is not None:
            self._current.check()
        try:
            return self._append(records)
        except OSError:
            if self._failed:
                self._void_failed()
            raise

    @property
    def is_settled(self) -> bool:
        """Whether each group that failed is void."""
        return not self._failed

    def settle(self) -> None:
        """Void the groups that failed, if that is possible now."""
        if self._failed:
            self._void_failed()

    def refuse(self, error: Exception) -> None:
        """No segment can be written again. The next `append` that needs one raises the error."""
        self._free.put(error)

    def remove(self) -> None:
        """Remove all segments, which a checkpoint covers. Raises OSError."""
        for name in filter(layout.is_segment, self._system.listdir(self._area)):
            self._system.unlink(f"{self._area}/{name}")
        self.close()

    def close(self) -> None:
        segments = [self._current] if self._current is not None else []
        self._current = None
        while not self._free.empty():
            segments.append(self._free.get())
        for segment in segments:
            if isinstance(segment, JournalSegment):
                self._system.close(segment.descriptor)

    def _append(self, records: Sequence[Record]) -> int:
        voids = [void(number, None, records[0].time) for number in self._failed]
        sequence, time = self._sequence + 1, records[-1].time
        data = self._format.encode(Group(sequence, self._time, [*voids, *records]))
        segment = self._segment(len(data))
        self._sequence, self._time = sequence, time
        try:
            segment.write(data)
        except OSError:
            self._failed.append(sequence)
            raise
        segment.time = time
        self._failed.clear()
        return sequence

    def _void_failed(self) -> None:
        """Void the group that failed, in another segment, before its clients learn that it has failed."""
        try:
            self._append([void(self._failed[-1], None, self._system.monotonic_ns())])
        except (OSError, Error) as error:
            log.error(
                "cannot void a group of the journal that failed; until that succeeds, its outcome is open: %s", error
            )

    def _segment(self, size: int) -> JournalSegment:
        """A segment that has room. Raises OSError and Error."""
        current = self._current
        if current is not None and current.has_room(size):
            return current
        if current is not None:
            self._current = None
            self._full.put(current)
        self._current = segment = self._next()
        return segment

    def _next(self) -> JournalSegment:
        """A segment that may be written, made if there is none. Waits for the checkpoint when all are full."""
        error: Exception | None = None
        while True:
            try:
                found = self._free.get(block=False)
            except queue.Empty:
                made = self._made()
                if made is not None:
                    return made
                if error is not None:
                    self._full.put(None)
                    raise error from None
                found = self._free.get()
            if isinstance(found, Exception):
                error = found
            elif found.is_broken:
                self._discard(found)
            else:
                segment: JournalSegment = found
                segment.rewind()
                return segment

    def _discard(self, segment: JournalSegment) -> None:
        self._count -= 1
        self._system.close(segment.descriptor)
        with contextlib.suppress(OSError):
            self._system.unlink(segment.path)

    def _made(self) -> JournalSegment | None:
        """Another segment; None where one of those that are full has to be waited for."""
        if self._count >= _MAX_SEGMENTS:
            return None
        try:
            return self._make()
        except OSError:
            # On a full disk, those that are there do.
            if self._count:
                return None
            raise

    def _make(self) -> JournalSegment:
        path = f"{self._area}/{layout.segment_name(next(self._numbers))}"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = self._system.open(path, flags, PRIVATE.file)
        try:
            # Whatever the umask.
            self._system.fchmod(descriptor, PRIVATE.file)
            for position in range(0, self._size, len(_ZEROS)):
                write_at(self._system, descriptor, _ZEROS[: self._size - position], position)
            self._system.fsync(descriptor)
            self._sync_area()
        except BaseException:
            self._system.close(descriptor)
            with contextlib.suppress(OSError):
                self._system.unlink(path)
            raise
        self._count += 1
        return JournalSegment(path, descriptor, self._free, size=self._size, system=self._system)

    def _sync_area(self) -> None:
        directory = open_directory(self._area, system=self._system)
        try:
            self._directories.sync(self._area, directory)
        finally:
            self._system.close(directory)
