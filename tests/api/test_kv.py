"""The kv interface, request by request."""

from __future__ import annotations

import json
import socket
import threading
import tracemalloc
import unittest
from typing import Any
from unittest import mock
from urllib.parse import quote

from filestoraged.api import kv
from filestoraged.api.payloads import Payloads
from filestoraged.clock import SYSTEM_CLOCK
from filestoraged.future import Future
from filestoraged.store import kv as kv_store
from filestoraged.store.kv import KeyValues, _apply
from filestoraged.web.receiver import Receiver
from filestoraged.web.request import Request
from filestoraged.web.request_body import RequestBody
from filestoraged.wire.body import Sized
from filestoraged.wire.head import Head
from tests.cutting_proxy import wait_until_received
from tests.support import PATIENCE, Answer, ServerCase, TempCase, in_threads, read_answer


class KvCase(ServerCase):
    """Mounted on the root, as by `run.sh`."""

    config: dict[str, Any] = {"mounts": {"/": "kv"}}

    def set(self, key: str, value: Any) -> Answer:
        return self.post("/set", json.dumps({key: value}))

    def unset(self, key: str) -> Answer:
        return self.delete_raw(json.dumps(key))

    def delete_raw(self, body: Any) -> Answer:
        return self.request("DELETE", "/set", body)

    def commit(self) -> Answer:
        return self.post("/commit", b"")

    def engine(self) -> KeyValues:
        keys: KeyValues = self.pages()._keys
        return keys

    def pages(self) -> Any:
        (router,) = [router for _, _, router in self.app._mounts if router.name == "kv"]
        return router._routes["/set"]["POST"].page.__self__  # type: ignore[attr-defined]

    def value(self, key: str) -> Any:
        answer = self.get(f"/{quote(key, safe='')}")
        return json.loads(answer.body)[key] if answer.status == 200 else answer.status


