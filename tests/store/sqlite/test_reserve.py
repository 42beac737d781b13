"""The reserve of a database: the space that it gets where the disk is full."""

from __future__ import annotations

import errno
import os
from unittest import mock

from filestoraged.store.sqlite.reserve import Reserve
from tests.support import TempCase


class ReserveTest(TempCase):
    def setUp(self) -> None:
        super().setUp()
        self.file = self.directory / "names.sqlite.reserve"
        self.reserve = Reserve(str(self.directory / "names.sqlite"))

    def test_space_is_given_up_once_and_kept_again(self) -> None:
        self.reserve.keep()
        status = self.file.stat()
        self.assertEqual((4 * 1024 * 1024, 0o600), (status.st_size, status.st_mode & 0o777))
        self.assertGreaterEqual(status.st_blocks * 512, status.st_size)

        self.assertEqual([True, False], [self.reserve.give_up(), self.reserve.give_up()])
        self.assertFalse(self.file.exists())
        self.reserve.keep()
        self.assertTrue(self.file.exists())

    def test_full_disk_keeps_nothing_of_it(self) -> None:
        with mock.patch("os.posix_fallocate", side_effect=OSError(errno.ENOSPC, "No space left on device")):
            self.reserve.keep()
        self.assertEqual([], os.listdir(self.directory))
        self.assertFalse(self.reserve.give_up())

        self.reserve.keep()
        self.assertTrue(self.file.exists())

    def test_processes_share_it(self) -> None:
        other = Reserve(str(self.directory / "names.sqlite"))
        other.keep()
        # Of a file that is there, a file system without reservations knows nothing.
        with mock.patch("os.posix_fallocate", side_effect=OSError(errno.EOPNOTSUPP, "Operation not supported")):
            self.reserve.keep()

        self.assertEqual([True, False], [self.reserve.give_up(), other.give_up()])
        other.keep()
        self.assertTrue(self.reserve.give_up())

    def test_one_that_was_not_finished_is_made_anew(self) -> None:
        self.file.write_bytes(b"")

        self.reserve.keep()

        self.assertEqual(4 * 1024 * 1024, self.file.stat().st_size)
