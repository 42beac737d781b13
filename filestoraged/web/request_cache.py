"""A cache of parsed requests, by the bytes of their heads: parsing one again would give the same.

No secret is kept. A head with a Bearer token is cached by a keyed hash of it, without the token; one with any other
credentials, or with a secret in its query, is not cached.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Mapping
from typing import NamedTuple, TypeVar

from filestoraged.web.auth import hashed
from filestoraged.web.message import Request
from filestoraged.wire.authorization import is_bearer, parse_token
from filestoraged.wire.body import NO_BODY, Framing, Sized, body_framing
from filestoraged.wire.head import parse_fields, parse_head

# Bytes of memory for the whole cache. When they are reached, it is emptied.
MAX_CACHE_SIZE = 2 * 1024 * 1024

# The longest head that is cached, in bytes: longer ones are rarely repeated.
_MAX_HEAD_SIZE = 1024

# What an entry takes at most, in bytes: for itself, for each byte of its head, and for each header field. CPython's
# sizes, rounded up: the key and the strings that are cut from it, a dictionary's share, two strings for a field.
_ENTRY_SIZE = 1200
_ENTRY_SIZE_PER_BYTE = 3
_ENTRY_SIZE_PER_FIELD = 220

# In heads with a Bearer token, by most clients' spelling. Others are parsed each time.
_BEARER = b": Bearer "

_Value = TypeVar("_Value")


class ParsedRequest(NamedTuple):
    """A request, and what its connection has to know of it."""

    request: Request
    framing: Framing
    keep_alive: bool
    speaks_1_1: bool
    expects_continue: bool


class RequestCache:
    """Parses requests. Many threads use it; two that parse the same at once cache the same. The lock guards `_size`."""

    def __init__(self) -> None:
        # By a head that nothing follows; and by the heads of bodies that have a length.
        self._bodiless: dict[bytes, ParsedRequest] = {}
        self._uploads: dict[bytes, ParsedRequest] = {}
        # Fields by their lines: a client that asks for something else sends the same ones below its request line.
        self._fields: dict[bytes, Mapping[str, str]] = {}
        # What all of them take, in bytes at most.
        self._size = 0
        self._lock = threading.Lock()
        # So that no client can choose heads of one hash.
        self._secret = os.urandom(32)

    def recall(self, data: bytes) -> ParsedRequest | None:
        """Return the cached request where `data` is one whole request without a body."""
        known = self._bodiless.get(data)
        if known is None and len(data) <= _MAX_HEAD_SIZE and _BEARER in data:
            return self._bodiless.get(self._hash(data))
        return known

    def read(self, data: bytes) -> ParsedRequest:
        """Parse a whole head. Raises what `parse_head` and `body_framing` do, and ExpectationFailed."""
        key = data if _BEARER not in data else self._hash(data)
        known = self._uploads.get(key)
        if known is not None:
            # A framing counts the bytes of one body.
            return ParsedRequest(known.request, Sized(known.request.size or 0), *known[2:])
        head = parse_head(data, self._read_fields)
        framing = body_framing(head)
        request = Request(head, framing.size)
        has_token = "authorization" in request.fields and _take_token(request)
        parsed = ParsedRequest(request, framing, head.keep_alive, head.version >= (1, 1), head.expects_continue)
        is_hashed = key is not data
        if len(data) <= _MAX_HEAD_SIZE and has_token <= is_hashed and not request.has_secret:
            if framing is NO_BODY:
                self._remember(self._bodiless, key, parsed, len(data), len(head.fields))
            elif framing.size is not None:
                self._remember(self._uploads, key, parsed, len(data), len(head.fields))
        return parsed

    def _read_fields(self, lines: bytes) -> Mapping[str, str]:
        known = self._fields.get(lines)
        if known is not None:
            return known
        fields = parse_fields(lines)
        if len(lines) <= _MAX_HEAD_SIZE and "authorization" not in fields:
            self._remember(self._fields, lines, fields, len(lines), len(fields))
        return fields

    def _hash(self, data: bytes) -> bytes:
        return hashlib.blake2b(data, digest_size=32, key=self._secret).digest()

    def _remember(self, table: dict[bytes, _Value], key: bytes, value: _Value, length: int, fields: int) -> None:
        size = _ENTRY_SIZE + _ENTRY_SIZE_PER_BYTE * length + _ENTRY_SIZE_PER_FIELD * fields
        with self._lock:
            if key in table:
                # Counted before: heads of pipelined requests are parsed each time.
                return
            if self._size + size > MAX_CACHE_SIZE:
                for each in (self._bodiless, self._uploads, self._fields):
                    each.clear()
                self._size = 0
            self._size += size
            table[key] = value


def _take_token(request: Request) -> bool:
    """Replace a token in the Authorization field by its hash. Returns whether there was a Bearer token."""
    field = request.fields["authorization"]
    token = parse_token(field)
    request.token_hash = hashed(token) if token else b""
    if not is_bearer(field):
        # The password of a drop may come like that, too.
        return False
    request.fields = {name: value for name, value in request.fields.items() if name != "authorization"}
    return True
