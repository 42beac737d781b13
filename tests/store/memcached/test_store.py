"""The memcached store on real servers: the contract, items, names, memory, and times to live."""

from __future__ import annotations

import hashlib
import io
import multiprocessing
import os
import shutil
import threading
import tracemalloc
from typing import Any
from unittest import mock

from filestoraged.errors import AlreadyExists, NotFound, StoreUnavailable, TooLarge
from filestoraged.store.memcached.manifest import CHUNK_SIZE, MAX_SIZE, TAIL_SIZE
from filestoraged.store.memcached.staging import MemcachedStaging
from filestoraged.store.memcached.store import MemcachedStore
from tests.clock import VirtualClock
from tests.store import contract
from tests.store.contract import TEA, TEA_DIGEST
from tests.store.memcached.servers import Memcached, open_store, start_memcached
from tests.support import PATIENCE, TempCase, in_threads

MIB = 1024 * 1024


class Repeated(io.RawIOBase):
    """A stream of `size` bytes that takes no memory."""

    def __init__(self, size: int) -> None:
        self._left = size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        taken = min(len(buffer), self._left)
        buffer[:taken] = b"x" * taken
        self._left -= taken
        return taken


class MemcachedCase(TempCase):
    """Each test has a server of its own, with enough memory, and a store on it."""

    options: tuple[str, ...] = ("-m", "256")
    memcached: Memcached
    store: MemcachedStore

    def setUp(self) -> None:
        self.memcached = start_memcached(self, *self.options)
        super().setUp()
        self.store = self.make_store()

    def make_store(self, **settings: Any) -> MemcachedStore:
        return open_store(self, [self.memcached.address], **settings)


class MemcachedContractTest(MemcachedCase, contract.StoreContract):
    lists = counts_each = False

    store: MemcachedStore


class PoolContractTest(contract.StoreContract):
    """The contract on a pool of three servers."""

    lists = counts_each = False

    def setUp(self) -> None:
        self.pool = [start_memcached(self) for _ in range(3)]
        super().setUp()

    def make_store(self, **settings: Any) -> MemcachedStore:
        return open_store(self, [server.address for server in self.pool], **settings)

    def test_chunks_lie_on_all_servers(self) -> None:
        self.store.put(Repeated(40 * CHUNK_SIZE))  # type: ignore[arg-type]

        counts = [len(server.chunk_keys()) for server in self.pool]

        # The probability that a server gets no chunk is 3 in 10 million.
        self.assertEqual((40, True), (sum(counts), all(counts)), counts)

    def test_order_of_the_servers_does_not_matter(self) -> None:
        digest = self.store.put(os.urandom(5 * CHUNK_SIZE))

        turned = open_store(self, [server.address for server in reversed(self.pool)])

        self.assertEqual(digest, hashlib.sha256(turned.get(digest).read()).hexdigest())


