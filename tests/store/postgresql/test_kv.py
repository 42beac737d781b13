"""The key-value database in PostgreSQL: what SQLite promises, and any number of machines."""

from __future__ import annotations

import threading

from tests.clock import VirtualClock
from tests.store import kv_contract
from tests.store.postgresql.opened import OpenedCase
from tests.support import in_threads


class PostgresKeysTest(OpenedCase, kv_contract.KeysContract):
    def setUp(self) -> None:
        super().setUp()
        self.keys = self.open_keys()

    def test_commit_of_20_000_keys_is_visible_at_once(self) -> None:
        number = 20_000
        # No time passes: however slow the machine, no change is refused because the writer takes long for others.
        keys, other, seen = self.open_keys(VirtualClock()), self.open_keys(), set[int]()
        changes = [keys.set(f"key {index}", b"%d" % index) for index in range(number)]
        changes.append(keys.delete("key 5"))
        for each in changes:
            each.result()
        stopping = threading.Event()

        def count() -> None:
            while not stopping.is_set():
                ((rows,),) = self.query("SELECT count(*) FROM pairs")
                seen.add(rows)

        self.assertIsNone(other.get("key 0"))
        counting = threading.Thread(target=count)
        counting.start()
        keys.commit().result()
        stopping.set()
        counting.join()

        self.assertLessEqual(seen, {0, number - 1})
        self.assertEqual([b"0", None, b"19999"], [other.get(f"key {index}") for index in (0, 5, 19_999)])
        self.assertEqual(0, other.queued)

    def test_changes_and_commit_that_arrive_together_are_committed(self) -> None:
        self.keys.set("pot", b"0").result()
        self.keys.commit().result()

        jobs = [self.keys.set(f"{number}", b"1") for number in range(50)]
        jobs += [self.keys.delete("pot"), self.keys.set("pot", b"2"), self.keys.commit()]
        results = [job.result() for job in jobs]
        self.keys.commit().result()

        self.assertEqual([True] * 50 + [False, False, False], results)
        self.assertEqual([b"1", b"2"], [self.keys.get("0"), self.keys.get("pot")])

    def test_order_of_answered_sets_is_kept_by_simultaneous_commits(self) -> None:
        daemons = [self.keys, self.open_keys(), self.open_keys()]
        stopping = threading.Event()

        def commit(number: int) -> None:
            while not stopping.is_set():
                daemons[number].commit().result()

        def count_up(number: int) -> None:
            # Each answered set is later than the one before, through whichever daemon.
            for step in range(60):
                daemons[(number + step) % 3].set(f"counter {number}", b"%d" % step).result()

        committing = [threading.Thread(target=commit, args=(number,)) for number in range(3)]
        for thread in committing:
            thread.start()
        in_threads(6, count_up)
        stopping.set()
        for thread in committing:
            thread.join()
        self.keys.commit().result()

        self.assertEqual([b"59"] * 6, [self.keys.get(f"counter {number}") for number in range(6)])
        self.assertEqual(0, self.keys.queued)

    def test_queue_survives_the_end_of_all_sessions(self) -> None:
        self.keys.set("cup", b"1").result()
        self.end_sessions()

        self.assertIsNone(self.keys.get("cup"))
        self.end_sessions()
        self.keys.commit().result()

        self.assertEqual(b"1", self.keys.get("cup"))
