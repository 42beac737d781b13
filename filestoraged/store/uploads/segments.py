"""The bytes of an unfinished upload as segments, the objects `uploads/ID/N` of an S3 store.

What arrives is collected in a file without a name, which counts for nothing. To record it, it becomes a segment; then
one transaction names the segment and promises its bytes, if the hold is still the holder's own. An object that no row
names is a leftover, and is removed with its upload at the latest.

A last segment that is small is written anew with the bytes that follow, so that neither a client of small requests nor
a slow one leaves many: every request reads the rows of all segments, and the removal takes a request for each.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO, NamedTuple

from filestoraged.digest import Bytes, new_hash
from filestoraged.errors import CorruptObject, Error, Gone, NotFound, UploadLocked
from filestoraged.store import layout
from filestoraged.store.contract import Staging, Store
from filestoraged.store.hashing import COPY_SIZE, OverlappedHasher
from filestoraged.store.s3.segment_objects import SegmentObjects
from filestoraged.store.uploads.hold_rows import RowHold
from filestoraged.store.uploads.storage import Change, joined

# In bytes. Only bytes with a checksum for all of them, which are recorded together, come to more than one segment. Its
# request can be repeated as a whole, and takes no longer than others wait for a store.
MAX_SEGMENT = 64 * 1024 * 1024

# In bytes. A smaller segment is written anew: a request reads and stores as much besides its own bytes, and an upload
# has one segment for each MiB at most.
SMALL_SEGMENT = 1024 * 1024


class Segment(NamedTuple):
    """Bytes of an upload that are an object: `size` bytes from `start` on, with that SHA-256."""

    number: int
    start: int
    size: int
    digest: str


class Segments:
    """A `Content`."""

    def __init__(
        self,
        id_: str,
        hold: RowHold,
        segments: Sequence[Segment],
        *,
        objects: SegmentObjects,
        max_size: int,
    ) -> None:
        """`segments` are those that rows name. No new one has more than `max_size` bytes."""
        self._id = id_
        self._hold = hold
        self._segments = list(segments)
        self._objects = objects
        self._max_size = max_size
        self.size = 0
        # Made for the first byte. Its own first byte is the one at `_start` of the upload: the first that is not
        # recorded, or that of a last segment which is small.
        self._file: BinaryIO | None = None
        self._start = 0
        self._slices: list[_Slice] = []
        # The last segment of the requests before, if its bytes are in the file to be written anew.
        self._small: Segment | None = None
        # Why nothing more can be added.
        self._failure: Exception | None = None

    def open(self, recorded: int) -> None:
        end = 0
        for segment in self._segments:
            if segment.start != end:
                break
            end += segment.size
        if end != recorded:
            raise Gone("Bytes of the upload were lost; begin it anew.")
        self.size = recorded

    def append(self, data: Bytes) -> None:
        with self._failing():
            self._hold.note_activity()
        if self._file is None:
            self._file = self._objects.create_file()
            self._start = self.size
            with self._failing():
                self._copy_small(self._file)
        self._stage(self._file, data)

    def record(self, change: Change) -> None:
        with self._failing(), self._hold.busy():
            stored: list[Segment] = []
            start = self._start
            for each in self._slices:
                stored.append(self._store(each, start))
                start += each.size
            kept = [segment for segment in self._segments if segment.start < self._start]
            replaced = self._segments[len(kept) :]
            replacing = [deletion(self._id, self._start)] if replaced else []
            try:
                self._hold.change(joined([*replacing, insertion(self._id, stored), change]))
            except UploadLocked:
                # After another error the transaction may have been made all the same.
                self._remove_objects(stored)
                raise
            self._segments = [*kept, *stored]
            # `cut` may need that of the requests before.
            self._remove_objects([segment for segment in replaced if segment != self._small])
            if len(stored) != 1 or stored[0].size >= SMALL_SEGMENT:
                self._forget_staged()

    def cut(self, size: int, change: Change) -> None:
        # The last segment of the requests before ends where this one began, at `size`.
        before = [self._small] if self._small is not None else []
        start = self._small.start if self._small is not None else size
        kept = [segment for segment in self._segments if segment.start < start]
        removed = [segment for segment in self._segments[len(kept) :] if segment not in before]
        self._hold.change(joined([deletion(self._id, start), insertion(self._id, before), change]))
        self._segments = [*kept, *before]
        self.size = size
        self._forget_staged()
        self._remove_objects(removed)

    @property
    def holds_all(self) -> bool:
        return not self._segments

    def read(self, start: int) -> Iterator[bytes]:
        end = 0
        for segment in self._segments:
            end += segment.size
            skipped = max(0, start - segment.start)
            if skipped >= segment.size:
                continue
            try:
                yield from self._objects.read(self._key(segment), segment.size, segment.digest, skipped)
            except NotFound as error:
                raise Gone("Bytes of the upload were lost; begin it anew.") from error
        if self._file is not None and end < self.size:
            self._file.seek(max(start, end) - self._start)
            while piece := self._file.read(COPY_SIZE):
                yield piece

    def stage(self, store: Store, hasher: Callable[[], OverlappedHasher]) -> Staging | None:
        return None

    @property
    def is_empty(self) -> bool:
        return not self._segments and self._hold.is_fresh

    def remove(self) -> Change:
        """Remove all objects, those of requests that died before they recorded them included."""
        keys = {self._key(segment) for segment in self._segments}
        with self._hold.busy():
            for key in keys.union(self._objects.list(self._id)):
                self._objects.remove(key)
        self._small = None
        return deletion(self._id, 0)

    def close(self) -> None:
        self._forget_staged()
        file, self._file = self._file, None
        if file is not None:
            file.close()
        small, self._small = self._small, None
        if small is not None and small not in self._segments:
            # Not before: `cut` would have needed it.
            self._remove_objects([small])

    def _copy_small(self, file: BinaryIO) -> None:
        """Copy the last segment to the file, if it is small."""
        last = self._segments[-1] if self._segments else None
        if last is None or last.size >= SMALL_SEGMENT:
            return
        # One that is damaged or missing is reported when the object is made.
        with self._hold.busy(), contextlib.suppress(CorruptObject, NotFound):
            data = b"".join(self._objects.read(self._key(last), last.size, last.digest, 0))
            self._small = last
            self.size = self._start = last.start
            self._stage(file, data)

    def _stage(self, file: BinaryIO, data: Bytes) -> None:
        view = memoryview(data).cast("B")
        while view:
            written = self._last_slice().write(file, view)
            view = view[written:]
            self.size += written

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
        self._start = self.size
        self._slices = []
        if self._file is not None:
            self._file.truncate(0)
            self._file.seek(0)

    def _remove_objects(self, segments: Sequence[Segment]) -> None:
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


def insertion(id_: str, segments: Sequence[Segment]) -> Change:
    """Objects have become segments of an upload."""
    rows = [(id_, *segment) for segment in segments]
    statement = "INSERT INTO upload_segments (id, number, start, size, digest) VALUES (?, ?, ?, ?, ?)"
    return lambda transaction: transaction.executemany(statement, rows)


def deletion(id_: str, start: int) -> Change:
    """The segments from `start` on are none any more."""
    return lambda transaction: transaction.execute(
        "DELETE FROM upload_segments WHERE id = ? AND start >= ?", (id_, start)
    )