class LayoutTest(MemcachedCase):
    def test_objects_of_all_sizes_around_a_chunk_are_read_back(self) -> None:
        for size in (
            *(TAIL_SIZE - 1, TAIL_SIZE, TAIL_SIZE + 1, CHUNK_SIZE - 1, CHUNK_SIZE, CHUNK_SIZE + 1),
            *(CHUNK_SIZE + TAIL_SIZE, CHUNK_SIZE + TAIL_SIZE + 1, 2 * CHUNK_SIZE, 3 * CHUNK_SIZE - 1),
        ):
            with self.subTest(size=size):
                data = os.urandom(size)

                with self.store.get(self.store.put(data)) as stream:
                    self.assertEqual(data, stream.read())

    def test_object_of_the_maximum_size_is_stored_and_one_byte_more_leaves_nothing(self) -> None:
        largest = self.store.put(Repeated(MAX_SIZE))  # type: ignore[arg-type]
        with self.store.open(largest) as blob:
            self.assertEqual(MAX_SIZE, blob.size)
        self.store.delete(largest)

        with self.assertRaises(TooLarge) as caught:
            self.store.put(Repeated(MAX_SIZE + 1))  # type: ignore[arg-type]

        self.assertEqual(52_428_800, caught.exception.limit)
        self.assertEqual([], self.memcached.all_keys())
        self.assertRaises(TooLarge, self.store.put, bytes(MAX_SIZE + 1))
        self.assertEqual(0, self.memcached.statistics()[b"curr_items"])

    def test_maximum_size_may_not_be_higher(self) -> None:
        self.assertRaises(ValueError, self.make_store, max_size=MAX_SIZE + 1)

    def test_chunks_carry_a_token_of_their_upload(self) -> None:
        data = bytes(3 * CHUNK_SIZE)
        self.store.put(data, name="first")
        first = set(self.memcached.chunk_keys())

        self.store.put(data, name="second")

        second = set(self.memcached.chunk_keys()) - first
        self.assertEqual([3, 3], [len(first), len(second)])
        self.assertEqual(1, len({key.split(":")[1] for key in first}))
        self.assertNotIn(hashlib.sha256(data).hexdigest(), "".join(self.memcached.all_keys()))

    def test_two_chunks_fill_a_page_of_memcached(self) -> None:
        self.store.put(os.urandom(40 * CHUNK_SIZE))

        slabs = self.memcached.client.stats("slabs")  # type: ignore[no-untyped-call]

        (number,) = [
            key.partition(b":")[0] for key, size in slabs.items() if (key[-10:], size) == (b"chunk_size", 524288)
        ]
        self.assertEqual(20, slabs[number + b":total_pages"])

    def test_small_object_is_one_item(self) -> None:
        self.store.put(bytes(TAIL_SIZE))

        self.assertEqual(1, len(self.memcached.all_keys()))

    def test_same_bytes_again_leave_one_set_of_chunks(self) -> None:
        data = os.urandom(4 * CHUNK_SIZE)
        self.store.put(data)
        before = self.memcached.all_keys()

        self.store.put(data)

        self.assertEqual(before, self.memcached.all_keys())

    def test_removed_object_leaves_nothing(self) -> None:
        for data in (TEA, os.urandom(4 * CHUNK_SIZE)):
            self.store.delete(self.store.put(data))

        self.assertEqual(0, self.memcached.statistics()[b"curr_items"])

    def test_discarded_staging_leaves_nothing(self) -> None:
        with self.store.stage() as staging:
            staging.write(bytes(4 * CHUNK_SIZE + 1))
            self.assertEqual(4, len(self.memcached.all_keys()))

        self.assertEqual(0, self.memcached.statistics()[b"curr_items"])

    def test_keys_are_short_for_any_names(self) -> None:
        self.store.namespace("n" * 10_000).put(bytes(CHUNK_SIZE), name="name " * 10_000)

        self.assertEqual([True, True], [len(key) <= 250 for key in self.memcached.all_keys()])

    def test_upload_takes_a_few_chunks_of_memory(self) -> None:
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)

        self.store.put(Repeated(MAX_SIZE))  # type: ignore[arg-type]

        _, peak = tracemalloc.get_traced_memory()
        self.assertLess(peak, 14 * CHUNK_SIZE)

    def test_closed_store_has_no_connection_and_opens_one_when_it_is_used(self) -> None:
        before = self.memcached.statistics()[b"curr_connections"]
        digest = self.store.put(TEA)
        self.assertEqual(before + 1, self.memcached.statistics()[b"curr_connections"])

        self.store.close()

        self.wait_until("it has none", lambda: self.memcached.statistics()[b"curr_connections"] == before)

        self.assertEqual(TEA, self.store.get(digest).read())

    def test_child_process_uses_its_own_connections(self) -> None:
        data = os.urandom(4 * CHUNK_SIZE)
        digest = self.store.put(data)
        context = multiprocessing.get_context("fork")
        children = [context.Process(target=_read_often, args=(self.store, digest)) for _ in range(4)]
        for child in children:
            child.start()
        _read_often(self.store, digest)
        for child in children:
            child.join(PATIENCE)

        self.assertEqual([0] * 4, [child.exitcode for child in children])


def _read_often(store: MemcachedStore, digest: str) -> None:
    for _ in range(20):
        store.open(digest).close()


