"""A file in the staging area, apart from the store that commits it."""

from __future__ import annotations

import errno
from unittest import mock

from filestoraged.store.disk.directories import Directories
from filestoraged.store.disk.staging_area import StagingArea
from filestoraged.store.permissions import PRIVATE
from filestoraged.store.system import LINUX
from tests.support import TempCase


class StagedFileTest(TempCase):
    def test_file_whose_sync_failed_is_removed_and_cannot_be_synced_again(self) -> None:
        directories = Directories(str(self.directory))
        file = StagingArea(directories, PRIVATE).stage()
        file.write(b"tea")

        with mock.patch.object(LINUX, "fsync", side_effect=OSError(errno.EIO, "Input/output error")):
            self.assertRaises(OSError, file.sync)

        self.assertEqual([], self.files_below(self.directory))
        # The kernel has reported the error once: this sync would succeed without the bytes.
        self.assertRaises(OSError, file.sync)
