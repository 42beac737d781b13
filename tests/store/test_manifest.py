"""Manifests as bytes: what goes in comes out, and nothing else does."""

from __future__ import annotations

import random
import unittest

from filestoraged.store.manifest import CHUNK_SIZE, MAX_SIZE, Chunk, Manifest, unpack

TOKEN = bytes(range(16))
DIGEST = "ab" * 32


def manifest(size: int, *, tail: bytes = b"") -> Manifest:
    count = -(-(size - len(tail)) // CHUNK_SIZE)
    return Manifest(size, "sha256", DIGEST, 1_800_000_000, 0, TOKEN, (b"mark",) * count, tail)


class ManifestTest(unittest.TestCase):
    def test_what_was_packed_is_unpacked(self) -> None:
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

    def test_another_key_makes_no_sense_of_it(self) -> None:
        packed = manifest(3, tail=b"tea").pack("key")

        self.assertRaises(ValueError, unpack, "another", packed)

    def test_any_change_is_noticed(self) -> None:
        packed = manifest(CHUNK_SIZE + 3, tail=b"tea").pack("key")
        for place in range(len(packed)):
            changed = bytearray(packed)
            changed[place] ^= 1
            self.assertRaises(ValueError, unpack, "key", changed)
            self.assertRaises(ValueError, unpack, "key", packed[:place])
        self.assertRaises(ValueError, unpack, "key", packed + b"!")

    def test_noise_is_no_manifest(self) -> None:
        noise = random.Random(4)
        for size in range(300):
            self.assertRaises(ValueError, unpack, "key", noise.randbytes(size))

    def test_one_that_makes_no_sense_is_none(self) -> None:
        good = manifest(CHUNK_SIZE + 3, tail=b"tea")
        for each in (
            *(good._replace(size=2), good._replace(size=3), good._replace(size=2 * CHUNK_SIZE + 4)),
            *(good._replace(size=MAX_SIZE + 1, checksums=(b"mark",) * 101), good._replace(algorithm="crc")),
            *(good._replace(checksums=()), good._replace(checksums=(b"mark",) * 2)),
        ):
            with self.subTest(manifest=each):
                self.assertRaises(ValueError, unpack, "key", each.pack("key"))
