"""Write-behind: which bytes the kernel is told to write, which are waited for, and what happens after an error."""

from __future__ import annotations

import errno
import hashlib
import os
from unittest import mock

from filestoraged.errors import NotFound
from filestoraged.store.disk.store import DiskStore
from filestoraged.store.disk.write_behind import WINDOW, WriteBehind
from filestoraged.store.system import LINUX, Linux
from tests.support import TempCase

PIECE = bytes(WINDOW // 4)

# The flags of sync_file_range(2).
START, WAIT = 2, 7


class WriteBehindTest(TempCase):
    def setUp(self) -> None:
        super().setUp()
        self.descriptor = os.open(self.directory / "file", os.O_WRONLY | os.O_CREAT)
        self.addCleanup(os.close, self.descriptor)
        # The start, the end and the flags of each call, in windows.
        self.calls: list[tuple[float, float, int]] = []
        # The error of each call, 0 for none.
        self.error = 0
        self.system = mock.Mock(Linux(), sync_file_range=self.record)

    def record(self, descriptor: int, start: int, stop: int, flags: int) -> None:
        self.assertEqual(self.descriptor, descriptor)
        self.calls.append((start / WINDOW, stop / WINDOW, flags))
        if self.error:
            raise OSError(self.error, os.strerror(self.error))

    def grow(self, windows: int) -> None:
        behind = WriteBehind(self.descriptor, system=self.system)
        for number in range(1, 4 * windows + 1):
            behind.advance(number * len(PIECE))

    def test_file_smaller_than_a_window_is_left_to_the_kernel(self) -> None:
        WriteBehind(self.descriptor, system=self.system).advance(WINDOW - 1)

        self.assertEqual([], self.calls)

    def test_each_window_is_started_and_the_one_before_it_is_waited_for(self) -> None:
        self.grow(windows=3)

        self.assertEqual([(0, 1, START), (1, 2, START), (0, 1, WAIT), (2, 3, START), (1, 2, WAIT)], self.calls)

    def test_piece_larger_than_a_window_is_one_window(self) -> None:
        behind = WriteBehind(self.descriptor, system=self.system)

        behind.advance(5 * WINDOW)
        behind.advance(6 * WINDOW)

        self.assertEqual([(0, 5, START), (5, 6, START), (0, 5, WAIT)], self.calls)

    def test_error_of_a_write_is_raised(self) -> None:
        self.error = errno.EIO

        with self.assertRaises(OSError) as raised:
            self.grow(windows=1)

        self.assertEqual(errno.EIO, raised.exception.errno)

    def test_unsupported_call_is_replaced_by_advice_that_does_not_wait(self) -> None:
        self.error = errno.ENOSYS
        with mock.patch.object(self.system, "posix_fadvise") as advise:
            self.grow(windows=2)

        self.assertEqual([(0, 1, START)], self.calls)
        starts = [(call.args[1] // WINDOW, call.args[2] // WINDOW) for call in advise.call_args_list]
        self.assertEqual([(0, 1), (1, 1)], starts)


class KernelTest(TempCase):
    def test_kernel_accepts_the_calls(self) -> None:
        path = self.directory / "file"
        path.write_bytes(PIECE)
        descriptor = os.open(path, os.O_WRONLY)
        self.addCleanup(os.close, descriptor)

        for flags in (START, WAIT):
            LINUX.sync_file_range(descriptor, 0, len(PIECE), flags)

    def test_kernel_refuses_a_pipe(self) -> None:
        reading, writing = os.pipe()
        self.addCleanup(os.close, reading)
        self.addCleanup(os.close, writing)

        with self.assertRaises(OSError) as raised:
            LINUX.sync_file_range(writing, 0, 1, START)

        self.assertEqual(errno.ESPIPE, raised.exception.errno)


class StagingTest(TempCase):
    def setUp(self) -> None:
        super().setUp()
        self.system = Linux()
        self.store = DiskStore(self.directory, system=self.system)

    def test_large_object_is_stored_whole(self) -> None:
        data = os.urandom(3 * WINDOW + 1)

        digest = self.store.put(data)

        self.assertEqual(hashlib.sha256(data).hexdigest(), digest)
        with self.store.get(digest) as stream:
            self.assertEqual(data, stream.read())

    def test_staging_whose_write_behind_failed_cannot_be_committed(self) -> None:
        staging = self.store.stage()
        self.addCleanup(staging.close)
        with (
            mock.patch.object(self.system, "sync_file_range", side_effect=OSError(errno.EIO, "Input/output error")),
            self.assertRaises(OSError),
        ):
            for _ in range(4):
                staging.write(PIECE)

        # The kernel has reported the error, so a sync would succeed now.
        self.assertRaises(OSError, staging.commit)

        self.assertRaises(NotFound, self.store.open, hashlib.sha256(PIECE * 4).hexdigest())
        self.assertEqual([], self.files_below(self.directory))
