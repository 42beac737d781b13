"""Faults of real memcached servers: lost or changed items, full servers, and servers that die, hang or restart empty.

A reader gets the object's bytes or an error in every case, and waits no longer than the timeout.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import pickle
import socket
import socketserver
import threading
import unittest
from collections.abc import Callable
from typing import Any
from unittest import mock

from filestoraged.errors import (
    AlreadyExists,
    CorruptObject,
    Error,
    NotFound,
    StorageFull,
    StoreUnavailable,
)
from filestoraged.store.contract import Usage
from filestoraged.store.memcached.client import ServerClient
from filestoraged.store.memcached.diagnose import examine
from filestoraged.store.memcached.manifest import CHUNK_SIZE, Manifest
from filestoraged.store.memcached.store import MemcachedStore
from tests.store.memcached.proxy import serve
from tests.store.memcached.servers import Memcached, open_store, start_memcached
from tests.store.memcached.test_store import MIB, MemcachedCase
from tests.support import PATIENCE, TempCase, in_threads

# The timeout of stores, in seconds.
TIMEOUT = 0.5


class DamageTest(MemcachedCase):
    """An object of four chunks and a tail."""

    def setUp(self) -> None:
        super().setUp()
        self.data = os.urandom(4 * CHUNK_SIZE + 1000)
        self.digest = self.store.put(self.data)
        self.client: Any = self.memcached.client
        self.chunks = self.memcached.chunk_keys()
        (self.manifest,) = self.memcached.manifest_keys()

    def test_chunk_that_is_lost_or_changed_is_detected_and_named_and_another_upload_heals_it(self) -> None:
        flipped = "has other bytes than were stored"
        for damage, reason in (
            (self.client.delete, "is missing"),
            *((functools.partial(self.flip, place=at), flipped) for at in (0, CHUNK_SIZE // 2, CHUNK_SIZE - 1)),
            *(
                (functools.partial(self.truncate, size=size), f"has {size} bytes instead of {CHUNK_SIZE}")
                for size in (0, 1, CHUNK_SIZE - 1)
            ),
            (lambda key: self.client.append(key, b"!"), f"has {CHUNK_SIZE + 1} bytes instead of {CHUNK_SIZE}"),
        ):
            for number in range(4):
                with self.subTest(reason, chunk=number):
                    damage(self.chunks[number])

                    self.assertEqual(f"chunk {number + 1} of 4 {reason}", self.assert_corrupt().reason)

                    self.assertEqual(self.digest, self.store.put(self.data))
                    self.assert_whole()
                    before, self.chunks = self.chunks, self.memcached.chunk_keys()
                    self.assertEqual(4, len(self.chunks))
                    self.assertEqual(set(), set(before) & set(self.chunks))

    def test_swapped_chunks_are_detected(self) -> None:
        for number in range(4):
            key, other = self.chunks[number], self.chunks[number - 1]
            with self.subTest(chunk=number):
                one, two = self.client.get(key), self.client.get(other)
                self.client.set(key, two)
                self.client.set(other, one)

                self.assert_corrupt()

                self.assertEqual(self.digest, self.store.put(self.data))
                self.assert_whole()
                self.chunks = self.memcached.chunk_keys()

    def test_change_of_any_byte_of_a_manifest_is_detected(self) -> None:
        size = len(self.client.get(self.manifest))
        for place in (*range(150), size // 2, size - 1):
            self.flip(self.manifest, place)

            with self.subTest(place=place), self.assertRaises(CorruptObject):
                self.store.open(self.digest)

            self.flip(self.manifest, place)
        self.assert_whole()

    def test_invalid_manifest_is_corrupt_and_can_be_replaced(self) -> None:
        whole = self.client.get(self.manifest)
        garbage = [b"", b"x", b"fsd1", whole[:-1], whole[:30], whole + b"!", b"{}", b"\0" * 1000]
        garbage += [pickle.dumps(os.getcwd), b"cos\nsystem\n(S'exit 1'\ntR."]
        garbage += [manifest.pack(self.manifest) for manifest in self.absurd_manifests()]
        for data in garbage:
            with self.subTest(data=data[:40]):
                self.client.set(self.manifest, data)

                self.assertRaises(CorruptObject, self.store.open, self.digest)

                self.store.put(self.data)
                self.assert_whole()

    def absurd_manifests(self) -> list[Manifest]:
        good = Manifest(9, "sha256", self.digest, 0, 0, b"t" * 16, (), b"123456789")
        return [
            good._replace(size=10),
            good._replace(size=8),
            good._replace(size=2**63, checksums=(b"abcd",)),
            good._replace(size=CHUNK_SIZE + 9, checksums=()),
            good._replace(checksums=(b"abcd",) * 1000),
            good._replace(algorithm="crc"),
            good._replace(digest=""),
            good,
        ]

    def test_manifest_of_another_key_is_detected(self) -> None:
        other = self.store.put(b"another")
        (others,) = set(self.memcached.manifest_keys()) - {self.manifest}

        self.client.set(self.manifest, self.client.get(others))

        self.assert_corrupt()
        self.assertEqual(b"another", self.store.get(other).read())

    def test_manifest_of_other_bytes_is_corrupt(self) -> None:
        forged = Manifest(3, "sha256", hashlib.sha256(b"bad").hexdigest(), 0, 0, b"t" * 16, (), b"bad")

        for data in (forged, forged._replace(digest=self.digest)):
            self.client.set(self.manifest, data.pack(self.manifest))

            self.assert_corrupt()
            with self.store.stage() as staging:
                staging.write(self.data)
                staging.commit(replace=False).result(PATIENCE)
            self.assert_whole()

    def test_removal_of_a_damaged_object_leaves_nothing(self) -> None:
        self.client.delete(self.chunks[0])

        self.store.remove(self.digest)

        self.assertEqual([], self.memcached.all_keys())

    def test_object_with_an_invalid_manifest_can_be_removed(self) -> None:
        self.client.set(self.manifest, b"nonsense")

        self.store.remove(self.digest)

        self.assertRaises(NotFound, self.store.open, self.digest)

    def test_name_whose_chunks_are_lost_can_be_stored_again(self) -> None:
        self.store.put(self.data, name="cup")
        self.assertRaises(AlreadyExists, self.store.put, b"tea", name="cup")
        for key in self.memcached.chunk_keys():
            self.client.delete(key)

        self.store.put(b"tea", name="cup")

        self.assertEqual(b"tea", self.store.get(name="cup").read())

    def test_read_during_a_replacement_returns_the_new_object(self) -> None:
        get = self.store.pool.get
        replaced = threading.Event()

        def replace_first(key: str, *room: Any) -> object:
            if key == self.chunks[2] and not replaced.is_set():
                replaced.set()
                self.store.delete(self.digest)
                self.store.put(self.data)
            return get(key, *room)

        self.store.pool.get = replace_first  # type: ignore[method-assign,assignment]

        self.assert_whole()
        self.assertTrue(replaced.is_set())

    def flip(self, key: str, place: int) -> None:
        data = bytearray(self.client.get(key))
        data[place] ^= 4
        self.client.set(key, bytes(data))

    def truncate(self, key: str, size: int) -> None:
        self.client.set(key, self.client.get(key)[:size])

    def assert_corrupt(self) -> CorruptObject:
        with self.assertRaises(CorruptObject) as caught:
            self.store.get(self.digest)
        return caught.exception

    def assert_whole(self) -> None:
        with self.store.get(self.digest) as stream:
            self.assertEqual(self.data, stream.read())


class ManyAtOnceTest(MemcachedCase):
    options = ("-m", "512")

    def test_sixteen_threads_may_put_and_delete_the_same_file(self) -> None:
        store = self.store
        data = os.urandom(3 * CHUNK_SIZE + 1)
        digest = hashlib.sha256(data).hexdigest()

        def put_get_delete(_: int) -> None:
            for _ in range(10):
                store.put(data)
                try:
                    with store.get(digest) as stream:
                        self.assertEqual(data, stream.read())
                    store.delete(digest)
                except NotFound:
                    pass

        in_threads(16, put_get_delete)

        self.assertEqual(0 if self.is_gone(store, digest) else 4, len(self.memcached.all_keys()))

    def is_gone(self, store: MemcachedStore, digest: str) -> bool:
        try:
            store.open(digest).close()
        except NotFound:
            return True
        return False


class FullServerTest(MemcachedCase):
    options = ("-m", "16")

    def test_evictions_under_load_lose_objects_and_never_bytes(self) -> None:
        store = self.store
        # Threads append to a list at once; counting would lose some.
        seen: list[str] = []

        def put_and_get(number: int) -> None:
            for step in range(12):
                data = os.urandom(number * 300_000 + step * 100_000)
                seen.append(self.outcome_of(store, data))

        in_threads(8, put_and_get)

        self.assertEqual(96, len(seen))
        self.assertLessEqual(set(seen), {"whole", "NotFound", "CorruptObject", "StorageFull"})
        self.assertIn("whole", seen)
        self.assertGreater(self.memcached.statistics()[b"evictions"], 0)

    def outcome_of(self, store: MemcachedStore, data: bytes) -> str:
        try:
            with store.get(store.put(data)) as stream:
                self.assertEqual(data, stream.read())
        except Error as error:
            return type(error).__name__
        return "whole"

    def test_object_larger_than_the_server_is_refused(self) -> None:
        self.assertRaises(StorageFull, self.store.put, os.urandom(40 * MIB))

        self.assertEqual([], self.memcached.all_keys())


class NoEvictionsTest(MemcachedCase):
    options = ("-m", "16", "-M")

    def test_full_server_refuses_uploads_and_keeps_its_objects(self) -> None:
        store = self.store
        kept: list[str] = []
        with self.assertRaises(StorageFull):
            while True:
                kept.append(store.put(os.urandom(MIB)))
        before = self.memcached.all_keys()

        self.assertRaises(StorageFull, store.put, os.urandom(4 * MIB))

        self.assertEqual(before, self.memcached.all_keys())
        self.assertGreater(len(kept), 5)
        for digest in kept:
            self.assertEqual(digest, hashlib.sha256(store.get(digest).read()).hexdigest())


class SmallItemsTest(MemcachedCase):
    options = ("-I", "256k", "-o", "slab_chunk_max=128")

    def test_server_that_refuses_chunks_stores_small_objects(self) -> None:
        store = self.store

        self.assertEqual(b"tea", store.get(store.put(b"tea")).read())
        self.assertRaises(StoreUnavailable, store.put, bytes(CHUNK_SIZE))
        self.assertEqual(1, len(self.memcached.all_keys()))


def assert_unavailable(test: unittest.TestCase, work: Callable[[], object]) -> None:
    """Run `work` on a thread: it must end, and raise StoreUnavailable."""
    refused: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except StoreUnavailable as error:
            refused.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    test.assertFalse(thread.is_alive(), "it does not return")
    test.assertTrue(refused, "it did not raise")


class PoolFaultTest(TempCase):
    """Three servers, of which one fails. An object of twelve chunks needs them all."""

    def setUp(self) -> None:
        super().setUp()
        self.pool = [start_memcached(self) for _ in range(3)]
        addresses = [server.address for server in self.pool]
        self.store = open_store(self, addresses, timeout=PATIENCE, connect_timeout=PATIENCE)
        self.data = os.urandom(12 * CHUNK_SIZE)
        self.digest = self.store.put(self.data)
        # By chance, a server has none of twelve chunks in one of 40 runs.
        while not all(server.chunk_keys() for server in self.pool):
            self.store.remove(self.digest)
            self.data = os.urandom(12 * CHUNK_SIZE)
            self.digest = self.store.put(self.data)
        self.small = [self.store.put(b"%d" % number) for number in range(60)]

    def test_objects_of_a_killed_server_are_unavailable_and_others_are_not(self) -> None:
        self.pool[1].kill()

        self.assert_a_third_fails_with(StoreUnavailable)
        with self.assertRaises(StoreUnavailable) as caught:
            self.store.open(self.digest)
        self.assertEqual(self.pool[1].address, caught.exception.node)

    def test_objects_lost_by_a_restarted_server_are_detected_and_healed(self) -> None:
        self.pool[1].kill()
        self.assertRaises(StoreUnavailable, self.store.open, self.digest)
        self.pool[1].start()

        self.assert_a_third_fails_with(NotFound)
        with self.assertRaises((CorruptObject, NotFound)):
            self.store.open(self.digest)
        self.store.put(self.data)
        self.assertEqual(self.data, self.store.get(self.digest).read())

    def wait_for(self, server: Memcached, seconds: float) -> None:
        """Let the store wait so long for a server, on new connections."""
        (client,) = [each for each in self.store.pool.servers if each.name == server.address]
        client.close()
        client._timeout = client._connect_timeout = seconds

    def hang(self, server: Memcached) -> None:
        """Let a server hang, and wait only for this one for a short time."""
        self.wait_for(server, TIMEOUT)
        server.hang()

    def test_objects_of_a_hung_server_are_unavailable_until_it_continues(self) -> None:
        self.hang(self.pool[1])

        assert_unavailable(self, lambda: self.store.open(self.digest))

        self.pool[1].wake()
        self.wait_for(self.pool[1], PATIENCE)
        self.assertEqual(self.data, self.store.get(self.digest).read())

    def test_hung_server_delays_one_thread_at_a_time(self) -> None:
        self.hang(self.pool[1])
        self.assertRaises(StoreUnavailable, self.store.open, self.digest)
        (suspect,) = [server for server in self.store.pool.servers if server.suspect]
        call, calls, refused, all_refused = suspect._call, [], [], threading.Event()

        def call_when_all_are_refused(function: Callable[[ServerClient], Any]) -> Any:
            calls.append(function)
            self.assertTrue(all_refused.wait(PATIENCE))
            return call(function)

        def attempt(_: int) -> None:
            with self.assertRaises(StoreUnavailable) as caught:
                self.store.open(self.digest)
            if "has not answered lately" in str(caught.exception.__cause__):
                refused.append(caught.exception)
                if len(refused) == 15:
                    all_refused.set()

        with mock.patch.object(suspect, "_call", call_when_all_are_refused):
            in_threads(16, attempt)

        self.assertEqual((1, 15), (len(calls), len(refused)))

    def test_upload_to_a_hung_server_fails_in_time(self) -> None:
        for server in self.pool:
            self.hang(server)

        for size in (1, CHUNK_SIZE, 5 * CHUNK_SIZE):
            assert_unavailable(self, functools.partial(self.store.put, os.urandom(size)))

    def test_restarted_server_is_reconnected_without_an_error(self) -> None:
        for server in self.pool:
            server.kill()
            server.start()

        self.assertRaises(NotFound, self.store.open, self.digest)
        self.store.put(self.data)

    def assert_a_third_fails_with(self, expected: type[Error]) -> None:
        failed = 0
        for number, digest in enumerate(self.small):
            try:
                self.assertEqual(b"%d" % number, self.store.get(digest).read())
            except expected:
                failed += 1
        # How many each server has depends on its port.
        self.assertIn(failed, range(2, 46))


class OddServerTest(TempCase):
    """Replies that no memcached sends, from servers of the test."""

    def test_server_that_is_no_memcached_or_hangs_up_is_unavailable(self) -> None:
        for reply in (
            b"HTTP/1.1 400 Bad Request\r\n\r\n",
            b"\r\n" * 1000,
            b"VALUE x 0 99999999999\r\n",
            b"VALUE\r\n",
            b"\0\xff\r\n",
            b"",
        ):
            with self.subTest(reply=reply[:20]):
                store = self.store_at(socket.socket.sendall, reply)

                self.assertRaises(StoreUnavailable, store.open, "x")
                self.assertRaises(StoreUnavailable, store.put, b"tea")
                self.assertRaises(StoreUnavailable, store.put, bytes(CHUNK_SIZE))

    def test_reply_that_ends_in_the_middle_of_a_line_is_an_error_at_once(self) -> None:
        for reply in (b"S", b"STORED", b"STORED\r", b"VALUE", b"VALUE x 0 3\r\nte", b"END", b"STAT pid", b"TOUCHED\r"):
            with self.subTest(reply=reply):
                store = self.store_at(reply_once, reply)

                self.assert_all_unavailable(store)
                assert_unavailable(self, functools.partial(store.put, b"tea"))
                assert_unavailable(self, functools.partial(store.pool.touch_all, {"x": 1}))
                self.assertIsNotNone(store.pool.servers[0].ping())
                self.assertFalse(store.pool.delete_all(["x"]))

    def test_reply_without_an_end_is_an_error(self) -> None:
        for reply in (b"x", b"STAT x 1\r\n", b"VALUE x 0 1\r\n", b"VALUE x 0 9\r\nabcdefghi\r\n"):
            with self.subTest(reply=reply):
                store = self.store_at(reply_for_ever, reply)

                self.assert_all_unavailable(store)

    def assert_all_unavailable(self, store: MemcachedStore) -> None:
        call = store.pool.servers[0].call
        for work in (
            lambda: store.open("x"),
            lambda: store.put(bytes(CHUNK_SIZE)),
            lambda: call(lambda client: client.stats()),
            lambda: call(list_items),
        ):
            assert_unavailable(self, work)

    def test_long_line_of_a_listing_is_refused_where_it_ends_too(self) -> None:
        for digits in (3000, 60_000):
            with self.subTest(digits=digits):
                store = self.store_at(reply_once, b"key=x exp=%b la=1\r\nEND\r\n" % (b"9" * digits))

                assert_unavailable(self, functools.partial(store.pool.servers[0].call, list_items))

    def test_number_of_any_length_is_refused(self) -> None:
        for digits in (20, 4000, 1_000_000):
            for words in (b"VALUE x 0 %b\r\n", b"VALUE x 0 3 %b\r\ntea\r\nEND\r\n"):
                with self.subTest(digits=digits, words=words):
                    reply = words % (b"9" * digits)
                    store = self.store_at(reply_once, reply)

                    assert_unavailable(self, functools.partial(store.open, "x"))
                    assert_unavailable(self, functools.partial(store.remove, "x"))

    def test_malformed_statistics_are_an_error_or_count_as_zero(self) -> None:
        store = self.store_at(reply_once, b"STAT\r\nEND\r\n")
        assert_unavailable(self, lambda: store.pool.servers[0].call(lambda client: client.stats()))

        odd = b"STAT curr_items many\r\nSTAT bytes\r\nSTAT limit_maxbytes -\r\nSTAT version\r\nEND\r\n"
        store = self.store_at(reply_once, odd)
        self.assertEqual([Usage(0, 0)], list(store.usage().values()))
        self.assertIn("BAD", {finding.verdict for finding in examine([store.pool.servers[0].name], 1000)})

    def store_at(self, send: Callable[[socket.socket, bytes], None], reply: bytes) -> MemcachedStore:
        """A store on a server that sends the reply on each connection, and then closes it."""

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with contextlib.suppress(OSError):
                    send(self.request, reply)

        return open_store(self, [serve(self, Handler)], timeout=TIMEOUT)


def list_items(client: ServerClient) -> None:
    client.list_items(lambda line: None)


def reply_once(connection: socket.socket, reply: bytes) -> None:
    """Reply to the first request, and close so that the client receives all of the reply."""
    connection.recv(MIB)
    connection.sendall(reply)
    connection.shutdown(socket.SHUT_WR)
    while connection.recv(MIB):
        pass


def reply_for_ever(connection: socket.socket, reply: bytes) -> None:
    connection.recv(MIB)
    replies = reply * (MIB // 8 // len(reply))
    while True:
        connection.sendall(replies)
