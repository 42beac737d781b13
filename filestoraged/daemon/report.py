"""What a check says on standard output: lines for people, or one JSON document. Findings go out as they come."""

from __future__ import annotations

import json
from typing import Any, NamedTuple, Protocol, TextIO

from filestoraged.check.findings import KINDS, Finding
from filestoraged.daemon.progress import size_text


class ReportTotals(NamedTuple):
    """`size` is in bytes. `complete` is whether the check came to its end."""

    objects: int
    size: int
    seconds: float
    found: dict[str, int]
    complete: bool


class Report(Protocol):
    def add(self, finding: Finding) -> None: ...

    def end(self, totals: ReportTotals) -> None: ...


class TextReport:
    """A line for each finding, and one for all."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def add(self, finding: Finding) -> None:
        remedy = f"; {finding.remedy}" if finding.remedy else ""
        self._stream.write(f"{finding.kind:<11}{_printable(finding.path)}: {finding.reason}{remedy}\n")
        self._stream.flush()

    def end(self, totals: ReportTotals) -> None:
        found = ", ".join(f"{totals.found[kind]} {kind}" for kind in KINDS if totals.found.get(kind))
        rate = size_text(totals.size / max(totals.seconds, 0.001))
        self._stream.write(
            f"{'checked' if totals.complete else 'broken off:'} {totals.objects} objects, {size_text(totals.size)} in"
            f" {totals.seconds:.1f} s, {rate}/s; {found or 'nothing'} found\n"
        )
        self._stream.flush()


class JsonReport:
    """One object, whose `findings` are written before it is known how many there will be."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._separator = "\n"
        stream.write('{"findings": [')
        # Whoever reads it knows that it has begun.
        stream.flush()

    def add(self, finding: Finding) -> None:
        fields: dict[str, Any] = {**finding._asdict(), "repaired": finding.remedy is not None}
        self._stream.write(self._separator + json.dumps(fields))
        self._separator = ",\n"

    def end(self, totals: ReportTotals) -> None:
        rest = {
            "objects": totals.objects,
            "bytes": totals.size,
            "seconds": round(totals.seconds, 3),
            "bytes_per_second": round(totals.size / max(totals.seconds, 0.001)),
            "found": {kind: totals.found.get(kind, 0) for kind in KINDS},
            "complete": totals.complete,
        }
        self._stream.write(f"\n], {json.dumps(rest)[1:]}\n")
        self._stream.flush()


def _printable(path: str) -> str:
    """Names that are not ours may hold anything, and must not give orders to a terminal."""
    return path if path.isprintable() else ascii(path)
