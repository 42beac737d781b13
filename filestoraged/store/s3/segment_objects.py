"""Objects of an S3 store that are segments of unfinished resumable uploads, under the keys `uploads/ID/N`.

Each is stored by one PUT, whose digest the store compares, and read back with a comparison of all its bytes. The bytes
of a request are collected in a file of the store's directory before that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import BinaryIO

from filestoraged.errors import NotFound
from filestoraged.net.connection import FilePart
from filestoraged.store import layout
from filestoraged.store.disk.staging_area import StagingArea
from filestoraged.store.hashing import COPY_SIZE, HashThreads
from filestoraged.store.s3.blob import ParkedBlobs, S3Blob
from filestoraged.store.s3.client import S3Client, checksum_field
from filestoraged.store.s3.listing import advance
from filestoraged.store.s3.staging import create_file


class SegmentObjects:
    """Any thread calls it. All methods but `create_file` raise StoreUnavailable."""

    def __init__(self, client: S3Client, area: StagingArea, hash_threads: HashThreads) -> None:
        """`area` is where bytes are collected."""
        self._client = client
        self._area = area
        self._hash_threads = hash_threads
        self._parked = ParkedBlobs()

    def create_file(self) -> BinaryIO:
        """Create a file without a name, which the end of the process removes. Raises OSError."""
        return create_file(self._area)

    def put(self, key: str, file: BinaryIO, start: int, size: int, sha256: str) -> None:
        """Store a part of a file that has this digest. Raises StorageFull."""
        self._client.put(key, FilePart(file, start, size), sha256=sha256, fields=checksum_field(sha256))

    def read(self, key: str, size: int, sha256: str, start: int) -> Iterator[bytes]:
        """The bytes of a segment from `start` on. Raises NotFound, and CorruptObject before the last of them.

        NotFound also means that the object has another size.
        """
        with S3Blob(self._client, key, key.rpartition("/")[2], parked=self._parked) as blob:
            if blob.size != size:
                raise NotFound
            blob.check_by("sha256", "" if start else sha256, self._hash_threads)
            buffer = bytearray(min(COPY_SIZE, size))
            while count := blob.read_into(memoryview(buffer), start):
                yield bytes(memoryview(buffer)[:count])
                start += count

    def list(self, id_: str) -> Sequence[str]:
        """The keys of an upload's objects."""
        keys: list[str] = []
        after = ""
        while True:
            page = self._client.list(f"{layout.upload_path(id_)}/", after=after)
            keys += (each.key for each in page.objects)
            if page.is_last or not page.objects:
                return keys
            after = advance(after, keys[-1])

    def remove(self, key: str) -> None:
        """Remove an object, if there is one."""
        self._client.delete(key)
