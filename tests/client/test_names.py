"""Names by the client: changes under conditions, downloads, listings."""

from __future__ import annotations

import hashlib
import io
from typing import Any

from filestoraged.client import Client, Retries
from filestoraged.client.names import NameReference, is_name, parse_name
from filestoraged.client.refusals import ServerUnreachable, TargetExists, UnexpectedResponse
from filestoraged.command_errors import UsageError
from filestoraged.errors import DigestMismatch, NotFound, PreconditionFailed
from tests.client.scripted_server import ScriptedServer, answer, document
from tests.support import ServerCase

TEA, COFFEE = b"tea", b"coffee"
TEA_OID, COFFEE_OID = (hashlib.sha256(data).hexdigest() for data in (TEA, COFFEE))
ENTRY = {"name": "a", "oid": TEA_OID, "size": 3, "modified": "2026-11-22T10:00:00Z", "expires": None}
LOST = b""


class ClientNamesTest(ServerCase):
    interfaces = ("names",)

    def setUp(self) -> None:
        super().setUp()
        self.client = Client(f"http://127.0.0.1:{self.bound.port}")
        self.addCleanup(self.client.close)

    def read(self, name: str) -> bytes:
        with self.client.get_name("s", name) as download:
            return b"".join(download)

    def test_bytes_files_and_streams_get_names(self) -> None:
        path = self.directory / "tea"
        path.write_bytes(TEA)

        for name, content in (("a b/é", TEA), ("b%2F?#", path), ("c\u202fd\u3000", io.BytesIO(TEA))):
            stored = self.client.put_name("s", name, content)
            self.assertEqual((name, TEA_OID, 3, None), (stored.name, stored.oid, stored.size, stored.expires))
            self.assertEqual(TEA, self.read(name))

        self.assertEqual(["a b/é", "b%2F?#", "c\u202fd\u3000"], [each.name for each in self.client.names("s")])
        self.assertEqual(["b%2F?#"], [each.name for each in self.client.names("s", "b%")])
        self.assertEqual(["s"], list(self.client.spaces()))

    def test_time_to_live_and_type_are_sent(self) -> None:
        stored = self.client.put_name("s", "a", TEA, ttl=60, content_type="text/plain")

        self.assertIsNotNone(stored.expires)
        self.assertEqual("text/plain", self.get("/names/s/a").fields["content-type"])

    def test_condition_that_does_not_hold_raises_precondition_failed(self) -> None:
        self.client.put_name("s", "a", TEA, if_new=True)

        with self.assertRaises(PreconditionFailed):
            self.client.put_name("s", "a", COFFEE, if_new=True)
        with self.assertRaises(PreconditionFailed):
            self.client.put_name("s", "a", COFFEE, if_oid=COFFEE_OID)
        with self.assertRaises(PreconditionFailed):
            self.client.delete_name("s", "a", if_oid=COFFEE_OID)
        self.client.put_name("s", "a", COFFEE, if_oid=TEA_OID)
        self.client.delete_name("s", "a", if_oid=COFFEE_OID)

        with self.assertRaises(NotFound):
            self.client.delete_name("s", "a")
        with self.assertRaises(NotFound):
            self.client.get_name("s", "a")

    def test_large_content_is_saved_to_a_file_once(self) -> None:
        data = bytes(20_000_000)
        self.client.put_name("s", "a", data)
        path = self.directory / "saved"

        saved = self.client.save_name("s", "a", path)

        self.assertEqual((str(path), hashlib.sha256(data).hexdigest(), len(data)), saved[:3])
        self.assertEqual(data, path.read_bytes())
        with self.assertRaises(TargetExists):
            self.client.save_name("s", "a", path)

    def test_names_of_several_pages_are_listed(self) -> None:
        names = [f"{number:04}" for number in range(1001)]
        self.make_names(names)

        self.assertEqual(names, [each.name for each in self.client.names("s")])
        self.assertEqual(names[10:20], [each.name for each in self.client.names("s", "001")])

    def test_longest_names_and_types_are_listed(self) -> None:
        names = [f"{number:04}" + "\xe9" * 510 for number in range(1000)]
        self.make_names(names, type_="\xff" * 255)

        self.assertEqual(names, [each.name for each in self.client.names("s")])

    def make_names(self, names: list[str], *, type_: str = "") -> None:
        registry = next(each for each in self.services.resources.janitors if hasattr(each, "_names"))._names
        self.client.put_name("s", names[0], TEA)
        registry.transactions.write_rows(
            """INSERT INTO names (path, space, oid, size, type, fields, modified, used)
                VALUES (?, 's', ?, 3, ?, '', 0, 0)""",
            [(f"s/{name}".encode(), TEA_OID, type_) for name in names[1:]],
        ).result()

    def test_invalid_names_spaces_and_oids_are_usage_errors(self) -> None:
        for space, name in (
            ("s", ""),
            ("s", "a//b"),
            ("s", ".."),
            ("s", "a/."),
            ("..", "a"),
            ("a b", "c"),
            ("s", "\n"),
            ("s", "\x9b"),
            ("s", "\udcff"),
        ):
            with self.assertRaises(UsageError):
                self.client.put_name(space, name, TEA)
        with self.assertRaises(UsageError):
            self.client.put_name("s", "a", TEA, if_oid="x\r\n")
        with self.assertRaises(UsageError):
            list(self.client.names("a/b"))
        with self.assertRaises(UsageError):
            list(self.client.names("s", "\udcff"))
        self.assertEqual(NameReference("s", "a/b"), parse_name("s/a/b"))
        self.assertEqual([True, False, False], [is_name(each) for each in ("s/a", TEA_OID, "http://x/s/a")])


