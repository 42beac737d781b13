"""The files interface, request by request."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import threading
from unittest import mock

from filestoraged.store.disk.staging_area import StagedFile
from tests.api import downloads
from tests.support import ServerCase, in_threads

TEA = b"tea"
TEA_HASH = hashlib.sha256(TEA).hexdigest()


def form(*parts: bytes, boundary: str = "cut-here") -> tuple[bytes, dict[str, str]]:
    """The body of a form with these parts, heads included, and its Content-Type."""
    delimiter = b"--" + boundary.encode()
    body = b"".join(delimiter + b"\r\n" + part + b"\r\n" for part in parts) + delimiter + b"--\r\n"
    return body, {"Content_Type": f"multipart/form-data; boundary={boundary}"}


def file_part(data: bytes, *fields: bytes, name: bytes = b"cat.jpg") -> bytes:
    head = b'Content-Disposition: form-data; name="file"; filename="%s"\r\n' % name
    return head + b"".join(field + b"\r\n" for field in fields) + b"\r\n" + data


def text_part(name: bytes, value: bytes) -> bytes:
    return b'Content-Disposition: form-data; name="%s"\r\n\r\n%s' % (name, value)


def b64(digest: bytes) -> str:
    return base64.b64encode(digest).decode()


class UploadToFiles(ServerCase):
    interfaces = ("files",)

    def upload(self, data: bytes) -> tuple[str, str]:
        digest = json.loads(self.post("/", data).body)["hash"]
        return f"/?hash={digest}", digest


class FilesDownloadTest(UploadToFiles, downloads.FromDiskContract):
    pass


class FilesTest(ServerCase):
    interfaces = ("files",)

    def test_upload_answers_hash_and_size_however_it_is_sent(self) -> None:
        file, fields = form(text_part(b"note", b"hello"), file_part(TEA), file_part(b"second"))
        for what, body, given in (
            ("raw", TEA, {}),
            ("in chunks", iter([b"t", b"e", b"a"]), {}),
            ("first file of a form", file, fields),
            *(("another type", TEA, {"Content_Type": kind}) for kind in (
                "application/x-www-form-urlencoded", "multipart/mixed; boundary=x", "text/plain", "nonsense",
            )),
            *(("JSON is as good", TEA, {"Accept": accept}) for accept in (
                "*/*", "application/json", "text/plain;q=0.5, application/json", "text/html, */*;q=0.8",
            )),
        ):  # fmt: skip
            with self.subTest(what, fields=given):
                answer = self.post("/", body, **given)

                self.assertEqual((200, "application/json"), (answer.status, answer.fields["content-type"]))
                self.assertEqual({"hash": TEA_HASH, "size": 3}, json.loads(answer.body))
        self.assertEqual([f"{TEA_HASH[:2]}/{TEA_HASH}"], self.files_below(self.store_path))
        self.assertEqual(TEA, (self.store_path / TEA_HASH[:2] / TEA_HASH).read_bytes())

    def test_large_and_empty_files_come_back_raw_and_by_a_form(self) -> None:
        for data in (b"", os.urandom(3_000_000)):
            file, fields = form(file_part(data))
            for answer in (self.post("/", data), self.post("/", file, **fields)):
                digest = hashlib.sha256(data).hexdigest()
                self.assertEqual({"hash": digest, "size": len(data)}, json.loads(answer.body))
            self.assertEqual((200, data), self.get(f"/{digest}")[0::2])

    def test_accept_text_plain_answers_the_hash_and_a_newline(self) -> None:
        answer = self.post("/", TEA, Accept="text/plain")

        self.assertEqual(f"{TEA_HASH}\n".encode(), answer.body)
        self.assertTrue(answer.fields["content-type"].startswith("text/plain"))

    def test_object_is_named_by_its_hash_in_each_form(self) -> None:
        encoded = "".join(f"%{ord(digit):02x}" for digit in TEA_HASH)
        for path in (
            *(f"/{TEA_HASH}", f"/?hash={TEA_HASH}", f"/?file_hash={TEA_HASH}"),
            *(f"/{TEA_HASH.upper()}", f"/?hash={TEA_HASH.upper()}"),
            *(f"/{encoded}", f"/%{ord(TEA_HASH[0]):02X}{TEA_HASH[1:]}"),
        ):
            with self.subTest(path=path):
                self.post("/", TEA)

                found, removed = self.get(path), self.delete(path)

                self.assertEqual((200, TEA), (found.status, found.body))
                self.assertEqual((200, {"hash": TEA_HASH}), (removed.status, json.loads(removed.body)))
                self.assertEqual([404, 404], [self.get(path).status, self.delete(path).status])
                self.assert_stored(0)

    def test_json_responses_end_with_a_newline(self) -> None:
        stored = self.post("/", TEA)
        answers = (stored, self.get("/"), self.request("PATCH", "/"), self.delete("/" + TEA_HASH))

        self.assertEqual([200, 400, 405, 200], [answer.status for answer in answers])
        for answer in answers:
            self.assertTrue(answer.body.endswith(b"}\n"), answer.body)

    def test_concurrent_uploads_of_identical_bytes_succeed(self) -> None:
        data = os.urandom(300_000)

        answers = in_threads(16, lambda _: self.post("/", data))

        self.assertEqual({hashlib.sha256(data).hexdigest()}, {json.loads(each.body)["hash"] for each in answers})
        self.assert_stored(1)

    def test_missing_hash_or_two_hashes_answer_400(self) -> None:
        for path in (
            "/", "/?", "/?hash=", "/?name=x", f"/?hash={TEA_HASH}&hash={TEA_HASH}", f"/{TEA_HASH}?hash={TEA_HASH}",
        ):  # fmt: skip
            for method in ("GET", "DELETE"):
                with self.subTest(method=method, path=path):
                    self.assertEqual(400, self.request(method, path).status)

    def test_malformed_hash_answers_404(self) -> None:
        self.post("/", TEA)
        inside = f"{TEA_HASH[:2]}/{TEA_HASH}"
        encoded = ("%2e%2e", "%2e%2e%2fstore", inside.replace("/", "%2f"), "%00", "%ff", TEA_HASH + "%00")
        twice = ("%FF" + TEA_HASH[1:], "%2561" + TEA_HASH[1:])
        plain = ("xyz", "a" * 63, "..", inside, TEA_HASH + "/", "staging", "../" * 9 + "etc/passwd", "a" * 5000)

        for name in (*encoded, *twice, *plain):
            for path in (f"/{name}", f"/?hash={name}"):
                for method in ("GET", "DELETE"):
                    with self.subTest(method=method, path=path):
                        self.assertEqual(404, self.request(method, path).status)

    def test_other_method_answers_405_with_the_methods_of_the_path(self) -> None:
        self.post("/", TEA)
        for path, allowed in {"/": "GET, POST, DELETE", f"/{TEA_HASH}": "GET, DELETE"}.items():
            for method in ("PUT", "HEAD", "OPTIONS", "TRACE", "PATCH", "FOO", "get"):
                with self.subTest(method=method, path=path):
                    answer = self.request(method, path)

                    self.assertEqual((405, allowed), (answer.status, answer.fields["allow"]))
                    self.assertEqual("Method Not Allowed", answer.reason)
                    self.assertIn(b"" if method == "HEAD" else allowed.encode(), answer.body)

    def test_error_is_json_with_a_sentence(self) -> None:
        answer = self.get("/" + "0" * 64)

        self.assertEqual("application/json", answer.fields["content-type"])
        error = json.loads(answer.body)
        self.assertEqual("Not Found", error["error"])
        self.assertRegex(error["message"], r"^[A-Z].*\.$")


class AnnouncedDigestTest(ServerCase):
    interfaces = ("files",)

    def test_upload_is_stored_with_a_correct_digest_alone(self) -> None:
        def md5(data: bytes) -> str:
            return b64(hashlib.md5(data).digest())

        def sha512(data: bytes) -> str:
            return f"sha-512=:{b64(hashlib.sha512(data).digest())}:"

        sha256 = f"sha-256=:{b64(bytes.fromhex(TEA_HASH))}:"
        for status, path, body, fields in (
            (400, f"/?hash={'0' * 64}", TEA, {}),
            (400, "/?hash=nonsense", TEA, {}),
            (400, "/?hash=", TEA, {}),
            (400, f"/?hash={TEA_HASH}&hash={TEA_HASH}", TEA, {}),
            (400, "/", TEA, {"Content_MD5": md5(b"x")}),
            (400, "/", TEA, {"Content_MD5": "!"}),
            (400, "/", TEA, {"Content_Digest": sha512(b"x")}),
            (400, "/", TEA, {"Repr_Digest": "sha-256=nonsense"}),
            (400, "/", iter([TEA]), {"Content_MD5": md5(b"x")}),
            (200, f"/?hash={TEA_HASH}", TEA, {}),
            (200, f"/?hash={TEA_HASH.upper()}", TEA, {}),
            (200, "/", TEA, {"Content_MD5": md5(TEA)}),
            (200, "/", TEA, {"Content_Digest": sha256}),
            (200, "/", TEA, {"Repr_Digest": f"md5=:{md5(TEA)}:, {sha512(TEA)}"}),
            (200, "/", TEA, {"Content_Digest": f"unheard-of=:AAAA:, {sha256}"}),
        ):
            with self.subTest(path=path, fields=fields):
                self.assertEqual(status, self.post(path, body, **fields).status)
                self.assert_stored(int(status == 200))

    def test_if_none_match_any_answers_412_for_an_existing_object_and_before_the_body_if_it_is_announced(self) -> None:
        statuses = [self.post("/", TEA, If_None_Match="*").status for _ in range(2)]

        (early,) = self.raw(
            f"POST /?hash={TEA_HASH} HTTP/1.1\r\nHost: x\r\nIf-None-Match: *\r\n".encode()
            + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\n"
        )

        self.assertEqual([200, 412, 412], [*statuses, early.status])
        self.assertEqual(TEA, self.get(f"/{TEA_HASH}").body)


class FormTest(ServerCase):
    interfaces = ("files",)

    def test_form_without_a_file_or_a_valid_boundary_answers_400(self) -> None:
        nobody_chose = file_part(b"", name=b"")
        kind = "multipart/form-data"

        for body, fields in (
            *(form(*parts) for parts in ((), (text_part(b"file", TEA),), (nobody_chose,))),
            *((TEA, {"Content_Type": each}) for each in (kind, f"{kind}; boundary=", f"{kind}; boundary=" + "x" * 71)),
        ):
            with self.subTest(fields=fields, body=body):
                self.assertEqual(400, self.post("/", body, **fields).status)
        self.assert_stored(0)

    def test_form_cut_anywhere_answers_400_and_stores_nothing(self) -> None:
        body, fields = form(text_part(b"note", b"hello"), file_part(TEA))
        whole = body.rindex(b"--")

        for stop in range(whole + 2):
            with self.subTest(stop=stop):
                self.assertEqual(400, self.post("/", body[:stop], **fields).status)
        self.assert_stored(0)

    def test_digest_is_compared_with_what_it_is_said_of(self) -> None:
        body, fields = form(file_part(TEA))
        right, wrong = (
            file_part(TEA, b"Content-MD5: " + b64(hashlib.md5(each).digest()).encode()) for each in (TEA, b"x")
        )
        of_body, of_file = (f"sha-256=:{b64(hashlib.sha256(each).digest())}:" for each in (body, TEA))
        for status, path, sent, digest in (
            # In the query: of the file. In the head: of the body. In a part: of its file.
            (400, f"/?hash={'0' * 64}", body, None),
            (400, "/", body, of_file),
            (400, "/", form(wrong)[0], None),
            (200, f"/?hash={TEA_HASH}", body, None),
            (200, "/", body, of_body),
            (200, "/", form(right)[0], None),
        ):
            with self.subTest(path=path, digest=digest):
                given = {**fields, "Content_Digest": digest} if digest else fields
                self.assertEqual(status, self.post(path, sent, **given).status)
                self.assert_stored(int(status == 200))


class LimitTest(ServerCase):
    interfaces = ("files", "repositories")
    config = {"max_size": 1000}

    def test_file_over_the_maximum_size_answers_413_and_is_not_stored(self) -> None:
        for size, statuses, count in ((1001, [413] * 4, 0), (1000, [200, 200, 200, 201], 2)):
            body, fields = form(file_part(b"x" * size))

            answers = [
                self.post("/", b"x" * size),
                self.post("/", iter([b"x" * 500, b"x" * (size - 500)])),
                self.post("/", body, **fields),
                self.put("/data/pets", b"x" * size),
            ]

            self.assertEqual(statuses, [answer.status for answer in answers])
            self.assertEqual("Content Too Large" if count == 0 else "OK", answers[0].reason)
            self.assert_stored(count)

    def test_declared_size_over_the_maximum_answers_413_before_the_body(self) -> None:
        head = b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: %d\r\n%s\r\n"
        kind = b"Content-Type: multipart/form-data; boundary=x\r\n"

        for request in (head % (1001, b""), head % (3_000_000, kind), head % (10**30, b"")):
            with self.subTest(request=request):
                (answer,) = self.raw(request)

                self.assertEqual(413, answer.status)

    def test_client_that_still_sends_receives_413(self) -> None:
        connection = self.connect()
        connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 30000000\r\n\r\n")
        for _ in range(30):
            connection.sendall(b"x" * 1_000_000)

        received = connection.recv(65536)

        self.assertTrue(received.startswith(b"HTTP/1.1 413 "), received)
        self.assertIn(b"Connection: close", received)

    def test_endless_form_answers_413(self) -> None:
        body, fields = form(text_part(b"note", b"x" * 3_000_000), file_part(TEA))

        self.assertEqual(413, self.post("/", iter([body]), **fields).status)


class OtherHashTest(ServerCase):
    interfaces = ("files", "repositories")
    config = {"hash": "md5"}

    def test_files_are_named_by_the_configured_hash(self) -> None:
        digest = hashlib.md5(TEA).hexdigest()

        answer = self.post("/", TEA)

        self.assertEqual({"hash": digest, "size": 3}, json.loads(answer.body))
        self.assertEqual(TEA, self.get(f"/{digest}").body)

    def test_oids_are_sha256_with_any_configured_hash(self) -> None:
        self.assertEqual(TEA_HASH, json.loads(self.put("/data/pets", TEA).body)["oid"])


class MountTest(ServerCase):
    config = {"mounts": {"/my/files": "files"}}

    def test_mount_answers_with_and_without_its_slash(self) -> None:
        self.assertEqual(200, self.post("/my/files", TEA).status)
        self.assertEqual(200, self.post("/my/files/", TEA).status)
        self.assertEqual(TEA, self.get(f"/my/files/{TEA_HASH}").body)
        self.assertEqual(TEA, self.get(f"/my/files?hash={TEA_HASH}").body)

    def test_path_outside_the_mounts_answers_404(self) -> None:
        for path in ("/", "/my", "/my/filesystem", "/data/pets", f"/{TEA_HASH}"):
            with self.subTest(path=path):
                self.assertEqual(404, self.put(path, TEA).status)


class SmallUploadTest(ServerCase):
    interfaces = ("files",)

    def test_small_upload_is_staged_by_the_loop_and_written_by_the_thread_of_the_committer(self) -> None:
        area = self.services.disk.volume.staging_area
        threads: list[str] = []
        stage = area.stage

        def record() -> StagedFile:
            threads.append(threading.current_thread().name)
            return stage()

        with mock.patch.object(area, "stage", record):
            answers = [self.post("/", b"x" * size).status for size in (3, 50)]

        self.assertEqual([200] * 2, answers)
        self.assertEqual(["committer"] * 2, threads)
