"""What a migration prints: the findings of `check_output`, and totals of its own."""

from __future__ import annotations

from typing import NamedTuple, Protocol, TextIO

from filestoraged.check.findings import Finding
from filestoraged.cli.check_output import JsonFindings, TextReport, size_text
from filestoraged.migration.findings import MIGRATION_KINDS, MigrationTotals


class Summary(NamedTuple):
    """`complete` is False where the run was stopped. With `is_comparison`, nothing was to be copied."""

    totals: MigrationTotals
    seconds: float
    found: dict[str, int]
    complete: bool
    is_comparison: bool

    @property
    def size(self) -> int:
        """Bytes that were read in that time."""
        return self.totals.size if self.is_comparison else self.totals.copied_size


class MigrationReport(Protocol):
    def add(self, finding: Finding) -> None: ...

    def end(self, summary: Summary) -> None: ...


class MigrationText:
    """A line for each finding, and two with the totals."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._findings = TextReport(stream)
        self.add = self._findings.add

    def end(self, summary: Summary) -> None:
        self._stream.write(f"{_objects_text(summary)}\n{_rows_text(summary)}\n")
        self._stream.flush()


class MigrationJson:
    def __init__(self, stream: TextIO) -> None:
        self._findings = JsonFindings(stream)

    def add(self, finding: Finding) -> None:
        self._findings.add({"kind": finding.kind, "path": finding.path, "reason": finding.reason})

    def end(self, summary: Summary) -> None:
        totals = summary.totals
        rest = {
            "objects": totals.objects,
            "copied": totals.copied,
            "existing": totals.existing,
            "extra": totals.extra,
            "removed": totals.removed,
            "bytes": summary.size,
            "seconds": round(summary.seconds, 3),
            "bytes_per_second": round(summary.size / max(summary.seconds, 0.001)),
            "keys": totals.keys,
            "drops": totals.drops,
            "skipped_drops": totals.skipped_drops,
            "locks": totals.locks,
            "found": {kind: summary.found.get(kind, 0) for kind in MIGRATION_KINDS},
            "complete": summary.complete,
        }
        self._findings.end(rest)


def _objects_text(summary: Summary) -> str:
    totals = summary.totals
    verb = "compared" if summary.is_comparison else "copied"
    number = totals.objects if summary.is_comparison else totals.copied
    parts = [] if summary.is_comparison else [f"{totals.existing} were there already"]
    if totals.extra and not summary.is_comparison:
        left = totals.extra - totals.removed
        parts += [f"{left} only at the target, which --delete removes"] if left else []
        parts += [f"{totals.removed} removed from the target"] if totals.removed else []
    found = [f"{summary.found[kind]} {kind}" for kind in MIGRATION_KINDS if summary.found.get(kind)]
    rate = size_text(summary.size / max(summary.seconds, 0.001))
    return (
        f"{'' if summary.complete else 'stopped: '}{verb} {number} objects, {size_text(summary.size)} in"
        f" {summary.seconds:.1f} s, {rate}/s; {'; '.join([*parts, ', '.join(found) or 'nothing found'])}"
    )


def _rows_text(summary: Summary) -> str:
    totals = summary.totals
    verb = "equal" if summary.is_comparison else "copied"
    text = f"{verb} {totals.keys} keys, {totals.drops} drops, {totals.locks} locks"
    if totals.skipped_drops:
        text += f"; skipped {totals.skipped_drops} drops in use or new: run this again when the old daemon has stopped"
    return text
