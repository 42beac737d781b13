"""The restic interface, request by request. `tests/test_restic.py` has the real client."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Collection
from typing import Any
from unittest import mock

from filestoraged.api import restic
from filestoraged.web.auth import hashed
from tests.api.test_tokens import TokensCase, basic
from tests.support import PATIENCE, ServerCase, read_all, split_answer

V1 = "application/vnd.x.restic.rest.v1"
V2 = "application/vnd.x.restic.rest.v2"

PACK = b"a pack" * 100
NAME = hashlib.sha256(PACK).hexdigest()
LOCK = b"a lock"
LOCK_NAME = hashlib.sha256(LOCK).hexdigest()
TYPES = ("data", "index", "keys", "locks", "snapshots")


class ResticCase(ServerCase):
    interfaces: Collection[str] = ("restic",)

    def store_file(self, type_: str, data: bytes, repository: str = "laptop") -> str:
        """Store a file, and return its path."""
        path = f"/restic/{repository}/{type_}/{hashlib.sha256(data).hexdigest()}"
        answer = self.post(path, data)
        self.assertEqual((200, b""), (answer.status, answer.body))
        return path

    def files(self) -> list[str]:
        return self.files_below(self.store_path / "restic")


class FilesTest(ResticCase):
    def test_files_lie_where_restic_has_them_in_a_directory(self) -> None:
        for type_ in TYPES:
            self.store_file(type_, PACK)
        self.post("/restic/laptop/config", b"config")

        expected = [f"laptop/{type_}/{NAME}" for type_ in TYPES if type_ != "data"]
        self.assertEqual(sorted([*expected, f"laptop/data/{NAME[:2]}/{NAME}", "laptop/config"]), self.files())
        self.assertEqual(PACK, (self.store_path / "restic/laptop/index" / NAME).read_bytes())

    def test_file_is_downloaded_whole_or_in_part(self) -> None:
        for type_ in TYPES:
            with self.subTest(type_=type_):
                path = self.store_file(type_, PACK)
                head, whole, part = self.request("HEAD", path), self.get(path), self.get(path, Range="bytes=3-5")

                self.assertEqual((200, b"", "600"), (head.status, head.body, head.fields["content-length"]))
                self.assertEqual((200, PACK), (whole.status, whole.body))
                self.assertEqual((206, PACK[3:6]), (part.status, part.body))
                self.assertEqual("bytes 3-5/600", part.fields["content-range"])
                # From memory.
                self.assertEqual((PACK, b""), (self.get(path).body, self.request("HEAD", path).body))

    def test_large_file_is_stored_and_downloaded(self) -> None:
        data = os.urandom(3_000_000)

        path = self.store_file("data", data)

        self.assertEqual(data, self.get(path).body)
        self.assertEqual("3000000", self.request("HEAD", path).fields["content-length"])

    def test_name_may_be_percent_encoded(self) -> None:
        self.store_file("data", PACK)
        encoded = "".join(f"%{ord(digit):02x}" for digit in NAME)

        self.assertEqual(PACK, self.get(f"/restic/laptop/data/{encoded}").body)
        self.assertEqual(200, self.delete(f"/restic/laptop/data/{encoded}").status)
        self.assertEqual([], self.files())

    def test_missing_file_and_impossible_name_answer_404(self) -> None:
        paths = [f"/restic/laptop/data/{name}" for name in (NAME, NAME.upper(), NAME[:-1], "config", "%2e%2e", "x")]
        for path in (*paths, "/restic/laptop/config", f"/restic/laptop/packs/{NAME}", f"/restic/laptop/{NAME}"):
            with self.subTest(path=path):
                self.assertEqual([404, 404], [self.get(path).status, self.request("HEAD", path).status])
        self.assertEqual(404, self.post(f"/restic/laptop/data/{NAME.upper()}", PACK).status)
        self.assertEqual(404, self.post(f"/restic/laptop/packs/{NAME}", PACK).status)
        self.assertEqual(404, self.delete("/restic/laptop/data/x").status)
        self.assertEqual([], self.files())

    def test_bytes_that_are_not_named_by_their_digest_are_refused(self) -> None:
        for type_ in TYPES:
            answer = self.post(f"/restic/laptop/{type_}/{LOCK_NAME}", PACK)

            self.assertEqual(400, answer.status)
        self.assertEqual([], self.files())

    def test_file_that_is_there_is_stored_again_and_healed(self) -> None:
        path = self.store_file("data", PACK)
        file = self.store_path / "restic/laptop/data" / NAME[:2] / NAME
        file.write_bytes(b"damaged")

        self.assertEqual(path, self.store_file("data", PACK))

        self.assertEqual(PACK, file.read_bytes())

    def test_condition_that_fails_keeps_the_file(self) -> None:
        path = self.store_file("data", PACK)

        self.assertEqual([412, 412], [self.delete(path, If_Match=tag).status for tag in ('"x"', f'W/"{NAME}"')])
        self.assertEqual([200, 200], [self.delete(path, If_Match=f'"{NAME}"').status for _ in range(2)])
        self.assertEqual([], self.files())

    def test_removal_succeeds_also_for_what_is_not_there(self) -> None:
        for type_ in TYPES:
            path = self.store_file(type_, PACK)

            for _ in range(2):
                answer = self.delete(path)
                self.assertEqual((200, b""), (answer.status, answer.body))
            self.assertEqual(404, self.get(path).status)
        self.assertEqual([], self.files())

    def test_repositories_share_nothing(self) -> None:
        path = self.store_file("data", PACK)

        self.assertEqual(404, self.get(path.replace("laptop", "desktop")).status)

    def test_invalid_repository_answers_400_and_is_not_made(self) -> None:
        for name in ("%2e%2e", "a%2Fb", "a" * 129, "a%20b"):
            for path in (f"/restic/{name}/?create=true", f"/restic/{name}/config", f"/restic/{name}/data/{NAME}"):
                with self.subTest(path=path):
                    self.assertEqual(400, self.post(path, PACK).status)
        self.assertEqual([], self.files())

    def test_repository_is_created_by_each_request_and_removed_by_none(self) -> None:
        for _ in range(2):
            answer = self.post("/restic/laptop/?create=true", b"")
            self.assertEqual((200, b""), (answer.status, answer.body))
        self.assertEqual(400, self.post("/restic/laptop/", b"").status)

        refused = self.delete("/restic/laptop/")

        self.assertEqual((405, "POST"), (refused.status, refused.fields["allow"]))
        self.assertEqual(405, self.put("/restic/laptop/config", b"x").status)
        self.assertEqual(405, self.delete("/restic/laptop/data/").status)

    def test_requests_are_described_and_counted(self) -> None:
        self.store_file("data", PACK)

        paths = json.loads(self.get("/-/openapi.json").body)["paths"]
        shown = self.get("/-/metrics").body.decode()

        self.assertEqual({"get", "head", "post", "delete"}, set(paths["/restic/{repository}/data/{name}"]))
        self.assertIn('filestoraged_requests_total{interface="restic",method="POST",status="200"} 1', shown)
        usage = self.services.disk.usage()["restic"]
        self.assertEqual((1, 600), usage)


class MaxSizeTest(ResticCase):
    interfaces = ("files", "restic")
    config: dict[str, Any] = {"max_size": 100}

    def test_files_of_restic_may_be_larger(self) -> None:
        self.assertEqual(413, self.post("/", PACK).status)

        self.assertEqual(PACK, self.get(self.store_file("data", PACK)).body)


class ConfigTest(ResticCase):
    path = "/restic/laptop/config"

    def test_config_is_stored_once(self) -> None:
        answers = [self.post(self.path, data).status for data in (b"one", b"one", b"two", b"one more", b"on", b"")]

        self.assertEqual([200, 200, 403, 403, 403, 403], answers)
        self.assertEqual(b"one", self.get(self.path).body)
        self.assertEqual(["laptop/config"], self.files())

    def test_config_is_downloaded_like_other_files(self) -> None:
        self.post(self.path, b"config")

        head, whole, part = self.request("HEAD", self.path), self.get(self.path), self.get(self.path, Range="bytes=1-3")

        self.assertEqual((200, b"", "6"), (head.status, head.body, head.fields["content-length"]))
        self.assertEqual((200, b"config", "no-store"), (whole.status, whole.body, whole.fields["cache-control"]))
        self.assertEqual((206, b"onf", "bytes 1-3/6"), (part.status, part.body, part.fields["content-range"]))
        self.assertEqual(416, self.get(self.path, Range="bytes=6-").status)
        # A range is of a GET; and nothing that If-Range could have is the tag of a config.
        self.assertEqual(200, self.request("HEAD", self.path, Range="bytes=1-3").status)
        self.assertEqual(b"config", self.get(self.path, Range="bytes=1-3", If_Range='"x"').body)

    def test_config_can_be_removed_and_stored_anew(self) -> None:
        self.post(self.path, b"one")

        self.assertEqual([200, 200], [self.delete(self.path).status, self.delete(self.path).status])

        self.assertEqual(404, self.get(self.path).status)
        self.assertEqual(200, self.post(self.path, b"two").status)

    def test_config_over_64_kib_answers_413(self) -> None:
        self.assertEqual(413, self.post(self.path, bytes(65537)).status)
        self.assertEqual([], self.files())


class ListTest(ResticCase):
    def listed(self, type_: str, **fields: str) -> Any:
        answer = self.get(f"/restic/laptop/{type_}/", **fields)
        self.assertEqual(200, answer.status)
        self.assertEqual(V2 if V2 in fields.values() else V1, answer.fields["content-type"])
        return json.loads(answer.body)

    def test_repository_that_is_not_there_lists_nothing(self) -> None:
        for type_ in TYPES:
            self.assertEqual([[], []], [self.listed(type_), self.listed(type_, Accept=V2)])
        self.assertEqual(404, self.get("/restic/laptop/packs/").status)
        self.assertEqual([], self.files())

    def test_files_of_each_type_are_listed(self) -> None:
        self.post("/restic/laptop/config", b"config")
        for type_ in TYPES:
            with self.subTest(type_=type_):
                self.store_file(type_, PACK)
                self.store_file(type_, LOCK)

                self.assertEqual({NAME, LOCK_NAME}, set(self.listed(type_)))
                found = {each["name"]: each["size"] for each in self.listed(type_, Accept=V2)}
                self.assertEqual({NAME: len(PACK), LOCK_NAME: len(LOCK)}, found)

    def test_version_of_a_list_is_negotiated_with_weights(self) -> None:
        for accept, version in ((f"{V2}; q=0.9", V2), (f"{V1}, {V2}", V2), (f"{V2};q=0", V1), ("*/*", V1)):
            with self.subTest(accept=accept):
                self.assertEqual(version, self.get("/restic/laptop/data/", Accept=accept).fields["content-type"])

    def test_foreign_files_are_not_listed(self) -> None:
        self.store_file("data", PACK)
        self.store_file("index", PACK)
        for directory in ("data", f"data/{NAME[:2]}", "index"):
            for name in ("notes.txt", f"{NAME}-tmp-1", "0" * 63):
                (self.store_path / "restic/laptop" / directory / name).touch()
        (self.store_path / "restic/laptop/index" / LOCK_NAME).mkdir()
        # In another shard than that of its name.
        other = self.store_path / "restic/laptop/data/zz"
        other.mkdir()
        (other / LOCK_NAME).touch()

        self.assertEqual([[NAME], [NAME]], [self.listed("data"), self.listed("index")])

    def test_directory_that_restic_made_is_served_at_once(self) -> None:
        repository = self.store_path / "restic/laptop"
        for shard in range(256):
            (repository / "data" / f"{shard:02x}").mkdir(parents=True)
        (repository / "data" / NAME[:2] / NAME).write_bytes(PACK)

        self.assertEqual([{"name": NAME, "size": 600}], self.listed("data", Accept=V2))

    def test_long_list_is_sent_in_chunks(self) -> None:
        names = sorted(self.make_packs(50))

        with mock.patch.object(restic, "_PIECE", 7):
            answer = self.get("/restic/laptop/data/")

        self.assertEqual("chunked", answer.fields["transfer-encoding"])
        self.assertNotIn("content-length", answer.fields)
        self.assertEqual(names, sorted(json.loads(answer.body)))

    def test_http_1_0_gets_the_list_without_chunks_and_the_end_of_the_connection(self) -> None:
        names = self.make_packs(50)

        with self.connect() as connection, mock.patch.object(restic, "_PIECE", 7):
            connection.sendall(b"GET /restic/laptop/data/ HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            received = b"".join(iter(lambda: connection.recv(65536), b""))

        answer, body = split_answer(received)
        self.assertEqual((200, "close"), (answer.status, answer.fields["connection"]))
        self.assertEqual(set(names), set(json.loads(body)))

    def test_list_that_fails_in_the_middle_has_no_end(self) -> None:
        self.announce("No space left|Input/output error|shard")
        self.make_packs(50)
        disk = self.services.disk
        real, calls = disk.volume.system.scandir, []

        def fail(path: str) -> Any:
            calls.append(path)
            if len(calls) == 20:
                raise OSError(5, "Input/output error", path)
            return real(path)

        with (
            mock.patch.object(restic, "_PIECE", 7),
            mock.patch.object(disk.volume.system, "scandir", fail),
            self.connect() as connection,
        ):
            connection.sendall(b"GET /restic/laptop/data/ HTTP/1.1\r\nHost: x\r\n\r\n")
            received = b"".join(iter(lambda: connection.recv(65536), b""))

        self.assertTrue(received.startswith(b"HTTP/1.1 200"))
        self.assertFalse(received.endswith(b"0\r\n\r\n"))

    def test_small_download_does_not_wait_for_a_list_whose_directory_is_slow(self) -> None:
        small = self.store_file("keys", LOCK)
        self.make_packs(50)
        disk = self.services.disk
        real, calls = disk.volume.system.scandir, []
        reading, goes_on = threading.Event(), threading.Event()

        def wait(path: str) -> Any:
            calls.append(path)
            if len(calls) == 20:
                reading.set()
                goes_on.wait(PATIENCE)
            return real(path)

        with (
            mock.patch.object(restic, "_PIECE", 7),
            mock.patch.object(disk.volume.system, "scandir", wait),
            self.connect() as connection,
        ):
            connection.sendall(b"GET /restic/laptop/data/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            self.assertTrue(reading.wait(PATIENCE))
            answer = self.get(small)
            goes_on.set()
            received = read_all(connection)

        self.assertEqual(LOCK, answer.body)
        self.assertTrue(received.endswith(b"0\r\n\r\n"))

    def test_list_of_a_store_that_is_lost_is_not_empty_but_refused(self) -> None:
        self.store_file("data", PACK)
        shutil.move(self.store_path, self.directory / "moved")

        self.assertEqual(503, self.get("/restic/laptop/data/").status)

    def make_packs(self, count: int) -> list[str]:
        """Empty files with the names of packs."""
        names = [hashlib.sha256(bytes([number])).hexdigest() for number in range(count)]
        for name in names:
            shard = self.store_path / "restic/laptop/data" / name[:2]
            shard.mkdir(parents=True, exist_ok=True)
            (shard / name).touch()
        return names


class AppendOnlyTest(TokensCase):
    """restic sends a token as the password of `Authorization: Basic`, with any user name."""

    lines = [
        f"{name} {scopes} {hashed(f'token-of-{name}').hex()}"
        for name, scopes in {
            "machine": "read:restic/laptop,write:restic/laptop",
            "operator": "read:restic/laptop,write:restic/laptop,delete:restic/laptop",
            "other": "read:restic/desktop,write:restic/desktop,delete:restic/desktop",
            "reader": "read:restic/laptop",
        }.items()
    ]

    def send(self, who: str, method: str, path: str, body: bytes | None = None) -> int:
        return self.request(method, f"/restic/laptop/{path}", body, **basic("anybody", f"token-of-{who}")).status

    def test_without_delete_locks_can_be_removed_and_nothing_else(self) -> None:
        self.assertEqual(200, self.send("machine", "POST", "?create=true"))
        self.assertEqual(200, self.send("machine", "POST", "config", b"config"))
        for type_ in TYPES:
            self.assertEqual(200, self.send("machine", "POST", f"{type_}/{NAME}", PACK))

        refused = [self.send("machine", "DELETE", f"{type_}/{NAME}") for type_ in TYPES if type_ != "locks"]

        self.assertEqual([403] * 4, refused)
        self.assertEqual(403, self.send("machine", "DELETE", "config"))
        self.assertEqual(200, self.send("machine", "DELETE", f"locks/{NAME}"))
        self.assertEqual([200] * 4, [self.send("operator", "DELETE", f"{t}/{NAME}") for t in TYPES if t != "locks"])
        self.assertEqual(200, self.send("operator", "DELETE", "config"))

    def test_without_delete_nothing_can_be_replaced(self) -> None:
        self.send("machine", "POST", "config", b"config")
        self.send("machine", "POST", f"data/{NAME}", PACK)

        self.assertEqual(403, self.send("machine", "POST", "config", b"another"))
        self.assertEqual(400, self.send("machine", "POST", f"data/{NAME}", b"other bytes"))
        # The same bytes replace nothing: a retry succeeds.
        self.assertEqual(200, self.send("machine", "POST", "config", b"config"))
        self.assertEqual(200, self.send("machine", "POST", f"data/{NAME}", PACK))

    def test_token_of_another_repository_and_no_token_are_refused(self) -> None:
        for path in ("config", "data/", f"data/{NAME}", f"locks/{NAME}"):
            with self.subTest(path=path):
                self.assertEqual(403, self.send("other", "GET", path))
                self.assertEqual(401, self.send("nobody", "GET", path))
                self.assertEqual(401, self.get(f"/restic/laptop/{path}").status)
        self.assertEqual(403, self.send("reader", "POST", f"data/{NAME}", PACK))
        self.assertEqual(403, self.send("reader", "DELETE", f"locks/{NAME}"))
        self.assertEqual(200, self.send("reader", "GET", "data/"))
