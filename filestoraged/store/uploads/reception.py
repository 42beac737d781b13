"""The reception of one piece of an upload: from its first byte until what arrived is durable and recorded."""

from __future__ import annotations

import contextlib
import logging

from filestoraged.clock import Clock
from filestoraged.digest import Bytes, Expected, Hasher
from filestoraged.errors import (
    ChecksumMismatch,
    DigestMismatch,
    Error,
    OffsetConflict,
    QuotaExceeded,
    TooLarge,
    UploadLocked,
)
from filestoraged.store.contract import Store
from filestoraged.store.hashing import OverlappedHasher
from filestoraged.store.uploads.hashers import Hashers, PositionedHasher
from filestoraged.store.uploads.registry import Registry, Upload
from filestoraged.store.uploads.storage import Held, Tail, joined

log = logging.getLogger(__name__)

# A crash costs the bytes since the last record: so many bytes, or of a slow client those of so many seconds. A record
# takes a sync of the file and one of the database, about 1 % of the time in which a fast client sends as much.
RECORD_SIZE = 32 * 1024 * 1024
_RECORD_INTERVAL = 5.0

# In bytes. A hash that misses so much of the file is completed before more arrives: other workers had received it.
# With more, at the end: a client should not wait for it before it may send.
_MAX_CATCH_UP = 128 * 1024 * 1024