class NameTest(MemcachedCase):
    def test_any_string_is_a_name(self) -> None:
        names = ["report.pdf", " ", "a b\r\nc\0", "café ☕", "\ud800", "x" * 5000, "../../etc", TEA_DIGEST.upper()]
        for name in names:
            self.store.put(name.encode("utf-8", "surrogatepass"), name=name)

        for name in names:
            with self.subTest(name=name[:20]), self.store.get(name=name) as stream:
                self.assertEqual(name, stream.read().decode("utf-8", "surrogatepass"))

    def test_empty_name_raises_value_error(self) -> None:
        for work in (
            lambda: self.store.put(TEA, name=""),
            lambda: self.store.get(name=""),
            lambda: self.store.delete(name=""),
            lambda: self.store.get(""),
            lambda: self.store.delete(""),
        ):
            with self.assertRaises(ValueError) as caught:
                work()
            self.assertEqual("the name of an object cannot be empty", str(caught.exception))
        self.assertEqual([], self.memcached.all_keys())

    def test_string_of_servers_raises_value_error(self) -> None:
        for servers in ("localhost:11211", b"localhost:11211"):
            with self.assertRaises(ValueError) as caught:
                MemcachedStore(servers)  # type: ignore[arg-type]

            self.assertIn(f"[{servers!r}]", str(caught.exception))

    def test_name_that_is_not_a_digest_needs_no_keyword(self) -> None:
        self.store.put(TEA, name="report.pdf")

        with self.store.get("report.pdf") as stream:
            self.assertEqual(TEA, stream.read())
        self.store.delete("report.pdf")
        self.assertRaises(NotFound, self.store.get, "report.pdf")

    def test_commit_without_replace_of_a_taken_name_raises_already_exists_with_the_name(self) -> None:
        self.store.put(TEA, name="cup")

        with self.assertRaises(AlreadyExists) as caught:
            self.store.put(b"coffee", name="cup")

        self.assertEqual("cup", caught.exception.name)
        with self.store.get(name="cup") as stream:
            self.assertEqual(TEA, stream.read())

    def test_object_named_like_another_ones_digest_is_another_object(self) -> None:
        self.store.put(b"coffee", name=TEA_DIGEST)

        self.assertRaises(NotFound, self.store.get, TEA_DIGEST)
        self.store.put(TEA)
        self.store.delete(name=TEA_DIGEST)
        with self.store.get(TEA_DIGEST) as stream:
            self.assertEqual(TEA, stream.read())

    def test_commit_replaces_the_object_of_a_name(self) -> None:
        for data in (bytes(3 * CHUNK_SIZE), TEA):
            with self.store.stage() as staging:
                staging.write(data)
                staging.commit(name="cup").result(PATIENCE)

        with self.store.get(name="cup") as stream:
            self.assertEqual(TEA, stream.read())
        self.assertEqual(1, len(self.memcached.all_keys()))

    def test_namespaces_are_distinct_for_any_names(self) -> None:
        self.store.namespace("a").namespace("b").put(TEA, name="c")

        for other in (self.store.namespace("a/b"), self.store.namespace('a", "b'), self.store.namespace("a")):
            self.assertRaises(NotFound, other.get, name="c")

    def test_removal_of_a_missing_name_names_it(self) -> None:
        with self.assertRaises(NotFound) as caught:
            self.store.delete(name="cup")

        self.assertEqual("cup", caught.exception.name)

    def test_one_of_many_simultaneous_removals_succeeds(self) -> None:
        digest = self.store.put(bytes(3 * CHUNK_SIZE))

        def remove(_: int) -> bool:
            try:
                self.store.delete(digest)
            except NotFound:
                return False
            return True

        self.assertEqual(1, sum(in_threads(8, remove)))


