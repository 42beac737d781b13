"""The file system of a store: which ones have journals, and what is not taken for a success."""

from __future__ import annotations

import errno
import os
from unittest import mock

from filestoraged.store.disk.file_system import FileSystem, check_changes, has_journals
from filestoraged.store.system import Linux
from tests.support import TempCase


class FileSystemTest(TempCase):
    def setUp(self) -> None:
        super().setUp()
        self.system = Linux()
        self.file_system = FileSystem(str(self.directory), system=self.system)
        self.addCleanup(self.file_system.close)

    def test_sync_succeeds(self) -> None:
        (self.directory / "file").write_bytes(b"tea")

        self.file_system.sync()

    def test_failed_call_raises_its_error(self) -> None:
        with mock.patch.object(self.file_system, "_descriptor", -1), self.assertRaises(OSError) as raised:
            self.file_system.sync()

        self.assertEqual(errno.EBADF, raised.exception.errno)

    def test_file_system_that_became_read_only_raises_an_error(self) -> None:
        # The kernel does not sync it, and the call succeeds.
        status = mock.Mock(f_flag=os.ST_RDONLY | os.ST_NOATIME)

        with mock.patch.object(self.system, "fstatvfs", return_value=status), self.assertRaises(OSError) as raised:
            self.file_system.sync()

        self.assertEqual(errno.EROFS, raised.exception.errno)


class CheckChangesTest(TempCase):
    def setUp(self) -> None:
        super().setUp()
        self.system = Linux()

    def test_directory_on_a_file_system_that_works_passes_and_is_not_changed(self) -> None:
        before = os.stat(self.directory)

        check_changes(str(self.directory), system=self.system)

        self.assertEqual(before, os.stat(self.directory))

    def test_error_of_a_file_system_that_refuses_changes_is_raised(self) -> None:
        for number in (errno.EROFS, errno.EIO):
            refusal = OSError(number, os.strerror(number))
            with (
                mock.patch.object(self.system, "removexattr", side_effect=refusal),
                self.assertRaises(OSError) as raised,
            ):
                check_changes(str(self.directory), system=self.system)
            self.assertIs(refusal, raised.exception)

    def test_directory_that_can_have_no_attributes_of_this_user_passes(self) -> None:
        for number in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM, errno.EACCES):
            refusal = OSError(number, os.strerror(number))
            with self.subTest(number=number), mock.patch.object(self.system, "removexattr", side_effect=refusal):
                check_changes(str(self.directory), system=self.system)


class HasJournalsTest(TempCase):
    def has(self, *, kind: str = "ext4", release: str = "6.1.0-18-amd64") -> bool:
        """Whether a store in the directory has journals, if its file system has that type."""
        device = os.stat(self.directory).st_dev
        line = f"36 35 {os.major(device)}:{os.minor(device)} / /mnt rw,noatime shared:1 - {kind} /dev/x rw\n"
        return self.has_with("35 1 0:5 / / rw - proc proc rw\n" + line, release)

    def has_with(self, mounts: str, release: str = "6.1.0-18-amd64") -> bool:
        system = Linux()
        with (
            mock.patch("filestoraged.store.disk.file_system.read_file", return_value=mounts.encode()),
            mock.patch.object(system, "release", return_value=release),
        ):
            return has_journals(str(self.directory), system=system)

    def test_stores_on_ext4_and_xfs_have_journals_and_no_others(self) -> None:
        seen = {kind: self.has(kind=kind) for kind in ("ext4", "xfs", "ext3", "btrfs", "overlay", "nfs4", "tmpfs")}

        self.assertEqual({"ext4", "xfs"}, {kind for kind, is_used in seen.items() if is_used})

    def test_stores_on_a_kernel_that_reports_no_errors_of_syncfs_have_none(self) -> None:
        seen = {release: self.has(release=release) for release in ("4.19.0", "5.4.0-100", "5.8.0", "5.10", "6.1-rc1")}

        self.assertEqual({"5.8.0", "5.10", "6.1-rc1"}, {release for release, is_used in seen.items() if is_used})

    def test_store_on_an_unknown_device_has_none(self) -> None:
        self.assertFalse(self.has_with(""))
