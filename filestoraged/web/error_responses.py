"""Converts errors to responses, here only, and logs those that are the server's fault."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable

from filestoraged.errors import (
    DISK_FULL,
    CorruptObject,
    Error,
    InternalError,
    QuotaExceeded,
    StorageFull,
    StoreDetached,
    StoreFailed,
    printable,
)
from filestoraged.web.response import REASONS, Response, field_lines, json_response
from filestoraged.wire.redaction import redact_text

log = logging.getLogger(__name__)

Refuse = Callable[[Error], Response]

# Only a defect of ours brings these about: a descriptor used after it was closed, or for something else.
_OURS = (errno.EBADF, errno.EFAULT, errno.ENOTSOCK)


def meaning(error: Exception) -> Error:
    """Return the meaning of any exception, and log it where it is the server's own.

    What the environment does (a full disk, permissions, damage) is one line, a defect of this program has a traceback.
    """
    known = _meaning(error)
    if isinstance(known, InternalError):
        log.error("answering 500: %s", _in_one_line(error), exc_info=error)
    elif known.status == 500:
        log.error("answering 500: %s", _in_one_line(error))
    elif known.status in (503, 507) and not isinstance(known, (QuotaExceeded, StoreDetached)):
        log.warning("answering %d: %s", known.status, _in_one_line(error))
    return known


def failure(error: Exception, client: str) -> Error:
    """Return the meaning of an exception that ends the connection of a client, and log it as `meaning` does.

    A part of a response may have been sent, so nothing can be answered.
    """
    known = _meaning(error)
    defect = error if isinstance(known, InternalError) else None
    log.error("connection of client %s broke off: %s", client, _in_one_line(error), exc_info=defect)
    return known


def refusal(error: Error, label: str | None = None) -> Response:
    """The answer that most interfaces give, with a `label` of their own perhaps."""
    label = label or error.label or REASONS[error.status]
    says = {"error": label, "message": str(error) or label}
    response = json_response(error.status, says, field_lines(*error.fields))
    response.kind = type(error).__name__
    return response


def _meaning(error: Exception) -> Error:
    if isinstance(error, Error):
        return error
    if not isinstance(error, OSError) or error.errno in _OURS:
        return InternalError("The server failed; its log says why.")
    if error.errno in DISK_FULL:
        return StorageFull("There is no room left to store this.")
    return StoreFailed()


def _in_one_line(error: Exception) -> str:
    """The cause of an error, or itself where it has none, without the ids of drops, and control characters."""
    cause = error.__cause__ or error
    if isinstance(error, CorruptObject):
        text = f"object {error.name}: {error}"
    elif isinstance(cause, Error):
        text = str(cause)
    else:
        text = f"{type(cause).__name__}: {cause}"
    # Other machines and file names have a part in it.
    return redact_text(printable(" ".join(text.split())))
