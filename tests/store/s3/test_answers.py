"""What answers of an S3 store mean. Those that lie are errors of the store, within bounds, and a line in the log."""

from __future__ import annotations

import functools
import itertools
import unittest
from collections.abc import Callable, Iterable
from unittest import mock

from filestoraged.errors import NotFound, StorageFull, StoreUnavailable
from filestoraged.store.s3.answers import (
    MAX_BODY_SIZE,
    Answer,
    StoreRefusal,
    check_completion,
    parse_listing,
    parse_upload_id,
    parse_uploads,
)
from filestoraged.store.s3.blob import ParkedBlobs, S3Blob
from filestoraged.store.s3.client import S3Client
from filestoraged.store.s3.credentials import CredentialSource
from filestoraged.store.s3.listing import count, list_names, list_namespaces
from filestoraged.store.s3.multipart import list_uploads
from filestoraged.store.s3.transport import StoreConnection
from filestoraged.store.s3.url import parse_url
from tests.clock import PassingClock
from tests.net.virtual_socket import Sent, VirtualSocket, at_once, endless
from tests.store.contract import Gather

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret"}
HEAD = b"HTTP/1.1 200 OK\r\nConnection: close\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"

# As a billion laughs: 100 bytes for each byte of the document.
ENTITIES = '<!DOCTYPE a [<!ENTITY e "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx">]>'


def sized(body: bytes, fields: bytes = b"") -> bytes:
    return HEAD + fields + b"Content-Length: %d\r\n\r\n" % len(body) + body


def listing(*keys: str, size: str = "3", modified: str = "2026-11-22T10:00:00Z", last: bool = True) -> bytes:
    objects = "".join(
        f"<Contents><Key>{key}</Key><Size>{size}</Size><LastModified>{modified}</LastModified></Contents>"
        for key in keys
    )
    return f"<R>{objects}<IsTruncated>{'false' if last else 'true'}</IsTruncated></R>".encode()


def encoded(encoding: str, codec: str = "utf-8") -> bytes:
    return f"<?xml version='1.0' encoding='{encoding}'?>{ENTITIES}<R><Code>&e;</Code></R>".encode(codec)


# Documents that are no listing.
DOCUMENTS = {
    "month 13": listing("a", modified="2026-13-22T10:00:00Z"),
    "year 0": listing("a", modified="0000-01-22T10:00:00Z"),
    "hour 99": listing("a", modified="2026-11-22T99:00:00Z"),
    "zone": listing("a", modified="2026-11-22T10:00:00+99:99"),
    "size of 5,000 digits": listing("a", size="9" * 5000),
    "negative size": listing("a", size="-1"),
    "size in other digits": listing("a", size="\u0663"),
    "no XML": b"\x00\xff" * 40,
    "entities": encoded("utf-8"),
    "entities in UTF-16": encoded("utf-16", "utf-16"),
    "entities in UTF-16 without a mark": encoded("utf-16", "utf-16-le"),
    "entities in UTF-16, the other way around": encoded("utf-16", "utf-16-be"),
    "Latin-1": "<R>\xe9</R>".encode("latin-1"),
    "two million elements": b"<R>" + b"<a/>" * 2_000_000 + b"</R>",
    "a million attributes": b"<R " + b" ".join(b'a%d=""' % number for number in range(500_000)) + b"/>",
}

# Bytes that are no response.
RESPONSES = {
    "chunk of -1": CHUNKED + b"-1\r\n" + b"x" * 1000,
    "chunk of -5": CHUNKED + b"-5\r\n" + b"x" * 1000,
    "length of 5,000 digits": HEAD + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n",
    "length beyond the limit": HEAD + b"Content-Length: %d\r\n\r\n" % (MAX_BODY_SIZE + 1),
    "status of 5,000 digits": b"HTTP/1.1 " + b"2" * 5000 + b"\r\n\r\n",
    "body that is cut": HEAD + b"Content-Length: 100\r\n\r\n" + listing(),
    "another protocol": b"SSH-2.0-OpenSSH_9.2\r\n",
}


def endlessly(head: bytes, piece: bytes, _: int) -> Iterable[Sent]:
    return itertools.chain(at_once(head), endless(piece))


def answered(document: bytes) -> Answer:
    return Answer(200, {}, document)


