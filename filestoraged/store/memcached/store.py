"""Objects in memcached: in chunks that are checked, all of them, before the first byte is given out.

Two invariants hold whatever the servers lose and whenever a client or a server dies:

1. A reader gets the object's bytes or an error. Chunks have keys of their own for each upload, and the manifest is
   written after them.
2. A chunk that never expires is named by a manifest that never expires. Otherwise memory would be lost for ever, since
   memcached has no index of its items.

An upload takes these steps, each after the answers to the one before:

1. Set the chunks, which expire in `chunked.STAGING_TTL`; then touch them, which shows that none was evicted.
2. Add the manifest, which expires too. From here on readers see the object.
3. Touch the manifest, then the chunks, with their final expiry. To each server these commands go in one packet.
4. Answer.

A client that dies before step 3 leaves items that expire. One that dies within step 3 leaves an object that was not
answered, and that becomes damaged when the remaining chunks expire; an upload of the same bytes before that completes
step 3 before it is answered, and afterwards repairs it. The reverse order in step 3 would break invariant 2, and
memcached cannot change several keys at once.

A removal replaces the manifest by a removal mark that names the same chunks, deletes the chunks, and then the mark. If
a server does not answer, the mark stays, and the next upload, removal or check continues from it. A repair deletes the
chunks of the damaged object before it replaces the manifest.

Two exceptions to invariant 2, in which a crash leaves chunks for `check` to find. Replacing a whole object under a
name, which only the library can do, makes the new chunks permanent before the swap, because a crash must not cost the
object that was answered earlier. And a full server without evictions may have no memory for a removal mark; then the
chunks are deleted without one.
"""

from __future__ import annotations

import copy
import hashlib
import io
import json
from collections.abc import Sequence
from contextlib import closing, suppress
from typing import BinaryIO, cast

from filestoraged.digest import Expected, parse_digest
from filestoraged.errors import CorruptObject, NotFound, StorageFull, StoreUnavailable
from filestoraged.store.contract import Store
from filestoraged.store.hashing import COPY_SIZE, HashThreads, OverlappedHasher
from filestoraged.store.memcached.blob import MemcachedBlob, Stream
from filestoraged.store.memcached.buffers import BufferBudget, BufferReservation
from filestoraged.store.memcached.client import LINE_END
from filestoraged.store.memcached.manifest import MAX_SIZE, Manifest, removal_mark, unpack
from filestoraged.store.memcached.pool import Found, ServerPool
from filestoraged.store.memcached.staging import ATTEMPTS, MemcachedStaging

# For all downloads of a store, in bytes: five of the largest objects.
MEMORY = 256 * 1024 * 1024


