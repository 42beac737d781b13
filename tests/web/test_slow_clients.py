"""Slow, silent and numerous clients, in virtual time: they delay no others, lose no bytes, and leave nothing behind."""

from __future__ import annotations

import hashlib
import http.client
import io
import json
import os
import tracemalloc
from typing import Any

from filestoraged.web.admission import _MAX_REFUSED
from filestoraged.web.limits import Limits
from filestoraged.web.transport import WRITABLE
from tests.support import read_all, read_answer, split_answer
from tests.web.simulation import Client, SimulatedCase

HEALTH = b"GET /-/health HTTP/1.1\r\nHost: localhost\r\n\r\n"
UPLOAD = b"POST / HTTP/1.1\r\nHost: localhost\r\nAccept: text/plain\r\nContent-Length: %d\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
SET = b"POST /kv/set HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"

MANY = 20


def get(digest: str) -> bytes:
    return f"GET /{digest} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


class NoThreadTest(SimulatedCase):
    """Many slow clients at a time: while one pauses, no thread works for it. `test_connection` has real threads."""

    def assert_serving_at_once(self) -> None:
        """Assert that a request is answered while others are slow, and that no thread waits for these."""
        self.assertFalse(self.machine.pool.busy)
        self.assertEqual(200, self.raw(HEALTH)[0].status)
        self.assertEqual(200, self.post("/", b"tea").status)

    def test_incomplete_heads_take_no_thread(self) -> None:
        slow = [self.connect() for _ in range(MANY)]
        for connection in slow:
            connection.sendall(HEALTH[:20])

        self.assert_serving_at_once()

        for connection in slow:
            connection.sendall(HEALTH[20:])
            self.assertEqual(200, read_answer(connection).status)

    def test_bodies_that_pause_take_no_thread_and_are_stored_whole(self) -> None:
        datas = [os.urandom(1_000_000) for _ in range(MANY)]
        slow = [self.connect() for _ in datas]
        for connection, data in zip(slow, datas):
            connection.sendall(UPLOAD % len(data) + data[:600_000])

        self.assert_serving_at_once()

        for connection, data in zip(slow, datas):
            connection.sendall(data[600_000:])
            self.assertEqual(hashlib.sha256(data).hexdigest(), read_answer(connection).body.decode().strip())

    def test_uploads_that_pause_after_a_byte_hold_no_buffer(self) -> None:
        slow = [self.connect() for _ in range(100)]
        for connection in slow:
            connection.sendall(UPLOAD % 10_000_000 + b"x")
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)

        for connection in slow:
            connection.sendall(b"x")

        # A buffer of 512 KiB for each would be 50 MiB.
        self.assertLess(tracemalloc.get_traced_memory()[0], 2 * 1024 * 1024)

    def test_client_that_sends_requests_without_reading_gets_every_response_in_order(self) -> None:
        data = os.urandom(50_000)
        digest = self.post("/", data, Accept="text/plain").body.decode().strip()
        connection = self.connect()
        connection.connection.room = 100_000
        for _ in range(30):
            connection.sendall(get(digest) + get("0" * 64))
        connection.sendall(HEALTH)

        self.assert_serving_at_once()

        received = connection.makefile("rb")
        answers = [read_response(received) for _ in range(61)]
        self.assertEqual([200, 404] * 30 + [200], [status for status, _ in answers])
        self.assertEqual({data}, {body for _, body in answers[:60:2]})

    def test_many_requests_in_one_packet_are_answered_in_order(self) -> None:
        connection = self.connect()

        connection.sendall((HEALTH + get("0" * 64)) * 500)

        received = connection.makefile("rb")
        self.assertEqual([200, 404] * 500, [read_response(received)[0] for _ in range(1000)])


def read_response(received: io.BufferedReader) -> tuple[int, bytes]:
    """The status and the body of the next response."""
    status = int(received.readline().split()[1])
    fields = http.client.parse_headers(received)
    return status, received.read(int(fields["Content-Length"]))


