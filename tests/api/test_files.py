"""The files interface, request by request."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import threading
from unittest import mock

from filestoraged.store.disk.staged_file import StagedFile
from filestoraged.store.disk.store import DiskStore
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
    def upload(self, data: bytes) -> tuple[str, str]:
        digest = json.loads(self.post("/", data).body)["hash"]
        return f"/?hash={digest}", digest


class FilesDownloadTest(UploadToFiles, downloads.FromDiskContract):
    pass


class DownloadByPathTest(downloads.FromDiskContract):
    def upload(self, data: bytes) -> tuple[str, str]:
        digest = json.loads(self.post("/", data).body)["hash"]
        return f"/{digest}", digest


class FileOnDiskTest(ServerCase):
    def test_upload_is_stored_as_a_file_named_by_its_hash(self) -> None:
        self.post("/", TEA)

        self.assertEqual([f"{TEA_HASH[:2]}/{TEA_HASH}"], self.files_below(self.store_path))
        self.assertEqual(TEA, (self.store_path / TEA_HASH[:2] / TEA_HASH).read_bytes())


class FilesTest(ServerCase):
    def test_upload_answers_hash_and_size(self) -> None:
        answer = self.post("/", TEA)

        self.assertEqual(200, answer.status)
        self.assertEqual("application/json", answer.fields["content-type"])
        self.assertEqual({"hash": TEA_HASH, "size": 3}, json.loads(answer.body))

    def test_identical_bytes_have_one_hash(self) -> None:
        first = self.post("/", TEA)
        again = self.post("/", TEA)

        self.assertEqual((first.status, first.body), (again.status, again.body))
        self.assert_stored(1)

    def test_empty_body_is_stored_as_the_empty_file(self) -> None:
        empty = hashlib.sha256(b"").hexdigest()

        answer = self.post("/", b"")

        self.assertEqual({"hash": empty, "size": 0}, json.loads(answer.body))
        self.assertEqual((200, b""), self.get(f"/{empty}")[0::2])

    def test_accept_text_plain_answers_the_hash_and_a_newline(self) -> None:
        answer = self.post("/", TEA, Accept="text/plain")

        self.assertEqual(f"{TEA_HASH}\n".encode(), answer.body)
        self.assertTrue(answer.fields["content-type"].startswith("text/plain"))

    def test_accept_anything_answers_json(self) -> None:
        for accept in ("*/*", "application/json", "text/plain;q=0.5, application/json", "text/html, */*;q=0.8"):
            with self.subTest(accept=accept):
                self.assertEqual(TEA_HASH, json.loads(self.post("/", TEA, Accept=accept).body)["hash"])

    def test_body_of_any_other_content_type_is_stored_raw(self) -> None:
        for kind in ("application/x-www-form-urlencoded", "multipart/mixed; boundary=x", "text/plain", "nonsense"):
            with self.subTest(kind=kind):
                self.assertEqual(TEA_HASH, json.loads(self.post("/", TEA, Content_Type=kind).body)["hash"])

    def test_chunked_body_is_stored(self) -> None:
        answer = self.post("/", iter([b"t", b"e", b"a"]))

        self.assertEqual({"hash": TEA_HASH, "size": 3}, json.loads(answer.body))

    def test_percent_encoded_hash_names_the_same_object(self) -> None:
        self.post("/", TEA)
        encoded = "".join(f"%{ord(digit):02x}" for digit in TEA_HASH)

        self.assertEqual(TEA, self.get(f"/%{ord(TEA_HASH[0]):02X}{TEA_HASH[1:]}").body)
        self.assertEqual(TEA, self.get("/" + encoded).body)
        self.assertEqual(200, self.delete("/" + encoded).status)
        self.assertEqual(404, self.get("/" + TEA_HASH).status)
        self.assertEqual(404, self.get("/%FF" + TEA_HASH[1:]).status)
        self.assertEqual(404, self.get("/%2561" + TEA_HASH[1:]).status)

    def test_json_responses_end_with_a_newline(self) -> None:
        stored = self.post("/", TEA)
        answers = (stored, self.get("/"), self.request("PATCH", "/"), self.delete("/" + TEA_HASH))

        self.assertEqual([200, 400, 405, 200], [answer.status for answer in answers])
        for answer in answers:
            self.assertTrue(answer.body.endswith(b"}\n"), answer.body)

    def test_refused_method_answers_405_with_allow(self) -> None:
        answer = self.put("/", TEA)

        self.assertEqual("GET, POST, DELETE", answer.fields["allow"])
        self.assertIn("GET, POST, DELETE", json.loads(answer.body)["message"])

    def test_concurrent_uploads_of_identical_bytes_succeed(self) -> None:
        data = os.urandom(300_000)

        answers = in_threads(16, lambda _: self.post("/", data))

        self.assertEqual({hashlib.sha256(data).hexdigest()}, {json.loads(each.body)["hash"] for each in answers})
        self.assert_stored(1)

    def test_file_hash_parameter_is_accepted_as_hash(self) -> None:
        self.post("/", TEA)

        self.assertEqual(TEA, self.get(f"/?file_hash={TEA_HASH}").body)

    def test_upper_case_hash_is_accepted(self) -> None:
        self.post("/", TEA)

        self.assertEqual(TEA, self.get(f"/?hash={TEA_HASH.upper()}").body)
        self.assertEqual(TEA, self.get(f"/{TEA_HASH.upper()}").body)
        self.assertEqual({"hash": TEA_HASH}, json.loads(self.delete(f"/{TEA_HASH.upper()}").body))

    def test_removed_file_answers_404(self) -> None:
        for path in (f"/?hash={TEA_HASH}", f"/{TEA_HASH}"):
            with self.subTest(path=path):
                self.post("/", TEA)

                removed = self.delete(path)

                self.assertEqual((200, {"hash": TEA_HASH}), (removed.status, json.loads(removed.body)))
                self.assertEqual(404, self.get(path).status)
                self.assertEqual(404, self.delete(path).status)
                self.assert_stored(0)

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
        plain = ("xyz", "a" * 63, "..", inside, TEA_HASH + "/", "staging", "../" * 9 + "etc/passwd", "a" * 5000)

        for name in (*encoded, *plain):
            for path in (f"/{name}", f"/?hash={name}"):
                for method in ("GET", "DELETE"):
                    with self.subTest(method=method, path=path):
                        self.assertEqual(404, self.request(method, path).status)

    def test_other_method_answers_405_with_the_methods_of_the_path(self) -> None:
        self.post("/", TEA)
        cases = {"/": "GET, POST, DELETE", f"/{TEA_HASH}": "GET, DELETE"}

        for path, allowed in cases.items():
            for method in ("PUT", "HEAD", "OPTIONS", "TRACE", "PATCH", "FOO", "get"):
                with self.subTest(method=method, path=path):
                    answer = self.request(method, path)

                    self.assertEqual((405, allowed), (answer.status, answer.fields["allow"]))
                    self.assertEqual("Method Not Allowed", answer.reason)

    def test_error_is_json_with_a_sentence(self) -> None:
        answer = self.get("/" + "0" * 64)

        self.assertEqual("application/json", answer.fields["content-type"])
        error = json.loads(answer.body)
        self.assertEqual("Not Found", error["error"])
        self.assertRegex(error["message"], r"^[A-Z].*\.$")


class AnnouncedDigestTest(ServerCase):
    def test_upload_with_a_correct_digest_is_stored(self) -> None:
        md5, sha512 = hashlib.md5(TEA).digest(), hashlib.sha512(TEA).digest()
        sha256 = f"sha-256=:{b64(bytes.fromhex(TEA_HASH))}:"

        answers = [
            self.post(f"/?hash={TEA_HASH}", TEA),
            self.post(f"/?hash={TEA_HASH.upper()}", TEA),
            self.post("/", TEA, Content_MD5=b64(md5)),
            self.post("/", TEA, Content_Digest=sha256),
            self.post("/", TEA, Repr_Digest=f"md5=:{b64(md5)}:, sha-512=:{b64(sha512)}:"),
            self.post("/", TEA, Content_Digest=f"unheard-of=:AAAA:, {sha256}"),
        ]

        self.assertEqual([200] * 6, [answer.status for answer in answers])

    def test_upload_with_a_wrong_digest_answers_400_and_is_not_stored(self) -> None:
        md5, sha512 = hashlib.md5(b"x").digest(), hashlib.sha512(b"x").digest()

        answers = [
            self.post(f"/?hash={'0' * 64}", TEA),
            self.post("/?hash=nonsense", TEA),
            self.post("/?hash=", TEA),
            self.post(f"/?hash={TEA_HASH}&hash={TEA_HASH}", TEA),
            self.post("/", TEA, Content_MD5=b64(md5)),
            self.post("/", TEA, Content_MD5="!"),
            self.post("/", TEA, Content_Digest=f"sha-512=:{b64(sha512)}:"),
            self.post("/", TEA, Repr_Digest="sha-256=nonsense"),
            self.post("/", iter([TEA]), Content_MD5=b64(md5)),
        ]

        self.assertEqual([400] * 9, [answer.status for answer in answers])
        self.assert_stored(0)

    def test_if_none_match_any_answers_412_for_an_existing_object(self) -> None:
        first = self.post("/", TEA, If_None_Match="*")
        again = self.post("/", TEA, If_None_Match="*")

        self.assertEqual([200, 412], [first.status, again.status])
        self.assertEqual(TEA, self.get(f"/{TEA_HASH}").body)

    def test_existing_announced_object_is_refused_before_its_body(self) -> None:
        self.post("/", TEA)

        (answer,) = self.raw(
            f"POST /?hash={TEA_HASH} HTTP/1.1\r\nHost: x\r\nIf-None-Match: *\r\n".encode()
            + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\n"
        )

        self.assertEqual(412, answer.status)


class FormTest(ServerCase):
    def test_first_file_of_a_form_is_stored(self) -> None:
        body, fields = form(text_part(b"note", b"hello"), file_part(TEA), file_part(b"second"))

        answer = self.post("/", body, **fields)

        self.assertEqual({"hash": TEA_HASH, "size": 3}, json.loads(answer.body))
        self.assert_stored(1)

    def test_empty_file_of_a_form_is_stored_as_the_empty_file(self) -> None:
        body, fields = form(file_part(b""))

        self.assertEqual(0, json.loads(self.post("/", body, **fields).body)["size"])

    def test_large_file_of_a_form_is_stored(self) -> None:
        data = os.urandom(3_000_000)
        body, fields = form(file_part(data))

        answer = self.post("/", body, **fields)

        self.assertEqual(hashlib.sha256(data).hexdigest(), json.loads(answer.body)["hash"])

    def test_form_without_a_file_answers_400(self) -> None:
        nobody_chose = file_part(b"", name=b"")

        for parts in ((), (text_part(b"file", TEA),), (nobody_chose,)):
            with self.subTest(parts=parts):
                body, fields = form(*parts)

                self.assertEqual(400, self.post("/", body, **fields).status)
        self.assert_stored(0)

    def test_form_with_an_invalid_boundary_answers_400(self) -> None:
        for kind in (
            "multipart/form-data",
            "multipart/form-data; boundary=",
            "multipart/form-data; boundary=" + "x" * 71,
        ):
            with self.subTest(kind=kind):
                self.assertEqual(400, self.post("/", TEA, Content_Type=kind).status)
        self.assert_stored(0)

    def test_form_cut_anywhere_answers_400_and_stores_nothing(self) -> None:
        body, fields = form(text_part(b"note", b"hello"), file_part(TEA))
        whole = body.rindex(b"--")

        for stop in range(whole + 2):
            with self.subTest(stop=stop):
                self.assertEqual(400, self.post("/", body[:stop], **fields).status)
        self.assert_stored(0)

    def test_hash_in_the_query_is_compared_with_the_file(self) -> None:
        body, fields = form(file_part(TEA))

        self.assertEqual(200, self.post(f"/?hash={TEA_HASH}", body, **fields).status)
        self.assertEqual(400, self.post(f"/?hash={'0' * 64}", body, **fields).status)

    def test_digest_in_the_head_is_compared_with_the_whole_body(self) -> None:
        body, fields = form(file_part(TEA))
        of_body = f"sha-256=:{b64(hashlib.sha256(body).digest())}:"
        of_file = f"sha-256=:{b64(hashlib.sha256(TEA).digest())}:"

        refused = self.post("/", body, Content_Digest=of_file, **fields)
        self.assert_stored(0)
        taken = self.post("/", body, Content_Digest=of_body, **fields)

        self.assertEqual([400, 200], [refused.status, taken.status])

    def test_digest_of_a_part_is_compared_with_its_file(self) -> None:
        right, fields = form(file_part(TEA, b"Content-MD5: " + b64(hashlib.md5(TEA).digest()).encode()))
        wrong, _ = form(file_part(TEA, b"Content-MD5: " + b64(hashlib.md5(b"x").digest()).encode()))

        self.assertEqual([200, 400], [self.post("/", each, **fields).status for each in (right, wrong)])


class LimitTest(ServerCase):
    config = {"max_size": 1000}

    def test_file_of_the_maximum_size_is_stored(self) -> None:
        body, fields = form(file_part(b"x" * 1000))

        self.assertEqual(200, self.post("/", b"x" * 1000).status)
        self.assertEqual(200, self.post("/", body, **fields).status)

    def test_file_over_the_maximum_size_answers_413_and_is_not_stored(self) -> None:
        body, fields = form(file_part(b"x" * 1001))

        answers = [
            self.post("/", b"x" * 1001),
            self.post("/", iter([b"x" * 500, b"x" * 501])),
            self.post("/", body, **fields),
            self.put("/data/pets", b"x" * 1001),
        ]

        self.assertEqual([413] * 4, [answer.status for answer in answers])
        self.assertEqual("Content Too Large", answers[0].reason)
        self.assert_stored(0)

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
        def endless() -> list[bytes]:
            body, _ = form(text_part(b"note", b"x" * 3_000_000), file_part(TEA))
            return [body]

        answer = self.post("/", iter(endless()), Content_Type="multipart/form-data; boundary=cut-here")

        self.assertEqual(413, answer.status)


class OtherHashTest(ServerCase):
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
    def test_small_upload_runs_on_a_thread_while_no_memory_for_stagings_is_left(self) -> None:
        volume = self.services.disk.volume
        if volume.committer is None:
            self.skipTest("the temporary directory is on neither ext4 nor XFS")
        threads: list[str] = []
        stage_file = volume.stage_file

        def record() -> StagedFile:
            threads.append(threading.current_thread().name)
            return stage_file()

        statuses = []
        for left in (100, 3):
            volume.staging_memory._left = left
            # As if others were uploading.
            with mock.patch.object(volume, "stage_file", record), mock.patch.object(DiskStore, "is_crowded", True):
                statuses += [self.post("/", b"x" * size).status for size in (3, 50)]

        self.assertEqual([200] * 4, statuses)
        # The one that did not fit was staged and written by the thread of its request.
        self.assertEqual(["committer"] * 3 + ["request"], threads)

    def test_upload_without_others_is_committed_by_the_thread_of_its_request(self) -> None:
        volume = self.services.disk.volume
        threads: list[str] = []
        stage_file = volume.stage_file

        def record() -> StagedFile:
            threads.append(threading.current_thread().name)
            return stage_file()

        with mock.patch.object(volume, "stage_file", record):
            self.assertEqual([200] * 3, [self.post("/", b"%d" % number).status for number in range(3)])

        self.assertEqual(["request"] * 3, threads)