class MemcachedStore(Store):
    """A pool of memcached servers. A namespace is a part of the keys.

    An object that is stored without a name has its digest for one. Those and the caller's own names never meet:
    `get(oid)` is the object of that digest, `get(name=...)` what was stored under a name, whatever that looks like.
    """

    remote = True

    def __init__(
        self,
        servers: Sequence[str],
        *,
        algorithm: str = "sha256",
        max_size: int = MAX_SIZE,
        memory: int = MEMORY,
        ttl: int = 0,
        timeout: float = 2.0,
        connect_timeout: float = 2.0,
        hash_threads: HashThreads | None = None,
    ) -> None:
        """`servers` are HOST:PORT each. `max_size`, and `memory` for all downloads together, are in bytes.

        Objects are gone `ttl` seconds after they were stored; 0 keeps them. Timeouts are in seconds. Raises ValueError.
        """
        if not 0 <= max_size <= MAX_SIZE:
            raise ValueError(f"an object in memcached has {MAX_SIZE} bytes at most, so max_size cannot be {max_size}")
        if memory < 0 or ttl < 0:
            raise ValueError("memory and ttl cannot be negative")
        self.algorithm = algorithm
        self.max_size = max_size
        self.ttl = ttl
        self.hash_threads = hash_threads or HashThreads()
        self.nodes = ServerPool(servers, timeout=timeout, connect_timeout=connect_timeout)
        self._budget = BufferReservation(memory)
        self._path: list[str] = []

    def stage(self, size: int | None = None, *, expected: Sequence[Expected] = ()) -> MemcachedStaging:
        return MemcachedStaging(self, size, expected)

    def open(self, oid: str = "", *, name: str | None = None) -> MemcachedBlob:
        """Fetch an object and check all of it, which takes its size of the store's memory until it is closed.

        In one pass: a second one, which would need no memory, takes longer, and may come upon a loss when the first
        bytes have gone out. Raises NotFound, CorruptObject, and StoreUnavailable where no memory gets free.
        """
        for _ in range(ATTEMPTS):
            manifest = self._manifest(oid, name)
            try:
                return self._load(manifest)
            except CorruptObject:
                # Its chunks go when it is replaced or removed: then this is not the manifest any more.
                if self._manifest(oid, name).token == manifest.token:
                    raise
        raise StoreUnavailable("The object is being replaced all the time.")

    def get(self, oid: str = "", *, name: str | None = None) -> BinaryIO:
        return cast(BinaryIO, io.BufferedReader(Stream(self.open(oid, name=name)), COPY_SIZE))

    def remove(self, oid: str = "", *, name: str | None = None) -> None:
        key, mark = self.key(oid, name=name), b""
        for _ in range(ATTEMPTS):
            found = self.nodes.find(key)
            if found is None:
                raise NotFound(name=name or oid)
            # Our own mark: the answer to the swap was lost. Another mark: a removal that did not finish, or will soon.
            is_own = found.data == mark
            if is_own or is_mark(key, found):
                self.finish_removal(key, found)
                if is_own:
                    return
                raise NotFound(name=name or oid)
            mark = removal_mark(key, found.data)
            if self.remove_found(key, found, mark):
                return
        raise StoreUnavailable("The object is being replaced all the time.")

    def remove_found(self, key: str, found: Found, mark: bytes) -> bool:
        """Remove the object if its manifest is still `found`. Returns whether it was.

        `mark` replaces the manifest while the chunks are deleted. An object without chunks needs none.
        """
        if not self._chunk_keys(key, found):
            return self.nodes.take(key, found.version)
        try:
            marked = self.nodes.swap(key, mark, found.version, ttl=0)
        except StorageFull:
            # A full server without evictions may have no memory for the mark. An empty item fits.
            if not self.nodes.take(key, found.version):
                return False
            self.forget(key, found)
            return True
        if marked:
            with suppress(StoreUnavailable):
                again = self.nodes.find(key)
                if again is not None and again.data == mark:
                    self.finish_removal(key, again)
        return marked

    def finish_removal(self, key: str, mark: Found) -> None:
        """Delete the chunks that a removal mark names, then the mark. The mark stays if a server does not answer."""
        # The object is removed already, so the caller needs no error.
        with suppress(StoreUnavailable, StorageFull):
            if self.forget(key, mark):
                self.nodes.take(key, mark.version)

    def delete(self, oid: str = "", *, name: str | None = None) -> None:
        self.remove(oid, name=name)

    def namespace(self, name: str, *, algorithm: str | None = None) -> MemcachedStore:
        # It shares the connections and the memory.
        within = copy.copy(self)
        within._path = [*self._path, name]
        within.algorithm = algorithm or self.algorithm
        return within

    def key(self, oid: str, *, name: str | None) -> str:
        """Return the key of an object's manifest. What is no digest is a name. Raises ValueError if it is empty."""
        if not (oid if name is None else name):
            raise ValueError("the name of an object cannot be empty")
        kind = "digest" if name is None and _is_digest(oid) else "name"
        # JSON tells ["a", "b"] from ["a/b"], and takes any string.
        place = json.dumps([*self._path, kind, oid if name is None else name])
        return "fsd:" + hashlib.sha256(place.encode()).hexdigest()

    def close(self) -> None:
        """Close the connections that rest; the store can still be used."""
        self.nodes.close()

    def check(self, manifest: Manifest) -> None:
        """Fetch all bytes of an object, and keep none. Raises CorruptObject."""
        self._fetch(manifest, None)

    def is_whole(self, manifest: Manifest) -> bool:
        try:
            self.check(manifest)
        except CorruptObject:
            return False
        return True

    def forget(self, key: str, found: Found) -> bool:
        """Delete the chunks that a manifest names. Returns False if a server did not answer."""
        return self.nodes.forget(self._chunk_keys(key, found))

    def _chunk_keys(self, key: str, found: Found) -> list[str]:
        try:
            return [chunk.key for chunk in unpack(key, found.data).chunks]
        except ValueError:
            return []

    def _manifest(self, oid: str, name: str | None) -> Manifest:
        key = self.key(oid, name=name)
        data = self.nodes.get(key)
        if data is None:
            raise NotFound(name=name or oid)
        try:
            manifest = unpack(key, data)
        except ValueError as error:
            raise CorruptObject(name or oid, str(error)) from error
        if manifest.is_removed:
            raise NotFound(name=name or oid)
        if name is None and _is_digest(oid) and manifest.digest != oid:
            raise CorruptObject(oid, "its manifest is of other bytes")
        return manifest

    def _load(self, manifest: Manifest) -> MemcachedBlob:
        memory = BufferBudget(self._budget, manifest.size, spare=LINE_END)
        try:
            self._fetch(manifest, memory.view)
        except BaseException:
            memory.close()
            raise
        return MemcachedBlob(manifest, memory)

    def _fetch(self, manifest: Manifest, view: memoryview | None) -> None:
        """Check all bytes of an object, and leave them in `view`, if there is one. Raises CorruptObject."""
        with closing(OverlappedHasher(manifest.algorithm, (), self.hash_threads)) as hasher:
            start = 0
            for number, chunk in enumerate(manifest.chunks):
                # The end of the line that it comes with is overwritten by the next one.
                room = None if view is None else view[start : start + chunk.size + LINE_END]
                data = self.nodes.get(chunk.key, room)
                if data is None:
                    raise _damaged(manifest, number, "is gone")
                if len(data) != chunk.size:
                    raise _damaged(manifest, number, "is not as long as it was")
                hasher.update_marked(data)
                start += chunk.size
            hasher.update(manifest.tail)
            if view is not None:
                view[start : manifest.size] = manifest.tail
            if hasher.finish() != manifest.digest:
                for number, checksum in enumerate(manifest.checksums):
                    if hasher.marks[number] != checksum:
                        raise _damaged(manifest, number, "is not what was stored")
                raise CorruptObject(manifest.digest, "it has another digest")


def is_mark(key: str, found: Found) -> bool:
    """Whether `found` is a removal mark."""
    try:
        return unpack(key, found.data).is_removed
    except ValueError:
        return False


def _is_digest(oid: str) -> bool:
    return parse_digest(oid) == oid


def _damaged(manifest: Manifest, number: int, what: str) -> CorruptObject:
    return CorruptObject(manifest.digest, f"chunk {number + 1} of {len(manifest.checksums)} {what}")
