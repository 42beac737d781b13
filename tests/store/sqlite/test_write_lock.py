"""The write lock of a database: its file, its timeout, and the numbers that processes share."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from unittest import mock

from filestoraged.store.sqlite import write_lock
from filestoraged.store.sqlite.write_lock import WriteLock, is_of_this_boot
from tests.daemon.process import ROOT
from tests.support import TempCase, find_program


class WriteLockTest(TempCase):
    def setUp(self) -> None:
        super().setUp()
        self.path = str(self.directory / "kv.sqlite")
        self.lock = self.open_lock()

    def open_lock(self) -> WriteLock:
        lock = WriteLock(self.path)
        self.addCleanup(lock.close)
        return lock

    def test_file_is_private_with_any_umask(self) -> None:
        for umask in (0, 0o022, 0o077):
            os.unlink(self.path + ".turn")
            before = os.umask(umask)
            self.addCleanup(os.umask, before)
            self.open_lock()
            os.umask(before)

            with self.subTest(umask=oct(umask)):
                self.assertEqual(0o600, os.stat(self.path + ".turn").st_mode & 0o777)

    def test_symbolic_link_in_its_place_is_not_followed(self) -> None:
        outside = self.directory / "outside"
        for content in (None, b"foreign"):
            if content is not None:
                outside.write_bytes(content)
            path = str(self.directory / f"{content!r}.sqlite")
            os.symlink(outside, f"{path}.turn")
            lock = WriteLock(path)
            self.addCleanup(lock.close)

            with self.subTest(content=content), self.assertRaisesRegex(OSError, f"{path}.turn"), lock:
                self.fail("the lock is held")
            self.assertEqual(content, outside.read_bytes() if outside.exists() else None)

    def test_numbers_have_a_disk_block_from_the_start(self) -> None:
        self.assertGreater(os.stat(self.path + ".turn").st_blocks, 0)

    def test_file_of_an_earlier_version_keeps_its_count_and_gets_a_disk_block(self) -> None:
        self.path = str(self.directory / "old.sqlite")
        with open(self.path + ".turn", "wb") as file:
            file.write(bytes([6]) + bytes(7))

        lock = self.open_lock()

        self.assertEqual((6, False, 0), (lock.commits, lock.is_doubtful, lock.written))

    def test_all_processes_see_the_same_numbers(self) -> None:
        other = self.open_lock()
        with self.lock, self.lock.committing():
            self.lock.begin_writing()
            during = other.commits, other.is_doubtful
        self.lock.end_writing(7)

        self.assertEqual((1, True), during)
        self.assertEqual((2, False, 7), (other.commits, other.is_doubtful, other.written))

    def test_log_is_of_this_boot_once_it_was_written_in_it(self) -> None:
        missing = is_of_this_boot(str(self.directory / "missing.sqlite"))
        before = is_of_this_boot(self.path)
        self.lock.begin_writing()
        self.lock.end_writing(1)
        after = is_of_this_boot(self.path)
        with mock.patch("filestoraged.store.sqlite.write_lock._boot", return_value=1):
            rebooted = is_of_this_boot(self.path)

        self.assertEqual((False, False, True, False), (missing, before, after, rebooted))

    def test_boot_that_the_kernel_does_not_tell_is_not_this_one(self) -> None:
        unknown = write_lock._boot(str(self.directory / "missing"))
        with mock.patch.object(write_lock, "_boot", return_value=unknown):
            lock = self.open_lock()
            lock.end_writing(1)

            self.assertFalse(is_of_this_boot(self.path))

    def test_acquire_within_raises_timeout_error(self) -> None:
        other = self.open_lock()
        with self.lock, self.assertRaises(TimeoutError), other.acquire_within(0.05):
            self.fail("two have the lock")
        with other.acquire_within(0.05), self.assertRaises(TimeoutError), self.lock.acquire_within(0.05):
            self.fail("two have the lock")

    def test_full_disk_leaves_the_count_odd_and_raises_no_signal(self) -> None:
        disk = self.directory / "disk"
        disk.mkdir()
        script = textwrap.dedent("""
            import errno, os
            from filestoraged.store.sqlite.write_lock import WriteLock
            with open("disk/filler", "wb", buffering=0) as filler:
                try:
                    while True:
                        filler.write(bytes(4096))
                except OSError as error:
                    assert error.errno == errno.ENOSPC
            lock = WriteLock("disk/kv.sqlite")
            print(lock.commits % 2)
            try:
                with lock:
                    print("locked")
            except OSError as error:
                print(errno.errorcode[error.errno])
            os.unlink("disk/filler")
            with lock, lock.committing():
                pass
            print(lock.commits)
        """)
        mount = 'mount -t tmpfs -o size=64k none disk && exec "$@"'
        command = [find_program("unshare"), "--mount", "--map-root-user", "sh", "-c", mount, "sh", sys.executable]

        done = subprocess.run(
            [*command, "-c", script],
            cwd=self.directory,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )

        self.assertEqual((0, ["1", "ENOSPC", "2"]), (done.returncode, done.stdout.split()), done.stderr)