class Reception:
    """Made by the holder of an upload. One thread at a time calls it.

    Closed before `finish`, it keeps what arrived, unless a checksum was announced for all of it.
    """

    def __init__(
        self,
        upload: Upload,
        held: Held,
        *,
        registry: Registry,
        hashers: Hashers,
        store: Store,
        clock: Clock,
        record_size: int,
    ) -> None:
        """`store` is where the object goes. What arrives is recorded after `record_size` bytes."""
        self.upload = upload
        self.held = held
        self._hold, self.content = held
        self._registry = registry
        self._hashers = hashers
        self._store = store
        self._clock = clock
        self._record_size = record_size
        self._start = upload.received
        self._recorded = upload.received
        self._record_at = self._clock.now() + _RECORD_INTERVAL
        self._checksum: Hasher | None = None
        self._hasher: PositionedHasher | None = None
        # Bytes of an upload of unknown length that its area had room for.
        self._judged = upload.received
        # Whether this piece told the length.
        self._told_length = False
        self._is_open = False

    def __enter__(self) -> Reception:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def received(self) -> int:
        """Bytes that are durable and recorded."""
        return self._recorded

    @property
    def is_whole(self) -> bool:
        """Whether all bytes have arrived."""
        return self.content.size == self.upload.length

    def open(self) -> None:
        """Open the content, and record what a silent holder had received beyond the last record. Raises Gone."""
        self.content.open(self._recorded)
        if self.content.size > self._recorded:
            self.record()
        self._start = self._recorded

    def begin(self, offset: int, *, length: int | None, size: int | None, checksum: Expected | None) -> None:
        """Begin a piece at `offset`, of `size` bytes if that is known.

        `length` is that of the upload, if the request tells it. Raises OffsetConflict, TooLarge, QuotaExceeded, and
        Conflict.
        """
        if offset != self._recorded:
            raise OffsetConflict(self._recorded, offset)
        told_length = length is not None and self.upload.length is None
        if length is not None and told_length:
            self._check_size(length)
            self.upload = self.upload._replace(length=length)
        self._check_size(offset + (size or 0))
        if told_length or self.upload.length is None:
            self._require_room(length or offset + (size or 0))
        # Not before the request is known to fit: a refused one must not leave a length that no other one can change.
        if length is not None and told_length:
            self._hold.change(self._registry.telling(self.upload.id, length))
            self._told_length = True
        if checksum is None:
            self._hold.set_tail(Tail.COUNTS)
        else:
            self._checksum = Hasher(checksum.algorithm, [checksum])
        self._hasher = self._take_hasher()
        self._is_open = True

    def write(self, data: Bytes) -> None:
        """Raises TooLarge beyond the length, and QuotaExceeded: then nothing of the piece counts."""
        size = self.content.size + len(data)
        try:
            self._check_size(size)
            if self.upload.length is None and size > self._judged + self._record_size:
                self._require_room(size)
        except (TooLarge, QuotaExceeded):
            self._reject()
            raise
        self.content.append(data)
        # After the write, as for other stagings.
        if self._hasher is not None:
            self._hasher.hasher.update(data)
            self._hasher.position += len(data)
        if self._checksum is not None:
            self._checksum.update(data)
        elif self.content.size - self._recorded >= self._record_size or self._clock.now() >= self._record_at:
            self.record()

    def finish(self) -> None:
        """The piece is complete. Raises ChecksumMismatch: then nothing of it counts."""
        if self._checksum is not None:
            try:
                self._checksum.check()
            except DigestMismatch as error:
                self._reject()
                raise ChecksumMismatch(str(error)) from error
            # From now on the piece counts, whatever becomes of the record.
            self._checksum = None
        # With a record, a later request could make the object where this one fails. Its client sends all bytes again.
        if not (self.is_whole and self.content.holds_all):
            self.record()
        self._is_open = False

    def record(self) -> None:
        """Make what arrived durable, and then promise it."""
        self._record_at = self._clock.now() + _RECORD_INTERVAL
        if self.content.size == self._recorded:
            return
        self.content.record(self._registry.promise(self.upload.id, self.content.size))
        self._recorded = self.content.size
        self.upload = self.upload._replace(received=self._recorded)

    def become_object(self) -> None:
        """The bytes do not change any more. From now on no other request takes the upload over."""
        self._hold.set_tail(Tail.NONE)

    def whole_hasher(self) -> OverlappedHasher:
        """The hasher of all bytes; reads those that it has not hashed yet."""
        hasher = self._hasher or self._hashers.pop(self.upload.id) or self._new_hasher()
        self._hasher = None
        self._catch_up(hasher)
        return hasher.hasher

    def close(self) -> None:
        """Release the upload. A second call does nothing."""
        try:
            if self._is_open:
                self._is_open = False
                self._keep_or_reject()
            self._put_hasher()
        finally:
            self.content.close()
            self._hold.close()

    def _keep_or_reject(self) -> None:
        """The piece broke off."""
        try:
            if self._checksum is None:
                self.record()
            else:
                self._reject()
        except UploadLocked:
            log.debug("an upload was taken over by another request")
            self._hasher = None
        except (Error, OSError) as error:
            # The client is gone, or has an earlier error. The bytes since the last record are sent again.
            log.warning("cannot keep a part of an upload: %s", getattr(error, "strerror", None) or error)
            self._hasher = None

    def _reject(self) -> None:
        """Forget the whole piece."""
        self._is_open = False
        self._hasher = None
        # Always: a storage may record by itself what fell silent.
        changes = [self._registry.promise(self.upload.id, self._start)]
        if self._told_length:
            changes.append(self._registry.untelling(self.upload.id))
        self.content.cut(self._start, joined(changes))
        self._recorded = self._start

    def _require_room(self, size: int) -> None:
        """Raise QuotaExceeded before more arrives: what was not known when the upload was created is judged now."""
        names = [each.digest for each in self.upload.expected if each.algorithm == self._store.algorithm]
        self._store.require_room(size, names)
        self._judged = size

    def _check_size(self, size: int) -> None:
        limits = [limit for limit in (self.upload.length, self._store.max_size) if limit is not None]
        if limits and size > min(limits):
            raise TooLarge(min(limits))

    # The hash.

    def _new_hasher(self) -> PositionedHasher:
        expected = self.upload.expected
        return PositionedHasher(OverlappedHasher(self._store.algorithm, expected, self._store.hash_threads))

    def _take_hasher(self) -> PositionedHasher | None:
        """A hasher that has hashed all bytes so far; None where that is left to the end, or to the store."""
        if not self._store.stages_files:
            return None
        hasher = self._hashers.pop(self.upload.id) or self._new_hasher()
        if self.content.size - hasher.position <= _MAX_CATCH_UP:
            self._catch_up(hasher)
            return hasher
        self._hashers.put(self.upload.id, hasher)
        return None

    def _catch_up(self, hasher: PositionedHasher) -> None:
        for piece in self.content.read(hasher.position):
            hasher.hasher.update(piece)
            hasher.position += len(piece)

    def _put_hasher(self) -> None:
        hasher, self._hasher = self._hasher, None
        if hasher is not None and hasher.position == self._recorded:
            with contextlib.suppress(Exception):
                self._hashers.put(self.upload.id, hasher)
