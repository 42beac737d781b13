"""The accounts of areas in SQLite."""

from __future__ import annotations

from filestoraged.store.name_tables import NAMES_SCHEMA
from filestoraged.store.sqlite import database
from filestoraged.store.sqlite.group_commit import TransactionQueue
from filestoraged.store.transactions import Transactions
from tests.clock import PATIENT_CLOCK
from tests.store import areas_contract


class AreasTest(areas_contract.AreasContract):
    def setUp(self) -> None:
        super().setUp()
        self.path = str(self.directory / "names.sqlite")
        database.prepare(self.path, NAMES_SCHEMA)
        self.transactions = self.open()

    def open(self) -> Transactions:
        queue = TransactionQueue(self.path, NAMES_SCHEMA, clock=PATIENT_CLOCK)
        self.addCleanup(queue.close)
        return queue
