"""Statements for many rows."""

from __future__ import annotations

import contextlib
import sqlite3
import unittest

from filestoraged.store.sqlite.many_rows import execute_with_keys, insert_pairs


class ManyRowsTest(unittest.TestCase):
    def setUp(self) -> None:
        connection = self.enterContext(contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)))
        connection.execute("CREATE TABLE pairs (id INTEGER PRIMARY KEY, key BLOB, value BLOB)")
        self.connection = connection

    def test_any_number_of_rows_is_inserted_in_order(self) -> None:
        for count in (0, 1, 2, 3, 64, 65, 500):
            with self.subTest(count=count):
                self.connection.execute("DELETE FROM pairs")
                rows = [(b"%d" % number, None if number % 3 else b"x") for number in range(count)]

                insert_pairs(
                    self.connection,
                    "INSERT INTO pairs (key, value) VALUES {}",
                    [field for row in rows for field in row],
                )

                self.assertEqual(rows, self.connection.execute("SELECT key, value FROM pairs ORDER BY id").fetchall())

    def test_any_number_of_keys_is_found(self) -> None:
        keys = [b"%d" % number for number in range(500)]
        insert_pairs(
            self.connection, "INSERT INTO pairs (key, value) VALUES {}", [field for key in keys for field in (key, b"")]
        )
        for count in (1, 2, 3, 64, 65, 500):
            with self.subTest(count=count):
                found = execute_with_keys(
                    self.connection, "SELECT key FROM pairs WHERE key IN ({})", [*keys[:count], b"other"]
                )

                self.assertEqual(sorted(keys[:count]), sorted(key for (key,) in found))
