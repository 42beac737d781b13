"""Faults between a server and its memcached: none there, one that hangs, lost chunks, and readers that hold memory."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from typing import Any

from filestoraged.store.memcached.manifest import CHUNK_SIZE
from filestoraged.store.memcached.store import MemcachedStore
from tests.store.memcached.servers import Memcached, start_memcached
from tests.support import PATIENCE, Answer, ServerCase, read_all

TEA = b"tea"
TEA_HASH = hashlib.sha256(TEA).hexdigest()

# The timeout of the server's store, in seconds.
TIMEOUT = 2.0


class MemcachedServerCase(ServerCase):
    """Each test has a memcached of its own."""

    memcached: Memcached

    def setUp(self) -> None:
        self.memcached = start_memcached(self, "-m", "256")
        self.config = {**self.config, "memcached": (self.memcached.address,)}
        self.before_start()
        super().setUp()

    def before_start(self) -> None:
        """Called when memcached runs, and the server does not."""

    @property
    def store(self) -> MemcachedStore:
        store = self.services.store
        assert isinstance(store, MemcachedStore)
        return store

    def stored(self, data: bytes) -> str:
        """Store an object. Returns its path."""
        return "/" + str(json.loads(self.post("/", data).body)["hash"])


class WithoutServerTest(MemcachedServerCase):
    def before_start(self) -> None:
        self.memcached.kill()

    def test_server_starts_without_memcached_logs_it_once_answers_503_and_recovers(self) -> None:
        lines = [line for line in self.log_lines() if "memcached" in line and "starting without" in line]
        refused = [self.post("/", TEA), self.get(f"/{TEA_HASH}"), self.delete(f"/{TEA_HASH}")]
        self.memcached.start()

        found = [self.get(f"/{TEA_HASH}").status, self.post("/", TEA).status, self.get(f"/{TEA_HASH}").status]

        self.assertEqual(1, len(lines))
        self.assertIn(self.memcached.address, lines[0])
        self.assertEqual([503] * 3, [answer.status for answer in refused])
        self.assertTrue(all(int(answer.fields["retry-after"]) > 0 for answer in refused))
        self.assertEqual([404, 200, 200], found)


class HangingServerTest(MemcachedServerCase):
    threads = 4

    def test_hanging_server_answers_503_in_time_and_delays_no_other_request(self) -> None:
        self.post("/", TEA)
        self.wait_for_memcached(TIMEOUT)
        self.memcached.hang()
        answers: dict[int, Answer] = {}

        def ask(number: int) -> None:
            answers[number] = self.post("/", TEA) if number % 2 else self.get(f"/{TEA_HASH}")

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

    def wait_for_memcached(self, seconds: float) -> None:
        """Let the store wait so long for the server, on new connections."""
        (server,) = self.store.pool.servers
        server.close()
        server._timeout = server._connect_timeout = seconds


class DamageTest(MemcachedServerCase):
    def setUp(self) -> None:
        super().setUp()
        self.data = os.urandom(4 * CHUNK_SIZE)
        self.path = self.stored(self.data)
        self.lose_chunk(2)

    def lose_chunk(self, number: int) -> None:
        client: Any = self.memcached.client
        client.delete(self.memcached.chunk_keys()[number])

    def test_damaged_object_answers_500_before_its_first_byte(self) -> None:
        self.announce("answering 500: object .*: The object is damaged: chunk 3 of 4 is missing")
        for fields in ({}, {"Range": "bytes=0-9"}, {"If_None_Match": '"other"'}):
            with self.subTest(fields=fields):
                answer = self.get(self.path, **fields)

                self.assertEqual((500, "Corrupt Object"), (answer.status, json.loads(answer.body)["error"]))

    def test_upload_of_the_same_bytes_heals_a_damaged_object(self) -> None:
        announced = f"/?hash={self.path[1:]}"
        for path, fields in (("/", {}), ("/", {"If_None_Match": "*"}), (announced, {"If_None_Match": "*"})):
            with self.subTest(path=path, fields=fields):
                self.lose_chunk(0)

                self.assertEqual(200, self.post(path, self.data, **fields).status)

                self.assertTrue(self.get(self.path).body == self.data)
        self.assertEqual(412, self.post("/", self.data, If_None_Match="*").status)


class SlowReadersTest(MemcachedServerCase):
    """Stalled readers hold memory; other readers wait for it, and complete."""

    config = {"memory": 20_000_000}
    threads = 3

    def test_readers_over_the_memory_limit_wait(self) -> None:
        data = os.urandom(8_000_000)
        path = self.stored(data)
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
        path = self.stored(data)
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
