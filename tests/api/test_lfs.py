"""The Git LFS API, request by request; every response is compared with the API's schemas."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

from tests.api import lfs_schemas
from tests.api.test_tokens import TokensCase, basic, bearer
from tests.store.memcached.servers import start_memcached
from tests.support import Answer, ServerCase, in_threads, read_answer

MEDIA_TYPE = "application/vnd.git-lfs+json"

TEA = b"tea"
TEA_OID = hashlib.sha256(TEA).hexdigest()
MILK_OID = hashlib.sha256(b"milk").hexdigest()

# Bodies that are no JSON object.
_NO_OBJECTS = (
    *(b"", b"{", b"\xff", b"[]", b"null", b'"x"', b'{"a": 1, "a": 1}', b'{"a": NaN}', b'{"a": "\\ud800"}'),
    *(b'{"a": ' + b"[" * 200 + b"]" * 200 + b"}", b"[" * 100_000, b'{"operation": "download"' + b" " * 99),
)


def wanted(oid: Any, size: Any) -> dict[str, Any]:
    return {"oid": oid, "size": size}


class LfsCase(ServerCase):
    interfaces = ("repositories",)

    def ask(self, method: str, path: str, body: Any = None, **fields: str) -> Answer:
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        answer = self.request(method, path, data, **{"Accept": MEDIA_TYPE, "Content_Type": MEDIA_TYPE, **fields})
        self.assertEqual(MEDIA_TYPE, answer.fields["content-type"])
        self.assertEqual("no-store", answer.fields["cache-control"])
        if answer.status >= 400 and answer.status != 409:
            lfs_schemas.ERROR.validate(json.loads(answer.body))
        return answer

    def batch(self, operation: str, *objects: Any, repository: str = "pets", **members: Any) -> list[dict[str, Any]]:
        body = {"operation": operation, "transfers": ["basic"], "objects": objects, **members}
        answer = self.ask("POST", f"/data/{repository}/objects/batch", body)
        self.assertEqual(200, answer.status, answer.body)
        found = json.loads(answer.body)
        lfs_schemas.BATCH.validate(found)
        self.assertEqual(("basic", "sha256"), (found["transfer"], found["hash_algo"]))
        self.assertEqual(len(objects), len(found["objects"]))
        return list(found["objects"])

    def lock(self, path: str = "a.psd", repository: str = "pets", **fields: str) -> Answer:
        answer = self.ask("POST", f"/data/{repository}/locks", {"path": path}, **fields)
        schema = {201: lfs_schemas.LOCK, 409: lfs_schemas.CONFLICT}.get(answer.status, lfs_schemas.ERROR)
        schema.validate(json.loads(answer.body))
        return answer

    def locked(self, path: str = "a.psd", repository: str = "pets", **fields: str) -> dict[str, Any]:
        answer = self.lock(path, repository, **fields)
        self.assertEqual(201, answer.status, answer.body)
        return dict(json.loads(answer.body)["lock"])

    def locks(self, query: str = "", **fields: str) -> dict[str, Any]:
        answer = self.ask("GET", f"/data/pets/locks{query}", **fields)
        self.assertEqual(200, answer.status, answer.body)
        lfs_schemas.LOCK_LIST.validate(json.loads(answer.body))
        return dict(json.loads(answer.body))

    def verify(self, body: Any, **fields: str) -> dict[str, Any]:
        answer = self.ask("POST", "/data/pets/locks/verify", body, **fields)
        self.assertEqual(200, answer.status, answer.body)
        lfs_schemas.VERIFIABLE_LOCKS.validate(json.loads(answer.body))
        return dict(json.loads(answer.body))

    def unlock(self, id_: str, body: Any = None, **fields: str) -> Answer:
        return self.ask("POST", f"/data/pets/locks/{id_}/unlock", body or {}, **fields)


class BatchTest(LfsCase):
    def test_upload_of_a_missing_object_has_a_link_that_stores_it_and_no_other_bytes(self) -> None:
        (found,) = self.batch("upload", wanted(TEA_OID, 3))

        href = f"http://localhost/data/pets?hash={TEA_OID}"
        self.assertEqual({**wanted(TEA_OID, 3), "actions": {"upload": {"href": href}}}, found)
        self.assertEqual([400, 400], [self.put(self.path(found, "upload"), data).status for data in (b"tee", b"tea!")])
        self.assert_stored(0)
        self.assertEqual(201, self.put(self.path(found, "upload"), TEA).status)
        self.assertEqual(TEA, self.get(f"/data/pets/{TEA_OID}").body)
        # It is stored.
        self.assertEqual([wanted(TEA_OID, 3)], self.batch("upload", wanted(TEA_OID, 3)))

    def test_download_of_a_stored_object_has_a_link_to_its_bytes(self) -> None:
        self.put("/data/pets", TEA)

        (found,) = self.batch("download", wanted(TEA_OID, 3))

        self.assertEqual(["download"], list(found["actions"]))
        self.assertEqual(TEA, self.get(self.path(found, "download")).body)
        part = self.get(self.path(found, "download"), Range="bytes=1-2")
        self.assertEqual((206, b"ea"), (part.status, part.body))

    def test_download_of_missing_objects_has_error_404_each(self) -> None:
        self.put("/data/cats", TEA)

        found = self.batch("download", wanted(TEA_OID, 3), *(wanted(f"{number:064x}", 1) for number in range(20)))

        self.assertEqual([(404, False)] * 21, [(each["error"]["code"], "actions" in each) for each in found])

    def test_size_other_than_the_stored_one_has_error_422(self) -> None:
        self.put("/data/pets", TEA)

        for operation in ("upload", "download"):
            (found,) = self.batch(operation, wanted(TEA_OID, 4))
            self.assertEqual((422, "Invalid size 4: the object has 3 bytes."), tuple(found["error"].values()))

    def test_malformed_object_has_error_422_and_others_are_answered(self) -> None:
        self.put("/data/pets", TEA)
        oids: tuple[Any, ...] = (TEA_OID[1:], TEA_OID + "0", "g" * 64, TEA_OID.upper(), "", "x" * 10_000, "\0" * 64)
        oids += ("../" * 21 + "x", None, 5, [TEA_OID])
        sizes = (-1, 2**63, 10**40, -(10**40), 10**4000, 3.0, 1e300, "3", None, True, [3])
        bad: list[Any] = [*(wanted(oid, 3) for oid in oids), *(wanted(TEA_OID, size) for size in sizes)]
        bad += [{}, {"oid": TEA_OID}, {"size": 3}, [], "x", None, 3]
        for operation in ("upload", "download"):
            for each in bad:
                with self.subTest(operation=operation, each=repr(each)[:80]):
                    first, found, last = self.batch(operation, wanted(TEA_OID, 3), each, wanted(MILK_OID, 4))

                    self.assertEqual((422, False), (found["error"]["code"], "actions" in found))
                    self.assertLess(len(found["error"]["message"]), 300)
                    self.assertNotIn("error", first)
                    self.assertEqual(operation == "download", "error" in last)

    def test_size_of_many_digits_has_error_422_and_the_largest_one_is_accepted(self) -> None:
        for digits in ("1" * 100_000, "-" + "1" * 100_000, "0." + "1" * 100_000, "1e99999"):
            body = b'{"operation": "upload", "objects": [{"oid": "%b", "size": %b}]}'
            answer = self.ask("POST", "/data/pets/objects/batch", body % (TEA_OID.encode(), digits.encode()))

            self.assertEqual(422, json.loads(answer.body)["objects"][0]["error"]["code"])
        self.assertIn("upload", self.batch("upload", wanted(TEA_OID, 2**63 - 1))[0]["actions"])

    def test_object_that_is_named_twice_is_answered_twice(self) -> None:
        self.put("/data/pets", TEA)

        found = self.batch("download", wanted(TEA_OID, 3), wanted(TEA_OID, 3), wanted(TEA_OID, 4))

        self.assertEqual(found[0], found[1])
        self.assertEqual(422, found[2]["error"]["code"])

    def test_empty_object_and_empty_batch_are_answered(self) -> None:
        empty = hashlib.sha256(b"").hexdigest()
        (found,) = self.batch("upload", wanted(empty, 0))

        self.assertEqual(201, self.put(self.path(found, "upload"), b"").status)
        self.assertIn("download", self.batch("download", wanted(empty, 0))[0]["actions"])
        self.assertEqual([], self.batch("upload"))

    def test_what_is_optional_may_be_missing_or_null(self) -> None:
        for members in ({}, {"ref": {"name": "refs/heads/main"}, "hash_algo": "sha256", "new": {"a": [1]}},
                        {"ref": None, "hash_algo": None, "transfers": None}, {"ref": {"name": None}},
                        {"transfers": ["ssh", "x", "basic"]}):  # fmt: skip
            with self.subTest(members=members):
                self.batch("upload", wanted(TEA_OID, 3), **members)
        body = {"operation": "upload", "objects": [wanted(TEA_OID, 3)]}
        for kind in (f"{MEDIA_TYPE}; charset=utf-8", "application/json", "text/plain"):
            answer = self.ask("POST", "/data/pets/objects/batch", body, Content_Type=kind, Accept=kind)
            self.assertEqual(200, answer.status)

    def test_malformed_batch_answers_422(self) -> None:
        good: dict[str, Any] = {"operation": "upload", "objects": []}
        members: tuple[dict[str, Any], ...] = (
            *({"operation": each} for each in ("verify", "", None, 1, ["upload"], "x" * 10_000)),
            *({"objects": "x"}, {"objects": {}}, {"objects": 1}, {"objects": None}),
            *({"transfers": each} for each in ("basic", {"basic": 1})),
            *({"transfers": each} for each in ([], ["ssh"], [1], ["basic", 1], [["basic"]])),
            *({"hash_algo": 1}, {"hash_algo": ["sha256"]}),
            *({"ref": "refs/heads/main"}, {"ref": []}, {"ref": {"name": 1}}),
        )
        bad: list[Any] = [*_NO_OBJECTS, {"objects": []}, {"operation": "upload"}, {}]
        for body in (*bad, *({**good, **each} for each in members)):
            with self.subTest(body=repr(body)[:80]):
                answer = self.ask("POST", "/data/pets/objects/batch", body)

                self.assertEqual(422, answer.status, answer.body)
                self.assertLess(len(answer.body), 1000)

    def test_other_hash_algorithm_answers_409(self) -> None:
        body = {"operation": "upload", "objects": [], "hash_algo": "sha512"}

        answer = self.ask("POST", "/data/pets/objects/batch", body)

        self.assertEqual(409, answer.status)
        lfs_schemas.ERROR.validate(json.loads(answer.body))

    def test_thousand_objects_are_answered_and_one_more_answers_413(self) -> None:
        objects = [
            wanted(hashlib.sha256(bytes([number % 256, number // 256])).hexdigest(), 2) for number in range(1001)
        ]

        self.assertEqual(1000, len(self.batch("upload", *objects[:1000])))
        body = {"operation": "upload", "objects": objects}
        self.assertEqual(413, self.ask("POST", "/data/pets/objects/batch", body).status)

    def test_body_of_more_than_1_mib_answers_413(self) -> None:
        start = b'{"operation": "upload", "objects": []'
        for size, status in ((1024 * 1024, 200), (1024 * 1024 + 1, 413)):
            body = start + b" " * (size - len(start) - 1) + b"}"
            self.assertEqual(status, self.ask("POST", "/data/pets/objects/batch", body).status)
        chunked = self.ask("POST", "/data/pets/objects/batch", None)
        self.assertEqual(422, chunked.status)
        sent = self.request("POST", "/data/pets/objects/batch", iter([b" " * 600_000] * 2))
        self.assertEqual((413, MEDIA_TYPE), (sent.status, sent.fields["content-type"]))

    def test_repository_that_is_no_name_answers_400(self) -> None:
        for name in ("..", "%2e%2e", "x" * 129, "a%2fb", "caf%c3%a9", ""):
            for method, path in (("POST", "objects/batch"), ("GET", "locks"), ("POST", "locks"),
                                 ("POST", "locks/verify"), ("POST", "locks/1/unlock")):  # fmt: skip
                with self.subTest(name=name, path=path):
                    body = {"operation": "upload", "objects": [], "path": "x"} if method == "POST" else None
                    self.assertEqual(400, self.ask(method, f"/data/{name}/{path}", body).status)

    def test_other_method_answers_405_and_unknown_path_404(self) -> None:
        for path, allowed in (("objects/batch", "POST"), ("locks", "GET, POST"), ("locks/verify", "POST"),
                              ("locks/1/unlock", "POST")):  # fmt: skip
            for method in ("DELETE", "PUT", "HEAD"):
                with self.subTest(path=path, method=method):
                    answer = self.request(method, f"/data/pets/{path}")

                    self.assertEqual((405, allowed), (answer.status, answer.fields["allow"]))
                    self.assertEqual(MEDIA_TYPE, answer.fields["content-type"])
        for path in ("objects", "objects/other", "locks/1", "locks/1/lock", "locks/1/unlock/x"):
            self.assertEqual(404, self.get(f"/data/pets/{path}").status)

    def test_batch_from_another_site_answers_403(self) -> None:
        body = {"operation": "upload", "objects": []}

        self.assertEqual(403, self.ask("POST", "/data/pets/objects/batch", body, Origin="https://evil.example").status)

    def test_connection_carries_batches_and_bodies_that_arrive_slowly(self) -> None:
        body = json.dumps({"operation": "upload", "objects": [wanted(TEA_OID, 3)]}).encode()
        head = f"POST /data/pets/objects/batch HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        connection = self.connect()
        for _ in range(2):
            connection.sendall(head + body[:10])
            connection.sendall(body[10:])
            self.assertEqual(200, read_answer(connection).status)

    def path(self, found: dict[str, Any], action: str) -> str:
        return "/" + str(found["actions"][action]["href"]).split("/", 3)[3]


class MaxSizeTest(LfsCase):
    config = {"max_size": 4}

    def test_missing_object_above_max_size_has_error_422(self) -> None:
        small, large = self.batch("upload", wanted(TEA_OID, 4), wanted(MILK_OID, 5))
        self.assertIn("actions", small)
        self.assertEqual((422, "Content of 5 bytes exceeds the limit of 4 bytes."), tuple(large["error"].values()))

        found = self.batch("download", wanted(TEA_OID, 4), wanted(MILK_OID, 5))
        self.assertEqual([404, 422], [each["error"]["code"] for each in found])

    def test_stored_object_above_max_size_is_downloaded(self) -> None:
        shard = self.store_path / "repositories" / "pets" / MILK_OID[:2]
        shard.mkdir(parents=True)
        (shard / MILK_OID).write_bytes(b"large milk")

        self.assertIn("download", self.batch("download", wanted(MILK_OID, 10))[0]["actions"])
        self.assertEqual([wanted(MILK_OID, 10)], self.batch("upload", wanted(MILK_OID, 10)))


class LinksTest(LfsCase):
    def test_links_begin_with_the_host_that_was_asked_for(self) -> None:
        for host in ("lfs.example:8080", "[::1]:8080", "LFS.example"):
            body = {"operation": "upload", "objects": [wanted(TEA_OID, 3)]}
            found = json.loads(self.ask("POST", "/data/%70ets/objects/batch", body, Host=host).body)["objects"][0]
            self.assertEqual(f"http://{host}/data/pets?hash={TEA_OID}", found["actions"]["upload"]["href"])

    def test_request_without_a_host_gets_links_to_localhost(self) -> None:
        body = json.dumps({"operation": "upload", "objects": [wanted(TEA_OID, 3)]}).encode()
        head = b"POST /data/pets/objects/batch HTTP/1.0\r\nContent-Length: %d\r\n\r\n"

        (answer,) = self.raw(head % len(body) + body)

        self.assertIn(b'"http://localhost/data/pets?hash=', answer.body)


class PublicUrlTest(LfsCase):
    config = {"public_url": "https://files.example/below", "mounts": {"/": "repositories"}}

    def test_links_begin_with_the_public_url(self) -> None:
        self.put("/pets", TEA)
        for operation, oid, href in (
            ("upload", MILK_OID, f"https://files.example/below/pets?hash={MILK_OID}"),
            ("download", TEA_OID, f"https://files.example/below/pets/{TEA_OID}"),
        ):
            body = {"operation": operation, "objects": [wanted(oid, 3)]}
            found = json.loads(self.ask("POST", "/pets/objects/batch", body).body)["objects"][0]
            self.assertEqual({operation: {"href": href}}, found["actions"])


class LocksTest(LfsCase):
    def test_lock_is_created_and_listed(self) -> None:
        lock = self.locked("textures/cat.psd")

        self.assertEqual(("textures/cat.psd", {"name": "anybody"}), (lock["path"], lock["owner"]))
        self.assertEqual({"locks": [lock]}, self.locks())
        self.assertEqual({"ours": [lock], "theirs": []}, self.verify({}))

    def test_locked_path_answers_409_with_its_lock(self) -> None:
        lock = self.locked()

        for fields in ({}, basic("bob", "")):
            answer = self.lock(**fields)
            self.assertEqual((409, lock), (answer.status, json.loads(answer.body)["lock"]))

    def test_one_of_32_simultaneous_locks_answers_201(self) -> None:
        answers = in_threads(32, lambda number: self.lock(**basic(f"user {number}", "")))

        self.assertEqual([201] + [409] * 31, sorted(answer.status for answer in answers))
        self.assertEqual(1, len({answer.body.split(b', "message"')[0].rstrip(b"}\n") for answer in answers}))

    def test_repositories_share_no_lock(self) -> None:
        cats, pets = self.locked(repository="cats"), self.locked()

        self.assertEqual({"locks": [pets]}, self.locks())
        self.assertEqual(404, self.unlock(cats["id"]).status)

    def test_lock_and_objects_of_a_repository_do_not_clash(self) -> None:
        self.put("/data/pets", TEA)
        self.locked()

        self.assertEqual(TEA, self.get(f"/data/pets/{TEA_OID}").body)
        self.assertEqual(404, self.get("/data/pets/objects").status)
        self.assertEqual(1, len(json.loads(self.get("/data/pets").body)["objects"]))
        self.assertEqual(201, self.put("/data/locks", TEA).status)
        self.assertEqual(TEA, self.get(f"/data/locks/{TEA_OID}").body)

    def test_owner_is_the_user_of_basic_authentication(self) -> None:
        lock = self.locked(**basic("Zoë 🐈", "any"))

        self.assertEqual("Zoë 🐈", lock["owner"]["name"])
        self.assertEqual("anybody", self.locked("b", **bearer("x"))["owner"]["name"])
        self.assertEqual("anybody", self.locked("c", **basic("", "x"))["owner"]["name"])
        self.assertEqual("anybody", self.locked("d", Authorization="Basic %%%")["owner"]["name"])

    def test_owner_without_a_valid_name_answers_422(self) -> None:
        for user in ("x" * 101, "a\nb", "a\x7f", "\x1b[31m"):
            for method, path, body in (("POST", "locks", {"path": "x"}), ("POST", "locks/verify", {})):
                self.assertEqual(422, self.ask(method, f"/data/pets/{path}", body, **basic(user, "")).status)

    def test_locks_of_others_are_theirs(self) -> None:
        alices, bobs = self.locked("a", **basic("alice", "")), self.locked("b", **basic("bob", ""))

        self.assertEqual({"ours": [alices], "theirs": [bobs]}, self.verify({}, **basic("alice", "")))
        self.assertEqual({"ours": [], "theirs": [alices, bobs]}, self.verify({}))

    def test_own_lock_is_released_and_its_id_never_used_again(self) -> None:
        ids = []
        for body in ({}, None, {"force": False}):
            lock = self.locked()
            ids.append(lock["id"])

            answer = self.ask("POST", f"/data/pets/locks/{lock['id']}/unlock", body)

            self.assertEqual((200, {"lock": lock}), (answer.status, json.loads(answer.body)))
            self.assertEqual({"locks": []}, self.locks())
            self.assertEqual(404, self.unlock(lock["id"]).status)
        self.assertEqual(3, len(set(ids)))

    def test_lock_of_another_is_released_by_force_alone(self) -> None:
        lock = self.locked(**basic("alice", ""))

        refused = [self.unlock(lock["id"], body).status for body in ({}, {"force": False}, {"force": None})]
        released = self.unlock(lock["id"], {"force": True})

        self.assertEqual(([403] * 3, 200), (refused, released.status))

    def test_locks_are_found_by_path_and_id(self) -> None:
        locks = [self.locked(path) for path in ("a", "b/Käse.psd", "A")]

        for query, expected in (("path=a", locks[:1]), ("path=b%2FK%C3%A4se.psd", locks[1:2]), ("path=c", []),
                                (f"id={locks[2]['id']}", locks[2:]), ("id=999", []), ("id=x", []), ("id=", []),
                                (f"path=a&id={locks[0]['id']}", locks[:1]), (f"path=a&id={locks[1]['id']}", []),
                                ("refspec=refs/heads/main", locks), ("path=%ff", []), ("path=%00", []),
                                (f"path={'x' * 5000}", []), (f"id={'9' * 400}", [])):  # fmt: skip
            with self.subTest(query=query[:40]):
                self.assertEqual({"locks": expected}, self.locks(f"?{query}"))

    def test_pages_contain_every_lock_once(self) -> None:
        locks = [self.locked(f"{number}") for number in range(25)]
        for limit in (10, 24, 25, 26, 5000):
            listed: list[Any] = []
            verified: list[Any] = []
            cursor, pages = "", 0
            while pages == 0 or cursor:
                page = self.locks(f"?limit={limit}" + (f"&cursor={cursor}" if cursor else ""))
                same = self.verify({"limit": limit, "cursor": cursor})
                self.assertEqual(page.get("next_cursor"), same.get("next_cursor"))
                listed, verified = listed + page["locks"], verified + same["ours"]
                cursor, pages = page.get("next_cursor", ""), pages + 1
            with self.subTest(limit=limit):
                self.assertEqual((locks, locks, -(-25 // limit)), (listed, verified, pages))

    def test_page_behind_a_released_lock_is_complete(self) -> None:
        locks = [self.locked(f"{number}") for number in range(6)]
        cursor = self.locks("?limit=3")["next_cursor"]
        self.unlock(locks[2]["id"])

        self.assertEqual(locks[3:], self.locks(f"?cursor={cursor}")["locks"])

    def test_page_has_100_locks_by_default(self) -> None:
        for number in range(101):
            self.locked(f"{number}")

        self.assertEqual([100, 100], [len(self.locks()["locks"]), len(self.verify({})["ours"])])

    def test_malformed_lock_request_answers_422(self) -> None:
        paths = (
            *("", "/a", "a/", "a//b", ".", "..", "a/../b", "../a", "./a", "a/.", "a\0", "a\nb", "\x7f", "\x85"),
            *("x" * 4097, "é" * 2049, "x/" * 5000 + "x", None, 1, ["a"], {"a": 1}, True),
        )
        bad: list[Any] = [{"path": path} for path in paths]
        bad += [{}, {"path": "a", "ref": "main"}, {"path": "a", "ref": {"name": []}}]
        for body in (*_NO_OBJECTS, *bad):
            with self.subTest(body=repr(body)[:60]):
                answer = self.ask("POST", "/data/pets/locks", body)

                self.assertEqual(422, answer.status)
                self.assertLess(len(answer.body), 1000)
        self.assertEqual({"locks": []}, self.locks())

    def test_unusual_path_is_locked(self) -> None:
        for path in (
            "x" * 4096, "é" * 2048, " ", "a b", "...", "a..b", "-", "%2e", "a\\b", "🐈", '"', "'; --", "locks",
        ):  # fmt: skip
            with self.subTest(path=path[:20]):
                self.assertEqual(path, self.locked(path)["path"])

    def test_malformed_verification_or_release_answers_422(self) -> None:
        id_ = self.locked()["id"]
        verifications: list[Any] = [
            {"limit": 0}, {"limit": -1}, {"limit": "1"}, {"limit": 1.5}, {"limit": True}, {"limit": []},
            {"cursor": "x"}, {"cursor": "0"}, {"cursor": "-1"}, {"cursor": 1}, {"cursor": "²"}, {"cursor": "9" * 20},
            {"cursor": str(2**63)}, {"cursor": " 1"}, {"ref": 1},
        ]  # fmt: skip
        releases: list[Any] = [{"force": 1}, {"force": "true"}, {"force": []}, {"ref": []}]
        for path, bodies in (("locks/verify", verifications), (f"locks/{id_}/unlock", releases)):
            for body in (*_NO_OBJECTS[1:], *bodies):
                with self.subTest(path, body=repr(body)[:60]):
                    self.assertEqual(422, self.ask("POST", f"/data/pets/{path}", body).status)
        self.assertEqual(1, len(self.locks()["locks"]))

    def test_bad_limit_or_cursor_of_the_list_answers_422(self) -> None:
        for query in ("limit=0", "limit=-1", "limit=", "limit=x", "limit=1.0", "limit=%C2%B2", "limit=1&limit=2",
                      f"limit={'9' * 5000}", "cursor=x", "cursor=0", "cursor=-1", f"cursor={2**63}", "cursor=%00",
                      f"cursor={'1' * 5000}", "path=a&path=a", "id=1&id=1", "cursor=01"):  # fmt: skip
            with self.subTest(query=query[:30]):
                self.assertEqual(422, self.ask("GET", f"/data/pets/locks?{query}").status)

    def test_id_that_is_none_answers_404(self) -> None:
        for id_ in ("0", "-1", "x", "%31%00", "9" * 19, "9" * 400, "1.0", "01", "%2e%2e", str(2**63), "²"):
            with self.subTest(id=id_[:20]):
                self.assertEqual(404, self.unlock(id_.replace("²", "%C2%B2")).status)


class TokensTest(TokensCase, LfsCase):
    lines = [
        *TokensCase.lines,
        *(
            f"{name} {scopes} {hashlib.sha256(f'token-of-{name}'.encode()).hexdigest()}"
            for name, scopes in (
                ("pets-reader", "read:data/pets"),
                ("pets-writer", "write:data/pets"),
                ("pets-remover", "delete:data/pets"),
                ("pets-admin", "read:data/pets,write:data/pets,delete:data/pets"),
            )
        ),
    ]

    def ask_for(self, operation: str, **fields: str) -> Answer:
        body = {"operation": operation, "objects": [wanted(TEA_OID, 3)]}
        return self.ask("POST", "/data/pets/objects/batch", body, **fields)

    def test_request_without_a_valid_token_answers_401_with_lfs_authenticate(self) -> None:
        for fields in ({}, bearer("nobody"), basic("git", "wrong")):
            for method, path in (("POST", "objects/batch"), ("GET", "locks"), ("POST", "locks"),
                                 ("POST", "locks/verify"), ("POST", "locks/1/unlock")):  # fmt: skip
                with self.subTest(path=path):
                    answer = self.ask(method, f"/data/pets/{path}", {} if method == "POST" else None, **fields)

                    self.assertEqual(401, answer.status)
                    self.assertTrue(answer.fields["lfs-authenticate"].startswith('Basic realm="filestoraged"'))
                    self.assertIn("www-authenticate", answer.fields)

    def test_token_allows_what_its_scopes_say(self) -> None:
        lock = self.locked("other", **bearer("pets-admin"))
        requests: dict[str, Callable[..., Answer]] = {
            "download": lambda **fields: self.ask_for("download", **fields),
            "upload": lambda **fields: self.ask_for("upload", **fields),
            "list": lambda **fields: self.ask("GET", "/data/pets/locks", **fields),
            "verify": lambda **fields: self.ask("POST", "/data/pets/locks/verify", {}, **fields),
            "lock": lambda **fields: self.ask("POST", "/data/pets/locks", {"path": "other"}, **fields),
            "force": lambda **fields: self.unlock(lock["id"], {"force": True}, **fields),
            "elsewhere": lambda **fields: self.ask("GET", "/data/dogs/locks", **fields),
        }
        allowed = {
            "files": [],
            "keys": [],
            "pets-reader": ["download", "list", "verify"],
            "pets-writer": ["upload", "lock"],
            "reader": ["download", "list", "verify", "elsewhere"],
            "writer": ["upload", "lock"],
            "pets": ["download", "upload", "list", "verify", "lock"],
            "pets-remover": ["force"],
        }
        for name, expected in allowed.items():
            for kind, request in requests.items():
                with self.subTest(name=name, kind=kind):
                    answer = request(**basic("git", f"token-of-{name}"))

                    self.assertEqual(kind not in expected, answer.status == 403, answer)
                    self.assertNotEqual(401, answer.status)
                    self.assertNotIn("lfs-authenticate", answer.fields)

    def test_owner_is_the_name_of_the_token(self) -> None:
        lock = self.locked("a", **basic("eve", "token-of-writer"))

        self.assertEqual("writer", lock["owner"]["name"])
        self.assertEqual([lock], self.verify({}, **bearer("reader"))["theirs"])
        self.assertEqual([lock], self.verify({}, **bearer("all"))["theirs"])

    def test_lock_of_another_needs_the_scope_delete_and_force(self) -> None:
        lock = self.locked("a", **bearer("writer"))

        statuses = [
            self.unlock(lock["id"], {"force": force}, **bearer(name)).status
            for name, force in (("pets", False), ("pets", True), ("all", False), ("pets-remover", False), ("all", True))
        ]

        self.assertEqual([403, 403, 403, 403, 200], statuses)

    def test_own_lock_needs_the_scope_write_alone(self) -> None:
        for force in (False, True):
            lock = self.locked("a", **bearer("pets"))
            self.assertEqual(200, self.unlock(lock["id"], {"force": force}, **bearer("pets")).status)


class AnonymousReadTest(TokensCase, LfsCase):
    """Anybody may read; writing needs a token."""

    lines = [*TokensCase.lines, "anybody read -"]

    def test_download_needs_no_token_and_upload_answers_401(self) -> None:
        for operation, statuses in (("download", [200, 200, 200]), ("upload", [401, 200, 403])):
            found = []
            for fields in ({}, bearer("writer"), bearer("watcher")):
                body = {"operation": operation, "objects": []}
                answer = self.ask("POST", "/data/pets/objects/batch", body, **fields)
                self.assertEqual(answer.status == 401, "lfs-authenticate" in answer.fields)
                found.append(answer.status)
            self.assertEqual(statuses, found)

    def test_locks_are_read_without_a_token_and_made_with_one(self) -> None:
        self.assertEqual({"locks": []}, self.locks())
        self.assertEqual(401, self.lock().status)
        lock = self.locked(**bearer("writer"))
        self.assertEqual("writer", lock["owner"]["name"])
        self.assertEqual({"locks": [lock]}, self.locks())
        self.assertEqual(401, self.unlock("1").status)

    def test_locks_are_verified_with_a_token_for_they_may_be_those_of_the_client(self) -> None:
        lock = self.locked(**bearer("writer"))
        for fields in ({}, bearer("nonsense")):
            answer = self.ask("POST", "/data/pets/locks/verify", {}, **fields)
            self.assertEqual((401, True), (answer.status, "lfs-authenticate" in answer.fields))
        self.assertEqual({"ours": [lock], "theirs": []}, self.verify({}, **bearer("writer")))
        self.assertEqual({"ours": [], "theirs": [lock]}, self.verify({}, **bearer("watcher")))


class AnonymousWriteTest(TokensCase, LfsCase):
    """Anybody may read and write."""

    lines = [*TokensCase.lines, "anybody read,write -"]

    def test_locks_are_verified_without_a_token(self) -> None:
        lock = self.locked()
        self.assertEqual({"ours": [lock], "theirs": []}, self.verify({}))


class OnMemcachedTest(LfsCase):
    config: dict[str, Any] = {}

    def setUp(self) -> None:
        self.config = {"memcached": (start_memcached(self).address,)}
        super().setUp()

    def test_batch_and_locks_work_with_objects_in_memcached(self) -> None:
        (found,) = self.batch("upload", wanted(TEA_OID, 3))
        self.assertEqual(201, self.put("/" + found["actions"]["upload"]["href"].split("/", 3)[3], TEA).status)

        self.assertEqual([wanted(TEA_OID, 3)], self.batch("upload", wanted(TEA_OID, 3)))
        self.assertIn("download", self.batch("download", wanted(TEA_OID, 3))[0]["actions"])
        self.assertEqual(404, self.batch("download", wanted(MILK_OID, 4))[0]["error"]["code"])
        self.assertEqual(422, self.batch("upload", wanted(MILK_OID, 51 * 1024 * 1024))[0]["error"]["code"])
        self.assertEqual({"locks": [self.locked()]}, self.locks())
