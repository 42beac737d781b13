"""The command `filestoraged migrate` with an S3 store on one side; the contract of the store runs over Swift, too."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping

from filestoraged.store import layout
from tests.daemon.migrations import MigrationCase
from tests.store.s3.servers import Bucket, Rclone, shared, start_server

TEA = b"tea" * 10
POT = os.urandom(300_000)
# Above what is staged in memory, and above one buffer of a copy.
CUPS = os.urandom(3_000_000)


class S3Side:
    """The side `remote` keeps objects and the bytes of drops in a bucket of its own."""

    remote: str
    bucket: Bucket

    def side_options(self, name: str) -> Mapping[str, str]:
        assert isinstance(self, MigrationCase)
        if name != self.remote:
            return {}
        self.bucket = self.make_bucket()
        server = self.bucket.server
        credentials = self.directory / "credentials"
        credentials.write_text(
            f"[default]\naws_access_key_id = {server.access_key}\naws_secret_access_key = {server.secret_key}\n"
        )
        credentials.chmod(stat.S_IRUSR)
        return {"s3": f"{self.bucket.url}/kept", "s3-credentials": str(credentials)}

    def make_bucket(self) -> Bucket:
        return shared(Rclone).make_bucket()

    def stored(self) -> dict[str, bytes]:
        """The objects in the bucket, by their paths within a store."""
        return {key.removeprefix("kept/"): self.bucket.get(key) for key in self.bucket.keys("kept/")}


class ToS3Test(S3Side, MigrationCase):
    remote = "new"

    def test_objects_and_drops_are_copied_under_the_names_that_they_have_on_disk(self) -> None:
        self.old.disk.put(CUPS)
        self.old.disk.put(b"")
        self.old.disk.put(TEA, name=hashlib.md5(TEA).hexdigest())
        self.old.repository("pets").put(POT)
        self.old.put_drop(self.old.drops(), POT)
        self.old.make_restic("laptop", TEA)

        done = self.migrate("--json")
        again = self.migrate("--json")
        verified = self.migrate("--verify")

        self.assertEqual((0, 11), (done.status, done.document["copied"]), done)
        self.assertEqual((0, 0, 11), (again.status, again.document["copied"], again.document["existing"]))
        self.assertEqual(0, verified.status, verified)
        files = self.files_below(self.old.root / "restic")
        restic = {f"restic/{path}": (self.old.root / "restic" / path).read_bytes() for path in files}
        self.assertEqual({**self.objects(self.old.root), **restic}, self.stored())

    def test_damaged_object_is_reported_and_not_copied(self) -> None:
        path = self.old.spoil(self.old.disk.put(CUPS))
        small = self.old.spoil(self.old.disk.put(TEA))

        done = self.migrate()

        self.assertEqual((1, {}), (done.status, self.stored()))
        for each in (path, small):
            self.assertIn(f"damaged    {each}: its bytes have another digest\n", done.out)

    def test_verify_reports_what_the_bucket_has_lost_and_what_only_it_has(self) -> None:
        lost = self.old.disk.put(TEA)
        self.old.disk.put(POT)
        self.migrate()
        self.bucket.delete(f"kept/{layout.object_path(lost)}")
        extra = hashlib.sha256(CUPS).hexdigest()
        self.bucket.put(f"kept/{layout.object_path(extra)}", CUPS)

        done = self.migrate("--verify")

        self.assertEqual(1, done.status)
        self.assertIn(f"missing    {layout.object_path(lost)}", done.out)
        self.assertIn(f"extra      {layout.object_path(extra)}", done.out)


class FromS3Test(S3Side, MigrationCase):
    remote = "old"

    def test_objects_and_drops_are_copied_to_files_with_their_names(self) -> None:
        for path, data in {
            layout.object_path(hashlib.sha256(CUPS).hexdigest()): CUPS,
            layout.object_path(hashlib.md5(TEA).hexdigest()): TEA,
            f"repositories/pets/{layout.object_path(hashlib.sha256(POT).hexdigest())}": POT,
        }.items():
            self.bucket.put(f"kept/{path}", data)

        done = self.migrate("--json")
        verified = self.migrate("--verify")

        self.assertEqual((0, 3), (done.status, done.document["copied"]), done)
        self.assertEqual(0, verified.status, verified)
        self.assertEqual(self.stored(), self.objects(self.new.root))

    def test_damaged_object_is_reported_and_not_copied(self) -> None:
        paths = [layout.object_path(hashlib.sha256(data).hexdigest()) for data in (TEA, CUPS)]
        for path in paths:
            self.bucket.put(f"kept/{path}", POT)

        done = self.migrate()

        self.assertEqual((1, {}), (done.status, self.objects(self.new.root)))
        for path in paths:
            self.assertIn(f"damaged    {path}: ", done.out)


class UnreachableTest(S3Side, MigrationCase):
    remote = "new"

    def make_bucket(self) -> Bucket:
        return start_server(self, Rclone).make_bucket()

    def test_store_that_cannot_be_reached_exits_2_with_one_line(self) -> None:
        self.old.disk.put(TEA)
        self.bucket.server.kill()

        done = self.migrate()

        self.assertEqual((2, 1), (done.status, done.errors.count("\n")), done)
        self.assertIn("cannot write the target: ", done.errors)

    def test_store_that_restarts_during_the_run_is_tried_again(self) -> None:
        # The small one is stored at once.
        for size in (1000, 200_000, 200_000, 200_000):
            self.old.disk.put(os.urandom(size))
        process = self.start("--limit", "200000", "--json")
        self.wait_until_copied(lambda: bool(self.bucket.keys("kept/")))

        self.bucket.server.kill()
        self.bucket.server.start()
        done = self.finish(process)

        self.assertEqual((0, 4), (done.status, done.document["copied"]), done.errors)
        self.assertEqual(self.objects(self.old.root), self.stored())
