"""SQLite files as they are opened: never through a symbolic link."""

from __future__ import annotations

import os
import sqlite3

from filestoraged.clock import SYSTEM_CLOCK
from filestoraged.command_errors import StartError
from filestoraged.errors import StoreFailed
from filestoraged.store.kv import KEYS_SCHEMA, KeyValues
from filestoraged.store.path_identity import database_identity
from filestoraged.store.sqlite import database
from tests.support import TempCase


class LinkTest(TempCase):
    def setUp(self) -> None:
        super().setUp()
        self.outside = str(self.directory / "outside.sqlite")
        self.path = str(self.directory / "kv.sqlite")
        database.prepare(self.outside, KEYS_SCHEMA)

    def test_database_that_is_a_symbolic_link_is_not_opened(self) -> None:
        os.symlink(self.outside, self.path)

        with self.assertRaisesRegex(sqlite3.OperationalError, f"'{self.path}' is a symbolic link"):
            database.connect_identified(database_identity(self.path), SYSTEM_CLOCK)
        self.assertRaisesRegex(
            StartError, f"'{self.path}' is a symbolic link", database.prepare, self.path, KEYS_SCHEMA
        )

    def test_log_that_is_a_symbolic_link_is_not_written(self) -> None:
        database.prepare(self.path, KEYS_SCHEMA)
        outside = self.directory / "outside"
        outside.touch()
        for suffix in ("-wal", "-shm"):
            os.symlink(outside, self.path + suffix)
            keys = KeyValues(self.path)

            with self.subTest(suffix=suffix):
                with self.assertRaises(StoreFailed) as caught:
                    keys.set("tea", b"1").result()
                self.assertIn(f"'{self.path}{suffix}' is a symbolic link", str(caught.exception.__cause__))
                self.assertEqual(b"", outside.read_bytes())
            keys.close()
            os.unlink(self.path + suffix)
