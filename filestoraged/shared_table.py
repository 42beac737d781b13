"""A table of numbers in memory that a process shares with those that it forks.

Make it before the fork. Each process writes to rows of its own, so no lock between processes is needed, which a stopped
process could hold. Any process reads any row; it may see that one number of a row has changed, and another not yet.
"""

from __future__ import annotations

import mmap

_CELL_SIZE = 8


class SharedTable:
    """Numbers of 64 bits, with a sign. All are 0 at first: memory pages that are never written take no memory."""

    def __init__(self, rows: int, columns: int) -> None:
        self.rows = rows
        self._columns = columns
        self._cells = memoryview(mmap.mmap(-1, _CELL_SIZE * rows * columns)).cast("q")

    def row(self, number: int) -> memoryview:
        """The cells of a row, to read and to write."""
        return self._cells[number * self._columns : (number + 1) * self._columns]

    def column(self, number: int) -> memoryview:
        """One cell of each row."""
        return self._cells[number :: self._columns]


def clear(cells: memoryview) -> None:
    """Set all to 0: a process that died may have left other numbers."""
    cells[:] = memoryview(bytes(_CELL_SIZE * len(cells))).cast("q")
