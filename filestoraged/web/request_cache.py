"""Requests that were read before, by their bytes: reading one again would say the same."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import NamedTuple, TypeVar

from filestoraged.web.message import Request
from filestoraged.wire.body import NO_BODY, Framing, Sized, body_framing
from filestoraged.wire.head import parse_fields, parse_head

# Bytes of memory for all that is remembered. When they are reached, all of it is forgotten.
LARGEST = 2 * 1024 * 1024

# The longest head that is remembered, in bytes: longer ones are not those of many clients.
_MEMORABLE = 1024

# What an entry takes at most, in bytes: for itself, for each byte of its head, and for each header field. CPython's
# sizes, rounded up: the key and the strings that are cut from it, a dictionary's share, two strings for a field.
_EACH = 1200
_EACH_BYTE = 3
_EACH_FIELD = 220

_Value = TypeVar("_Value")


class ParsedRequest(NamedTuple):
    """A request as it was read, and what its connection has to know of it."""

    request: Request
    framing: Framing
    keep_alive: bool
    speaks_1_1: bool
    expects_continue: bool


class RequestCache:
    """Reads requests. What may hold a password is not remembered.

    Many threads use it. Two that read the same at once remember the same. The lock guards what it counts.
    """

    def __init__(self) -> None:
        # By a head and what follows it, which is nothing; and by the heads of bodies that have a length.
        self._questions: dict[bytes, ParsedRequest] = {}
        self._uploads: dict[bytes, ParsedRequest] = {}
        # Fields by their lines: a client that asks for something else sends the same ones below its request line.
        self._fields: dict[bytes, Mapping[str, str]] = {}
        # What all of them take, in bytes at most.
        self._size = 0
        self._lock = threading.Lock()

    def recall(self, data: bytes) -> ParsedRequest | None:
        """Return what `data` was read as, where it is one whole request without a body that was read before."""
        return self._questions.get(data)

    def read(self, data: bytes) -> ParsedRequest:
        """Read a whole head. Raises what `parse_head` and `body_framing` do, and ExpectationFailed."""
        known = self._uploads.get(data)
        if known is not None:
            # A framing counts the bytes of one body.
            return ParsedRequest(known.request, Sized(known.request.size or 0), *known[2:])
        head = parse_head(data, self._read_fields)
        framing = body_framing(head)
        request = Request(head, framing.size)
        asked = ParsedRequest(request, framing, head.keep_alive, head.version >= (1, 1), head.expects_continue)
        if len(data) <= _MEMORABLE and not request.secret:
            if framing is NO_BODY:
                self._remember(self._questions, data, asked, len(head.fields))
            elif framing.size is not None:
                self._remember(self._uploads, data, asked, len(head.fields))
        return asked

    def _read_fields(self, lines: bytes) -> Mapping[str, str]:
        known = self._fields.get(lines)
        if known is not None:
            return known
        fields = parse_fields(lines)
        if len(lines) <= _MEMORABLE and "authorization" not in fields:
            self._remember(self._fields, lines, fields, len(fields))
        return fields

    def _remember(self, table: dict[bytes, _Value], data: bytes, value: _Value, fields: int) -> None:
        size = _EACH + _EACH_BYTE * len(data) + _EACH_FIELD * fields
        with self._lock:
            if self._size + size > LARGEST:
                for each in (self._questions, self._uploads, self._fields):
                    each.clear()
                self._size = 0
            self._size += size
            table[data] = value
