"""Digests: the supported algorithms, the syntax of a digest, and hashing by several algorithms at once.

A digest is lower-case hex; `parse_digest` reads one from a request, and the rest of the package trusts the type.
The module knows neither HTTP nor storage.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NewType

from filestoraged.errors import DigestMismatch

Bytes = bytes | bytearray | memoryview

# The hash of an object as lower-case hex digits.
Digest = NewType("Digest", str)

ALGORITHMS = ("md5", "sha1", "sha224", "sha256", "sha384", "sha512", "blake2b", "blake2s", "sha3_256")

# The constructors themselves: `hashlib.new` would look up the name at each call.
_CONSTRUCTORS: dict[str, Callable[..., Any]] = {name: getattr(hashlib, name) for name in ALGORITHMS}

# Bytes. With 4, one damaged chunk in 4,000 million is attributed to the next chunk.
MARK_SIZE = 4

# From the 32 hex digits of MD5 to the 128 of SHA-512. All of these lengths are valid, whatever --hash is: a store keeps
# the objects that it received before --hash was changed.
_LENGTHS = range(32, 129, 2)
_HEX = re.compile(r"[0-9a-f]*")


class Expected(NamedTuple):
    """The digest that a client announced for an upload."""

    algorithm: str
    digest: str


def parse_digest(text: str) -> Digest | None:
    """Return `text` in lower case, or None where no algorithm makes such a digest."""
    digest = text.lower()
    return Digest(digest) if len(digest) in _LENGTHS and _HEX.fullmatch(digest) else None


def digest_length(algorithm: str) -> int:
    """Return the number of hex digits in a digest of `algorithm`."""
    return new_hash(algorithm).digest_size * 2


def new_hash(algorithm: str) -> hashlib._Hash:
    # A digest names a file and protects no secret, so MD5 works on a host in FIPS mode too.
    made: hashlib._Hash = _CONSTRUCTORS[algorithm](usedforsecurity=False)
    return made


class Hasher:
    """Hashes bytes once by `algorithm` and once by each other algorithm of the `expected` digests."""

    def __init__(self, algorithm: str, expected: Sequence[Expected] = ()) -> None:
        self.algorithm = algorithm
        self.expected = expected
        self._hashes: dict[str, hashlib._Hash] = {algorithm: new_hash(algorithm)}
        for each in expected:
            if each.algorithm not in self._hashes:
                self._hashes[each.algorithm] = new_hash(each.algorithm)

    def update(self, data: Bytes) -> None:
        for each in self._hashes.values():
            each.update(data)

    def digest(self) -> Digest:
        """Return the digest of the bytes. Raises as `check` does."""
        self.check()
        return Digest(self._hashes[self.algorithm].hexdigest())

    def mark(self) -> bytes:
        """Return the first MARK_SIZE bytes of the digest so far; the first differing mark locates a damaged chunk."""
        return self._hashes[self.algorithm].copy().digest()[:MARK_SIZE]

    def check(self) -> None:
        """Raise DigestMismatch where the digest of the bytes is not an expected one."""
        for algorithm, expected in self.expected:
            actual = self._hashes[algorithm].hexdigest()
            if actual != expected:
                raise DigestMismatch(algorithm, expected, actual)
