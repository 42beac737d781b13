"""The tables of older versions in PostgreSQL."""

from __future__ import annotations

import re

from filestoraged.errors import StoreFailed
from filestoraged.store.postgresql import schema
from tests.store.postgresql.opened import OpenedCase

_MADE = re.compile(r"CREATE TABLE (?:IF NOT EXISTS )?(\w+)")


class VersionTest(OpenedCase):
    def test_database_of_0_2_0_gets_the_new_tables_and_keeps_its_rows(self) -> None:
        self.connector().connect().close()
        made = _MADE.findall("\n".join(schema._UPGRADES[2]))
        self.query(f"DROP TABLE {', '.join(made)}")
        self.query("UPDATE version SET version = 2")
        self.query("INSERT INTO pairs VALUES (sha256('a'), 'a', 'b')")

        self.connector().connect().close()

        self.assertEqual([(schema._VERSION,)], self.query("SELECT version FROM version"))
        for table in made:
            self.query(f"SELECT * FROM {table}")
        self.assertEqual(1, len(self.query("SELECT * FROM pairs")))

    def test_tables_that_no_release_has_made_are_refused_and_stay(self) -> None:
        self.connector().connect().close()
        self.query("UPDATE version SET version = 1")

        with self.assertRaisesRegex(StoreFailed, "version 1, which is older"):
            self.connector().connect()

        self.assertEqual([(1,)], self.query("SELECT version FROM version"))
