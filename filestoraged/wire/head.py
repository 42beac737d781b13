"""The head of a request: one strict reading of it, so that no proxy in front can read another.

The law of this page: what is not exactly the grammar of RFC 9112 raises, and nothing is repaired. The
exceptions are empty lines before the request line (section 2.2) and header fields given twice with one
value (RFC 9110, section 8.6). A whole head is judged by one regular expression; only a head that fails
is walked line by line, to say what was wrong with it.
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
)
from filestoraged.wire.grammar import FIELD_VALUE, TOKEN, latin, members

# What nginx and Apache take by default, and more than any browser sends: 8 KiB of target (both),
# 32 KiB in all (nginx: 4 buffers of 8 KiB), 100 fields (Apache).
MAX_TARGET = 8 * 1024
MAX_HEAD = 32 * 1024
MAX_FIELDS = 100

# The target is visible ASCII without "#": a fragment never leaves the client (RFC 9112, section 3.2).
_REQUEST_LINE = re.compile(latin(rf'({TOKEN}) ([!"$-~]+) HTTP/1\.([0-9])\r\n'))
_FIELD_LINES = re.compile(latin(rf"(?:{TOKEN}:{FIELD_VALUE}\r\n)*"))
_FIELD_LINE = re.compile(latin(rf"({TOKEN}):({FIELD_VALUE})\r\n"))
_METHOD = re.compile(latin(TOKEN))
_ANY_VERSION = re.compile(rb"[^ ]+ [^ ]+ HTTP/([0-9]+)(?:\.[0-9]+)?\r\n")
# RFC 3986, section 3.2.2. An address in brackets is looked at once more, by `ipaddress`.
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|(?:[A-Za-z0-9\-._~!$&'()*+,;=]|%[0-9A-Fa-f]{2})+)(?::([0-9]*))?")
_VERSION_1_0 = (1, 0)
_VERSION_1_1 = (1, 1)
_ABSOLUTE = re.compile(r"[Hh][Tt][Tt][Pp][Ss]?://([^/?]*)(.*)")


class Head(NamedTuple):
    """A request's head. Names of fields are in lower case, their values joined with ", " and decoded as Latin-1."""

    method: str
    path: str
    query: str
    version: tuple[int, int]
    fields: Mapping[str, str]

    @property
    def keep_alive(self) -> bool:
        """Whether the client wants the connection after this request (RFC 9112, section 9.3)."""
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
            raise ExpectationFailed("The only expectation known here is 100-continue.")
        return True


def find_head_end(data: bytes | bytearray, seen: int = 0) -> int:
    """Return where the head in `data` ends, or -1 where it is not whole yet.

    `seen` is how many of the bytes were there the last time, so that a head that comes in drops is not searched anew
    for each. Raises as soon as no continuation can make it a good one: too long, or framed with bare line feeds.
    """
    start = max(0, seen - 3)
    end = data.find(b"\r\n\r\n", start) + 4
    if end >= 4 and end <= MAX_HEAD:
        return end
    # Counting takes a tenth of what a search for a line feed without its return does.
    stop = end if end >= 4 else len(data)
    if data.count(b"\n", max(start, 1), stop) != data.count(b"\r\n", max(start - 1, 0), stop) or data[:1] == b"\n":
        raise MalformedRequest("A line of the head ends without a carriage return.")
    if data.find(b"\n", 0, MAX_HEAD) < 0:
        _check_partial_line(data, seen)
    if end >= 4 or len(data) > MAX_HEAD:
        line_end = data.find(b"\r\n", 0, MAX_HEAD)
        _check_target(data, line_end if line_end >= 0 else len(data))
        raise HeadTooLarge(f"A request's head may have {MAX_HEAD} bytes.")
    return -1


def skip_empty_lines(data: bytes) -> bytes:
    """Drop the line ends that a sloppy client leaves behind a body (RFC 9112, section 2.2)."""
    start = 0
    while data.startswith(b"\r\n", start):
        start += 2
    return data[start:]


def parse_fields(lines: bytes) -> Mapping[str, str]:
    """Read what stands below the request line. The answer depends on `lines` alone, so it may be remembered.

    Raises MalformedRequest or HeadTooLarge. RFC 9112, section 5.
    """
    pairs = parse_field_lines(lines)
    if len(pairs) > MAX_FIELDS:
        raise HeadTooLarge(f"A request may have {MAX_FIELDS} header fields.")
    fields = dict(pairs)
    if len(fields) < len(pairs):
        fields = _join(pairs)
    if "host" in fields:
        _check_host(fields["host"])
    return fields


