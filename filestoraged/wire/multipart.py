"""An incremental parser of form bodies (multipart/form-data, RFC 7578 and RFC 2046).

`feed` takes received bytes, cut anywhere, and yields a `FormPart` where one begins, then its content as views. The
parser buffers only bytes that may be part of a delimiter or of a part's head, so a form may be of any size.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from filestoraged.digest import Bytes
from filestoraged.errors import BadRequest, MalformedMultipart, MalformedRequest, quoted
from filestoraged.wire.head import parse_field_lines
from filestoraged.wire.parameters import decode_extended, parse_parameters

# A form of a browser has about ten parts, each with two header fields in some hundred bytes.
MAX_PARTS = 1000
MAX_PART_HEAD = 8 * 1024
# RFC 2046, section 5.1.1: 1 to 70 of these characters, the last not a space.
_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,\-./:=? ]{0,69}[0-9A-Za-z'()+_,\-./:=?]")
# Bytes of white space between a delimiter and its CRLF, which gateways added once (RFC 2046, section 5.1.1).
_MAX_PADDING = 256


class FormPart(NamedTuple):
    """The start of a part. `filename` is decoded, and None where the part is not a file."""

    name: str | None
    filename: str | None
    fields: dict[str, str]


FormEvent = FormPart | memoryview


def form_boundary(content_type: str) -> str | None:
    """Return the boundary of a form, or None for another content type.

    Raises MalformedMultipart for a form without a valid boundary.
    """
    if content_type.partition(";")[0].strip(" \t").lower() != "multipart/form-data":
        return None
    try:
        boundary = parse_parameters(content_type)[1].get("boundary", "")
    except BadRequest as error:
        shown = quoted(content_type)
        raise MalformedMultipart(f"Invalid Content-Type {shown}: expected a form's type and boundary.") from error
    if not _BOUNDARY.fullmatch(boundary):
        raise MalformedMultipart(f"Invalid boundary {quoted(boundary)}: expected 1 to 70 characters of RFC 2046's set.")
    return boundary


class Multipart:
    """Parser of one form: call `feed` for all of the body, then `finish`."""

    def __init__(self, boundary: str) -> None:
        self._delimiter = b"\r\n--" + boundary.encode("ascii")
        # Bytes for the next call. A CRLF precedes each delimiter, but the first one may be the start of the body.
        self._buffer = b"\r\n"
        # Bytes of the buffer already searched for the end of a part's head.
        self._searched = 0
        # Parser of the next bytes.
        self._parse = self._parse_content
        self._parts = 0
        self._in_part = False
        self._done = False

    def feed(self, data: Bytes) -> Iterator[FormEvent]:
        """Yield the parts and the content in `data`, in order. Exhaust the iterator before the next call."""
        buffered = b"".join((self._buffer, data))
        self._buffer = b""
        position: int | None = 0
        while position is not None and not self._done:
            events: list[FormEvent] = []
            position = self._parse(buffered, position, events)
            yield from events

    def finish(self) -> None:
        """Raise MalformedMultipart unless the closing delimiter was received."""
        if not self._done:
            raise MalformedMultipart("The form ends before its closing delimiter.")

    # Each of these methods parses one element and returns its end; or buffers the bytes from `start` on for the next
    # call and returns None. None of them copies the bytes after its element: there may be a thousand parts.

    def _parse_content(self, data: bytes, start: int, events: list[FormEvent]) -> int | None:
        """Parse the content of a part, or the preamble, which is discarded."""
        found = data.find(self._delimiter, start)
        stop = found if found >= 0 else self._possible_delimiter(data, start)
        if self._in_part and stop > start:
            events.append(memoryview(data)[start:stop])
        if found < 0:
            self._buffer = data[stop:]
            return None
        self._in_part = False
        self._parse = self._parse_delimiter_end
        return found + len(self._delimiter)

    def _possible_delimiter(self, data: bytes, start: int) -> int:
        """Return where an incomplete delimiter may begin, or the end of `data`.

        A delimiter has one CR, its first byte, so the last CR in `data` is the only candidate.
        """
        candidate = data.rfind(b"\r", max(start, len(data) - len(self._delimiter)))
        return candidate if candidate >= 0 and self._delimiter.startswith(data[candidate:]) else len(data)

    def _parse_delimiter_end(self, data: bytes, start: int, events: list[FormEvent]) -> int | None:
        if data.startswith(b"--", start):
            # The epilogue follows, which is discarded (RFC 2046, section 5.1.1).
            self._done = True
            return None
        # Padding and its CRLF; without a CRLF in these bytes, the line is incomplete or the padding too long.
        line, line_end, _ = data[start : start + _MAX_PADDING + 2].partition(b"\r\n")
        # The last byte of an incomplete line may be the first half of its CRLF, or of the closing delimiter's "--".
        padding = line[:-1] if line.endswith(b"\r") and not line_end else line
        if len(padding) > _MAX_PADDING or (padding.strip(b" \t") and (line_end or line != b"-")):
            raise MalformedMultipart(f"Invalid delimiter: expected CRLF after at most {_MAX_PADDING} blanks.")
        if not line_end:
            self._buffer = data[start:]
            return None
        self._parse = self._parse_head
        return start + len(line) + len(line_end)

    def _parse_head(self, data: bytes, start: int, events: list[FormEvent]) -> int | None:
        # A part without header fields is legal MIME: its head is the empty line alone.
        if data.startswith(b"\r\n", start):
            end = start + 2
        else:
            end = data.find(b"\r\n\r\n", start + max(0, self._searched - 3), start + MAX_PART_HEAD) + 4
        if end == 3:
            if len(data) - start > MAX_PART_HEAD:
                raise MalformedMultipart(f"The head of a part exceeds the limit of {MAX_PART_HEAD} bytes.")
            self._buffer = data[start:]
            self._searched = len(self._buffer)
            return None
        self._searched = 0
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise MalformedMultipart(f"The form exceeds the limit of {MAX_PARTS} parts.")
        events.append(_parse_part(data[start:end]))
        self._in_part = True
        self._parse = self._parse_content
        return end


def _parse_part(head: bytes) -> FormPart:
    try:
        fields = _unique_fields(head)
        kind, parameters = parse_parameters(_utf8(fields.get("content-disposition", "form-data")))
    except (MalformedRequest, BadRequest) as error:
        raise MalformedMultipart(f"Invalid head of a part: {error}") from error
    if kind != "form-data":
        raise MalformedMultipart(f"Invalid Content-Disposition {quoted(kind)} of a part: expected form-data.")
    encoding = fields.get("content-transfer-encoding", "binary")
    if encoding.lower() not in ("binary", "8bit", "7bit"):
        # RFC 7578, section 4.7, deprecates other encodings; undecoded, their bytes would be stored encoded.
        shown = quoted(encoding)
        raise MalformedMultipart(f"Unknown Content-Transfer-Encoding {shown} of a part: expected binary.")
    return FormPart(parameters.get("name"), _filename(parameters), fields)


def _unique_fields(head: bytes) -> dict[str, str]:
    fields: dict[str, str] = {}
    for name, value in parse_field_lines(head):
        if name in fields:
            raise BadRequest(f"The field {quoted(name)} is repeated: expected it once.")
        fields[name] = value
    return fields


def _filename(parameters: dict[str, str]) -> str | None:
    if "filename*" in parameters:
        try:
            return decode_extended(parameters["filename*"])
        except BadRequest as error:
            raise MalformedMultipart(f"Invalid file name of a part: {error}") from error
    # The HTML standard, section 4.10.21.8: clients send a quotation mark as %22, and a percent sign as it is.
    return parameters["filename"].replace("%22", '"') if "filename" in parameters else None


def _utf8(field: str) -> str:
    """Return a field, which was decoded as Latin-1, decoded as UTF-8 where it is valid.

    Forms are UTF-8 (RFC 7578, section 5.1); those of older clients may not be.
    """
    try:
        return field.encode("latin-1").decode("utf-8")
    except UnicodeDecodeError:
        return field
