"""A response whose size is not known before its last byte: made while it is sent, and sent in chunks.

A client tells a response that broke off from a whole one: its last chunk is missing (RFC 9112, section 8). With
HTTP/1.0 the connection ends with it, and what is sent must show its own end, as JSON does.
"""

from __future__ import annotations

from collections.abc import Generator

from filestoraged.digest import Bytes
from filestoraged.web.request import Request
from filestoraged.web.response import UNKNOWN_STOP, ContentSink, Fields, Response, field_lines

_LAST_CHUNK = b"0\r\n\r\n"


def streamed(request: Request, status: int, fields: Fields, pieces: Generator[Bytes, None, None]) -> Response:
    """Respond with `pieces`, one of which is in memory at a time. What the first one raises is raised."""
    is_chunked = request.speaks_1_1
    content = _StreamedContent(pieces, is_chunked=is_chunked)
    framing = field_lines(("Transfer-Encoding", "chunked")) if is_chunked else ""
    response = Response(status, fields + framing, content=content, stop=UNKNOWN_STOP)
    response.closes = not is_chunked
    return response


class _StreamedContent:
    """A `web.message.Content`. One thread at a time calls it."""

    # A piece may be read from a disk or from another machine.
    may_wait = True

    def __init__(self, pieces: Generator[Bytes, None, None], *, is_chunked: bool) -> None:
        self._pieces = pieces
        self._is_chunked = is_chunked
        self._is_complete = False
        self._unsent = memoryview(b"")
        self._refill()

    def send(self, sink: ContentSink, start: int, stop: int) -> int:
        """Send from one piece at most, so that others get the thread."""
        if not self._unsent:
            self._refill()
        taken = sink.write(self._unsent)
        self._unsent = self._unsent[taken:]
        return stop if self._is_complete and not self._unsent else start + taken

    def close(self) -> None:
        self._unsent = memoryview(b"")
        self._pieces.close()

    def _refill(self) -> None:
        # An empty chunk would be the last one.
        piece = next(filter(len, self._pieces), None)
        self._is_complete = piece is None
        if piece is None:
            self._unsent = memoryview(_LAST_CHUNK if self._is_chunked else b"")
        elif self._is_chunked:
            self._unsent = memoryview(b"".join((b"%x\r\n" % len(piece), piece, b"\r\n")))
        else:
            self._unsent = memoryview(piece)
