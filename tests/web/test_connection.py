"""A connection: framing, keep-alive, refusals and the access log. A few tests have real sockets and threads."""

from __future__ import annotations

import errno
import gc
import hashlib
import json
import logging
import os
import socket
from unittest.mock import patch

from filestoraged.daemon.values import Address
from filestoraged.web.connection import Connection
from filestoraged.web.exchange import NO_EXCHANGE, UNPARSED
from filestoraged.web.poller import Poller
from filestoraged.web.receiver import Receiver
from filestoraged.web.sender import Sender
from tests.support import ServerCase, in_threads, read_all, read_answer, split_answer
from tests.web.simulation import SimulatedCase

TEA = b"tea"
TEA_HASH = hashlib.sha256(TEA).hexdigest()

HEALTH = b"GET /-/health HTTP/1.1\r\nHost: x\r\n\r\n"


class RequestTest(SimulatedCase):
    """Each byte is that of the contract; `TcpTest` shows that the kernel's sockets carry them."""

    def test_connection_is_kept_alive(self) -> None:
        connection = self.connect()

        for _ in range(3):
            connection.sendall(HEALTH)
            answer = read_answer(connection)

            self.assertEqual(200, answer.status)
            self.assertNotIn("connection", answer.fields)

    def test_empty_line_behind_each_body_is_skipped(self) -> None:
        upload = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\ntea\r\n"

        answers = self.raw((upload + HEALTH + b"\r\n") * 120, answers=240)

        self.assertEqual({200}, {answer.status for answer in answers})

    def test_more_than_a_hundred_empty_lines_before_a_request_answer_400_and_close(self) -> None:
        few, _ = self.raw_until_closed(b"\r\n" * 100 + HEALTH + b"GET / HTTP/9.9\r\n\r\n")
        many, _ = self.raw_until_closed(b"\r\n" * 20_000)

        self.assertEqual([200, 505], [answer.status for answer in few])
        self.assertEqual([400], [answer.status for answer in many])
        self.assertEqual("close", many[0].fields["connection"])

    def test_head_is_received_once_in_each_round_of_the_loop(self) -> None:
        calls: list[str] = []
        on_event, receive = Connection.on_event, Receiver.receive

        def counted_on_event(connection: Connection) -> None:
            calls.append("event")
            on_event(connection)

        def counted_receive(receiver: Receiver) -> bool:
            calls.append("receive")
            return receive(receiver)

        with patch.object(Connection, "on_event", counted_on_event), patch.object(Receiver, "receive", counted_receive):
            connection = self.connect()
            for byte in HEALTH:
                connection.sendall(bytes([byte]))
            read_answer(connection)

        self.assertLessEqual(calls.count("receive"), calls.count("event") + 1)

    def test_connection_close_is_answered_and_closes(self) -> None:
        request = b"GET /-/health HTTP/1.1\r\nHost: x\r\nConnection: Close\r\n\r\n"

        (answer,), rest = self.raw_until_closed(request)

        self.assertEqual((200, "close", b""), (answer.status, answer.fields["connection"], rest))

    def test_http_1_0_request_is_answered_and_closes(self) -> None:
        (answer,), rest = self.raw_until_closed(b"GET /-/health HTTP/1.0\r\n\r\n")

        self.assertEqual((200, "close", b""), (answer.status, answer.fields["connection"], rest))

    def test_http_1_0_request_with_keep_alive_is_kept_alive(self) -> None:
        request = b"GET /-/health HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"

        answers = self.raw(request + request, answers=2)

        self.assertEqual(["keep-alive"] * 2, [answer.fields["connection"] for answer in answers])

    def test_response_has_server_and_date(self) -> None:
        answer = self.raw(HEALTH)[0]

        self.assertEqual("filestoraged", answer.fields["server"])
        self.assertRegex(answer.fields["date"], r"^\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT$")

    def test_malformed_requests_answer_400_and_close(self) -> None:
        upload = b"POST / HTTP/1.1\r\nHost: x\r\n"
        heads = [
            b"GET / HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: x/y\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost : x\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: x\r\n folded: y\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: x\r\nA: b\rc\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: x\r\nA: b\x00c\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: x\r\nA: b\x7fc\r\n\r\n",
            b"GET / HTTP/1.1\nHost: x\n\n",
            b"GET  / HTTP/1.1\r\nHost: x\r\n\r\n",
            b"GET /\r\n\r\n",
            b"GET nowhere HTTP/1.1\r\nHost: x\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            upload + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n3\r\ntea\r\n0\r\n\r\n",
            upload + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\ntea",
            upload + b"Content-Length: +3\r\n\r\ntea",
            upload + b"Content-Length: -3\r\n\r\ntea",
            upload + b"Content-Length: 0x3\r\n\r\ntea",
            upload + b"Content-Length: \r\n\r\n",
            upload + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
            upload + b"Transfer-Encoding: chunked\r\n\r\nx\r\n",
            upload + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n",
            upload + b"Transfer-Encoding: chunked\r\n\r\n3\ntea\r\n0\r\n\r\n",
            upload + b"Transfer-Encoding: chunked\r\n\r\n3\r\nteapot",
            b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n3\r\ntea\r\n0\r\n\r\n",
        ]

        for head in heads:
            with self.subTest(head=head):
                answers, _ = self.raw_until_closed(head + HEALTH if head.endswith(b"\r\n\r\n") else head)

                self.assertEqual([400], [answer.status for answer in answers])
                self.assertEqual("close", answers[0].fields["connection"])
                self.assertEqual("Bad Request", json.loads(answers[0].body)["error"])
        self.assert_stored(0)

    def test_other_refused_heads_answer_their_own_status(self) -> None:
        upload = b"POST / HTTP/1.1\r\nHost: x\r\n"
        cases = {
            upload + b"Transfer-Encoding: gzip, chunked\r\n\r\n": (501, "Not Implemented"),
            upload + b"Transfer-Encoding: identity\r\n\r\n": (501, "Not Implemented"),
            b"GET / HTTP/2.0\r\nHost: x\r\n\r\n": (505, "HTTP Version Not Supported"),
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n": (505, "HTTP Version Not Supported"),
            b"GET /" + b"a" * 8192 + b" HTTP/1.1\r\nHost: x\r\n\r\n": (414, "URI Too Long"),
            b"GET /" + b"a" * 40_000: (414, "URI Too Long"),
            HEALTH[:-2] + b"A: " + b"a" * 32_768 + b"\r\n\r\n": (431, "Request Header Fields Too Large"),
            HEALTH[:-2] + b"A: b\r\n" * 100 + b"\r\n": (431, "Request Header Fields Too Large"),
            upload + b"Expect: a-pony\r\nContent-Length: 3\r\n\r\n": (417, "Expectation Failed"),
        }

        for head, (status, reason) in cases.items():
            with self.subTest(head=head[:80]):
                answers, _ = self.raw_until_closed(head)

                self.assertEqual([(status, reason)], [(answer.status, answer.reason) for answer in answers])

    def test_head_just_within_the_limits_is_answered(self) -> None:
        target = b"/-/health?" + b"a" * (8192 - 10)
        heads = [
            b"GET " + target + b" HTTP/1.1\r\nHost: x\r\n\r\n",
            HEALTH[:-2] + b"A: b\r\n" * 99 + b"\r\n",
            HEALTH[:-2] + b"A: " + b"a" * (32_768 - len(HEALTH) - 5) + b"\r\n\r\n",
        ]

        for head in heads:
            with self.subTest(head=head[:80]):
                self.assertEqual(200, self.raw(head)[0].status)

    def test_absolute_target_is_answered_by_its_path(self) -> None:
        answer = self.raw(b"GET http://example.org:80/-/health?x HTTP/1.1\r\nHost: other\r\n\r\n")[0]

        self.assertEqual(200, answer.status)

    def test_methods_without_a_path_answer_405(self) -> None:
        for line in (b"OPTIONS * HTTP/1.1", b"CONNECT example.org:443 HTTP/1.1"):
            with self.subTest(line=line):
                answer = self.raw(line + b"\r\nHost: x\r\n\r\n")[0]

                self.assertEqual((405, "GET, POST, PUT, DELETE"), (answer.status, answer.fields["allow"]))

    def test_response_to_head_has_no_body(self) -> None:
        answers, _ = self.raw_until_closed(b"HEAD / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")

        self.assertEqual([405], [answer.status for answer in answers])
        self.assertEqual(b"", answers[0].body)

    def test_refusal_of_a_bad_head_with_the_method_head_has_no_body(self) -> None:
        line = b"HEAD / HTTP/1.1\r\nHost: x\r\n"
        for head in (
            b"HEAD / HTTP/1.1\r\n\r\n",
            b"\r\nHEAD / HTTP/2.0\r\nHost: x\r\n\r\n",
            b"HEAD /" + b"a" * 40_000,
            line + b"A: b\r\n" * 100 + b"\r\n",
            line + b"Expect: a-pony\r\n\r\n",
            line + b"Transfer-Encoding: gzip\r\n\r\n",
            line + b"Content-Length: 5, 6\r\n\r\n",
        ):
            with self.subTest(head=head[:80]):
                answers, _ = self.raw_until_closed(head)

                self.assertEqual([b""], [answer.body for answer in answers])
                self.assertGreaterEqual(answers[0].status, 400)
                self.assertNotEqual("0", answers[0].fields["content-length"])

    def test_absurd_length_is_refused_behind_the_method(self) -> None:
        for line, status in ((b"POST /", 413), (b"PUT /", 405), (b"PUT /-/health", 405), (b"GET /no/thing", 404)):
            with self.subTest(line=line):
                answers, _ = self.raw_until_closed(
                    line + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999999999999999\r\n\r\n"
                )

                self.assertEqual([status], [answer.status for answer in answers])

    def test_continue_is_sent_when_the_body_is_read(self) -> None:
        connection = self.connect()
        connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-Continue\r\nContent-Length: 3\r\n\r\n")

        interim = read_answer(connection)
        connection.sendall(TEA)
        answer = read_answer(connection)

        self.assertEqual((100, "Continue"), (interim.status, interim.reason))
        self.assertEqual(200, answer.status)

    def test_continue_is_not_sent_when_the_body_is_refused(self) -> None:
        for line in (
            b"PUT / HTTP/1.1",
            b"POST /-/health HTTP/1.1",
            b"PUT /data/.. HTTP/1.1",
            b"POST /?hash=x HTTP/1.1",
        ):
            with self.subTest(line=line):
                request = line + b"\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"

                answers, _ = self.raw_until_closed(request)

                self.assertEqual(1, len(answers))
                self.assertGreaterEqual(answers[0].status, 400)

    def test_continue_is_not_sent_to_http_1_0_nor_after_the_body_has_come(self) -> None:
        head = b"POST / HTTP/1.%d\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"

        answers = [self.raw(head % 0 + TEA)[0], self.raw(head % 1 + TEA)[0]]

        self.assertEqual([200, 200], [answer.status for answer in answers])

    def test_small_unread_body_is_skipped_and_the_connection_is_kept_alive(self) -> None:
        unwanted = b"DELETE /xyz HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\ntea"

        answers = self.raw(unwanted + HEALTH, answers=2)

        self.assertEqual([404, 200], [answer.status for answer in answers])