class DocumentsTest(unittest.TestCase):
    def test_document_that_is_no_listing_is_an_error_of_the_store(self) -> None:
        for name, document in DOCUMENTS.items():
            with self.subTest(name), self.assertRaises(StoreUnavailable) as raised:
                parse_listing(answered(document), "")
            cause = raised.exception.__cause__
            self.assertIsInstance(cause, ValueError)
            self.assertTrue(str(cause).isprintable(), cause)
            self.assertLess(len(str(cause)), 500)

    def test_document_is_read_as_utf_8_whatever_encoding_it_declares(self) -> None:
        for encoding in ("UTF-8", "zlib_codec", "punycode", "rot13", "latin-1", "utf-16", "none"):
            document = f"<?xml version='1.0' encoding='{encoding}'?>".encode() + listing("caf\u00e9")
            with self.subTest(encoding):
                self.assertEqual("caf\u00e9", parse_listing(answered(document), "").objects[0].key)

    def test_error_in_an_unknown_encoding_has_a_code_or_none(self) -> None:
        text = "<Error><Code>NoSuchBucket</Code></Error>"

        self.assertEqual("NoSuchBucket", Answer(404, {}, text.encode("utf-8-sig")).code)
        for encoding in ("zlib_codec", "punycode"):
            declared = f"<?xml version='1.0' encoding='{encoding}'?>{text}"
            self.assertEqual("NoSuchBucket", Answer(404, {}, declared.encode()).code)
        self.assertEqual("", Answer(404, {}, text.encode("utf-16")).code)
        self.assertEqual("", Answer(404, {}, (text + " " * 100_000).encode()).code)

    def test_control_characters_of_a_message_are_escaped_in_the_log(self) -> None:
        body = "<Error><Code>Bad\x9b2J</Code><Message>a\nb\u2028c\x7f\u202e\tfsd</Message></Error>".encode()

        self.assertEqual(
            "the S3 store answered 400 Bad\\x9b2J a\\nb\\u2028c\\x7f\\u202e\\tfsd",
            str(StoreRefusal(Answer(400, {}, body))),
        )

    def test_uploads_in_parts_with_impossible_dates_or_ids_are_left_out(self) -> None:
        one = "<Upload><Key>a</Key><UploadId>{}</UploadId><Initiated>{}</Initiated></Upload>"
        uploads = one.format("1", "2026-13-01T00:00:00Z") + one.format("2" * 5000, "2026-12-01T00:00:00Z")

        self.assertEqual([], parse_uploads(answered(f"<R>{uploads}</R>".encode()), ""))
        with self.assertRaises(StoreUnavailable):
            parse_upload_id(answered(f"<R><UploadId>{'2' * 5000}</UploadId></R>".encode()))


