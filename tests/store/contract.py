"""The contract of a backend as tests, which the test case of each backend inherits."""

from __future__ import annotations

import hashlib
import io
from array import array
from pathlib import Path
from typing import Any

from filestoraged.digest import Bytes, Expected
from filestoraged.errors import AlreadyExists, DigestMismatch, ListingUnsupported, NotFound, TooLarge
from filestoraged.store.contract import Store
from filestoraged.store.hashing import COPY_SIZE
from tests.support import PATIENCE, TempCase, ago, in_threads

TEA = b"tea"
TEA_DIGEST = hashlib.sha256(TEA).hexdigest()


class Gather:
    """A sink that collects the bytes it receives."""

    def __init__(self) -> None:
        self.data = b""

    def write(self, data: Bytes) -> int:
        self.data += bytes(data)
        return len(data)

    def sendfile(self, descriptor: int, start: int, stop: int) -> int:
        with open(descriptor, "rb", closefd=False) as stream:
            stream.seek(start)
            self.data += stream.read(stop - start)
        return stop - start


class StoreContract(TempCase):
    """A subclass makes the store, also with a lower maximum size."""

    store: Store
    # What backends differ in: whether they list names, whether they count object by object, whether a blob has all of
    # its bytes at hand, and by how many seconds a time of storage may be rounded up.
    lists = True
    counts_each = True
    may_wait = False
    rounded_up = 0

    def make_store(self, **settings: Any) -> Store:
        raise NotImplementedError

    def setUp(self) -> None:
        super().setUp()
        self.store = self.make_store()

    def stored(self, name: str) -> bytes:
        sink = Gather()
        with self.store.open(name) as blob:
            blob.send(sink, 0, blob.size)
        return sink.data

    def test_stored_bytes_are_read_back(self) -> None:
        for size in (0, 1, COPY_SIZE - 1, COPY_SIZE, COPY_SIZE + 1, 5 * COPY_SIZE + 3):
            with self.subTest(size=size):
                data = bytes(range(251)) * (size // 251 + 1)
                data = data[:size]

                digest = self.store.put(data)

                self.assertEqual(hashlib.sha256(data).hexdigest(), digest)
                self.assertEqual(data, self.stored(digest))

    def test_put_accepts_streams_and_paths_like_bytes(self) -> None:
        path = Path(self.directory, "tea.txt")
        path.write_bytes(TEA)

        digests = [self.store.put(io.BytesIO(TEA)), self.store.put(path), self.store.put(str(path))]

        self.assertEqual([TEA_DIGEST] * 3, digests)

    def test_put_accepts_any_contiguous_or_strided_buffer(self) -> None:
        data = bytes(range(256)) * 5000
        numbers = memoryview(array("I", range(300_000)))

        digests = [self.store.put(each) for each in (data, bytearray(data), memoryview(data), bytearray())]
        others = [self.store.put(numbers), self.store.put(memoryview(data)[::3])]

        self.assertEqual([hashlib.sha256(each).hexdigest() for each in (data, data, data, b"")], digests)
        self.assertEqual([hashlib.sha256(each).hexdigest() for each in (numbers.tobytes(), data[::3])], others)
        self.assertEqual(data[::3], self.stored(others[1]))

    def test_get_returns_a_stream(self) -> None:
        digest = self.store.put(TEA)

        with self.store.get(digest) as stream:
            data = stream.read()

        self.assertEqual(TEA, data)

    def test_part_of_an_object_is_sent_from_start_to_stop(self) -> None:
        digest = self.store.put(b"0123456789")
        sink = Gather()

        with self.store.open(digest) as blob:
            blob.send(sink, 3, 7)

        self.assertEqual(b"3456", sink.data)

    def test_buffer_may_be_reused_after_a_write(self) -> None:
        buffer = bytearray(COPY_SIZE)
        expected = hashlib.sha256()

        with self.store.stage() as staging:
            for number in range(12):
                buffer[:] = bytes([number]) * COPY_SIZE
                expected.update(buffer)
                staging.write(memoryview(buffer))
            digest = staging.commit().result(PATIENCE)

        self.assertEqual(expected.hexdigest(), digest)

    def test_uncommitted_bytes_are_invisible(self) -> None:
        with self.store.stage() as staging:
            staging.write(TEA)

            self.assertRaises(NotFound, self.store.open, TEA_DIGEST)

    def test_staging_left_without_commit_is_discarded(self) -> None:
        with self.store.stage() as staging:
            staging.write(TEA)

        self.assertRaises(NotFound, self.store.open, TEA_DIGEST)

    def test_error_in_the_block_discards_the_staging(self) -> None:
        with self.assertRaises(RuntimeError), self.store.stage() as staging:
            staging.write(TEA * COPY_SIZE)
            raise RuntimeError("the client left")

        self.assertRaises(NotFound, self.store.open, hashlib.sha256(TEA * COPY_SIZE).hexdigest())

    def test_same_bytes_twice_are_one_object(self) -> None:
        first = self.store.put(TEA)
        again = self.store.put(TEA)
        self.store.remove(first)

        self.assertEqual(first, again)
        self.assertRaises(NotFound, self.store.open, first)

    def test_commit_without_replace_of_an_existing_object_raises_already_exists(self) -> None:
        self.store.put(TEA)

        with self.assertRaises(AlreadyExists), self.store.stage(len(TEA)) as staging:
            staging.write(TEA)
            staging.commit(replace=False).result(PATIENCE)

        self.assertEqual(TEA, self.stored(TEA_DIGEST))

    def test_commit_stores_the_object_when_its_future_is_done(self) -> None:
        with self.store.stage(len(TEA)) as staging:
            staging.write(TEA)
            done = staging.commit()

        self.assertEqual(TEA_DIGEST, done.result(PATIENCE))
        self.assertEqual(TEA, self.stored(TEA_DIGEST))

    def test_remove_later_removes_the_object_when_its_future_is_done(self) -> None:
        digest = self.store.put(TEA)

        self.store.remove_later(digest).result(PATIENCE)

        self.assertRaises(NotFound, self.store.open, digest)

    def test_one_of_many_simultaneous_commits_without_replace_succeeds(self) -> None:
        def attempt(_: int) -> bool:
            with self.store.stage() as staging:
                staging.write(TEA)
                try:
                    staging.commit(replace=False).result(PATIENCE)
                except AlreadyExists:
                    return False
                return True

        self.assertEqual(1, sum(in_threads(16, attempt)))

    def test_many_threads_may_store_the_same_bytes(self) -> None:
        data = TEA * COPY_SIZE

        digests: list[str] = in_threads(16, lambda _: self.store.put(data))

        self.assertEqual({hashlib.sha256(data).hexdigest()}, set(digests))
        self.assertEqual(data, self.stored(digests[0]))

    def test_bytes_with_another_digest_than_expected_are_not_stored(self) -> None:
        expected = [Expected("md5", hashlib.md5(b"coffee").hexdigest())]

        with self.assertRaises(DigestMismatch), self.store.stage(expected=expected) as staging:
            staging.write(TEA)
            staging.commit().result(PATIENCE)

        self.assertRaises(NotFound, self.store.open, TEA_DIGEST)

    def test_bytes_with_the_expected_digest_are_stored(self) -> None:
        expected = [Expected("sha256", TEA_DIGEST), Expected("sha512", hashlib.sha512(TEA).hexdigest())]

        with self.store.stage(expected=expected) as staging:
            staging.write(TEA)
            staging.commit().result(PATIENCE)

        self.assertEqual(TEA, self.stored(TEA_DIGEST))

    def test_declared_size_above_the_limit_is_refused_before_a_byte(self) -> None:
        store = self.make_store(max_size=3)

        self.assertRaises(TooLarge, store.stage, 4)

    def test_first_byte_above_the_limit_is_refused(self) -> None:
        store = self.make_store(max_size=3)

        with store.stage() as staging:
            staging.write(TEA)
            self.assertRaises(TooLarge, staging.write, b"!")

    def test_object_of_the_maximum_size_is_stored(self) -> None:
        store = self.make_store(max_size=3)

        self.assertEqual(TEA_DIGEST, store.put(TEA))

    def test_removal_of_a_missing_object_raises_not_found(self) -> None:
        self.assertRaises(NotFound, self.store.remove, TEA_DIGEST)
        self.assertRaises(NotFound, self.store.delete, TEA_DIGEST)
        with self.assertRaises(NotFound):
            self.store.remove_later(TEA_DIGEST).result(PATIENCE)

    def test_open_object_outlives_its_removal(self) -> None:
        digest = self.store.put(TEA)
        sink = Gather()

        with self.store.open(digest) as blob:
            self.store.remove(digest)
            blob.send(sink, 0, blob.size)

        self.assertEqual(TEA, sink.data)

    def test_namespaces_share_no_object(self) -> None:
        cats, dogs = self.store.namespace("cats"), self.store.namespace("dogs")
        for each in (self.store, cats, dogs):
            each.put(TEA)

        cats.remove(TEA_DIGEST)

        self.assertRaises(NotFound, cats.open, TEA_DIGEST)
        self.assertEqual(TEA, self.stored(TEA_DIGEST))
        with dogs.get(TEA_DIGEST) as stream:
            self.assertEqual(TEA, stream.read())

    def test_namespace_may_use_another_algorithm(self) -> None:
        within = self.store.namespace("short", algorithm="md5")

        self.assertEqual(hashlib.md5(TEA).hexdigest(), within.put(TEA))

    def test_probe_of_a_store_that_can_be_written_leaves_nothing(self) -> None:
        self.store.put(TEA)
        before = self.counted()

        self.store.probe()

        self.assertEqual(before, self.counted())

    def test_usage_counts_each_object_that_is_stored(self) -> None:
        before = self.counted()

        for data in (b"tea", b"milk", b"tea"):
            self.store.put(data)

        self.assertEqual(before + 2, self.counted())

    def test_exception_of_pause_ends_the_count_or_the_count_needs_no_pause(self) -> None:
        class Stop(Exception):
            pass

        def stop() -> None:
            raise Stop

        self.store.put(b"tea")

        if self.counts_each:
            self.assertRaises(Stop, self.store.usage, stop)
        else:
            self.store.usage(stop)

    def test_list_returns_all_names_in_order_or_says_that_it_cannot(self) -> None:
        digests = sorted(self.store.put(bytes([number])) for number in range(50))
        self.store.namespace("other").put(b"elsewhere")

        if not self.lists:
            self.assertRaises(ListingUnsupported, self.store.list)
            return
        self.assertEqual(digests, self.store.list())
        pages: list[str] = []
        page = self.store.list(limit=7)
        while page:
            self.assertLessEqual(len(page), 7)
            pages += page
            page = self.store.list(after=page[-1], limit=7)
        self.assertEqual(digests, pages)

    def test_namespaces_are_listed_in_order_or_not_at_all(self) -> None:
        within = self.store.namespace("repositories")
        for name in ("b", "a", "B", "c"):
            within.namespace(name).put(TEA)

        if not self.lists:
            self.assertRaises(ListingUnsupported, within.list_namespaces)
            return
        self.assertEqual(["B", "a", "b", "c"], list(within.list_namespaces()))
        self.assertEqual(["a", "b"], list(within.list_namespaces("B", 2)))
        self.assertEqual([], list(within.list_namespaces("c")))
        self.assertEqual([], list(within.namespace("missing").list_namespaces()))

    def test_scan_returns_all_objects_or_says_that_it_cannot(self) -> None:
        expected = {self.store.put(bytes(size)): size for size in range(40)}
        self.store.namespace("other").put(TEA)

        if not self.lists:
            self.assertRaises(ListingUnsupported, list, self.store.scan())
            return
        self.assertEqual(expected, {each.name: each.size for each in self.store.scan()})
        self.assertEqual([], list(self.store.namespace("missing").scan()))

    def test_repository_of_restic_keeps_a_config_and_each_type_by_itself(self) -> None:
        repository = self.store.namespace("restic/laptop")
        types = [repository.namespace(name) for name in ("data", "index", "keys", "locks", "snapshots")]
        if not self.lists:
            return
        self.assertEqual([[]] * 6, [list(each.list()) for each in (repository, *types)])

        repository.put(TEA, name="config")
        for number, each in enumerate(types):
            each.put(bytes(number))
            each.put(TEA)

        self.assertEqual(["config"], list(repository.list()))
        self.assertEqual([("config", 3)], [(each.name, each.size) for each in repository.scan()])
        self.assertRaises(AlreadyExists, repository.put, b"coffee", name="config")
        for number, each in enumerate(types):
            digests = sorted((hashlib.sha256(bytes(number)).hexdigest(), TEA_DIGEST))
            self.assertEqual(digests, list(each.list()))
            self.assertEqual(digests, [*each.list(limit=1), *each.list(after=digests[0])])
            self.assertEqual({*digests}, {each.name for each in each.scan()})
        for each, name in ((repository, "config"), (types[1], TEA_DIGEST)):
            with each.get(name) as stream:
                self.assertEqual(TEA, stream.read())
            each.remove(name)
            self.assertRaises(NotFound, each.open, name)

    def test_stat_returns_size_and_time_without_the_bytes(self) -> None:
        # File systems take times from a clock that ticks every few milliseconds.
        before = int(ago(1))
        self.store.put(TEA)

        found = self.store.stat(TEA_DIGEST)

        self.assertEqual((TEA_DIGEST, 3), (found.name, found.size))
        self.assertTrue(before <= found.modified <= ago(0) + self.rounded_up)

    def test_stat_of_a_missing_object_raises_not_found(self) -> None:
        self.store.put(TEA)
        self.store.remove(TEA_DIGEST)

        self.assertRaises(NotFound, self.store.stat, TEA_DIGEST)
        self.assertRaises(NotFound, self.store.namespace("other").stat, TEA_DIGEST)

    def test_sweep_leaves_a_staging_of_a_living_process(self) -> None:
        with self.store.stage() as staging:
            staging.write(TEA)

            self.assertEqual(0, self.store.sweep())

            staging.commit().result(PATIENCE)
        self.assertEqual(TEA, self.stored(TEA_DIGEST))

    def test_closed_store_can_be_used_again(self) -> None:
        with self.store.stage() as staging:
            staging.write(TEA)
            self.store.close()
            self.store.close()
            staging.commit().result(PATIENCE)

        self.assertEqual(TEA, self.stored(TEA_DIGEST))
        self.assertEqual(TEA_DIGEST, self.store.put(TEA))

    def test_blob_says_whether_sending_may_wait_for_another_machine(self) -> None:
        self.store.put(TEA)

        with self.store.open(TEA_DIGEST) as blob:
            self.assertIs(self.may_wait, blob.may_wait)

    def counted(self) -> int:
        return sum(usage.objects for usage in self.store.usage().values() if usage is not None)
