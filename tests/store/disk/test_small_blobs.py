"""Small objects are sent from memory while their files are unchanged."""

from __future__ import annotations

import os
import tracemalloc
from unittest import mock

from filestoraged.errors import NotFound
from filestoraged.store.disk.small_blobs import SMALL, SmallBlob, SmallBlobCache
from filestoraged.store.disk.store import DiskStore
from tests.store.contract import Gather
from tests.support import TempCase

TEA = b"tea"


class SmallBlobCacheTest(TempCase):
    def setUp(self) -> None:
        super().setUp()
        self.store = DiskStore(self.directory)
        self.digest = self.store.put(TEA)

    def read(self, store: DiskStore) -> bytes:
        sink = Gather()
        with store.open(self.digest) as blob:
            blob.send(sink, 0, blob.size)
        return sink.data

    def test_small_object_is_opened_once(self) -> None:
        self.assertEqual(TEA, self.read(self.store))

        with mock.patch("os.open", side_effect=AssertionError):
            self.assertEqual(TEA, self.read(self.store))

    def test_part_of_a_cached_object_is_sent_from_memory(self) -> None:
        sink = Gather()

        for _ in range(2):
            with self.store.open(self.digest) as blob:
                self.assertEqual(3, blob.send(sink, 1, 3))

        self.assertEqual(b"eaea", sink.data)

    def test_object_that_another_process_removed_is_not_found(self) -> None:
        self.read(self.store)

        DiskStore(self.directory).remove(self.digest)

        self.assertRaises(NotFound, self.store.open, self.digest)

    def test_object_that_another_process_healed_is_read_anew(self) -> None:
        path = self.store.path(self.digest)
        with open(path, "wb") as stream:
            stream.write(b"BAD")
        self.assertEqual(b"BAD", self.read(self.store))

        DiskStore(self.directory).put(TEA)

        self.assertEqual(TEA, self.read(self.store))

    def test_file_that_was_changed_in_place_is_read_anew(self) -> None:
        self.read(self.store)
        path = self.store.path(self.digest)
        before = os.stat(path)

        with open(path, "r+b") as stream:
            stream.write(b"TEA")
        # Same size and modification time; only the change time differs, which cannot be set.
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

        self.assertEqual(b"TEA", self.read(self.store))

    def test_large_object_is_not_cached(self) -> None:
        digest = self.store.put(bytes(SMALL + 1))

        for _ in range(2):
            with self.store.open(digest) as blob:
                self.assertNotIsInstance(blob, SmallBlob)

    def test_full_cache_is_cleared_and_objects_are_read_again(self) -> None:
        digests = [self.store.put(bytes([number]) * SMALL) for number in range(200)]

        for digest in digests * 2:
            sink = Gather()
            with self.store.open(digest) as blob:
                blob.send(sink, 0, blob.size)
            self.assertEqual(SMALL, len(sink.data))

        cached = self.store._small_blobs._blobs
        self.assertGreater(len(cached), 1)
        self.assertLessEqual(cached.size, 8 * 1024 * 1024)
        self.assertEqual(cached.size, sum(blob.size for blob in cached._values.values()))

    def test_cache_of_tiny_objects_stays_within_its_memory_bound(self) -> None:
        cache = SmallBlobCache()
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        most = 0

        for number in range(10_000):
            digest = f"{number:064x}"
            # Each has its own status numbers, as files have.
            blob = SmallBlob(digest, bytes(1000), os.stat(self.directory))
            cache.put(f"/var/lib/filestoraged/repositories/{'x' * 128}/{digest[:2]}/{digest}", blob)
            most = max(most, len(cache._blobs))
        _, peak = tracemalloc.get_traced_memory()

        self.assertGreater(most, 8000)
        self.assertLess(peak, 16 * 2**20)

    def test_object_outside_the_page_cache_is_sent_from_a_descriptor(self) -> None:
        # A file system without RWF_NOWAIT, or a page outside the page cache.
        with mock.patch("os.preadv", side_effect=BlockingIOError):
            with self.store.open(self.digest) as blob:
                self.assertNotIsInstance(blob, SmallBlob)
            self.assertEqual(TEA, self.read(self.store))
