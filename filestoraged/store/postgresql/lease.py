"""A lease in the database: one process holds it at a time, until it ends, or has not renewed it for a while."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from filestoraged.store.postgresql.transactions import PostgresTransactions, lock_number
from filestoraged.store.transactions import Transaction

# Seconds after which another process takes over from one that is stopped. One that has ended is noticed at once.
_LEASE_TIME = 60.0


class JanitorLease:
    """The row of the table `janitor`. It is held by the session of the process's writes. One thread calls it."""

    def __init__(self, transactions: PostgresTransactions) -> None:
        self._transactions = transactions

    @contextlib.contextmanager
    def hold(self) -> Iterator[bool]:
        """Hold the lease for the block, unless another process does. Returns whether this one does. Raises an Error."""
        is_held = self._transactions.write(self._acquire).result()
        yield is_held
        # Not given back: the next round of this process renews it, and with its end it is free.

    def renew(self) -> None:
        self._transactions.write(self._acquire)

    def _acquire(self, transaction: Transaction) -> bool:
        ((holder, is_over),) = transaction.execute("SELECT holder, until <= epoch() FROM janitor")
        own = self._transactions.token
        if holder is not None and holder != own and not is_over and not _is_free(transaction, holder):
            return False
        # The condition decides between two transactions that have read the same.
        statement = "UPDATE janitor SET holder = ?, until = epoch() + ? WHERE holder IS ?"
        return transaction.execute(statement, (own, _LEASE_TIME, holder)).rowcount == 1


def _is_free(transaction: Transaction, holder: str) -> bool:
    ((is_free,),) = transaction.execute("SELECT pg_try_advisory_xact_lock(?)", (lock_number(holder),))
    return bool(is_free)
