"""The format of an object in memcached: a manifest, and the chunks that it lists.

An object exists if its manifest and all of its chunks do. The key of a chunk contains a token of the upload, so two
uploads never mix, whatever they store. An object that is being removed has a removal mark in place of its manifest,
which lists the same chunks. This module calls no server.
"""

from __future__ import annotations

import hashlib
import math
import os
import struct
from typing import NamedTuple

from filestoraged.digest import ALGORITHMS, MARK_SIZE, Bytes

# In bytes. With key and header an item is just below memcached's `slab_chunk_max` of 512 KiB, so two fill a page.
CHUNK_SIZE = 524_000

# A last piece of up to this size, in bytes, is a part of the manifest: a small object is one item and one request, and
# the odd end of a large one needs no other slab class.
TAIL_SIZE = 64 * 1024

# The maximum size of an object, in bytes.
MAX_SIZE = 50 * 1024 * 1024

TOKEN_SIZE = 16

# The `expires` of a removal mark: a second of 1970, which no time to live results in.
_REMOVED = 1

_MAGIC = b"fsd1"

# In bytes. A short digest of the manifest's key and of what follows: a manifest is invalid under another key.
_CHECK_SIZE = 8

# The size, the times of modification and expiry, the token, the length of the digest ("sha256:abcdef…") that follows,
# and the number of checksums behind the digest, one for each chunk. The tail is last.
_MANIFEST_HEAD = struct.Struct(f"!QQQ{TOKEN_SIZE}sBI")


class Chunk(NamedTuple):
    key: str
    size: int


class Manifest(NamedTuple):
    # In bytes, including the tail.
    size: int
    algorithm: str
    digest: str
    # Seconds since 1970; `expires` is 0 for never.
    modified: int
    expires: int
    token: bytes
    # One for each chunk: the mark of all bytes up to its end, which costs no second hash. If the digest of the object
    # differs, the checksums tell which chunk is damaged.
    checksums: tuple[bytes, ...]
    tail: bytes

    @property
    def is_removed(self) -> bool:
        """Whether this is a removal mark: the object is removed, and some of its chunks may still exist."""
        return self.expires == _REMOVED

    @property
    def chunks(self) -> list[Chunk]:
        in_chunks = self.size - len(self.tail)
        return [
            Chunk(chunk_key(self.token, number), min(CHUNK_SIZE, in_chunks - number * CHUNK_SIZE))
            for number in range(len(self.checksums))
        ]

    def pack(self, key: str) -> bytes:
        """The value of `key`."""
        digest = f"{self.algorithm}:{self.digest}".encode()
        head = _MANIFEST_HEAD.pack(self.size, self.modified, self.expires, self.token, len(digest), len(self.checksums))
        body = b"".join((head, digest, *self.checksums, self.tail))
        return b"".join((_MAGIC, _check(key, body), body))


def unpack(key: str, data: Bytes) -> Manifest:
    """Read the value of `key`. Raises ValueError if it is not a manifest, or an inconsistent one."""
    body = bytes(data[len(_MAGIC) + _CHECK_SIZE :])
    if data[: len(_MAGIC) + _CHECK_SIZE] != _MAGIC + _check(key, body):
        raise ValueError("its manifest is damaged, or belongs to another key")
    try:
        size, modified, expires, token, length, count = _MANIFEST_HEAD.unpack_from(body)
        if _MANIFEST_HEAD.size + length + MARK_SIZE * count > len(body):
            # Before building the format: `count` may be up to 4,294,967,295 and is not trusted.
            raise struct.error(f"{count} checksums do not fit into {len(body)} bytes")
        checksums = struct.unpack_from(f"{MARK_SIZE}s" * count, body, _MANIFEST_HEAD.size + length)
    except struct.error as error:
        raise ValueError("its manifest is truncated") from error
    algorithm, _, digest = (
        body[_MANIFEST_HEAD.size : _MANIFEST_HEAD.size + length].decode("ascii", "replace").partition(":")
    )
    tail = body[_MANIFEST_HEAD.size + length + MARK_SIZE * count :]
    # A removal mark has a tail of TOKEN_SIZE bytes, also for the largest object.
    is_consistent = algorithm in ALGORITHMS and len(tail) <= size <= MAX_SIZE + TOKEN_SIZE * (expires == _REMOVED)
    if not is_consistent or count != math.ceil((size - len(tail)) / CHUNK_SIZE):
        raise ValueError("its manifest is inconsistent")
    return Manifest(size, algorithm, digest, modified, expires, token, checksums, tail)


def try_unpack(key: str, data: Bytes) -> Manifest | None:
    """Like `unpack`, but returns None if the value is not a manifest."""
    try:
        return unpack(key, data)
    except ValueError:
        return None


def is_removal_mark(key: str, data: Bytes) -> bool:
    manifest = try_unpack(key, data)
    return manifest is not None and manifest.is_removed


def chunk_keys(key: str, data: Bytes) -> list[str]:
    """The keys of the chunks that a manifest or a removal mark lists. A value that is neither lists none."""
    manifest = try_unpack(key, data)
    return [] if manifest is None else [chunk.key for chunk in manifest.chunks]


def removal_mark(key: str, data: Bytes) -> bytes:
    """Return a removal mark for the manifest `data` of `key`. A nonce in it makes every mark unique."""
    nonce = os.urandom(TOKEN_SIZE)
    # A value that is not a manifest has no known chunks.
    removed = try_unpack(key, data) or Manifest(0, "sha256", "", 0, 0, nonce, (), b"")
    size = removed.size - len(removed.tail) + len(nonce)
    return removed._replace(size=size, expires=_REMOVED, tail=nonce).pack(key)


def chunk_key(token: bytes, number: int) -> str:
    return f"fsd:{token.hex()}:{number}"


def _check(key: str, body: bytes) -> bytes:
    return hashlib.blake2b(key.encode() + b" " + body, digest_size=_CHECK_SIZE).digest()
