"""What a check prints: its findings and totals on standard output, its progress on standard error."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple, Protocol, TextIO

from filestoraged.check.findings import FINDING_KINDS, CheckTotals, Finding

# Seconds between two updates of the bar, and between two lines.
_BAR_INTERVAL = 0.2
_LINE_INTERVAL = 60.0

# Seconds until a rate is meaningful, and shown.
_RATE_DELAY = 0.5

_BAR_WIDTH = 16


class ReportTotals(NamedTuple):
    """`size` is in bytes. `complete` is False where the check was stopped."""

    objects: int
    size: int
    seconds: float
    found: dict[str, int]
    complete: bool


class Report(Protocol):
    def add(self, finding: Finding) -> None: ...

    def end(self, totals: ReportTotals) -> None: ...


class TextReport:
    """A line for each finding, and one with the totals."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def add(self, finding: Finding) -> None:
        remedy = f"; {finding.remedy}" if finding.remedy else ""
        self._stream.write(f"{finding.kind:<11}{_printable(finding.path)}: {finding.reason}{remedy}\n")
        self._stream.flush()

    def end(self, totals: ReportTotals) -> None:
        found = ", ".join(f"{totals.found[kind]} {kind}" for kind in FINDING_KINDS if totals.found.get(kind))
        rate = size_text(totals.size / max(totals.seconds, 0.001))
        self._stream.write(
            f"{'checked' if totals.complete else 'stopped after'} {totals.objects} objects, {size_text(totals.size)} in"
            f" {totals.seconds:.1f} s, {rate}/s; {found or 'nothing'} found\n"
        )
        self._stream.flush()


class JsonFindings:
    """One JSON object. Its `findings` are written as they come, and its totals last."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._separator = "\n"
        stream.write('{"findings": [')
        # The reader sees that the run has begun.
        stream.flush()

    def add(self, fields: Mapping[str, Any]) -> None:
        self._stream.write(self._separator + json.dumps(fields))
        self._separator = ",\n"

    def end(self, totals: Mapping[str, Any]) -> None:
        self._stream.write(f"\n], {json.dumps(totals)[1:]}\n")
        self._stream.flush()


class JsonReport:
    def __init__(self, stream: TextIO) -> None:
        self._findings = JsonFindings(stream)

    def add(self, finding: Finding) -> None:
        self._findings.add({**finding._asdict(), "repaired": finding.remedy is not None})

    def end(self, totals: ReportTotals) -> None:
        rest = {
            "objects": totals.objects,
            "bytes": totals.size,
            "seconds": round(totals.seconds, 3),
            "bytes_per_second": round(totals.size / max(totals.seconds, 0.001)),
            "found": {kind: totals.found.get(kind, 0) for kind in FINDING_KINDS},
            "complete": totals.complete,
        }
        self._findings.end(rest)


def _printable(path: str) -> str:
    """Escape foreign names, which may have control characters for a terminal."""
    return path if path.isprintable() else ascii(path)


class Progress:
    """A bar where the stream is a terminal, else a line a minute. One thread uses it."""

    def __init__(self, stream: TextIO, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._is_terminal = stream.isatty()
        self._started = self._shown = clock()
        self._is_drawn = False

    @property
    def seconds(self) -> float:
        return self._clock() - self._started

    def show(self, totals: CheckTotals) -> None:
        """Update the bar, or print a line, if that is due."""
        interval = _BAR_INTERVAL if self._is_terminal else _LINE_INTERVAL
        if self._clock() - self._shown < interval:
            return
        self._shown = self._clock()
        text = _described(totals, self.seconds)
        if not self._is_terminal:
            self._write(f"filestoraged: {text}\n")
            return
        # One column less than the width: some terminals begin a new line after the last one.
        self._write(f"\r\x1b[K{(_bar(totals) + text)[: self._width() - 1]}")
        self._is_drawn = True

    def clear(self) -> None:
        """Remove the bar before other output."""
        if self._is_drawn:
            self._write("\r\x1b[K")
            self._is_drawn = False

    def _width(self) -> int:
        try:
            # A terminal that does not know its width says 0.
            return os.get_terminal_size(self._stream.fileno()).columns or 80
        except OSError:
            return 80

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def show_findings(
    findings: Iterable[Finding | None],
    add: Callable[[Finding], None],
    progress: Progress,
    totals: CheckTotals,
    found: dict[str, int],
    *,
    ignored: Collection[str] = (),
) -> None:
    """Report the findings as they come, but those of the `ignored` kinds, and count them by kind in `found`.

    None among them only lets the progress be shown.
    """
    for finding in findings:
        progress.show(totals)
        if finding is not None and finding.kind not in ignored:
            progress.clear()
            add(finding)
            found[finding.kind] = found.get(finding.kind, 0) + 1


def size_text(size: float) -> str:
    """Return a size such as `1.5 GiB`."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def _described(totals: CheckTotals, seconds: float) -> str:
    """Return the progress, the most important part first: a terminal may be narrow."""
    parts = []
    done = _done(totals)
    if done is not None:
        parts.append(f"{100 * done:.0f} %")
    if seconds >= _RATE_DELAY:
        if done:
            parts.append(f"{_time_text(seconds / done - seconds)} left")
        parts.append(f"{size_text(totals.size / seconds)}/s")
    whole_size = f" of {size_text(totals.all_size)}" if totals.all_size else ""
    all_objects = f" of {totals.all_objects}" if totals.all_objects and not totals.all_size else ""
    parts += [f"{size_text(totals.size)}{whole_size}", f"{totals.objects}{all_objects} objects"]
    return ", ".join(parts)


def _bar(totals: CheckTotals) -> str:
    done = _done(totals)
    if done is None:
        return ""
    filled = int(done * _BAR_WIDTH)
    return f"[{'#' * filled}{'.' * (_BAR_WIDTH - filled)}] "


def _done(totals: CheckTotals) -> float | None:
    """Return the part that is done, from 0 to 1; None while the total is unknown. Objects may be added meanwhile."""
    if totals.all_size:
        return min(1.0, totals.size / totals.all_size)
    if totals.all_objects:
        return min(1.0, totals.objects / totals.all_objects)
    return None


def _time_text(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
