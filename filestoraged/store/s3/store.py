"""Objects in an S3 store, under the keys that are their paths on disk: `PREFIX/ab/abcdef…`.

An object becomes visible by one request, whole and durable when the store has answered it: a PUT, or the completion of
an upload in parts. Equal names are equal bytes, so a request whose answer was lost is sent again.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import BinaryIO

from filestoraged.digest import Expected, digest_length
from filestoraged.errors import Error, NotFound
from filestoraged.store.contract import ObjectStatus, Staging, Store, Usage, never_pause
from filestoraged.store.disk.staging_area import StagingArea
from filestoraged.store.disk.staging_memory import StagingMemory
from filestoraged.store.hashing import HashThreads
from filestoraged.store.s3 import listing
from filestoraged.store.s3.blob import ParkedBlobs, S3Blob
from filestoraged.store.s3.client import S3Client
from filestoraged.store.s3.multipart import MAX_PUT_SIZE, PART_SIZE, sweep_uploads
from filestoraged.store.s3.staging import MEMORY_SIZE, S3Staging, StagingSpace, object_key
from filestoraged.store.s3.streaming import StreamedStaging

log = logging.getLogger(__name__)

# For all stagings of a process together, in bytes. Slow clients can occupy all of it; others then stage in files.
_STAGING_MEMORY = 16 * 1024 * 1024

# Seconds. A worker that starts waits for its sweep.
_SWEEP_TIMEOUT = 5.0


class S3Store(Store):
    """A bucket, or a prefix of one. A namespace is a longer prefix, and shares connections and staging space."""

    remote = True

    def __init__(
        self,
        client: S3Client,
        area: StagingArea,
        *,
        algorithm: str = "sha256",
        max_size: int | None = None,
        hash_threads: HashThreads | None = None,
        max_put_size: int = MAX_PUT_SIZE,
        part_size: int = PART_SIZE,
    ) -> None:
        """`area` is where large objects are staged. Sizes are in bytes; see StagingSpace."""
        self.algorithm = algorithm
        self.max_size = max_size
        self.hash_threads = hash_threads or HashThreads()
        self.client = client
        self._space = StagingSpace(area, StagingMemory(_STAGING_MEMORY, most=MEMORY_SIZE), max_put_size, part_size)
        self._parked = ParkedBlobs()
        self._prefix = ""
        # Whether objects are named by their digests, so that an announced digest is the name.
        self._names_are_digests = True

    def stage(self, size: int | None = None, *, expected: Sequence[Expected] = ()) -> Staging:
        """As the contract says. An object of announced size and digest is streamed through, unless it is small."""
        sha256 = next((each.digest for each in expected if each.algorithm == "sha256"), None)
        if (
            sha256 is not None
            and size is not None
            and MEMORY_SIZE < size <= self._space.max_put_size
            and self.algorithm == "sha256"
            and self._names_are_digests
        ):
            return StreamedStaging(self, size, expected, client=self.client, prefix=self._prefix, sha256=sha256)
        return self.stage_new(size, expected=expected)

    def stage_new(self, size: int | None = None, *, expected: Sequence[Expected] = ()) -> Staging:
        return S3Staging(self, size, expected, client=self.client, space=self._space, prefix=self._prefix)

    def open(self, name: str) -> S3Blob:
        """As the contract says, as long as the connection lasts: a large object that is removed is not sent again."""
        blob = S3Blob(self.client, self.key(name), name, parked=self._parked)
        try:
            if blob.sha256:
                blob.check_by("sha256", blob.sha256, self.hash_threads)
            elif self._names_are_digests and len(name) == digest_length(self.algorithm):
                blob.check_by(self.algorithm, name, self.hash_threads)
            else:
                blob.check_by(self.algorithm, "", self.hash_threads)
        except BaseException:
            blob.close()
            raise
        return blob

    def stat(self, name: str) -> ObjectStatus:
        head = self.client.head(self.key(name))
        return ObjectStatus(name, head.size, head.modified)

    def get(self, name: str) -> BinaryIO:
        return self.open(name).buffered()

    def remove(self, name: str) -> None:
        """As the contract says; two removals at once may both find the object."""
        until = self.client.deadline()
        # A store answers a DELETE in the same way whether there was an object or not.
        self.client.head(self.key(name), until=until)
        self.client.delete(self.key(name), until=until)

    def remove_all(self, names: Iterable[str]) -> Mapping[str, Exception]:
        failures: dict[str, Exception] = {}
        for name in names:
            try:
                self.client.delete(self.key(name))
            except Error as error:
                failures[name] = error
        return failures

    def namespace(self, name: str, *, algorithm: str | None = None) -> S3Store:
        # A copy shares the connections.
        within = copy.copy(self)
        within._prefix = f"{self._prefix}{name}/"
        within.algorithm = algorithm or self.algorithm
        return within

    def named_namespace(self, name: str, *, max_size: int | None) -> S3Store:
        """A namespace whose objects have names that are no digests, though they look like some."""
        within = self.namespace(name, algorithm="sha256")
        within._names_are_digests = False
        within.max_size = max_size
        return within

    def list(self, after: str = "", limit: int = 1000) -> Sequence[str]:
        return listing.list_names(self.client, self._prefix, after, limit)

    def scan(self) -> Generator[ObjectStatus, None, None]:
        return listing.scan(self.client, self._prefix)

    def list_namespaces(self, after: str = "", limit: int = 1000) -> Sequence[str]:
        return listing.list_namespaces(self.client, self._prefix, after, limit)

    def probe(self) -> None:
        """Check that the store answers, and that the bucket exists. Raises StoreUnavailable."""
        self.client.check_bucket()

    def usage(self, pause: Callable[[], None] = never_pause) -> Mapping[str, Usage | None]:
        """What each interface holds, by its name. Lists the whole store, 1,000 objects with each request."""
        return listing.count(self.client, pause)

    def sweep(self) -> int:
        """Abort the multipart uploads of dead processes, a day after they began. Returns their number."""
        try:
            return sweep_uploads(self.client, now=self.client.clock.date(), until=self.client.deadline(_SWEEP_TIMEOUT))
        except Error as error:
            log.warning("cannot sweep uploads in parts: %s", error.__cause__ or error)
            return 0

    def close(self) -> None:
        self.client.close()

    def key(self, name: str) -> str:
        """The key of an object, within the client's prefix. Raises NotFound for what cannot be a name."""
        try:
            return object_key(self._prefix, name)
        except ValueError:
            raise NotFound(name=name) from None
