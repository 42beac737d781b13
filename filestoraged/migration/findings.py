"""What a migration finds besides what a check does, and its progress. Findings are those of `check.findings`."""

from __future__ import annotations

from filestoraged.check.findings import DAMAGED, FOREIGN, MISSING, UNREADABLE, CheckTotals

# The target does not accept objects of that size.
TOO_LARGE = "too large"
# At both sides, and not the same.
DIFFERENT = "different"
# At the target alone.
EXTRA = "extra"

MIGRATION_KINDS = (DAMAGED, UNREADABLE, FOREIGN, TOO_LARGE, MISSING, DIFFERENT, EXTRA)


class MigrationTotals(CheckTotals):
    """The progress of a migration. `objects` and `size` include what the target had before.

    Many threads add to it, any thread reads it; the lock guards each sum.
    """

    def __init__(self) -> None:
        super().__init__()
        self.copied = 0
        # In bytes.
        self.copied_size = 0
        self.existing = 0
        # Objects at the target alone, and those of them that were removed.
        self.extra = self.removed = 0
        # Rows that were copied or compared, by what they are.
        self.keys = self.drops = self.locks = self.names = 0
        # Drops that were being uploaded or fetched, or were uploaded after the last pass over their bytes.
        self.skipped_drops = 0

    def add_copied(self, size: int) -> None:
        with self._lock:
            self.copied += 1
            self.copied_size += size
            self.objects += 1

    def add_existing(self, size: int) -> None:
        with self._lock:
            self.existing += 1
            self.objects += 1
            self.size += size

    def add_extra(self, removed: int) -> None:
        """Count an object at the target alone, and whether it was removed: 0 or 1."""
        with self._lock:
            self.extra += 1
            self.removed += removed
