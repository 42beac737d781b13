"""The accounts of areas in PostgreSQL."""

from __future__ import annotations

from filestoraged.store.transactions import Transactions
from tests.store import areas_contract
from tests.store.postgresql.opened import OpenedCase


class PostgresAreasTest(OpenedCase, areas_contract.AreasContract):
    def setUp(self) -> None:
        super().setUp()
        self.transactions = self.open()

    def open(self) -> Transactions:
        return self.open_transactions()
