"""The tests of files and repositories on a real memcached, and tests of its own behaviour."""

from __future__ import annotations

import hashlib
import json
import os
import threading

from filestoraged.store.memcached.manifest import CHUNK_SIZE, MAX_SIZE
from filestoraged.store.memcached.store import MemcachedStore
from tests.api import downloads, test_files, test_repositories
from tests.store.memcached.servers import Memcached, start_memcached
from tests.support import PATIENCE, Answer, ServerCase, in_threads, read_all, read_answer

TEA = b"tea"
TEA_HASH = hashlib.sha256(TEA).hexdigest()

# The timeout of the daemon's store, in seconds.
TIMEOUT = 2.0


class OnMemcached(ServerCase):
    """Each test has a memcached of its own."""

    memcached: Memcached

    def setUp(self) -> None:
        self.memcached = start_memcached(self, "-m", "256")
        self.config = {**self.config, "memcached": (self.memcached.address,)}
        super().setUp()

    def wait_for_memcached(self, seconds: float) -> None:
        """Let the store wait so long for the server, on new connections."""
        store = self.services.store
        assert isinstance(store, MemcachedStore)
        (server,) = store.pool.servers
        server.close()
        server._timeout = server._connect_timeout = seconds

    def assert_stored(self, count: int) -> None:
        self.assertEqual(count, len(self.memcached.manifest_keys()))
        self.assertTrue(count or not self.memcached.all_keys())
        super().assert_stored(0)


class FilesDownloadTest(OnMemcached, test_files.UploadToFiles, downloads.DownloadContract):
    pass


class RepositoriesDownloadTest(OnMemcached, test_repositories.UploadToRepository, downloads.DownloadContract):
    pass


class FilesTest(OnMemcached, test_files.FilesTest):
    pass


class AnnouncedDigestTest(OnMemcached, test_files.AnnouncedDigestTest):
    pass


class FormTest(OnMemcached, test_files.FormTest):
    pass


class LimitTest(OnMemcached, test_files.LimitTest):
    pass


class OtherHashTest(OnMemcached, test_files.OtherHashTest):
    pass


class RepositoriesTest(OnMemcached, test_repositories.RepositoriesTest):
    pass


class ListingTest(OnMemcached):
    def test_listing_answers_501(self) -> None:
        self.put("/data/pets", TEA)

        for path in ("/data", "/data/pets"):
            self.assertEqual(501, self.get(path).status)


class LargestObjectTest(OnMemcached):
    def test_object_of_50_mib_is_stored_and_one_byte_more_answers_413(self) -> None:
        data = os.urandom(MAX_SIZE)

        stored = json.loads(self.post("/", data).body)
        fetched = self.get(f"/{stored['hash']}")
        self.delete(f"/{stored['hash']}")
        refused = [self.post("/", data + b"!").status, self.post("/", iter([data, b"!"])).status]

        self.assertEqual({"hash": hashlib.sha256(data).hexdigest(), "size": MAX_SIZE}, stored)
        self.assertTrue(fetched.body == data)
        self.assertEqual([413, 413], refused)
        self.assert_stored(0)


class DamageTest(OnMemcached):
    def setUp(self) -> None:
        super().setUp()
        self.data = os.urandom(4 * CHUNK_SIZE)
        self.path = "/" + json.loads(self.post("/", self.data).body)["hash"]
        self.memcached.client.delete(self.memcached.chunk_keys()[2])

    def test_damaged_object_answers_500_before_its_first_byte(self) -> None:
        self.announce("answering 500: object .*: The object is damaged: chunk 3 of 4 is missing")
        for fields in ({}, {"Range": "bytes=0-9"}, {"If_None_Match": '"other"'}):
            with self.subTest(fields=fields):
                answer = self.get(self.path, **fields)

                self.assertEqual(500, answer.status)
                self.assertEqual("Corrupt Object", json.loads(answer.body)["error"])

    def test_upload_of_the_same_bytes_heals_a_damaged_object(self) -> None:
        announced = f"/?hash={self.path[1:]}"
        for path, fields in (("/", {}), ("/", {"If_None_Match": "*"}), (announced, {"If_None_Match": "*"})):
            with self.subTest(path=path, fields=fields):
                self.memcached.client.delete(self.memcached.chunk_keys()[0])

                self.assertEqual(200, self.post(path, self.data, **fields).status)

                self.assertTrue(self.get(self.path).body == self.data)
        self.assertEqual(412, self.post("/", self.data, If_None_Match="*").status)

    def test_damaged_object_can_be_removed(self) -> None:
        self.assertEqual(200, self.delete(self.path).status)
        self.assertEqual(404, self.get(self.path).status)
        self.assert_stored(0)


