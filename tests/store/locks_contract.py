"""What the locks promise in every database."""

from __future__ import annotations

from filestoraged.errors import NotFound
from filestoraged.store.locks import LockResult, Locks
from tests.support import TempCase, in_threads


class LocksContract(TempCase):
    """A subclass sets `locks`, and opens the database again."""

    locks: Locks

    def open_locks(self) -> Locks:
        raise NotImplementedError

    def lock(self, path: str, owner: str = "alice", repository: str = "pets") -> LockResult:
        return self.locks.lock(repository, path, owner).result()

    def test_locked_path_returns_the_lock_that_it_has(self) -> None:
        first = self.lock("a")

        self.assertEqual(LockResult(first.lock, False), self.lock("a", "bob"))
        self.assertEqual(LockResult(first.lock, False), self.lock("a"))

    def test_one_of_many_simultaneous_locks_is_new(self) -> None:
        other = self.open_locks()

        made = in_threads(32, lambda n: (other if n % 2 else self.locks).lock("pets", "a", f"owner {n}").result())

        self.assertEqual(1, sum(each.is_new for each in made))
        self.assertEqual(1, len({each.lock for each in made}))

    def test_repositories_share_no_path(self) -> None:
        made = [self.lock("a", repository=repository) for repository in ("cats", "dogs")]

        self.assertEqual([True, True], [each.is_new for each in made])
        self.assertRaises(NotFound, self.locks.get, "cats", made[1].lock.id)
        self.assertRaises(NotFound, self.locks.release("cats", made[1].lock.id).result)
        self.assertEqual(2, self.locks.count())

    def test_paths_differ_by_case_and_are_compared_whole(self) -> None:
        paths = ("a", "A", "a ", "a/b", "é", "e\u0301", "a%", "_")

        self.assertEqual([True] * len(paths), [self.lock(path).is_new for path in paths])
        self.assertEqual(["a%"], [each.path for each in self.locks.find("pets", "a%")])
        self.assertEqual([], self.locks.find("pets", "a_"))

    def test_released_path_gets_a_lock_with_another_id(self) -> None:
        first = self.lock("a").lock

        self.assertEqual(first, self.locks.release("pets", first.id).result())

        self.assertRaises(NotFound, self.locks.get, "pets", first.id)
        self.assertRaises(NotFound, self.locks.release("pets", first.id).result)
        second = self.lock("a", "bob")
        self.assertTrue(second.is_new)
        self.assertGreater(second.lock.id, first.id)

    def test_one_of_many_simultaneous_releases_succeeds(self) -> None:
        id_ = self.lock("a").lock.id

        def release(_: int) -> bool:
            try:
                self.locks.release("pets", id_).result()
            except NotFound:
                return False
            return True

        self.assertEqual(1, sum(in_threads(16, release)))

    def test_locks_are_listed_by_id_from_a_position_on(self) -> None:
        made = [self.lock(str(number)).lock for number in range(10)]
        self.lock("other", repository="dogs")

        self.assertEqual(made[:4], self.locks.list("pets", 0, 4))
        self.assertEqual(made[4:], self.locks.list("pets", made[3].id, 100))
        self.assertEqual([], self.locks.list("pets", made[-1].id, 100))
        self.assertEqual([], self.locks.list("cats", 0, 100))

    def test_probe_of_a_database_that_can_be_written_changes_nothing(self) -> None:
        made = self.lock("a").lock

        self.locks.probe()

        self.assertEqual([made], self.locks.list("pets", 0, 10))
