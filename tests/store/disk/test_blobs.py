"""Small objects are sent from memory while their files are unchanged."""

from __future__ import annotations

import os
import tracemalloc
from unittest import mock

from filestoraged.errors import NotFound
from filestoraged.store.contract import SMALL
from filestoraged.store.disk.blobs import SmallBlob, SmallBlobCache
from filestoraged.store.disk.store import DiskStore
from filestoraged.store.system import Linux
from tests.runner.marks import on_disk
from tests.store.contract import Gather
from tests.support import TempCase

TEA = b"tea"


# A file system in memory does not support RWF_NOWAIT before Linux 6.13.
@on_disk
class SmallBlobCacheTest(TempCase):
    def setUp(self) -> None:
        super().setUp()
        self.system = Linux()
        self.store = DiskStore(self.directory, system=self.system)
        self.digest = self.store.put(TEA)

    def read(self, store: DiskStore) -> bytes:
        sink = Gather()
        with store.open(self.digest) as blob:
            blob.send(sink, 0, blob.size)
        return sink.data

    def test_small_object_is_opened_once(self) -> None:
        self.assertEqual(TEA, self.read(self.store))

        with mock.patch.object(self.system, "open", side_effect=AssertionError):
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

    def test_full_cache_stays_within_its_size_and_objects_are_read_again(self) -> None:
        store = DiskStore(self.directory, cache_size=10 * SMALL)
        digests = [store.put(bytes([number]) * SMALL) for number in range(20)]

        for digest in digests * 2:
            sink = Gather()
            with store.open(digest) as blob:
                blob.send(sink, 0, blob.size)
            self.assertEqual(SMALL, len(sink.data))

        cached = store._small_blobs._blobs
        self.assertEqual(9, len(cached))
        self.assertLessEqual(cached.size, 10 * SMALL)

    def test_store_with_a_cache_of_0_bytes_reads_each_time(self) -> None:
        store = DiskStore(self.directory, cache_size=0)

        self.assertEqual([TEA, TEA], [self.read(store), self.read(store)])
        self.assertEqual(0, len(store._small_blobs._blobs))

    def test_namespace_shares_the_cache_of_its_store(self) -> None:
        store = DiskStore(self.directory, cache_size=4 * SMALL)
        digests = {name: store.namespace(name).put(bytes(SMALL - 3000) + name.encode()) for name in "abcdef"}

        for name, digest in digests.items():
            store.namespace(name).open(digest).close()

        self.assertEqual(4, len(store._small_blobs._blobs))

    def test_namespace_with_a_cache_of_0_bytes_keeps_nothing_in_memory(self) -> None:
        store = DiskStore(self.directory)
        namespace = DiskStore(self.directory / "drops", cache_size=0, within=store)
        self.digest = namespace.put(TEA)

        self.assertEqual([TEA, TEA], [self.read(namespace), self.read(namespace)])
        self.assertEqual([0, 0], [len(each._small_blobs._blobs) for each in (store, namespace)])

    def test_cache_of_tiny_objects_stays_within_its_memory_bound(self) -> None:
        size = 4 * 2**20
        cache = SmallBlobCache(size)
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)

        for number in range(5000):
            digest = f"{number:064x}"
            # Each has its own status numbers, as files have.
            blob = SmallBlob(digest, bytes(1000), os.stat(self.directory))
            blob.memo = bytes(560)
            cache.put(f"/var/lib/filestoraged/repositories/{'x' * 128}/{digest[:2]}/{digest}", blob)
        _, peak = tracemalloc.get_traced_memory()

        self.assertGreater(len(cache._blobs), 1600)
        self.assertLess(peak, size)

    def test_object_outside_the_page_cache_is_sent_from_a_descriptor(self) -> None:
        # A file system without RWF_NOWAIT, or a page outside the page cache.
        with mock.patch.object(self.system, "preadv", side_effect=BlockingIOError):
            with self.store.open(self.digest) as blob:
                self.assertNotIsInstance(blob, SmallBlob)
            self.assertEqual(TEA, self.read(self.store))
