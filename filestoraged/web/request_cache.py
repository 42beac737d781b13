"""A cache of parsed requests, by the bytes of their heads: parsing one again would give the same.

No secret is kept. A head with a Bearer token is cached by a keyed hash of it, without the token. One with any other
credentials is not cached, nor one with what the log would not show: a password or a token in the query, a path that its
route declares secret, or a link to such a path in a header field. So a request is cached once it is routed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from typing import TypeVar

from filestoraged.bounded_cache import BoundedCache, ClockCache
from filestoraged.errors import Error
from filestoraged.web.auth import hashed
from filestoraged.web.request import Request, has_secret_field
from filestoraged.wire.authorization import is_bearer, parse_token
from filestoraged.wire.body import NO_BODY, Framing, Sized, body_framing
from filestoraged.wire.head import parse_fields, parse_head

# The memory of a cache where a server is made without a daemon, in bytes.
DEFAULT_CACHE_SIZE = 2 * 1024 * 1024

# The longest head that is cached, in bytes: longer ones are rarely repeated.
_MAX_HEAD_SIZE = 1024

# What an entry takes at most, in bytes: for itself, for each byte of its head, and for each header field. CPython's
# sizes, rounded up: the key and the strings that are cut from it, a dictionary's share, two strings for a field.
_ENTRY_SIZE = 700
_ENTRY_SIZE_PER_BYTE = 4
_ENTRY_SIZE_PER_FIELD = 220

# Memory for the heads of uploads, and for header fields, in bytes: few of them differ.
MAX_UPLOADS_SIZE = 512 * 1024
MAX_FIELDS_SIZE = 512 * 1024

# In heads with a Bearer token, by most clients' spelling. Others are parsed each time.
_BEARER = b": Bearer "

_Value = TypeVar("_Value")


class ParsedRequest:
    """A request, and what its connection has to know of it."""

    __slots__ = (
        "expects_continue",
        "fault",
        "is_used",
        "keep_alive",
        "key",
        "request",
        "size",
    )

    def __init__(
        self,
        request: Request,
        *,
        keep_alive: bool = True,
        expects_continue: bool = False,
        size: int = 0,
        key: bytes | None = None,
        fault: Error | None = None,
    ) -> None:
        """`size` is what it takes in a cache, in bytes. `fault` is why its body cannot be received.

        `key` is what it may be cached by once it is routed; None where it may not, or is already.
        """
        self.request = request
        self.keep_alive = keep_alive
        self.expects_continue = expects_continue
        self.size = size
        self.key = key
        self.fault = fault
        # Whether it was recalled since the cache considered it last.
        self.is_used = False


class RequestCache:
    """Parses requests. Many threads use it; two that parse the same at once cache the same."""

    def __init__(self, size: int = DEFAULT_CACHE_SIZE) -> None:
        """`size` is the memory for requests without a body, in bytes."""
        # By a head that nothing follows; and by the heads of bodies that have a length.
        self._bodiless: ClockCache[bytes, ParsedRequest] = ClockCache(size, lambda _, parsed: parsed.size)
        self._uploads: BoundedCache[bytes, ParsedRequest] = _bounded(MAX_UPLOADS_SIZE, lambda _, parsed: parsed.size)
        # Fields by their lines: a client that asks for something else sends the same ones below its request line.
        self._fields: BoundedCache[bytes, Mapping[str, str]] = _bounded(
            MAX_FIELDS_SIZE, lambda lines, fields: _entry_size(len(lines), len(fields))
        )
        # So that no client can choose heads of one hash.
        self._secret = os.urandom(32)

    def recall(self, data: bytes) -> ParsedRequest | None:
        """Return the cached request where `data` is one whole request without a body."""
        known = self._bodiless.get(data)
        if known is None:
            if len(data) > _MAX_HEAD_SIZE or _BEARER not in data:
                return None
            known = self._bodiless.get(self._hash(data))
            if known is None:
                return None
        known.is_used = True
        return known

    def recall_upload(self, data: bytes) -> tuple[ParsedRequest, bytes] | None:
        """Return the cached request and its body where `data` is one whole request with a body of a known length."""
        end = data.find(b"\r\n\r\n") + 4
        known = self._uploads.get(data[:end])
        if known is None or len(data) - end != known.request.size:
            return None
        return known, data[end:]

    def read(self, data: bytes) -> tuple[ParsedRequest, Framing]:
        """Parse a whole head, and return the framing of its body. Raises what `parse_head` does.

        Call `keep` next, when it is routed.
        """
        key = data if _BEARER not in data else self._hash(data)
        known = self._uploads.get(key)
        if known is not None:
            # Not the same framing for two: it counts the bytes of one body.
            return known, Sized(known.request.size or 0)
        head = parse_head(data, self._read_fields)
        request = Request(head, None)
        has_token = "authorization" in request.fields and _take_token(request)
        try:
            framing, expects_continue = body_framing(head), head.expects_continue
        except Error as error:
            return ParsedRequest(request, keep_alive=False, fault=error), NO_BODY
        request.size = framing.size
        is_hashed = key is not data
        may_keep = len(data) <= _MAX_HEAD_SIZE and has_token <= is_hashed
        parsed = ParsedRequest(
            request,
            keep_alive=head.keep_alive,
            expects_continue=expects_continue,
            size=_entry_size(len(data), len(head.fields)),
            key=key if may_keep else None,
        )
        return parsed, framing

    def keep(self, parsed: ParsedRequest, framing: Framing) -> None:
        """Cache a request that was read and routed, unless it holds a secret."""
        key, parsed.key = parsed.key, None
        if key is None or not parsed.request.may_be_kept:
            return
        if framing is NO_BODY:
            self._bodiless.put(key, parsed)
        elif framing.size is not None:
            self._uploads.put(key, parsed)

    def _read_fields(self, lines: bytes) -> Mapping[str, str]:
        known = self._fields.get(lines)
        if known is not None:
            return known
        fields = parse_fields(lines)
        if len(lines) <= _MAX_HEAD_SIZE and not has_secret_field(fields):
            self._fields.put(lines, fields)
        return fields

    def _hash(self, data: bytes) -> bytes:
        return hashlib.blake2b(data, digest_size=32, key=self._secret).digest()


def _entry_size(length: int, fields: int) -> int:
    return _ENTRY_SIZE + _ENTRY_SIZE_PER_BYTE * length + _ENTRY_SIZE_PER_FIELD * fields


def _bounded(size: int, size_of: Callable[[bytes, _Value], int]) -> BoundedCache[bytes, _Value]:
    return BoundedCache(entries=size // _ENTRY_SIZE, size=size, size_of=size_of)


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
