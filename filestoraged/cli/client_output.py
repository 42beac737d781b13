"""What the commands of clients print: results on standard output, progress and failures on standard error."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from typing import Any

from filestoraged.cli.progress import TransferBar
from filestoraged.client.sources import Progress
from filestoraged.errors import Error, printable

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
        self._bar = TransferBar(sys.stderr) if not quiet and sys.stderr is not None and sys.stderr.isatty() else None

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


def named_line(digest: str, name: str) -> str:
    """Return a line as sha256sum writes it, so that `sha256sum -c` reads it: a name may have line breaks."""
    escaped = "".join(_ESCAPES.get(each, each) for each in name)
    return f"{'' if escaped == name else chr(92)}{digest}  {escaped}"
