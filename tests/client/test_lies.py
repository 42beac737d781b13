"""A client and servers that send what no server may: each is one sentence, within bounds of bytes and of time."""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import json
import os
from collections.abc import Callable, Iterable
from unittest import mock

from filestoraged.cli.main import main
from filestoraged.client import Client
from filestoraged.client.refusals import UnexpectedResponse
from filestoraged.client.saving import MAX_DROP_SIZE
from filestoraged.errors import Error, MethodNotAllowed, TooManyGuesses, Unavailable
from filestoraged.net.connection import HttpConnection
from tests.client.scripted_server import answer, document
from tests.client.test_answers import TEA, AnswersCase
from tests.net.virtual_socket import Sent, VirtualSocket, at_once, dripping, endless

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
ENTRY = {"oid": TEA, "size": 3, "modified": "2026-11-22T10:00:00Z"}
LINK = f"http://localhost/drop/{'0' * 32}"

# Responses to any request.
LIES = {
    "chunk of -1": CHUNKED + b"-1\r\n" + b"x" * 1000,
    "chunk of -5": CHUNKED + b"-5\r\n" + b"x" * 1000,
    "100 Continue again and again": CONTINUE * 100_000,
    "trailers without an end": CHUNKED + b"3\r\ntea\r\n0\r\n" + b"name: value\r\n" * 100_000,
    "length of 5,000 digits": b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
}

# Documents that are no listing of a repository.
LISTINGS = {
    "negative size": json.dumps({"objects": [{**ENTRY, "size": -3}]}),
    "size that is a fraction": json.dumps({"objects": [{**ENTRY, "size": 3.5}]}),
    "size that is true": json.dumps({"objects": [{**ENTRY, "size": True}]}),
    "size of 5,000 digits": json.dumps({"objects": [{**ENTRY, "size": "?"}]}).replace('"?"', "9" * 5000),
    "size that is no number": json.dumps({"objects": [{**ENTRY, "size": float("nan")}]}),
    "size of 100 bits": json.dumps({"objects": [{**ENTRY, "size": 2**100}]}),
    "oid that is no digest": json.dumps({"objects": [{**ENTRY, "oid": "../tea"}]}),
    "time that is none": json.dumps({"objects": [{**ENTRY, "modified": "2026-13-22T10:00:00Z"}]}),
    "entry that is no object": json.dumps({"objects": [3]}),
    "depth": '{"objects": %s}' % ("[" * 100_000),
    "surrogate in the next name": '{"objects": [], "next": "\\ud800"}',
    "two lists of objects": '{"objects": [], "objects": []}',
}


