"""The head of a request, parsed in exactly one way, so that no proxy in front can read it in another.

What is not exactly the grammar of RFC 9112 raises; nothing is repaired. The two exceptions are empty lines before the
request line (section 2.2) and a Content-Length repeated with the same value (RFC 9110, section 8.6). One regular
expression validates a whole head; only an invalid head is then examined line by line, for the error message.
A message never quotes the target or the value of a field: either may contain a password or a token.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from filestoraged.errors import (
    Error,
    ExpectationFailed,
    HeadTooLarge,
    MalformedRequest,
    TargetTooLong,
    VersionNotSupported,
    quoted,
)
from filestoraged.wire.grammar import FIELD_VALUE, MAX_PORT, TOKEN, latin, members

# The defaults of nginx and Apache, and more than any browser sends: a target of 8 KiB (both), a head of 32 KiB
# (nginx: 4 buffers of 8 KiB), 100 fields (Apache).
MAX_TARGET = 8 * 1024
MAX_HEAD = 32 * 1024
MAX_FIELDS = 100

# A target is visible ASCII without "#": clients do not send the fragment (RFC 9112, section 3.2).
_REQUEST_LINE = re.compile(latin(rf'({TOKEN}) ([!"$-~]+) HTTP/1\.([0-9])\r\n'))
_FIELD_LINES = re.compile(latin(rf"(?:{TOKEN}:{FIELD_VALUE}\r\n)*"))
_FIELD_LINE = re.compile(latin(rf"({TOKEN}):({FIELD_VALUE})\r\n"))
_TOKEN = re.compile(latin(TOKEN))
_ANY_VERSION = re.compile(rb"[^ ]+ [^ ]+ HTTP/([0-9]+)(?:\.[0-9]+)?\r\n")
# RFC 3986, section 3.2.2. `ipaddress` validates an address in brackets.
_HOST_FIELD = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|(?:[A-Za-z0-9\-._~!$&'()*+,;=]|%[0-9A-Fa-f]{2})+)(?::([0-9]*))?")
_VERSION_1_0 = (1, 0)
_VERSION_1_1 = (1, 1)
_ABSOLUTE_FORM = re.compile(r"[Hh][Tt][Tt][Pp][Ss]?://([^/?]*)(.*)")


class Head(NamedTuple):
    """A request's head. Field names are in lower case, values of one name joined with ", " and decoded as Latin-1."""

    method: str
    path: str
    query: str
    version: tuple[int, int]
    fields: Mapping[str, str]

    @property
    def keep_alive(self) -> bool:
        """Whether the client keeps the connection after this request (RFC 9112, section 9.3)."""
        connection = self.fields.get("connection")
        if connection is None:
            return self.version >= (1, 1)
        options = members(connection.lower())
        return "close" not in options and (self.version >= (1, 1) or "keep-alive" in options)

    @property
    def expects_continue(self) -> bool:
        """Whether the client waits for `100 Continue` before it sends the body.

        Raises ExpectationFailed for any other expectation. RFC 9110, section 10.1.1.
        """
        expect = self.fields.get("expect")
        if expect is None or self.version < (1, 1):
            return False
        if members(expect.lower()) != ["100-continue"]:
            raise ExpectationFailed(f"Unknown expectation {quoted(expect)}: expected 100-continue.")
        return True


def is_head_request(data: bytes) -> bool:
    """Whether the bytes of a request, which may be malformed, begin with the method HEAD: its response has no body."""
    return skip_empty_lines(data).startswith(b"HEAD ")


def find_head_end(data: bytes | bytearray, searched: int = 0) -> int:
    """Return the length of the head at the start of `data`, or -1 where it is incomplete.

    The first `searched` bytes were passed to the last call, so that a head that arrives byte by byte is not searched
    again for each byte. Raises as soon as no further bytes can make the head valid: it is too long, or has a bare LF.
    """
    start = max(0, searched - 3)
    end = data.find(b"\r\n\r\n", start) + 4
    if end >= 4 and end <= MAX_HEAD:
        return end
    _check_line_ends(data, start, end if end >= 4 else len(data))
    if data.find(b"\n", 0, MAX_HEAD) < 0:
        _check_partial_line(data, searched)
    if end >= 4 or len(data) > MAX_HEAD:
        line_end = data.find(b"\r\n", 0, MAX_HEAD)
        _check_target(data, line_end if line_end >= 0 else len(data))
        raise HeadTooLarge(f"The head of the request exceeds the limit of {MAX_HEAD} bytes.")
    return -1


