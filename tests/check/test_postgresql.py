"""The check of databases in PostgreSQL, and of drops whose registry is there."""

from __future__ import annotations

import json
import os
from pathlib import Path

from filestoraged.store.disk.store import DiskStore
from filestoraged.store.drops import Drop
from tests.daemon.process import fork_command
from tests.store.postgresql.opened import OpenedCase
from tests.store.s3.servers import Bucket, Rclone, shared
from tests.support import PATIENCE, ago

KEPT, LOST, STRAY, NEW = (f"{number:032x}" for number in range(4))

# An upload that has received so many bytes.
INSERT_UPLOAD = """INSERT INTO uploads (id, state, target, owner, received, expected, note, name, expires)
    VALUES (%s, 0, 'files', '', %s, '[]', '', '', 'infinity')"""


class PostgresCheckTest(OpenedCase):
    def setUp(self) -> None:
        super().setUp()
        keys, drops, locks = self.open_keys(), self.open_drops(), self.open_locks()
        for number in range(1200):
            keys.set(f"key {number}", b"%d" % number)
        keys.set("last", b"x" * 10_000).result()
        keys.commit().result()
        keys.set("queued", b"1").result()
        keys.delete("other").result()
        locks.lock("pets", "a", "alice").result()
        self.root = self.directory / "store"
        store = DiskStore(self.root)
        store.prepare()
        self.bytes = DiskStore(self.root / "drops", within=store)
        self.drop_id = drops.announce().result()
        with self.bytes.stage() as staging:
            staging.write(b"tea")
            staging.commit(name=self.drop_id).result(PATIENCE)
        drops.publish(Drop(self.drop_id, "name", None)).result()

    def check(self, *options: str) -> tuple[int, list[str]]:
        """Returns the exit status, and the kind and path of each finding; the error where it was not checked."""
        status, output, errors = fork_command("check", "--json", *options, cwd=self.directory)
        if not output:
            return status, [errors]
        self.assertFalse(errors, errors)
        report = json.loads(output)
        return status, [f"{each['kind']} {each['path']}" for each in report["findings"]]

    def test_sound_database_has_no_finding(self) -> None:
        self.assertEqual((0, []), self.check("--database", self.url))
        self.assertEqual((0, []), self.check("--database", self.url, "--store", str(self.root)))

    def test_damaged_rows_are_found(self) -> None:
        self.query("UPDATE pairs SET key = 'changed' WHERE key = 'last'")
        self.query("UPDATE drops SET state = 9")

        status, found = self.check("--database", self.url)

        self.assertEqual(1, status)
        self.assertEqual(["damaged database/drops/", "damaged database/pairs/"], sorted(each[:23] for each in found))
        self.assertNotIn(self.drop_id, "".join(found))

    def test_drop_without_bytes_and_bytes_without_a_drop_are_found(self) -> None:
        os.unlink(self.root / "drops" / self.drop_id[:2] / self.drop_id)
        stray = "ab" * 16
        Path(self.root / "drops" / "ab").mkdir(exist_ok=True)
        Path(self.root / "drops" / "ab" / stray).write_bytes(b"tea")

        status, found = self.check("--database", self.url, "--store", str(self.root))

        self.assertEqual(1, status)
        self.assertEqual(
            [f"missing drops/{self.drop_id[:2]}/{self.drop_id}", f"orphaned drops/ab/{stray}"], sorted(found)
        )

    def test_unfinished_uploads_in_the_directory_are_compared_with_rows_of_the_database(self) -> None:
        uploads = self.root / "uploads"
        uploads.mkdir()
        for id_ in (KEPT, LOST):
            self.query(INSERT_UPLOAD, id_, 3)
        (uploads / KEPT).write_bytes(b"tea")
        (uploads / STRAY).write_bytes(b"tea")

        status, found = self.check("--database", self.url, "--store", str(self.root), "--repair")

        self.assertEqual(1, status)
        self.assertEqual([f"missing uploads/{LOST}", f"orphaned uploads/{STRAY}"], sorted(found))
        self.assertEqual([KEPT], [each.name for each in uploads.iterdir()])

    def test_configuration_names_the_database(self) -> None:
        file = self.directory / "daemon.conf"
        file.write_text(f"[filestoraged]\nstore = {self.root}\ndatabase = {self.url}\n")

        self.assertEqual((0, []), self.check("--config", str(file)))

    def test_drops_are_not_repaired_away_without_their_database(self) -> None:
        status, found = self.check("--store", str(self.root), "--repair")

        self.assertEqual((1, ["unreadable drops.sqlite"]), (status, found))
        self.assertTrue((self.root / "drops" / self.drop_id[:2] / self.drop_id).exists())

    def test_database_without_tables_or_server_is_not_checked(self) -> None:
        for url, message in (
            (self.server.url(self.server.create_database()), "The database has no tables"),
            (self.server.url("missing"), "does not exist"),
        ):
            status, (error,) = self.check("--database", url)

            self.assertEqual(2, status)
            self.assertIn(message, error)
            self.assertEqual(1, len(error.splitlines()))

    def test_segments_in_an_s3_store_are_compared_with_rows_of_the_database(self) -> None:
        bucket = shared(Rclone).make_bucket()
        for id_ in (KEPT, LOST, NEW):
            self.query(INSERT_UPLOAD, id_, 3)
        self.query(INSERT_UPLOAD.replace("VALUES (%s, 0,", "VALUES (%s, 1,"), "d" * 32, 3)
        for id_ in (KEPT, LOST, "d" * 32):
            self.query("INSERT INTO upload_segments VALUES (%s, 7, 0, 3, '')", id_)
        for id_ in (KEPT, STRAY, NEW):
            bucket.put(f"uploads/{id_}/7", b"tea")
        bucket.put(f"uploads/{KEPT}/8", b"of a request that died")
        self.age(bucket, f"uploads/{STRAY}/7", f"uploads/{KEPT}/8")
        file = self.directory / "daemon.conf"
        file.write_text(
            f"[filestoraged]\nstore = {self.directory}/machine\ndatabase = {self.url}\ns3 = {bucket.url}\n"
            f"s3-credentials = {self.credentials()}\n"
        )
        # The bytes of this drop are in the other directory.
        self.query("DELETE FROM drops")

        status, found = self.check("--config", str(file), "--repair")

        self.assertEqual(1, status)
        self.assertEqual(
            [
                f"missing uploads/{LOST}/7",
                f"missing uploads/{NEW}",
                f"orphaned uploads/{KEPT}/8",
                f"orphaned uploads/{STRAY}/7",
            ],
            sorted(found),
        )
        self.assertEqual([f"uploads/{KEPT}/7", f"uploads/{NEW}/7"], bucket.keys("uploads/"))
        self.assertEqual([f"quarantine/uploads/{KEPT}/8", f"quarantine/uploads/{STRAY}/7"], bucket.keys("quarantine/"))

    def age(self, bucket: Bucket, *keys: str) -> None:
        """Make objects older than any request."""
        past = ago(2 * 24 * 3600)
        for key in keys:
            os.utime(bucket.server.directory / "objects" / bucket.name / key, (past, past))

    def credentials(self) -> Path:
        file = self.directory / "credentials"
        file.write_text("[default]\naws_access_key_id = key\naws_secret_access_key = secret\n")
        return file
