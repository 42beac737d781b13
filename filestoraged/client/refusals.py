"""The errors of a client: its own, and those that responses stand for.

A status becomes the class that the daemon has raised, with its message.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from filestoraged.clock import SYSTEM_CLOCK, Clock
from filestoraged.errors import (
    BadRequest,
    ChecksumMismatch,
    Conflict,
    CorruptObject,
    Error,
    Forbidden,
    Gone,
    ListingUnsupported,
    MethodNotAllowed,
    NotFound,
    PreconditionFailed,
    RangeNotSatisfiable,
    RequestTimeout,
    StorageFull,
    StoreFailed,
    TokenRequired,
    TooLarge,
    TooManyGuesses,
    Unauthorized,
    Unavailable,
    UnsupportedMediaType,
    UploadLocked,
    quoted,
)
from filestoraged.wire.dates import parse_date
from filestoraged.wire.json_text import parse_object

# By names in lower case.
Fields = Mapping[str, str]

_SECONDS = re.compile(r"[0-9]{1,9}")
_SIZE = re.compile(r"[0-9]{1,19}")

# Seconds, where a server does not say when to retry a drop with too many wrong passwords.
_GUESSING_PAUSE = 60

# A message is shown on a terminal, and one of another program may be long.
_MAX_MESSAGE = 300


class ServerUnreachable(Error):
    """No connection can be made, or it broke. `may_retry` is False where a retry would fail in the same way."""

    def __init__(self, message: str, *, may_retry: bool = True) -> None:
        super().__init__(message)
        self.may_retry = may_retry


class UnexpectedResponse(Error):
    """The response is not one of filestoraged: another program, or a proxy, answers at that URL."""


class SourceChanged(Error):
    """The file was changed while it was uploaded."""


class TargetExists(Error):
    """A download would replace a file."""


class TargetBusy(Error):
    """Another process downloads the same object to the same file."""


def refusal(method: str, status: int, fields: Fields, body: bytes, clock: Clock = SYSTEM_CLOCK) -> Error:
    """Return the error that a response of the status 300 or more is."""
    label, message = _parse(body)
    if label is None:
        message = f"the server answered {status}" + (f": {message}" if message else "")
    if 300 <= status < 400:
        target = quoted(fields.get("location", ""))
        return UnexpectedResponse(f"the server redirects to {target}; redirects are not followed, ask there instead")
    if status == 500 and label == CorruptObject.label:
        return CorruptObject("", message.removeprefix("The object is damaged: ").rstrip("."))
    if status == 405:
        return MethodNotAllowed(method, _printable(fields.get("allow", "")).split(", "))
    make = _MADE.get(status)
    if make is None:
        return UnexpectedResponse(message if label is None else f"the server answered {status}: {message}")
    return make(message, fields, clock)


def retry_after(fields: Fields, clock: Clock) -> float | None:
    """Return the seconds that a response asks to wait; None if it does not say (RFC 9110, section 10.2.3)."""
    text = fields.get("retry-after", "")
    if _SECONDS.fullmatch(text):
        return float(text)
    date = parse_date(text)
    return None if date is None else max(0.0, date - clock.date())


def _parse(body: bytes) -> tuple[str | None, str]:
    """Return label and message of an error of the daemon; None, and no text, where another program made the body."""
    try:
        value = parse_object(body)
    except BadRequest:
        return None, ""
    if not isinstance(value.get("error"), str):
        return None, ""
    message = value.get("message", value["error"])
    return value["error"], _printable(str(message))


def _printable(message: str) -> str:
    text = "".join(each if each.isprintable() else "?" for each in message[:_MAX_MESSAGE])
    return text + "..." if len(message) > _MAX_MESSAGE else text


def _unauthorized(message: str, fields: Fields, _: Clock) -> Error:
    if 'realm="drop"' in fields.get("www-authenticate", ""):
        return Unauthorized(message)
    return TokenRequired(message)


def _too_many(message: str, fields: Fields, clock: Clock) -> Error:
    """The daemon's own answer means a drop's password; others have limits of requests, which pass."""
    if "wrong passwords" in message:
        return TooManyGuesses(int(retry_after(fields, clock) or _GUESSING_PAUSE))
    return _unavailable(message, fields, clock)


def _whole_size(fields: Fields) -> int:
    """Return the size that `Content-Range: bytes */SIZE` tells; 0 without it."""
    text = fields.get("content-range", "").rpartition("/")[2]
    return int(text) if _SIZE.fullmatch(text) else 0


def _unavailable(message: str, fields: Fields, clock: Clock) -> Unavailable:
    error = Unavailable(message)
    error.retry_after = retry_after(fields, clock) or 0.0
    return error


_MADE: dict[int, Callable[[str, Fields, Clock], Error]] = {
    400: lambda message, *_: BadRequest(message),
    401: _unauthorized,
    403: lambda message, *_: Forbidden(message),
    404: lambda message, *_: NotFound(message),
    408: lambda message, *_: RequestTimeout(message),
    409: lambda message, *_: Conflict(message),
    410: lambda message, *_: Gone(message),
    412: lambda message, *_: PreconditionFailed(message),
    413: lambda message, *_: TooLarge(None, message=message),
    415: lambda message, *_: UnsupportedMediaType(message),
    416: lambda _, fields, __: RangeNotSatisfiable("", _whole_size(fields)),
    423: lambda *_: UploadLocked(),
    429: _too_many,
    460: lambda message, *_: ChecksumMismatch(message),
    500: lambda message, *_: StoreFailed(message),
    501: lambda message, *_: ListingUnsupported(message),
    502: _unavailable,
    503: _unavailable,
    504: _unavailable,
    507: lambda message, *_: StorageFull(message),
}


def line_of(value: object) -> str:
    """Return a text that programs print in a line: without what a terminal acts on, and no other type."""
    if not isinstance(value, str) or not value.isprintable():
        raise UnexpectedResponse(f"the server is no filestoraged: it answered {quoted(str(value))}")
    return value
