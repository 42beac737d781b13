"""Slow, silent and numerous clients: they delay no others, lose no bytes, and leave nothing behind."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import select
import socket
import threading
import time
from pathlib import Path
from unittest.mock import patch

from filestoraged.web.admission import _MAX_REFUSED, _MAX_WAITING
from filestoraged.web.limits import Limits
from filestoraged.web.transport import WRITABLE
from tests.daemon.process import running
from tests.support import PATIENCE, Answer, ServerCase, TempCase, in_threads, read_all, read_answer, split_answer

HEALTH = b"GET /-/health HTTP/1.1\r\nHost: localhost\r\n\r\n"
UPLOAD = b"POST / HTTP/1.1\r\nHost: localhost\r\nAccept: text/plain\r\nContent-Length: %d\r\n\r\n"

MANY = 20


def get(digest: str) -> bytes:
    return f"GET /{digest} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


def threads_named(name: str) -> int:
    return sum(thread.name == name for thread in threading.enumerate())


class SlowCase(ServerCase):
    def assert_serving_at_once(self) -> None:
        """Assert that a request is answered while others are slow."""
        self.assertEqual(200, self.raw(HEALTH)[0].status)
        self.assertEqual(200, self.post("/", b"tea").status)


class NoThreadTest(SlowCase):
    """Ten times as many slow clients as threads."""

    threads = 2

    def test_incomplete_heads_take_no_thread(self) -> None:
        slow = [self.connect() for _ in range(MANY)]
        for connection in slow:
            connection.sendall(HEALTH[:20])

        self.assert_serving_at_once()

        for connection in slow:
            connection.sendall(HEALTH[20:])
            self.assertEqual(200, read_answer(connection).status)

    def test_bodies_that_pause_take_no_thread_and_are_stored_whole(self) -> None:
        datas = [os.urandom(3_000_000) for _ in range(MANY)]
        slow = [self.connect() for _ in datas]
        for connection, data in zip(slow, datas):
            connection.sendall(UPLOAD % len(data) + data[:2_000_000])

        self.assert_serving_at_once()
        self.wait_until("no thread hashes", lambda: threads_named("hash") == 0)

        for connection, data in zip(slow, datas):
            connection.sendall(data[2_000_000:])
            self.assertEqual(hashlib.sha256(data).hexdigest(), read_answer(connection).body.decode().strip())

    def test_readers_that_pause_take_no_thread_and_receive_everything(self) -> None:
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

    def test_reader_that_takes_nothing_holds_less_than_1_mib_of_kernel_memory(self) -> None:
        digest = self.post("/", b"x" * 20_000_000, Accept="text/plain").body.decode().strip()
        connection = self.connect()
        connection.sendall(get(digest))
        poller = self.worker._server.context.poller

        self.wait_until("it waits for room", lambda: [each.transport.awaits for each in poller.all()] == [WRITABLE])

        (waiting,) = poller.all()
        self.assertLess(waiting.transport.sender.unread, 1024 * 1024)

    def test_client_that_sends_requests_without_reading_gets_every_response_in_order(self) -> None:
        data = os.urandom(50_000)
        digest = self.post("/", data, Accept="text/plain").body.decode().strip()
        connection = self.connect()
        for _ in range(300):
            connection.sendall(get(digest))
            connection.sendall(get("0" * 64))
        connection.sendall(HEALTH)

        self.assert_serving_at_once()

        received = b""
        answers: list[int] = []
        for number in range(601):
            answer, received = read_answer_fast(connection, received)
            answers.append(answer.status)
            if number % 2 == 0 and number < 600:
                self.assertEqual(data, answer.body)
        self.assertEqual([200, 404] * 300 + [200], answers)

    def test_many_requests_in_one_packet_are_answered_in_order(self) -> None:
        connection = self.connect()

        connection.sendall((HEALTH + get("0" * 64)) * 500)

        received, statuses = b"", []
        for _ in range(1000):
            answer, received = read_answer_fast(connection, received)
            statuses.append(answer.status)
        self.assertEqual([200, 404] * 500, statuses)

    def test_more_uploads_and_downloads_than_threads_all_complete(self) -> None:
        data = os.urandom(9_000_000)
        digest = self.post("/", data, Accept="text/plain").body.decode().strip()

        def store_or_fetch(number: int) -> bool:
            if number % 2:
                return self.get(f"/{digest}").body == data
            own = data + bytes([number])
            answer = self.post("/", own, Accept="text/plain")
            return answer.body.decode().strip() == hashlib.sha256(own).hexdigest()

        self.assertEqual([True] * 16, in_threads(16, store_or_fetch))


class UnreadTest(SlowCase):
    limits = Limits(unread_bytes=3_500_000, notice=0.02, last_call=0.1)
    value = "x" * 1_000_000

    def ask(self, key: str) -> socket.socket:
        """Ask for a value, and read no more than its first byte."""
        connection = socket.socket()
        self.addCleanup(connection.close)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(PATIENCE)
        connection.connect((self.bound.host, self.bound.port))
        connection.sendall(f"GET /kv/{key} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        self.assertEqual(b"H", connection.recv(1))
        return connection

    def store_values(self, keys: str) -> None:
        for key in keys:
            self.assertEqual(201, self.post("/kv/set", json.dumps({key: self.value}).encode()).status)
        self.assertEqual(204, self.post("/kv/commit", b"").status)

    def test_slow_readers_that_fill_memory_are_cut_off_in_the_order_of_their_requests(self) -> None:
        self.store_values("abcde")

        readers = [self.ask(key) for key in "abcde"]
        warning = "cutting slow clients off: more than 3500000 bytes of responses are unread"
        self.wait_until("two are cut off", lambda: self.connection_limit.count == 3)
        self.assertIn(warning, self.log_lines())
        received = [len(self.read_until_closed(reader)) for reader in readers]

        self.assertLess(max(received[:2]), 1_000_000)
        self.assertGreater(min(received[2:]), 1_000_000)

    def test_client_that_reads_none_of_many_small_responses_is_cut_off(self) -> None:
        self.value = "x" * 60_000
        self.store_values("a")
        # The loop sends it from the cache from now on, and keeps what the kernel does not take.
        self.get("/kv/a")
        connection = self.connect()

        answered = len(self.access_lines())
        while not any(each.transport.awaits == WRITABLE for each in self.worker._server.context.poller.all()):
            connection.sendall(b"GET /kv/a HTTP/1.1\r\nHost: localhost\r\n\r\n")
            answered += 1
            self.wait_until("it is answered", lambda: len(self.access_lines()) >= answered)  # noqa: B023
        self.worker._server._limits = self.limits._replace(unread_bytes=10_000)

        self.wait_until("it is cut off", lambda: self.connection_limit.count == 0)
        self.assertLess(len(self.read_until_closed(connection)), 100 * 60_000)

    def test_slow_readers_of_one_cached_value_count_once(self) -> None:
        self.store_values("a")

        readers = [self.ask("a") for _ in range(8)]
        self.wait_for_checks(3)

        self.assertGreater(min(len(self.read_until_closed(reader)) for reader in readers), 1_000_000)

    def wait_for_checks(self, count: int) -> None:
        """Wait until the server has looked so many times for clients to be cut off."""
        server, done = self.worker._server, threading.Semaphore(0)
        actions = server.service_actions

        def act() -> None:
            actions()
            done.release()

        with patch.object(server, "service_actions", act):
            for _ in range(count):
                self.assertTrue(done.acquire(timeout=PATIENCE))

    def read_until_closed(self, connection: socket.socket) -> bytes:
        try:
            return read_all(connection)
        except ConnectionResetError:
            return b""


class DripTest(SlowCase):
    """Uploads that never pause for as long as a thread waits."""

    threads = 2
    limits = Limits(linger=0.1, body_rate_from=PATIENCE, notice=0.02, last_call=0.1)

    def test_uploads_that_bring_a_byte_now_and_then_let_others_have_their_threads(self) -> None:
        uploads = [self.connect() for _ in range(4)]
        for upload in uploads:
            upload.sendall(UPLOAD % 1_000_000)
        self.over = threading.Event()
        dripping = threading.Thread(target=self.drip, args=(uploads,))
        dripping.start()
        try:
            self.wait_until("all threads receive", lambda: threads_named("request") == self.threads)
            statuses = [self.put("/data/pets", bytes(200_000)).status for _ in range(5)]
            self.assertTrue(dripping.is_alive())
        finally:
            self.over.set()
            dripping.join()

        self.assertEqual([201] * 5, statuses)

    def drip(self, uploads: list[socket.socket]) -> None:
        while not self.over.wait(0.01):
            for upload in uploads:
                upload.sendall(b"x")


class SlowUploadMemoryTest(TempCase):
    """In a daemon of its own, so that its memory is that of these clients alone."""

    clients = 500

    def test_uploads_that_pause_after_a_byte_hold_no_buffer(self) -> None:
        store = self.directory / "store"
        head = UPLOAD % 10_000_000
        with running("--workers", "1", "--threads", "2", "--store", str(store)) as daemon:
            before = daemon.resident()
            slow = [socket.create_connection(("127.0.0.1", daemon.ports[0]), PATIENCE) for _ in range(self.clients)]
            for sent, data in enumerate((head + b"x", b"x"), 1):
                for connection in slow:
                    connection.sendall(data)
                self.wait_until("all of it has come", lambda: self.staged(store) == sent * self.clients)  # noqa: B023
            grown = daemon.resident() - before
            for connection in slow:
                connection.close()

        # A buffer of 512 KiB for each would be 250 MiB.
        self.assertLess(grown, 10 * 1024 * 1024)

    def staged(self, store: Path) -> int:
        """Bytes of uploads received so far."""
        sizes = []
        for path in store.glob("staging/*/*"):
            # A file by which the daemon probes the directory is soon gone.
            with contextlib.suppress(FileNotFoundError):
                sizes.append(path.stat().st_size)
        return sum(sizes)


class CutOffTest(SlowCase):
    threads = 2
    # Without `idle`: it would run while a test has not sent its request yet.
    limits = Limits(head=0.3, body=0.3, send=0.3, farewell=0.3, notice=0.02, last_call=0.1)

    def stored(self, data: bytes) -> str:
        """Store an object without being cut off."""
        context = self.worker._server.context
        context.limits = Limits()
        digest = self.post("/", data, Accept="text/plain").body.decode().strip()
        context.limits = self.limits
        return digest

    def test_clients_silent_for_too_long_are_cut_off(self) -> None:
        data = os.urandom(20_000_000)
        digest = self.stored(data)
        heads, bodies, readers = ([self.connect() for _ in range(MANY)] for _ in range(3))
        for number in range(MANY):
            heads[number].sendall(HEALTH[:20])
            bodies[number].sendall(UPLOAD % 10 + b"half")
            readers[number].sendall(get(digest))

        for connection in [*heads, *bodies]:
            self.assertEqual(408, read_answer(connection).status)
        self.wait_until("every reader is cut off", lambda: self.lines_with("GET", 200) == MANY)

        self.wait_until("every upload is logged", lambda: self.lines_with("POST", 408) == MANY)
        self.wait_until("no connection is left", lambda: self.connection_limit.count == 0)

    def test_slow_reader_is_not_cut_off(self) -> None:
        data = os.urandom(20_000_000)
        digest = self.stored(data)
        self.worker._server.context.limits = self.limits._replace(send=2.0)

        received = next((each for each in (self.read_slowly(digest) for _ in range(10)) if each), b"")

        self.assertEqual(digest, hashlib.sha256(split_answer(received)[0].body).hexdigest())

    def read_slowly(self, digest: str) -> bytes:
        """Read for longer than a silent client is waited for. Nothing where this machine has made it a silent one."""
        connection = self.connect()
        connection.sendall(get(digest)[:-2] + b"Connection: close\r\n\r\n")
        pause = threading.Event()
        received = b""
        read = time.monotonic()
        # Too little at a time for the kernel to call it room.
        for _ in range(20):
            pause.wait(0.125)
            before, read = read, time.monotonic()
            if read - before > 1:
                return b""
            received += connection.recv(100_000)
        return received + read_all(connection)

    def lines_with(self, method: str, status: int) -> int:
        return sum(f" {method} " in line and f" {status} " in line for line in self.access_lines())


class BodyRateTest(SlowCase):
    """`test_request_body` tests when the rate is judged."""

    # More silence than the test takes, so that it is the rate that ends what is too slow.
    limits = Limits(body_rate=1000.0, body_rate_from=0.5, body=PATIENCE, notice=0.02, last_call=0.1)

    def drip(self, connection: socket.socket, piece: bytes) -> Answer:
        """Send a piece every 20 ms until there is an answer."""
        for _ in range(int(PATIENCE / 0.02)):
            if select.select([connection], [], [], 0.02)[0]:
                return read_answer(connection)
            connection.sendall(piece)
        raise AssertionError("it goes on")

    def test_body_below_the_least_rate_answers_408_and_is_not_stored(self) -> None:
        chunked = b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        set_ = b"POST /kv/set HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4000\r\n\r\n"
        for head, piece in ((UPLOAD % 1_000_000, b"x"), (chunked, b"1\r\nx\r\n"), (set_, b"x")):
            with self.subTest(head=head):
                connection = self.connect()
                connection.sendall(head)

                answer = self.drip(connection, piece)

                self.assertEqual((408, "close"), (answer.status, answer.fields["connection"]))
                self.assertIn("1000 bytes a second", answer.body.decode())
                self.assert_stored(0)

    def test_body_above_the_least_rate_is_stored_after_any_time(self) -> None:
        connection = self.connect()
        # Each piece is enough for a hundred seconds.
        connection.sendall(UPLOAD % 4_100_000 + b"x" * 100_000)
        for _ in range(40):
            connection.sendall(b"x" * 100_000)
            select.select([], [], [], 0.02)

        self.assertEqual(200, read_answer(connection).status)


class BodyRateOnThreadTest(BodyRateTest):
    """The same where no client is ever silent for as long as a thread waits."""

    limits = Limits(linger=0.5, body_rate=1000.0, body_rate_from=0.5, body=PATIENCE, notice=0.02, last_call=0.1)


class IdlePoolTest(SlowCase):
    limits = Limits(thread=0.2, notice=0.02, last_call=0.1)

    def test_threads_end_without_jobs(self) -> None:
        before = threads_named("request")
        in_threads(8, lambda number: self.post("/", bytes([number])))

        self.wait_until("the threads are gone", lambda: threads_named("request") <= before)

        self.assertEqual(200, self.post("/", b"tea").status)


class LimitedCase(SlowCase):
    connections = 5

    def greeted(self, count: int) -> list[socket.socket]:
        """Open idle connections. The first is idle longest."""
        connections = [self.connect() for _ in range(count)]
        for connection in connections:
            self.assertTrue(self.is_served(connection))
        return connections

    def busy(self, count: int) -> list[socket.socket]:
        """Open connections, each with half an upload."""
        connections = [self.connect() for _ in range(count)]
        for connection in connections:
            connection.sendall(UPLOAD % 8 + b"half")
        self.wait_until("they are in flight", lambda: self.server_metrics.gauges().in_flight == count)
        return connections

    def is_served(self, connection: socket.socket) -> bool:
        """Whether a request on the connection is answered."""
        try:
            connection.sendall(HEALTH)
            return b" 200 " in connection.recv(65536)
        except (BrokenPipeError, ConnectionResetError):
            return False


class FullLimitTest(LimitedCase):
    limits = Limits(notice=0.02, last_call=0.1, place=0.2)

    def test_new_connection_evicts_the_longest_idle_one(self) -> None:
        guests = self.greeted(5)
        self.is_served(guests[0])

        served = self.is_served(self.connect())

        self.assertTrue(served)
        self.assertEqual([True, False, True, True, True], [self.is_served(guest) for guest in guests])
        self.assertEqual(5, self.connection_limit.count)

    def test_many_new_connections_evict_idle_ones_in_order(self) -> None:
        guests = self.greeted(5)

        newcomers = [self.connect() for _ in range(7)]

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

        answer, rest = split_answer(read_all(self.connect()))

        self.assertEqual((503, b""), (answer.status, rest))
        self.assertEqual("close", answer.fields["connection"])
        self.assertGreater(int(answer.fields["retry-after"]), 0)
        for upload in uploads:
            upload.sendall(b"half")
            self.assertEqual(200, read_answer(upload).status)

    def test_free_place_is_given_to_a_new_connection(self) -> None:
        uploads = self.busy(5)
        uploads[0].close()
        self.wait_until("it is gone", lambda: self.connection_limit.count == 4)

        self.assertTrue(self.is_served(self.connect()))

    def test_refused_connections_take_no_place(self) -> None:
        uploads = self.busy(5)
        refused = [self.connect() for _ in range(20)]
        for connection in refused:
            self.assertIn(b" 503 ", read_all(connection))
        # They do not close, so that the server still waits for them.
        uploads[0].close()
        self.wait_until("it is gone", lambda: self.connection_limit.count == 4)

        self.assertTrue(self.is_served(self.connect()))

    def test_connections_far_over_the_limit_all_get_503_and_those_that_stay_open_are_bounded(self) -> None:
        self.busy(5)
        crowd = [self.connect() for _ in range(400)]

        told = [b" 503 " in read_all(connection) for connection in (*crowd, *(self.connect() for _ in range(20)))]

        self.assertEqual([True] * 420, told)
        self.assertEqual(5, self.connection_limit.count)
        self.wait_until("few linger", lambda: len(self.worker._server.context.poller.all()) <= 5 + _MAX_REFUSED)

    def test_refused_connection_that_stays_open_waits_for_no_place_any_more(self) -> None:
        self.busy(5)

        read_all(self.connect())

        # Of those that wait, each makes another worker evict an idle connection.
        self.assertEqual(0, self.connection_limit.waiting)


class RareChecksTest(LimitedCase):
    # The client gives up before the next check.
    limits = Limits(notice=2 * PATIENCE, last_call=0, place=0.2)

    def setUp(self) -> None:
        super().setUp()
        # The drain after the test looks again soon.
        self.addCleanup(setattr, self.worker._server, "_limits", LimitedCase.limits)

    def test_connection_that_waits_is_refused_at_its_deadline_not_at_the_next_check(self) -> None:
        self.busy(5)

        self.assertIn(b" 503 ", read_all(self.connect()))


class WaitingConnectionTest(LimitedCase):
    """New connections wait for a place without a deadline."""

    limits = Limits(notice=0.02, last_call=0.1, place=PATIENCE)

    def test_connections_that_wait_longest_get_503_at_once_where_too_many_wait(self) -> None:
        self.busy(5)

        crowd = [self.connect() for _ in range(200)]

        for connection in crowd[:-_MAX_WAITING]:
            self.assertIn(b" 503 ", read_all(connection))
        self.assertEqual(_MAX_WAITING, len(self.worker._server.context.waiting))

    def test_new_connection_is_served_when_another_becomes_idle(self) -> None:
        uploads = self.busy(5)
        newcomer = self.connect()
        newcomer.sendall(HEALTH)
        self.wait_until("it waits", lambda: len(self.worker._server.context.waiting) == 1)

        uploads[0].sendall(b"half")

        self.assertEqual(200, read_answer(uploads[0]).status)
        self.assertEqual(200, read_answer(newcomer).status)
        self.assertEqual(b"", read_all(uploads[0]))

    def test_drain_refuses_connections_that_wait(self) -> None:
        self.busy(5)
        newcomer = self.connect()
        self.wait_until("it waits", lambda: len(self.worker._server.context.waiting) == 1)
        drainer = threading.Thread(target=self.worker._server.drain, args=(0.5,))

        drainer.start()
        answer = split_answer(read_all(newcomer))[0]
        drainer.join()

        self.assertEqual(503, answer.status)


def read_answer_fast(connection: socket.socket, received: bytes) -> tuple[Answer, bytes]:
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
