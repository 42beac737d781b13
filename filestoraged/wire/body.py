"""The framing of a request body: which framing the head declares, and how received bytes are decoded by it.

`body_framing` refuses a head that two parsers could read in two ways. Both framings have one interface: `decode` takes
received bytes, cut anywhere, and returns the pieces of the body in them and the number of bytes used. That number is
less than the length of the input only when the body has ended and the next request follows.
RFC 9112, sections 6 and 7.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Protocol

from filestoraged.errors import MalformedRequest, TooLarge, UnknownTransferCoding, quoted
from filestoraged.wire.grammar import FIELD_VALUE, OWS, QUOTED_STRING, TOKEN, latin
from filestoraged.wire.head import Head

# A larger Content-Length is the size of no object, and int() must not convert a megabyte of digits.
_MAX_LENGTH_DIGITS = 18
_MAX_LENGTH = 10**_MAX_LENGTH_DIGITS - 1

# Bytes. A chunk size has at most 8 digits in practice, and clients send no extensions; trailers may be as large as a
# head.
_MAX_LINE = 4 * 1024
_MAX_TRAILERS = 32 * 1024

# Shorter pieces of chunks that came together are joined: each takes as much time and memory as a long one.
_SHORT = 4 * 1024

_LENGTH = re.compile(r"[0-9]+")

# RFC 9112, section 7.1.1: white space is allowed around the parts of an extension and nowhere else.
_EXTENSION = rf"{OWS};{OWS}{TOKEN}(?:{OWS}={OWS}(?:{TOKEN}|{QUOTED_STRING}))?"
_PLAIN_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})\r\n")
_CHUNK_LINE = re.compile(latin(rf"([0-9A-Fa-f]{{1,16}})(?:{_EXTENSION})*"))
_TRAILER = re.compile(latin(rf"{TOKEN}:{FIELD_VALUE}"))

_Pieces = tuple[list[memoryview], int]


class Framing(Protocol):
    # Bytes of the body, or None where the head does not declare them.
    size: int | None

    @property
    def left(self) -> float:
        """Bytes of the body still to come; infinite where the head does not declare them."""

    @property
    def done(self) -> bool:
        """Whether the body has ended."""

    def decode(self, data: memoryview) -> _Pieces:
        """Return the pieces of the body in `data`, and the number of bytes used.

        A piece is a view of `data`, or of bytes that never change.
        """


class Sized:
    """A body of a declared length, which is 0 for a request without a body."""

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
    """A body in chunks. Extensions and trailers are validated and discarded: no interface uses them."""

    size: int | None = None
    left = math.inf

    def __init__(self) -> None:
        self.done = False
        self._line = bytearray()
        self._chunk_left = 0
        self._trailers_size = 0
        # Parser of the next complete line; None within the data of a chunk.
        self._parse_line: Callable[[bytes], None] | None = self._parse_chunk_line

    def decode(self, data: memoryview) -> _Pieces:
        pieces: list[memoryview] = []
        short = bytearray()
        used = 0
        while used < len(data) and not self.done:
            if self._parse_line is None:
                piece = data[used : used + self._chunk_left]
                if len(piece) < _SHORT:
                    short += piece
                else:
                    _add_joined(pieces, short)
                    pieces.append(piece)
                used += len(piece)
                self._chunk_left -= len(piece)
                if self._chunk_left == 0:
                    self._parse_line = self._parse_chunk_end
            else:
                if self._parse_line == self._parse_chunk_line and not self._line:
                    used = _join_whole(data, used, short)
                used = self._read_plain_line(data, used) or self._read_line(data, used, self._parse_line)
        _add_joined(pieces, short)
        return pieces, used

    def _read_plain_line(self, data: memoryview, start: int) -> int:
        """Parse a line that has come whole and has nothing but a size, or nothing. Returns where it ends, 0 for others.

        Almost all lines are such ones.
        """
        if self._line:
            return 0
        if self._parse_line == self._parse_chunk_line:
            matched = _PLAIN_CHUNK_LINE.match(data, start)
            if matched is None:
                return 0
            self._begin_chunk(matched.group(1))
            return matched.end()
        if self._parse_line == self._parse_chunk_end and bytes(data[start : start + 2]) == b"\r\n":
            self._parse_chunk_end(b"")
            return start + 2
        return 0

    def _read_line(self, data: memoryview, start: int, parse_line: Callable[[bytes], None]) -> int:
        """Buffer bytes up to the end of the line, parse the line once it is complete, and return where it ends."""
        window = bytes(data[start : start + _MAX_LINE])
        stop = window.find(b"\n") + 1
        self._line += window[:stop] if stop else window
        if len(self._line) > _MAX_LINE:
            raise MalformedRequest(f"A line of the chunked body exceeds the limit of {_MAX_LINE} bytes.")
        if parse_line == self._parse_chunk_end and not b"\r\n".startswith(self._line):
            raise MalformedRequest("A chunk is longer than its declared size: expected CRLF after its data.")
        if not stop:
            return start + len(window)
        line = bytes(self._line)
        if not line.endswith(b"\r\n"):
            raise MalformedRequest("A line of the chunked body ends with LF: expected CRLF.")
        self._line.clear()
        parse_line(line[:-2])
        return start + stop

    def _parse_chunk_line(self, line: bytes) -> None:
        matched = _CHUNK_LINE.fullmatch(line)
        if matched is None:
            shown = quoted(line.decode("latin-1"))
            raise MalformedRequest(f"Invalid chunk size {shown}: expected 1 to 16 hexadecimal digits.")
        self._begin_chunk(matched.group(1))

    def _begin_chunk(self, size: bytes) -> None:
        self._chunk_left = int(size, 16)
        self._parse_line = None if self._chunk_left else self._parse_trailer

    def _parse_chunk_end(self, _: bytes) -> None:
        # The line is empty: `_read_line` checks each byte after a chunk, so that a wrong one is refused at once.
        self._parse_line = self._parse_chunk_line

    def _parse_trailer(self, line: bytes) -> None:
        if not line:
            self.done = True
            return
        self._trailers_size += len(line)
        if self._trailers_size > _MAX_TRAILERS:
            raise MalformedRequest(f"The trailers exceed the limit of {_MAX_TRAILERS} bytes.")
        if not _TRAILER.fullmatch(line):
            raise MalformedRequest("Invalid trailer field: expected a name, a colon and a value.")


def _join_whole(data: memoryview, start: int, short: bytearray) -> int:
    """Append the data of short chunks that have come whole, without extensions. Returns where the last of them ends.

    A client may send each byte in a chunk of its own: here, one takes a third of the time.
    """
    match = _PLAIN_CHUNK_LINE.match
    while True:
        matched = match(data, start)
        if matched is None:
            return start
        begin = matched.end()
        end = begin + int(matched[1], 16)
        if not begin < end < begin + _SHORT or bytes(data[end : end + 2]) != b"\r\n":
            return start
        short += data[begin:end]
        start = end + 2


def _add_joined(pieces: list[memoryview], short: bytearray) -> None:
    if short:
        pieces.append(memoryview(bytes(short)))
        short.clear()


# Most requests have no body, or one that came with the head. This framing decodes nothing and so has no state: all of
# those requests share it.
NO_BODY: Framing = Sized(0)


def body_framing(head: Head) -> Framing:
    """Return the framing of the body that follows `head`. RFC 9112, section 6.3.

    Raises MalformedRequest, UnknownTransferCoding or TooLarge.
    """
    length = head.fields.get("content-length")
    coding = head.fields.get("transfer-encoding")
    if coding is None:
        return NO_BODY if length is None else Sized(_parse_length(length))
    # A proxy that believes the other field forwards the body as a second request (RFC 9112, section 11.2).
    if length is not None:
        raise MalformedRequest("The request has Content-Length and Transfer-Encoding: expected one of them.")
    if head.version < (1, 1):
        raise MalformedRequest("The request is HTTP/1.0 and has Transfer-Encoding: expected HTTP/1.1.")
    _check_coding(coding)
    return Chunked()


def _parse_length(value: str) -> int:
    # RFC 9110, section 8.6, allows a server to read "5, 5" as 5 or to refuse it; a proxy could choose differently.
    if not _LENGTH.fullmatch(value):
        raise MalformedRequest(f"Invalid Content-Length {quoted(value)}: expected one decimal number.")
    digits = value.lstrip("0") or "0"
    if len(digits) > _MAX_LENGTH_DIGITS:
        raise TooLarge(_MAX_LENGTH)
    return int(digits)


def _check_coding(coding: str) -> None:
    """Raise MalformedRequest or UnknownTransferCoding unless `coding` is chunked."""
    codings = [each.strip(" \t") for each in coding.lower().split(",")]
    if "" in codings:
        # A proxy that drops empty members reads another list than one that keeps them.
        raise MalformedRequest(f"Transfer-Encoding {quoted(coding)} has an empty list member.")
    unknown = [each for each in codings if each != "chunked"]
    if unknown:
        raise UnknownTransferCoding(f"Unknown transfer coding {quoted(unknown[0])}: expected chunked.")
    if len(codings) != 1:
        # RFC 9112, section 7.1.
        raise MalformedRequest(f"Transfer-Encoding {quoted(coding)} repeats chunked: expected it once.")
