"""How a body is framed: by its length, or in chunks. Bytes in, the body's bytes out, whatever the cut.

Both framings have one face: `decode` takes what has arrived and returns the pieces of the body in it, and
how many bytes it used, which is fewer than it got only when the body is over and the next request follows.
RFC 9112, sections 6 and 7.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Protocol

from filestoraged.errors import MalformedRequest, TooLarge, UnknownTransferCoding
from filestoraged.wire.grammar import FIELD_VALUE, OWS, QUOTED_STRING, TOKEN, latin
from filestoraged.wire.head import Head

# Above this a Content-Length is no size of anything; int() must not be given a megabyte of digits.
_MAX_LENGTH_DIGITS = 18

_LENGTH = re.compile(r"[0-9]+")

# A chunk's size has eight digits in practice; its extensions are unheard of. Trailers are as large as heads.
_MAX_LINE = 4 * 1024
_MAX_TRAILERS = 32 * 1024

# RFC 9112, section 7.1.1: blanks are allowed around an extension's parts and nowhere else.
_EXTENSION = rf"{OWS};{OWS}{TOKEN}(?:{OWS}={OWS}(?:{TOKEN}|{QUOTED_STRING}))?"
_CHUNK_LINE = re.compile(latin(rf"([0-9A-Fa-f]{{1,16}})(?:{_EXTENSION})*"))
_TRAILER = re.compile(latin(rf"{TOKEN}:{FIELD_VALUE}"))

_Pieces = tuple[list[memoryview], int]


class Framing(Protocol):
    # In bytes, where the head declared it.
    size: int | None

    @property
    def left(self) -> float:
        """How many bytes are still to come; infinite where nobody knows."""

    @property
    def done(self) -> bool:
        """Whether the body is over."""

    def decode(self, data: memoryview) -> _Pieces:
        """Return the body's pieces in `data`, as views of it, and how many bytes were used."""


class Sized:
    """A body of a declared length, 0 where there is none."""

    def __init__(self, size: int) -> None:
        self.size: int | None = size
        self.left: float = size

    @property
    def done(self) -> bool:
        return self.left == 0

    def decode(self, data: memoryview) -> _Pieces:
        piece = data[: int(self.left)]
        self.left -= len(piece)
        return [piece], len(piece)


class Chunked:
    """A body in chunks. Extensions and trailers are checked and dropped: nothing here has a use for them."""

    size: int | None = None
    left = math.inf

    def __init__(self) -> None:
        self.done = False
        self._line = bytearray()
        self._chunk_left = 0
        self._trailers = 0
        # What the next whole line is; None while a chunk's bytes are being read.
        self._on_line: Callable[[bytes], None] | None = self._chunk_line

    def decode(self, data: memoryview) -> _Pieces:
        pieces = []
        used = 0
        while used < len(data) and not self.done:
            if self._on_line is None:
                piece = data[used : used + self._chunk_left]
                pieces.append(piece)
                used += len(piece)
                self._chunk_left -= len(piece)
                if self._chunk_left == 0:
                    self._on_line = self._chunk_end
            else:
                used = self._gather_line(data, used, self._on_line)
        return pieces, used

    def _gather_line(self, data: memoryview, start: int, on_line: Callable[[bytes], None]) -> int:
        """Collect up to the line's end, hand the line on when it is whole, and return where the next begins."""
        window = bytes(data[start : start + _MAX_LINE])
        stop = window.find(b"\n") + 1
        self._line += window[:stop] if stop else window
        if len(self._line) > _MAX_LINE:
            raise MalformedRequest("A line between chunks is too long.")
        if on_line == self._chunk_end and not b"\r\n".startswith(self._line):
            raise MalformedRequest("A chunk is longer than its size.")
        if not stop:
            return start + len(window)
        line = bytes(self._line)
        if not line.endswith(b"\r\n"):
            raise MalformedRequest("A line between chunks ends without a carriage return.")
        self._line.clear()
        on_line(line[:-2])
        return start + stop

    def _chunk_line(self, line: bytes) -> None:
        matched = _CHUNK_LINE.fullmatch(line)
        if matched is None:
            raise MalformedRequest("A chunk's size is a hexadecimal number.")
        self._chunk_left = int(matched.group(1), 16)
        self._on_line = None if self._chunk_left else self._trailer_line

    def _chunk_end(self, _: bytes) -> None:
        # Empty: `_gather_line` looks at every byte behind a chunk, so that a wrong one is not waited on.
        self._on_line = self._chunk_line

    def _trailer_line(self, line: bytes) -> None:
        if not line:
            self.done = True
            return
        self._trailers += len(line)
        if self._trailers > _MAX_TRAILERS or not _TRAILER.fullmatch(line):
            raise MalformedRequest("The trailers are no header fields, or too many.")


# Most requests have none. It is never decoded, so all of them may share it.
NO_BODY: Framing = Sized(0)


def body_framing(head: Head) -> Framing:
    """Return how the body behind `head` is framed. RFC 9112, section 6.3.

    Raises MalformedRequest, UnknownTransferCoding or TooLarge.
    """
    length = head.fields.get("content-length")
    coding = head.fields.get("transfer-encoding")
    if coding is None:
        return NO_BODY if length is None else Sized(_parse_length(length))
    if length is not None:
        raise MalformedRequest("Content-Length and Transfer-Encoding exclude each other.")
    if head.version < (1, 1):
        raise MalformedRequest("HTTP/1.0 has no Transfer-Encoding.")
    codings = [each.strip(" \t") for each in coding.lower().split(",")]
    if "" in codings:
        # Whoever in front drops empty members reads another list than one who does not.
        raise MalformedRequest("Transfer-Encoding has an empty member.")
    if any(each != "chunked" for each in codings):
        raise UnknownTransferCoding("The only transfer coding known here is chunked.")
    if len(codings) != 1:
        raise MalformedRequest("A body is chunked once.")
    return Chunked()


def _parse_length(value: str) -> int:
    # RFC 9110, section 8.6, lets a server take "5, 5" for 5 or refuse it; who is in front may read it otherwise.
    if not _LENGTH.fullmatch(value):
        raise MalformedRequest("Content-Length is one decimal number.")
    digits = value.lstrip("0") or "0"
    if len(digits) > _MAX_LENGTH_DIGITS:
        raise TooLarge(10**_MAX_LENGTH_DIGITS)
    return int(digits)
