"""A client and servers that fail, lie, or are no filestoraged at all."""

from __future__ import annotations

import hashlib
from io import BytesIO
from typing import Any

from filestoraged.client import Client, Retries
from filestoraged.client.refusals import ServerUnreachable, UnexpectedResponse
from filestoraged.client.sources import PIECE_SIZE
from filestoraged.errors import DigestMismatch, Error, Forbidden, StorageFull, TooLarge, Unavailable
from tests.client.scripted_server import Received, Script, ScriptedServer, answer, document
from tests.support import TempCase, free_port

TEA = hashlib.sha256(b"tea").hexdigest()
STORED = document(200, {"hash": TEA, "size": 3})
PAGE = b"<html><body>Welcome to the hotel</body></html>"


class AnswersCase(TempCase):
    def setUp(self) -> None:
        super().setUp()
        self.pauses: list[float] = []

    def serve(self, *scripts: Script) -> ScriptedServer:
        server = ScriptedServer(scripts)
        self.addCleanup(server.__exit__)
        return server

    def client(self, url: str, limit: int = 5, **settings: Any) -> Client:
        client = Client(url, retries=Retries(limit, sleep=self.pauses.append), **settings)
        self.addCleanup(client.close)
        return client


class RetriesTest(AnswersCase):
    def test_bad_gateway_is_retried_with_growing_pauses(self) -> None:
        server = self.serve(answer(502, PAGE), answer(504), answer(429), STORED)

        stored = self.client(server.url).put(b"tea")

        self.assertEqual(TEA, stored.digest)
        self.assertEqual([b"tea"] * 4, [each.body for each in server.requests])
        for pause, longest in zip(self.pauses, (0.5, 1.0, 2.0), strict=True):
            self.assertTrue(longest / 2 <= pause <= longest, self.pauses)

    def test_retry_after_is_obeyed_but_not_that_of_an_hour(self) -> None:
        server = self.serve(document(503, {"error": "Service Unavailable"}, Retry_After="7"), STORED)
        self.client(server.url).put(b"tea")
        (pause,) = self.pauses
        self.assertTrue(7 <= pause < 8, pause)

        server = self.serve(answer(503, Retry_After="3600"))
        with self.assertRaises(Unavailable):
            self.client(server.url).put(b"tea")
        self.assertEqual([pause], self.pauses)

    def test_failure_that_does_not_pass_is_raised_after_the_last_retry(self) -> None:
        server = self.serve(answer(502))

        with self.assertRaisesRegex(Unavailable, "502"):
            self.client(server.url, limit=2).put(b"tea")

        self.assertEqual(3, len(server.requests))

    def test_refusals_are_not_retried(self) -> None:
        for status, error in ((413, TooLarge), (403, Forbidden), (507, StorageFull), (418, UnexpectedResponse)):
            with self.subTest(status):
                server = self.serve(answer(status, PAGE))

                with self.assertRaisesRegex(error, str(status)):
                    self.client(server.url).put(b"tea")

                self.assertEqual(1, len(server.requests))

    def test_message_of_the_daemon_is_that_of_the_error(self) -> None:
        refusal = document(413, {"error": "Request Entity Too Large", "message": "Content exceeds\x1b[2J 3 bytes."})

        with self.assertRaises(TooLarge) as raised:
            self.client(self.serve(refusal).url).put(b"tea")

        self.assertEqual("Content exceeds?[2J 3 bytes.", str(raised.exception))

    def test_connection_that_closes_without_an_answer_is_retried(self) -> None:
        server = self.serve(b"", b"", STORED)

        self.assertEqual(TEA, self.client(server.url).put(b"tea").digest)

    def test_server_that_is_not_there_is_unreachable(self) -> None:
        with self.assertRaisesRegex(ServerUnreachable, "cannot connect to http://127.0.0.1"):
            self.client(f"http://127.0.0.1:{free_port()}", limit=2).put(b"tea")

        self.assertEqual(2, len(self.pauses))

    def test_removal_whose_answer_was_lost_is_done(self) -> None:
        missing = document(404, {"error": "Not Found", "message": "There is no object by that name."})

        self.client(self.serve(b"", missing).url).delete(TEA)

        self.assertEqual(1, len(self.pauses))


