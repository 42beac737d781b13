"""The errors that a daemon answers, as one table: a class per meaning, with its HTTP status.

Storage raises these classes and `OSError`; one module, `web.error_responses`, maps both to responses. The errors that
end a command are in `command_errors`, and those of clients alone in `client.refusals`.
A message is one sentence for the client and contains no path, no secret and no traceback. The cause travels with
`raise ... from` and goes to the log.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from typing import ClassVar

# Errors of a full disk or an exhausted quota. Stored bytes can still be read and removed.
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)

# Characters of an offending value that a message repeats: enough to recognise it in a log line.
MAX_QUOTED = 80


class Error(Exception):
    """The root; never raised itself."""

    status: ClassVar[int] = 500
    # "error" in the response's body, where it is not the reason phrase of the status.
    label: ClassVar[str | None] = None
    # The connection closes after the response: where the next request begins is unknown.
    closes: ClassVar[bool] = False

    @property
    def fields(self) -> tuple[tuple[str, str], ...]:
        """Header fields that the response must have."""
        return ()


# 4xx: the client's errors.


class BadRequest(Error):
    """The request is framed correctly, but its content is invalid."""

    status = 400


class MalformedRequest(Error):
    """The request is not HTTP, or two parsers could frame it in two ways."""

    status = 400
    closes = True


class MalformedMultipart(BadRequest):
    """The multipart body is truncated or invalid."""


class DigestMismatch(BadRequest):
    """The received bytes do not have the announced digest. Both digests are lower-case hex."""

    def __init__(self, algorithm: str, expected: str, actual: str) -> None:
        super().__init__(f"The {algorithm} digest of the received bytes is {actual}; expected {expected}.")
        self.algorithm = algorithm
        self.expected = expected
        self.actual = actual


class Unauthorized(Error):
    """The password is missing or wrong."""

    status = 401

    @property
    def fields(self) -> tuple[tuple[str, str], ...]:
        return (("WWW-Authenticate", 'Basic realm="drop", charset="UTF-8"'),)


class TokenRequired(Unauthorized):
    """The token is missing or unknown."""

    @property
    def fields(self) -> tuple[tuple[str, str], ...]:
        # curl and git send a token as the password of Basic authentication (RFC 9110, section 11.6.1).
        return (("WWW-Authenticate", 'Bearer realm="filestoraged", Basic realm="filestoraged", charset="UTF-8"'),)


class Forbidden(Error):
    """The request is understood and refused."""

    status = 403


class CrossSite(Forbidden):
    """The request was sent by a page of another web site, as `reason` shows; see `web.cross_site`."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"Requests from other web sites are refused: {reason}; see --allow-origin.")


class NotFound(Error):
    """No object, key or route has that name. `name` is None for a route."""

    status = 404

    def __init__(self, message: str = "There is no object by that name.", *, name: str | None = None) -> None:
        super().__init__(message)
        self.name = name


class MethodNotAllowed(Error):
    """The path exists, but not for this method. `allowed` lists the methods that it has."""

    status = 405

    def __init__(self, method: str, allowed: Iterable[str]) -> None:
        self.allowed = tuple(allowed)
        super().__init__(f"Method {quoted(method)} is not allowed; expected {', '.join(self.allowed)}.")

    @property
    def fields(self) -> tuple[tuple[str, str], ...]:
        return (("Allow", ", ".join(self.allowed)),)


class RequestTimeout(Error):
    """The client sent nothing for too long in the middle of a request."""

    status = 408
    closes = True


class Conflict(Error):
    """The request contradicts what the server has or supports."""

    status = 409


class OffsetConflict(Conflict):
    """A piece of an upload does not begin where the server has the last byte, at `offset`."""

    def __init__(self, offset: int, given: int) -> None:
        super().__init__(f"The upload has {offset} bytes, and the request begins at {given}.")
        self.offset = offset

    @property
    def fields(self) -> tuple[tuple[str, str], ...]:
        return (("Upload-Offset", str(self.offset)),)


class Gone(Error):
    """The object existed, and was claimed or has expired."""

    status = 410


class PreconditionFailed(Error):
    """A condition of the request does not hold (RFC 9110, section 13)."""

    status = 412


class ProtocolVersionUnsupported(PreconditionFailed):
    """The request is for another version of the tus protocol."""


class AlreadyExists(PreconditionFailed):
    """An object has the name already, and the request forbids overwriting it."""

    def __init__(self, name: str) -> None:
        super().__init__("An object by that name exists already.")
        self.name = name


class TooLarge(Error):
    """The content has more than `limit` bytes: `size` bytes, or None where the rest was not received.

    A client does not know the `limit` of the server that refuses its upload: None.
    """

    status = 413

    def __init__(self, limit: int | None, *, size: int | None = None, message: str | None = None) -> None:
        content = "Content" if size is None else f"Content of {size} bytes"
        bound = "the limit" if limit is None else f"the limit of {limit} bytes"
        super().__init__(message or f"{content} exceeds {bound}.")
        self.limit = limit
        self.size = size


class TooManyObjects(Error):
    """A request names more objects than the server looks up at once."""

    status = 413

    def __init__(self, limit: int, number: int) -> None:
        super().__init__(f"The request names {number} objects; expected {limit} at most.")


class TargetTooLong(Error):
    """The request target exceeds its limit."""

    status = 414
    closes = True


class UnsupportedMediaType(Error):
    """The Content-Type is not the one that the request needs."""

    status = 415


