"""The staging of an S3 store: in memory or in a local file, until one request stores it under its name.

The local file is not synced, and has no name: before the store has answered, nothing here was promised to a client.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import BinaryIO, NamedTuple

from filestoraged.digest import Bytes, Digest, Expected
from filestoraged.errors import AlreadyExists, NotFound, PreconditionFailed
from filestoraged.future import Future
from filestoraged.net.connection import FilePart
from filestoraged.store import layout
from filestoraged.store.contract import Staging, Store, completed
from filestoraged.store.disk.staging_area import StagingArea
from filestoraged.store.disk.staging_memory import MemoryStaging, StagingMemory
from filestoraged.store.hashing import OverlappedHasher
from filestoraged.store.s3.client import IF_NEW, SHA256_FIELD, S3Client, checksum_field
from filestoraged.store.s3.multipart import PartedUpload
from filestoraged.store.s3.transport import NO_FIELDS

# In bytes. Smaller objects are staged in memory, which costs less than a file.
MEMORY_SIZE = 1024 * 1024


class StagingSpace(NamedTuple):
    """Where a store and its namespaces stage, and how they upload. Sizes are in bytes."""

    area: StagingArea
    memory: StagingMemory
    # A larger object is uploaded in parts.
    max_put_size: int
    part_size: int


class S3Staging(Staging):
    def __init__(
        self,
        store: Store,
        size: int | None,
        expected: Sequence[Expected],
        *,
        client: S3Client,
        space: StagingSpace,
        prefix: str,
    ) -> None:
        """`prefix` is that of the namespace's keys."""
        super().__init__(store, size, expected)
        self._client = client
        self._space = space
        self._prefix = prefix
        # The digest that a request is signed by, where objects are named by another.
        self._sha256 = None if store.algorithm == "sha256" else OverlappedHasher("sha256", (), store.hash_threads)
        # One of the two, or none where the bytes were discarded.
        self._memory = space.memory.stage(size)
        self._file: BinaryIO | None = None

    def close(self) -> None:
        try:
            if self._sha256 is not None:
                self._sha256.close()
        finally:
            super().close()

    def _write(self, data: Bytes) -> None:
        self._append(data)
        self._hasher.update(data)
        if self._sha256 is not None:
            self._sha256.update(data)

    def _append(self, data: Bytes) -> None:
        if self._memory is not None:
            if self._memory.append(data):
                return
            self._spill(self._memory)
        if self._file is None:
            self._file = create_file(self._space.area)
        write_all(self._file, data)

    def _spill(self, memory: MemoryStaging) -> None:
        """Write the bytes so far to a file."""
        self._file = create_file(self._space.area)
        write_all(self._file, memory.data)
        self._memory = None
        memory.discard()

    def _publish(self, name: str | None, digest: Digest, *, replace: bool) -> Future[Digest]:
        if replace:
            self._put(name or digest, digest, NO_FIELDS, self._client.deadline())
        else:
            self._put_new(name, digest)
        return completed(digest)

    def _put_new(self, name: str | None, digest: Digest) -> None:
        until = self._client.deadline()
        check_missing(self._client, self._prefix, name or digest, until)
        try:
            self._put(name or digest, digest, IF_NEW, until)
        except PreconditionFailed as error:
            raise AlreadyExists(name or digest) from error

    def _put(self, name: str, digest: Digest, condition: Mapping[str, str], until: float) -> None:
        key = object_key(self._prefix, name)
        sha256 = digest if self._sha256 is None else self._sha256.finish()
        fields = NO_FIELDS if name == sha256 else {SHA256_FIELD: sha256}
        whole = {**fields, **checksum_field(sha256), **condition}
        if self._file is None:
            data = self._memory.data if self._memory is not None else b""
            self._client.put(key, data, sha256=sha256, fields=whole, until=until)
        elif self.size <= self._space.max_put_size:
            body = FilePart(self._file, 0, self.size)
            self._client.put(key, body, sha256=sha256, fields=whole, until=until)
        else:
            self._put_parts(self._file, key, sha256, fields, condition)
        self._discard()

    def _put_parts(
        self, file: BinaryIO, key: str, sha256: str, fields: Mapping[str, str], condition: Mapping[str, str]
    ) -> None:
        upload = PartedUpload(self._client, key, fields)
        try:
            etags = upload.put(file, self.size, sha256=sha256, part_size=self._space.part_size)
            upload.complete(etags, condition)
        except BaseException:
            upload.abort()
            raise

    def _discard(self) -> None:
        memory, self._memory = self._memory, None
        file, self._file = self._file, None
        if memory is not None:
            memory.discard()
        if file is not None:
            file.close()


def write_all(file: BinaryIO, data: Bytes) -> None:
    """Write all bytes. Where only some fit on the disk, the first call writes those, and the next one fails."""
    view = memoryview(data).cast("B")
    while view:
        view = view[file.write(view) :]


def object_key(prefix: str, name: str) -> str:
    """The key of an object of the namespace whose keys have that prefix. Raises ValueError for an impossible name."""
    return layout.checked_path(name, prefix.rstrip("/"))


def check_missing(client: S3Client, prefix: str, name: str, until: float) -> None:
    """Raise AlreadyExists if there is an object of that name: some stores ignore `If-None-Match`."""
    try:
        client.head(object_key(prefix, name), until=until)
    except NotFound:
        return
    raise AlreadyExists(name)


def create_file(area: StagingArea) -> BinaryIO:
    """Create a file without a name, which the end of the process removes."""
    path, descriptor = area.create()
    os.close(descriptor)
    try:
        return open(path, "r+b", buffering=0)
    finally:
        os.unlink(path)
