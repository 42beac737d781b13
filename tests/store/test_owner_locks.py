"""Owner locks on files: a dead owner's is removed, and no symbolic link is followed."""

from __future__ import annotations

import os
from unittest import mock

from filestoraged.store.owner_locks import OwnerFiles
from filestoraged.store.system import LINUX, Linux
from tests.support import TempCase


class OwnerFilesTest(TempCase):
    def setUp(self) -> None:
        super().setUp()
        self.outside = self.directory / "outside"
        self.outside.mkdir()
        (self.outside / "file").write_bytes(b"foreign")
        self.owners = OwnerFiles(str(self.directory / "owners"))
        self.addCleanup(self.owners.release)

    def test_sweep_removes_files_of_dead_owners_alone(self) -> None:
        token = self.owners.token
        (self.directory / "owners" / "0123456789abcdef").touch()

        OwnerFiles(str(self.directory / "owners")).sweep()

        self.assertEqual([token], os.listdir(self.directory / "owners"))

    def test_file_that_another_process_swept_before_it_was_locked_is_made_anew(self) -> None:
        self.owners._system = system = Linux()
        swept: list[str] = []

        def flock_late(descriptor: int, operation: int) -> None:
            if not swept:
                swept.append(os.readlink(f"/proc/self/fd/{descriptor}"))
                os.unlink(swept[0])
            LINUX.flock(descriptor, operation)

        with mock.patch.object(system, "flock", flock_late):
            token = self.owners.token

        self.assertNotEqual(token, os.path.basename(swept[0]))
        self.assertEqual([token], os.listdir(self.directory / "owners"))

    def test_directory_that_is_a_symbolic_link_is_refused_and_its_target_stays_untouched(self) -> None:
        os.symlink(self.outside, self.directory / "owners")

        for refused in (self.owners.own, self.owners.sweep, lambda: self.owners.is_alive("file")):
            with self.assertRaisesRegex(OSError, f"{self.directory}/owners"):
                refused()
        self.assertEqual(["file"], os.listdir(self.outside))

    def test_token_that_is_a_symbolic_link_is_not_alive_and_its_target_stays_untouched(self) -> None:
        token = self.owners.token
        os.symlink(self.outside / "file", self.directory / "owners" / "link")
        os.symlink(self.outside / "missing", self.directory / "owners" / "dangling")

        alive = [each for each in (token, "link", "dangling", "missing") if self.owners.is_alive(each)]
        self.owners.sweep()

        self.assertEqual([token], alive)
        self.assertEqual(["file"], os.listdir(self.outside))
        self.assertEqual(b"foreign", (self.outside / "file").read_bytes())
