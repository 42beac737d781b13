"""The access log: one line a request, by the standard `logging`."""

from __future__ import annotations

import logging
import threading

from filestoraged.web.message import Request

access = logging.getLogger("filestoraged.access")


class AccessLog:
    """Gathers lines, and logs those that came together as one record: one write, and one wait for the log's lock.

    Any thread notes a line, and flushes. While one writes, the others go on, and it writes theirs as well.
    """

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._writing = threading.Lock()

    def note(self, address: str, asked: Request | None, status: int, sent: int, seconds: float) -> None:
        """Keep a line for the next flush."""
        if access.isEnabledFor(logging.INFO):
            method, target = (asked.method, asked.loggable) if asked else ("-", "-")
            self._lines.append(f"{address} {method} {target} {status} {sent} {seconds:.6f}")

    def flush(self) -> None:
        """Log what was noted, unless another thread is about to."""
        while self._lines and self._writing.acquire(blocking=False):
            try:
                count = len(self._lines)
                lines = self._lines[:count]
                # Others append meanwhile, always behind these.
                del self._lines[:count]
                access.info("%s", "\n".join(lines))
            finally:
                self._writing.release()
