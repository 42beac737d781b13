"""The write lock of a database: its file, who holds it, and the numbers that processes share."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

from filestoraged.store.sqlite.write_lock import WriteLock
from tests.daemon.process import ROOT
from tests.support import TempCase, find_program


class TurnTest(TempCase):
    def setUp(self) -> None:
        super().setUp()
        self.path = str(self.directory / "kv.sqlite")
        self.turn = self.open_turn()

    def open_turn(self) -> WriteLock:
        turn = WriteLock(self.path)
        self.addCleanup(turn.close)
        return turn

    def test_its_file_is_the_owners_alone_whatever_the_umask(self) -> None:
        for umask in (0, 0o022, 0o077):
            os.unlink(self.path + ".turn")
            before = os.umask(umask)
            self.addCleanup(os.umask, before)
            self.open_turn()
            os.umask(before)

            with self.subTest(umask=oct(umask)):
                self.assertEqual(0o600, os.stat(self.path + ".turn").st_mode & 0o777)

    def test_the_numbers_have_a_block_of_the_disk_from_the_start(self) -> None:
        self.assertGreater(os.stat(self.path + ".turn").st_blocks, 0)

    def test_a_file_of_an_earlier_version_keeps_its_count_and_gets_its_block(self) -> None:
        self.path = str(self.directory / "old.sqlite")
        with open(self.path + ".turn", "wb") as file:
            file.write(bytes([6]) + bytes(7))

        turn = self.open_turn()

        self.assertEqual((6, False, 0), (turn.commits, turn.is_doubtful, turn.written))

    def test_all_processes_see_the_same_numbers(self) -> None:
        other = self.open_turn()
        with self.turn, self.turn.committing():
            self.turn.begin_writing()
            during = other.commits, other.is_doubtful
        self.turn.end_writing(7)

        self.assertEqual((1, True), during)
        self.assertEqual((2, False, 7), (other.commits, other.is_doubtful, other.written))

    def test_the_lock_is_waited_for_no_longer_than_told(self) -> None:
        other = self.open_turn()
        with self.turn, self.assertRaises(TimeoutError), other.acquire_within(0.05):
            self.fail("two have the lock")
        with other.acquire_within(0.05), self.assertRaises(TimeoutError), self.turn.acquire_within(0.05):
            self.fail("two have the lock")

    def test_on_a_full_disk_no_count_is_trusted_and_no_signal_ends_the_process(self) -> None:
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
            turn = WriteLock("disk/kv.sqlite")
            print(turn.commits % 2)
            try:
                with turn:
                    print("locked")
            except OSError as error:
                print(errno.errorcode[error.errno])
            os.unlink("disk/filler")
            with turn, turn.committing():
                pass
            print(turn.commits)
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
