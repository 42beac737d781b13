"""Statements that write or look up many rows at once.

Between two calls of SQLite, Python's module gives other threads the interpreter, and waits to get it back. So one call
has many rows, and not one each. The numbers of rows are powers of two, so that few statements are prepared.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence

# The rows of one statement. A prepared statement takes some 150 bytes for each.
_MAX_ROWS = 64


def insert_pairs(connection: sqlite3.Connection, statement: str, values: Sequence[object]) -> None:
    """Execute an INSERT of rows of two values each. `values` are those of all rows; `{}` stands for the rows."""
    start, left = 0, len(values) // 2
    while left:
        count = min(1 << (left.bit_length() - 1), _MAX_ROWS)
        rows = ", ".join(["(?, ?)"] * count)
        connection.execute(statement.format(rows), values[2 * start : 2 * (start + count)])
        start += count
        left -= count


def execute_with_keys(connection: sqlite3.Connection, statement: str, keys: Collection[bytes]) -> sqlite3.Cursor:
    """Execute a statement for a set of keys, at least one; `{}` stands for the list."""
    values = list(keys)
    count = 1 << (len(values) - 1).bit_length()
    values += values[:1] * (count - len(values))
    return connection.execute(statement.format(", ".join("?" * count)), values)
