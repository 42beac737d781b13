"""Requests that were read before, by their bytes: reading one again would say the same."""

from __future__ import annotations

import functools
from typing import Dict, Mapping, NamedTuple, Optional

from filestoraged.web.message import Request
from filestoraged.wire.body import Framing, Sized
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
        # By a head and what follows it, which is nothing; and by the heads of bodies that have a length.
        self._questions: Dict[bytes, Asked] = {}
        self._uploads: Dict[bytes, Asked] = {}
        # A client that asks for something else sends the same fields below its request line.
        self._parse_fields = functools.lru_cache(_REMEMBERED)(parse_fields)

    def recall(self, data: bytes) -> Optional[Asked]:
        """Return what `data` was read as, where it is one whole request without a body that was read before."""
        return self._questions.get(data)

    def read(self, data: bytes) -> Asked:
        """Read a whole head. Raises what `parse_head` and `body_framing` do, and ExpectationFailed."""
        known = self._uploads.get(data)
        if known is not None:
            # A framing counts the bytes of one body.
            return Asked(known.request, Sized(known.request.size or 0), *known[2:])
        head = parse_head(data, self._read_fields)
        framing = body_framing(head)
        request = Request(head, framing.size)
        asked = Asked(request, framing, head.keep_alive, head.version >= (1, 1), head.expects_continue)
        if len(data) <= _MEMORABLE and not request.secret:
            if framing is NO_BODY:
                _remember(self._questions, data, asked)
            elif framing.size is not None:
                _remember(self._uploads, data, asked)
        return asked

    def _read_fields(self, lines: bytes) -> Mapping[str, str]:
        if len(lines) > _MEMORABLE or b"authorization:" in lines.lower():
            return parse_fields(lines)
        return self._parse_fields(lines)


def _remember(table: Dict[bytes, Asked], data: bytes, asked: Asked) -> None:
    if len(table) >= _REMEMBERED:
        table.clear()
    table[data] = asked