class LyingStoreTest(unittest.TestCase):
    def setUp(self) -> None:
        self.sockets: list[VirtualSocket] = []

    def client(self, sent: Callable[[int], Iterable[Sent]]) -> S3Client:
        """A client whose connections, by their numbers, receive what the function returns."""
        case = self
        self.sockets.clear()

        class Connection(StoreConnection):
            def connect(self) -> None:
                self.sock = VirtualSocket(sent(len(case.sockets)))
                case.sockets.append(self.sock)

        credentials = CredentialSource(None, CREDENTIALS)
        return S3Client(parse_url("http://localhost/cats"), credentials, connect=Connection, clock=PassingClock())

    def answering(self, *responses: bytes) -> S3Client:
        """A client to which the responses come in turn, and the last one again and again."""
        return self.client(lambda number: at_once(responses[min(number, len(responses) - 1)]))

    def test_bytes_that_are_no_response_make_the_store_unavailable(self) -> None:
        for name, response in RESPONSES.items():
            with self.subTest(name), self.assertRaises(StoreUnavailable) as raised:
                self.answering(response).list()
            cause = str(raised.exception.__cause__)
            self.assertTrue(cause.isprintable(), cause)
            self.assertLess(len(cause), 500)

    def test_endless_body_is_read_up_to_the_limit(self) -> None:
        chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
        for head, piece in ((HEAD + b"\r\n", b"x" * 1000), (CHUNKED, chunk), (CHUNKED + b"-1\r\n", b"x" * 1000)):
            client = self.client(functools.partial(endlessly, head, piece))
            with self.subTest(piece[:10]), self.assertRaises(StoreUnavailable):
                client.list()
            self.assertLess(max(each.received for each in self.sockets), MAX_BODY_SIZE + 1024 * 1024)

    def test_size_of_an_object_that_is_no_number_is_refused(self) -> None:
        for length in ("9" * 5000, "-1", "\xb2"):
            client = self.answering(HEAD + f"Content-Length: {length}\r\n".encode("latin-1") + b"\r\n")
            # The length of an answer to HEAD frames nothing.
            self.assertEqual(0, client.head("a").size)
            with self.assertRaises(StoreUnavailable):
                client.get("a")

    def test_part_of_an_object_that_is_not_as_it_says_is_refused(self) -> None:
        for field in ("bytes 0-9/3", "bytes 0-1/3", "bytes 1-3/9", f"bytes 0-2/{'9' * 5000}", "bytes -3-0/3"):
            client = self.answering(sized(b"tea", f"Content-Range: {field}\r\n".encode()))
            with self.subTest(field[:20]), self.assertRaises(StoreUnavailable):
                client.get("a")

    def test_store_that_sends_less_than_the_size_of_an_object_is_asked_for_the_rest_and_given_up(self) -> None:
        beginning = sized(b"tea", b"Content-Range: bytes 0-2/1000000\r\n")
        nothing = sized(b"", b"Content-Range: bytes 3-2/1000000\r\n")
        client = self.answering(beginning, nothing)

        with S3Blob(client, "a", "a", parked=ParkedBlobs()) as blob, self.assertRaises(StoreUnavailable):
            blob.send(Gather(), 0, blob.size)

    def test_listing_that_does_not_go_on_is_ended(self) -> None:
        name = "ab" * 32
        page = sized(listing(f"ab/{name}", last=False))

        with self.assertRaises(StoreUnavailable):
            list_names(self.answering(page), "", "", 10)
        with self.assertRaises(StoreUnavailable):
            count(self.answering(page), lambda: None)

    def test_uploads_that_are_listed_in_turns_are_ended(self) -> None:
        one = "<R><Upload><Key>{}</Key><UploadId>1</UploadId><Initiated>2026-11-22T10:00:00Z</Initiated></Upload></R>"
        pages = [sized(one.format(key).encode()) for key in "ab"]
        client = self.client(lambda number: at_once(pages[number % 2]))

        self.assertEqual(["a", "b"], [each.key for each in list_uploads(client)])

    def test_all_pages_of_a_listing_have_one_deadline(self) -> None:
        """Of names that are no digests there may be any number."""
        for list_page in (list_names, list_namespaces):
            pages = [sized(listing(f"ab/{number}", last=number == 3)) for number in range(4)]
            client = self.answering(*pages)
            with self.subTest(list_page), mock.patch.object(client, "list", wraps=client.list) as requests:
                self.assertEqual([], list(list_page(client, "", "", 10)))
            self.assertEqual(4, requests.call_count)
            self.assertEqual(1, len({each.kwargs["until"] for each in requests.call_args_list}))

    def test_missing_object_is_still_told(self) -> None:
        missing = b"HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 39\r\n\r\n"

        with self.assertRaises(NotFound):
            self.answering(missing + b"<Error><Code>NoSuchKey</Code></Error>  ").get("a")


class CompletionTest(unittest.TestCase):
    def test_error_behind_a_head_with_200_has_its_own_meaning(self) -> None:
        for code, expected in (("QuotaExceeded", StorageFull), ("InternalError", StoreUnavailable)):
            with self.subTest(code=code):
                document = f"<Error><Code>{code}</Code></Error>".encode()
                self.assertRaises(expected, check_completion, answered(document))

    def test_answer_without_a_result_is_no_completion(self) -> None:
        for document in (b"", b"   ", b"<Other/>", b"<html>", b"CompleteMultipartUploadResult"):
            with self.subTest(document):
                self.assertRaises(StoreUnavailable, check_completion, answered(document))

    def test_result_with_or_without_a_namespace_is_a_completion(self) -> None:
        namespace = b' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
        check_completion(answered(b"<CompleteMultipartUploadResult/>"))
        check_completion(answered(b"  <CompleteMultipartUploadResult%b/>" % namespace))
