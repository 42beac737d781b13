"""What a check prints: its findings and totals on standard output, its progress on standard error."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TextIO

from filestoraged.check.findings import FINDING_KINDS, CheckTotals, Finding

# Seconds between two looks of the bar, and between two lines.
_BAR_PAUSE = 0.2
_LINE_PAUSE = 60.0

# A rate is told once it means something, in seconds.
_SETTLED = 0.5

_BAR_WIDTH = 16


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
        found = ", ".join(f"{totals.found[kind]} {kind}" for kind in FINDING_KINDS if totals.found.get(kind))
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
            "found": {kind: totals.found.get(kind, 0) for kind in FINDING_KINDS},
            "complete": totals.complete,
        }
        self._stream.write(f"\n], {json.dumps(rest)[1:]}\n")
        self._stream.flush()


def _printable(path: str) -> str:
    """Names that are not ours may hold anything, and must not give orders to a terminal."""
    return path if path.isprintable() else ascii(path)


class Progress:
    """One thread uses it."""

    def __init__(self, stream: TextIO, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._is_terminal = stream.isatty()
        self._started = self._shown = clock()
        self._is_drawn = False

    @property
    def seconds(self) -> float:
        return self._clock() - self._started

    def show(self, tally: CheckTotals) -> None:
        """Say how far it is, if it is time to."""
        pause = _BAR_PAUSE if self._is_terminal else _LINE_PAUSE
        if self._clock() - self._shown < pause:
            return
        self._shown = self._clock()
        text = _described(tally, self.seconds)
        if not self._is_terminal:
            self._write(f"filestoraged: {text}\n")
            return
        # One column less than there are: in the last one, some terminals begin a new line.
        self._write(f"\r\x1b[K{(_bar(tally) + text)[: self._width() - 1]}")
        self._is_drawn = True

    def clear(self) -> None:
        """Make room for a line of somebody else's."""
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


def size_text(size: float) -> str:
    """Bytes for people: `1.5 GiB`."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def _described(tally: CheckTotals, seconds: float) -> str:
    """What matters most comes first: a terminal may be narrow."""
    parts = []
    done = _done(tally)
    if done is not None:
        parts.append(f"{100 * done:.0f} %")
    if seconds >= _SETTLED:
        if done:
            parts.append(f"{_time_text(seconds / done - seconds)} left")
        parts.append(f"{size_text(tally.size / seconds)}/s")
    whole_size = f" of {size_text(tally.all_size)}" if tally.all_size else ""
    all_objects = f" of {tally.all_objects}" if tally.all_objects and not tally.all_size else ""
    parts += [f"{size_text(tally.size)}{whole_size}", f"{tally.objects}{all_objects} objects"]
    return ", ".join(parts)


def _bar(tally: CheckTotals) -> str:
    done = _done(tally)
    if done is None:
        return ""
    filled = int(done * _BAR_WIDTH)
    return f"[{'#' * filled}{'.' * (_BAR_WIDTH - filled)}] "


def _done(tally: CheckTotals) -> float | None:
    """From 0 to 1; None where nobody knows yet how much there is. What came meanwhile is beyond the end."""
    if tally.all_size:
        return min(1.0, tally.size / tally.all_size)
    if tally.all_objects:
        return min(1.0, tally.objects / tally.all_objects)
    return None


def _time_text(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