class KvTest(KvCase):
    def test_set_value_is_visible_after_the_commit(self) -> None:
        queued = self.set("key", "value")
        before = self.get("/key")
        committed = self.commit()
        after = self.get("/key")

        self.assertEqual((201, b'{"key": "value"}'), (queued.status, queued.body))
        self.assertEqual(404, before.status)
        self.assertEqual((204, b""), (committed.status, committed.body))
        self.assertNotIn("content-length", committed.fields)
        # Only a body that comes back is as it came; other answers end with a newline.
        self.assertEqual((200, b'{"key": "value"}\n'), (after.status, after.body))
        for answer in (queued, before, after):
            self.assertEqual("application/json", answer.fields["content-type"])
        for answer in (before, after, self.get("/key")):
            self.assertEqual("no-store", answer.fields["cache-control"])

    def test_update_of_a_key_answers_200(self) -> None:
        statuses = [self.set("key", 1).status, self.set("key", 2).status]
        self.commit()
        statuses.append(self.set("key", 3).status)
        self.commit()

        self.assertEqual([201, 201, 200], statuses)
        self.assertEqual(3, self.value("key"))

    def test_deletion_is_visible_after_the_commit(self) -> None:
        self.set("key", 1)
        self.commit()

        queued = self.unset("key")
        before = self.value("key")
        self.commit()

        self.assertEqual((200, b'"key"'), (queued.status, queued.body))
        self.assertEqual([1, 404], [before, self.value("key")])
        self.assertEqual(200, self.unset("never there").status)

    def test_value_comes_back_unchanged(self) -> None:
        for value in (
            b"1.0", b"1", b"1e999", b"-0", b"0.10", b"9" * 5000, b'"\\u00e9"', b'{"b": 1, "a": [ ]}', b"null",
        ):  # fmt: skip
            with self.subTest(value=value[:20]):
                self.post("/set", b'{"key":%b}' % value)
                self.commit()

                self.assertEqual(b'{"key": %b}\n' % value, self.get("/key").body)

    def test_any_string_is_a_key_and_the_path_is_matched_before_it_is_decoded(self) -> None:
        keys = [
            "set", "commit", ".", "..", "-", "a/b", "a b", "a+b", "%", "%41", "é", "\0", '"', "?", "#", "\U0001f600",
        ]  # fmt: skip
        for number, key in enumerate(keys):
            self.set(key, number)
        self.commit()

        self.assertEqual(list(range(len(keys))), [self.value(key) for key in keys])
        self.assertEqual([200, 404], [self.get("/a%2Fb").status, self.get("/a/b").status])
        self.assertEqual(b'{"set": 0}\n', self.get("/s%65t").body)
        self.assertEqual(404, self.post("/s%65t", b'{"key": 1}').status)

    def test_invalid_keys_other_routes_and_methods_answer_404(self) -> None:
        keys = ("/", "/a/", "//", "/a//b", "/%FF", "/%ED%A0%80", "/missing", "/set", "/commit")
        for method, path in (
            *(("GET", path) for path in keys),
            *(("PUT", "/set"), ("HEAD", "/key"), ("OPTIONS", "/set"), ("PATCH", "/set"), ("TRACE", "/key")),
            *(("DELETE", "/commit"), ("DELETE", "/key"), ("POST", "/key"), ("POST", "/"), ("PUT", "/key")),
            *(("POST", "/set/"), ("BREW", "/key")),
        ):
            with self.subTest(method=method, path=path):
                answer = self.request(method, path)

                self.assertEqual(404, answer.status)
                self.assertNotIn("allow", answer.fields)
                if method != "HEAD":
                    self.assertEqual("Not Found", json.loads(answer.body)["error"])

    def test_malformed_payload_answers_400(self) -> None:
        bodies = (
            b"", b"nonsense", b"{}", b'{"a": 1, "b": 2}', b"[]", b'"a"', b"1", b'{"": 1}', b'{"a": NaN}', b'{"a": 1} x',
            b'{"a": "\\ud800"}', b'{"\\ud800": 1}', b'{"a": "\xff"}', b'\xef\xbb\xbf{"a": 1}',
            b'{"a": {"b": 1, "b": 2}}', b'{"a": ' + b"[" * 100 + b"]" * 100 + b"}", b'{"a": ' + b"[" * 10_000,
            b'{"a": ' + b"[" * 500_000,
        )  # fmt: skip
        keys = (b"", b"key", b'{"key": 1}', b'["key"]', b"1", b'""', b'"a" "b"', b'"\\ud800"', b'"\xff"')
        for method, body in (*(("POST", body) for body in bodies), *(("DELETE", body) for body in keys)):
            with self.subTest(method=method, body=body[:30]):
                answer = self.request(method, "/set", body)

                self.assertEqual((400, "Bad Request"), (answer.status, json.loads(answer.body)["error"]))
        self.commit()
        self.assertEqual(404, self.value("a"))

    def test_payload_of_1_mib_is_accepted_and_one_byte_more_answers_413(self) -> None:
        body = b'{"key": "' + b"x" * (1024 * 1024 - 11) + b'"}'

        self.assertEqual(201, self.post("/set", body).status)
        self.assertEqual(413, self.post("/set", body + b" ").status)
        self.assertEqual(413, self.post("/set", iter([body, b" "])).status)
        self.assertEqual(413, self.delete_raw(b'"' + b"x" * 1024 * 1024 + b'"').status)
        self.commit()
        self.assertEqual(body + b"\n", self.get("/key").body)

    def test_response_to_set_repeats_the_body_whatever_its_type(self) -> None:
        kinds = ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "nonsense")
        bodies = (b' {"key" :\t1.0} ', b'{"\\u006bey": [1,2 , 3]}', '{"é": "☕"}'.encode(), b'{"key": 1}')
        for kind, body in zip(kinds, bodies):
            answer = self.post("/set", body, Content_Type=kind)
            self.assertEqual((True, body), (answer.status in (200, 201), answer.body))
        self.assertEqual(b' "key" ', self.delete_raw(b' "key" ').body)

    def test_chunked_slow_and_continued_bodies_are_accepted(self) -> None:
        self.assertEqual(201, self.post("/set", iter([b'{"key"', b": 1}"])).status)
        connection = self.connect()
        head = "POST /set HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\nExpect: 100-continue\r\n\r\n"
        connection.sendall(head.encode())
        self.assertEqual(b"HTTP/1.1 100 Continue\r\n\r\n", connection.recv(1000))
        for byte in b'{"key": 2}':
            connection.sendall(bytes([byte]))
            wait_until_received(connection)
        self.assertEqual(201, read_answer(connection).status)
        self.commit()
        self.assertEqual(2, self.value("key"))

    def test_pipelined_requests_are_answered_in_order(self) -> None:
        commit, get = "POST /commit HTTP/1.1\r\nHost: x\r\n\r\n", "GET /key HTTP/1.1\r\nHost: x\r\n\r\n"
        set_ = 'POST /set HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{{"key": {}}}'
        requests = "".join(f"{set_.format(number)}{commit}{get}" for number in range(9))

        answers = self.raw(requests.encode(), answers=27)

        self.assertEqual([201, 204, 200] + [200, 204, 200] * 8, [answer.status for answer in answers])
        self.assertEqual([b'{"key": %d}\n' % number for number in range(9)], [answer.body for answer in answers[2::3]])

    def test_commit_with_a_body_is_accepted(self) -> None:
        head = "POST /commit HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n"
        commits = b"".join(head.format(len(body)).encode() + body for body in (b"", b"{}", b"x" * 10_000))

        self.assertEqual([204] * 3, [answer.status for answer in self.raw(commits, answers=3)])

    def test_client_that_leaves_before_its_response_affects_no_other(self) -> None:
        for _ in range(50):
            connection = self.connect()
            connection.sendall(b'POST /set HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{"key": 1}')
            connection.close()
        self.commit()

        self.wait_until("no page awaits the writer", lambda: not self.worker._server.context.completions.expected)
        self.assertEqual(1, self.value("key"))

    def test_cached_value_is_never_older_than_the_last_commit(self) -> None:
        def work(number: int) -> None:
            for step in range(50):
                self.set(f"key {number}", step)
                self.commit()
                self.assertEqual(step, self.value(f"key {number}"))

        in_threads(8, work)

    def test_readers_do_not_wait_for_a_large_commit(self) -> None:
        self.set("key", 1)
        self.commit()
        engine = self.engine()
        engine._large_queue = 10
        for queued in [engine.set(f"key {number}", b'{"n": %d}' % number) for number in range(100)]:
            queued.result(PATIENCE)
        values: list[Any] = []

        def apply(*arguments: Any) -> None:
            # Within each transaction of the commit, on the writer's thread: a reader that waits for it waits for ever.
            _apply(*arguments)
            values.append([self.value("key"), self.value("key 7")])

        with mock.patch.object(kv_store, "_apply", apply):
            self.commit()

        self.assertEqual([1, 404], values[0])
        self.assertGreater(len(values), 1)
        self.assertEqual({"n": 7}, self.value("key 7"))


