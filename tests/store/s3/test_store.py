"""The contract over real S3 stores, and what S3 adds: parts, streams, ranges and keys."""

from __future__ import annotations

import hashlib
import os
from typing import Any, ClassVar

from filestoraged.digest import Bytes, Expected
from filestoraged.errors import AlreadyExists, NotFound, StoreUnavailable
from filestoraged.store.contract import Staging
from filestoraged.store.disk.store import DiskStore
from filestoraged.store.hashing import COPY_SIZE
from filestoraged.store.s3.client import S3Client
from filestoraged.store.s3.credentials import CredentialSource
from filestoraged.store.s3.multipart import PartedUpload, sweep_uploads
from filestoraged.store.s3.store import S3Store
from filestoraged.store.s3.url import parse_url
from tests.clock import DatedClock
from tests.store import contract
from tests.store.contract import TEA, TEA_DIGEST, Gather
from tests.store.s3.proxy import close_after, cut_response, respond, start_proxy
from tests.store.s3.servers import Bucket, Rclone, S3Server, Swift, shared
from tests.support import PATIENCE, TempCase, ago

LARGE = 3 * 1024 * 1024


class BucketCase(TempCase):
    """Gives each test a bucket of its own, and a store in it."""

    kind: ClassVar[type[S3Server]] = Rclone

    def setUp(self) -> None:
        self.bucket: Bucket = shared(self.kind).make_bucket()
        super().setUp()

    def make_store(self, **settings: Any) -> S3Store:
        area = DiskStore(self.directory).volume.staging_area
        self.addCleanup(area.release)
        store = S3Store(self.make_client(settings.pop("url", "")), area, **settings)
        self.addCleanup(store.close)
        return store

    def read(self, store: S3Store, name: str, start: int = 0, stop: int | None = None) -> bytes:
        sink = Gather()
        with store.open(name) as blob:
            blob.send(sink, start, blob.size if stop is None else stop)
        return sink.data

    def make_client(self, url: str = "") -> S3Client:
        location = parse_url(url or self.bucket.url)
        credentials = CredentialSource(None, self.bucket.server.environment)
        return S3Client(location, credentials, clock=DatedClock())


class RcloneContractTest(BucketCase, contract.StoreContract):
    may_wait = True

    def make_store(self, **settings: Any) -> S3Store:
        return BucketCase.make_store(self, **settings)

    def test_one_of_many_simultaneous_commits_without_replace_succeeds(self) -> None:
        """rclone ignores `If-None-Match`, and old versions of Swift refuse it: commits in turn are told apart alone."""
        self.store.put(TEA)

        with self.assertRaises(AlreadyExists), self.store.stage_new() as staging:
            staging.write(TEA)
            staging.commit(replace=False).result(PATIENCE)

        self.assertEqual(TEA, self.stored(TEA_DIGEST))


class SwiftContractTest(RcloneContractTest):
    kind = Swift
    rounded_up = 1


class KeysTest(BucketCase):
    def test_keys_are_the_paths_on_disk_below_the_prefix(self) -> None:
        store = self.make_store(url=f"{self.bucket.url}/a/b")

        store.put(TEA)
        store.namespace("repositories").namespace("cats").put(TEA)
        with store.named_namespace("drops", max_size=None).stage() as staging:
            staging.write(TEA)
            staging.commit(name="ab" * 16).result(PATIENCE)

        path = f"{TEA_DIGEST[:2]}/{TEA_DIGEST}"
        expected = [f"a/b/{path}", f"a/b/repositories/cats/{path}", f"a/b/drops/ab/{'ab' * 16}"]
        self.assertEqual(sorted(expected), self.bucket.keys())

    def test_listing_of_objects_skips_what_is_no_shard(self) -> None:
        store = self.make_store()
        digests = sorted(store.put(bytes([number])) for number in range(30))
        # Between the shards df and e0.
        for name in ("drops/ab/x", "drops/cd/y", "e", "zz"):
            self.bucket.put(name, b"")

        self.assertEqual(digests, list(store.list()))
        self.assertEqual(digests[9:12], list(store.list(digests[8], 3)))

    def test_namespaces_are_in_the_order_of_their_names_not_of_their_keys(self) -> None:
        store = self.make_store()
        # The key of "a-b/" comes before that of "a/".
        for name in ("a", "a-b", "a.b", "a-", "b", "ab"):
            store.namespace(name).put(TEA)

        expected = ["a", "a-", "a-b", "a.b", "ab", "b"]
        self.assertEqual(expected, list(store.list_namespaces()))
        for number, name in enumerate(expected):
            self.assertEqual(expected[number + 1 : number + 2], list(store.list_namespaces(name, 1)))

    def test_names_that_are_no_digests_are_not_found(self) -> None:
        self.assertRaises(NotFound, self.make_store().open, "../../other")


