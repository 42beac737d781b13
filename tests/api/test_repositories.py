"""The repositories interface, request by request."""

from __future__ import annotations

import hashlib
import json
import os
from typing import Any

from tests.api import downloads
from tests.support import ServerCase

TEA = b"tea"
TEA_OID = hashlib.sha256(TEA).hexdigest()


class UploadToRepository(ServerCase):
    interfaces = ("repositories",)

    def upload(self, data: bytes) -> tuple[str, str]:
        oid = json.loads(self.put("/data/pets", data).body)["oid"]
        return f"/data/pets/{oid}", oid


class RepositoriesDownloadTest(UploadToRepository, downloads.FromDiskContract):
    pass


class RepositoriesTest(ServerCase):
    interfaces = ("files", "repositories")

    def test_upload_answers_oid_and_size_each_time(self) -> None:
        # A form is stored as raw bytes.
        for fields in ({}, {}, {"Content_Type": "multipart/form-data; boundary=x"}):
            answer = self.put("/data/pets", TEA, **fields)

            self.assertEqual(201, answer.status)
            self.assertEqual({"oid": TEA_OID, "size": 3}, json.loads(answer.body))
            self.assertEqual(f"/data/pets/{TEA_OID}", answer.fields["location"])
        self.assert_stored(1)

    def test_repositories_and_files_share_no_object(self) -> None:
        self.put("/data/cats", TEA)
        self.put("/data/dogs", TEA)

        removed = self.delete(f"/data/cats/{TEA_OID}")

        self.assertEqual((200, b"", "0"), (removed.status, removed.body, removed.fields["content-length"]))
        self.assertEqual(404, self.get(f"/data/cats/{TEA_OID}").status)
        self.assertEqual(404, self.delete(f"/data/cats/{TEA_OID}").status)
        self.assertEqual(404, self.get(f"/{TEA_OID}").status)
        self.assertEqual(TEA, self.get(f"/data/dogs/{TEA_OID}").body)

    def test_missing_object_and_path_without_a_route_answer_404(self) -> None:
        self.put("/data/cats", TEA)

        for path in (f"/data/dogs/{TEA_OID}", "/data/cats/xyz", "/data/cats/..", "/data/cats/%2e%2e", "/data/cats/"):
            with self.subTest(path=path):
                self.assertEqual([404, 404], [self.get(path).status, self.delete(path).status])
        for path in (f"/data/pets/{TEA_OID}/x", "/data/a/b/c"):
            self.assertEqual(404, self.put(path, TEA).status)

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

    def test_other_method_answers_405_with_the_methods_of_the_path(self) -> None:
        for path, allowed in (("/data", "GET"), ("/data/pets", "GET, PUT"), (f"/data/pets/{TEA_OID}", "GET, DELETE")):
            for method in ("POST", "HEAD", "OPTIONS", "PATCH"):
                with self.subTest(method=method, path=path):
                    answer = self.request(method, path)

                    self.assertEqual((405, allowed), (answer.status, answer.fields["allow"]))

    def test_upload_with_a_wrong_digest_or_a_part_answers_400(self) -> None:
        for path, fields in (
            (f"/data/pets?hash={'0' * 64}", {}),
            ("/data/pets", {"Content_MD5": "AAAAAAAAAAAAAAAAAAAAAA=="}),
            ("/data/pets", {"Content_Range": "bytes 3-5/6"}),
        ):
            self.assertEqual(400, self.put(path, TEA, **fields).status)
        self.assertEqual(400, self.post("/", TEA, Content_Range="bytes 3-5/6").status)
        self.assert_stored(0)
        self.assertEqual(201, self.put(f"/data/pets?hash={TEA_OID}", TEA).status)

    def test_if_none_match_any_answers_412_for_an_existing_object(self) -> None:
        self.put("/data/cats", TEA)

        self.assertEqual(412, self.put("/data/cats", TEA, If_None_Match="*").status)
        self.assertEqual(201, self.put("/data/dogs", TEA, If_None_Match="*").status)


