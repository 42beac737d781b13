"""Names in PostgreSQL."""

from __future__ import annotations

import contextlib

from filestoraged.store.names import Names
from tests.store import names_contract
from tests.store.postgresql.opened import OpenedCase


class PostgresNamesTest(OpenedCase, names_contract.NamesContract):
    def setUp(self) -> None:
        super().setUp()
        self.names = self.open_names()

    def open_names(self) -> Names:
        return Names(self.open_transactions(), self.clock)

    def pass_time(self, seconds: float) -> None:
        """Make all times in the database that much older."""
        with contextlib.closing(self.server.connect(self.database)) as connection:
            connection.execute("UPDATE filestoraged.stored SET since = since - %s", (seconds,))
            connection.execute("UPDATE filestoraged.collections SET scanned = scanned - %s", (seconds,))
            connection.execute("UPDATE filestoraged.names SET expires = expires - %s", (seconds,))