class StrangersTest(AnswersCase):
    def test_answers_that_are_none_of_the_daemon_are_refused(self) -> None:
        for script in (
            b"SSH-2.0-OpenSSH_9.2\r\n",
            b"\x00\xff" * 100_000,
            answer(200, PAGE, Content_Type="text/html"),
            document(200, ["hash"]),
            document(200, {"hash": "../../etc/passwd"}),
            answer(200, b"[" * 100_000),
            answer(200, b"x", length=3_000_000_000_000),
        ):
            with self.subTest(script[:40]):
                self.assert_unexpected(script)

    def test_status_that_the_daemon_does_not_answer_is_refused(self) -> None:
        part = answer(206, b"tea", Content_Range="bytes 0-2/1000")
        encoded = answer(200, b"tea", Content_Encoding="gzip")
        for script in (part, answer(202, b""), answer(204, b""), encoded):
            with self.subTest(script):
                url = self.serve(script).url
                self.assertRaises(UnexpectedResponse, self.client(url).fetch_drop, f"{url}/drop/{'0' * 32}")
                self.assertRaises(UnexpectedResponse, self.client(url).get, TEA)
                if script != encoded:
                    self.assertRaises(UnexpectedResponse, self.client(url).delete, TEA)

    def test_redirect_is_not_followed_and_gets_no_token(self) -> None:
        target = self.serve(STORED)
        server = self.serve(answer(302, Location=f"{target.url}/"))

        with self.assertRaisesRegex(UnexpectedResponse, "redirects to 'http://127.0.0.1"):
            self.client(server.url, token="fsd_x").put(b"tea")

        self.assertEqual([], target.requests)
        self.assertEqual("Bearer fsd_x", server.requests[0].fields["authorization"])

    def test_url_at_another_host_gets_no_token(self) -> None:
        other = self.serve(answer(200, b"tea"))

        with self.client("http://127.0.0.1:1", token="fsd_x").get(f"{other.url}/{TEA}") as download:
            self.assertEqual(b"tea", b"".join(download))

        self.assertNotIn("authorization", other.requests[0].fields)

    def test_listing_that_does_not_end_is_refused(self) -> None:
        server = self.serve(document(200, {"repositories": ["a"], "next": "a"}))

        with self.assertRaisesRegex(UnexpectedResponse, "does not end"):
            list(self.client(server.url).repositories())

        self.assertEqual(2, len(server.requests))

    def test_pages_of_a_listing_follow_each_other(self) -> None:
        entry = {"oid": TEA, "size": 3, "modified": "2026-11-22T10:00:00Z"}
        server = self.serve(
            document(200, {"objects": [entry], "next": TEA}), document(200, {"objects": [entry], "next": None})
        )

        found = list(self.client(server.url).list("kitchen"))

        self.assertEqual([(TEA, 3)] * 2, [(each.oid, each.size) for each in found])
        self.assertEqual(f"GET /data/kitchen?after={TEA} HTTP/1.1", server.requests[1].line)

    def assert_unexpected(self, script: bytes) -> None:
        server = self.serve(script)
        with self.assertRaises(Error) as raised:
            self.client(server.url, limit=1).put(b"tea")
        self.assertIsInstance(raised.exception, (UnexpectedResponse, ServerUnreachable))
        self.assertTrue(str(raised.exception).isprintable(), raised.exception)


