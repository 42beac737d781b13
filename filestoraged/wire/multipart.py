"""A form's body, taken apart while it arrives (multipart/form-data, RFC 7578 and RFC 2046).

Bytes go in by `feed`, in whatever cuts the network made; out come a `Part` where one begins and then its
bytes as views. Nothing is kept but what may turn out to be a delimiter, so a form may be of any size.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from filestoraged.digest import Bytes
from filestoraged.errors import BadRequest, MalformedMultipart, MalformedRequest
from filestoraged.wire.head import parse_field_lines
from filestoraged.wire.parameters import decode_extended, parse_parameters

# A browser's form has some ten parts of two fields each.
MAX_PARTS = 1000
MAX_PART_HEAD = 8 * 1024
# RFC 2046, section 5.1.1: 1 to 70 of these, the last no blank.
_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,\-./:=? ]{0,69}[0-9A-Za-z'()+_,\-./:=?]")
# Behind a delimiter there may be blanks, which gateways once added. This many are far too many.
_MAX_PADDING = 256


class Part(NamedTuple):
    """The beginning of a part. `filename` is None where the part is no file; its text is as the client meant it."""

    name: str | None
    filename: str | None
    fields: dict[str, str]


Event = Part | memoryview


def form_boundary(content_type: str) -> str | None:
    """Return the boundary of a form, or None where `content_type` is another type.

    Raises MalformedMultipart where it is a form without a usable boundary.
    """
    if content_type.partition(";")[0].strip(" \t").lower() != "multipart/form-data":
        return None
    try:
        boundary = parse_parameters(content_type)[1].get("boundary", "")
    except BadRequest as error:
        raise MalformedMultipart("The form's Content-Type is malformed.") from error
    if not _BOUNDARY.fullmatch(boundary):
        raise MalformedMultipart("The form's boundary is not 1 to 70 characters of those allowed.")
    return boundary


class Multipart:
    """Takes one form apart. `feed` it everything, then `finish` it."""

    def __init__(self, boundary: str) -> None:
        self._delimiter = b"\r\n--" + boundary.encode("ascii")
        # The first delimiter may stand at the very start, without the line end that the others have.
        self._held = b"\r\n"
        # How much of what is held was searched for the end of a part's head already.
        self._searched = 0
        self._read = self._read_content
        self._parts = 0
        self._in_part = False
        self._over = False

    def feed(self, data: Bytes) -> Iterator[Event]:
        """Yield what begins or goes on in `data`, in order. It is to be iterated to its end before the next call."""
        whole = b"".join((self._held, data))
        self._held = b""
        position: int | None = 0
        while position is not None and not self._over:
            events: list[Event] = []
            position = self._read(whole, position, events)
            yield from events

    def finish(self) -> None:
        """Raise MalformedMultipart unless the closing delimiter has come."""
        if not self._over:
            raise MalformedMultipart("The form ends before its closing delimiter.")

    # Each of these reads as far as one state goes and returns the position behind it; or holds what there is from
    # `start` on, for the next call, and returns None. None copies the rest: it may have a thousand parts.

    def _read_content(self, data: bytes, start: int, events: list[Event]) -> int | None:
        """A part's bytes, or the preamble's, which nobody reads."""
        found = data.find(self._delimiter, start)
        stop = found if found >= 0 else self._possible_delimiter(data, start)
        if self._in_part and stop > start:
            events.append(memoryview(data)[start:stop])
        if found < 0:
            self._held = data[stop:]
            return None
        self._in_part = False
        self._read = self._read_delimiter_end
        return found + len(self._delimiter)

    def _possible_delimiter(self, data: bytes, start: int) -> int:
        """Where the tail of `data` begins that may be a delimiter cut short; the end where there is none.

        A delimiter has one carriage return, its first byte, so the last one in `data` is the only candidate.
        """
        candidate = data.rfind(b"\r", max(start, len(data) - len(self._delimiter)))
        return candidate if candidate >= 0 and self._delimiter.startswith(data[candidate:]) else len(data)

    def _read_delimiter_end(self, data: bytes, start: int, events: list[Event]) -> int | None:
        if data.startswith(b"--", start):
            # What follows is the epilogue, for nobody.
            self._over = True
            return None
        # The padding and its line end; where the line end is farther away, there is too much of it.
        line, line_end, _ = data[start : start + _MAX_PADDING + 2].partition(b"\r\n")
        # Of a line that is still coming, the last byte may be half of its end, or of the closing delimiter.
        padding = line[:-1] if line.endswith(b"\r") and not line_end else line
        if len(padding) > _MAX_PADDING or (padding.strip(b" \t") and (line_end or line != b"-")):
            raise MalformedMultipart("A delimiter of the form has something behind it.")
        if not line_end:
            self._held = data[start:]
            return None
        self._read = self._read_head
        return start + len(line) + len(line_end)

    def _read_head(self, data: bytes, start: int, events: list[Event]) -> int | None:
        # A part without any field is legal MIME: its head is the empty line alone.
        if data.startswith(b"\r\n", start):
            end = start + 2
        else:
            end = data.find(b"\r\n\r\n", start + max(0, self._searched - 3), start + MAX_PART_HEAD) + 4
        if end == 3:
            if len(data) - start > MAX_PART_HEAD:
                raise MalformedMultipart(f"The head of a part may have {MAX_PART_HEAD} bytes.")
            self._held = data[start:]
            self._searched = len(self._held)
            return None
        self._searched = 0
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise MalformedMultipart(f"A form may have {MAX_PARTS} parts.")
        events.append(_parse_part(data[start:end]))
        self._in_part = True
        self._read = self._read_content
        return end


def _parse_part(head: bytes) -> Part:
    try:
        pairs = parse_field_lines(head)
        fields = dict(pairs)
        if len(fields) < len(pairs):
            raise BadRequest("It has one field twice.")
        kind, parameters = parse_parameters(_utf8(fields.get("content-disposition", "form-data")))
    except (MalformedRequest, BadRequest) as error:
        raise MalformedMultipart(f"The head of a part is malformed. {error}") from error
    if kind != "form-data":
        raise MalformedMultipart("A part of the form is no form-data.")
    if fields.get("content-transfer-encoding", "binary").lower() not in ("binary", "8bit", "7bit"):
        # RFC 7578, section 4.7, deprecates them; taken as they are, they would be kept encoded.
        raise MalformedMultipart("A part of the form is encoded for transfer.")
    return Part(parameters.get("name"), _filename(parameters), fields)


def _filename(parameters: dict[str, str]) -> str | None:
    if "filename*" in parameters:
        try:
            return decode_extended(parameters["filename*"])
        except BadRequest as error:
            raise MalformedMultipart("The name of a file is malformed.") from error
    return parameters.get("filename")


def _utf8(field: str) -> str:
    """The text of a field that was read as Latin-1. Forms are UTF-8 (RFC 7578, section 5.1); older ones may not be."""
    try:
        return field.encode("latin-1").decode("utf-8")
    except UnicodeDecodeError:
        return field
