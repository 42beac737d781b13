"""The head of an answer, as bytes."""

from __future__ import annotations

import functools
import time

from filestoraged.web.message import REASONS, Response
from filestoraged.wire.dates import format_date

# These have no body, and so no length (RFC 9110, section 8.6).
_BODILESS = (204, 304)

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def encode_head(response: Response, connection: bytes) -> bytes:
    """`connection` is a whole field line, or nothing."""
    fields = response.encoded_fields
    if fields is None:
        fields = _encode(response)
    return b"".join((_beginning(response.status, int(time.time())), fields, connection, b"\r\n"))


def encode_fields(response: Response) -> None:
    """Encode the fields of a response that is sent several times."""
    response.encoded_fields = _encode(response)
    # Not twice in memory.
    response.fields = ""


def _encode(response: Response) -> bytes:
    length = "" if response.status in _BODILESS else f"Content-Length: {response.size}\r\n"
    return f"{response.fields}{length}".encode("latin-1")


# The responses of a second have some of the statuses.
@functools.lru_cache(64)
def _beginning(status: int, seconds: int) -> bytes:
    date = format_date(seconds)
    return f"HTTP/1.1 {status} {REASONS[status]}\r\nServer: filestoraged\r\nDate: {date}\r\n".encode("ascii")
