"""The repositories interface, request by request."""

from __future__ import annotations

import hashlib
import json

from tests.api import downloads
from tests.support import ServerCase

TEA = b"tea"
TEA_OID = hashlib.sha256(TEA).hexdigest()


class UploadToRepository(ServerCase):
    def upload(self, data: bytes) -> tuple[str, str]:
        oid = json.loads(self.put("/data/pets", data).body)["oid"]
        return f"/data/pets/{oid}", oid


class RepositoriesDownloadTest(UploadToRepository, downloads.FromDiskContract):
    pass


class RepositoriesTest(ServerCase):
    def test_upload_answers_oid_and_size(self) -> None:
        answer = self.put("/data/pets", TEA)

        self.assertEqual(201, answer.status)
        self.assertEqual({"oid": TEA_OID, "size": 3}, json.loads(answer.body))
        self.assertEqual(f"/data/pets/{TEA_OID}", answer.fields["location"])

    def test_identical_upload_answers_the_same(self) -> None:
        answers = [self.put("/data/pets", TEA) for _ in range(2)]

        self.assertEqual([201, 201], [answer.status for answer in answers])
        self.assertEqual(answers[0].body, answers[1].body)
        self.assert_stored(1)

    def test_form_is_stored_as_raw_bytes(self) -> None:
        answer = self.put("/data/pets", TEA, Content_Type="multipart/form-data; boundary=x")

        self.assertEqual(TEA_OID, json.loads(answer.body)["oid"])

    def test_two_repositories_share_no_object(self) -> None:
        self.put("/data/cats", TEA)
        self.put("/data/dogs", TEA)

        removed = self.delete(f"/data/cats/{TEA_OID}")

        self.assertEqual((200, b""), (removed.status, removed.body))
        self.assertEqual("0", removed.fields["content-length"])
        self.assertEqual(404, self.get(f"/data/cats/{TEA_OID}").status)
        self.assertEqual(404, self.delete(f"/data/cats/{TEA_OID}").status)
        self.assertEqual(TEA, self.get(f"/data/dogs/{TEA_OID}").body)

    def test_files_and_repositories_share_no_object(self) -> None:
        self.put("/data/cats", TEA)

        self.assertEqual(404, self.get(f"/{TEA_OID}").status)

    def test_missing_object_answers_404(self) -> None:
        self.put("/data/cats", TEA)

        for path in (f"/data/dogs/{TEA_OID}", "/data/cats/xyz", "/data/cats/..", "/data/cats/%2e%2e", "/data/cats/"):
            with self.subTest(path=path):
                self.assertEqual(404, self.get(path).status)
                self.assertEqual(404, self.delete(path).status)

    def test_percent_encoded_oid_names_the_same_object(self) -> None:
        self.put("/data/cats", TEA)
        path = f"/data/c%61ts/%{ord(TEA_OID[0]):02x}{TEA_OID[1:]}"

        self.assertEqual(TEA, self.get(path).body)
        self.assertEqual(200, self.delete(path).status)
        self.assertEqual(404, self.get(f"/data/cats/{TEA_OID}").status)

    def test_valid_repository_names_are_accepted(self) -> None:
        for name in ("a", "0", "-", "_", "...", ".git", "A-Z_a.z-0", "x" * 128, "ab", "caf%65"):
            with self.subTest(name=name):
                self.assertEqual(201, self.put(f"/data/{name}", TEA).status)
                self.assertEqual(200, self.get(f"/data/{name}/{TEA_OID}").status)

    def test_invalid_repository_name_answers_400(self) -> None:
        for name in ("", ".", "..", "%2e", "%2e%2e", "%2E%2e", "x" * 129, "a%2fb", "a%5cb", "a%00", "caf%c3%a9", "%ff",
                     "a%20b", "a+b", "a:b", "a%", "~"):  # fmt: skip
            with self.subTest(name=name):
                self.assertEqual(400, self.put(f"/data/{name}", TEA).status)
                self.assertEqual(400, self.get(f"/data/{name}/{TEA_OID}").status)
        self.assert_stored(0)

    def test_path_without_a_route_answers_404(self) -> None:
        for path in ("/data", f"/data/pets/{TEA_OID}/x", "/data/a/b/c"):
            with self.subTest(path=path):
                self.assertEqual(404, self.put(path, TEA).status)

    def test_other_method_answers_405_with_the_methods_of_the_path(self) -> None:
        for path, allowed in (("/data/pets", "PUT"), (f"/data/pets/{TEA_OID}", "GET, DELETE")):
            for method in ("POST", "HEAD", "OPTIONS", "PATCH"):
                with self.subTest(method=method, path=path):
                    answer = self.request(method, path)

                    self.assertEqual((405, allowed), (answer.status, answer.fields["allow"]))

    def test_upload_with_a_wrong_digest_answers_400(self) -> None:
        self.assertEqual(400, self.put(f"/data/pets?hash={'0' * 64}", TEA).status)
        self.assertEqual(400, self.put("/data/pets", TEA, Content_MD5="AAAAAAAAAAAAAAAAAAAAAA==").status)
        self.assert_stored(0)
        self.assertEqual(201, self.put(f"/data/pets?hash={TEA_OID}", TEA).status)

    def test_upload_with_content_range_answers_400(self) -> None:
        self.assertEqual(400, self.put("/data/pets", TEA, Content_Range="bytes 3-5/6").status)
        self.assertEqual(400, self.post("/", TEA, Content_Range="bytes 3-5/6").status)
        self.assert_stored(0)

    def test_if_none_match_any_answers_412_for_an_existing_object(self) -> None:
        self.put("/data/cats", TEA)

        self.assertEqual(412, self.put("/data/cats", TEA, If_None_Match="*").status)
        self.assertEqual(201, self.put("/data/dogs", TEA, If_None_Match="*").status)
