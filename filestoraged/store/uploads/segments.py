"""The bytes of an unfinished upload as segments, the objects `uploads/ID/N` of an S3 store.

What arrives is collected in a file without a name, which counts for nothing. To record it, it becomes a segment; then
one transaction names the segment and promises its bytes, if the hold is still the holder's own. An object that no row
names is a leftover, and is removed with its upload at the latest.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import BinaryIO

from filestoraged.clock import Clock
from filestoraged.digest import Bytes, new_hash
from filestoraged.errors import CorruptObject, Error, Gone, NotFound, UploadLocked
from filestoraged.store import layout
from filestoraged.store.contract import Staging, Store
from filestoraged.store.hashing import OverlappedHasher
from filestoraged.store.s3.segment_objects import SegmentObjects
from filestoraged.store.transactions import Transaction
from filestoraged.store.uploads.compaction import count_to_join
from filestoraged.store.uploads.hold_rows import HoldRows, RowHold, Segment, deletion, insertion
from filestoraged.store.uploads.idle_recorder import IdleRecorder
from filestoraged.store.uploads.storage import Change, Tail

# In bytes. Only bytes with a checksum for all of them, which are recorded together, come to more than one segment. Its
# request can be repeated as a whole, and takes no longer than others wait for a store.
MAX_SEGMENT = 64 * 1024 * 1024

# Seconds without a byte after which what arrived is recorded: well before SILENCE.
_IDLE = 2.0


class Segments:
    """A `Content`. The thread of the recorder calls `record_if_idle`; the lock guards what that one changes."""

    def __init__(
        self,
        id_: str,
        hold: RowHold,
        *,
        rows: HoldRows,
        objects: SegmentObjects,
        recorder: IdleRecorder,
        promise: Callable[[int], Change],
        clock: Clock,
        max_size: int,
    ) -> None:
        """`promise` is the change that promises so many bytes. No segment has more than `max_size` bytes."""
        self._id = id_
        self._hold = hold
        self._rows = rows
        self._objects = objects
        self._recorder = recorder
        self._promise = promise
        self._clock = clock
        self._max_size = max_size
        self._lock = threading.Lock()
        self.size = 0
        # When the last byte arrived, on the monotonic clock.
        self._arrived = 0.0
        self._segments: list[Segment] = []
        # Made for the first byte.
        self._file: BinaryIO | None = None
        self._slices: list[_Slice] = []
        # Why nothing more can be added.
        self._failure: Exception | None = None

    def open(self, recorded: int) -> None:
        self._segments = self._rows.segments(self._id)
        end = 0
        for segment in self._segments:
            if segment.start != end:
                break
            end += segment.size
        if end != recorded:
            raise Gone("Bytes of the upload were lost; begin it anew.")
        self.size = recorded

    def append(self, data: Bytes) -> None:
        with self._lock:
            with self._failing():
                self._hold.note_activity()
            if self._file is None:
                self._file = self._objects.create_file()
                with self._failing():
                    self._compact(self._file)
            if not self._slices:
                self._recorder.add(self)
            view = memoryview(data).cast("B")
            while view:
                written = self._last_slice().write(self._file, view)
                view = view[written:]
                self.size += written
            self._arrived = self._clock.now()

    def record(self, change: Change) -> None:
        with self._lock, self._failing(), self._hold.busy():
            self._record(change, self._hold.change)

    def record_if_idle(self) -> None:
        """Record what arrived if nothing followed for a while. A failure is told to the request, if it goes on."""
        with self._lock, contextlib.suppress(Error, OSError):
            is_idle = self._clock.now() - self._arrived >= _IDLE
            if is_idle and self._slices and self._hold.tail is Tail.COUNTS:
                with self._failing():
                    self._record(self._promise(self.size), self._hold.change_in_silence)

    def cut(self, size: int, change: Change) -> None:
        with self._lock:
            kept = [segment for segment in self._segments if segment.start < size]
            removed = self._segments[len(kept) :]
            self._hold.change(_both(deletion(self._id, size), change))
            self._segments = kept
            self.size = size
            self._forget_staged()
        self._remove_objects(removed)

    def read(self, start: int) -> Iterator[bytes]:
        for segment in self._segments:
            skipped = max(0, start - segment.start)
            if skipped >= segment.size:
                continue
            try:
                yield from self._objects.read(self._key(segment), segment.size, segment.digest, skipped)
            except NotFound as error:
                raise Gone("Bytes of the upload were lost; begin it anew.") from error

    def stage(self, store: Store, hasher: Callable[[], OverlappedHasher]) -> Staging | None:
        return None

    def remove(self) -> None:
        """Remove all objects, those of requests that died before they recorded them included."""
        keys = {self._key(segment) for segment in self._rows.segments(self._id)}
        with self._hold.busy():
            for key in keys.union(self._objects.list(self._id)):
                self._objects.remove(key)
        self._hold.change(deletion(self._id, 0))

    def close(self) -> None:
        with self._lock:
            self._forget_staged()
            file, self._file = self._file, None
        if file is not None:
            file.close()

    def _compact(self, file: BinaryIO) -> None:
        """Join small segments at the end, all of which were recorded by requests before this one.

        `cut` needs no part of such a segment: it keeps at least what was recorded when this request began.
        """
        count = count_to_join([each.size for each in self._segments])
        if not count:
            return
        kept, small = self._segments[:-count], self._segments[-count:]
        # A segment that is damaged or missing is reported when the object is made.
        with self._hold.busy(), contextlib.suppress(CorruptObject, NotFound):
            joined = self._join(small, file)
            naming = _both(deletion(self._id, joined.start), insertion(self._id, [joined]))
            self._name([joined], naming, self._hold.change)
            self._segments = [*kept, joined]
            self._remove_objects(small)
        self._forget_staged()

    def _join(self, segments: list[Segment], file: BinaryIO) -> Segment:
        """Store segments as one."""
        joined = _Slice(0, self._max_size)
        for each in segments:
            for piece in self._objects.read(self._key(each), each.size, each.digest, 0):
                view = memoryview(piece)
                while view:
                    view = view[joined.write(file, view) :]
        return self._store(joined, segments[0].start)

    def _name(self, stored: list[Segment], change: Change, apply: Callable[[Change], None]) -> None:
        """Name objects that were stored, by a change that does so."""
        try:
            apply(change)
        except UploadLocked:
            # After another error the transaction may have been made all the same.
            self._remove_objects(stored)
            raise

    def _record(self, change: Change, apply: Callable[[Change], None]) -> None:
        stored: list[Segment] = []
        start = sum(segment.size for segment in self._segments)
        for each in self._slices:
            stored.append(self._store(each, start))
            start += each.size
        self._name(stored, _both(insertion(self._id, stored), change), apply)
        self._segments += stored
        self._forget_staged()

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        """After an error in such a block, another one raises it at once: a client must not wait for the same twice."""
        if self._failure is not None:
            raise self._failure
        try:
            yield
        except Exception as error:
            self._failure = error
            raise

    def _last_slice(self) -> _Slice:
        """Where the next bytes go."""
        if not self._slices or self._slices[-1].size == self._max_size:
            start = self._slices[-1].start + self._max_size if self._slices else 0
            self._slices.append(_Slice(start, self._max_size))
        return self._slices[-1]

    def _store(self, each: _Slice, start: int) -> Segment:
        assert self._file is not None
        segment = Segment(self._hold.next_number(), start, each.size, each.hash.hexdigest())
        self._objects.put(self._key(segment), self._file, each.start, each.size, segment.digest)
        return segment

    def _forget_staged(self) -> None:
        self._recorder.discard(self)
        self._slices = []
        if self._file is not None:
            self._file.truncate(0)
            self._file.seek(0)

    def _remove_objects(self, segments: list[Segment]) -> None:
        """Remove objects that no row names any more. What fails is removed with the upload."""
        for segment in segments:
            with contextlib.suppress(Error):
                self._objects.remove(self._key(segment))

    def _key(self, segment: Segment) -> str:
        return layout.upload_segment_path(self._id, segment.number)


class _Slice:
    """A part of the staging file that becomes one object."""

    def __init__(self, start: int, max_size: int) -> None:
        """`start` is its position in the file, in bytes."""
        self.start = start
        self._max_size = max_size
        self.size = 0
        self.hash = new_hash("sha256")

    def write(self, file: BinaryIO, data: Bytes) -> int:
        """Append as much as fits. Returns how many bytes that are, at least one."""
        written = file.write(memoryview(data)[: self._max_size - self.size])
        self.hash.update(memoryview(data)[:written])
        self.size += written
        return written


def _both(first: Change, second: Change) -> Change:
    def change(transaction: Transaction) -> None:
        first(transaction)
        second(transaction)

    return change