def skip_empty_lines(data: bytes) -> bytes:
    """Drop empty lines before a request line: some clients send one after a body (RFC 9112, section 2.2)."""
    start = 0
    while data.startswith(b"\r\n", start):
        start += 2
    return data[start:]


def parse_fields(lines: bytes) -> Mapping[str, str]:
    """Parse the lines below the request line. The result depends on `lines` alone, so callers may cache it.

    Raises MalformedRequest or HeadTooLarge. RFC 9112, section 5.
    """
    pairs = parse_field_lines(lines)
    if len(pairs) > MAX_FIELDS:
        raise HeadTooLarge(f"The request has {len(pairs)} header fields: expected at most {MAX_FIELDS}.")
    fields = dict(pairs)
    if len(fields) < len(pairs):
        fields = _join(pairs)
    if "host" in fields:
        _check_host(fields["host"])
    return fields


def parse_head(data: bytes, fields_parser: Callable[[bytes], Mapping[str, str]] = parse_fields) -> Head:
    """Parse a complete head, including its empty line. `fields_parser` is `parse_fields` or a cache of it.

    Raises MalformedRequest, TargetTooLong, HeadTooLarge or VersionNotSupported. RFC 9112, sections 3 to 5.
    """
    line = _REQUEST_LINE.match(data)
    if line is None:
        raise _request_line_error(data)
    method, target, minor = line.groups()
    if len(target) > MAX_TARGET:
        raise TargetTooLong(f"The target of {len(target)} bytes exceeds the limit of {MAX_TARGET} bytes.")
    fields = fields_parser(data[line.end() :])
    # A later minor version is compatible with 1.1 (RFC 9110, section 2.5).
    version = _VERSION_1_0 if minor == b"0" else _VERSION_1_1
    if "host" not in fields and version is _VERSION_1_1:
        raise MalformedRequest("The request has no Host field: HTTP/1.1 requires one.")
    text = target.decode("ascii")
    if not text.startswith("/"):
        text, fields = _resolve_target(method, text, fields)
    path, _, query = text.partition("?")
    return Head(method.decode("ascii"), path, query, version, fields)


def parse_field_lines(data: bytes, start: int = 0) -> list[tuple[str, str]]:
    """Parse field lines up to the empty line at the end of `data`: of a request's head, or of a form part's."""
    matched = _FIELD_LINES.match(data, start)
    if matched is None or data[matched.end() :] != b"\r\n":
        raise _field_line_error(data[start:])
    lines = data[start : matched.end()].decode("latin-1").split("\r\n")
    pairs = []
    for line in lines[:-1]:
        name, _, value = line.partition(":")
        pairs.append((name.lower(), value.strip(" \t")))
    return pairs


def _join(pairs: list[tuple[str, str]]) -> dict[str, str]:
    fields: dict[str, str] = {}
    for name, value in pairs:
        if name not in fields:
            fields[name] = value
        elif name == "host":
            raise MalformedRequest("The request has several Host fields: expected one.")
        elif name == "content-length" and value == fields[name]:
            continue
        else:
            fields[name] += ", " + value
    return fields


def _resolve_target(method: bytes, target: str, fields: Mapping[str, str]) -> tuple[str, Mapping[str, str]]:
    """Resolve a target that is not a path (RFC 9112, section 3.2). The host of an absolute URL replaces the field's."""
    absolute = _ABSOLUTE_FORM.fullmatch(target)
    if absolute is not None:
        host, rest = absolute.groups()
        _check_host(host)
        return (rest if rest.startswith("/") else "/" + rest), {**fields, "host": host}
    if method != b"CONNECT" and (method, target) != (b"OPTIONS", "*"):
        raise MalformedRequest(f"The target begins with {target[0]!r}: expected '/', http:// or https://.")
    return target, fields