class CommandsTest(AnswersCase):
    def test_lies_are_one_sentence_and_exit_status_1(self) -> None:
        tea = self.directory / "tea"
        tea.write_bytes(b"tea")
        for name, lie in LIES.items():
            url = self.serve(lie).url
            for arguments in (
                ["list", "--from", url],
                ["list", "kitchen", "--from", url],
                ["get", TEA, "--from", url],
                ["get", TEA, "--from", url, "--output", "-"],
                ["get", f"{url}/drop/{'0' * 32}"],
                ["put", str(tea), "--to", url],
                ["put", str(tea), "--drop", "--to", url],
                ["rm", TEA, "--from", url],
            ):
                with self.subTest(name, command=arguments):
                    self.assert_fails(arguments)
        self.assertEqual(["tea"], self.files_below(self.directory))

    def test_listing_that_is_none_is_one_sentence_and_exit_status_1(self) -> None:
        for name, text in LISTINGS.items():
            url = self.serve(answer(200, text.encode())).url
            with self.subTest(name):
                self.assertEqual(b"", self.assert_fails(["list", "kitchen", "--from", url]))

    def test_names_in_a_list_have_what_a_terminal_acts_on_escaped(self) -> None:
        entry = {**ENTRY, "name": "a\u202eb\u2028", "expires": None}
        url = self.serve(answer(200, json.dumps({"names": [entry], "next": None}).encode())).url

        status, output, complaint = self.run_command(["list", "s/", "--from", url])

        self.assertEqual((0, ""), (status, complaint))
        self.assertEqual(f"{TEA} 2026-11-22T10:00:00Z 3 a\\u202eb\\u2028\n".encode(), output)

    def test_drop_without_a_size_or_without_room_is_refused_beyond_the_limit_and_leaves_nothing(self) -> None:
        for response in (
            answer(200, b"x" * MAX_DROP_SIZE, length=10**17),
            CHUNKED + (b"100000\r\n" + b"x" * 0x100000 + b"\r\n") * 17,
            b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (MAX_DROP_SIZE + 1),
        ):
            url = self.serve(response).url
            with self.subTest(response[:60]):
                self.assert_fails(["get", f"{url}/drop/{'0' * 32}"])
                self.assertEqual([], self.files_below(self.directory))

    def test_drop_larger_than_the_default_limit_is_saved_where_the_server_tells_its_size(self) -> None:
        url = self.serve(answer(200, b"x" * (MAX_DROP_SIZE + 1))).url

        status, _, complaint = self.run_command(["get", f"{url}/drop/{'0' * 32}"])

        self.assertEqual((0, ""), (status, complaint))
        self.assertEqual(MAX_DROP_SIZE + 1, (self.directory / "drop").stat().st_size)

    def test_drop_with_a_harmful_name_is_saved_under_a_harmless_one_and_an_option_has_exit_status_1(self) -> None:
        for suggested, name, expected in (
            *(("-rf", "_rf", 1), ("--", "_-", 1)),
            *((".profile", "_profile", 0), ("a/../-x", "_x", 0)),
        ):
            response = answer(200, b"tea", Content_Disposition=f'attachment; filename="{suggested}"')
            with self.subTest(suggested):
                status, output, complaint = self.run_command(["get", f"{self.serve(response).url}/drop/{'0' * 32}"])
                self.assertEqual((expected, f"{TEA}  {name}\n".encode()), (status, output))
                if expected:
                    self.assertRegex(complaint, r"\Afilestoraged: [^\n]+\n\Z")
                self.assertEqual(b"tea", (self.directory / name).read_bytes())

    def assert_fails(self, arguments: list[str]) -> bytes:
        """Returns what is on standard output."""
        status, output, complaint = self.run_command(arguments)
        self.assertEqual(1, status, complaint)
        self.assertRegex(complaint, r"\Afilestoraged: [^\n]+\n\Z")
        self.assertTrue(complaint[:-1].isprintable(), complaint)
        self.assertLess(len(complaint), 400)
        return output

    def run_command(self, arguments: list[str]) -> tuple[int, bytes, str]:
        output, complaint = io.TextIOWrapper(io.BytesIO()), io.StringIO()
        with (
            contextlib.chdir(self.directory),
            contextlib.redirect_stdout(output),
            contextlib.redirect_stderr(complaint),
            mock.patch.dict(os.environ, {"XDG_STATE_HOME": str(self.directory)}),
        ):
            status = main(arguments)
        output.flush()
        return status, output.buffer.getvalue(), complaint.getvalue()


