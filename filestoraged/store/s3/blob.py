"""An object of an S3 store as it is read: received in pieces, which are checked before the last of them goes out.

A connection that breaks off is replaced by one for the rest. So a reader gets all bytes of the object or an error, and
never fewer than the size says.
"""

from __future__ import annotations

import http.client
import math
import threading

from filestoraged.digest import parse_digest
from filestoraged.errors import CorruptObject, StoreUnavailable
from filestoraged.net.connection import FAILURES
from filestoraged.store.contract import CopiedBlob, Sink
from filestoraged.store.hashing import COPY_SIZE, HashThreads, OverlappedHasher
from filestoraged.store.s3.client import S3Client, parse_head
from filestoraged.store.s3.transfers import GetTransfer

# Bytes of one `send`: some milliseconds' worth, so that others get the thread.
_SEND_SIZE = 16 * 1024 * 1024

# How often the rest of an object is asked for after a connection has failed without a further byte.
_ATTEMPTS = 3

# Downloads of a process whose clients take nothing at present, each with a connection to the store and a piece.
_MAX_PARKED = 64


class ParkedBlobs:
    """The blobs whose readers are slow. Beyond a limit, the one parked first gives back its connection and its piece.

    It asks for the rest again when its reader takes more. Any thread calls it; the lock is also held while a blob gives
    its connection back, which waits for nothing.
    """

    def __init__(self, limit: int = _MAX_PARKED) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._parked: dict[S3Blob, None] = {}

    def park(self, blob: S3Blob) -> None:
        with self._lock:
            self._parked[blob] = None
            if len(self._parked) > self._limit:
                oldest = next(iter(self._parked))
                del self._parked[oldest]
                oldest.give_back()

    def unpark(self, blob: S3Blob) -> None:
        with self._lock:
            self._parked.pop(blob, None)


class S3Blob(CopiedBlob):
    """One thread at a time calls it; small objects are received and checked when it is made."""

    may_wait = True

    def __init__(self, client: S3Client, key: str, name: str, *, parked: ParkedBlobs) -> None:
        """Raises NotFound and StoreUnavailable. Call `check_by` next."""
        self._client = client
        self._key = key
        self._parked = parked
        # Until when a small object must have come, on the monotonic clock: its reader does not wait for longer.
        self._until = client.deadline()
        self._download: GetTransfer | None = client.get(key, until=self._until)
        head = parse_head(self._download.fields)
        self._etag = head.etag
        self.digest = name
        self.size = self._download.size
        self.modified = head.modified
        # The SHA-256 that the store keeps with an object which is not named by it.
        self.sha256 = parse_digest(head.sha256) or ""
        self._piece = memoryview(b"")
        # Where the piece begins, and where it ends: the next byte of the download.
        self._start = self._stop = 0
        self._expected = ""
        # None where the bytes are not checked, or no longer.
        self._hasher: OverlappedHasher | None = None
        self._hashed = 0

    def check_by(self, algorithm: str, digest: str, threads: HashThreads) -> None:
        """Compare all bytes with a digest, if one is given. Receives a small object. Raises CorruptObject."""
        if digest:
            self._expected = digest
            self._hasher = OverlappedHasher(algorithm, (), threads)
        if self.size <= COPY_SIZE:
            if self._download is not None:
                self._download.limit(self._until)
            self._receive(self.size)
            self._close_download()
        self._until = math.inf

    def send(self, sink: Sink, start: int, stop: int) -> int:
        self._parked.unpark(self)
        end = min(stop, start + _SEND_SIZE)
        while start < end:
            view = self._view(start, stop)
            accepted = sink.write(view)
            start += accepted
            if accepted < len(view):
                if self.size > COPY_SIZE:
                    self._parked.park(self)
                break
        return start

    def read_into(self, target: memoryview, start: int) -> int:
        if start >= self.size:
            return 0
        view = self._view(start, self.size)[: len(target)]
        target[: len(view)] = view
        return len(view)

    def give_back(self) -> None:
        """Close the connection and forget the piece. The next bytes are asked for again."""
        self._close_download()
        self._hash_piece()
        self._piece, self._start = memoryview(b""), self._stop

    def close(self) -> None:
        self._parked.unpark(self)
        self._close_download()
        self._piece = memoryview(b"")
        self._end_hashing()

    def _view(self, start: int, stop: int) -> memoryview:
        """The bytes from `start` to the end of their piece, `stop` at most."""
        if not self._start <= start < self._stop or not self._piece:
            if start != self._stop or self._download is None:
                self._close_download()
                self._stop = start
            self._receive(stop)
        return self._piece[start - self._start : stop - self._start]

    def _receive(self, stop: int) -> None:
        """Receive the next piece of the bytes up to `stop`. Raises CorruptObject at the end of the object."""
        # Now, not when it was received: meanwhile the client has received it, and the store has sent more.
        self._hash_piece()
        self._start, self._piece = self._stop, memoryview(b"")
        self._piece = memoryview(self._read(stop))
        self._stop += len(self._piece)
        if self._stop == self.size:
            self._check()

    def _read(self, stop: int) -> bytes:
        attempts = _ATTEMPTS
        while True:
            try:
                if self._download is None:
                    self._download = self._ask_again(stop)
                data = self._download.read(COPY_SIZE)
                if not data and self._stop < stop:
                    raise http.client.IncompleteRead(data, stop - self._stop)
                return data
            except FAILURES as failure:
                self._close_download()
                attempts -= 1
                if not attempts or self._client.clock.now() > self._until:
                    raise StoreUnavailable from failure

    def _ask_again(self, stop: int) -> GetTransfer:
        until = min(self._until, self._client.deadline())
        download = self._client.get(self._key, self._stop, stop, etag=self._etag, until=until)
        download.limit(self._until)
        if parse_head(download.fields).etag != self._etag:
            # Some stores ignore If-Match.
            download.close()
            raise StoreUnavailable("The object was replaced while it was sent; retry later.")
        return download

    def _hash_piece(self) -> None:
        """Hash those bytes of the piece that are not hashed."""
        hasher, end = self._hasher, self._start + len(self._piece)
        if hasher is None or end <= self._hashed:
            return
        if self._start > self._hashed:
            # A part of the object is read.
            self._end_hashing()
            return
        hasher.update(self._piece[self._hashed - self._start :])
        self._hashed = end

    def _check(self) -> None:
        """Compare the digest of all bytes. The last piece is forgotten if they are others than were stored."""
        self._hash_piece()
        hasher, self._hasher = self._hasher, None
        if hasher is not None and hasher.finish() != self._expected:
            self._piece, self._stop = memoryview(b""), self._start
            raise CorruptObject(self.digest, "its bytes have another digest")

    def _end_hashing(self) -> None:
        hasher, self._hasher = self._hasher, None
        if hasher is not None:
            hasher.close()

    def _close_download(self) -> None:
        download, self._download = self._download, None
        if download is not None:
            download.close()
