"""Receives multipart forms: parses the body piece by piece, within its bounds."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from filestoraged.digest import Expected, Hasher
from filestoraged.errors import TooLarge
from filestoraged.web.request import Request
from filestoraged.wire.multipart import FormEvent, Multipart

# Maximum size of all else in a form than the file, in bytes: fields, heads and delimiters.
_OVERHEAD = 1024 * 1024


async def receive_form(
    request: Request,
    boundary: str,
    receive: Callable[[FormEvent], None],
    *,
    limit: int | None,
    expected: Sequence[Expected] = (),
) -> None:
    """Pass the parts and bytes of a form to `receive`. `limit` is the maximum size of the file, in bytes.

    `expected` are the announced digests of the whole body.

    Raises TooLarge, MalformedMultipart and DigestMismatch.
    """
    form = Multipart(boundary)
    whole = Hasher(expected[0].algorithm, expected) if expected else None
    _check_size(request.size or 0, limit)
    received = 0
    async for piece in request.body:
        received += len(piece)
        _check_size(received, limit)
        if whole is not None:
            whole.update(piece)
        for event in form.feed(piece):
            receive(event)
            if isinstance(event, memoryview):
                # The view would keep a copy of the piece in memory while the client pauses.
                event.release()
    form.finish()
    if whole is not None:
        whole.check()


def least_size(request: Request) -> int:
    """The bytes that the file of a form has at least, as far as they are declared."""
    return max(0, (request.size or 0) - _OVERHEAD)


def _check_size(size: int, limit: int | None) -> None:
    if limit is not None and size > limit + _OVERHEAD:
        raise TooLarge(limit)
