"""The `names` interface: names of the client's choice, compare-and-swap, listings and pages."""

from __future__ import annotations

import hashlib
import json
import os
from typing import Any
from unittest import mock

from filestoraged.future import Future
from filestoraged.store import layout
from filestoraged.store.limits import Rules
from filestoraged.store.name_collection import NamesJanitor
from filestoraged.store.names import Link
from tests.clock import VirtualClock
from tests.support import Answer, ServerCase, in_threads

TEA, COFFEE = b"tea", b"coffee"
TEA_OID, COFFEE_OID = (hashlib.sha256(data).hexdigest() for data in (TEA, COFFEE))
LARGE = b"x" * 100_000


class NamesTest(ServerCase):
    interfaces = ("names",)
    clock: VirtualClock

    def setUp(self) -> None:
        self.clock = VirtualClock()
        super().setUp()

    def head(self, target: str, **fields: str) -> Answer:
        return self.request("HEAD", target, **fields)

    def listed(self, target: str) -> Any:
        answer = self.get(target)
        self.assertEqual(200, answer.status, answer.body)
        return json.loads(answer.body)

    def test_new_name_answers_201_and_a_replaced_one_200(self) -> None:
        answers = [self.put("/names/s/a/b.txt", data) for data in (TEA, COFFEE, COFFEE)]

        self.assertEqual([201, 200, 200], [each.status for each in answers])
        self.assertEqual(f'"{TEA_OID}"', answers[0].fields["etag"])
        first = json.loads(answers[0].body)
        self.assertEqual(["name", "oid", "size", "modified", "expires"], list(first))
        self.assertEqual(("a/b.txt", TEA_OID, 3, None), (first["name"], first["oid"], first["size"], first["expires"]))
        self.assertRegex(first["modified"], r"^20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ$")
        self.assertEqual(COFFEE, self.get("/names/s/a/b.txt").body)

    def test_download_has_the_type_of_the_upload_and_is_revalidated(self) -> None:
        self.put("/names/s/a", TEA, Content_Type="text/html; charset=utf-8")
        self.put("/names/s/b", TEA)

        answer = self.get("/names/s/a")

        self.assertEqual((200, TEA), (answer.status, answer.body))
        expected = {
            "etag": f'"{TEA_OID}"',
            "content-type": "text/html; charset=utf-8",
            "cache-control": "no-cache",
            "accept-ranges": "bytes",
            "x-content-type-options": "nosniff",
            "content-security-policy": "sandbox",
        }
        self.assertEqual(expected, {name: answer.fields[name] for name in expected})
        self.assertIn("last-modified", answer.fields)
        self.assertEqual("application/octet-stream", self.get("/names/s/b").fields["content-type"])
        self.assertEqual("text/html; charset=utf-8", self.get("/names/s/a").fields["content-type"])

    def test_head_answers_as_get_without_the_bytes(self) -> None:
        for data in (TEA, LARGE, b""):
            self.put("/names/s/a", data, Content_Type="image/png")
            got, head = self.get("/names/s/a"), self.head("/names/s/a", Range="bytes=0-0")

            self.assertEqual((200, b""), (head.status, head.body))
            self.assertEqual(str(len(data)), head.fields["content-length"])
            for fields in (got.fields, head.fields):
                fields.pop("date")
            self.assertEqual(got.fields, head.fields)
        self.assertEqual(404, self.head("/names/s/b").status)
        self.assertEqual(304, self.head("/names/s/a", If_None_Match=f'"{hashlib.sha256(b"").hexdigest()}"').status)
        self.assertEqual(405, self.head("/names/s").status)

    def test_ranges_and_conditions_of_downloads(self) -> None:
        self.put("/names/s/a", COFFEE)

        self.assertEqual((206, b"off"), self.get("/names/s/a", Range="bytes=1-3")[::2])
        self.assertEqual(416, self.get("/names/s/a", Range="bytes=6-").status)
        self.assertEqual(304, self.get("/names/s/a", If_None_Match=f'"{COFFEE_OID}"').status)
        self.assertEqual(200, self.get("/names/s/a", If_None_Match=f'"{TEA_OID}"').status)
        self.assertEqual(412, self.get("/names/s/a", If_Match=f'"{TEA_OID}"').status)
        self.assertEqual(COFFEE, self.get("/names/s/a", Range="bytes=0-1", If_Range=f'"{TEA_OID}"').body)
        # Other bytes may have had the name within the same second.
        modified = self.get("/names/s/a").fields["last-modified"]
        self.assertEqual(COFFEE, self.get("/names/s/a", Range="bytes=0-1", If_Range=modified).body)

    def test_missing_name_answers_404_to_each_method(self) -> None:
        self.put("/names/s/a", TEA)

        for target in ("/names/s/b", "/names/t/a", "/names/s/a/b"):
            statuses = [self.request(method, target).status for method in ("GET", "HEAD", "DELETE")]
            self.assertEqual([404] * 3, statuses)

    def test_removed_name_answers_204_and_then_404(self) -> None:
        self.put("/names/s/a", TEA)
        self.put("/names/s/b", TEA)

        removed = self.delete("/names/s/a")

        self.assertEqual((204, b""), (removed.status, removed.body))
        self.assertEqual([404, 404], [self.get("/names/s/a").status, self.delete("/names/s/a").status])
        self.assertEqual(TEA, self.get("/names/s/b").body)

    def test_name_is_the_rest_of_the_path_once_decoded(self) -> None:
        names = {
            "a%2Fb": "a/b",
            "%61/b": "a/b",
            "caf%C3%A9": "café",
            "a%20b": "a b",
            "a+b": "a+b",
            "~!$&'()*,;=:@": "~!$&'()*,;=:@",
            "...": "...",
            ".a/..b": ".a/..b",
            "%25": "%",
            "x" * 1024: "x" * 1024,
            "%C3%A9" * 512: "é" * 512,
        }

        for path, name in names.items():
            with self.subTest(path=path[:20]):
                answer = self.put(f"/names/s/{path}", TEA)
                self.assertEqual(name, json.loads(answer.body)["name"])
                self.assertEqual(TEA, self.get(f"/names/s/{path}").body)
        self.assertEqual(sorted(set(names.values()), key=str.encode), self.names_of("/names/s"))

    def names_of(self, target: str) -> list[str]:
        return [each["name"] for each in self.listed(target)["names"]]

    def test_invalid_name_or_space_answers_400(self) -> None:
        for name in ("", "/", "a/", "a//b", ".", "..", "a/./b", "a/%2e%2e", "%2f", "a%2f", "%00", "a%1F", "%7f",
                     "%C2%85", "%ff", "%c3", "x" * 1025, "%C3%A9" * 513):  # fmt: skip
            for method in ("GET", "HEAD", "PUT", "DELETE"):
                with self.subTest(method=method, name=name[:20]):
                    self.assertEqual(400, self.request(method, f"/names/s/{name}").status)
        for space in ("%20", "a%2fb", "..", "x" * 129):
            self.assertEqual(
                [400, 400], [self.put(f"/names/{space}/a", TEA).status, self.get(f"/names/{space}").status]
            )
        self.assertEqual(400, self.put("/names//a", TEA).status)
        self.assert_stored(0)

    def test_method_that_a_path_does_not_have_answers_405(self) -> None:
        for target, allowed in (
            ("/names", "GET"),
            ("/names/", "GET"),
            ("/names/s", "GET"),
            ("/names/s/a", "GET, HEAD, PUT, DELETE"),
        ):
            answer = self.post(target, TEA)
            self.assertEqual((405, allowed), (answer.status, answer.fields["allow"]))

    def test_upload_with_a_wrong_digest_answers_400_and_stores_nothing(self) -> None:
        for query, fields in (
            (f"?hash={COFFEE_OID}", {}),
            ("?hash=x", {}),
            ("", {"Content_MD5": "x"}),
            ("", {"Content_Digest": "sha-256=:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:"}),
            ("", {"Content_Range": "bytes 0-2/3"}),
        ):
            self.assertEqual(400, self.put(f"/names/s/a{query}", TEA, **fields).status)
        self.assertEqual(404, self.get("/names/s/a").status)
        self.assert_stored(0)
        self.assertEqual(201, self.put(f"/names/s/a?hash={TEA_OID}", TEA).status)

    def test_unknown_query_is_ignored(self) -> None:
        self.assertEqual(201, self.put("/names/s/a?teamId=1&slug=x", TEA).status)
        self.assertEqual(TEA, self.get("/names/s/a?teamId=1&name=x").body)
        self.assertEqual(["a"], self.names_of("/names/s?x=y"))
        self.assertEqual(204, self.delete("/names/s/a?teamId=1").status)

    def test_name_expires_after_its_ttl(self) -> None:
        answer = json.loads(self.put("/names/s/a?ttl=60", TEA).body)
        self.put("/names/s/b?ttl=60", TEA)
        self.put("/names/s/b", TEA)

        self.assertIsNotNone(answer["expires"])
        self.clock.advance(59)
        self.assertEqual(200, self.get("/names/s/a").status)
        self.clock.advance(2)

        self.assertEqual([404, 404], [self.get("/names/s/a").status, self.delete("/names/s/a").status])
        self.assertEqual(["b"], self.names_of("/names/s"))
        self.assertEqual(201, self.put("/names/s/a", TEA, If_None_Match="*").status)

    def test_malformed_ttl_answers_400(self) -> None:
        for ttl in ("", "0", "-1", "1.5", "x", "3153600001", "99999999999", "1&ttl=2"):
            self.assertEqual(400, self.put(f"/names/s/a?ttl={ttl}", TEA).status, ttl)
        self.assertEqual(201, self.put("/names/s/a?ttl=3153600000", TEA).status)

    def test_condition_that_does_not_hold_answers_412_and_changes_nothing(self) -> None:
        self.put("/names/s/a", TEA)
        for target, fields in (
            ("a", {"If_None_Match": "*"}),
            ("a", {"If_None_Match": f'"{TEA_OID}"'}),
            ("a", {"If_Match": f'"{COFFEE_OID}"'}),
            ("a", {"If_Match": f'W/"{TEA_OID}"'}),
            ("b", {"If_Match": f'"{TEA_OID}"'}),
            ("b", {"If_Match": "*"}),
        ):
            with self.subTest(target=target, fields=fields):
                self.assertEqual(412, self.put(f"/names/s/{target}", COFFEE, **fields).status)
                self.assertEqual(412, self.put(f"/names/s/{target}", iter([COFFEE]), **fields).status)
                self.assertEqual(412, self.delete(f"/names/s/{target}", **fields).status)

        self.assertEqual([TEA_OID], [each["oid"] for each in self.listed("/names/s")["names"]])
        self.assert_stored(1)

    def test_condition_that_holds_lets_a_change_pass(self) -> None:
        self.assertEqual(201, self.put("/names/s/a", TEA, If_None_Match="*").status)
        self.assertEqual(200, self.put("/names/s/a", COFFEE, If_Match=f'"x", "{TEA_OID}"').status)
        self.assertEqual(200, self.put("/names/s/a", TEA, If_Match="*").status)
        self.assertEqual(204, self.delete("/names/s/a", If_Match=f'"{TEA_OID}"').status)

    def test_refused_condition_is_answered_before_the_body_is_sent(self) -> None:
        self.put("/names/s/a", TEA)
        fields = b"Host: x\r\nContent-Length: 6\r\nIf-None-Match: *\r\nExpect: 100-continue\r\n\r\n"

        (answer,) = self.raw(b"PUT /names/s/a HTTP/1.1\r\n" + fields)

        self.assertEqual(412, answer.status)

    def test_one_of_many_simultaneous_creations_answers_201(self) -> None:
        answers = in_threads(8, lambda number: self.put("/names/s/a", b"%d" % number, If_None_Match="*").status)

        self.assertEqual([201] + [412] * 7, sorted(answers))

    def test_no_increment_is_lost_by_compare_and_swap(self) -> None:
        self.put("/names/s/a", b"0")

        def increment(_: int) -> None:
            status = 412
            while status == 412:
                found = self.get("/names/s/a")
                status = self.put("/names/s/a", b"%d" % (int(found.body) + 1), If_Match=found.fields["etag"]).status
            self.assertEqual(200, status)

        in_threads(6, increment)

        self.assertEqual(b"6", self.get("/names/s/a").body)

    def test_fields_of_turborepo_come_back(self) -> None:
        self.put("/names/turbo/v8/artifacts/1", TEA, x_artifact_tag="abc=", x_artifact_duration="12")
        self.put("/names/turbo/v8/artifacts/2", TEA)

        for method in ("GET", "HEAD"):
            fields = self.request(method, "/names/turbo/v8/artifacts/1").fields
            self.assertEqual(("abc=", "12"), (fields["x-artifact-tag"], fields["x-artifact-duration"]))
        self.assertNotIn("x-artifact-tag", self.get("/names/turbo/v8/artifacts/2").fields)
        self.assertEqual(400, self.put("/names/s/a", TEA, x_artifact_tag="x" * 601).status)
        self.assertEqual(400, self.put("/names/s/a", TEA, Content_Type="x" * 256).status)

    def test_large_bodies_of_known_and_unknown_size_are_stored(self) -> None:
        self.assertEqual(201, self.put("/names/s/a", LARGE).status)
        self.assertEqual(201, self.put("/names/s/b", iter([LARGE, LARGE])).status)

        self.assertEqual(LARGE, self.get("/names/s/a").body)
        self.assertEqual(2 * LARGE, self.get("/names/s/b").body)

    def test_download_that_has_begun_ends_with_the_bytes_that_it_began_with(self) -> None:
        old, new = b"o" * 20_000_000, b"n" * 20_000_000
        self.put("/names/s/a", old)
        connection = self.connect()
        connection.sendall(b"GET /names/s/a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        received = connection.recv(65536)

        self.put("/names/s/a", new)

        while data := connection.recv(1 << 20):
            received += data
        self.assertEqual(old, received.partition(b"\r\n\r\n")[2])
        self.assertEqual(new, self.get("/names/s/a").body)

    def test_object_that_takes_long_to_be_stored_gets_its_name_afterwards(self) -> None:
        (janitor,) = [each for each in self.services.resources.janitors if isinstance(each, NamesJanitor)]
        put_when = janitor._names.put_when

        def late(space: str, name: str, link: Link, _: Any, **settings: Any) -> Any:
            """As if it were stored only after the transaction has given up."""
            return put_when(space, name, link, Future(), **settings)

        with mock.patch.object(janitor._names, "put_when", late):
            answer = self.put("/names/s/a", TEA)

        self.assertEqual(201, answer.status)
        self.assertEqual(TEA, self.get("/names/s/a").body)

    def test_names_are_listed_with_all_that_is_known_of_them(self) -> None:
        self.put("/names/s/a", TEA, Content_Type="text/plain")
        self.put("/names/s/b?ttl=60", COFFEE)

        page = self.listed("/names/s")

        self.assertEqual(["names", "prefixes", "next"], list(page))
        first, second = page["names"]
        self.assertEqual(["name", "oid", "size", "modified", "expires", "type"], list(first))
        self.assertEqual(("a", TEA_OID, 3, None, "text/plain"), (*list(first.values())[:3], *list(first.values())[4:]))
        self.assertEqual("application/octet-stream", second["type"])
        self.assertIsNotNone(second["expires"])
        self.assertEqual({"names": [], "prefixes": [], "next": None}, self.listed("/names/empty"))

    def test_listing_has_pages_prefixes_and_folders(self) -> None:
        for name in ("a", "b/1", "b/2/x", "b0", "c"):
            self.put(f"/names/s/{name}", TEA)

        page = self.listed("/names/s?delimiter=/&limit=3")
        self.assertEqual((["a", "b0"], ["b/"], "b0"), (self.names_in(page), page["prefixes"], page["next"]))
        page = self.listed("/names/s?delimiter=/&limit=2")
        self.assertEqual((["a"], ["b/"], "b/"), (self.names_in(page), page["prefixes"], page["next"]))
        page = self.listed("/names/s?delimiter=/&after=b/")
        self.assertEqual((["b0", "c"], [], None), (self.names_in(page), page["prefixes"], page["next"]))
        page = self.listed("/names/s?delimiter=/&prefix=b/")
        self.assertEqual((["b/1"], ["b/2/"]), (self.names_in(page), page["prefixes"]))
        self.assertEqual(["b/1", "b/2/x", "b0"], self.names_of("/names/s?prefix=b"))
        self.assertEqual(["b/1"], self.names_of("/names/s?prefix=b%2F&limit=1"))

    def test_long_list_is_made_while_it_is_sent(self) -> None:
        # Names and folders in turns.
        names = [f"{number:03}" for number in range(600)]
        paths = [f"s/{name}/x" if number % 2 else f"s/{name}" for number, name in enumerate(names)]
        self.make_names(paths)

        for limit, following in ((250, "249/"), (251, "250"), (500, "499/"), (501, "500"), (600, "599/"), (601, None)):
            answer = self.get(f"/names/s?delimiter=/&limit={limit}")
            page = json.loads(answer.body)

            self.assertEqual(limit > 250, answer.fields.get("transfer-encoding") == "chunked")
            self.assertEqual([*names[:limit:2], *["a"][: limit - 600]], self.names_in(page), limit)
            self.assertEqual([f"{name}/" for name in names[1:limit:2]], page["prefixes"])
            self.assertEqual(following, page["next"])
        self.assertEqual([*(path[2:] for path in paths), "a"], self.names_of("/names/s"))
        self.assertEqual([], self.names_of("/names/s?after=b&limit=1000"))

    def test_page_of_long_prefixes_ends_early_and_the_next_one_goes_on(self) -> None:
        folders = [f"{number:04}{'x' * 1000}/" for number in range(900)]
        self.make_names([f"s/{folder}x" for folder in folders])

        first = self.listed("/names/s?delimiter=/&limit=10000")
        second = self.listed(f"/names/s?delimiter=/&limit=10000&after={first['next']}")

        self.assertEqual((500, [], None), (len(first["prefixes"]), first["names"], second["next"]))
        self.assertEqual(folders, first["prefixes"] + second["prefixes"])

    def make_names(self, paths: list[str]) -> None:
        """Besides `a`, which leads to the same bytes."""
        self.put("/names/s/a", TEA)
        registry = next(each for each in self.services.resources.janitors if hasattr(each, "_names"))._names
        registry.transactions.write_rows(
            """INSERT INTO names (path, space, oid, size, type, fields, modified, used)
                VALUES (?, 's', ?, 3, '', '', 0, 0)""",
            [(path.encode(), TEA_OID) for path in paths],
        ).result()

    def names_in(self, page: Any) -> list[str]:
        return [each["name"] for each in page["names"]]

    def test_bad_query_of_a_listing_answers_400(self) -> None:
        for query in ("limit=0", "limit=10001", "limit=x", "limit=1&limit=2", "delimiter=x", "delimiter=",
                      "after=a&after=b", "prefix=a&prefix=b"):  # fmt: skip
            self.assertEqual(400, self.get(f"/names/s?{query}").status, query)
        for query in ("limit=0", "after=a/b", "after="):
            self.assertEqual(400, self.get(f"/names?{query}").status, query)

    def test_spaces_with_names_are_listed(self) -> None:
        for space in ("b", "a", "c"):
            self.put(f"/names/{space}/x", TEA)
        self.delete("/names/b/x")

        self.assertEqual({"spaces": ["a", "c"], "next": None}, self.listed("/names"))
        self.assertEqual({"spaces": ["a"], "next": "a"}, self.listed("/names/?limit=1"))
        self.assertEqual({"spaces": ["c"], "next": None}, self.listed("/names?after=a"))

    def test_equal_bytes_are_stored_once_in_a_space(self) -> None:
        for space, name in (("s", "a"), ("s", "b"), ("t", "a")):
            self.put(f"/names/{space}/{name}", TEA)

        path = layout.object_path(TEA_OID)
        self.assertEqual([f"names/s/{path}", f"names/t/{path}"], self.files_below(self.store_path))

    def test_name_whose_bytes_were_cut_off_answers_500_until_they_are_stored_again(self) -> None:
        for data in (TEA, LARGE):
            oid = json.loads(self.put("/names/s/a", data).body)["oid"]
            os.truncate(self.store_path / "names" / "s" / layout.object_path(oid), 2)
            self.announce(f"it has 2 bytes, not {len(data)}")

            self.assertEqual(500, self.get("/names/s/a").status)
            self.assertEqual(200, self.put("/names/s/a", data).status)
            self.assertEqual(data, self.get("/names/s/a").body)

    def test_name_whose_bytes_are_missing_answers_500(self) -> None:
        self.put("/names/s/a", LARGE)
        oid = hashlib.sha256(LARGE).hexdigest()
        (self.store_path / "names" / "s" / layout.object_path(oid)).unlink()
        self.announce("its bytes are missing")

        answer = self.get("/names/s/a")

        self.assertEqual((500, "Corrupt Object"), (answer.status, json.loads(answer.body)["error"]))
        self.assertEqual(200, self.put("/names/s/a", LARGE).status)
        self.assertEqual(LARGE, self.get("/names/s/a").body)

    def test_bytes_without_a_name_are_removed_within_a_minute(self) -> None:
        self.put("/names/s/a", TEA)
        self.put("/names/s/b", COFFEE)
        self.delete("/names/s/a")
        self.assert_stored(2)

        (janitor,) = [each for each in self.services.resources.janitors if isinstance(each, NamesJanitor)]
        janitor.stop()
        self.clock.advance(31)
        self.assertEqual(1, janitor._collector.collect())
        self.assert_stored(1)

        self.assertEqual(COFFEE, self.get("/names/s/b").body)
        self.assertEqual(201, self.put("/names/s/a", TEA).status)
        self.assertEqual(TEA, self.get("/names/s/a").body)

    def test_browser_gets_pages_of_spaces_folders_and_names(self) -> None:
        self.put("/names/s/docs/%3Cb%3E.txt", TEA)
        self.put("/names/s/top", COFFEE)
        accept = "text/html,application/xhtml+xml,*/*;q=0.8"

        spaces = self.get("/names", Accept=accept)
        folder = self.get("/names/s?delimiter=/", Accept=accept)
        below = self.get("/names/s?prefix=docs/&delimiter=/", Accept=accept).body.decode()
        paged = self.get("/names/s?limit=1", Accept=accept).body.decode()

        self.assertEqual("text/html; charset=utf-8", spaces.fields["content-type"])
        self.assertIn('href="./names/s?delimiter=/"', spaces.body.decode())
        self.assertIn('href="../names/s?prefix=docs%2F&amp;delimiter=%2F"', folder.body.decode())
        self.assertIn('href="../names/s/top"', folder.body.decode())
        self.assertIn("6 bytes", folder.body.decode())
        self.assertIn('href="../names/s/docs/%3Cb%3E.txt"', below)
        self.assertIn("&lt;b&gt;.txt", below)
        self.assertIn('href="?after=docs%2F&amp;limit=1"', paged)
        self.assertEqual(TEA, self.get("/names/s/docs/%3Cb%3E.txt", Accept=accept).body)

    def test_page_for_a_browser_has_1000_rows_at_most(self) -> None:
        self.make_names([f"s/{number:04}" for number in range(1000)])

        page = self.get("/names/s?limit=10000", Accept="text/html").body.decode()

        self.assertIn("1000 names on this page.", page)
        self.assertIn('href="?after=0999&amp;limit=10000"', page)

    def test_cross_site_upload_answers_403(self) -> None:
        for method in ("PUT", "DELETE"):
            answer = self.request(method, "/names/s/a", TEA, Origin="https://evil.example")
            self.assertEqual(403, answer.status)


class LimitedNamesTest(ServerCase):
    interfaces = ("names",)
    config = {"max_size": 10}

    def test_upload_over_max_size_answers_413_and_stores_nothing(self) -> None:
        for body in (b"x" * 11, iter([b"x" * 11])):
            self.assertEqual(413, self.put("/names/s/a", body).status)
        self.assertEqual(404, self.get("/names/s/a").status)
        self.assert_stored(0)


class RulesTest(ServerCase):
    """Requests that the limits of a space refuse, with declared and with chunked bodies."""

    interfaces = ("names",)

    def limit(self, rules: Rules) -> None:
        (janitor,) = [each for each in self.services.resources.janitors if isinstance(each, NamesJanitor)]
        janitor._names.find_rules = lambda area: rules if area == "names/s" else None

    def statuses(self, target: str, data: bytes) -> list[int]:
        return [self.put(target, body).status for body in (data, iter([data]))]

    def test_upload_beyond_the_quota_answers_507_and_stores_nothing(self) -> None:
        self.limit(Rules(quota=5))
        self.put("/names/s/a", TEA)

        self.assertEqual([507, 507], self.statuses("/names/s/b", COFFEE))
        self.assertEqual([507, 507], self.statuses("/names/s/a", COFFEE))
        self.assertIn("names/s is 5 bytes", self.put("/names/s/b", COFFEE).body.decode())
        self.assertEqual(200, self.put(f"/names/s/a?hash={TEA_OID}", TEA).status)
        self.assertEqual(201, self.put(f"/names/s/b?hash={TEA_OID}", TEA).status)
        self.assertEqual([201, 200], self.statuses("/names/t/a", COFFEE))
        self.delete("/names/s/a")
        self.delete("/names/s/b")
        self.assertEqual([201, 200], self.statuses("/names/s/b", b"12345"[:2]))

    def test_refusal_of_a_declared_length_costs_no_body(self) -> None:
        self.limit(Rules(quota=5))
        fields = b"Host: x\r\nContent-Length: 6\r\nExpect: 100-continue\r\n\r\n"

        (answer,) = self.raw(b"PUT /names/s/a HTTP/1.1\r\n" + fields)

        self.assertEqual(507, answer.status)

    def test_upload_of_unknown_length_is_refused_where_no_change_of_a_name_makes_room(self) -> None:
        self.limit(Rules(quota=5))

        (answer,) = self.raw(b"PUT /names/s/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n6\r\n123456\r\n")

        self.assertEqual(507, answer.status)
        self.limit(Rules())
        self.put("/names/s/a", b"1234567")
        self.limit(Rules(quota=5))
        self.assertEqual(200, self.put("/names/s/a", iter([b"1234", b"567"])).status)

    def test_other_bytes_under_a_name_that_is_written_once_answer_409(self) -> None:
        self.limit(Rules(write_once=True))

        self.assertEqual([201, 200], self.statuses("/names/s/a", TEA))
        self.assertEqual([409, 409], self.statuses("/names/s/a", COFFEE))
        self.assertEqual(TEA, self.get("/names/s/a").body)
        self.assert_stored(1)
        self.assertEqual(204, self.delete("/names/s/a").status)
        self.assertEqual([201, 200], self.statuses("/names/s/a", COFFEE))

    def test_name_that_must_be_the_digest_of_its_bytes_answers_400_for_others(self) -> None:
        self.limit(Rules(digest_names="cas/"))

        self.assertEqual([400, 400], self.statuses(f"/names/s/cas/{COFFEE_OID}", TEA))
        self.assert_stored(0)
        for name in (f"cas/{TEA_OID}", f"cas/x/{TEA_OID.upper()}", "cas/short", f"ac/{COFFEE_OID}", COFFEE_OID):
            self.assertEqual([201, 200], self.statuses(f"/names/s/{name}", TEA))

    def test_downloads_are_noted_as_uses(self) -> None:
        self.limit(Rules(max_unused=100))
        self.put("/names/s/a", TEA)
        (janitor,) = [each for each in self.services.resources.janitors if isinstance(each, NamesJanitor)]

        self.get("/names/s/a")
        self.get("/names/s/missing")

        self.assertEqual([b"s/a"], list(janitor._names._uses._times))


class NamesBehindAProxyTest(ServerCase):
    interfaces = ("names",)
    config = {"accel": "/internal"}

    def test_download_is_handed_over(self) -> None:
        self.put("/names/s/a", TEA, Content_Type="text/plain")

        answer = self.get("/names/s/a")

        place = f"/internal/names/s/{layout.object_path(TEA_OID)}"
        self.assertEqual((place, b""), (answer.fields["x-accel-redirect"], answer.body))
        self.assertEqual(("text/plain", "no-cache"), (answer.fields["content-type"], answer.fields["cache-control"]))
        self.assertEqual(304, self.get("/names/s/a", If_None_Match=f'"{TEA_OID}"').status)