class StreamTest(MemcachedCase):
    def setUp(self) -> None:
        super().setUp()
        self.store = self.make_store(memory=10 * MIB)
        self.data = os.urandom(6 * CHUNK_SIZE + 5)
        self.digest = self.store.put(self.data)

    def test_stream_is_read_in_any_way(self) -> None:
        with self.store.get(self.digest) as stream:
            beginning = stream.read(10)
            buffer = bytearray(CHUNK_SIZE)
            count = stream.readinto(buffer)  # type: ignore[attr-defined]
            rest = io.BytesIO()
            shutil.copyfileobj(stream, rest)

        self.assertEqual(self.data, beginning + bytes(buffer[:count]) + rest.getvalue())

    def test_stream_has_lines(self) -> None:
        lines = b"".join(b"line %d\n" % number for number in range(200_000))
        digest = self.store.put(lines)

        with self.store.get(digest) as stream:
            self.assertEqual(lines.splitlines(keepends=True), list(stream))

    def test_memory_is_free_again_when_a_stream_is_closed_or_forgotten(self) -> None:
        for _ in range(10):
            self.store.get(self.digest).close()
            self.store.get(self.digest).read(1)

    def test_memory_is_given_back_as_a_stream_is_read(self) -> None:
        store = self.make_store(memory=20 * MIB)
        data = os.urandom(9 * MIB)
        digest = store.put(data)
        first, second = store.get(digest), store.get(digest)
        self.addCleanup(first.close)
        self.addCleanup(second.close)
        third: list[bytes] = []
        reader = threading.Thread(target=lambda: third.append(store.get(digest).read()))
        reader.start()
        self.wait_until("the third waits", lambda: len(store._budget._queue) == 1)

        beginnings = [first.read(8 * MIB), second.read(8 * MIB)]

        reader.join(PATIENCE)
        self.assertTrue(third == [data])
        self.assertTrue(all(each + stream.read() == data for each, stream in zip(beginnings, (first, second))))

    def test_readers_wait_for_memory(self) -> None:
        results = in_threads(16, lambda _: self.store.get(self.digest).read() == self.data)

        self.assertEqual([True] * 16, results)

    def test_object_larger_than_the_memory_is_read_alone(self) -> None:
        store = self.make_store(memory=1)

        self.assertEqual([True] * 4, in_threads(4, lambda _: store.get(self.digest).read() == self.data))


class TimeToLiveTest(MemcachedCase):
    def test_every_key_has_an_expiry_and_chunks_the_later_one(self) -> None:
        self.make_store(ttl=1000).put(bytes(2 * CHUNK_SIZE))

        expiries = {item.key.count(":"): item.expires for item in self.memcached.items()}
        self.assertEqual(60, expiries[2] - expiries[1])
        self.assertGreater(expiries[1], 0)

    def test_upload_that_ends_before_its_last_step_leaves_chunks_that_outlive_their_manifest(self) -> None:
        with mock.patch.object(MemcachedStaging, "_make_permanent", side_effect=StoreUnavailable()):
            self.assertRaises(StoreUnavailable, self.make_store().put, bytes(2 * CHUNK_SIZE))

        expiries = {item.key.count(":"): item.expires for item in self.memcached.items()}
        self.assertGreater(expiries[1], 0)
        self.assertGreater(expiries[2], expiries[1])

    def test_object_without_a_time_to_live_never_expires(self) -> None:
        self.store.put(bytes(2 * CHUNK_SIZE))

        self.assertEqual([-1, -1, -1], [item.expires for item in self.memcached.items()])

    def test_time_to_live_above_a_month_is_exact(self) -> None:
        year = 365 * 24 * 3600
        clock = VirtualClock()
        clock.set_date(2_000_000_000)
        self.make_store(ttl=year, clock=clock).put(TEA)

        self.assertEqual([2_000_000_000 + year], [item.expires for item in self.memcached.items()])

    def test_expired_object_is_not_found(self) -> None:
        store = self.make_store(ttl=1)
        digest = store.put(bytes(2 * CHUNK_SIZE))

        def gone() -> bool:
            try:
                store.open(digest).close()
            except NotFound:
                return True
            return False

        self.wait_until("the object is gone", gone)

    def test_storing_again_extends_the_time_to_live(self) -> None:
        digest = self.make_store(ttl=1000).put(bytes(2 * CHUNK_SIZE))

        self.make_store().put(bytes(2 * CHUNK_SIZE))
        self.make_store(ttl=1000).put(bytes(2 * CHUNK_SIZE))

        self.assertEqual([-1, -1, -1], [item.expires for item in self.memcached.items()])
        self.make_store().open(digest).close()

    def test_chunks_of_a_killed_process_expire(self) -> None:
        with self.make_store().stage() as staging:
            staging.write(bytes(CHUNK_SIZE))

            (item,) = self.memcached.items()

            self.assertGreater(item.expires, 0)
