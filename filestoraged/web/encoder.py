"""The head of an answer, as bytes."""

from __future__ import annotations

import time

from filestoraged.web.message import REASONS, Response
from filestoraged.wire.dates import format_date

_STATUS_LINES = {
    status: f"HTTP/1.1 {status} {reason}\r\nServer: filestoraged\r\n" for status, reason in REASONS.items()
}

# These have no body, and so no length (RFC 9110, section 8.6).
_BODILESS = (204, 304)

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Encoder:
    """Writes heads, and makes the text of a second's Date once in it.

    Many threads call it. Two that find the second over make the same text.
    """

    def __init__(self) -> None:
        self._date = (0, "")

    def head(self, response: Response, connection: str) -> bytes:
        """`connection` is a whole field line, or nothing."""
        status = response.status
        length = "" if status in _BODILESS else f"Content-Length: {response.size}\r\n"
        head = f"{_STATUS_LINES[status]}{self._date_line()}{response.fields}{length}{connection}\r\n"
        return head.encode("latin-1")

    def _date_line(self) -> str:
        now = int(time.time())
        second, line = self._date
        if second != now:
            line = f"Date: {format_date(now)}\r\n"
            self._date = (now, line)
        return line