class CutOffTest(SimulatedCase):
    interfaces = ("files", "kv")

    def store(self, size: int) -> tuple[bytes, str]:
        data = os.urandom(size)
        return data, self.post("/", data, Accept="text/plain").body.decode().strip()

    def test_connection_is_closed_when_it_was_idle_for_60_seconds_used_or_not(self) -> None:
        for used in (False, True):
            with self.subTest(used=used):
                connection = self.connect()
                if used:
                    self.pass_time(50)
                    connection.sendall(HEALTH)
                    read_answer(connection)

                self.pass_time(59)
                before = connection.is_closed
                self.pass_time(1)

                self.assertEqual((False, True), (before, connection.is_closed))

    def test_head_that_is_not_complete_20_seconds_after_its_first_byte_answers_408(self) -> None:
        connection = self.connect()
        connection.sendall(b"GET /")
        for _ in range(19):
            self.pass_time(1)
            connection.sendall(b"a")
        before = bytes(connection.connection.output)

        self.pass_time(1)

        answer = read_answer(connection)
        self.assertEqual((b"", 408, "close"), (before, answer.status, answer.fields["connection"]))

    def test_empty_lines_do_not_keep_a_connection_beyond_its_deadline(self) -> None:
        connection = self.connect()

        for _ in range(59):
            self.pass_time(1)
            connection.sendall(b"\r\n")
        before = connection.is_closed
        self.pass_time(1)

        self.assertEqual((False, True), (before, connection.is_closed))

    def test_body_that_is_silent_for_30_seconds_answers_408_and_is_not_stored(self) -> None:
        for head in (UPLOAD % 10 + b"half", CHUNKED + b"3\r\n", SET % 10 + b"{"):
            with self.subTest(head=head):
                connection = self.connect()
                connection.sendall(head)
                self.pass_time(29)
                before = bytes(connection.connection.output)

                self.pass_time(1)

                answer = read_answer(connection)
                self.assertEqual((b"", 408, "close"), (before, answer.status, answer.fields["connection"]))
                self.assert_stored(0)
                self.assertEqual(0, self.server_metrics.gauges().in_flight)
                # It does not close: the farewell ends all the same.
                self.pass_time(10)
                self.assertEqual(0, self.connection_limit.count)
        self.assertEqual([" 408 " in line for line in self.access_lines()], [True] * 3)

    def test_body_that_is_never_silent_is_stored_after_any_time(self) -> None:
        connection = self.connect()
        connection.sendall(UPLOAD % 10)
        for _ in range(10):
            self.pass_time(5)
            connection.sendall(b"x")

        self.assertEqual(200, read_answer(connection).status)

    def test_body_below_500_bytes_a_second_answers_408_after_60_seconds_and_is_not_stored(self) -> None:
        chunk = b"a0\r\n" + b"x" * 160 + b"\r\n"
        for head, piece in ((UPLOAD % 100_000, b"x" * 160), (CHUNKED, chunk), (SET % 60_000, b"x" * 160)):
            with self.subTest(head=head):
                connection = self.connect()
                connection.sendall(head)
                for _ in range(59):
                    self.pass_time(1)
                    connection.sendall(piece)
                before = bytes(connection.connection.output)

                self.pass_time(1)
                connection.sendall(piece)

                answer = read_answer(connection)
                self.assertEqual((b"", 408, "close"), (before, answer.status, answer.fields["connection"]))
                self.assertIn("500 bytes a second", answer.body.decode())
                self.assert_stored(0)

    def test_body_above_the_least_rate_is_stored_after_any_time(self) -> None:
        connection = self.connect()
        connection.sendall(UPLOAD % 60_000)
        for _ in range(100):
            self.pass_time(1)
            connection.sendall(b"x" * 600)

        self.assertEqual(200, read_answer(connection).status)

    def test_rate_is_judged_on_a_thread_that_always_receives_something(self) -> None:
        connection = self.connect()
        drip(connection, lambda count: count < 1000)

        connection.sendall(UPLOAD % 1_000_000)

        answer = read_answer(connection)
        self.assertEqual(408, answer.status)
        self.assertIn("500 bytes a second", answer.body.decode())

    def test_client_that_takes_nothing_of_a_response_for_30_seconds_is_cut_off(self) -> None:
        for size in (50_000, 20_000_000):
            with self.subTest(size=size):
                _, digest = self.store(size)
                connection = self.connect()
                connection.connection.room = 1000
                connection.sendall(get(digest))
                self.pass_time(29)
                before = connection.is_closed

                self.pass_time(1)

                self.assertEqual((False, True), (before, connection.is_closed))
                self.assertEqual(1, sum(f" GET /{digest} 200 " in line for line in self.access_lines()))

    def test_reader_that_takes_a_little_now_and_then_receives_everything(self) -> None:
        data, digest = self.store(100_000)
        connection = self.connect()
        # Too little at a time for the kernel to call it room.
        connection.connection.room = 5000
        connection.sendall(get(digest)[:-2] + b"Connection: close\r\n\r\n")

        received = b""
        for _ in range(205):
            self.pass_time(15)
            received += connection.recv(500)

        self.assertEqual(data, split_answer(received)[0].body)

    def test_refused_client_that_sends_without_end_is_cut_off_after_30_seconds(self) -> None:
        connection = self.connect()
        connection.sendall(b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000000\r\n\r\n")
        for _ in range(29):
            self.pass_time(1)
            connection.sendall(b"x" * 10_000)
        before = connection.is_closed

        self.pass_time(1)

        self.assertEqual((False, True), (before, connection.is_closed))


class ThreadTest(SimulatedCase):
    def test_upload_that_is_never_silent_lets_others_that_wait_have_its_thread(self) -> None:
        pool = self.machine.pool
        pool.is_saturated = True
        upload, other = self.connect(), self.connect()
        drip(upload, lambda count: count < 100)
        upload.connection.input = UPLOAD % 1_000_000
        other.connection.input = UPLOAD % 1_000_000
        self.server.run_round(0)
        order = list(pool._jobs)

        pool.run()

        self.assertEqual(order[::-1], list(pool._jobs))


def drip(client: Client, goes_on: Any) -> None:
    """From the second read on, let a byte come whenever the server reads, 10 ms later, as long as `goes_on` says so."""
    connection, clock = client.connection, client.connection.machine.clock
    receive, counts = connection.recv, iter(range(1_000_000_000))

    def receive_slowly(size: int, flags: int = 0) -> bytes:
        if connection.input or not goes_on(next(counts)):
            return receive(size, flags)
        clock.advance(0.1)
        return b"x"

    connection.recv = receive_slowly  # type: ignore[method-assign]


class UnreadTest(SimulatedCase):
    interfaces = ("files", "kv")
    limits = Limits(unread_bytes=3_500_000)
    value = "x" * 1_000_000

    def ask(self, key: str) -> Client:
        """Ask for a value, and read nothing."""
        connection: Client = self.connect()
        connection.connection.room = 4096
        connection.sendall(f"GET /kv/{key} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        return connection

    def store_values(self, keys: str) -> None:
        for key in keys:
            self.assertEqual(201, self.post("/kv/set", json.dumps({key: self.value}).encode()).status)
        self.assertEqual(204, self.post("/kv/commit", b"").status)

    def test_slow_readers_that_fill_memory_are_cut_off_in_the_order_of_their_requests(self) -> None:
        self.store_values("abcde")
        readers = []
        for key in "abcde":
            readers.append(self.ask(key))
            self.machine.clock.advance(0.01)

        self.pass_time(0.5)

        self.assertEqual([True, True, False, False, False], [reader.is_closed for reader in readers])
        self.assertIn("cutting slow clients off: more than 3500000 bytes of responses are unread", self.log_lines())
        for reader in readers[2:]:
            self.assertGreater(len(read_all(reader)), 1_000_000)

    def test_client_that_reads_none_of_many_small_responses_is_cut_off(self) -> None:
        self.value = "x" * 60_000
        self.store_values("a")
        # The loop sends it from the cache from now on, and keeps what the kernel does not take.
        self.get("/kv/a")
        connection = self.connect()
        connection.connection.room = 100_000
        for _ in range(3):
            connection.sendall(b"GET /kv/a HTTP/1.1\r\nHost: localhost\r\n\r\n")
        (waiting,) = [each for each in self.context.poller.all() if each.transport.awaits == WRITABLE]
        unread = len(waiting.unread)
        self.server._limits = Limits(unread_bytes=unread - 1)

        self.pass_time(0.5)

        self.assertGreater(unread, 10_000)
        self.assertTrue(connection.is_closed)

    def test_slow_readers_of_one_cached_value_count_once(self) -> None:
        self.store_values("a")
        readers = [self.ask("a") for _ in range(8)]

        self.pass_time(1)

        self.assertEqual([False] * 8, [reader.is_closed for reader in readers])
        self.assertGreater(min(len(read_all(reader)) for reader in readers), 1_000_000)


class LimitedCase(SimulatedCase):
    connections = 5

    def busy(self, count: int) -> list[Client]:
        """Open connections, each with half an upload."""
        connections = [self.connect() for _ in range(count)]
        for connection in connections:
            connection.sendall(UPLOAD % 8 + b"half")
        self.assertEqual(count, self.server_metrics.gauges().in_flight)
        return connections

    def is_served(self, connection: Client) -> bool:
        """Whether a request on the connection is answered."""
        self.machine.clock.advance(0.01)
        try:
            connection.sendall(HEALTH)
            return b" 200 " in connection.recv(65536)
        except (BrokenPipeError, ConnectionResetError):
            return False


class FullLimitTest(LimitedCase):
    def refused(self) -> Client:
        """A new connection that waits for its place until it gets none."""
        connection: Client = self.connect()
        self.pass_two_checks()
        return connection

    def pass_two_checks(self) -> None:
        """By then, no worker has had a place for the connections that wait."""
        for _ in range(2):
            self.pass_time(0.5)

    def test_new_connection_evicts_the_longest_idle_one(self) -> None:
        guests = self.greeted(5)
        self.is_served(guests[0])

        served = self.is_served(self.connect())

        self.assertTrue(served)
        self.assertEqual([True, False, True, True, True], [self.is_served(guest) for guest in guests])
        self.assertEqual(5, self.connection_limit.count)

    def test_idle_connection_whose_next_request_has_arrived_is_not_evicted(self) -> None:
        guests = self.greeted(5)
        self.is_served(guests[0])
        self.machine.clock.advance(0.01)
        # The second is idle longest. The loop learns of the new connection before it learns of this.
        guests[1].connection.input = HEALTH

        served = self.is_served(self.connect())

        self.assertTrue(served)
        self.assertEqual([False, False, True, False, False], [guest.is_closed for guest in guests])

    def test_many_new_connections_evict_idle_ones_in_order(self) -> None:
        guests = self.greeted(5)

        newcomers = []
        for _ in range(7):
            newcomers.append(self.connect())
            self.pass_time(0.01)

        self.assertEqual([b""] * 5, [read_all(guest) for guest in guests])
        self.assertEqual([b""] * 2, [read_all(newcomer) for newcomer in newcomers[:2]])
        self.assertEqual([True] * 5, [self.is_served(newcomer) for newcomer in newcomers[2:]])

    def test_connection_with_a_request_in_flight_keeps_its_place(self) -> None:
        uploads, (guest,) = self.busy(4), self.greeted(1)

        served = self.is_served(self.connect())

        self.assertTrue(served)
        self.assertEqual(b"", read_all(guest))
        for upload in uploads:
            upload.sendall(b"half")
            self.assertEqual(200, read_answer(upload).status)

    def test_new_connection_without_an_idle_one_gets_503_with_retry_after(self) -> None:
        uploads = self.busy(5)

        answer, rest = split_answer(read_all(self.refused()))

        self.assertEqual((503, b""), (answer.status, rest))
        self.assertEqual("close", answer.fields["connection"])
        self.assertGreater(int(answer.fields["retry-after"]), 0)
        for upload in uploads:
            upload.sendall(b"half")
            self.assertEqual(200, read_answer(upload).status)

    def test_free_place_is_given_to_a_new_connection(self) -> None:
        uploads = self.busy(5)
        uploads[0].close()

        self.assertTrue(self.is_served(self.connect()))

    def test_refused_connections_take_no_place(self) -> None:
        uploads = self.busy(5)
        refused = [self.connect() for _ in range(20)]
        self.pass_two_checks()
        for connection in refused:
            self.assertIn(b" 503 ", read_all(connection))
        # They do not close, so that the server still waits for them.
        uploads[0].close()

        self.assertTrue(self.is_served(self.connect()))

    def test_connections_far_over_the_limit_all_get_503_and_those_that_stay_open_are_bounded(self) -> None:
        self.busy(5)
        crowd = [self.connect() for _ in range(420)]

        self.pass_two_checks()
        told = [b" 503 " in read_all(connection) for connection in crowd]

        self.assertEqual([True] * 420, told)
        self.assertEqual(5, self.connection_limit.count)
        self.assertEqual(5 + _MAX_REFUSED, len(self.context.poller.all()))


class WaitingConnectionTest(LimitedCase):
    def test_connection_without_a_place_is_refused_at_the_second_check(self) -> None:
        self.busy(5)
        connection = self.connect()
        self.pass_time(0.5)
        before = bytes(connection.connection.output)

        self.pass_time(0.5)

        self.assertEqual((b"", True), (before, b" 503 " in read_all(connection)))

    def test_new_connection_is_served_when_another_becomes_idle(self) -> None:
        uploads = self.busy(5)
        newcomer = self.connect()
        newcomer.sendall(HEALTH)
        self.assertEqual(1, len(self.listener.waiting))

        uploads[0].sendall(b"half")

        self.assertEqual(200, read_answer(uploads[0]).status)
        self.pass_time(0.5)
        self.assertEqual(200, read_answer(newcomer).status)
        self.assertEqual(b"", read_all(uploads[0]))
