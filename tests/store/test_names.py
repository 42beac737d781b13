"""Names in SQLite."""

from __future__ import annotations

from filestoraged.store.name_tables import NAMES_SCHEMA
from filestoraged.store.names import Names
from filestoraged.store.sqlite import database
from filestoraged.store.sqlite.group_commit import TransactionQueue
from tests.store import names_contract


class NamesTest(names_contract.NamesContract):
    def setUp(self) -> None:
        super().setUp()
        self.path = str(self.directory / "names.sqlite")
        database.prepare(self.path, NAMES_SCHEMA)
        self.names = self.open_names()

    def open_names(self) -> Names:
        names = Names(TransactionQueue(self.path, NAMES_SCHEMA, clock=self.clock), self.clock)
        self.addCleanup(names.close)
        return names

    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)

    def test_names_are_kept_when_the_database_is_opened_again(self) -> None:
        self.put("a")
        kept = self.names.get("s", "a")
        self.names.close()
        database.prepare(self.path, NAMES_SCHEMA)

        self.assertEqual(kept, self.open_names().get("s", "a"))

    def test_nothing_expires_for_an_hour_after_a_jump_of_the_clock(self) -> None:
        self.put("a", ttl=60)
        collector = self.collector()
        collector.expire()
        self.clock.set_date(self.clock.date() + 7200)

        self.assertEqual(0, collector.expire())
        self.assertEqual("a", self.names.get("s", "a").name)
        self.clock.advance(3601)
        self.assertEqual(1, collector.expire())
