"""Uploads in parts."""

from __future__ import annotations

import hashlib
import io
import unittest
from typing import Any, cast

from filestoraged.errors import StoreFailed
from filestoraged.store.s3.answers import Answer
from filestoraged.store.s3.client import S3Client
from filestoraged.store.s3.multipart import PartedUpload


class Store:
    def request(self, *_: Any, **__: Any) -> Answer:
        return Answer(200, {}, b"<Begun><UploadId>1</UploadId></Begun>")

    def put(self, *_: Any, sha256: str, **__: Any) -> Answer:
        return Answer(200, {"etag": sha256}, b"")


class PartedUploadTest(unittest.TestCase):
    def put(self, data: bytes, sha256: str) -> list[str]:
        upload = PartedUpload(cast(S3Client, Store()), "key", {})
        return upload.put(io.BytesIO(data), len(data), sha256=sha256, part_size=2)

    def test_each_part_is_sent_with_its_own_digest(self) -> None:
        tags = self.put(b"green tea", hashlib.sha256(b"green tea").hexdigest())

        parts = (b"gr", b"ee", b"n ", b"te", b"a")
        self.assertEqual([hashlib.sha256(part).hexdigest() for part in parts], tags)

    def test_file_whose_bytes_have_changed_on_disk_is_refused(self) -> None:
        self.assertRaises(StoreFailed, self.put, b"green tea", hashlib.sha256(b"black tea").hexdigest())
