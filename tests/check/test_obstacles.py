"""What is in place of an object or of a directory: each upload fails, the log names it, and `check` moves it away."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from pathlib import Path

from filestoraged.check.disk import check_disk
from filestoraged.check.findings import Finding
from filestoraged.check.throttle import Throttle
from tests.support import PATIENCE, ServerCase

# Committed in groups where the file system allows it; and each alone.
BODIES = (b"tea", b"tea" * 100_000)


class ObstaclesTest(ServerCase):
    def check(self) -> list[Finding]:
        disk_check = check_disk(str(self.store_path), algorithm="sha256", throttle=Throttle(), repair=True, threads=1)
        return [finding for finding in disk_check.findings(PATIENCE) if finding is not None]

    def assert_refused(self, body: bytes, target: str, named: Path, **fields: str) -> None:
        """Assert that an upload fails, and that one line names the path."""
        del self.logged[:]

        answer = self.put(target, body, **fields) if target != "/" else self.post(target, body, **fields)

        errors = [record for record in self.logged if record.levelno > logging.INFO]
        self.assertEqual((500, 1), (answer.status, len(errors)), [record.getMessage() for record in errors])
        self.assertIn(f"'{named}' is ", errors[0].getMessage())
        self.assertNotIn("staging", errors[0].getMessage())
        self.assertIsNone(errors[0].exc_info)
        self.assertNotIn(str(self.directory), answer.body.decode())

    def assert_healed(self, body: bytes, target: str, named: Path) -> None:
        self.assertEqual([str(named)], [f"{self.store_path}/{finding.path}" for finding in self.check()])
        answer = self.put(target, body) if target != "/" else self.post(target, body)
        self.assertIn(answer.status, (200, 201))
        self.assertEqual([], self.check())

    def test_directory_in_place_of_an_object_is_named_and_moved(self) -> None:
        self.announce(r"answering 500: IsADirectoryError: \[Errno 21\] '/.*/[0-9a-f]{64}' is a directory")
        for body in BODIES:
            name = hashlib.sha256(body).hexdigest()
            for target, shown in (("/", f"/{name}"), ("/data/pets", f"/data/pets/{name}")):
                within = "." if target == "/" else "repositories/pets"
                named = self.store_path / within / name[:2] / name
                named.mkdir(parents=True)
                (named / "notes").write_text("mine")

                with self.subTest(size=len(body), target=target):
                    self.assert_refused(body, target, named)
                    self.assertEqual((404, 404), (self.get(shown).status, self.delete(shown).status))
                    self.assert_healed(body, target, named)
                    self.assertEqual(body, self.get(shown).body)

    def test_directory_in_place_of_the_config_of_a_repository_of_restic_is_named_and_moved(self) -> None:
        self.announce(r"answering 500: FileExistsError: \[Errno 17\] '/.*/restic/pets/config' is not a regular file")
        named = self.store_path / "restic" / "pets" / "config"
        (named / "notes").mkdir(parents=True)

        self.assertEqual(500, self.post("/restic/pets/config", b"tea").status)
        (finding,) = self.check()

        self.assertEqual(("damaged", "restic/pets/config"), (finding.kind, finding.path))
        self.assertTrue((self.store_path / "quarantine" / finding.path / "notes").is_dir())
        self.assertEqual(200, self.post("/restic/pets/config", b"tea").status)
        self.assertEqual([], self.check())

    def test_upload_of_a_new_object_over_a_directory_is_not_told_that_it_exists(self) -> None:
        self.announce(r"answering 500: FileExistsError: \[Errno 17\] '/.*/[0-9a-f]{64}' is not a regular file")
        for body in BODIES:
            name = hashlib.sha256(body).hexdigest()
            named = self.store_path / name[:2] / name
            named.mkdir(parents=True)

            with self.subTest(size=len(body)):
                self.assert_refused(body, "/", named, If_None_Match="*")

    def test_file_in_place_of_a_directory_is_named_and_moved(self) -> None:
        self.announce(r"answering 500: NotADirectoryError: \[Errno 20\] '/.*/([0-9a-f]{2}|cats)' is not a directory")
        for body in BODIES:
            name = hashlib.sha256(body).hexdigest()
            for target, path in (
                ("/", name[:2]),
                ("/data/pets", f"repositories/pets/{name[:2]}"),
                ("/data/cats", "repositories/cats"),
            ):
                named = self.store_path / path
                named.parent.mkdir(parents=True, exist_ok=True)
                named.write_text("mine")
                shown = f"{target.rstrip('/')}/{name}"

                with self.subTest(size=len(body), path=path):
                    self.assert_refused(body, target, named)
                    self.assertEqual((404, 404), (self.get(shown).status, self.delete(shown).status))
                    self.assert_healed(body, target, named)
                    self.assertEqual(200, self.delete(shown).status)
                if path == "repositories/cats":
                    named.rmdir()

    def test_link_to_nowhere_in_place_of_a_directory_is_named_at_once_and_left(self) -> None:
        self.announce(r"answering 500: NotADirectoryError: \[Errno 20\] '/.*/[0-9a-f]{2}' is not a directory")
        for body in BODIES:
            named = self.store_path / hashlib.sha256(body).hexdigest()[:2]
            named.symlink_to("missing")

            with self.subTest(size=len(body)):
                self.assert_refused(body, "/", named)
                self.assertEqual(["foreign"], [finding.kind for finding in self.check()])
                self.assertFalse(os.path.lexists(self.store_path / "missing"))
            named.unlink()

    def test_file_in_place_of_the_directory_of_stagings_is_named_and_moved(self) -> None:
        self.announce(r"answering 500: NotADirectoryError: \[Errno 20\] Not a directory: '/.*/staging/")
        staging = self.store_path / "staging"
        self.assertEqual(200, self.post("/", BODIES[1]).status)
        shutil.rmtree(staging)
        staging.write_text("mine")
        del self.logged[:]

        answer = self.post("/", BODIES[1] + b"2")

        (error,) = [record for record in self.logged if record.levelno > logging.INFO]
        self.assertEqual((500, None), (answer.status, error.exc_info))
        self.assertIn(str(staging), error.getMessage())
        self.assert_healed(BODIES[1] + b"2", "/", staging)

    def test_file_in_place_of_a_shard_of_drops_is_named_without_the_id(self) -> None:
        self.announce(r"answering 500: NotADirectoryError: \[Errno 20\] '/.*/drops/[0-9a-f]{2}' is not a directory")
        drops = self.store_path / "drops"
        drops.mkdir(exist_ok=True)
        for number in range(256):
            (drops / f"{number:02x}").touch()
        form = b'--b\r\nContent-Disposition: form-data; name="file"; filename="t"\r\n\r\ntea\r\n--b--\r\n'
        del self.logged[:]

        answer = self.put("/vimeo/api/v1.0/file", form, Content_Type="multipart/form-data; boundary=b")

        (error,) = [record for record in self.logged if record.levelno > logging.INFO]
        self.assertEqual((500, None), (answer.status, error.exc_info))
        self.assertRegex(error.getMessage(), f"'{drops}/[0-9a-f]{{2}}' is not a directory$")
