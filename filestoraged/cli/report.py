"""What a check, a migration and a run of `prune` print on standard output: items as they come, and totals."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple, Protocol, TextIO, TypeVar

from filestoraged.check.findings import Finding
from filestoraged.check.throttle import CheckStopped
from filestoraged.cli.progress import Progress, size_text

_Item = TypeVar("_Item")


class ReportEntry(NamedTuple):
    """An item, or the totals: as text, without the last line break, and as a JSON object."""

    text: str
    fields: Mapping[str, Any]


class Report:
    """A line for each item, and the totals."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def add(self, entry: ReportEntry) -> None:
        self._write(entry.text + "\n")

    def end(self, totals: ReportEntry) -> None:
        self._write(totals.text + "\n")

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


class JsonReport(Report):
    """One JSON object: fields, then a list of the items, which are written as they come, and the totals last."""

    def __init__(self, stream: TextIO, items: str, fields: Mapping[str, Any] = {}) -> None:
        super().__init__(stream)
        self._separator = "\n"
        # The reader sees that the run has begun.
        self._write("{" + "".join(f"{json.dumps(name)}: {json.dumps(each)}, " for name, each in fields.items()))
        self._write(f"{json.dumps(items)}: [")

    def add(self, entry: ReportEntry) -> None:
        self._write(self._separator + json.dumps(entry.fields))
        self._separator = ",\n"

    def end(self, totals: ReportEntry) -> None:
        comma = ", " if totals.fields else ""
        self._write(f"\n]{comma}{json.dumps(totals.fields)[1:]}\n")


class Summary(Protocol):
    """Makes the totals of a run, which is complete or was stopped."""

    def __call__(self, *, complete: bool) -> ReportEntry: ...


def report_all(
    report: Report,
    items: Iterable[_Item],
    describe: Callable[[_Item], ReportEntry],
    summarize: Summary,
    progress: Progress | None = None,
) -> bool:
    """Report the items as they come, and the totals, whatever happens. Returns False where a signal stopped the run."""
    complete = False
    try:
        for item in items:
            if progress is not None:
                progress.clear()
            report.add(describe(item))
        complete = True
    except CheckStopped:
        # By a signal.
        pass
    finally:
        if progress is not None:
            progress.clear()
        report.end(summarize(complete=complete))
    return complete


def finding_text(finding: Finding) -> str:
    remedy = f"; {finding.remedy}" if finding.remedy else ""
    return f"{finding.kind:<11}{_printable(finding.path)}: {finding.reason}{remedy}"


def found_text(found: Mapping[str, int], kinds: Collection[str]) -> str:
    """Return the number of findings of each kind; "" without any."""
    return ", ".join(f"{found[kind]} {kind}" for kind in kinds if found.get(kind))


def speed_text(size: int, seconds: float) -> str:
    return f"{size_text(size)} in {seconds:.1f} s, {size_text(rate_of(size, seconds))}/s"


def speed_fields(size: int, seconds: float) -> Mapping[str, Any]:
    return {"bytes": size, "seconds": round(seconds, 3), "bytes_per_second": round(rate_of(size, seconds))}


def rate_of(size: int, seconds: float) -> float:
    return size / max(seconds, 0.001)


def _printable(path: str) -> str:
    """Escape foreign names, which may have control characters for a terminal."""
    return path if path.isprintable() else ascii(path)
