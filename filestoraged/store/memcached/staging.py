"""Bytes on their way into memcached: chunk by chunk, and a manifest that makes them visible.

Staged chunks expire. The module `memcached` gives the order in which they become permanent, and the reasons.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from filestoraged.digest import Bytes, Expected
from filestoraged.errors import AlreadyExists, Error, StorageFull, StoreUnavailable
from filestoraged.store.contract import Staging
from filestoraged.store.memcached.manifest import CHUNK_SIZE, TAIL_SIZE, TOKEN_SIZE, Manifest, chunk_key, unpack
from filestoraged.store.memcached.pool import Found

if TYPE_CHECKING:
    from filestoraged.store.memcached.store import MemcachedStore

# Seconds after which a staged chunk expires, so that a killed process leaves nothing. No upload takes longer.
STAGING_TTL = 6 * 3600

# How often an upload or a removal begins anew because another one has changed the object meanwhile. Sixteen threads
# that store and remove the same object have needed more than ten.
ATTEMPTS = 100

# Chunks outlive their manifest by so many seconds: an object whose time is over is gone, not damaged.
_CHUNKS_LONGER = 60


_MayStay = Callable[[Manifest], bool]


class MemcachedStaging(Staging):
    """Sends each chunk as soon as it is full, and has no more than one."""

    def __init__(self, store: MemcachedStore, size: int | None, expected: Sequence[Expected]) -> None:
        super().__init__(store, size, expected)
        self._store = store
        self._token = os.urandom(TOKEN_SIZE)
        self._rest = bytearray()
        self._keys: list[str] = []
        # True while no manifest on a server can name the chunks; only then may they be deleted.
        self._hidden = True
        # The manifest of a whole object that this upload replaces.
        self._replaced: Found | None = None
        # Monotonic time at which the first chunk was sent.
        self._began = 0.0

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
        # The hash thread works meanwhile. A lost chunk is noticed before the object becomes visible.
        self._require_chunks(STAGING_TTL)
        return super()._finish()

    def _publish(self, name: str | None, digest: str) -> None:
        def may_stay(present: Manifest) -> bool:
            lasts = present.expires == 0 or 0 < sealed.expires <= present.expires
            return present.digest == digest and lasts

        sealed = self._seal(digest)
        self._enter(self._store.key(digest, name=name), sealed, may_stay)

    def _publish_new(self, name: str | None, digest: str) -> None:
        def may_stay(present: Manifest) -> bool:
            return name is not None or present.digest == digest

        if not self._enter(self._store.key(digest, name=name), self._seal(digest), may_stay):
            raise AlreadyExists(digest if name is None else name)

    def _discard(self) -> None:
        if self._hidden:
            self._store.nodes.forget(self._keys)
            self._keys = []

    def _send_chunk(self) -> None:
        if not self._keys:
            self._began = time.monotonic()
        chunk, self._rest = self._rest, bytearray()
        self._hasher.update_marked(chunk)
        key = chunk_key(self._token, len(self._keys))
        # Noted first: it may be there although no answer came.
        self._keys.append(key)
        self._store.nodes.set(key, chunk, ttl=STAGING_TTL)

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

    def _enter(self, key: str, manifest: Manifest, may_stay: _MayStay) -> bool:
        """Make the object visible and permanent, unless the present object is whole and `may_stay` accepts it.

        Returns False in that case. Raises StorageFull and StoreUnavailable.
        """
        data = manifest.pack(key)
        if not self._make_visible(key, data, may_stay):
            return False
        try:
            missing = self._make_permanent(key, manifest)
            if missing and self._withdraw(key, data):
                raise self._loss(missing)
        finally:
            # The old manifest has been replaced, even if the new object failed afterwards.
            if self._replaced is not None:
                self._store.forget(key, self._replaced)
        return True

    def _make_visible(self, key: str, data: bytes, may_stay: _MayStay) -> bool:
        """Add the manifest, or swap it for the present one. Returns False where the present object stays."""
        for attempt in range(ATTEMPTS):
            # With chunks, look first: if the manifest's server does not answer, the chunks can still be deleted. If
            # the add itself gets no answer they cannot, and each retry would leave them for STAGING_TTL.
            found = self._store.nodes.find(key) if attempt or self._keys else None
            if found is not None and found.data == data:
                # An earlier attempt succeeded, and its answer was lost.
                self._hidden = False
                return True
            if found is not None and self._stays(key, found, may_stay):
                return False
            if self._is_entered(key, data, self._entering(key, data, found)):
                return True
        raise StoreUnavailable("The object is being replaced all the time.")

    def _entering(self, key: str, data: bytes, found: Found | None) -> Callable[[], bool]:
        """Prepare the request that makes the manifest visible: an add, or a swap for `found`."""
        nodes, ttl = self._store.nodes, self._store.ttl
        if found is not None and self._replaced is not None:
            # Chunks first here: a crash must not leave an expiring manifest in place of an object that was answered.
            self._require_chunks(ttl and ttl + _CHUNKS_LONGER)
            return functools.partial(nodes.swap, key, data, found.version, ttl=ttl)
        # The manifest expires like its chunks, and before them, until `_make_permanent`.
        staged_ttl = min(ttl or STAGING_TTL, STAGING_TTL - _CHUNKS_LONGER) if self._keys else ttl
        if found is None:
            self._replaced = None
            return functools.partial(nodes.add, key, data, ttl=staged_ttl)
        return functools.partial(nodes.swap, key, data, found.version, ttl=staged_ttl)

    def _stays(self, key: str, found: Found, may_stay: _MayStay) -> bool:
        """Whether the present object is whole and `may_stay` accepts it. Deletes the chunks of a damaged object."""
        present = _object_in(key, found)
        self._replaced = None
        if present is not None and not may_stay(present):
            self._replaced = found
            return False
        if present is not None and self._store.is_whole(present) and not self._make_permanent(key, present):
            return True
        if not self._store.forget(key, found):
            raise StoreUnavailable("The object is damaged, and a server that has a part of it does not answer.")
        return False

    def _is_entered(self, key: str, data: bytes, enter: Callable[[], bool]) -> bool:
        """Send the request `enter`. Returns whether the manifest is visible.

        The chunks stay undeletable where the answer is unknown.
        """
        self._hidden = False
        try:
            entered = enter()
        except StorageFull:
            # The request was sent twice if the first answer was lost; the first one may have succeeded.
            found = self._store.nodes.find(key)
            self._hidden = found is None or found.data != data
            if self._hidden:
                raise
            return True
        self._hidden = not entered
        return entered

    def _make_permanent(self, key: str, manifest: Manifest) -> list[str]:
        """Set the final expiry of an object's items. Returns the keys that are missing.

        This is done for a present object too: the client that uploaded it may have died before this step. The manifest
        comes first, so that a permanent chunk always has a permanent manifest.
        """
        chunks = [chunk.key for chunk in manifest.chunks]
        if not chunks:
            return []
        ttl = _ttl(manifest)
        return self._store.nodes.touch_all({key: ttl, **dict.fromkeys(chunks, ttl and ttl + _CHUNKS_LONGER)})

    def _withdraw(self, key: str, data: bytes) -> bool:
        """Remove the object after a chunk was lost. Returns False if another client replaced or removed it already."""
        nodes = self._store.nodes
        found = nodes.find(key)
        forgotten = nodes.forget(self._keys)
        if found is None or found.data != data:
            return False
        # If a chunk may be left, the manifest stays and names it.
        if forgotten:
            nodes.take(key, found.version)
        return True

    def _require_chunks(self, ttl: int) -> None:
        """Check that all chunks are present, and set their expiry. Raises StorageFull and StoreUnavailable."""
        missing = self._store.nodes.touch_all(dict.fromkeys(self._keys, ttl))
        if missing:
            raise self._loss(missing)

    def _loss(self, missing: Sequence[str]) -> Error:
        return self._store.nodes.explain_loss(missing[0], time.monotonic() - self._began)


def _object_in(key: str, found: Found) -> Manifest | None:
    """Return the manifest in `found`, or None if it is a removal mark or not a manifest."""
    try:
        manifest = unpack(key, found.data)
    except ValueError:
        return None
    return None if manifest.is_removed else manifest


def _ttl(manifest: Manifest) -> int:
    """Seconds until the object expires; 0 for never."""
    return manifest.expires and max(1, manifest.expires - int(time.time()))
