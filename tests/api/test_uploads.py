"""The `uploads` interface, request by request: creation, offsets, pieces, checksums, and what an upload becomes."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import socket
import sqlite3
from typing import Any
from unittest import mock

from filestoraged.api import uploads as uploads_api
from filestoraged.daemon.config import Config
from filestoraged.daemon.interfaces import INTERFACES, OPERATIONS
from filestoraged.daemon.services import Services
from filestoraged.errors import BadRequest
from filestoraged.store import layout
from filestoraged.store.uploads.local_storage import LocalStorage
from filestoraged.web.metrics import Metrics
from tests.api.test_tokens import TokensCase, bearer
from tests.clock import VirtualClock
from tests.store.memcached.servers import start_memcached
from tests.support import PATIENCE, Answer, ago, in_threads, read_answer
from tests.tus import OCTETS, VERSION, UploadsCase, metadata

TEA = b"tea and milk"
TEA_HASH = hashlib.sha256(TEA).hexdigest()

MIB = 1024 * 1024


def checksum(algorithm: str, data: bytes) -> str:
    return f"{algorithm} {base64.b64encode(hashlib.new(algorithm, data).digest()).decode()}"


class ProtocolTest(UploadsCase):
    def test_options_lists_what_is_supported_and_needs_no_version(self) -> None:
        for path in ("/uploads", "/uploads/", f"/uploads/{'0' * 32}"):
            answer = self.request("OPTIONS", path)

            self.assertEqual((204, "1.0.0"), (answer.status, answer.fields["tus-version"]))
            self.assertEqual(
                "creation,creation-with-upload,creation-defer-length,expiration,termination,checksum",
                answer.fields["tus-extension"],
            )
            self.assertEqual("sha1,sha256,md5", answer.fields["tus-checksum-algorithm"])
            self.assertNotIn("tus-max-size", answer.fields)

    def test_another_version_or_none_answers_412_with_the_supported_one(self) -> None:
        path = self.created(3)
        for method, target in (("POST", "/uploads"), ("HEAD", path), ("PATCH", path), ("DELETE", path)):
            for fields in ({}, {"Tus_Resumable": "0.2.2"}):
                answer = self.request(method, target, b"", Upload_Length="3", **fields)

                self.assertEqual((412, VERSION), (answer.status, answer.fields["tus-version"]))
                self.assertEqual(VERSION, answer.fields["tus-resumable"])

    def test_body_that_cannot_be_received_is_refused_in_the_form_of_the_interface(self) -> None:
        for field, status in (
            ("Content-Length: 9999999999999999999", 413),
            ("Content-Length: 5, 6", 400),
            ("Transfer-Encoding: gzip", 501),
            ("Expect: a-pony", 417),
        ):
            answers, _ = self.raw_until_closed(
                f"PATCH /uploads/x HTTP/1.1\r\nHost: localhost\r\n{field}\r\n\r\n".encode()
            )
            self.assertEqual([status], [each.status for each in answers])
            self.assertEqual(VERSION, answers[0].fields["tus-resumable"])

    def test_a_method_that_a_path_lacks_answers_405(self) -> None:
        path = self.created(3)
        for method, target, allowed in (
            ("GET", "/uploads", "POST, OPTIONS"),
            ("HEAD", "/uploads", "POST, OPTIONS"),
            ("POST", path, "GET, HEAD, PATCH, DELETE, OPTIONS"),
            ("PUT", path, "GET, HEAD, PATCH, DELETE, OPTIONS"),
        ):
            answer = self.tus(method, target)
            self.assertEqual((405, allowed), (answer.status, answer.fields["allow"]))

    def test_override_replaces_the_method(self) -> None:
        path = self.created(3)

        appended = self.tus(
            "POST", path, b"tea", X_HTTP_Method_Override="PATCH", Upload_Offset="0", Content_Type=OCTETS
        )
        found = self.tus("GET", path, X_HTTP_Method_Override="HEAD")
        odd = self.tus("POST", path, X_HTTP_Method_Override="DANCE")
        missing = self.tus("POST", f"/uploads/{'0' * 32}", X_HTTP_Method_Override="HEAD")
        ended = self.tus("POST", path, b"", X_HTTP_Method_Override="DELETE")

        self.assertEqual([204, 200, 405, 404, 204], [each.status for each in (appended, found, odd, missing, ended)])
        self.assertEqual("3", found.fields["upload-offset"])
        # Only a request of HEAD itself has a response without a body.
        self.assertEqual("Not Found", json.loads(missing.body)["error"])

    def test_requests_of_other_sites_are_refused_whatever_method_they_name(self) -> None:
        path = self.created(3)
        evil = {"Origin": "https://evil.example"}
        for method, target, fields in (
            *((method, target, evil) for method, target in (("POST", "/uploads"), ("PATCH", path), ("DELETE", path))),
            ("GET", path, {**evil, "X_HTTP_Method_Override": "DELETE"}),
            *(
                ("POST", path, {**site, "X_HTTP_Method_Override": method})
                for method in ("GET", "HEAD", "OPTIONS")
                for site in (evil, {"Sec_Fetch_Site": "cross-site"})
            ),
        ):
            with self.subTest(method=method, fields=fields):
                self.assertEqual(403, self.tus(method, target, b"", Upload_Length="3", **fields).status)
        self.assertEqual(200, self.tus("HEAD", path).status)

    def test_head_has_no_body_on_one_connection_with_other_requests(self) -> None:
        path = self.created(3)
        connection = self.connect()
        head = f"HEAD {{}} HTTP/1.1\r\nHost: x\r\nTus-Resumable: {VERSION}\r\n\r\n"

        connection.sendall((head.format(path) + head.format("/uploads/none")).encode())
        connection.sendall(b"GET /-/health HTTP/1.1\r\nHost: x\r\n\r\n")

        received = b""
        while b'{"status": "ok"}' not in received:
            received += connection.recv(65536)
        self.assertEqual([b"200", b"404", b"200"], [each[1:4] for each in received.split(b"HTTP/1.1")[1:]])
        self.assertNotIn(b'"error"', received)

    def test_unknown_upload_answers_404(self) -> None:
        for id_ in ("0" * 32, "x", "%2e%2e", f"{'0' * 32}.lock"):
            for method in ("HEAD", "PATCH", "DELETE", "GET"):
                answer = self.tus(method, f"/uploads/{id_}", b"", Content_Type=OCTETS, Upload_Offset="0")
                self.assertEqual(404, answer.status)


class PreflightTest(UploadsCase):
    config = {"allow_origin": ("https://app.example",)}

    def test_preflight_allows_the_methods_and_fields_of_the_protocol(self) -> None:
        answer = self.request(
            "OPTIONS",
            "/uploads/x",
            Origin="https://app.example",
            Access_Control_Request_Method="PATCH",
        )

        self.assertEqual(204, answer.status)
        self.assertIn("PATCH", answer.fields["access-control-allow-methods"])
        self.assertIn("Upload-Offset", answer.fields["access-control-allow-headers"])

    def test_page_of_an_allowed_origin_may_read_the_offset(self) -> None:
        answer = self.create(3, Origin="https://app.example")

        self.assertEqual(201, answer.status)
        self.assertIn("Upload-Offset", answer.fields["access-control-expose-headers"])


class CreationTest(UploadsCase):
    def test_location_is_that_of_the_upload_and_nothing_is_received(self) -> None:
        answer = self.create(12, Upload_Metadata=metadata(filename="a.txt", type="text/plain"))

        self.assertEqual((201, "0"), (answer.status, answer.fields["upload-offset"]))
        self.assertRegex(answer.fields["location"], "^/uploads/[0-9a-f]{32}$")
        self.assertIn("GMT", answer.fields["upload-expires"])
        found = self.tus("HEAD", answer.fields["location"])
        self.assertEqual(("0", "12"), (found.fields["upload-offset"], found.fields["upload-length"]))
        self.assertEqual(metadata(filename="a.txt", type="text/plain"), found.fields["upload-metadata"])
        self.assertEqual("no-store", found.fields["cache-control"])
        self.assertEqual(404, self.get(answer.fields["location"]).status)
        self.assert_stored(0)

    def test_with_a_body_it_has_its_bytes_and_is_complete_with_the_last(self) -> None:
        for size in (5, 12):
            answer = self.tus("POST", "/uploads", TEA[:size], Upload_Length="12", Content_Type=OCTETS)

            self.assertEqual((201, str(size)), (answer.status, answer.fields["upload-offset"]))
            if size == 5:
                self.assertEqual(204, self.append(answer.fields["location"], 5, TEA[5:]).status)
            else:
                self.assertEqual(f"/{TEA_HASH}", answer.fields["content-location"])
            self.assertEqual(TEA, self.get(f"/{TEA_HASH}").body)
            self.delete(f"/{TEA_HASH}")

    def test_of_no_bytes_is_the_empty_file(self) -> None:
        answer = self.create(0)

        self.assertEqual(201, answer.status)
        self.assertEqual(
            {"hash": hashlib.sha256().hexdigest(), "size": 0}, json.loads(self.get(answer.fields["location"]).body)
        )

    def test_length_may_be_told_later_and_once(self) -> None:
        path = self.created(None)
        self.assertEqual("1", self.tus("HEAD", path).fields["upload-defer-length"])
        self.assertEqual(204, self.append(path, 0, TEA[:5]).status)
        self.assertEqual(400, self.append(path, 5, b"", Upload_Length="4").status)

        told = self.append(path, 5, TEA[5:8], Upload_Length="12")

        self.assertEqual((204, "8"), (told.status, told.fields["upload-offset"]))
        self.assertEqual("12", self.tus("HEAD", path).fields["upload-length"])
        self.assertEqual(400, self.append(path, 8, TEA[8:], Upload_Length="13").status)
        self.assertEqual(204, self.append(path, 8, TEA[8:], Upload_Length="12").status)
        self.assertEqual(TEA, self.get(f"/{TEA_HASH}").body)

    def test_late_length_that_contradicts_one_told_meanwhile_answers_400(self) -> None:
        path = self.created(None)
        found = uploads_api._check_length

        def tell_another(*values: Any) -> None:
            found(*values)
            patch.stop()
            self.assertEqual(204, self.append(path, 0, b"", Upload_Length="12").status)

        patch = mock.patch.object(uploads_api, "_check_length", tell_another)
        patch.start()
        self.addCleanup(mock.patch.stopall)

        self.assertEqual(400, self.append(path, 0, b"", Upload_Length="13").status)
        self.assertEqual("12", self.tus("HEAD", path).fields["upload-length"])

    def test_length_told_by_a_refused_request_is_not_kept(self) -> None:
        path = self.created(None)
        for status, body, fields in (
            (413, TEA, {"Upload_Length": "11"}),
            (413, iter([TEA]), {"Upload_Length": "11"}),
            (460, TEA, {"Upload_Length": "12", "Upload_Checksum": checksum("sha1", b"other bytes")}),
        ):
            with self.subTest(fields=fields):
                self.assertEqual(status, self.append(path, 0, body, **fields).status)
                self.assertEqual("1", self.tus("HEAD", path).fields["upload-defer-length"])

        self.assertEqual(204, self.append(path, 0, TEA, Upload_Length="12").status)
        self.assertEqual(TEA, self.get(f"/{TEA_HASH}").body)

    def test_refused_creation_creates_nothing(self) -> None:
        length = {"Upload_Length": "3"}
        data = {"Upload_Length": "12", "Content_Type": OCTETS}
        wrong = {"Upload_Checksum": checksum("sha1", b"other bytes")}
        for status, body, fields in (
            *((400, b"", fields) for fields in (
                {}, {"Upload_Length": "-1"}, {"Upload_Length": "x"}, {"Upload_Defer_Length": "2"},
                {"Upload_Length": "1", "Upload_Defer_Length": "1"},
            )),
            *((400, b"", {**length, "Upload_Metadata": field}) for field in (
                "filename !!!", "filename YQ", "a YQ==,a YQ==", "a YQ==,,b YQ==", "filename YQ==,", "filename /w==",
                metadata(target="nowhere"), metadata(target="repositories/.."), metadata(target="repositories"),
                metadata(hash="abc"),
            )),
            *((400, b"", {**length, "Upload_Checksum": field}) for field in ("sha1", "crc32 AAAA", "sha1 AAAA")),
            # A length that no file has.
            (413, b"", {"Upload_Length": str(2**63)}),
            (413, b"", {"Upload_Length": "9" * 5000}),
            (415, TEA, {**data, "Content_Type": "text/plain"}),
            (413, TEA, {**data, "Upload_Length": "11"}),
            # Nobody was told the id.
            (413, iter([TEA]), {**data, "Upload_Length": "11"}),
            (460, TEA, {**data, "Upload_Length": "20", **wrong}),
        ):  # fmt: skip
            with self.subTest(fields=str(fields)[:80]):
                answer = self.tus("POST", "/uploads", body, **fields)
                self.assertEqual((status, []), (answer.status, self.rows()))
        self.assert_stored(0)

    def test_body_that_breaks_off_leaves_no_upload(self) -> None:
        connection = self.connect()
        connection.sendall(
            f"POST /uploads HTTP/1.1\r\nHost: x\r\nTus-Resumable: {VERSION}\r\nContent-Type: {OCTETS}\r\n"
            "Upload-Length: 12\r\nContent-Length: 12\r\n\r\n".encode()
        )
        connection.sendall(TEA[:7])
        self.wait_until("the upload is registered", lambda: bool(self.rows()))

        connection.close()

        self.wait_for_lines(" 499 ")
        self.assertEqual([], self.rows())

    def rows(self) -> list[Any]:
        with sqlite3.connect(self.store_path / layout.UPLOADS_DATABASE) as connection:
            return connection.execute("SELECT * FROM uploads").fetchall()


class PiecesCase(UploadsCase):
    def begin(self, path: str, data: bytes, *, length: int, fields: str = "") -> socket.socket:
        """Send a part of a piece, and wait until the server has written it."""
        connection = self.connect()
        connection.sendall(
            f"PATCH {path} HTTP/1.1\r\nHost: x\r\nTus-Resumable: {VERSION}\r\nContent-Type: {OCTETS}\r\n"
            f"Upload-Offset: 0\r\nContent-Length: {length}\r\n{fields}\r\n".encode()
        )
        connection.sendall(data)
        file = self.store_path / path[1:]
        self.wait_until("the bytes are written", lambda: file.exists() and file.stat().st_size == len(data))
        return connection


class AppendTest(PiecesCase):
    def test_pieces_become_the_object_and_the_last_answer_names_it(self) -> None:
        path = self.created(len(TEA))

        first = self.append(path, 0, TEA[:4])
        last = self.append(path, 4, TEA[4:])

        self.assertEqual((204, "4"), (first.status, first.fields["upload-offset"]))
        self.assertNotIn("content-location", first.fields)
        self.assertEqual(
            (204, "12", f"/{TEA_HASH}"), (last.status, last.fields["upload-offset"], last.fields["content-location"])
        )
        encoded = base64.b64encode(bytes.fromhex(TEA_HASH)).decode()
        self.assertEqual(f"sha-256=:{encoded}:", last.fields["repr-digest"])
        self.assertEqual({"hash": TEA_HASH, "size": 12}, json.loads(self.get(path).body))
        self.assertEqual(TEA, self.get(f"/{TEA_HASH}").body)
        self.assertEqual([f"{TEA_HASH[:2]}/{TEA_HASH}"], self.files_below(self.store_path))

    def test_large_object_is_not_copied(self) -> None:
        data = os.urandom(3 * MIB)
        path = self.created(len(data))
        self.append(path, 0, data[:MIB])
        inode = os.stat(self.store_path / path[1:]).st_ino

        self.append(path, MIB, data[MIB:])

        digest = hashlib.sha256(data).hexdigest()
        self.assertEqual(inode, os.stat(self.store_path / layout.object_path(digest)).st_ino)
        self.assertEqual(0o600, os.stat(self.store_path / layout.object_path(digest)).st_mode & 0o777)

    def test_bytes_of_an_existing_object_heal_it(self) -> None:
        self.post("/", TEA)
        file = self.store_path / layout.object_path(TEA_HASH)
        file.write_bytes(b"damaged data")

        self.append(self.created(len(TEA)), 0, TEA)

        self.assertEqual(TEA, file.read_bytes())

    def test_wrong_offset_answers_409_with_the_right_one(self) -> None:
        path = self.created(12)
        self.append(path, 0, TEA[:4])

        for offset in (0, 3, 5, 12, 13, 2**63 - 1):
            answer = self.append(path, offset, TEA[4:])
            self.assertEqual((409, "4"), (answer.status, answer.fields["upload-offset"]))
        self.assertEqual(4, self.offset(path))

    def test_malformed_offset_answers_400_and_another_type_415(self) -> None:
        path = self.created(12)
        for status, fields in (
            *((400, {"Content_Type": OCTETS, "Upload_Offset": offset}) for offset in (
                "-1", "x", "", "1.0", "+1", "0x1", str(2**63), "9" * 100,
            )),
            (400, {"Content_Type": OCTETS}),
            *((415, {"Content_Type": type_, "Upload_Offset": "0"}) for type_ in (
                "text/plain", "application/octet-stream", "",
            )),
        ):  # fmt: skip
            answer = self.tus("PATCH", path, TEA, **fields)
            self.assertEqual((status, 0), (answer.status, self.offset(path)), fields)

    def test_bytes_beyond_the_length_answer_413_and_none_of_the_request_is_kept(self) -> None:
        path = self.created(12)
        self.append(path, 0, TEA[:4])

        declared = self.append(path, 4, TEA[4:] + b"!")
        chunked = self.append(path, 4, iter([TEA[4:], b"!"]))

        self.assertEqual((413, 413, 4), (declared.status, chunked.status, self.offset(path)))
        # One of unknown size.
        self.assertEqual(204, self.append(path, 4, iter([TEA[4:6], TEA[6:]])).status)
        self.assertEqual(TEA, self.get(f"/{TEA_HASH}").body)

    def test_last_request_may_be_repeated_when_its_answer_was_lost(self) -> None:
        path = self.created(12)
        self.append(path, 0, TEA)

        again = self.append(path, 12, b"")

        self.assertEqual((204, f"/{TEA_HASH}"), (again.status, again.fields["content-location"]))
        self.assertEqual(12, self.offset(path))
        self.assertEqual(409, self.append(path, 0, TEA).status)
        self.assertEqual(413, self.append(path, 12, b"!").status)

    def test_announced_digest_that_does_not_match_answers_460_and_the_upload_is_gone(self) -> None:
        path = self.created(12, Upload_Metadata=metadata(hash=TEA_HASH))

        answer = self.append(path, 0, b"milk and tea")

        self.assertEqual((460, "Checksum Mismatch"), (answer.status, answer.reason))
        self.assertEqual(404, self.tus("HEAD", path).status)
        self.assert_stored(0)
        encoded = base64.b64encode(hashlib.md5(TEA).digest()).decode()
        path = self.created(12, Upload_Metadata=metadata(hash=TEA_HASH), Repr_Digest=f"md5=:{encoded}:")
        self.assertEqual(204, self.append(path, 0, TEA).status)

    def test_terminated_upload_is_gone_with_its_bytes_and_leaves_an_object(self) -> None:
        for size, stored in ((4, 0), (12, 1)):
            path = self.created(12)
            self.append(path, 0, TEA[:size])

            self.assertEqual(204, self.tus("DELETE", path).status)

            for method in ("HEAD", "PATCH", "DELETE", "GET"):
                answer = self.tus(method, path, b"", Upload_Offset="4", Content_Type=OCTETS)
                self.assertEqual(404, answer.status)
            self.assert_stored(stored)
        self.assertEqual(TEA, self.get(f"/{TEA_HASH}").body)

    def test_broken_piece_counts_as_far_as_it_came_and_not_at_all_with_a_checksum(self) -> None:
        pieces = (("", 7), (f"Upload-Checksum: {checksum('sha1', TEA)}\r\n", 0))
        for number, (fields, offset) in enumerate(pieces, 1):
            path = self.created(12)

            self.begin(path, TEA[:7], length=12, fields=fields).close()

            self.wait_for_lines(" 499 ", number)
            self.assertEqual(offset, self.offset(path))
            self.assertEqual(204, self.append(path, offset, TEA[offset:]).status)
            self.assertEqual(TEA, self.get(f"/{TEA_HASH}").body)


class ChecksumTest(UploadsCase):
    def test_piece_is_kept_with_the_announced_checksum_and_another_one_answers_460(self) -> None:
        for algorithm in ("sha1", "sha256", "md5"):
            path = self.created(12)
            self.assertEqual(204, self.append(path, 0, TEA[:5], Upload_Checksum=checksum(algorithm, TEA[:5])).status)

            answer = self.append(path, 5, TEA[5:], Upload_Checksum=checksum(algorithm, b"lie"))

            self.assertEqual((460, 5), (answer.status, self.offset(path)))
            self.assertEqual(204, self.append(path, 5, TEA[5:], Upload_Checksum=checksum(algorithm, TEA[5:])).status)
            self.assertEqual(TEA, self.get(f"/{TEA_HASH}").body)


class TargetTest(UploadsCase):
    def test_repository_gets_the_object_under_its_oid(self) -> None:
        path = self.created(12, Upload_Metadata=metadata(target="repositories/pets"))

        answer = self.append(path, 0, TEA)

        self.assertEqual(f"/data/pets/{TEA_HASH}", answer.fields["content-location"])
        self.assertEqual({"oid": TEA_HASH, "size": 12}, json.loads(self.get(path).body))
        self.assertEqual(TEA, self.get(f"/data/pets/{TEA_HASH}").body)
        self.assertEqual(404, self.get(f"/{TEA_HASH}").status)

    def test_drop_is_fetched_once_with_its_name_and_password(self) -> None:
        secret = "väry secret"
        path = self.created(12, Upload_Metadata=metadata(target="drops", filename="tee-ü.txt", password=secret))
        self.assertNotIn("password", self.tus("HEAD", path).fields["upload-metadata"])

        answer = self.append(path, 0, TEA)

        result = json.loads(self.get(path).body)
        self.assertEqual("File Uploaded Successfully", result["status"])
        target = "/" + result["url"].split("/", 3)[3]
        self.assertEqual(target, answer.fields["content-location"])
        self.assertEqual(401, self.get(target).status)
        fetched = self.get(f"{target}?password=v%C3%A4ry%20secret")
        self.assertEqual((200, TEA), (fetched.status, fetched.body))
        self.assertIn("tee-%C3%BC.txt", fetched.fields["content-disposition"])
        self.assertEqual(410, self.get(f"{target}?password=v%C3%A4ry%20secret").status)
        for file in self.store_path.glob("uploads.sqlite*"):
            self.assertNotIn(secret.encode(), file.read_bytes())
            self.assertNotIn(base64.b64encode(secret.encode()), file.read_bytes())

    def test_drop_has_the_limits_of_the_form(self) -> None:
        for status, size, fields in (
            *((400, 12, {"filename": name}) for name in ("a" * 256, "cats/..")),
            (400, 12, {"password": "a" * 1025}),
            (413, 16 * MIB + 1, {}),
        ):
            with self.subTest(fields=str(fields)[:40]):
                self.assertEqual(status, self.create(size, Upload_Metadata=metadata(target="drops", **fields)).status)

    def test_name_of_a_drop_has_no_directories(self) -> None:
        answer = self.tus(
            "POST", "/uploads", TEA, Upload_Length="12", Content_Type=OCTETS,
            Upload_Metadata=metadata(target="drops", filename="../pets/cat.txt"),
        )  # fmt: skip

        fetched = self.get(answer.fields["content-location"])
        self.assertEqual('attachment; filename="cat.txt"', fetched.fields["content-disposition"])

    def test_requests_and_uploads_are_counted_and_ids_not_logged(self) -> None:
        path = self.created(3)
        self.append(path, 0, b"tea")
        self.created(3)

        shown = self.get("/-/metrics").body.decode()

        self.assertIn('filestoraged_requests_total{interface="uploads",method="PATCH",status="204"} 1', shown)
        self.assertIn('filestoraged_uploads{state="complete"} 1', shown)
        self.assertIn('filestoraged_uploads{state="receiving"} 1', shown)
        self.wait_for_lines("PATCH")
        self.assertFalse([line for line in self.log_lines() if path[-32:] in line])

    def test_upload_whose_target_is_not_served_any_more_answers_400_and_goes_on_when_it_is_again(self) -> None:
        path = self.created(12)
        self.append(path, 0, TEA[:5])
        with mock.patch.object(self.services.resources.targets, "_mounted", ["uploads"]):
            refused = [self.append(path, 5, TEA[5:]), self.tus("HEAD", path), self.tus("DELETE", path)]

        self.assertEqual([400] * 3, [each.status for each in refused])
        self.assertEqual(204, self.append(path, 5, TEA[5:]).status)


class MaxSizeTest(UploadsCase):
    config = {"max_size": 10}

    def test_limit_is_announced_and_a_longer_upload_answers_413(self) -> None:
        self.assertEqual("10", self.request("OPTIONS", "/uploads").fields["tus-max-size"])
        self.assertEqual((201, 413), (self.create(10).status, self.create(11).status))

    def test_limit_holds_for_an_upload_of_unknown_length(self) -> None:
        path = self.created(None)

        answers = [self.append(path, 0, TEA), self.append(path, 0, iter([TEA]))]
        answers.append(self.append(path, 0, b"tea", Upload_Length="11"))

        self.assertEqual([413] * 3, [answer.status for answer in answers])
        self.assertEqual(0, self.offset(path))
        # The length that was told is not kept.
        self.assertEqual("1", self.tus("HEAD", path).fields["upload-defer-length"])
        self.assertEqual(204, self.append(path, 0, b"tea", Upload_Length="3").status)


class DropSizeTest(UploadsCase):
    config = {"drop_size": 10, "max_size": 100}

    def test_declared_drop_over_the_drop_size_answers_413_at_creation(self) -> None:
        drop = metadata(target="drops")
        answers = [self.create(size, Upload_Metadata=drop).status for size in (10, 11)]

        self.assertEqual([201, 413], answers)
        self.assertEqual((201, "100"), (self.create(11).status, self.tus("OPTIONS", "/uploads").fields["tus-max-size"]))

    def test_drop_without_a_declared_length_answers_413_at_the_first_byte_too_many(self) -> None:
        path = self.created(None, Upload_Metadata=metadata(target="drops"))
        self.append(path, 0, TEA[:10])

        answer = self.append(path, 10, TEA[10:])

        self.assertEqual((413, 10), (answer.status, self.offset(path)))


class OtherMountTest(UploadsCase):
    config = {
        "mounts": {"/x": "uploads", "/f": "files"},
        "public_url": "https://files.example.org/base",
        "hash": "sha512",
    }

    def test_links_follow_the_mounts_and_the_public_url(self) -> None:
        answer = self.tus("POST", "/x", TEA, Upload_Length="12", Content_Type=OCTETS)

        self.assertEqual(201, answer.status)
        self.assertRegex(answer.fields["location"], "^https://files.example.org/base/x/[0-9a-f]{32}$")
        self.assertEqual(f"/base/f/{hashlib.sha512(TEA).hexdigest()}", answer.fields["content-location"])
        self.assertTrue(answer.fields["repr-digest"].startswith("sha-512=:"))

    def test_target_that_is_not_served_answers_400_and_stores_nothing(self) -> None:
        for target in ("drops", "repositories/r", "kv", "repositories"):
            with self.subTest(target=target):
                answer = self.tus(
                    "POST", "/x", TEA, Upload_Length="12", Content_Type=OCTETS, Upload_Metadata=metadata(target=target)
                )

                self.assertEqual(400, answer.status)
                self.assertIn(f"'{target}': expected files.", json.loads(answer.body)["message"])
        self.assert_stored(0)

    def test_target_that_only_another_listener_serves_is_accepted(self) -> None:
        config = Config(store=str(self.directory / "other"), workers=1)
        listeners = [{"/x": "uploads"}, {"/data": "repositories"}]
        services = Services(config, Metrics((*INTERFACES, OPERATIONS)), listeners)
        self.addCleanup(services.close)
        targets = services.resources.targets

        self.assertEqual("sha256", targets.target_of("repositories/r").store.algorithm)
        with self.assertRaisesRegex(BadRequest, "expected repositories/NAME"):
            targets.target_of("files")


class HolderTest(PiecesCase):
    # Seconds: longer than this machine keeps a test waiting.
    silence = 600.0

    def setUp(self) -> None:
        with mock.patch.dict(LocalStorage.__init__.__kwdefaults__, silence=self.silence):
            super().setUp()

    def make_silent(self, path: str) -> None:
        """Let the holder of an upload appear to have been silent for long enough."""
        past = ago(self.silence + 1)
        os.utime(self.store_path / (path[1:] + layout.UPLOAD_LOCK_SUFFIX), (past, past))

    def test_second_request_answers_423_while_another_adds(self) -> None:
        path = self.created(12)
        connection = self.begin(path, TEA[:5], length=12)

        refused = [self.append(path, 0, TEA), self.tus("HEAD", path), self.tus("DELETE", path)]
        connection.sendall(TEA[5:])

        self.assertEqual([423] * 3, [each.status for each in refused])
        self.assertEqual("Locked", refused[0].reason)
        self.assertEqual(204, read_answer(connection).status)

    def test_silent_request_is_taken_over_with_what_it_had_received(self) -> None:
        path = self.created(12)
        old = self.begin(path, TEA[:5], length=12)
        self.make_silent(path)

        offset = self.offset(path)
        new = self.append(path, 5, TEA[5:8])
        old.sendall(b"nonsense"[:7])

        self.assertEqual((5, 204), (offset, new.status))
        self.assertEqual(423, read_answer(old).status)
        self.assertEqual(204, self.append(path, 8, TEA[8:]).status)
        self.assertEqual(TEA, self.get(f"/{TEA_HASH}").body)

    def test_silent_request_with_a_checksum_is_taken_over_without_what_it_had_received(self) -> None:
        path = self.created(12)
        self.begin(path, b"tea", length=12, fields=f"Upload-Checksum: {checksum('md5', TEA)}\r\n")
        self.make_silent(path)

        self.assertEqual(0, self.offset(path))
        self.assertEqual(204, self.append(path, 0, TEA).status)

    def test_of_many_requests_at_one_offset_one_adds(self) -> None:
        path = self.created(12)

        answers: list[Answer] = in_threads(8, lambda _: self.append(path, 0, TEA))

        statuses = sorted(each.status for each in answers)
        self.assertEqual(204, statuses[0])
        self.assertLessEqual(set(statuses[1:]), {409, 423})
        self.assertEqual(TEA, self.get(f"/{TEA_HASH}").body)


class ExpiryTest(UploadsCase):
    clock: VirtualClock

    def setUp(self) -> None:
        self.clock = VirtualClock()
        super().setUp()

    def expire(self) -> None:
        """Let all uploads have expired a second ago. The clock that removal goes by was seen a moment before."""
        with sqlite3.connect(self.store_path / layout.UPLOADS_DATABASE, timeout=PATIENCE) as connection:
            connection.execute("UPDATE uploads SET expires = ?", (self.clock.date() - 1,))

    def are_removed(self) -> bool:
        # The janitor may not wait yet.
        self.clock.advance(3)
        return self.rows() == 0

    def rows(self) -> int:
        with sqlite3.connect(self.store_path / layout.UPLOADS_DATABASE, timeout=PATIENCE) as connection:
            ((number,),) = connection.execute("SELECT count(*) FROM uploads")
        return int(number)

    def test_expired_uploads_are_gone_and_removed_in_the_background(self) -> None:
        paths = [self.created(12) for _ in range(5)]
        for path in paths[:3]:
            self.append(path, 0, TEA[:5])

        self.expire()

        self.assertIn(self.tus("HEAD", paths[0]).status, (404, 410))
        self.wait_until("all are removed", self.are_removed)
        self.assertEqual(404, self.tus("HEAD", paths[0]).status)
        self.assert_stored(0)


class TokensTest(TokensCase, UploadsCase):
    def test_every_request_needs_write_for_the_target(self) -> None:
        places = {
            "files": ("files", "writer", "all"),
            "repositories/pets": ("pets", "writer", "all"),
            "repositories/dogs": ("writer", "all"),
        }
        for target, allowed in places.items():
            about = {"Upload_Metadata": metadata(target=target)}
            for name in ("reader", "keys", "watcher", "files", "pets", "writer", "all"):
                path = self.created(12, **about, **bearer("all"))
                statuses = [
                    self.create(12, **about, **bearer(name)).status,
                    self.tus("HEAD", path, **bearer(name)).status,
                    self.append(path, 0, TEA, **bearer(name)).status,
                    self.request("GET", path, **bearer(name)).status,
                    self.tus("DELETE", path, **bearer(name)).status,
                ]
                with self.subTest(target=target, name=name):
                    self.assertEqual([201, 200, 204, 200, 204] if name in allowed else [403] * 5, statuses)

    def test_request_without_a_token_answers_401_and_options_needs_none(self) -> None:
        path = self.created(12, **bearer("all"))
        for method, target in (("POST", "/uploads"), ("HEAD", path), ("PATCH", path), ("DELETE", path), ("GET", path),
                               ("HEAD", "/uploads/unknown")):  # fmt: skip
            self.assertEqual(401, self.tus(method, target, b"", Upload_Length="3").status)
        self.assertEqual(204, self.tus("OPTIONS", path).status)
        self.assertEqual(404, self.tus("HEAD", "/uploads/unknown", **bearer("files")).status)


class MemcachedTest(UploadsCase):
    def setUp(self) -> None:
        memcached = start_memcached(self)
        self.config = {"memcached": (memcached.address,)}
        super().setUp()

    def test_upload_becomes_an_object_in_memcached(self) -> None:
        data = os.urandom(3 * MIB)
        digest = hashlib.sha256(data).hexdigest()
        path = self.created(len(data), Upload_Metadata=metadata(hash=digest))
        self.append(path, 0, data[:MIB])

        self.assertEqual(204, self.append(path, MIB, data[MIB:]).status)

        self.assertEqual(data, self.get(f"/{digest}").body)
        self.assert_stored(0)

    def test_announced_digest_that_does_not_match_answers_460(self) -> None:
        path = self.created(12, Upload_Metadata=metadata(hash=TEA_HASH))

        self.assertEqual(460, self.append(path, 0, b"milk and tea").status)
        self.assertEqual(404, self.tus("HEAD", path).status)

    def test_limit_is_that_of_memcached(self) -> None:
        self.assertEqual(413, self.create(50 * MIB + 1).status)
        self.assertEqual(str(50 * MIB), self.request("OPTIONS", "/uploads").fields["tus-max-size"])
