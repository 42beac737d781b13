"""What the key-value database promises, wherever it is."""

from __future__ import annotations

import threading
from typing import Any

from tests.support import PATIENCE, TempCase, in_threads


class KeysContract(TempCase):
    """A subclass sets `keys`, and opens the database again."""

    # A KeyValues or a PostgresKeys.
    keys: Any

    def open_keys(self) -> Any:
        raise NotImplementedError

    def test_queued_values_are_visible_after_the_commit(self) -> None:
        self.keys.set("cup", b'"tea"').result()
        before = self.keys.get("cup")
        self.keys.commit().result()

        self.assertIsNone(before)
        self.assertEqual(b'"tea"', self.keys.get("cup"))

    def test_deletion_is_visible_after_the_commit(self) -> None:
        self.keys.set("cup", b"1").result()
        self.keys.commit().result()
        self.keys.delete("cup").result()
        before = self.keys.get("cup")
        self.keys.commit().result()

        self.assertEqual(b"1", before)
        self.assertIsNone(self.keys.get("cup"))

    def test_last_queued_change_of_a_key_counts(self) -> None:
        for steps, expected in (
            *(([b"1", b"2"], b"2"), ([b"1", None], None), ([None, b"1"], b"1"), ([b"1", None, b"3"], b"3")),
            *(([b"1", None, b"3", None], None), ([None], None)),
        ):
            for step in steps:
                if step is None:
                    self.keys.delete("cup").result()
                else:
                    self.keys.set("cup", step).result()
            self.keys.commit().result()

            with self.subTest(steps=steps):
                self.assertEqual(expected, self.keys.get("cup"))

    def test_key_is_new_until_it_is_committed(self) -> None:
        answers = [self.keys.set("cup", b"1").result(), self.keys.set("cup", b"2").result()]
        self.keys.commit().result()
        answers.append(self.keys.set("cup", b"3").result())
        self.keys.delete("cup").result()
        answers.append(self.keys.set("cup", b"4").result())
        self.keys.commit().result()
        self.keys.delete("cup").result()
        self.keys.commit().result()
        answers.append(self.keys.set("cup", b"5").result())

        self.assertEqual([True, True, False, False, True], answers)

    def test_commit_without_changes_succeeds(self) -> None:
        self.keys.commit().result()
        self.keys.commit().result()

    def test_any_string_is_a_key(self) -> None:
        names = [
            "",
            " ",
            "a/b",
            "\0",
            "a\0b",
            "é",
            "e\u0301",
            "\U0001f600",
            "x" * 100_000,
            "'; DROP TABLE pairs; --",
            "1",
            "01",
        ]
        for number, name in enumerate(names):
            self.keys.set(name, b"%d" % number).result()
        self.keys.commit().result()

        self.assertEqual([b"%d" % number for number in range(len(names))], [self.keys.get(name) for name in names])

    def test_large_value_is_read_back(self) -> None:
        value = b'"' + b"x" * 1_000_000 + b'"'
        self.keys.set("large", value).result()
        self.keys.commit().result()

        self.assertEqual(value, self.keys.get("large"))

    def test_each_process_reads_what_another_has_committed(self) -> None:
        processes = [self.keys, self.open_keys(), self.open_keys()]

        for number in range(30):
            processes[number % 3].set("cup", b"%d" % number).result()
            processes[(number + 1) % 3].commit().result()
            self.assertEqual([b"%d" % number] * 3, [each.get("cup") for each in processes])

    def test_probe_changes_nothing(self) -> None:
        self.keys.set("cup", b"1").result()

        self.keys.probe()

        self.assertEqual((1, None), (self.keys.queued, self.keys.get("cup")))

    def test_reader_sees_no_partial_commit_and_waits_for_no_writer(self) -> None:
        other = self.open_keys()
        done = threading.Event()
        halves: list[object] = []

        def read() -> None:
            while not done.is_set():
                # The second is never older than the first.
                first, second = other.get("first"), other.get("second")
                if int(second or b"0") < int(first or b"0"):
                    halves.append((first, second))

        reader = threading.Thread(target=read)
        reader.start()
        for number in range(200):
            self.keys.set("first", b"%d" % number).result()
            self.keys.set("second", b"%d" % number).result()
            self.keys.commit().result()
        done.set()
        reader.join(PATIENCE)

        self.assertEqual([], halves)

    def test_many_threads_and_writers_lose_nothing(self) -> None:
        others = [self.keys, self.open_keys(), self.open_keys()]

        def work(number: int) -> None:
            keys = others[number % 3]
            for step in range(30):
                keys.set(f"{number} {step}", b"%d" % step).result()
                if step % 7 == 0:
                    keys.commit().result()

        in_threads(12, work)
        self.keys.commit().result()

        missing = [(n, s) for n in range(12) for s in range(30) if self.keys.get(f"{n} {s}") != b"%d" % s]
        self.assertEqual([], missing)
