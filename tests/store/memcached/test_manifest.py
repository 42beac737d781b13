"""The format of manifests: packed ones are unpacked, and all other bytes are refused."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import math
import random
import struct
import time
import unittest

from filestoraged.store.memcached.manifest import CHUNK_SIZE, MAX_SIZE, Chunk, Manifest, removal_mark, unpack

TOKEN = bytes(range(16))
DIGEST = "ab" * 32


def manifest(size: int, *, tail: bytes = b"") -> Manifest:
    count = -(-(size - len(tail)) // CHUNK_SIZE)
    return Manifest(size, "sha256", DIGEST, 1_800_000_000, 0, TOKEN, (b"mark",) * count, tail)


class ManifestTest(unittest.TestCase):
    def test_packed_manifest_is_unpacked(self) -> None:
        for each in (
            *(manifest(0), manifest(3, tail=b"tea"), manifest(CHUNK_SIZE), manifest(CHUNK_SIZE + 3, tail=b"tea")),
            *(manifest(MAX_SIZE), manifest(5)._replace(algorithm="md5", digest="ab" * 16, expires=2_000_000_000)),
        ):
            with self.subTest(manifest=each):
                self.assertEqual(each, unpack("key", each.pack("key")))
                self.assertEqual(each, unpack("key", memoryview(each.pack("key"))))

    def test_chunks_have_keys_and_sizes(self) -> None:
        chunks = manifest(2 * CHUNK_SIZE + 7).chunks

        key = f"fsd:{TOKEN.hex()}"
        expected = [Chunk(f"{key}:0", CHUNK_SIZE), Chunk(f"{key}:1", CHUNK_SIZE), Chunk(f"{key}:2", 7)]
        self.assertEqual(expected, chunks)

    def test_manifest_under_another_key_is_refused(self) -> None:
        packed = manifest(3, tail=b"tea").pack("key")

        self.assertRaises(ValueError, unpack, "another", packed)

    def test_any_changed_byte_is_detected(self) -> None:
        packed = manifest(CHUNK_SIZE + 3, tail=b"tea").pack("key")
        for place in range(len(packed)):
            changed = bytearray(packed)
            changed[place] ^= 1
            self.assertRaises(ValueError, unpack, "key", changed)
            self.assertRaises(ValueError, unpack, "key", packed[:place])
        self.assertRaises(ValueError, unpack, "key", packed + b"!")

    def test_random_bytes_are_not_a_manifest(self) -> None:
        noise = random.Random(4)
        for size in range(300):
            self.assertRaises(ValueError, unpack, "key", noise.randbytes(size))

    def test_inconsistent_manifest_is_refused(self) -> None:
        good = manifest(CHUNK_SIZE + 3, tail=b"tea")
        for each in (
            *(good._replace(size=2), good._replace(size=3), good._replace(size=2 * CHUNK_SIZE + 4)),
            *(good._replace(size=MAX_SIZE + 1, checksums=(b"mark",) * 101), good._replace(algorithm="crc")),
            *(good._replace(checksums=()), good._replace(checksums=(b"mark",) * 2)),
        ):
            with self.subTest(manifest=each):
                self.assertRaises(ValueError, unpack, "key", each.pack("key"))

    def test_count_of_checksums_that_memory_cannot_hold_is_refused(self) -> None:
        body = manifest(3, tail=b"tea").pack("key")[12:]
        for count in (2**32 - 1, 2**20, 1):
            # The count is the last number of the head.
            forged = body[:41] + struct.pack("!I", count) + body[45:]
            packed = b"fsd1" + hashlib.blake2b(b"key " + forged, digest_size=8).digest() + forged

            started = time.thread_time()
            self.assertRaises(ValueError, unpack, "key", packed)
            self.assertLess(time.thread_time() - started, 0.1)

    def test_twice_the_length_takes_at_most_twice_the_time(self) -> None:
        for make in (bytes, lambda size: manifest(size, tail=bytes(size)).pack("key")):
            seconds = [_seconds(make(size)) for size in (2**size for size in range(10, 21))]

            for less, more in itertools.pairwise(seconds):
                # The constant allows for times below the resolution of the clock.
                self.assertLess(more, 3 * less + 0.002)

    def test_removal_mark_lists_the_same_chunks_and_is_unique(self) -> None:
        for size, tail in ((CHUNK_SIZE + 3, b"tea"), (MAX_SIZE, b""), (MAX_SIZE, bytes(MAX_SIZE % CHUNK_SIZE))):
            packed = manifest(size, tail=tail).pack("key")
            marks = {removal_mark("key", packed) for _ in range(2)}

            self.assertEqual(2, len(marks))
            for mark in marks:
                self.assertTrue(unpack("key", mark).is_removed)
                self.assertEqual(unpack("key", packed).chunks, unpack("key", mark).chunks)
        self.assertFalse(unpack("key", packed).is_removed)


def _seconds(data: bytes) -> float:
    best = math.inf
    for _ in range(5):
        started = time.thread_time()
        with contextlib.suppress(ValueError):
            unpack("key", data)
        best = min(best, time.thread_time() - started)
    return best
