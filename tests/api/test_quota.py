"""Quotas of areas, request by request: what exceeds them is refused before its bytes are sent, and stores nothing."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from filestoraged.api.areas import gauge
from filestoraged.clock import SYSTEM_CLOCK, Clock
from filestoraged.daemon.limits import parse_limit
from filestoraged.daemon.values import parse_database
from tests.api.test_lfs import LfsCase, wanted
from tests.clock import VirtualClock
from tests.postgresql import PostgresCase
from tests.support import Answer, ServerCase, in_threads, read_answer
from tests.tus import OCTETS, UploadsCase, metadata

TEA = b"tea"
TEA_OID = hashlib.sha256(TEA).hexdigest()


def limits(*texts: str) -> dict[str, Any]:
    return {"limits": tuple(map(parse_limit, texts))}


def form(name: str, data: bytes) -> tuple[bytes, str]:
    head = f'--x\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
    return head.encode() + data + b"\r\n--x--\r\n", "multipart/form-data; boundary=x"


class QuotaCase(ServerCase):
    """The clock stands still: what the janitor does at once, it does once."""

    def setUp(self) -> None:
        self.clock = self.make_clock()
        super().setUp()
        assert self.services.resources.accounts is not None
        self.accounts = self.services.resources.accounts

    def make_clock(self) -> Clock:
        return VirtualClock()

    def sums(self, area: str) -> tuple[int, int]:
        """Bytes and objects of an area, as they are counted; they are those that are stored."""
        rows = self.accounts.transactions.read("SELECT bytes, objects FROM areas WHERE area = ?", area)
        stores = [part.store for part in self.accounts.stores.parts(area)]
        stored = [store.stat(name).size for store in stores for name in store.list(limit=10_000)]
        self.assertEqual([(sum(stored), len(stored))], [tuple(row) for row in rows])
        return sum(stored), len(stored)

    def assert_refused(self, answer: Answer, area: str) -> None:
        self.assertEqual(507, answer.status, answer.body)
        self.assertRegex(json.loads(answer.body)["message"], rf"^The quota of {area} is [0-9]+ bytes, of which ")


class FilesTest(QuotaCase):
    config = limits("files=quota:10")

    def test_upload_beyond_the_quota_answers_507_and_stores_nothing(self) -> None:
        self.assertEqual([200, 200], [self.post("/", data).status for data in (b"12345", b"123")])

        self.assert_refused(self.post("/", b"abc"), "files")
        self.assertEqual(200, self.post("/", b"ab").status)
        self.assertEqual((10, 3), self.sums("files"))
        self.assertEqual(200, self.post("/", b"").status)
        self.assertEqual((10, 4), self.sums("files"))

    def test_message_has_the_quota_what_is_used_and_what_is_too_much(self) -> None:
        self.post("/", b"12345678")

        self.assertEqual(
            {
                "error": "Insufficient Storage",
                "message": "The quota of files is 10 bytes, of which 8 are used: there is no room for 3 more.",
            },
            json.loads(self.post("/", TEA).body),
        )
        self.assertEqual([], self.log_lines(30))

    def test_declared_upload_is_refused_before_its_first_byte(self) -> None:
        connection = self.connect()
        connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 11\r\nExpect: 100-continue\r\n\r\n")

        self.assert_refused(read_answer(connection), "files")

    def test_same_bytes_take_no_room(self) -> None:
        self.post("/", b"12345678")

        # It counts as new until it has all come, unless its hash is told.
        self.assert_refused(self.post("/", b"12345678"), "files")
        digest = hashlib.sha256(b"12345678").hexdigest()
        self.assertEqual(200, self.post(f"/?hash={digest}", b"12345678").status)
        self.assertEqual((8, 1), self.sums("files"))

    def test_same_bytes_of_unknown_length_take_no_room(self) -> None:
        self.post("/", b"12345678")

        self.assertEqual(200, self.post("/", iter([b"1234", b"5678"])).status)
        self.assert_refused(self.post("/", iter([b"1234", b"567."])), "files")
        self.assert_refused(self.post("/", iter([b"1234", b"56789"])), "files")
        self.assertEqual((8, 1), self.sums("files"))

    def test_upload_of_unknown_length_is_refused_where_the_room_ends(self) -> None:
        head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        (answer,) = self.raw(head + b"b\r\nhello world\r\n")

        self.assert_refused(answer, "files")
        (answer,) = self.raw(head + b"5\r\nhello\r\n0\r\n\r\n")
        self.assertEqual(200, answer.status)
        self.assertEqual((5, 1), self.sums("files"))

    def test_upload_of_a_known_hash_with_more_bytes_than_that_has_is_refused_before_them(self) -> None:
        self.post("/", b"12345678")
        target = f"/?hash={hashlib.sha256(b'12345678').hexdigest()}"
        head = f"POST {target} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"

        (answer,) = self.raw(f"{head}Content-Length: 9\r\n\r\n".encode())
        self.assert_refused(answer, "files")
        self.assert_refused(self.post(target, iter([b"12345678", b"9"])), "files")
        self.assertEqual((8, 1), self.sums("files"))

    def test_form_beyond_the_quota_answers_507(self) -> None:
        body, kind = form("a.txt", b"hello world")

        self.assert_refused(self.post("/", body, Content_Type=kind), "files")
        self.assert_stored(0)
        body, kind = form("a.txt", bytes(2 << 20))
        head = f"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
        connection = self.connect()
        connection.sendall(f"{head}Expect: 100-continue\r\n\r\n".encode())
        self.assert_refused(read_answer(connection), "files")

    def test_removal_makes_room_at_once(self) -> None:
        digests = [json.loads(self.post("/", data).body)["hash"] for data in (b"12345", b"abcde")]

        self.assert_refused(self.post("/", b"x"), "files")
        self.assertEqual(200, self.delete(f"/{digests[0]}").status)
        self.assertEqual(200, self.post("/", b"67890").status)
        self.assertEqual((10, 2), self.sums("files"))
        self.assertEqual(404, self.delete(f"/{digests[0]}").status)

    def test_wrong_digest_takes_no_room(self) -> None:
        self.assertEqual(400, self.post(f"/?hash={TEA_OID}", b"1234567890").status)

        self.assertEqual(200, self.post("/", b"0123456789").status)

    def test_uploads_of_many_clients_fill_the_quota_and_exceed_it_never(self) -> None:
        answers = in_threads(8, lambda number: self.post("/", b"%d" % (1000 + number)).status)

        self.assertEqual([200] * 2 + [507] * 6, sorted(answers))
        self.assertEqual((8, 2), self.sums("files"))

    def test_metrics_have_the_sums_and_the_quota(self) -> None:
        self.post("/", b"12345678")

        shown = {family.name: list(family.samples) for family in gauge(self.accounts)()}

        self.assertEqual(
            {
                "filestoraged_area_bytes": [({"area": "files"}, 8)],
                "filestoraged_area_objects": [({"area": "files"}, 1)],
                "filestoraged_area_quota_bytes": [({"area": "files"}, 10)],
                "filestoraged_area_last_upload_timestamp_seconds": [({"area": "files"}, int(self.clock.date()))],
                "filestoraged_area_removals_total": [],
            },
            shown,
        )


class LargeTest(QuotaCase):
    config = limits("files=quota:1M")

    def test_large_and_small_uploads_share_the_quota(self) -> None:
        self.assertEqual(200, self.post("/", bytes(900_000)).status)
        self.assertEqual(200, self.post("/", bytes(60_000)).status)

        self.assert_refused(self.post("/", bytes(100_000)), "files")
        self.assertEqual((960_000, 2), self.sums("files"))


class RepositoriesTest(QuotaCase):
    config = limits("data/big=quota:100", "data/p*=quota:5", "drops=quota:20")

    def test_each_area_that_a_limit_fits_has_it_for_itself(self) -> None:
        answers = [self.put(f"/data/{name}", b"12345").status for name in ("pets", "plants", "big", "other")]

        self.assertEqual([201] * 4, answers)
        self.assert_refused(self.put("/data/pets", b"x"), "data/pets")
        self.assertEqual([201, 201], [self.put(f"/data/{name}", b"x").status for name in ("big", "other")])
        self.assertEqual([(5, 1), (6, 2)], [self.sums("data/pets"), self.sums("data/big")])

    def test_areas_without_limits_are_not_counted(self) -> None:
        self.put("/data/other", b"x")
        self.post("/", b"x")

        self.assertEqual(
            [], self.accounts.transactions.read("SELECT area FROM areas WHERE area IN ('data/other', 'files')")
        )

    def test_removal_makes_room_and_downloads_are_as_before(self) -> None:
        oid = json.loads(self.put("/data/pets", b"12345").body)["oid"]

        self.assertEqual([b"12345"] * 2, [self.get(f"/data/pets/{oid}").body for _ in range(2)])
        self.assertEqual(200, self.delete(f"/data/pets/{oid}").status)
        self.assertEqual(404, self.get(f"/data/pets/{oid}").status)
        self.assertEqual(201, self.put("/data/pets", b"67890").status)
        self.assertEqual(["pets"], json.loads(self.get("/data").body)["repositories"])

    def test_condition_that_fails_takes_no_room(self) -> None:
        self.put("/data/pets", TEA)

        self.assertEqual(412, self.put(f"/data/pets?hash={TEA_OID}", TEA, If_None_Match="*").status)
        self.assertEqual(201, self.put("/data/pets", b"12").status)

    def test_drops_have_a_quota(self) -> None:
        path = "/vimeo/api/v1.0/file"
        body, kind = form("a.txt", b"123456789012")
        link = json.loads(self.put(path, body, Content_Type=kind).body)["url"]

        refused = self.put(path, body, Content_Type=kind)

        self.assertEqual((507, (12, 1)), (refused.status, self.sums("drops")))
        self.assertEqual(b"123456789012", self.get(link[link.index("/vimeo") :]).body)


class ResticTest(QuotaCase):
    config = limits("restic/*=quota:100")

    def send(self, type_: str, data: bytes) -> Answer:
        return self.post(f"/restic/laptop/{type_}/{hashlib.sha256(data).hexdigest()}", data)

    def test_files_of_all_types_share_the_quota_and_locks_are_free(self) -> None:
        self.assertEqual(200, self.post("/restic/laptop/config", bytes(40)).status)
        self.assertEqual(200, self.send("data", bytes(50)).status)

        self.assert_refused(self.send("index", bytes(11)), "restic/laptop")
        self.assertEqual(200, self.send("locks", bytes(60_000)).status)
        self.assert_refused(self.send("locks", bytes(70_000)), "restic/laptop")
        # Again: it is there.
        self.assertEqual(200, self.send("data", bytes(50)).status)
        self.assertEqual((90, 2), self.counted())

        self.assertEqual(200, self.delete(f"/restic/laptop/data/{hashlib.sha256(bytes(50)).hexdigest()}").status)
        self.assertEqual(200, self.send("index", bytes(11)).status)
        self.assertEqual((51, 2), self.counted())

    def test_lock_of_unknown_length_has_the_room_that_there_is(self) -> None:
        name = hashlib.sha256(bytes(70_000)).hexdigest()

        self.assert_refused(self.post(f"/restic/laptop/locks/{name}", iter([bytes(70_000)])), "restic/laptop")
        name = hashlib.sha256(bytes(60_000)).hexdigest()
        self.assertEqual(200, self.post(f"/restic/laptop/locks/{name}", iter([bytes(60_000)])).status)

    def test_config_that_is_there_already_or_refused_takes_and_makes_no_room(self) -> None:
        self.assertEqual(200, self.post("/restic/laptop/config", bytes(40)).status)
        self.assertEqual(200, self.send("data", bytes(60)).status)

        self.assertEqual(200, self.post("/restic/laptop/config", bytes(40)).status)
        self.assertEqual([403, 403], [self.post("/restic/laptop/config", bytes(size)).status for size in (1, 41)])
        self.assertEqual((100, 2), self.counted())
        self.assert_refused(self.send("data", b"x"), "restic/laptop")

    def counted(self) -> tuple[int, int]:
        ((size, objects),) = self.accounts.transactions.read(
            "SELECT bytes, objects FROM areas WHERE area = 'restic/laptop'"
        )
        return size, objects


class PostgresTest(QuotaCase, PostgresCase):
    """The same over a database on another machine, whose clock counts."""

    config = limits("files=quota:10", "data/*=quota:10", "drops=quota:10")

    def setUp(self) -> None:
        PostgresCase.setUp(self)
        self.config = {**self.config, "database": parse_database(self.url)}
        QuotaCase.setUp(self)

    def make_clock(self) -> Clock:
        return SYSTEM_CLOCK

    def test_quota_is_kept_and_a_removal_makes_room(self) -> None:
        stored = in_threads(6, lambda number: self.put("/data/pets", b"%d" % (1000 + number)).status)
        self.assertEqual([201] * 2 + [507] * 4, sorted(stored))
        self.assertEqual((8, 2), self.sums("data/pets"))

        self.assertEqual(200, self.delete(f"/data/pets/{self.stored_oid()}").status)
        self.assertEqual(201, self.put("/data/pets", b"abcdef").status)
        self.assert_refused(self.put("/data/pets", b"x"), "data/pets")
        self.assertEqual((10, 2), self.sums("data/pets"))

    def stored_oid(self) -> str:
        return str(json.loads(self.get("/data/pets?limit=1").body)["objects"][0]["oid"])

    def test_drops_and_large_files_are_counted(self) -> None:
        body, kind = form("a.txt", b"123456789")

        answers = [self.put("/vimeo/api/v1.0/file", body, Content_Type=kind).status for _ in range(2)]

        self.assertEqual([201, 507], answers)
        self.assertEqual(507, self.post("/", bytes(100_000)).status)


class UploadsTest(UploadsCase):
    config = limits("files=quota:10", "drops=quota:5")

    def test_upload_beyond_the_quota_is_refused_when_it_is_created(self) -> None:
        self.assertEqual([201, 507], [self.create(size).status for size in (10, 11)])
        self.assertEqual(
            [201, 507], [self.create(size, Upload_Metadata=metadata(target="drops")).status for size in (5, 6)]
        )

    def test_length_that_is_told_later_is_judged_then_and_each_piece_before(self) -> None:
        path = self.created(None)
        self.assertEqual(204, self.append(path, 0, b"12345678").status)

        answers = [self.append(path, 8, b"abc"), self.append(path, 8, b"ab", Upload_Length="11")]
        self.assertEqual([507, 507], [each.status for each in answers])
        self.assertEqual(8, self.offset(path))
        self.assertEqual(204, self.append(path, 8, b"ab", Upload_Length="10").status)
        self.assertEqual(b"12345678ab", self.get(f"/{hashlib.sha256(b'12345678ab').hexdigest()}").body)

    def test_upload_whose_room_was_taken_is_refused_at_its_end_and_can_be_finished_later(self) -> None:
        path = self.created(8)
        digest = json.loads(self.post("/", b"12345").body)["hash"]

        answers = [self.append(path, 0, b"abcdefgh").status, self.tus("HEAD", path).status]
        self.assertEqual([507, 507], answers)

        self.delete(f"/{digest}")
        self.assertEqual(200, self.tus("HEAD", path).status)
        self.assertEqual(b"abcdefgh", self.get(f"/{hashlib.sha256(b'abcdefgh').hexdigest()}").body)

    def test_upload_of_what_is_there_takes_no_room(self) -> None:
        self.post("/", b"12345678")
        hash_ = metadata(hash=hashlib.sha256(b"12345678").hexdigest())

        answer = self.tus(
            "POST", "/uploads", b"12345678", Upload_Length="8", Upload_Metadata=hash_, Content_Type=OCTETS
        )

        self.assertEqual(201, answer.status)


class LfsTest(LfsCase):
    config = limits("data/pets=quota:10")

    def test_batch_whose_objects_have_no_room_together_answers_507(self) -> None:
        objects = [wanted(hashlib.sha256(bytes([number])).hexdigest(), 4) for number in range(3)]

        found = self.batch("upload", *objects[:2], objects[0])
        self.assertEqual([True] * 3, ["actions" in each for each in found])

        body = {"operation": "upload", "transfers": ["basic"], "objects": objects}
        answer = self.ask("POST", "/data/pets/objects/batch", body)
        self.assertEqual(507, answer.status)
        self.assertIn("The quota of data/pets is 10 bytes", json.loads(answer.body)["message"])
        self.assertEqual(200, self.ask("POST", "/data/pets/objects/batch", {**body, "operation": "download"}).status)
