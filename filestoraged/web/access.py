"""The access log: one line a request, by the standard `logging`."""

from __future__ import annotations

import logging
from typing import List, Optional

from filestoraged.web.message import Request

access = logging.getLogger("filestoraged.access")


class AccessLog:
    """Gathers the lines of one round of the server's loop, and logs them as one record: that is a write a round.

    A thread of the pool logs its lines by itself.
    """

    def __init__(self) -> None:
        self._lines: List[str] = []

    def note(self, address: str, asked: Optional[Request], status: int, sent: int, seconds: float) -> None:
        """Keep a line for the end of the round."""
        if access.isEnabledFor(logging.INFO):
            self._lines.append(_line(address, asked, status, sent, seconds))

    def write(self, address: str, asked: Optional[Request], status: int, sent: int, seconds: float) -> None:
        """Log a line now."""
        if access.isEnabledFor(logging.INFO):
            access.info("%s", _line(address, asked, status, sent, seconds))

    def flush(self) -> None:
        """Log what was noted. By the server's loop, at the end of a round."""
        if self._lines:
            lines, self._lines = self._lines, []
            access.info("%s", "\n".join(lines))


def _line(address: str, asked: Optional[Request], status: int, sent: int, seconds: float) -> str:
    method, target = (asked.method, asked.loggable) if asked else ("-", "-")
    return f"{address} {method} {target} {status} {sent} {seconds:.6f}"
