"""Bytes on their way into memcached: chunk by chunk, and a manifest that makes them visible."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Callable, List, Optional, Sequence

from filestoraged.digest import Bytes, Expected
from filestoraged.errors import AlreadyExists, StorageFull, StoreUnavailable
from filestoraged.store.contract import Staging
from filestoraged.store.manifest import CHUNK_SIZE, TAIL_SIZE, TOKEN_SIZE, Manifest, chunk_key, unpack
from filestoraged.store.nodes import Found

if TYPE_CHECKING:
    from filestoraged.store.memcached import MemcachedStore

# What is staged expires by itself, in case that whoever stages it is killed. In seconds: no upload takes longer.
STAGING_TTL = 6 * 3600

# How often one begins anew because somebody else has replaced the object meanwhile.
ATTEMPTS = 10

# Chunks outlive their manifest by so many seconds: an object whose time is over is gone, not damaged.
_CHUNKS_LONGER = 60


class ChunkedStaging(Staging):
    """Sends each chunk as soon as it is full, and has no more than one."""

    def __init__(self, store: MemcachedStore, size: Optional[int], expected: Sequence[Expected]) -> None:
        super().__init__(store.algorithm, limit=store.max_size, size=size, expected=expected)
        self._store = store
        self._token = os.urandom(TOKEN_SIZE)
        self._rest = bytearray()
        # Chunks that nobody sees.
        self._hidden: List[str] = []

    def _write(self, data: Bytes) -> None:
        view = memoryview(data)
        while view:
            piece = view[: CHUNK_SIZE - len(self._rest)]
            self._rest += piece
            view = view[len(piece) :]
            if len(self._rest) == CHUNK_SIZE:
                self._send_chunk()

    def _finish(self) -> str:
        if len(self._rest) > TAIL_SIZE:
            self._send_chunk()
        self._hasher.update(self._rest)
        self._keep_chunks()
        return super()._finish()

    def _publish(self, name: Optional[str], digest: str) -> None:
        def may_stay(present: Manifest) -> bool:
            lasts = present.expires == 0 or 0 < sealed.expires <= present.expires
            return present.digest == digest and lasts

        sealed = self._seal(digest)
        self._enter(self._store.key(digest, name=name), sealed, may_stay)

    def _publish_new(self, name: Optional[str], digest: str) -> None:
        def may_stay(present: Manifest) -> bool:
            return name is not None or present.digest == digest

        if not self._enter(self._store.key(digest, name=name), self._seal(digest), may_stay):
            raise AlreadyExists(digest if name is None else name)

    def _discard(self) -> None:
        hidden, self._hidden = self._hidden, []
        self._store.nodes.forget(hidden)

    def _send_chunk(self) -> None:
        chunk, self._rest = self._rest, bytearray()
        self._hasher.update_marked(chunk)
        key = chunk_key(self._token, len(self._hidden))
        # Noted first: it may be there although no answer came.
        self._hidden.append(key)
        self._store.nodes.set(key, chunk, ttl=STAGING_TTL)

    def _keep_chunks(self) -> None:
        """See that all chunks are there to stay. Raises StorageFull where some are not."""
        ttl = self._store.ttl
        for key in self._hidden:
            if not self._store.nodes.touch(key, ttl=ttl and ttl + _CHUNKS_LONGER):
                raise StorageFull("There is no room for all of it: what was stored first has been evicted.")

    def _seal(self, digest: str) -> Manifest:
        ttl, now = self._store.ttl, int(time.time())
        return Manifest(
            size=self.size,
            algorithm=self._store.algorithm,
            digest=digest,
            modified=now,
            expires=ttl and now + ttl,
            token=self._token,
            checksums=tuple(self._hasher.marks),
            tail=bytes(self._rest),
        )

    def _enter(self, key: str, manifest: Manifest, may_stay: Callable[[Manifest], bool]) -> bool:
        """Make the manifest visible, unless what is there is whole and `may_stay`. Returns whether it is visible."""
        # From now on a lost answer may have been a yes. Then the chunks are seen, and not to be deleted.
        hidden, self._hidden = self._hidden, []
        entered = self._try_to_enter(key, manifest, may_stay)
        if not entered:
            self._store.nodes.forget(hidden)
        return entered

    def _try_to_enter(self, key: str, manifest: Manifest, may_stay: Callable[[Manifest], bool]) -> bool:
        nodes, data, ttl = self._store.nodes, manifest.pack(key), self._store.ttl
        for _ in range(ATTEMPTS):
            if nodes.add(key, data, ttl=ttl):
                return True
            found = nodes.find(key)
            if found is None:
                continue
            if found.data == data:
                # It was added, and the answer got lost.
                return True
            if self._is_whole(key, found, may_stay):
                return False
            if nodes.swap(key, data, found.version, ttl=ttl):
                self._store.forget(key, found)
                return True
        raise StoreUnavailable("The object is being replaced all the time.")

    def _is_whole(self, key: str, found: Found, may_stay: Callable[[Manifest], bool]) -> bool:
        try:
            present = unpack(key, found.data)
        except ValueError:
            return False
        return may_stay(present) and self._store.is_whole(present)