class ClosingStoreTest(BucketCase):
    """A store, or a proxy in front of it, that closes the connection behind each answer."""

    def test_objects_of_all_sizes_are_stored_listed_and_read(self) -> None:
        proxy = start_proxy(self, self.bucket.server)
        proxy.fail(close_after)
        store = self.make_store(url=proxy.url(self.bucket.name))

        for size in (10, 70_000, LARGE):
            data = os.urandom(size)
            digest = store.put(data)
            self.assertEqual((data, [digest]), (self.read(store, digest), list(store.list())))
            store.delete(digest)

        self.assertEqual(0, store.client.idle_connections)


class UploadTest(BucketCase):
    def test_announced_upload_is_streamed_and_nothing_is_staged(self) -> None:
        store, data = self.make_store(), os.urandom(LARGE)

        with self.stage(store, data) as staging:
            for start in range(0, LARGE, COPY_SIZE):
                staging.write(data[start : start + COPY_SIZE])
            staged = self.files_below(self.directory)
            digest = staging.commit().result(PATIENCE)

        self.assertEqual([], staged)
        self.assertEqual(data, self.read(store, digest))

    def test_streamed_upload_that_breaks_off_leaves_nothing(self) -> None:
        for kind in (Rclone, Swift):
            with self.subTest(kind.__name__):
                self.bucket = shared(kind).make_bucket()
                store, data = self.make_store(), os.urandom(LARGE)

                with self.stage(store, data) as staging:
                    staging.write(data[:-1])

                self.assertEqual([], self.bucket.keys())

    def test_streamed_upload_of_an_existing_object_raises_already_exists(self) -> None:
        store, data = self.make_store(), os.urandom(LARGE)
        store.put(data)

        with self.assertRaises(AlreadyExists), self.stage(store, data) as staging:
            staging.write(data)
            staging.commit(replace=False).result(PATIENCE)

    def test_large_upload_without_a_digest_is_staged_without_a_name(self) -> None:
        store, data = self.make_store(), os.urandom(LARGE)

        with store.stage() as staging:
            staging.write(data)
            staged = self.files_below(self.directory)
            digest = staging.commit().result(PATIENCE)

        self.assertEqual([], staged)
        self.assertEqual(data, self.read(store, digest))

    def test_object_that_is_not_named_by_its_sha256_has_it_beside(self) -> None:
        store = self.make_store(algorithm="blake2b")

        digest = store.put(TEA)

        self.assertEqual(TEA_DIGEST, store.open(digest).sha256)

    def test_store_of_another_algorithm_reads_objects_that_are_named_by_sha256(self) -> None:
        self.make_store().put(TEA)

        self.assertEqual(TEA, self.read(self.make_store(algorithm="md5"), TEA_DIGEST))

    def stage(self, store: S3Store, data: bytes) -> Staging:
        return store.stage(len(data), expected=[Expected("sha256", hashlib.sha256(data).hexdigest())])


