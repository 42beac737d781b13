"""The access log: one line a request, by the standard `logging`."""

from __future__ import annotations

import logging
import threading

from filestoraged.web.request import Request

access = logging.getLogger("filestoraged.access")


class AccessLog:
    """Gathers lines, and logs those of one round as one record: one write, and one wait for the log's lock.

    Any thread adds a line, and flushes. While one writes, the others continue, and it writes their lines as well.
    """

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._writing = threading.Lock()

    def add(self, client: str, request: Request | None, status: int, sent: int, seconds: float) -> None:
        """Add a line, which the next flush logs."""
        if access.isEnabledFor(logging.INFO):
            method, target = (request.method, request.loggable) if request else ("-", "-")
            self._lines.append(f"{client} {method} {target} {status} {sent} {seconds:.6f}")

    def flush(self) -> None:
        """Log the lines, unless another thread does."""
        while self._lines and self._writing.acquire(blocking=False):
            try:
                count = len(self._lines)
                lines = self._lines[:count]
                # Others append meanwhile, always behind these.
                del self._lines[:count]
                access.info("%s", "\n".join(lines))
            finally:
                self._writing.release()