class TcpTest(ServerCase):
    """What the kernel and threads do, over TCP; `UnixSocketTest` runs the same over a Unix socket."""

    interfaces = ("files",)
    threads = 2

    def assert_serving(self) -> None:
        self.assertEqual(200, self.raw(HEALTH)[0].status)

    def test_pipelined_requests_are_answered_in_order(self) -> None:
        upload = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\ntea"
        chunked = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\ntea\r\n0\r\n\r\n"
        download = f"GET /{TEA_HASH} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        missing = b"GET /xyz HTTP/1.1\r\nHost: x\r\n\r\n"

        answers = self.raw(upload + HEALTH + chunked + download + missing + HEALTH, answers=6)

        self.assertEqual([200, 200, 200, 200, 404, 200], [answer.status for answer in answers])
        self.assertEqual(TEA, answers[3].body)

    def test_request_that_arrives_byte_by_byte_is_answered(self) -> None:
        connection = self.connect()

        for byte in b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\ntea\r\n0\r\n\r\n":
            connection.sendall(bytes([byte]))

        self.assertEqual(TEA_HASH, json.loads(read_answer(connection).body)["hash"])

    def test_refusal_reaches_a_client_that_still_sends(self) -> None:
        connection = self.connect()
        connection.sendall(b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 20000000\r\n\r\n")
        for _ in range(20):
            connection.sendall(b"x" * 1_000_000)

        answer = read_answer(connection)
        rest = read_all(connection)

        self.assertEqual((405, "close", b""), (answer.status, answer.fields["connection"], rest))

    def test_client_that_leaves_within_an_upload_leaves_nothing(self) -> None:
        head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n"
        chunked = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nf4240\r\n"
        form = head[:-2] + b"Content-Type: multipart/form-data; boundary=x\r\n\r\n"
        part = b'--x\r\nContent-Disposition: form-data; name="f"; filename="g"\r\n\r\ntea'

        for request in (b"P", head[:30], head, head + b"x" * 500_000, chunked + b"x" * 500_000, form + part):
            with self.subTest(request=request[:80]):
                connection = self.connect()
                connection.sendall(request)
                connection.shutdown(socket.SHUT_WR)

                # The server has noticed when it closes.
                self.assertEqual(b"", read_all(connection))
                self.assert_stored(0)
        self.assert_serving()

    def test_client_that_half_closes_gets_its_response(self) -> None:
        connection = self.connect()
        connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\ntea")
        connection.shutdown(socket.SHUT_WR)

        self.assertIn(TEA_HASH.encode(), read_all(connection))

    def test_more_clients_than_threads_are_all_served(self) -> None:
        data = os.urandom(200_000)

        answers = in_threads(40, lambda number: self.post("/", data + bytes([number])))

        self.assertEqual([200] * 40, [answer.status for answer in answers])
        self.assertEqual(40, len(self.files_below(self.store_path)))

    def test_silent_connections_take_no_thread(self) -> None:
        silent = [self.connect() for _ in range(self.threads * 4)]
        for connection in silent[::2]:
            connection.sendall(HEALTH)
            read_answer(connection)

        self.assert_serving()

        for connection in silent:
            connection.sendall(HEALTH)
            self.assertEqual(200, read_answer(connection).status)

    def test_bodies_and_readers_that_pause_take_no_thread_and_lose_nothing(self) -> None:
        data = os.urandom(8_000_000)
        digest = json.loads(self.post("/", data).body)["hash"]
        readers, uploads = [[self.connect() for _ in range(3)] for _ in range(2)]
        for reader in readers:
            # More than the kernel keeps for a client that reads nothing.
            reader.sendall(f"GET /{digest} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        for upload in uploads:
            upload.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2000000\r\n\r\n" + data[:1_000_000])

        self.assert_serving()

        for upload in uploads:
            upload.sendall(data[1_000_000:2_000_000])
            self.assertEqual(hashlib.sha256(data[:2_000_000]).hexdigest(), json.loads(read_answer(upload).body)["hash"])
        self.assertEqual([data] * 3, [split_answer(read_all(reader))[0].body for reader in readers])


class UnixSocketTest(TcpTest):
    def address(self) -> Address:
        return Address("", 0, str(self.directory / "socket"))


class Ipv6Test(ServerCase):
    interfaces = ("files",)

    def address(self) -> Address:
        return Address("::1", 0)

    def test_health_answers_200(self) -> None:
        self.assertEqual(200, self.get("/-/health").status)


class FailureTest(SimulatedCase):
    """What fails in the server, and cannot be answered, breaks the connection off; it is logged and counted."""

    error = OSError(errno.EIO, "Input/output error")

    def test_response_that_cannot_be_sent_is_counted_as_an_error_besides(self) -> None:
        self.announce(r"connection of client 127.0.0.1 broke off: OSError: \[Errno 5\] Input/output error")
        with patch.object(Sender, "push", side_effect=self.error):
            answers, rest = self.raw_until_closed(HEALTH)

        self.assertEqual(([], b""), (answers, rest))
        self.assert_failed_once()

    def test_body_that_cannot_be_received_is_counted_as_an_error_and_not_as_a_client_that_left(self) -> None:
        self.announce(r"connection of client 127.0.0.1 broke off: OSError: \[Errno 5\] Input/output error")
        with patch.object(Receiver, "receive_all", side_effect=self.error):
            self.raw_until_closed(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\nhalf")

        self.assert_failed_once()
        statuses = [status for each in self.server_metrics.totals().values() for status in each.statuses]
        self.assertEqual([500], statuses)
        self.assert_stored(0)

    def test_connection_that_cannot_be_watched_is_counted_as_an_error(self) -> None:
        self.announce(r"connection of client 127.0.0.1 broke off: OSError: \[Errno 5\] Input/output error")
        with patch.object(Poller, "register", side_effect=self.error):
            self.assertEqual(b"", self.connect().recv(1))

        self.assert_failed_once()

    def assert_failed_once(self) -> None:
        kinds = [each.kinds for each in self.server_metrics.totals().values() if each.kinds]
        self.assertEqual([{"StoreFailed": 1}], kinds)
        (line,) = self.log_lines(logging.ERROR)
        self.assertEqual("connection of client 127.0.0.1 broke off: OSError: [Errno 5] Input/output error", line)


class IdleTest(SimulatedCase):
    def test_connection_that_is_idle_keeps_nothing_of_its_last_request(self) -> None:
        connection = self.connect()
        for request in (HEALTH, b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\ntea"):
            connection.sendall(request)
            read_answer(connection)

            exchanges = [each.exchange for each in gc.get_objects() if type(each) is Connection and each.is_idle]

            self.assertIn(NO_EXCHANGE, exchanges)
            self.assertEqual({NO_EXCHANGE}, set(exchanges))
            self.assertEqual((None, "", UNPARSED), (NO_EXCHANGE.request, NO_EXCHANGE.client, NO_EXCHANGE.parsed))


class AccessLogTest(SimulatedCase):
    interfaces = ("files", "drops")

    def test_request_is_logged_as_one_line(self) -> None:
        self.post("/", TEA)
        self.get(f"/?hash={TEA_HASH}")

        upload, download = self.access_lines()

        self.assertRegex(upload, r"^127\.0\.0\.1 POST / 200 88 \d\.\d{6}$")
        self.assertRegex(download, rf"^127\.0\.0\.1 GET /\?hash={TEA_HASH} 200 3 \d\.\d{{6}}$")

    def test_malformed_request_is_logged_as_one_line(self) -> None:
        self.raw(b"\x00\r\n\r\n")

        self.assertRegex(self.access_lines()[0], r"^127\.0\.0\.1 - - 400 \d+ \d\.\d{6}$")

    def test_client_that_leaves_within_an_upload_is_logged_as_one_line(self) -> None:
        connection = self.connect()
        connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf")
        connection.close()

        self.assertRegex(self.access_lines()[0], r"^127\.0\.0\.1 POST / 499 0 \d\.\d{6}$")

    def test_request_is_not_logged_where_the_level_is_warning(self) -> None:
        logging.getLogger("filestoraged").setLevel(logging.WARNING)

        self.get("/-/health")

        self.assertEqual([], self.access_lines())

    def test_secret_is_not_logged(self) -> None:
        for name in ("password", "Password", "pass%77ord", "token", "pass%57ord"):
            with self.subTest(name=name):
                self.get(f"/?a=b&{name}=s3cret&c=d")

        for line in self.access_lines():
            self.assertNotIn("s3cret", line)
            self.assertRegex(line, r" /\?a=b&[^=]+=\*\*\*&c=d 400 ")

    def test_link_of_a_drop_is_not_logged_in_any_spelling(self) -> None:
        id_ = "0123456789abcdef" * 2
        targets = (
            f"/vimeo/api/v1.0/file/{id_}",
            f"//vimeo/api/v1.0/file/{id_}",
            f"/%76imeo/api/v1.0/file/{id_}",
            f"/vimeo/api/v1.0/file/{id_};password=s3cret",
            f"/elsewhere/{id_}?x;password=s3cret",
        )
        for target in targets:
            self.get(target)

        for line in self.access_lines():
            self.assertNotIn(id_, line)
            self.assertNotIn("s3cret", line)

    def test_server_error_is_logged_once_with_its_cause(self) -> None:
        (self.store_path / "staging").rmdir()
        (self.store_path / "staging").write_text("in the way")
        self.announce("answering 500: NotADirectoryError")

        answer = self.post("/", TEA)

        self.assertEqual(500, answer.status)
        self.assertNotIn(str(self.directory), answer.body.decode())
        records = [record for record in self.logged if record.levelname == "ERROR"]
        self.assertEqual(1, len(records))
        self.assertIsNone(records[0].exc_info)
        self.assertIn("NotADirectoryError", records[0].getMessage())
        self.assertNotIn("\n", records[0].getMessage())
        self.assertEqual(200, self.get("/-/health").status)
