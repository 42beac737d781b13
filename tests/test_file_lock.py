"""Locks on open files."""

from __future__ import annotations

import errno
import os
import tempfile
import threading
from unittest import mock

from filestoraged.file_lock import SHARED, lock, try_lock, try_lock_as_process, try_lock_within, unlock
from tests.clock import VirtualClock
from tests.support import TempCase


class FileLockTest(TempCase):
    def open(self) -> int:
        descriptor = os.open(self.directory / "file", os.O_RDWR | os.O_CREAT)
        self.addCleanup(os.close, descriptor)
        return descriptor

    def test_file_is_locked_by_one_open_file_or_shared_by_several(self) -> None:
        first, second = self.open(), self.open()

        lock(first)
        self.assertEqual((True, False, False), (try_lock(first), try_lock(second), try_lock(second, SHARED)))
        unlock(first)
        self.assertEqual((True, True, False), (try_lock(first, SHARED), try_lock(second, SHARED), try_lock(second)))

    def test_attempts_go_on_until_the_file_is_free_or_the_time_is_over(self) -> None:
        first, second, clock = self.open(), self.open(), VirtualClock()
        lock(first)
        results: list[bool] = []

        def wait() -> None:
            results.append(try_lock_within(second, 5.0, clock, pause=0.5))

        thread = threading.Thread(target=wait)

        thread.start()
        clock.wait_for_waiting()
        clock.advance(5.0)
        thread.join()
        self.assertEqual([False], results)

        thread = threading.Thread(target=wait)
        thread.start()
        clock.wait_for_waiting()
        unlock(first)
        clock.advance(1.0)
        thread.join()
        self.assertEqual([False, True], results)

    def test_file_that_a_network_file_system_refuses_to_lock_is_locked_by_another(self) -> None:
        refused = OSError(errno.EACCES, os.strerror(errno.EACCES))
        without_locks = OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

        self.assertFalse(try_lock(0, flock=mock.Mock(side_effect=refused)))
        with self.assertRaises(OSError):
            try_lock(0, flock=mock.Mock(side_effect=without_locks))

    def test_file_that_was_opened_before_a_fork_is_locked_by_one_process_byte_by_byte(self) -> None:
        with tempfile.TemporaryFile() as file:
            self.assertTrue(try_lock_as_process(file.fileno(), 1))
            pid = os.fork()
            if not pid:
                found = [try_lock_as_process(file.fileno(), position) for position in range(3)]
                os._exit(found != [True, False, True])

            self.assertEqual(0, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
            self.assertTrue(try_lock_as_process(file.fileno(), 0))