class UnreachableTest(OnMemcached):
    threads = 4

    def test_unreachable_server_answers_503_and_recovers(self) -> None:
        self.post("/", TEA)
        self.memcached.kill()

        answers = [self.post("/", TEA), self.get(f"/{TEA_HASH}"), self.delete(f"/{TEA_HASH}")]
        self.memcached.start()

        self.assertEqual([503] * 3, [answer.status for answer in answers])
        self.assertTrue(all(int(answer.fields["retry-after"]) > 0 for answer in answers))
        self.assertEqual(404, self.get(f"/{TEA_HASH}").status)
        self.assertEqual(200, self.post("/", TEA).status)
        self.assertEqual(TEA, self.get(f"/{TEA_HASH}").body)

    def test_hanging_server_answers_503_in_time_and_delays_no_other_request(self) -> None:
        self.post("/", TEA)
        self.wait_for_memcached(TIMEOUT)
        self.memcached.hang()
        answers: dict[int, Answer] = {}

        def ask(number: int) -> None:
            ask_by = (lambda: self.post("/", TEA), lambda: self.get(f"/{TEA_HASH}"))[number % 2]
            answers[number] = ask_by()

        # Ten times as many as there are threads. If each thread waited for each request, the last clients would give
        # up: they would have to wait for 20 s.
        clients = [threading.Thread(target=ask, args=(number,)) for number in range(40)]
        for client in clients:
            client.start()
        health = [self.get("/-/health").status for _ in range(20)]
        for client in clients:
            client.join(PATIENCE)

        self.assertEqual([200] * 20, health)
        self.assertEqual([503] * 40, [answer.status for answer in answers.values()])
        self.memcached.wake()
        self.wait_for_memcached(PATIENCE)
        self.assertEqual(TEA, self.get(f"/{TEA_HASH}").body)

    def test_upload_during_a_restart_of_the_server_answers_503_and_not_507(self) -> None:
        connection = self.connect()
        connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (4 * CHUNK_SIZE))
        connection.sendall(bytes(3 * CHUNK_SIZE))
        self.wait_until("chunks are there", lambda: len(self.memcached.chunk_keys()) == 3)

        self.memcached.kill()
        self.memcached.start()
        connection.sendall(bytes(CHUNK_SIZE))
        answer = read_answer(connection)

        self.assertEqual(503, answer.status)
        self.assertGreater(int(answer.fields["retry-after"]), 0)
        self.assertIn("restarted", json.loads(answer.body)["message"])
        self.assert_stored(0)

    def test_upload_to_a_hanging_server_answers_503(self) -> None:
        connection = self.connect()
        connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % MAX_SIZE)
        connection.sendall(bytes(3 * CHUNK_SIZE))
        self.wait_until("chunks are there", lambda: len(self.memcached.chunk_keys()) == 3)

        self.wait_for_memcached(TIMEOUT)
        self.memcached.hang()
        connection.sendall(bytes(2 * CHUNK_SIZE))
        answer = read_answer(connection)

        self.assertEqual(503, answer.status)
        self.assertIn("retry-after", answer.fields)


class SlowReadersTest(OnMemcached):
    """Stalled readers hold memory; other readers wait for it, and complete."""

    config = {"memory": 20_000_000}
    threads = 3

    @property
    def store(self) -> MemcachedStore:
        store = self.services.store
        assert isinstance(store, MemcachedStore)
        return store

    def test_readers_over_the_memory_limit_wait(self) -> None:
        data = os.urandom(8_000_000)
        path = "/" + json.loads(self.post("/", data).body)["hash"]
        stalled = [self.connect() for _ in range(2)]
        for connection in stalled:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            connection.recv(1000)

        waiting = threading.Thread(target=lambda: bodies.append(self.get(path).body))
        bodies: list[bytes] = []
        waiting.start()
        self.post("/", TEA)
        self.assertEqual(TEA, self.get(f"/{TEA_HASH}").body)
        for connection in stalled:
            connection.close()
        waiting.join(PATIENCE)

        self.assertTrue(bodies == [data])

    def test_reader_with_memory_gets_a_thread_while_all_others_wait_for_memory(self) -> None:
        data = os.urandom(19_000_000)
        path = "/" + json.loads(self.post("/", data).body)["hash"]
        slow = self.connect()
        slow.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        beginning = slow.recv(1000)
        bodies: list[bytes] = []
        others = [threading.Thread(target=lambda: bodies.append(self.get(path).body)) for _ in range(self.threads)]
        for other in others:
            other.start()
        self.wait_until("all threads wait", lambda: len(self.store._budget._queue) == self.threads)

        whole = beginning + read_all(slow)
        for other in others:
            other.join(PATIENCE)

        self.assertTrue(whole.endswith(data))
        self.assertTrue(bodies == [data] * self.threads)

    def test_many_concurrent_readers_all_complete(self) -> None:
        data = os.urandom(8_000_000)
        path = "/" + json.loads(self.post("/", data).body)["hash"]

        self.assertEqual([True] * 16, in_threads(16, lambda _: self.get(path).body == data))