def parse_head(data: bytes, read_fields: Callable[[bytes], Mapping[str, str]] = parse_fields) -> Head:
    """Read a whole head, its empty line included.

    `read_fields` does what `parse_fields` does, perhaps from memory.
    Raises MalformedRequest, TargetTooLong, HeadTooLarge or VersionNotSupported. RFC 9112, sections 3 to 5.
    """
    line = _REQUEST_LINE.match(data)
    if line is None:
        raise _request_line_fault(data)
    method, target, minor = line.groups()
    if len(target) > MAX_TARGET:
        raise TargetTooLong(f"A request's target may have {MAX_TARGET} bytes.")
    fields = read_fields(data[line.end() :])
    version = _VERSION_1_0 if minor == b"0" else _VERSION_1_1
    if "host" not in fields and version is _VERSION_1_1:
        raise MalformedRequest("HTTP/1.1 asks for a Host.")
    text = target.decode("ascii")
    if not text.startswith("/"):
        text, fields = _whole_url(method, text, fields)
    path, _, query = text.partition("?")
    return Head(method.decode("ascii"), path, query, version, fields)


def parse_field_lines(data: bytes, start: int = 0) -> list[tuple[str, str]]:
    """Read field lines, up to the empty line that ends `data`; of a head, a part of a form, or trailers."""
    matched = _FIELD_LINES.match(data, start)
    if matched is None or data[matched.end() :] != b"\r\n":
        raise _field_line_fault(data[start:])
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
            raise MalformedRequest("A request has one Host.")
        elif name == "content-length" and value == fields[name]:
            continue
        else:
            fields[name] += ", " + value
    return fields


def _whole_url(method: bytes, target: str, fields: Mapping[str, str]) -> tuple[str, Mapping[str, str]]:
    """A target that is no path (RFC 9112, section 3.2). A host in it takes the place of the Host field's."""
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is not None:
        host, rest = absolute.groups()
        _check_host(host)
        return (rest if rest.startswith("/") else "/" + rest), {**fields, "host": host}
    if method != b"CONNECT" and (method, target) != (b"OPTIONS", "*"):
        raise MalformedRequest("A target is a path that begins with a slash, or a whole URL.")
    return target, fields


def _check_host(host: str) -> None:
    matched = _HOST.fullmatch(host)
    if matched is None:
        raise MalformedRequest("Host is not the name of a host.")
    address, port = matched.groups()
    if port and (len(port) > 5 or int(port) > 65535):
        raise MalformedRequest("Host names a port that there is not.")
    if address:
        try:
            ipaddress.IPv6Address(address)
        except ValueError as error:
            raise MalformedRequest("Host is not an IPv6 address.") from error


# What is wrong with a head that the grammar refused. Slower, and only to answer with a sentence.


def _check_partial_line(data: bytes | bytearray, seen: int) -> None:
    """Refuse the beginning of a request line that no ending can mend, so that nobody waits 20 seconds to hear it.

    Of a method, only what was not `seen` is looked at, but for a last carriage return.
    """
    _check_target(data, len(data))
    space = data.find(b" ")
    new = bytes(data[max(0, seen - 1) : space if space >= 0 else len(data)])
    known = new if space >= 0 else new.rstrip(b"\r")
    if known and not _METHOD.fullmatch(known):
        raise MalformedRequest("This is not HTTP.")


def _check_target(data: bytes | bytearray, line_end: int) -> None:
    """Refuse a target that is too long. Copies nothing: a request line may come one byte at a time."""
    start = data.find(b" ", 0, line_end) + 1
    stop = data.find(b" ", start, line_end)
    if start and (stop if stop >= 0 else line_end) - start > MAX_TARGET:
        raise TargetTooLong(f"A request's target may have {MAX_TARGET} bytes.")


def _request_line_fault(data: bytes) -> Error:
    version = _ANY_VERSION.match(data)
    if version is not None and int(version.group(1)[:9]) != 1:
        return VersionNotSupported("Only HTTP/1.1 and HTTP/1.0 are spoken here.")
    return MalformedRequest("The request line is not a method, a percent-encoded target and a version.")


def _field_line_fault(lines: bytes) -> Error:
    for line in lines.split(b"\r\n"):
        if line and not _FIELD_LINE.match(line + b"\r\n"):
            return MalformedRequest(_explain(line))
    return MalformedRequest("The header fields end before the head does.")


def _explain(line: bytes) -> str:
    name, colon, _ = line.partition(b":")
    if line[:1] in (b" ", b"\t"):
        return "A header field is folded over two lines."
    if not colon:
        return "A line of the head has no colon."
    if name.rstrip(b" \t") != name:
        return "A header field has white space before its colon."
    if not re.fullmatch(latin(TOKEN), name):
        return "The name of a header field is no token."
    return "A header field holds a control character."
