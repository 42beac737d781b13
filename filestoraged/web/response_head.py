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


def encode_head(response: Response, connection: str) -> bytes:
    """`connection` is a whole field line, or nothing."""
    status = response.status
    date = f"Date: {format_date(int(time.time()))}\r\n"
    length = "" if status in _BODILESS else f"Content-Length: {response.size}\r\n"
    return f"{_STATUS_LINES[status]}{date}{response.fields}{length}{connection}\r\n".encode("latin-1")