class BoundsTest(AnswersCase):
    socket: VirtualSocket

    def client_of(self, sent: Callable[[], Iterable[Sent]]) -> Client:
        case = self

        def connect(connection: HttpConnection) -> None:
            case.socket = VirtualSocket(sent())
            connection.sock = case.socket
            connection.clock = case.socket.clock

        patch = mock.patch.object(HttpConnection, "connect", connect)
        patch.start()
        self.addCleanup(patch.stop)
        return self.client("http://localhost")

    def test_endless_responses_are_read_up_to_a_bound(self) -> None:
        for head, piece in (
            (CHUNKED + b"-1\r\n", b"x" * 1000),
            (b"", CONTINUE),
            (CHUNKED + b"0\r\n", b"name: value\r\n"),
            (CHUNKED, b"1000\r\n" + b"x" * 0x1000 + b"\r\n"),
            (b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 1000),
            (b"HTTP/1.1 413 Large\r\n\r\n", b"x" * 1000),
        ):
            client = self.client_of(functools.partial(self.sent_endlessly, head, piece))
            with self.subTest(head, piece=piece[:20]):
                with self.assertRaises(Error):
                    list(client.list("kitchen"))
                self.assertLess(self.socket.received, 5 * 1024 * 1024)

    def sent_endlessly(self, head: bytes, piece: bytes) -> Iterable[Sent]:
        return itertools.chain(at_once(head), endless(piece))

    def test_endless_drop_is_received_up_to_its_limit(self) -> None:
        client = self.client_of(lambda: itertools.chain(at_once(b"HTTP/1.1 200 OK\r\n\r\n"), endless(b"x" * 65536)))

        with self.assertRaises(UnexpectedResponse), client.fetch_drop(LINK) as download:
            for _ in download:
                self.assertLessEqual(download.position, MAX_DROP_SIZE)

    def test_object_is_received_up_to_the_size_that_was_told(self) -> None:
        head = answer(206, length=10**17, Content_Range="bytes 2-2/3")
        first = answer(200, b"te", length=3)
        responses = iter([at_once(first), itertools.chain(at_once(head), endless(b"x" * 1000))])
        client = self.client_of(lambda: next(responses))

        with self.assertRaises(UnexpectedResponse), client.get(TEA) as download:
            for _ in download:
                pass

    def test_listing_of_empty_pages_ends(self) -> None:
        # None behind the last page.
        following = iter([*(f"{number:064x}" for number in range(1000)), None])
        client = self.client_of(lambda: at_once(document(200, {"objects": [], "next": next(following)})))

        with self.assertRaisesRegex(UnexpectedResponse, "does not end"):
            list(client.list("kitchen"))

    def test_responses_that_drip_end(self) -> None:
        document_head = b"HTTP/1.1 200 OK\r\n\r\n"
        for seconds, sent in (
            (60, lambda: endless(CONTINUE, 50)),
            (60, lambda: dripping(document_head, 50)),
            (60, lambda: itertools.chain(at_once(CHUNKED + b"0\r\n"), dripping(b"name: value\r\n" * 100, 50))),
            (300, lambda: itertools.chain(at_once(document_head), endless(b" ", 50))),
            (300, lambda: itertools.chain(at_once(CHUNKED), endless(b"1\r\nx\r\n", 50))),
        ):
            client = self.client_of(sent)
            with self.subTest(seconds=seconds, sent=sent):
                with self.assertRaises(UnexpectedResponse):
                    list(client.list("kitchen"))
                self.assertEqual(seconds, self.socket.now)


class FieldsTest(AnswersCase):
    def test_time_to_wait_that_is_no_short_number_is_not_waited_for(self) -> None:
        for value in ("1" + "0" * 18, "9" * 5000, "-5", "nan", "inf", "1e9", "\xb2", "Fri, 31 Dec 9999 23:59:59 GMT"):
            url = self.serve(answer(503, Retry_After=value)).url
            self.pauses.clear()
            with self.subTest(value[:40]), self.assertRaises(Unavailable):
                self.client(url, limit=1).delete(TEA)
            self.assertLess(sum(self.pauses), 2)

    def test_time_to_wait_for_a_password_is_a_number(self) -> None:
        refused = {"error": "Too Many Requests", "message": "There were too many wrong passwords."}
        for value in ("1" + "0" * 18, "nan", "-1"):
            url = self.serve(document(429, refused, Retry_After=value)).url
            with self.subTest(value), self.assertRaises(TooManyGuesses) as raised:
                self.client(url).fetch_drop(f"{url}/drop/{'0' * 32}")
            self.assertEqual(60, raised.exception.retry_after)

    def test_methods_that_a_terminal_acts_on_are_escaped(self) -> None:
        url = self.serve(answer(405, Allow="\x9b2J, GET")).url

        with self.assertRaises(MethodNotAllowed) as raised:
            self.client(url).delete(TEA)

        self.assertTrue(str(raised.exception).isprintable(), raised.exception)
