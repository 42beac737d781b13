"""Hashing on another thread gives the same digest, and leaves no thread behind."""

from __future__ import annotations

import hashlib
import threading
import unittest

from filestoraged.digest import Expected
from filestoraged.errors import DigestMismatch
from filestoraged.store.hashing import COPY_SIZE, OverlappedHasher


def threads() -> int:
    return sum(thread.name == "hash" for thread in threading.enumerate())


class OverlappedHasherTest(unittest.TestCase):
    def test_a_small_object_needs_no_thread(self) -> None:
        hasher = OverlappedHasher("sha256", ())

        hasher.update(b"tea")

        self.assertEqual(0, threads())
        self.assertEqual(hashlib.sha256(b"tea").hexdigest(), hasher.finish())

    def test_a_large_object_is_hashed_beside(self) -> None:
        hasher = OverlappedHasher("sha256", ())
        piece = b"x" * COPY_SIZE

        for _ in range(20):
            hasher.update(piece)
        running = threads()
        digest = hasher.finish()

        self.assertEqual(1, running)
        self.assertEqual(hashlib.sha256(piece * 20).hexdigest(), digest)
        self.assertEqual(0, threads())

    def test_close_ends_the_thread_of_an_unfinished_object(self) -> None:
        hasher = OverlappedHasher("sha256", ())
        for _ in range(20):
            hasher.update(b"x" * COPY_SIZE)

        hasher.close()
        hasher.close()

        self.assertEqual(0, threads())

    def test_an_expected_digest_is_checked_at_the_end(self) -> None:
        hasher = OverlappedHasher("sha256", [Expected("md5", "00" * 16)])
        for _ in range(20):
            hasher.update(b"x" * COPY_SIZE)

        self.assertRaises(DigestMismatch, hasher.finish)