class RangeNotSatisfiable(Error):
    """The Range `field` selects no bytes of an object of `size` bytes."""

    status = 416

    def __init__(self, field: str, size: int) -> None:
        super().__init__(f"Range {quoted(field)} selects no bytes of the object, which has {size} bytes.")
        self.size = size

    @property
    def fields(self) -> tuple[tuple[str, str], ...]:
        return (("Content-Range", f"bytes */{self.size}"),)


class ExpectationFailed(Error):
    """The Expect field asks for something other than `100-continue`."""

    status = 417


class MisdirectedRequest(Error):
    """The server does not answer for `host` (RFC 9110, section 15.5.20)."""

    status = 421

    def __init__(self, host: str) -> None:
        super().__init__(f"Host {quoted(host)} is not served on a loopback address; --host NAME adds a host.")
        self.host = host


class Unprocessable(Error):
    """The request is framed correctly, but its content is invalid. BadRequest, as the Git LFS API wants it."""

    status = 422


class UploadLocked(Error):
    """Another request adds to the upload at present."""

    status = 423

    def __init__(self) -> None:
        super().__init__("Another request holds the upload; retry when it has ended, or was silent for 5 s.")


class TooManyGuesses(Error):
    """Too many wrong passwords within a minute; the next attempt is allowed in `retry_after` seconds."""

    status = 429

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"Too many wrong passwords within a minute; retry in {retry_after} s.")
        self.retry_after = retry_after

    @property
    def fields(self) -> tuple[tuple[str, str], ...]:
        return (("Retry-After", str(self.retry_after)),)


class HeadTooLarge(Error):
    """The request head exceeds its limit of bytes or of fields."""

    status = 431
    closes = True


class ChecksumMismatch(Error):
    """The bytes of an upload or of a piece of it do not have the announced digest (tus 1.0.0, "Checksum")."""

    status = 460


class ClientGone(Error):
    """The client closed the connection. The status is nginx's, for the log and the metrics alone."""

    status = 499
    closes = True


# 5xx: the server's errors.


class CorruptObject(Error):
    """The stored bytes are not those that were uploaded. `reason` names the damage."""

    status = 500
    label = "Corrupt Object"

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"The object is damaged: {reason}.")
        self.name = name
        self.reason = reason


class ContentCut(Error):
    """A file had fewer bytes than the head of its response announced: it was truncated while it was sent."""

    status = 500


class UnknownTransferCoding(Error):
    """The transfer coding is not chunked (RFC 9112, section 6.1)."""

    status = 501
    closes = True


class ListingUnsupported(Error):
    """The store keeps no index of its objects' names."""

    status = 501

    def __init__(self, message: str = "This store cannot list its objects.") -> None:
        super().__init__(message)


class Unavailable(Error):
    """The server cannot answer now; a retry can succeed."""

    status = 503

    # Seconds: a restarting memcached is back by then, and a thousand waiting clients do not stampede.
    retry_after: float = 5

    @property
    def fields(self) -> tuple[tuple[str, str], ...]:
        return (("Retry-After", str(self.retry_after)),)


class StoreUnavailable(Unavailable):
    """The store cannot be reached. `node` is the memcached server that does not answer, or None."""

    def __init__(self, message: str = "The store cannot be reached; retry later.", *, node: str | None = None) -> None:
        super().__init__(message)
        self.node = node


class StoreDetached(StoreUnavailable):
    """The store's directory or a database is not the one that was opened: unmounted, moved, replaced, or its disk died.

    `subject` says which. Its loss is logged once, by what finds it, and not for each request that fails.
    """

    def __init__(self, subject: str) -> None:
        super().__init__(f"{subject} was unmounted, moved or replaced, or its disk failed; retry later.")


class JournalDamaged(StoreUnavailable):
    """A segment of a journal cannot be understood, so that its store is not known to be whole.

    `cause` is for the operator, and names the file.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__("The store's journal is damaged; it needs its operator.")
        self.path = path
        self.reason = reason
        self.cause = (
            f"cannot replay the journal {path!r}: {reason}; 'filestoraged check --repair' moves it to quarantine"
        )


class Overloaded(Unavailable):
    """The connection limit is reached."""

    closes = True


class VersionNotSupported(Error):
    """The major version of HTTP is not 1."""

    status = 505
    closes = True


class StorageFull(Error):
    """The disk or the quota is full (ENOSPC, EDQUOT)."""

    status = 507


class QuotaExceeded(Error):
    """The operator's quota of an area has no room for an upload. All numbers are bytes."""

    status = 507

    def __init__(self, area: str, quota: int, *, stored: int, added: int) -> None:
        super().__init__(
            f"The quota of {area} is {quota} bytes, of which {stored} are used: there is no room for {added} more."
        )
        self.quota = quota


class StoreFailed(Error):
    """The store cannot be read or written for a reason outside of this program: EIO, EACCES, a damaged database."""

    status = 500

    def __init__(self, message: str = "The store failed; the server's log says why.") -> None:
        super().__init__(message)


class InternalError(Error):
    """A defect of this program."""

    status = 500


def quoted(value: str) -> str:
    """Return `value` as a message quotes it: by `repr`, which escapes control characters, and cut to MAX_QUOTED."""
    return repr(value) if len(value) <= MAX_QUOTED else f"{value[:MAX_QUOTED]!r}..."


def printable(text: str) -> str:
    """Return text with what a terminal or a log would act on escaped, and bytes that are no UTF-8."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def _names(family: type[Error]) -> tuple[str, ...]:
    return tuple(name for each in family.__subclasses__() for name in (each.__name__, *_names(each)))


# Names of these classes: values of the label by which metrics count errors.
ERROR_NAMES = _names(Error)
