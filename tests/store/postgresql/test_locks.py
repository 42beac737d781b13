"""The locks in PostgreSQL."""

from __future__ import annotations

from tests.store import locks_contract
from tests.store.postgresql.opened import OpenedCase, after_statement


class PostgresLocksTest(OpenedCase, locks_contract.LocksContract):
    def setUp(self) -> None:
        super().setUp()
        self.locks = self.open_locks()

    def test_longest_paths_of_any_characters_are_locked_once(self) -> None:
        paths = ["x" * 4095, "x" * 4096, "é" * 2048, "".join(chr(0x4E00 + number) for number in range(1365))]

        made = [self.lock(path) for path in paths]

        self.assertEqual([True] * len(paths), [each.is_new for each in made])
        self.assertEqual([False] * len(paths), [self.lock(path, "bob").is_new for path in paths])
        self.assertEqual(paths, [each.path for each in self.locks.list("pets", 0, 10)])

    def test_path_whose_lock_is_released_while_another_daemon_asks_for_it_is_locked_anew(self) -> None:
        held = self.lock("a", "bob").lock
        release = self.open_locks().release

        with after_statement("INSERT INTO locks", lambda: release("pets", held.id).result()):
            made = self.lock("a")

        self.assertEqual(("alice", True), (made.lock.owner, made.is_new))

    def test_lock_has_the_time_of_the_database(self) -> None:
        made = self.lock("a").lock

        ((age,),) = self.query("SELECT extract(epoch FROM now())::bigint - %s", made.created)
        self.assertLess(abs(age), 60)

    def test_locks_survive_the_end_of_all_sessions(self) -> None:
        made = self.lock("a").lock
        self.end_sessions()

        self.assertEqual([made], self.locks.list("pets", 0, 10))
        self.assertEqual(made, self.locks.release("pets", made.id).result())
