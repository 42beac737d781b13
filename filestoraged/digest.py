"""Digests: the algorithms on offer, what a digest looks like, and comparing many at once.

A digest is lower-case hex everywhere inside. It knows neither HTTP nor storage.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from filestoraged.errors import DigestMismatch

Bytes = bytes | bytearray | memoryview

ALGORITHMS = ("md5", "sha1", "sha224", "sha256", "sha384", "sha512", "blake2b", "blake2s", "sha3_256")

# The constructors themselves: `hashlib.new` looks each of them up anew.
_CONSTRUCTORS: dict[str, Callable[..., Any]] = {name: getattr(hashlib, name) for name in ALGORITHMS}

# One in 4,000 million wrong chunks would be blamed on the next one.
MARK_SIZE = 4

# From md5's 32 digits to sha512's 128. Any of these lengths may lie in a store whose --hash was changed.
_LENGTHS = range(32, 129, 2)
_HEX = re.compile(r"[0-9a-f]*")


class Expected(NamedTuple):
    """What the client says the bytes are."""

    algorithm: str
    digest: str


def parse_digest(text: str) -> str | None:
    """Return `text` as a digest, in lower case, or None where it cannot be one."""
    digest = text.lower()
    return digest if len(digest) in _LENGTHS and _HEX.fullmatch(digest) else None


def digest_length(algorithm: str) -> int:
    """How many hex digits a digest of `algorithm` has."""
    return new_hash(algorithm).digest_size * 2


def new_hash(algorithm: str) -> hashlib._Hash:
    # Not a protection of secrets: a host in FIPS mode may still name files by their md5.
    made: hashlib._Hash = _CONSTRUCTORS[algorithm](usedforsecurity=False)
    return made


class Hasher:
    """Hashes bytes with one algorithm, and with those that somebody expects, each of them once."""

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

    def digest(self) -> str:
        return self._hashes[self.algorithm].hexdigest()

    def mark(self) -> bytes:
        """The first bytes of the digest of what has been hashed so far, which tell where two contents part."""
        return self._hashes[self.algorithm].copy().digest()[:MARK_SIZE]

    def check(self) -> None:
        """Raise DigestMismatch where the bytes are not what was expected."""
        for algorithm, expected in self.expected:
            actual = self._hashes[algorithm].hexdigest()
            if actual != expected:
                raise DigestMismatch(algorithm, expected, actual)