class PartsTest(BucketCase):
    """Uploads in parts, with limits that a test can reach."""

    kind = Swift
    part_size = 5 * 1024 * 1024

    def make_store(self, **settings: Any) -> S3Store:
        return super().make_store(**{"max_put_size": 1024 * 1024, "part_size": self.part_size, **settings})

    def test_object_above_the_limit_is_uploaded_in_parts(self) -> None:
        for kind in (Rclone, Swift):
            with self.subTest(kind.__name__):
                self.bucket = shared(kind).make_bucket()
                store, data = self.make_store(), os.urandom(2 * self.part_size + 3)

                digest = store.put(data)

                self.assertEqual(data, self.read(store, digest))
                self.assertEqual([], self.bucket.uploads())

    def test_existing_object_is_not_replaced_by_parts(self) -> None:
        store, data = self.make_store(), bytes(2 * 1024 * 1024)
        store.put(data)

        with self.assertRaises(AlreadyExists), store.stage() as staging:
            staging.write(data)
            staging.commit(replace=False).result(PATIENCE)

    def test_completion_whose_answer_is_not_one_is_no_success(self) -> None:
        proxy = start_proxy(self, self.bucket.server)
        store, data = self.make_store(url=proxy.url(self.bucket.name)), bytes(2 * 1024 * 1024)
        error = b"<Error><Code>InternalError</Code></Error>"
        for fault in (cut_response, respond(200, b""), respond(200, error), respond(200, b"<html>ok</html>")):
            with self.subTest(fault=fault):
                proxy.fail(fault, method="POST", target="uploadId=")

                self.assertRaises(StoreUnavailable, store.put, data)

    def test_upload_in_parts_that_fails_is_aborted(self) -> None:
        # Swift refuses parts of less than 5 MiB, except the last.
        store = self.make_store(part_size=1024 * 1024)

        self.assertRaises(StoreUnavailable, store.put, bytes(LARGE))

        self.assertEqual([], self.bucket.uploads())
        self.assertEqual([], self.bucket.keys())

    def test_sweep_aborts_uploads_that_are_older_than_a_day_alone(self) -> None:
        store = self.make_store()
        PartedUpload(store.client, "ab/abc", {})

        swept = store.sweep()
        kept = self.bucket.uploads()
        swept_later = sweep_uploads(store.client, now=ago(-25 * 3600), until=store.client.deadline())

        self.assertEqual((0, ["ab/abc"]), (swept, kept))
        self.assertEqual((1, []), (swept_later, self.bucket.uploads()))


class DownloadTest(BucketCase):
    def test_range_is_asked_of_the_store(self) -> None:
        store, data = self.make_store(), os.urandom(LARGE)
        digest = store.put(data)

        for start, stop in ((0, 10), (LARGE - 5, LARGE), (COPY_SIZE + 7, 2 * COPY_SIZE + 9), (1, LARGE)):
            with self.subTest(start=start, stop=stop):
                self.assertEqual(data[start:stop], self.read(store, digest, start, stop))

    def test_upload_of_the_same_bytes_heals_an_object(self) -> None:
        store = self.make_store()
        self.bucket.put(store.key(store.put(TEA)), b"coffee")

        store.put(TEA)

        self.assertEqual(TEA, self.read(store, TEA_DIGEST))

    def test_readers_that_are_slow_give_their_connections_back_and_get_all_bytes(self) -> None:
        store, data = self.make_store(), os.urandom(LARGE)
        digest = store.put(data)
        sinks = [_Slow() for _ in range(80)]
        open_before = len(os.listdir("/proc/self/fd"))
        blobs = [store.open(digest) for _ in sinks]
        positions = [blob.send(sink, 0, LARGE) for blob, sink in zip(blobs, sinks)]

        opened = len(os.listdir("/proc/self/fd")) - open_before
        for blob, sink, position in zip(blobs, sinks, positions):
            sink.takes = LARGE
            blob.send(sink, position, LARGE)
            blob.close()

        self.assertEqual([True] * 80, [sink.data == data for sink in sinks])
        self.assertLess(opened, 75)


class _Slow(Gather):
    """Takes a byte of each piece."""

    takes = 1

    def write(self, data: Bytes) -> int:
        return super().write(memoryview(data)[: self.takes])
