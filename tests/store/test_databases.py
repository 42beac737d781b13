"""Databases in the directory of a store, and who shares them."""

from __future__ import annotations

from filestoraged.store.databases import open_databases
from filestoraged.store.locks import LOCKS_SCHEMA
from filestoraged.store.name_tables import NAMES_SCHEMA
from filestoraged.store.path_identity import PathIdentities
from filestoraged.store.sqlite import database
from filestoraged.store.transactions import Transactions, Users
from tests.support import TempCase, in_threads


class SharedTransactionsTest(TempCase):
    def setUp(self) -> None:
        super().setUp()
        database.prepare(str(self.directory / "names.sqlite"), NAMES_SCHEMA)
        database.prepare(str(self.directory / "locks.sqlite"), LOCKS_SCHEMA)
        identities = PathIdentities()
        self.databases = open_databases(None, identities.of_root(str(self.directory)), identities)

    def open(self) -> Transactions:
        transactions = self.databases.open_transactions("names.sqlite", NAMES_SCHEMA)
        self.addCleanup(transactions.close)
        return transactions

    def test_users_of_a_file_share_its_writer(self) -> None:
        first, second = self.open(), self.open()
        other = self.databases.open_transactions("locks.sqlite", LOCKS_SCHEMA)
        self.addCleanup(other.close)

        self.assertIs(first, second)
        self.assertIsNot(first, other)

    def test_database_stays_open_until_its_last_user_closes_it(self) -> None:
        first, second = self.open(), self.open()

        first.close()
        second.probe()
        third = self.open()

        self.assertIs(second, third)

    def test_closed_database_is_opened_again(self) -> None:
        first, second = self.open(), self.open()
        first.close()
        second.close()

        third = self.open()
        third.probe()

        self.assertIsNot(second, third)


class UsersTest(TempCase):
    def test_one_of_simultaneous_leavers_is_the_last(self) -> None:
        users = Users()
        added = [users.add() for _ in range(9)]

        left = in_threads(10, lambda _: users.remove())

        self.assertEqual([True] * 9, added)
        self.assertEqual(1, sum(left))
        self.assertFalse(users.add())
