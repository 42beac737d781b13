"""The progress of a command: a bar where standard error is a terminal, and the words for sizes, rates and times."""

from __future__ import annotations

import os
from typing import TextIO

from filestoraged.check.findings import CheckTotals
from filestoraged.clock import SYSTEM_CLOCK, Clock

# Seconds between two updates of the bar of a check, between two lines, and between two updates of that of a transfer.
_BAR_INTERVAL = 0.2
_LINE_INTERVAL = 60.0
_TRANSFER_INTERVAL = 0.1

# Seconds until a rate is meaningful, and shown.
_RATE_DELAY = 0.5

_BAR_WIDTH = 16

# Characters of a file's name in front of the bar of a transfer.
_NAME_WIDTH = 30


class TerminalLine:
    """The last line of a terminal, drawn again and again, and removed before other output. One thread uses it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._is_drawn = False

    def draw(self, text: str) -> None:
        # One column less than the width: some terminals begin a new line after the last one.
        self._write(f"\r\x1b[K{text[: self._width() - 1]}")
        self._is_drawn = True

    def clear(self) -> None:
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


class Progress:
    """Of a check: a bar where the stream is a terminal, else a line a minute. One thread uses it."""

    def __init__(self, stream: TextIO, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._stream = stream
        self._clock = clock
        self._line = TerminalLine(stream) if stream.isatty() else None
        self._started = self._shown = clock.now()

    @property
    def seconds(self) -> float:
        return self._clock.now() - self._started

    def show(self, totals: CheckTotals) -> None:
        """Update the bar, or print a line, if that is due."""
        interval = _LINE_INTERVAL if self._line is None else _BAR_INTERVAL
        if self._clock.now() - self._shown < interval:
            return
        self._shown = self._clock.now()
        text = _check_text(totals, self.seconds)
        if self._line is None:
            self._stream.write(f"filestoraged: {text}\n")
            self._stream.flush()
            return
        done = _done(totals)
        self._line.draw(("" if done is None else bar_text(done) + " ") + text)

    def clear(self) -> None:
        """Remove the bar before other output."""
        if self._line is not None:
            self._line.clear()


class TransferBar:
    """Of one transfer after the other, on a terminal."""

    def __init__(self, stream: TextIO, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._line = TerminalLine(stream)
        self.clear = self._line.clear
        self._name = ""
        self._started = self._shown = 0.0
        # Bytes that an earlier run has transferred do not count for the rate.
        self._first: int | None = None

    def begin(self, name: str) -> None:
        self._name = name if len(name) <= _NAME_WIDTH else "..." + name[3 - _NAME_WIDTH :]
        self._started = self._shown = self._clock.now()
        self._first = None

    def show(self, done: int, size: int | None) -> None:
        now = self._clock.now()
        if self._first is None:
            self._first = done
        if now - self._shown < _TRANSFER_INTERVAL:
            return
        self._shown = now
        seconds = now - self._started
        rate = (done - self._first) / seconds if seconds >= _RATE_DELAY else None
        self._line.draw(f"{self._name} {_transfer_text(done, size, rate)}")


def bar_text(done: float) -> str:
    """Draw the part that is done, from 0 to 1."""
    filled = int(done * _BAR_WIDTH)
    return f"[{'#' * filled}{'.' * (_BAR_WIDTH - filled)}]"


def size_text(size: float) -> str:
    """Return a size such as `1.5 GiB`."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def time_text(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _check_text(totals: CheckTotals, seconds: float) -> str:
    """Return the progress, the most important part first: a terminal may be narrow."""
    parts = []
    done = _done(totals)
    if done is not None:
        parts.append(f"{100 * done:.0f} %")
    if seconds >= _RATE_DELAY:
        if done:
            parts.append(f"{time_text(seconds / done - seconds)} left")
        parts.append(f"{size_text(totals.size / seconds)}/s")
    whole_size = f" of {size_text(totals.all_size)}" if totals.all_size else ""
    all_objects = f" of {totals.all_objects}" if totals.all_objects and not totals.all_size else ""
    parts += [f"{size_text(totals.size)}{whole_size}", f"{totals.objects}{all_objects} objects"]
    return ", ".join(parts)


def _done(totals: CheckTotals) -> float | None:
    """Return the part that is done, from 0 to 1; None while the total is unknown. Objects may be added meanwhile."""
    if totals.all_size:
        return min(1.0, totals.size / totals.all_size)
    if totals.all_objects:
        return min(1.0, totals.objects / totals.all_objects)
    return None


def _transfer_text(done: int, size: int | None, rate: float | None) -> str:
    parts = []
    if size:
        parts.append(f"{bar_text(done / size)} {100 * done // size} %")
    parts.append(size_text(done) + (f" of {size_text(size)}" if size else ""))
    if rate:
        parts.append(f"{size_text(rate)}/s")
        if size:
            parts.append(f"{time_text((size - done) / rate)} left")
    return ", ".join(parts)
