"""Clients that are slow, silent, greedy or many hold nobody up, lose nothing, and leave nothing behind."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
import time
from typing import List, Tuple

from filestoraged.web.limits import Limits
from tests.support import Answer, ServerCase, in_threads, read_all, read_answer, split_answer

HEALTH = b"GET /-/health HTTP/1.1\r\nHost: x\r\n\r\n"
UPLOAD = b"POST / HTTP/1.1\r\nHost: x\r\nAccept: text/plain\r\nContent-Length: %d\r\n\r\n"

MANY = 20


def get(digest: str) -> bytes:
    return f"GET /{digest} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


def threads_named(name: str) -> int:
    return sum(thread.name == name for thread in threading.enumerate())


class SlowCase(ServerCase):
    def assert_serving_at_once(self) -> None:
        started = time.monotonic()
        self.assertEqual(200, self.raw(HEALTH)[0].status)
        self.assertEqual(200, self.post("/", b"tea").status)
        self.assertLess(time.monotonic() - started, 1.0)


class NoThreadTest(SlowCase):
    """Ten times as many slow clients as threads."""

    threads = 2

    def test_heads_that_do_not_end_take_no_thread(self) -> None:
        slow = [self.connect() for _ in range(MANY)]
        for connection in slow:
            connection.sendall(HEALTH[:20])

        self.assert_serving_at_once()

        for connection in slow:
            connection.sendall(HEALTH[20:])
            self.assertEqual(200, read_answer(connection).status)

    def test_bodies_that_pause_take_no_thread_and_arrive_whole(self) -> None:
        datas = [os.urandom(3_000_000) for _ in range(MANY)]
        slow = [self.connect() for _ in datas]
        for connection, data in zip(slow, datas):
            connection.sendall(UPLOAD % len(data) + data[:2_000_000])

        self.assert_serving_at_once()
        self.wait_until("no thread hashes", lambda: threads_named("hash") == 0)

        for connection, data in zip(slow, datas):
            connection.sendall(data[2_000_000:])
            self.assertEqual(hashlib.sha256(data).hexdigest(), read_answer(connection).body.decode().strip())

    def test_readers_that_pause_take_no_thread_and_get_everything(self) -> None:
        data = os.urandom(20_000_000)
        digest = self.post("/", data, Accept="text/plain").body.decode().strip()
        slow = [self.connect() for _ in range(MANY)]
        for connection in slow:
            connection.sendall(get(digest)[:-2] + b"Connection: close\r\n\r\n")

        self.assert_serving_at_once()

        for connection in slow:
            answer, rest = split_answer(read_all(connection))
            self.assertEqual((200, b""), (answer.status, rest))
            self.assertEqual(digest, hashlib.sha256(answer.body).hexdigest())

    def test_a_client_that_asks_on_without_reading_gets_every_answer_in_its_order(self) -> None:
        data = os.urandom(50_000)
        digest = self.post("/", data, Accept="text/plain").body.decode().strip()
        connection = self.connect()
        for _ in range(300):
            connection.sendall(get(digest))
            connection.sendall(get("0" * 64))
        connection.sendall(HEALTH)

        self.assert_serving_at_once()

        received = b""
        answers: List[int] = []
        for number in range(601):
            answer, received = read_answer_fast(connection, received)
            answers.append(answer.status)
            if number % 2 == 0 and number < 600:
                self.assertEqual(data, answer.body)
        self.assertEqual([200, 404] * 300 + [200], answers)

    def test_many_requests_in_one_packet_are_answered_in_their_order(self) -> None:
        connection = self.connect()

        connection.sendall((HEALTH + get("0" * 64)) * 500)

        received, statuses = b"", []
        for _ in range(1000):
            answer, received = read_answer_fast(connection, received)
            statuses.append(answer.status)
        self.assertEqual([200, 404] * 500, statuses)

    def test_uploads_and_downloads_beyond_the_threads_take_turns(self) -> None:
        data = os.urandom(9_000_000)
        digest = self.post("/", data, Accept="text/plain").body.decode().strip()

        def store_or_fetch(number: int) -> bool:
            if number % 2:
                return self.get(f"/{digest}").body == data
            own = data + bytes([number])
            answer = self.post("/", own, Accept="text/plain")
            return answer.body.decode().strip() == hashlib.sha256(own).hexdigest()

        self.assertEqual([True] * 16, in_threads(16, store_or_fetch))


class CutOffTest(SlowCase):
    threads = 2
    limits = Limits(head=0.3, body=0.3, send=0.3, idle=0.3, farewell=0.3, notice=0.02, last_call=0.1)

    def test_all_that_are_silent_for_too_long_are_cut_off(self) -> None:
        data = os.urandom(20_000_000)
        digest = self.post("/", data, Accept="text/plain").body.decode().strip()
        heads, bodies, readers = ([self.connect() for _ in range(MANY)] for _ in range(3))
        for number in range(MANY):
            heads[number].sendall(HEALTH[:20])
            bodies[number].sendall(UPLOAD % 10 + b"half")
            readers[number].sendall(get(digest))

        for connection in [*heads, *bodies]:
            self.assertEqual(408, read_answer(connection).status)
        self.wait_until("every reader is cut off", lambda: self.lines_with("GET", 200) == MANY)

        self.assertEqual(MANY, self.lines_with("POST", 408))
        self.wait_until("no connection is left", lambda: self.room.count == 0)

    def test_a_reader_that_takes_little_is_not_cut_off(self) -> None:
        data = os.urandom(20_000_000)
        digest = self.post("/", data, Accept="text/plain").body.decode().strip()
        connection = self.connect()
        connection.sendall(get(digest)[:-2] + b"Connection: close\r\n\r\n")
        pause = threading.Event()

        received = b""
        # Too little at a time for the kernel to call it room, and longer than a silent one is waited for.
        for _ in range(20):
            received += connection.recv(100_000)
            pause.wait(0.05)
        received += read_all(connection)

        self.assertEqual(digest, hashlib.sha256(split_answer(received)[0].body).hexdigest())

    def lines_with(self, method: str, status: int) -> int:
        lines = "\n".join(self.log_lines()).splitlines()
        return sum(f" {method} " in line and f" {status} " in line for line in lines)


class RestTest(SlowCase):
    limits = Limits(thread=0.2, notice=0.02, last_call=0.1)

    def test_threads_end_when_nothing_is_to_be_done(self) -> None:
        before = threads_named("request")
        in_threads(8, lambda number: self.post("/", bytes([number])))

        self.wait_until("the threads are gone", lambda: threads_named("request") <= before)

        self.assertEqual(200, self.post("/", b"tea").status)


class NoRoomTest(SlowCase):
    connections = 5

    def test_clients_beyond_the_limit_are_told_to_come_again(self) -> None:
        guests = [self.connect() for _ in range(5)]
        for connection in guests:
            connection.sendall(HEALTH)
            read_answer(connection)

        received = read_all(self.connect())
        answer, rest = split_answer(received)

        self.assertEqual((503, b""), (answer.status, rest))
        self.assertEqual("close", answer.fields["connection"])
        self.assertGreater(int(answer.fields["retry-after"]), 0)
        for connection in guests:
            connection.sendall(HEALTH)
            self.assertEqual(200, read_answer(connection).status)

    def test_a_place_that_comes_free_is_given_away(self) -> None:
        guests = [self.connect() for _ in range(5)]
        for connection in guests:
            connection.sendall(HEALTH)
            read_answer(connection)
        guests[0].close()

        def served() -> bool:
            connection = self.connect()
            connection.sendall(HEALTH)
            answer = read_answer(connection)
            connection.close()
            return answer.status == 200

        self.wait_until("a new client is served", served)

    def test_far_beyond_the_limit_nobody_is_told(self) -> None:
        crowd = [self.connect() for _ in range(400)]

        told = sum(b" 503 " in read_all(connection) for connection in crowd[200:])

        self.assertLess(told, 200)
        for connection in crowd:
            connection.close()
        self.wait_until("all are gone", lambda: self.room.count == 0)

        self.assertEqual(200, self.raw(HEALTH)[0].status)


def read_answer_fast(connection: socket.socket, received: bytes) -> Tuple[Answer, bytes]:
    """Take the next answer, of bytes that came before and of those that come."""
    while True:
        head, end, rest = received.partition(b"\r\n\r\n")
        if end:
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            if len(rest) >= length:
                return split_answer(received)
        data = connection.recv(65536)
        if not data:
            raise AssertionError("closed within an answer")
        received += data