def _check_host(host: str) -> None:
    if "@" in host:
        # Not quoted: before the "@" there may be a password.
        raise MalformedRequest("The host contains '@': expected no user name or password.")
    matched = _HOST_FIELD.fullmatch(host)
    if matched is None:
        raise MalformedRequest(f"Invalid host {quoted(host)}: expected a name or an address, and an optional port.")
    address, port = matched.groups()
    if port and (len(port) > 5 or int(port) > MAX_PORT):
        raise MalformedRequest(f"Invalid port {quoted(port)} of the host: expected 0 to {MAX_PORT}.")
    if address:
        try:
            ipaddress.IPv6Address(address)
        except ValueError as error:
            raise MalformedRequest(f"Invalid host {quoted(host)}: expected an IPv6 address in the brackets.") from error


# Errors of an incomplete or invalid head. These functions are slower, and serve only the message.


def _check_line_ends(data: bytes | bytearray, start: int, stop: int) -> None:
    """Refuse a bare LF. Counting takes a tenth of the time of a search for an LF without its CR."""
    if data.count(b"\n", max(start, 1), stop) != data.count(b"\r\n", max(start - 1, 0), stop) or data[:1] == b"\n":
        raise MalformedRequest("A line of the head ends with LF: expected CRLF.")


def _check_partial_line(data: bytes | bytearray, searched: int) -> None:
    """Refuse an invalid start of a request line at once, not when the head times out after 20 s.

    Of a method, only the bytes that were not `searched` are examined, and the one before them: it may have been a CR.
    """
    _check_target(data, len(data))
    space = data.find(b" ")
    new = bytes(data[max(0, searched - 1) : space if space >= 0 else len(data)])
    method = new if space >= 0 else new.rstrip(b"\r")
    if method and not _TOKEN.fullmatch(method):
        raise MalformedRequest(
            f"Invalid character {_invalid_character(method)} in the method: expected an HTTP request."
        )


def _check_target(data: bytes | bytearray, line_end: int) -> None:
    """Refuse a target that is too long. Copies nothing: a request line may arrive byte by byte."""
    start = data.find(b" ", 0, line_end) + 1
    stop = data.find(b" ", start, line_end)
    if start and (stop if stop >= 0 else line_end) - start > MAX_TARGET:
        raise TargetTooLong(f"The target exceeds the limit of {MAX_TARGET} bytes.")


def _request_line_error(data: bytes) -> Error:
    matched = _ANY_VERSION.match(data)
    if matched is not None and int(matched.group(1)[:9]) != 1:
        version = quoted(matched.group(1).decode("ascii"))
        return VersionNotSupported(f"Unsupported HTTP version {version}: expected 1.1 or 1.0.")
    return MalformedRequest("Invalid request line: expected a method, a percent-encoded target and HTTP/1.1.")


def _field_line_error(lines: bytes) -> Error:
    for number, line in enumerate(lines.split(b"\r\n"), 1):
        if line and not _FIELD_LINE.match(line + b"\r\n"):
            return MalformedRequest(f"Invalid header field {number}: {_reason(line)}.")
    return MalformedRequest("An empty line ends the header fields too early: expected it after the last one.")


def _reason(line: bytes) -> str:
    name, colon, value = line.partition(b":")
    if line[:1] in (b" ", b"\t"):
        # RFC 9112, section 5.2.
        return "the line begins with white space (obsolete line folding)"
    if not colon:
        return "the line has no colon"
    if name.rstrip(b" \t") != name:
        # RFC 9112, section 5.1: a proxy that ignores the white space reads another field.
        return "white space before the colon"
    if not _TOKEN.fullmatch(name):
        return f"invalid character {_invalid_character(name)} in the name" if name else "the name is empty"
    control = next(each for each in value if (each < 0x20 and each != 0x09) or each == 0x7F)
    return f"control character {chr(control)!r} in the value"


def _invalid_character(text: bytes) -> str:
    """Return the first character of `text` that a token does not allow, quoted."""
    return repr(_TOKEN.sub(b"", text)[:1].decode("latin-1"))
