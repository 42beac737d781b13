"""Counts of what an S3 store was asked, in memory that the workers share.

Each process writes to a row of its own, which it holds by a lock that dies with it; the next process in the row counts
on from there. No lock is waited for.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping

from filestoraged.file_lock import try_lock_as_process
from filestoraged.shared_table import SharedTable

# What has become of an attempt: it was answered, it is made again, or the request failed with it.
RESULTS = ("answered", "repeated", "failed")

# Workers of two configurations, while one replaces the other. A process without a row is not counted.
_ROWS = 2048


class Traffic:
    """Any thread calls it. The lock guards the cells of the process's own row."""

    def __init__(self) -> None:
        self._table = SharedTable(_ROWS, len(RESULTS))
        # For the locks alone: one byte for each row.
        self._file = os.memfd_create("s3-traffic", os.MFD_CLOEXEC)
        self._lock = threading.Lock()
        self._owner = 0
        self._row: int | None = None

    def count(self, result: str) -> None:
        """Count an attempt, by one of RESULTS."""
        with self._lock:
            if self._owner != os.getpid():
                self._owner, self._row = os.getpid(), self._take_row()
            if self._row is not None:
                self._table.row(self._row)[RESULTS.index(result)] += 1

    def totals(self) -> Mapping[str, int]:
        """The counts of all processes."""
        return {result: sum(self._table.column(place)) for place, result in enumerate(RESULTS)}

    def __del__(self) -> None:
        os.close(self._file)

    def _take_row(self) -> int | None:
        return next((row for row in range(_ROWS) if try_lock_as_process(self._file, row)), None)