class LiesTest(AnswersCase):
    def test_upload_that_the_server_names_otherwise_is_a_mismatch(self) -> None:
        for digest in ("0" * 64, "0" * 32, "0" * 128):
            server = self.serve(document(200, {"hash": digest, "size": 3}))

            with self.subTest(digest), self.assertRaises(DigestMismatch):
                self.client(server.url).put(b"tea")

    def test_download_of_other_bytes_is_a_mismatch_and_makes_no_file(self) -> None:
        server = self.serve(answer(200, b"milk"))

        with self.assertRaises(DigestMismatch):
            self.client(server.url).save(TEA, self.directory / "tea")

        self.assertEqual([], self.files_below(self.directory))

    def test_download_that_breaks_off_goes_on_behind_what_has_arrived(self) -> None:
        def rest(request: Received) -> bytes:
            self.assertEqual(("bytes=2-", f'"{TEA}"'), (request.fields["range"], request.fields["if-range"]))
            return answer(206, b"a", Content_Range="bytes 2-2/3")

        for script in (rest, answer(200, b"tea")):
            server = self.serve(answer(200, b"te", length=3), script)
            with self.subTest(script=script), self.client(server.url).get(TEA) as download:
                self.assertEqual((3, b"tea"), (download.size, b"".join(download)))

    def test_download_that_goes_on_elsewhere_is_refused(self) -> None:
        # One byte is missing, so nothing but the range is wrong with this answer.
        for field in ("bytes 1-2/3", "bytes */3", "nonsense", ""):
            server = self.serve(answer(200, b"te", length=3), answer(206, b"a", Content_Range=field))

            with self.subTest(field), self.assertRaisesRegex(UnexpectedResponse, "another range"):
                b"".join(self.client(server.url).get(TEA))

    def test_text_that_a_terminal_acts_on_is_refused(self) -> None:
        entry = {"oid": TEA, "size": 3, "modified": "2026-11-22T10:00:00Z"}
        for key, value in (("oid", "\x1b[2J"), ("modified", "a\nb"), ("oid", "\ud800"), ("size", float("inf"))):
            server = self.serve(document(200, {"objects": [{**entry, key: value}], "next": None}))
            with self.subTest(key, value=value), self.assertRaises(UnexpectedResponse):
                list(self.client(server.url).list("kitchen"))
        for name in ("\x1b]0;tea\x07", 1):
            server = self.serve(document(200, {"repositories": [name], "next": None}))
            with self.subTest(name), self.assertRaises(UnexpectedResponse):
                list(self.client(server.url).repositories())
        server = self.serve(document(200, {"url": "http://localhost/\x1b[2J"}))
        with self.assertRaises(UnexpectedResponse):
            self.client(server.url).create_drop(b"tea")

    def test_upload_that_makes_no_progress_is_given_up(self) -> None:
        created = answer(201, Location="/uploads/1")
        for offsets in (["0"], ["5", "0"] * 9):
            server = self.serve(created, *(answer(204, Upload_Offset=each) for each in [*offsets, "0"]))

            with self.subTest(offsets), self.assertRaises(Unavailable):
                self.client(server.url, limit=2).put(BytesIO(bytes(PIECE_SIZE + 1)))

            self.assertLess(len(server.requests), 10)

    def test_answer_of_endless_size_to_a_piece_is_refused(self) -> None:
        huge = answer(200, bytes(100_000), length=1 << 50, Upload_Offset="1")
        server = self.serve(answer(201, Location="/uploads/1"), huge)

        with self.assertRaises(UnexpectedResponse):
            self.client(server.url).put(BytesIO(bytes(PIECE_SIZE + 1)))

    def test_drop_that_breaks_off_is_asked_for_again(self) -> None:
        gone = document(410, {"error": "Gone", "message": "The drop has been fetched."})
        disposition = 'attachment; filename="../.tea"'
        server = self.serve(answer(200, b"te", length=3), gone, answer(200, b"tea", Content_Disposition=disposition))

        saved = self.client(server.url).save_drop(f"{server.url}/drop/{'0' * 32}", self.directory / "tea")

        self.assertEqual((b"tea", TEA, 3), ((self.directory / "tea").read_bytes(), saved.digest, saved.size))
        self.assertEqual(2, len(self.pauses))
