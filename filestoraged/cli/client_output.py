"""What the commands of clients print: results on standard output, progress and failures on standard error."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from typing import Any

from filestoraged.cli.check_output import size_text
from filestoraged.client.sources import Progress
from filestoraged.errors import Error, printable

# Seconds between two updates of the bar, and until a rate is meaningful.
_INTERVAL = 0.1
_RATE_DELAY = 0.5

_BAR_WIDTH = 16

# Characters of a file's name in front of the bar.
_NAME_WIDTH = 30

# As sha256sum writes a name that would break its line.
_ESCAPES = {"\\": "\\\\", "\n": "\\n", "\r": "\\r"}


class OutputFailed(Exception):
    """Standard output cannot be written: not a failure of the one item, but of the command."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


class ClientOutput:
    """One thread uses it."""

    def __init__(self, *, json: bool, quiet: bool = False) -> None:
        self._is_json = json
        self.is_quiet = quiet
        self._bar = TransferBar() if not quiet and sys.stderr is not None and sys.stderr.isatty() else None

    def progress(self, name: str) -> Progress | None:
        """Return the function that shows the progress of a transfer; None without a terminal, or with --quiet."""
        if self._bar is None:
            return None
        self._bar.begin(printable(name))
        return self._bar.show

    def add(self, text: str, fields: Mapping[str, Any]) -> None:
        """Print a result, as a line of text or as a JSON object. An empty text prints nothing."""
        line = json.dumps(fields) if self._is_json else text
        self._clear()
        if line:
            self.write(os.fsencode(line + "\n"))
            self.flush()

    def write(self, data: bytes) -> None:
        try:
            sys.stdout.buffer.write(data)
        except OSError as error:
            raise OutputFailed(error) from error

    def flush(self) -> None:
        try:
            sys.stdout.flush()
        except OSError as error:
            raise OutputFailed(error) from error

    def report_failure(self, name: str, error: Error | OSError) -> None:
        """Say on standard error what failed, and with --json on standard output as well."""
        message = error.strerror or str(error) if isinstance(error, OSError) else str(error)
        self._clear()
        sys.stderr.write(f"filestoraged: {printable(name)}: {printable(message)}\n")
        if self._is_json:
            self.add("", {"name": name, "error": type(error).__name__, "message": message})

    def note_retry(self, error: Error, seconds: float) -> None:
        if not self.is_quiet:
            self._clear()
            sys.stderr.write(f"filestoraged: {printable(str(error))}; retrying in {seconds:.1f} s\n")

    def _clear(self) -> None:
        if self._bar is not None:
            self._bar.clear()


class TransferBar:
    """The progress of one transfer after the other, on a terminal."""

    def __init__(self) -> None:
        self._name = ""
        self._started = self._shown = 0.0
        # Bytes that an earlier run has transferred do not count for the rate.
        self._first: int | None = None
        self._is_drawn = False

    def begin(self, name: str) -> None:
        self._name = name if len(name) <= _NAME_WIDTH else "..." + name[3 - _NAME_WIDTH :]
        self._started = self._shown = time.monotonic()
        self._first = None

    def show(self, done: int, size: int | None) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first = done
        if now - self._shown < _INTERVAL:
            return
        self._shown = now
        seconds = now - self._started
        rate = (done - self._first) / seconds if seconds >= _RATE_DELAY else None
        # One column less than the width: some terminals begin a new line after the last one.
        text = f"{self._name} {_described(done, size, rate)}"[: _width() - 1]
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()
        self._is_drawn = True

    def clear(self) -> None:
        if self._is_drawn:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._is_drawn = False


def named_line(digest: str, name: str) -> str:
    """Return a line as sha256sum writes it, so that `sha256sum -c` reads it: a name may have line breaks."""
    escaped = "".join(_ESCAPES.get(each, each) for each in name)
    return f"{'' if escaped == name else chr(92)}{digest}  {escaped}"


def _described(done: int, size: int | None, rate: float | None) -> str:
    parts = []
    if size:
        filled = done * _BAR_WIDTH // size
        parts.append(f"[{'#' * filled}{'.' * (_BAR_WIDTH - filled)}] {100 * done // size} %")
    parts.append(size_text(done) + (f" of {size_text(size)}" if size else ""))
    if rate:
        parts.append(f"{size_text(rate)}/s")
        if size:
            parts.append(f"{_time_text((size - done) / rate)} left")
    return ", ".join(parts)


def _time_text(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _width() -> int:
    try:
        # A terminal that does not know its width says 0.
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except OSError:
        return 80
