"""Each backend end to end: one table of requests and their answers, over every place that objects and rows may be in.

`tests/api` tests the interfaces over the disk, and `tests/store` the contract of each store. These rows show that both
meet, and that no client notices where the bytes are.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple
from unittest import mock

from filestoraged.daemon.values import parse_database
from filestoraged.store.memcached.manifest import MAX_SIZE
from filestoraged.store.s3.url import parse_url
from tests.postgresql import PostgresCase
from tests.store.memcached.servers import Memcached, start_memcached
from tests.store.s3.servers import Bucket, Rclone, S3Server, Swift, shared
from tests.support import ServerCase, changed
from tests.tus import OCTETS, VERSION, metadata

MULTIPART = {"Content_Type": "multipart/form-data; boundary=b"}


class Row(NamedTuple):
    """A request, and the answer that it gets.

    In `request` and `fields`, `{name}` stands for the group of that name that an earlier answer had.
    """

    request: str
    status: int
    # Of the answer: its exact bytes, or a regular expression.
    answer: bytes | str = ""
    answer_fields: Mapping[str, str] = {}
    body: bytes | None = None
    fields: Mapping[str, str] = {}


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def path(data: bytes) -> str:
    """The path of an object below the directory, the prefix or the repository that it is in."""
    return f"{digest(data)[:2]}/{digest(data)}"


def form(data: bytes, password: str = "") -> tuple[bytes, Mapping[str, str]]:
    """The body and the fields of a request that sends a file."""
    parts = [b'Content-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\n' + data]
    if password:
        parts.insert(0, b'Content-Disposition: form-data; name="password"\r\n\r\n' + password.encode())
    return b"--b\r\n" + b"\r\n--b\r\n".join(parts) + b"\r\n--b--\r\n", MULTIPART


TEA, CAT = b"tea", b"a cat"
# Sent in pieces to every store, and several chunks of memcached.
LARGE = random.Random(1).randbytes(3 * 1024 * 1024)
MISSING = digest(b"missing")

TUS = {"Tus_Resumable": VERSION}
PIECE = {**TUS, "Content_Type": OCTETS}
DROPS = "/vimeo/api/v1.0/file"
JSON_ERROR = r'\{"error": ".+", "message": ".+"\}\n'

FILES = (
    Row("POST /", 200, f'{{"hash": "{digest(TEA)}", "size": 3}}\n'.encode(), body=TEA),
    Row("POST /", 200, f"{digest(TEA)}\n".encode(), body=TEA, fields={"Accept": "text/plain"}),
    Row("POST /", 412, JSON_ERROR, body=TEA, fields={"If_None_Match": "*"}),
    Row(f"POST /?hash={MISSING}", 400, JSON_ERROR, body=TEA),
    Row("POST /", 200, f'{{"hash": "{digest(CAT)}", "size": 5}}\n'.encode(), {}, *form(CAT)),
    Row(f"POST /?hash={digest(LARGE)}", 200, body=LARGE),
    Row(f"POST /?hash={digest(LARGE)}", 400, JSON_ERROR, body=changed(LARGE)),
    Row(f"GET /{digest(TEA)}", 200, TEA, {"etag": f'"{digest(TEA)}"', "content-length": "3", "accept-ranges": "bytes"}),
    Row(f"GET /{digest(TEA)}", 206, b"ea", {"content-range": "bytes 1-2/3"}, fields={"Range": "bytes=1-"}),
    Row(f"GET /{digest(TEA)}", 416, JSON_ERROR, {"content-range": r"bytes \*/3"}, fields={"Range": "bytes=3-"}),
    Row(f"GET /{digest(TEA)}", 304, b"", {"last-modified": ".+"}, fields={"If_None_Match": f'"{digest(TEA)}"'}),
    Row(f"GET /{digest(LARGE)}", 200, LARGE, {"content-length": str(len(LARGE))}),
    Row(f"GET /{digest(LARGE)}", 206, LARGE[600_000:2_000_001], fields={"Range": "bytes=600000-2000000"}),
    Row(f"GET /{MISSING}", 404, JSON_ERROR),
    Row(f"DELETE /{digest(LARGE)}", 412, JSON_ERROR, fields={"If_Match": '"other"'}),
    *(Row(f"DELETE /{digest(each)}", 200, f'{{"hash": "{digest(each)}"}}\n'.encode()) for each in (LARGE, CAT)),
    Row(f"DELETE /{digest(CAT)}", 404, JSON_ERROR),
)
REPOSITORIES = (
    Row("PUT /data/pets", 201, f'{{"oid": "{digest(CAT)}", "size": 5}}\n'.encode(), {"location": "/.*"}, body=CAT),
    Row("PUT /data/cats", 201, body=CAT),
    Row(f"GET /data/pets/{digest(CAT)}", 200, CAT),
    Row(
        "POST /data/pets/objects/batch",
        200,
        f'.*"oid": *"{digest(CAT)}".*"download".*"code": *404.*',
        {"content-type": r"application/vnd\.git-lfs\+json"},
        (
            f'{{"operation": "download", "objects": [{{"oid": "{digest(CAT)}", "size": 5}},'
            f' {{"oid": "{MISSING}", "size": 1}}]}}'
        ).encode(),
        {"Content_Type": "application/vnd.git-lfs+json", "Accept": "application/vnd.git-lfs+json"},
    ),
    Row("POST /data/pets/locks", 201, r'.*"id": *"(?P<lock>[^"]+)".*', body=b'{"path": "a"}'),
    Row("POST /data/pets/locks", 409, body=b'{"path": "a"}'),
    Row("POST /data/pets/locks/{lock}/unlock", 200, body=b"{}"),
)
# memcached cannot list what it has.
LISTINGS = (
    Row("GET /data", 200, r'.*"cats", *"pets".*'),
    Row("GET /data/pets", 200, rf'.*"oid": *"{digest(CAT)}", *"size": *5.*'),
)
REMOVALS = (
    Row(f"DELETE /data/pets/{digest(CAT)}", 200, b""),
    Row(f"GET /data/pets/{digest(CAT)}", 404, JSON_ERROR),
    Row(f"DELETE /data/cats/{digest(CAT)}", 200, b""),
)
DROP_ROWS = (
    Row(f"PUT {DROPS}", 201, r'.*"url": *"http://[^/]+(?P<drop>/[^"]+)".*', {}, *form(TEA, password="right")),
    Row("GET {drop}", 401),
    Row("GET {drop}?password=wrong", 401),
    Row("GET {drop}?password=right", 200, TEA, {"content-disposition": '.*filename="a.txt"'}),
    Row("GET {drop}?password=right", 410),
)
ABOUT_A_DROP = {**TUS, "Upload_Length": "3", "Upload_Metadata": metadata(target="drops", filename="a.txt")}
UPLOADS = (
    Row("POST /uploads", 201, b"", {"location": "(?P<upload>.+)"}, b"", {**TUS, "Upload_Length": "5"}),
    Row("PATCH {upload}", 204, b"", {"upload-offset": "2"}, b"a ", {**PIECE, "Upload_Offset": "0"}),
    Row("PATCH {upload}", 409, JSON_ERROR, {"upload-offset": "2"}, b"dog", {**PIECE, "Upload_Offset": "0"}),
    Row("HEAD {upload}", 200, b"", {"upload-offset": "2"}, fields=TUS),
    Row(
        "PATCH {upload}",
        460,
        JSON_ERROR,
        body=b"dog",
        fields={**PIECE, "Upload_Offset": "2", "Upload_Checksum": "sha1 AAAAAAAAAAAAAAAAAAAAAAAAAAA="},
    ),
    Row("PATCH {upload}", 204, b"", {"content-location": f"/{digest(CAT)}"}, b"cat", {**PIECE, "Upload_Offset": "2"}),
    Row(f"GET /{digest(CAT)}", 200, CAT),
    Row(f"DELETE /{digest(CAT)}", 200),
    Row("POST /uploads", 201, b"", {"location": "(?P<upload>.+)"}, b"", ABOUT_A_DROP),
    Row("PATCH {upload}", 204, b"", {"content-location": "(?P<drop>.+)"}, TEA, {**PIECE, "Upload_Offset": "0"}),
    Row("GET {drop}", 200, TEA),
    Row("GET {drop}", 410),
    Row("POST /uploads", 201, b"", {"location": "(?P<upload>.+)"}, TEA, {**PIECE, "Upload_Length": "9"}),
    Row("DELETE {upload}", 204, b"", fields=TUS),
    Row("HEAD {upload}", 404, b"", fields=TUS),
)
KEYS = (
    Row("POST /kv/set", 201, body=b'{"cup": 1}'),
    Row("GET /kv/cup", 404),
    Row("POST /kv/commit", 204, b"", body=b""),
    Row("GET /kv/cup", 200, b'{"cup": 1}\n'),
    Row("POST /kv/set", 200, body=b'{"cup": 2}'),
)
NAMED = f"names/pets/{path(CAT)}"
NAMES = (
    Row("PUT /names/pets/a/b", 201, rf'.*"oid": "{digest(CAT)}".*', body=CAT, fields={"If_None_Match": "*"}),
    Row("PUT /names/pets/a/b", 412, JSON_ERROR, body=TEA, fields={"If_None_Match": "*"}),
    Row("PUT /names/pets/c", 201, body=CAT, fields={"Content_Type": "text/plain"}),
    Row("GET /names/pets/c", 200, CAT, {"content-type": "text/plain", "etag": f'"{digest(CAT)}"'}),
    Row("HEAD /names/pets/a/b", 200, b"", {"content-length": "5"}),
    Row("GET /names/pets?delimiter=/", 200, r'.*"name": "c".*"prefixes": \["a/"\], "next": null.*'),
    Row("GET /names", 200, r'.*"spaces": \["pets"\].*'),
    Row("DELETE /names/pets/c", 204, b""),
    Row("GET /names/pets/c", 404, JSON_ERROR),
)
# What the config is named by is not its digest.
RESTIC = (
    Row("POST /restic/laptop/?create=true", 200, b"", body=b""),
    Row("GET /restic/laptop/data/", 200, b"[]"),
    Row("HEAD /restic/laptop/config", 404, b""),
    Row("GET /restic/laptop/config", 404, JSON_ERROR),
    *(Row("POST /restic/laptop/config", 200, b"", body=TEA) for _ in range(2)),
    Row("POST /restic/laptop/config", 403, JSON_ERROR, body=CAT),
    Row("HEAD /restic/laptop/config", 200, b"", {"content-length": "3"}),
    Row("GET /restic/laptop/config", 206, b"ea", fields={"Range": "bytes=1-"}),
    Row(f"POST /restic/laptop/data/{digest(LARGE)}", 400, JSON_ERROR, body=changed(LARGE)),
    Row(f"POST /restic/laptop/data/{MISSING}", 400, JSON_ERROR, body=TEA),
    *(
        Row(f"POST /restic/laptop/{type_}/{digest(data)}", 200, b"", body=data)
        for type_ in ("data", "index", "locks")
        for data in (LARGE, CAT, LARGE)
    ),
    *(
        Row(f"GET /restic/laptop/{type_}/", 200, rf'\[("({digest(LARGE)}|{digest(CAT)})",?){{2}}\]')
        for type_ in ("data", "index", "locks")
    ),
    Row(
        "GET /restic/laptop/index/",
        200,
        rf'\[.*{{"name":"{digest(CAT)}","size":5}}.*\]',
        {"content-type": r"application/vnd\.x\.restic\.rest\.v2"},
        fields={"Accept": "application/vnd.x.restic.rest.v2"},
    ),
    Row(f"HEAD /restic/laptop/data/{digest(LARGE)}", 200, b"", {"content-length": str(len(LARGE))}),
    Row(f"GET /restic/laptop/data/{digest(LARGE)}", 200, LARGE),
    Row(f"GET /restic/laptop/index/{digest(LARGE)}", 206, LARGE[5:8], fields={"Range": "bytes=5-7"}),
    Row(f"GET /restic/laptop/keys/{digest(CAT)}", 404, JSON_ERROR),
    *(
        Row(f"DELETE /restic/laptop/{type_}/{digest(data)}", 200, b"")
        for type_ in ("data", "index", "locks")
        for data in (LARGE, CAT, CAT)
    ),
    Row(f"HEAD /restic/laptop/data/{digest(LARGE)}", 404, b""),
    Row("DELETE /restic/laptop/config", 200, b""),
    Row("GET /restic/laptop/locks/", 200, b"[]"),
)
OPERATIONS = (
    Row("GET /-/ready", 200),
    Row("GET /-/metrics", 200, r".*filestoraged_requests_total\{.*"),
)


class DiskTest(ServerCase):
    rows: Sequence[Row] = (
        *FILES,
        *REPOSITORIES,
        *LISTINGS,
        *REMOVALS,
        *DROP_ROWS,
        *UPLOADS,
        *KEYS,
        *NAMES,
        *RESTIC,
        *OPERATIONS,
    )

    def test_each_request_gets_the_same_answer_and_leaves_one_object(self) -> None:
        told: dict[str, str] = {}
        for row in self.rows:
            with self.subTest(row.request, status=row.status):
                self.assert_answered(row, told)

        for janitor in self.services.resources.janitors:
            janitor.clean_up()

        self.assert_left()

    def assert_answered(self, row: Row, told: dict[str, str]) -> None:
        method, target = row.request.format_map(told).split()

        answer = self.request(method, target, row.body, **row.fields)

        self.assertEqual(row.status, answer.status, answer)
        if isinstance(row.answer, bytes):
            self.assertTrue(row.answer == answer.body, answer.body[:1000])
        expected = [(row.answer, answer.body.decode())] if isinstance(row.answer, str) and row.answer else []
        expected += [(pattern, answer.fields.get(name, "")) for name, pattern in row.answer_fields.items()]
        for pattern, text in expected:
            found = re.fullmatch(pattern, text, re.DOTALL)
            assert found is not None, (pattern, text)
            told.update(found.groupdict())

    def assert_left(self) -> None:
        """Assert that the object of the first row, and that of a name, are all that the backend has."""
        self.assertEqual(sorted([path(TEA), NAMED]), self.files_below(self.store_path))


class MemcachedTest(DiskTest):
    rows = (
        *FILES,
        *REPOSITORIES,
        *(Row(each.request, 501, JSON_ERROR) for each in LISTINGS),
        *REMOVALS,
        *DROP_ROWS,
        *UPLOADS,
        *KEYS,
        *OPERATIONS,
        Row("POST /", 413, JSON_ERROR, fields={"Content_Length": str(MAX_SIZE + 1)}),
        Row("POST /uploads", 413, JSON_ERROR, body=b"", fields={**TUS, "Upload_Length": str(MAX_SIZE + 1)}),
    )
    memcached: Memcached

    def setUp(self) -> None:
        self.memcached = start_memcached(self)
        self.config = {"memcached": (self.memcached.address,)}
        super().setUp()

    def assert_left(self) -> None:
        self.assertEqual(1, len(self.memcached.all_keys()))
        self.assert_stored(0)


class S3Test(DiskTest):
    rows = (
        *DiskTest.rows,
        Row("GET /-/metrics", 200, r'.*filestoraged_s3_requests_total\{result="answered"\} [1-9].*'),
    )
    kind: ClassVar[type[S3Server]] = Rclone
    bucket: Bucket

    def setUp(self) -> None:
        self.bucket = shared(self.kind).make_bucket()
        environment = mock.patch.dict(os.environ, self.bucket.server.environment)
        environment.start()
        self.addCleanup(environment.stop)
        self.config = {**self.config, "s3": parse_url(f"{self.bucket.url}/part")}
        super().setUp()

    def assert_left(self) -> None:
        self.assertEqual(sorted([f"part/{path(TEA)}", f"part/{NAMED}"]), self.bucket.keys())
        self.assert_stored(0)


class SwiftTest(S3Test):
    kind = Swift


class DatabaseCase(PostgresCase):
    config: dict[str, Any]

    def setUp(self) -> None:
        super().setUp()
        self.config = {**self.config, "database": parse_database(self.url)}


class PostgresTest(DiskTest, DatabaseCase):
    """The bytes are on the disk."""


class S3AndPostgresTest(S3Test, PostgresTest):
    """Nothing is on the disk: an upload goes on at another machine."""
