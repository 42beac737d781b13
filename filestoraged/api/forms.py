"""What uploads by a form share: the body is taken apart as it comes, within its bounds."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from filestoraged.digest import Expected, Hasher
from filestoraged.errors import TooLarge
from filestoraged.web.message import Request
from filestoraged.wire.multipart import FormEvent, Multipart

# What a form may have beside the largest file: fields, heads and delimiters.
_OVERHEAD = 1024 * 1024


async def receive_form(
    request: Request,
    boundary: str,
    take: Callable[[FormEvent], None],
    *,
    limit: int | None,
    expected: Sequence[Expected] = (),
) -> None:
    """Hand what a form has to `take`. Files have `limit` bytes at most, and the whole body the digests `expected`.

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
            take(event)
            if isinstance(event, memoryview):
                # It is a view of a copy of the piece, which must not outlive it while the client pauses.
                event.release()
    form.finish()
    if whole is not None:
        whole.check()


def _check_size(size: int, limit: int | None) -> None:
    if limit is not None and size > limit + _OVERHEAD:
        raise TooLarge(limit)
