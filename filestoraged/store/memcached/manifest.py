"""What memcached holds of an object: a manifest, and the chunks that it lists.

An object exists when its manifest does and its chunks do. A chunk's key carries a token of the upload, so two uploads
never mix, whatever they store. An object that is being removed has a removal mark in place of its manifest, which names
the same chunks. Nothing here asks a server.
"""

from __future__ import annotations

import hashlib
import math
import os
import struct
from typing import NamedTuple

from filestoraged.digest import ALGORITHMS, MARK_SIZE, Bytes

# With its key and header an item stays just under memcached's `slab_chunk_max` of 512 KiB, so that two fill a page.
CHUNK_SIZE = 524_000

# A last piece of up to so many bytes lies in the manifest itself: a small object is one item, asked for once, and the
# odd end of a large one does not open another class of slabs.
TAIL_SIZE = 64 * 1024

# The largest object, in bytes.
MAX_SIZE = 50 * 1024 * 1024

TOKEN_SIZE = 16

# The `expires` of a removal mark: a second of 1970, which no time to live gives.
_REMOVED = 1

_MAGIC = b"fsd1"

# A short digest of what follows it and of the manifest's own key, so that one makes no sense under another key.
_CHECK_SIZE = 8

# The size, when modified, when it expires, the token, the length of the digest ("sha256:abcdef…") that follows, and the
# number of checksums behind that, one for each chunk. The tail is last.
_HEAD = struct.Struct(f"!QQQ{TOKEN_SIZE}sBI")


class Chunk(NamedTuple):
    key: str
    size: int


class Manifest(NamedTuple):
    # In bytes, the tail's among them.
    size: int
    algorithm: str
    digest: str
    # Seconds since 1970; `expires` is 0 for never.
    modified: int
    expires: int
    token: bytes
    # One for each chunk: the mark of all bytes up to its end, which costs no second look at them. That they are the
    # right bytes the digest says; where they are not, the checksums say which chunk it is.
    checksums: tuple[bytes, ...]
    tail: bytes

    @property
    def is_removed(self) -> bool:
        """Whether this is a removal mark: the object is removed, and its chunks may not be deleted yet."""
        return self.expires == _REMOVED

    @property
    def chunks(self) -> list[Chunk]:
        in_chunks = self.size - len(self.tail)
        return [
            Chunk(chunk_key(self.token, number), min(CHUNK_SIZE, in_chunks - number * CHUNK_SIZE))
            for number in range(len(self.checksums))
        ]

    def pack(self, key: str) -> bytes:
        """As what lies under `key`."""
        digest = f"{self.algorithm}:{self.digest}".encode()
        head = _HEAD.pack(self.size, self.modified, self.expires, self.token, len(digest), len(self.checksums))
        body = b"".join((head, digest, *self.checksums, self.tail))
        return b"".join((_MAGIC, _check(key, body), body))


def unpack(key: str, data: Bytes) -> Manifest:
    """Read what lies under `key`. Raises ValueError where that is no manifest, or one that makes no sense."""
    body = bytes(data[len(_MAGIC) + _CHECK_SIZE :])
    if data[: len(_MAGIC) + _CHECK_SIZE] != _MAGIC + _check(key, body):
        raise ValueError("its manifest is none, or another's")
    try:
        size, modified, expires, token, length, count = _HEAD.unpack_from(body)
        if _HEAD.size + length + MARK_SIZE * count > len(body):
            # Check before building the format: `count` may be up to 4,294,967,295 and is not trusted.
            raise struct.error(f"{count} checksums do not fit into {len(body)} bytes")
        checksums = struct.unpack_from(f"{MARK_SIZE}s" * count, body, _HEAD.size + length)
    except struct.error as error:
        raise ValueError("its manifest is cut") from error
    algorithm, _, digest = body[_HEAD.size : _HEAD.size + length].decode("ascii", "replace").partition(":")
    tail = body[_HEAD.size + length + MARK_SIZE * count :]
    # A removal mark has TOKEN_SIZE bytes of tail beside the chunks, also for the largest object.
    makes_sense = algorithm in ALGORITHMS and len(tail) <= size <= MAX_SIZE + TOKEN_SIZE * (expires == _REMOVED)
    if not makes_sense or count != math.ceil((size - len(tail)) / CHUNK_SIZE):
        raise ValueError("its manifest makes no sense")
    return Manifest(size, algorithm, digest, modified, expires, token, checksums, tail)


def removal_mark(key: str, data: Bytes) -> bytes:
    """Return a removal mark for the manifest `data` of `key`. It contains a nonce: no two marks are equal."""
    nonce = os.urandom(TOKEN_SIZE)
    try:
        removed = unpack(key, data)
    except ValueError:
        # Not a manifest, so no chunks are known.
        removed = Manifest(0, "sha256", "", 0, 0, nonce, (), b"")
    size = removed.size - len(removed.tail) + len(nonce)
    return removed._replace(size=size, expires=_REMOVED, tail=nonce).pack(key)


def chunk_key(token: bytes, number: int) -> str:
    return f"fsd:{token.hex()}:{number}"


def _check(key: str, body: bytes) -> bytes:
    return hashlib.blake2b(key.encode() + b" " + body, digest_size=_CHECK_SIZE).digest()
