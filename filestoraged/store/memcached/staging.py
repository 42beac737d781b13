"""Uploads to memcached: chunk by chunk, and then a manifest that makes the object visible.

Staged chunks expire. The module `store` gives the order in which they become permanent, and the reasons.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence

from filestoraged.digest import Bytes, Digest, Expected
from filestoraged.errors import AlreadyExists, Error, StorageFull, StoreUnavailable
from filestoraged.future import Future
from filestoraged.store.contract import Staging, Store, completed
from filestoraged.store.memcached.blob import is_whole
from filestoraged.store.memcached.manifest import (
    CHUNK_SIZE,
    TAIL_SIZE,
    TOKEN_SIZE,
    Manifest,
    chunk_key,
    chunk_keys,
    try_unpack,
)
from filestoraged.store.memcached.pool import ServerPool, Versioned

# Seconds after which a staged chunk expires, so that a killed process leaves nothing. No upload takes longer.
STAGING_TTL = 6 * 3600

# How often an upload or a removal is tried again because another one changed the object meanwhile. Sixteen threads that
# store and remove the same object have needed more than ten attempts.
ATTEMPTS = 100

# Seconds by which chunks outlive their manifest: an expired object is missing, not damaged.
_CHUNK_MARGIN = 60

_MayStay = Callable[[Manifest], bool]


class MemcachedStaging(Staging):
    """Sends each chunk as soon as it is full, so it holds one chunk in memory at most."""

    def __init__(
        self,
        store: Store,
        size: int | None,
        expected: Sequence[Expected],
        *,
        pool: ServerPool,
        key: Callable[..., str],
        ttl: int,
    ) -> None:
        """`key` is the store's function of a digest and a name. `ttl` is in seconds, 0 for no expiry."""
        super().__init__(store, size, expected)
        self._algorithm = store.algorithm
        self._threads = store.hash_threads
        self._pool = pool
        self._key = key
        self._ttl = ttl
        self._token = os.urandom(TOKEN_SIZE)
        self._chunk = bytearray()
        self._keys: list[str] = []
        # True while no manifest on a server can name the chunks; only then may they be deleted.
        self._hidden = True
        # The manifest of a whole object that this upload replaces.
        self._replaced: Versioned | None = None
        # When the first chunk was sent, on the monotonic clock.
        self._first_sent = 0.0

    def _write(self, data: Bytes) -> None:
        view = memoryview(data)
        while view:
            piece = view[: CHUNK_SIZE - len(self._chunk)]
            self._chunk += piece
            view = view[len(piece) :]
            if len(self._chunk) == CHUNK_SIZE:
                self._send_chunk()

    def _finish(self) -> Digest:
        if len(self._chunk) > TAIL_SIZE:
            self._send_chunk()
        self._hasher.update(self._chunk)
        # While the hash thread works. A lost chunk is noticed before the object becomes visible.
        self._require_chunks(STAGING_TTL)
        return super()._finish()

    def _publish(self, name: str | None, digest: Digest, *, replace: bool) -> Future[Digest]:
        (self._replace if replace else self._add)(name, digest)
        return completed(digest)

    def _replace(self, name: str | None, digest: Digest) -> None:
        def may_stay(present: Manifest) -> bool:
            lasts = present.expires == 0 or 0 < sealed.expires <= present.expires
            return present.digest == digest and lasts

        sealed = self._seal(digest)
        self._enter(self._key(digest, name=name), sealed, may_stay)

    def _add(self, name: str | None, digest: Digest) -> None:
        def may_stay(present: Manifest) -> bool:
            return name is not None or present.digest == digest

        if not self._enter(self._key(digest, name=name), self._seal(digest), may_stay):
            raise AlreadyExists(digest if name is None else name)

    def _discard(self) -> None:
        if self._hidden:
            self._pool.delete_all(self._keys)
            self._keys = []

    def _send_chunk(self) -> None:
        if not self._keys:
            self._first_sent = self._pool.clock.now()
        chunk, self._chunk = self._chunk, bytearray()
        self._hasher.update_marked(chunk)
        key = chunk_key(self._token, len(self._keys))
        # Before the request: the server may have stored the chunk even if no reply came.
        self._keys.append(key)
        self._pool.set(key, chunk, ttl=STAGING_TTL)

    def _seal(self, digest: Digest) -> Manifest:
        now = int(self._pool.clock.date())
        return Manifest(
            size=self.size,
            algorithm=self._algorithm,
            digest=digest,
            modified=now,
            expires=self._ttl and now + self._ttl,
            token=self._token,
            checksums=tuple(self._hasher.marks),
            tail=bytes(self._chunk),
        )

    def _enter(self, key: str, manifest: Manifest, may_stay: _MayStay) -> bool:
        """Make the object visible and permanent, unless an existing object is whole and `may_stay` accepts it.

        Returns False if the existing object stays. Raises StorageFull and StoreUnavailable.
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
                self._pool.delete_all(chunk_keys(key, self._replaced.data))
        return True

    def _make_visible(self, key: str, data: bytes, may_stay: _MayStay) -> bool:
        """Add the manifest, or replace the existing one. Returns False if the existing object stays."""
        for attempt in range(ATTEMPTS):
            # With chunks, read first: if the manifest's server does not answer, the chunks can still be deleted. If the
            # add itself gets no reply they cannot, and each retry would leave them for STAGING_TTL.
            found = self._pool.gets(key) if attempt or self._keys else None
            if found is not None and found.data == data:
                # An earlier attempt succeeded, and its reply was lost.
                self._hidden = False
                return True
            if found is not None and self._stays(key, found, may_stay):
                return False
            if self._is_entered(key, data, self._entering(key, data, found)):
                return True
        raise StoreUnavailable("The object changes too often; retry later.")

    def _entering(self, key: str, data: bytes, found: Versioned | None) -> Callable[[], bool]:
        """Prepare the request that makes the manifest visible: an add, or a `cas` that replaces `found`."""
        ttl = self._ttl
        if found is not None and self._replaced is not None:
            # Chunks first here: a crash must not leave an expiring manifest in place of an object that was answered.
            self._require_chunks(ttl and ttl + _CHUNK_MARGIN)
            return functools.partial(self._pool.cas, key, data, found.version, ttl=ttl)
        # The manifest expires like its chunks, and before them, until `_make_permanent`.
        staged_ttl = min(ttl or STAGING_TTL, STAGING_TTL - _CHUNK_MARGIN) if self._keys else ttl
        if found is None:
            self._replaced = None
            return functools.partial(self._pool.add, key, data, ttl=staged_ttl)
        return functools.partial(self._pool.cas, key, data, found.version, ttl=staged_ttl)

    def _stays(self, key: str, found: Versioned, may_stay: _MayStay) -> bool:
        """Whether the existing object is whole and `may_stay` accepts it. Deletes the chunks of a damaged object."""
        present = try_unpack(key, found.data)
        if present is not None and present.is_removed:
            present = None
        self._replaced = None
        if present is not None and not may_stay(present):
            self._replaced = found
            return False
        if (
            present is not None
            and is_whole(self._pool, present, self._threads)
            and not self._make_permanent(key, present)
        ):
            return True
        if not self._pool.delete_all(chunk_keys(key, found.data)):
            raise StoreUnavailable("The object is damaged, and a server with a part of it does not answer.")
        return False

    def _is_entered(self, key: str, data: bytes, enter: Callable[[], bool]) -> bool:
        """Send the request `enter`. Returns whether the manifest is visible.

        If no reply comes, the chunks must not be deleted.
        """
        self._hidden = False
        try:
            entered = enter()
        except StorageFull:
            # The request was sent twice if the first reply was lost; the first attempt may have succeeded.
            found = self._pool.gets(key)
            self._hidden = found is None or found.data != data
            if self._hidden:
                raise
            return True
        self._hidden = not entered
        return entered

    def _make_permanent(self, key: str, manifest: Manifest) -> list[str]:
        """Set the final expiry of an object's items. Returns the keys that are missing.

        Also done for an existing object: the client that uploaded it may have died before this step. The manifest comes
        first, so that a permanent chunk always has a permanent manifest.
        """
        chunks = [chunk.key for chunk in manifest.chunks]
        if not chunks:
            return []
        ttl = self._ttl_of(manifest)
        return self._pool.touch_all({key: ttl, **dict.fromkeys(chunks, ttl and ttl + _CHUNK_MARGIN)})

    def _withdraw(self, key: str, data: bytes) -> bool:
        """Remove the object after a chunk was lost. Returns False if another client has replaced or removed it."""
        found = self._pool.gets(key)
        is_deleted = self._pool.delete_all(self._keys)
        if found is None or found.data != data:
            return False
        # If a chunk may be left, the manifest stays and lists it.
        if is_deleted:
            self._pool.delete_version(key, found.version)
        return True

    def _require_chunks(self, ttl: int) -> None:
        """Check that all chunks are present, and set their expiry. Raises StorageFull and StoreUnavailable."""
        missing = self._pool.touch_all(dict.fromkeys(self._keys, ttl))
        if missing:
            raise self._loss(missing)

    def _loss(self, missing: Sequence[str]) -> Error:
        return self._pool.explain_loss(missing[0], self._pool.clock.now() - self._first_sent)

    def _ttl_of(self, manifest: Manifest) -> int:
        """Seconds until the object expires; 0 for never."""
        return manifest.expires and max(1, manifest.expires - int(self._pool.clock.date()))