class LostAnswerTest(ServerCase):
    """What the client makes of answers that are lost, and of other servers."""

    interfaces = ("names",)

    def client(self, *scripts: Any) -> Client:
        server = self.enterContext(ScriptedServer(scripts))
        self.requests = server.requests
        client = Client(server.url, retries=Retries(3, notify=lambda *_: None, sleep=lambda _: None))
        self.addCleanup(client.close)
        return client

    def test_creation_whose_answer_was_lost_is_no_conflict(self) -> None:
        client = self.client(LOST, document(412, {"error": "x", "message": "y"}), document(200, ENTRY))

        self.assertEqual(TEA_OID, client.put_name("s", "a", TEA, if_new=True).oid)
        self.assertEqual(3, len(self.requests))

    def test_creation_of_another_client_is_a_conflict(self) -> None:
        refused = document(412, {"error": "x", "message": "y"})

        for scripts in ([refused], [LOST, refused, refused]):
            with self.assertRaises(PreconditionFailed):
                self.client(*scripts).put_name("s", "a", TEA, if_new=True)
            self.assertEqual(len(scripts), len(self.requests))

    def test_removal_whose_answer_was_lost_is_done(self) -> None:
        missing = document(404, {"error": "x", "message": "y"})

        self.client(LOST, missing, answer(404)).delete_name("s", "a")
        with self.assertRaises(NotFound):
            self.client(missing).delete_name("s", "a")

    def test_answers_of_another_server_are_unexpected(self) -> None:
        for value in (
            {},
            {**ENTRY, "oid": "x"},
            {**ENTRY, "size": -1},
            {**ENTRY, "size": True},
            {**ENTRY, "name": "\n"},
            {**ENTRY, "name": "\x9b"},
        ):
            with self.assertRaises(UnexpectedResponse):
                self.client(document(201, value)).put_name("s", "a", TEA)
        with self.assertRaises(DigestMismatch):
            self.client(document(201, {**ENTRY, "oid": COFFEE_OID})).put_name("s", "a", TEA)
        with self.assertRaises(UnexpectedResponse):
            self.client(answer(200)).get_name("s", "a")
        with self.assertRaises(ServerUnreachable):
            self.client(LOST).put_name("s", "a", TEA)
