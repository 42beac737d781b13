"""`filestoraged check` and `filestoraged prune` of an S3 store, as a user runs them."""

from __future__ import annotations

import hashlib
import json
import os

from tests.daemon.process import fork_command
from tests.store.s3.servers import Rclone, shared
from tests.support import TempCase, free_port

TEA = b"tea" * 10
NAME = hashlib.sha256(TEA).hexdigest()
KEY = f"{NAME[:2]}/{NAME}"


class S3CommandCase(TempCase):
    def setUp(self) -> None:
        super().setUp()
        self.server = shared(Rclone)
        self.bucket = self.server.make_bucket()
        self.credentials = self.directory / "credentials"
        self.credentials.write_text("[default]\naws_access_key_id = key\naws_secret_access_key = secret\n")

    def write_config(self) -> str:
        path = self.directory / "filestoraged.conf"
        where = f"s3 = {self.bucket.url}\ns3-credentials = {self.credentials}\nstore = {self.directory}/store\n"
        path.write_text(f"[filestoraged]\n{where}")
        return str(path)


class CheckTest(S3CommandCase):
    def check(self, *arguments: str) -> tuple[int, str, str]:
        return fork_command("check", *arguments, cwd=self.directory)

    def check_bucket(self, *arguments: str) -> tuple[int, str, str]:
        return self.check("--s3", self.bucket.url, "--s3-credentials", str(self.credentials), *arguments)

    def test_whole_store_exits_0_with_one_line(self) -> None:
        self.bucket.put(KEY, TEA)

        status, output, errors = self.check_bucket("--limit", "10M")

        self.assertEqual((0, ""), (status, errors))
        self.assertRegex(output, r"^checked 1 objects, 30 bytes in \d+\.\d s, .*/s; nothing found\n$")

    def test_repair_prints_where_a_damaged_object_is(self) -> None:
        self.bucket.put(KEY, TEA[:-1])

        status, output, _ = self.check_bucket("--repair")

        self.assertEqual(1, status)
        self.assertIn(f"damaged    {KEY}: its bytes have another digest; moved to quarantine/{KEY}\n", output)
        self.assertEqual([f"quarantine/{KEY}"], self.bucket.keys())

    def test_config_file_names_the_store_and_its_credentials(self) -> None:
        self.bucket.put("README", TEA)

        status, output, errors = self.check("--config", self.write_config(), "--json")

        self.assertEqual(1, status, errors)
        report = json.loads(output)
        self.assertEqual(["README"], [each["path"] for each in report["findings"]])
        self.assertEqual(1, report["found"]["foreign"])

    def test_drop_in_the_bucket_is_not_compared_with_a_directory_that_is_not_named(self) -> None:
        self.bucket.put(f"drops/01/01{'0' * 30}", TEA)
        (self.directory / "store").mkdir()
        (self.directory / "store" / "drops.sqlite").touch()

        status, output, _ = self.check_bucket("--repair")

        self.assertEqual(0, status, output)

    def test_bytes_without_a_drop_are_orphaned_where_the_file_names_the_directory(self) -> None:
        key = f"drops/01/01{'0' * 30}"
        self.bucket.put(key, TEA)
        (self.directory / "store").mkdir()
        (self.directory / "store" / "drops.sqlite").touch()

        status, output, errors = self.check("--config", self.write_config(), "--repair")

        self.assertEqual(1, status, errors)
        self.assertIn(f"orphaned   {key}: no drop has this id; moved to quarantine/{key}\n", output)

    def test_store_that_cannot_be_checked_exits_2_and_says_why(self) -> None:
        port = free_port()
        for arguments, reason in (
            (("--s3", f"http://127.0.0.1:{port}/bucket"), "refused"),
            (("--s3", f"http://{self.server.address}/missing"), "NoSuchBucket"),
            (("--s3", "bucket"), "expected https://HOST[:PORT]/BUCKET[/PREFIX]"),
        ):
            with self.subTest(arguments=arguments):
                status, output, errors = self.check(*arguments, "--s3-credentials", str(self.credentials))

                self.assertEqual((2, ""), (status, output))
                self.assertIn(reason, errors)


class PruneTest(S3CommandCase):
    def setUp(self) -> None:
        super().setUp()
        self.old, self.kept, self.recent = (self.put(bytes([number]) * 10) for number in range(3))
        for oid in (self.old, self.kept):
            # rclone's objects are files.
            path = self.server.directory / "objects" / self.bucket.name / "repositories/pets" / oid[:2] / oid
            os.utime(path, (1e9, 1e9))
        self.bucket.put("repositories/pets/README", b"foreign")
        self.bucket.put(f"repositories/cats/{KEY}", TEA)
        self.keep = self.directory / "keep"
        self.keep.write_text(f"{self.kept} * cup.txt\n")

    def test_objects_that_are_neither_named_nor_recent_are_moved_to_the_quarantine(self) -> None:
        before = self.bucket.keys()

        status, output, errors = self.prune("pets")

        self.assertEqual((1, ""), (status, errors))
        self.assertIn("moved 1 objects, 10 bytes; kept 1 that the list names and 1 that are recent", output)
        key = f"repositories/pets/{self.old[:2]}/{self.old}"
        self.assertEqual(sorted({*before, f"quarantine/{key}"} - {key}), self.bucket.keys())
        self.assertEqual(0, self.prune("pets")[0])

    def test_dry_run_moves_nothing(self) -> None:
        before = self.bucket.keys()

        status, output, _ = self.prune("pets", "--dry-run")

        self.assertEqual(1, status)
        self.assertIn(f"would move {self.old}, 10 bytes, stored 2001-09-09T01:46:40Z\n", output)
        self.assertEqual(before, self.bucket.keys())

    def test_repository_without_an_object_cannot_be_pruned(self) -> None:
        status, _, errors = self.prune("dogs")

        self.assertEqual(2, status)
        self.assertIn("there is no repository 'dogs' in the S3 store", errors)

    def put(self, data: bytes) -> str:
        oid = hashlib.sha256(data).hexdigest()
        self.bucket.put(f"repositories/pets/{oid[:2]}/{oid}", data)
        return oid

    def prune(self, *arguments: str) -> tuple[int, str, str]:
        command = ("prune", *arguments, "--keep", str(self.keep), "--config", self.write_config())
        return fork_command(*command, cwd=self.directory)
