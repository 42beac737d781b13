"""Requests that were read before, by their bytes: reading one again would say the same."""

from __future__ import annotations

import functools
from typing import Dict, Mapping, NamedTuple, Optional

from filestoraged.web.message import Request
from filestoraged.wire.body import Framing
from filestoraged.wire.framing import NO_BODY, body_framing
from filestoraged.wire.head import parse_fields, parse_head

# How many are remembered, and how long they may be, in bytes: some 2 MiB. Longer ones are not those of many clients.
_REMEMBERED = 1024
_MEMORABLE = 1024


class Asked(NamedTuple):
    """A request as it was read, and what its connection has to know of it."""

    request: Request
    framing: Framing
    keep_alive: bool
    speaks_1_1: bool
    expects_continue: bool


class Memory:
    """Reads requests. What may hold a password is not remembered.

    Many threads use it. Two that read the same at once remember the same.
    """

    def __init__(self) -> None:
        self._asked: Dict[bytes, Asked] = {}
        # A client that asks for something else sends the same fields below its request line.
        self._parse_fields = functools.lru_cache(_REMEMBERED)(parse_fields)

    def recall(self, data: bytes) -> Optional[Asked]:
        """Return what the bytes of one whole request, without a body, were read as."""
        return self._asked.get(data)

    def read(self, data: bytes) -> Asked:
        """Read a whole head. Raises what `parse_head` and `body_framing` do, and ExpectationFailed."""
        head = parse_head(data, self._read_fields)
        framing = body_framing(head)
        request = Request(head, framing.size)
        asked = Asked(request, framing, head.keep_alive, head.version >= (1, 1), head.expects_continue)
        if framing is NO_BODY and len(data) <= _MEMORABLE and not request.secret:
            if len(self._asked) >= _REMEMBERED:
                self._asked.clear()
            self._asked[data] = asked
        return asked

    def _read_fields(self, lines: bytes) -> Mapping[str, str]:
        if len(lines) > _MEMORABLE or b"uthorization:" in lines:
            return parse_fields(lines)
        return self._parse_fields(lines)