class MountedKvTest(ServerCase):
    """Mounted on the default path, beside the other interfaces."""

    def test_keys_are_below_the_mount_which_itself_answers_404(self) -> None:
        statuses = [self.post("/kv/set", b'{"a": 1}').status, self.post("/kv/commit", b"").status]
        statuses += [self.get(path).status for path in ("/kv/a", "/kv", "/kv/")]

        self.assertEqual([201, 204, 200, 404, 404], statuses)
        self.assert_stored(0)


class BodiesInFlightTest(KvCase):
    def test_too_many_bodies_in_flight_answer_503_with_retry_after(self) -> None:
        body = b'{"key": "' + b"x" * (1024 * 1024 - 11) + b'"}'
        head = b"POST /set HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
        connections = [self.connect() for _ in range(70)]
        for connection in connections:
            connection.sendall(head + body[:-1])

        self.wait_for_lines("answering 503")
        self.assertEqual(200, self.get("/-/health").status)
        for connection in connections:
            connection.close()
        self.wait_until("there is room again", lambda: self.post("/set", body).status in (200, 201))


class InFlightTest(KvCase):
    def test_small_sets_are_accepted_while_slow_large_bodies_reach_the_limit(self) -> None:
        head = b"POST /set HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n"
        self.pages()._payloads = Payloads(100_000, small=4096, max_in_flight=50_000)
        slow = self.connect()
        slow.sendall(head + b'{"large": "' + b"x" * 40_000)
        self.wait_until("it is in flight", lambda: self.payloads()._size > 30_000)
        small = self.set("small", "x" * 4000)
        large = self.set("large", "x" * 40_000)

        self.assertEqual((201, 503), (small.status, large.status))
        self.assertEqual("5", large.fields["retry-after"])

    def test_large_body_counts_until_its_value_is_written(self) -> None:
        future: Future[bool] = Future()
        keys = self.pages()._keys
        with mock.patch.object(keys, "set", lambda *_: future):
            connection = self.connect()
            body = b'{"large": "' + b"x" * 40_000 + b'"}'
            connection.sendall(b"POST /set HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body))
            connection.sendall(body)
            self.wait_until("it has arrived", lambda: self.payloads()._size == len(body) - 4096)
            future.set_result(True)
            self.assertEqual(201, read_answer(connection).status)

        self.assertEqual(0, self.payloads()._size)

    def test_body_that_arrives_byte_by_byte_is_one_buffer(self) -> None:
        client, connection = socket.socketpair()
        self.addCleanup(client.close)
        self.addCleanup(connection.close)
        request = Request(Head("POST", "/set", "", (1, 1), {}), None).copy(
            "", RequestBody(Receiver(connection), Sized(1), SYSTEM_CLOCK.now, threading.Lock())
        )
        body = self.payloads().gather(request)
        body.send(None)
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        for _ in range(20_000):
            body.send(memoryview(b"x"))

        self.assertLess(tracemalloc.get_traced_memory()[0], 60_000)

    def payloads(self) -> Payloads:
        payloads: Payloads = self.pages()._payloads
        return payloads


class AnswersTest(TempCase):
    def test_replaced_response_is_counted_once(self) -> None:
        answers = kv._ResponseCache()
        for commits in range(0, 200_000, 2):
            answers.put("/key", commits, b"x" * 1000)

        self.assertEqual(b"x" * 1000, answers.get("/key", 199_998))
        self.assertLess(answers._answers.size, 2000)

    def test_cached_responses_stay_within_the_bound(self) -> None:
        answers = kv._ResponseCache()
        for number in range(50_000):
            answers.put(f"/{'k' * 1000}{number}", 0, b"{}")

        kept = sum(len(path) + len(body) for path, (_, body) in answers._answers._values.items())
        self.assertLess(kept, kv._MAX_CACHE_SIZE)


class SlowWriterTest(KvCase):
    """Requests hold no thread while the writer is busy with a large commit."""

    threads = 1

    def test_requests_that_await_the_writer_delay_no_others(self) -> None:
        writing, goes_on = threading.Event(), threading.Event()
        keys = self.engine()
        transact = keys._transact

        def slowly(jobs: Any) -> Any:
            writing.set()
            goes_on.wait(PATIENCE)
            return transact(jobs)

        keys._transact = slowly  # type: ignore[method-assign]
        connections = [self.connect() for _ in range(20)]
        for number, connection in enumerate(connections):
            connection.sendall(
                b'POST /set HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{"k%02d": %d}' % (number, number % 10)
            )
        writing.wait(PATIENCE)

        self.assertEqual(200, self.get("/-/health").status)
        self.assertEqual(404, self.get("/k01").status)
        goes_on.set()

        self.assertEqual([201] * 20, [read_answer(connection).status for connection in connections])


class RecallTest(unittest.TestCase):
    """What a worker answers from memory while another one commits."""

    def setUp(self) -> None:
        self.keys = mock.Mock(is_remote=False, commits=2)
        self.keys.get.return_value = b"1"
        route = kv.routes(self.keys).match("GET", "/cup").route
        assert route is not None and route.recall is not None
        self.read, self.recall = route.page, route.recall
        self.request = Request(Head("GET", "/cup", "", (1, 1), {}), 0)

    def test_value_is_recalled_until_the_next_commit(self) -> None:
        self.read(self.request)
        recalled = self.recall(self.request)
        self.keys.commits = 4

        assert recalled is not None
        self.assertEqual(b'{"cup": 1}\n', recalled.body)
        self.assertIsNone(self.recall(self.request))

    def test_value_that_was_read_before_or_during_a_commit_is_not_recalled(self) -> None:
        for before, after in ((2, 4), (3, 3)):
            self.keys.commits = before

            def get(_: str, after: int = after) -> bytes:
                self.keys.commits = after
                return b"1"

            self.keys.get.side_effect = get
            self.read(self.request)

            self.assertIsNone(self.recall(self.request))
