"""Objects in memcached: a download starts after all chunks were fetched and checked.

Two invariants hold whatever the servers lose, and whenever a client or a server dies:

1. A reader gets the object's bytes or an error. Each upload has chunk keys of its own, and writes its manifest after
   its chunks.
2. A chunk without an expiry is listed by a manifest without one. Otherwise its memory would be lost for good, since
   memcached has no index of its items.

An upload takes these steps, each after the replies to the one before:

1. Set the chunks, which expire after `staging.STAGING_TTL`; then touch them, which shows that none was evicted.
2. Add the manifest, which expires too. From here on readers see the object.
3. Touch the manifest, then the chunks, with their final expiry. Each server gets these commands in one packet.
4. Answer the client.

A client that dies before step 3 leaves items that expire. A client that dies during step 3 leaves an object that was
not answered, and that becomes damaged when the remaining chunks expire. An upload of the same bytes before that
completes step 3 before it is answered; a later one repairs the object. The reverse order in step 3 would break
invariant 2, and memcached cannot change several keys at once.

A removal replaces the manifest by a removal mark that lists the same chunks, deletes the chunks, and then the mark. If
a server does not answer, the mark stays, and the next upload, removal or check continues from it. A repair deletes the
chunks of the damaged object before it replaces the manifest.

Two exceptions to invariant 2, in which a crash leaves chunks for `check` to find. Replacing a whole object under a
name, which only the library can do, makes the new chunks permanent before it replaces the manifest, because a crash
must not cost the object that was answered earlier. And a full server without evictions may have no memory for a removal
mark; then the chunks are deleted without one.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import BinaryIO

from filestoraged.clock import SYSTEM_CLOCK, Clock
from filestoraged.digest import Expected, parse_digest
from filestoraged.errors import CorruptObject, ListingUnsupported, NotFound, StorageFull, StoreUnavailable
from filestoraged.store.contract import ObjectStatus, Store, Usage, never_pause
from filestoraged.store.hashing import HashThreads
from filestoraged.store.memcached.blob import MemcachedBlob, fetch
from filestoraged.store.memcached.buffers import BufferBudget, ReservedBuffer
from filestoraged.store.memcached.client import LINE_END
from filestoraged.store.memcached.manifest import (
    MAX_SIZE,
    Manifest,
    chunk_keys,
    is_removal_mark,
    removal_mark,
    unpack,
)
from filestoraged.store.memcached.pool import ServerPool, Versioned, figure
from filestoraged.store.memcached.staging import ATTEMPTS, MemcachedStaging

# The default memory for all downloads of a store, in bytes: five of the largest objects.
MEMORY = 256 * 1024 * 1024


class MemcachedStore(Store):
    """A pool of memcached servers. A namespace is a part of the keys.

    An object that is stored without a name is named by its digest. Such names and the caller's own are distinct:
    `get(oid)` is the object with that digest, `get(name=...)` the one that was stored under the name, whatever it is.
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
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """`servers` are HOST:PORT each. `max_size`, and `memory` for all downloads together, are in bytes.

        Objects expire `ttl` seconds after they were stored, with 0 never. Timeouts are in seconds. Raises ValueError.
        """
        if not 0 <= max_size <= MAX_SIZE:
            raise ValueError(f"invalid max_size {max_size!r}: expected 0 to {MAX_SIZE} bytes in memcached")
        if memory < 0 or ttl < 0:
            raise ValueError(f"invalid memory {memory!r} or ttl {ttl!r}: expected 0 or more")
        self.algorithm = algorithm
        self.max_size = max_size
        self.ttl = ttl
        self.hash_threads = hash_threads or HashThreads()
        self.pool = ServerPool(servers, timeout=timeout, connect_timeout=connect_timeout, clock=clock)
        self._budget = BufferBudget(memory, clock=clock)
        self._path: tuple[str, ...] = ()

    def stage(self, size: int | None = None, *, expected: Sequence[Expected] = ()) -> MemcachedStaging:
        return MemcachedStaging(self, size, expected, pool=self.pool, key=self.key, ttl=self.ttl)

    def open(self, oid: str = "", *, name: str | None = None) -> MemcachedBlob:
        """Fetch an object and check all of it. It occupies its size of the store's memory until it is closed.

        In one pass: a check before a second fetch would need no memory, but take longer, and the second fetch could
        fail after the first bytes were sent. Raises NotFound, CorruptObject, and StoreUnavailable if no memory is free.
        """
        for _ in range(ATTEMPTS):
            manifest = self._manifest(oid, name)
            try:
                return self._load(manifest)
            except CorruptObject:
                # A replacement or a removal deletes the chunks. Then the manifest has changed, too.
                if self._manifest(oid, name).token == manifest.token:
                    raise
        raise StoreUnavailable("The object changes too often; retry later.")

    def stat(self, oid: str = "", *, name: str | None = None) -> ObjectStatus:
        """As the contract says: fetches the manifest. Whether the chunks are there is not checked."""
        manifest = self._manifest(oid, name)
        return ObjectStatus(name or oid, manifest.size, manifest.modified)

    def get(self, oid: str = "", *, name: str | None = None) -> BinaryIO:
        return self.open(oid, name=name).buffered()

    def remove(self, oid: str = "", *, name: str | None = None) -> None:
        key, mark = self.key(oid, name=name), b""
        for _ in range(ATTEMPTS):
            found = self.pool.gets(key)
            if found is None:
                raise NotFound(name=name or oid)
            # This removal's mark: the reply to `cas` was lost. Another mark: a removal that has not finished.
            is_own = found.data == mark
            if is_own or is_removal_mark(key, found.data):
                self.finish_removal(key, found)
                if is_own:
                    return
                raise NotFound(name=name or oid)
            mark = removal_mark(key, found.data)
            if self.remove_found(key, found, mark):
                return
        raise StoreUnavailable("The object changes too often; retry later.")

    def remove_found(self, key: str, found: Versioned, mark: bytes) -> bool:
        """Remove the object if its manifest is still `found`. Returns whether it was.

        `mark` replaces the manifest while the chunks are deleted. An object without chunks needs none.
        """
        chunks = chunk_keys(key, found.data)
        if not chunks:
            return self.pool.delete_version(key, found.version)
        try:
            marked = self.pool.cas(key, mark, found.version, ttl=0)
        except StorageFull:
            # A full server without evictions may have no memory for the mark. An empty item fits.
            if not self.pool.delete_version(key, found.version):
                return False
            self.pool.delete_all(chunks)
            return True
        if marked:
            with suppress(StoreUnavailable):
                again = self.pool.gets(key)
                if again is not None and again.data == mark:
                    self.finish_removal(key, again)
        return marked

    def finish_removal(self, key: str, mark: Versioned) -> None:
        """Delete the chunks that a removal mark lists, then the mark. The mark stays if a server does not answer."""
        # The object is removed already, so the caller needs no error.
        with suppress(StoreUnavailable, StorageFull):
            if self.pool.delete_all(chunk_keys(key, mark.data)):
                self.pool.delete_version(key, mark.version)

    def delete(self, oid: str = "", *, name: str | None = None) -> None:
        self.remove(oid, name=name)

    def namespace(self, name: str, *, algorithm: str | None = None) -> MemcachedStore:
        # A copy shares the connections and the memory.
        within = copy.copy(self)
        within._path = (*self._path, name)
        within.algorithm = algorithm or self.algorithm
        return within

    def key(self, oid: str, *, name: str | None) -> str:
        """The key of a manifest. An `oid` that is not a digest is a name. Raises ValueError for an empty name."""
        if not (oid if name is None else name):
            raise ValueError("the name of an object cannot be empty")
        kind = "digest" if name is None and _is_digest(oid) else "name"
        # JSON tells ["a", "b"] from ["a/b"], and encodes any string.
        place = json.dumps([*self._path, kind, oid if name is None else name])
        return "fsd:" + hashlib.sha256(place.encode()).hexdigest()

    def list(self, after: str = "", limit: int = 1000) -> Sequence[str]:
        """Raise ListingUnsupported: keys are hashes of names, so the servers know no names."""
        raise ListingUnsupported

    def list_namespaces(self, after: str = "", limit: int = 1000) -> Sequence[str]:
        """Raise ListingUnsupported, as `list` does."""
        raise ListingUnsupported

    def probe(self) -> None:
        """Check that all servers answer. Raises StoreUnavailable."""
        for failure in self.unreachable_servers():
            raise StoreUnavailable("memcached does not answer.") from failure

    def unreachable_servers(self) -> Sequence[BaseException]:
        """Ask all servers at once. Returns the errors of those that do not answer."""
        return self.pool.ping()

    def usage(self, pause: Callable[[], None] = never_pause) -> Mapping[str, Usage | None]:
        """Each server's items and their bytes, by its name. Items are manifests and chunks of all namespaces."""
        return {
            name: None if stats is None else Usage(figure(stats, b"curr_items"), figure(stats, b"bytes"))
            for name, stats in self.pool.statistics().items()
        }

    def sweep(self) -> int:
        """Return 0: stagings of crashed processes expire by themselves."""
        return 0

    def close(self) -> None:
        """Close the idle connections."""
        self.pool.close()

    def _manifest(self, oid: str, name: str | None) -> Manifest:
        key = self.key(oid, name=name)
        data = self.pool.get(key)
        if data is None:
            raise NotFound(name=name or oid)
        try:
            manifest = unpack(key, data)
        except ValueError as error:
            raise CorruptObject(name or oid, str(error)) from error
        if manifest.is_removed:
            raise NotFound(name=name or oid)
        if name is None and _is_digest(oid) and manifest.digest != oid:
            raise CorruptObject(oid, "its manifest belongs to another object")
        return manifest

    def _load(self, manifest: Manifest) -> MemcachedBlob:
        buffer = ReservedBuffer(self._budget, manifest.size, spare=LINE_END)
        try:
            fetch(self.pool, manifest, self.hash_threads, buffer.view)
        except BaseException:
            buffer.close()
            raise
        return MemcachedBlob(manifest, buffer)


def _is_digest(oid: str) -> bool:
    return parse_digest(oid) == oid
