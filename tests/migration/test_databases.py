"""The fingerprint of copied rows: a later version of the program must know what an earlier one has copied."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from filestoraged.migration.databases import fingerprint_of
from filestoraged.store.drop_tables import DROP_ROWS, DROP_TABLE
from filestoraged.store.locks import LOCK_ROWS
from filestoraged.store.rows import EmptyReader, Row, Table
from tests.support import TempCase

DROP = ("ab" * 16, 1, 1.5, 1.25, None, "té.txt", b"kept", 0)


class FixedReader(EmptyReader):
    """Has the same rows in each table."""

    def __init__(self, *found: Row) -> None:
        self._found = found

    def rows(self, table: Table) -> Iterator[Row]:
        return iter(self._found)


class FingerprintTest(TempCase):
    def test_fingerprint_of_drops_is_that_of_version_0_2_0(self) -> None:
        from_sqlite = f"drops{DROP!r}"
        from_postgresql = (
            f"dropsDropRow(id='{'ab' * 16}', state=1, changed=1.5, created=1.25, owner=None, name='té.txt',"
            " password=b'kept', breaks=0)"
        )

        self.assertEqual(sha256(from_sqlite), fingerprint_of(FixedReader(DROP), DROP_ROWS))
        row = DROP_TABLE.decode(tuple(DROP_TABLE.encode(DROP)))
        self.assertEqual(sha256(from_postgresql), fingerprint_of(FixedReader(row), DROP_ROWS))

    def test_fingerprint_of_locks_has_the_last_id(self) -> None:
        self.assertEqual(sha256("locks(7,)lock_ids(7,)"), fingerprint_of(FixedReader((7,)), LOCK_ROWS))


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