class ListingTest(ServerCase):
    interfaces = ("repositories",)

    def listed(self, target: str, **fields: str) -> Any:
        answer = self.get(target, **fields)
        self.assertEqual((200, "application/json"), (answer.status, answer.fields["content-type"]))
        self.assertEqual("no-store", answer.fields["cache-control"])
        return json.loads(answer.body)

    def stored(self, count: int) -> list[str]:
        return sorted(json.loads(self.put("/data/pets", str(number)).body)["oid"] for number in range(count))

    def test_objects_are_listed_by_oid_with_size_and_time(self) -> None:
        self.stored(30)
        self.put("/data/pets", TEA)
        os.utime(self.store_path / "repositories" / "pets" / TEA_OID[:2] / TEA_OID, (0, 1_763_805_600))

        found = self.listed("/data/pets")

        oids = [each["oid"] for each in found["objects"]]
        self.assertEqual((31, sorted(oids), None), (len(oids), oids, found["next"]))
        self.assertIn({"oid": TEA_OID, "size": 3, "modified": "2025-11-22T10:00:00Z"}, found["objects"])

    def test_pages_contain_every_object_once(self) -> None:
        oids = self.stored(50)
        for limit in (1, 7, 49, 50, 51):
            with self.subTest(limit=limit):
                found, after, pages = [], "", 0
                while after is not None:
                    page = self.listed(f"/data/pets?limit={limit}" + (f"&after={after}" if after else ""))
                    self.assertLessEqual(len(page["objects"]), limit)
                    found += [each["oid"] for each in page["objects"]]
                    after, pages = page["next"], pages + 1
                self.assertEqual(oids, found)
                self.assertEqual(-(-50 // limit), pages)

    def test_page_has_1000_objects_by_default_and_10000_at_most(self) -> None:
        directory = self.store_path / "repositories" / "pets"
        for number in range(1001):
            oid = hashlib.sha256(str(number).encode()).hexdigest()
            (directory / oid[:2]).mkdir(parents=True, exist_ok=True)
            (directory / oid[:2] / oid).touch()

        self.assertEqual(1000, len(self.listed("/data/pets")["objects"]))
        self.assertEqual(1001, len(self.listed("/data/pets?limit=10000")["objects"]))

    def test_page_after_an_oid_that_is_not_stored_begins_behind_it(self) -> None:
        oids = self.stored(20)
        self.delete(f"/data/pets/{oids[9]}")

        found = self.listed(f"/data/pets?after={oids[9].upper()}")

        self.assertEqual(oids[10:], [each["oid"] for each in found["objects"]])

    def test_empty_repository_and_store_give_an_empty_list(self) -> None:
        self.assertEqual({"repositories": [], "next": None}, self.listed("/data"))
        self.put("/data/pets", TEA)
        self.delete(f"/data/pets/{TEA_OID}")

        for name in ("pets", "other"):
            self.assertEqual({"objects": [], "next": None}, self.listed(f"/data/{name}"))

    def test_foreign_files_are_not_listed(self) -> None:
        self.put("/data/pets", TEA)
        directory = self.store_path / "repositories" / "pets"
        (directory / TEA_OID[:2] / "notes").touch()
        (directory / TEA_OID[:2] / ("0" * 64)).touch()
        (directory / TEA_OID[:2] / (TEA_OID[:2] + "0" * 62)).mkdir()
        (directory / "notes").touch()
        (self.store_path / "repositories" / "notes.txt").touch()
        (self.store_path / "repositories" / "no name").mkdir()

        self.assertEqual([TEA_OID], [each["oid"] for each in self.listed("/data/pets")["objects"]])
        self.assertEqual(["pets"], self.listed("/data")["repositories"])

    def test_repositories_are_listed_in_the_order_of_their_bytes(self) -> None:
        names = ["A", "Z", "_", "a", "b", "-", "0", "...", "ab", "aB", "x" * 128]
        for name in names:
            self.put(f"/data/{name}", TEA)

        for path in ("/data", "/data/"):
            self.assertEqual({"repositories": sorted(names), "next": None}, self.listed(path))
        first = self.listed("/data?limit=4")
        rest = self.listed(f"/data?after={first['next']}&limit=7")
        self.assertEqual((sorted(names)[:4], sorted(names)[3]), (first["repositories"], first["next"]))
        self.assertEqual((sorted(names)[4:], None), (rest["repositories"], rest["next"]))

    def test_bad_limit_after_or_name_answers_400(self) -> None:
        bad = (
            "limit=0", "limit=10001", "limit=-1", "limit=1.0", "limit=", "limit=x", "limit=%C2%B2", "limit=1&limit=1",
            f"limit={'9' * 5000}", "after=", "after=x%2fy", "after=..", "after=%00", f"after={'a' * 5000}",
        )  # fmt: skip
        objects = (*bad, "after=ab", f"after={'g' * 64}", f"after={'0' * 63}")
        names = ("..", "%2e%2e", "x" * 129, "a%2fb", "caf%c3%a9")
        for target in (
            *(f"/data?{query}" for query in bad),
            *(f"/data/pets?{query}" for query in objects),
            *(f"/data/{name}" for name in names),
        ):
            with self.subTest(target=target[:30]):
                answer = self.get(target)

                self.assertEqual(400, answer.status)
                self.assertTrue(json.loads(answer.body)["message"])


class ListingAtTheRootTest(ServerCase):
    config = {"mounts": {"/": "repositories"}}

    def test_repositories_on_the_root_are_listed(self) -> None:
        self.put("/pets", TEA)

        self.assertEqual(["pets"], json.loads(self.get("/").body)["repositories"])
        self.assertEqual(TEA_OID, json.loads(self.get("/pets").body)["objects"][0]["oid"])


class PublicUrlTest(ServerCase):
    interfaces = ("repositories",)
    config = {"public_url": "https://files.example.org/base"}

    def test_location_begins_with_the_public_url(self) -> None:
        location = self.put("/data/pets", TEA).fields["location"]

        self.assertEqual(f"https://files.example.org/base/data/pets/{TEA_OID}", location)
