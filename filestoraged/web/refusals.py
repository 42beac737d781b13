"""Errors as answers: the one place where a meaning becomes a response, and is logged if it is the server's fault."""

from __future__ import annotations

import errno
import logging
from typing import Callable, Optional

from filestoraged.errors import Error, StorageFull, Unforeseen
from filestoraged.web.message import REASONS, Response, field_lines, json_response

log = logging.getLogger(__name__)

Refuse = Callable[[Error], Response]

_FULL = (errno.ENOSPC, errno.EDQUOT)


def meaning(error: Exception) -> Error:
    """Return the meaning of any exception, and log it where it is the server's own."""
    if isinstance(error, Error):
        known = error
    elif isinstance(error, OSError) and error.errno in _FULL:
        known = StorageFull("There is no room left to store this.")
    else:
        known = Unforeseen("The server failed; its log says why.")
    if known.status in (503, 507):
        log.warning("answering %d: %s", known.status, error.__cause__ or error)
    elif known.status == 500:
        log.error("answering 500: %s", error, exc_info=error)
    return known


def refusal(error: Error, label: Optional[str] = None) -> Response:
    """The answer that most interfaces give, with a `label` of their own perhaps."""
    label = label or error.label or REASONS[error.status]
    says = {"error": label, "message": str(error) or label}
    response = json_response(error.status, says, field_lines(*error.fields))
    response.kind = type(error).__name__
    return response
