"""The locks of Git LFS: who gets one, of several threads and processes, and that it lasts."""

from __future__ import annotations

import subprocess
import sys

from filestoraged.command_errors import StartError
from filestoraged.store.kv import KEYS_SCHEMA
from filestoraged.store.locks import LOCKS_SCHEMA, Lock, LockResult, Locks
from filestoraged.store.sqlite import database
from filestoraged.store.sqlite.group_commit import TransactionQueue
from tests.clock import VirtualClock
from tests.daemon.process import ROOT
from tests.store import locks_contract

# A process that locks a path as its own owner, prints the owner of the lock, and waits to be killed.
_LOCK = """
import sys
from filestoraged.store.locks import LOCKS_SCHEMA, Locks
from filestoraged.store.sqlite.group_commit import TransactionQueue
locks = Locks(TransactionQueue(sys.argv[1], LOCKS_SCHEMA))
sys.stdin.readline()
print(locks.lock("pets", "a", sys.argv[2]).result().lock.owner, flush=True)
sys.stdin.read()
"""


class LocksTest(locks_contract.LocksContract):
    def setUp(self) -> None:
        super().setUp()
        self.path = str(self.directory / "locks.sqlite")
        database.prepare(self.path, LOCKS_SCHEMA)
        self.clock = VirtualClock()
        self.locks = self.open_locks()

    def open_locks(self) -> Locks:
        locks = Locks(TransactionQueue(self.path, LOCKS_SCHEMA, clock=self.clock))
        self.addCleanup(locks.close)
        return locks

    def test_lock_has_an_id_an_owner_and_a_time(self) -> None:
        self.clock.set_date(1_763_805_600.9)

        made = self.lock("a")

        self.assertEqual(LockResult(Lock(made.lock.id, "a", "alice", 1_763_805_600), True), made)
        self.assertEqual(made.lock, self.locks.get("pets", made.lock.id))

    def test_one_of_several_processes_gets_the_lock_and_it_survives_their_kill(self) -> None:
        children = [self.start(f"owner {number}") for number in range(3)]
        for child in children:
            assert child.stdin is not None
            child.stdin.write("\n")
            child.stdin.flush()
        answers = [child.stdout.readline().strip() for child in children if child.stdout is not None]
        for child in children:
            child.kill()
            child.wait()

        (kept,) = self.locks.list("pets", 0, 10)
        self.assertEqual([kept.owner] * 3, answers)
        self.assertFalse(self.lock("a").is_new)

    def test_locks_are_kept_when_the_database_is_opened_again(self) -> None:
        made = self.lock("a").lock
        self.locks.close()
        database.prepare(self.path, LOCKS_SCHEMA)

        self.assertEqual([made], self.open_locks().list("pets", 0, 10))

    def test_database_of_another_kind_is_refused(self) -> None:
        path = str(self.directory / "kv.sqlite")
        database.prepare(path, KEYS_SCHEMA)

        with self.assertRaisesRegex(StartError, "belongs to another program"):
            database.prepare(path, LOCKS_SCHEMA)

    def start(self, owner: str) -> subprocess.Popen[str]:
        child = subprocess.Popen(
            [sys.executable, "-c", _LOCK, self.path, owner],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.addCleanup(child.communicate)
        self.addCleanup(child.kill)
        return child
