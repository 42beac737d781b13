"""The tests of files, repositories, Git LFS and drops on a real S3 store, and tests of its own behaviour."""

from __future__ import annotations

import hashlib
import json
import os
from typing import ClassVar
from unittest import mock

from filestoraged.store.s3.url import parse_url
from tests.api import downloads, test_drops, test_files, test_lfs, test_repositories, test_uploads
from tests.store.s3.servers import Bucket, Rclone, S3Server, Swift, shared
from tests.support import ServerCase, read_all

TEA = b"tea"
TEA_HASH = hashlib.sha256(TEA).hexdigest()


class OnS3(ServerCase):
    """Each test has a bucket of its own, and uses a part of it."""

    kind: ClassVar[type[S3Server]] = Rclone
    bucket: Bucket

    def setUp(self) -> None:
        self.bucket = shared(self.kind).make_bucket()
        environment = mock.patch.dict(os.environ, self.bucket.server.environment)
        environment.start()
        self.addCleanup(environment.stop)
        self.config = {**self.config, "s3": parse_url(f"{self.bucket.url}/part")}
        super().setUp()

    def assert_stored(self, count: int) -> None:
        keys = self.bucket.keys()
        self.assertEqual(count, len(keys))
        self.assertEqual(keys, [key for key in keys if key.startswith("part/")])
        super().assert_stored(0)


class FilesDownloadTest(OnS3, test_files.UploadToFiles, downloads.DownloadContract):
    pass


class RepositoriesDownloadTest(OnS3, test_repositories.UploadToRepository, downloads.DownloadContract):
    kind = Swift


class FilesTest(OnS3, test_files.FilesTest):
    pass


class AnnouncedDigestTest(OnS3, test_files.AnnouncedDigestTest):
    pass


class FormTest(OnS3, test_files.FormTest):
    pass


class LimitTest(OnS3, test_files.LimitTest):
    pass


class OtherHashTest(OnS3, test_files.OtherHashTest):
    pass


class RepositoriesTest(OnS3, test_repositories.RepositoriesTest):
    pass


class BatchTest(OnS3, test_lfs.BatchTest):
    pass


class DropsTest(OnS3, test_drops.DropsTest):
    def bytes_kept(self) -> list[str]:
        keys = self.bucket.keys("part/drops/")
        return [key.removeprefix("part/drops/") for key in keys]

    def test_download_that_breaks_off_makes_the_drop_available_again(self) -> None:
        path = self.drop(os.urandom(4 * 1024 * 1024))
        connection = self.connect()
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        connection.recv(1)

        connection.close()

        self.wait_until("the drop is available again", lambda: self.get(path).status == 200)


class ListingTest(OnS3):
    kind = Swift

    def test_objects_and_repositories_are_listed_in_pages(self) -> None:
        bodies = [bytes([number]) for number in range(12)]
        for name in ("b", "a", "a-b"):
            for body in bodies:
                self.put(f"/data/{name}", body)

        oids, after = [], ""
        while after is not None:
            page = json.loads(self.get(f"/data/a?limit=5&after={after}" if after else "/data/a?limit=5").body)
            oids += [each["oid"] for each in page["objects"]]
            after = page["next"]
        names = json.loads(self.get("/data").body)["repositories"]

        self.assertEqual(sorted(hashlib.sha256(body).hexdigest() for body in bodies), oids)
        self.assertEqual(["a", "a-b", "b"], names)


class StreamTest(OnS3):
    """Large bodies, which are neither in memory nor in a file as a whole."""

    data = os.urandom(3 * 1024 * 1024)
    digest = hashlib.sha256(data).hexdigest()

    def test_announced_upload_is_stored_and_downloaded(self) -> None:
        stored = self.put(f"/data/cats?hash={self.digest}", self.data)
        fetched = self.get(f"/data/cats/{self.digest}")

        self.assertEqual((201, 200), (stored.status, fetched.status))
        self.assertEqual(self.data, fetched.body)

    def test_announced_upload_of_other_bytes_answers_400_and_stores_nothing(self) -> None:
        answer = self.put(f"/data/cats?hash={self.digest}", self.data[:-1] + b"!")

        self.assertEqual(400, answer.status)
        self.assert_stored(0)

    def test_announced_upload_that_breaks_off_stores_nothing(self) -> None:
        head = f"PUT /data/cats?hash={self.digest} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(self.data)}\r\n\r\n"
        connection = self.connect()
        connection.sendall(head.encode() + self.data[:-1])
        connection.close()

        self.wait_until("the request is over", lambda: self.server_metrics.gauges().in_flight == 0)
        self.assert_stored(0)

    def test_download_of_other_bytes_is_not_complete(self) -> None:
        self.announce(f"connection of client 127.0.0.1 broke off: object {self.digest}: The object is damaged")
        self.post("/", self.data)
        self.bucket.put(f"part/{self.digest[:2]}/{self.digest}", bytes([self.data[0] ^ 1]) + self.data[1:])

        connection = self.connect()
        connection.sendall(f"GET /{self.digest} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        received = read_all(connection)

        self.assertTrue(received.startswith(b"HTTP/1.1 200 "))
        self.assertLess(len(received.partition(b"\r\n\r\n")[2]), len(self.data))

    def test_small_object_with_other_bytes_answers_500(self) -> None:
        self.announce("answering 500: object .*: The object is damaged: its bytes have another digest")
        self.post("/", TEA)
        self.bucket.put(f"part/{TEA_HASH[:2]}/{TEA_HASH}", b"teb")

        answer = self.get(f"/{TEA_HASH}")

        self.assertEqual((500, "Corrupt Object"), (answer.status, json.loads(answer.body)["error"]))

    def test_metrics_count_requests_to_the_store(self) -> None:
        self.post("/", TEA)

        text = self.get("/-/metrics").body.decode()

        self.assertRegex(text, r'filestoraged_s3_requests_total\{result="answered"\} [1-9]')


class UploadsTest(OnS3, test_uploads.TargetTest):
    """Resumable uploads become objects in the S3 store; their bytes are staged in the directory until then."""


class UploadsChecksumTest(OnS3, test_uploads.ChecksumTest):
    pass
