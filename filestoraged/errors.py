"""Everything that can be wrong, as one family: a class per meaning, its HTTP status beside its name.

Storage raises these and `OSError`; one function, `web.refusals.refusal`, turns both into answers.
A message is one sentence for the client: it never holds a path, a secret or a traceback. The cause
travels with `raise … from` and goes to the log.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from typing import ClassVar

# Errors of a disk or a quota that has no room left. What is there can be read and removed.
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


class Error(Exception):
    """The root. Never raised bare."""

    status: ClassVar[int] = 500
    # What the answer's "error" says where it is not the status's reason phrase.
    label: ClassVar[str | None] = None
    # Whether the connection's framing is lost with this error, so that it cannot carry another request.
    closes: ClassVar[bool] = False

    @property
    def fields(self) -> tuple[tuple[str, str], ...]:
        """The header fields that an answer with this status must have."""
        return ()


# What a client did.


class BadRequest(Error):
    """What was asked makes no sense, though it was framed well."""

    status = 400


class MalformedRequest(Error):
    """Not HTTP, or HTTP that two readers could frame in two ways."""

    status = 400
    closes = True


class MalformedMultipart(BadRequest):
    """A multipart body that is cut, or that nobody would have sent."""


class DigestMismatch(BadRequest):
    """The bytes that arrived are not those that were announced. Both digests are lower-case hex."""

    def __init__(self, algorithm: str, expected: str, actual: str) -> None:
        super().__init__(f"The {algorithm} of what arrived is {actual}, expected was {expected}.")
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
    """The token is missing or not known."""

    @property
    def fields(self) -> tuple[tuple[str, str], ...]:
        # curl and git do by a password what others do by a token (RFC 9110, section 11.6.1).
        return (("WWW-Authenticate", 'Bearer realm="filestoraged", Basic realm="filestoraged", charset="UTF-8"'),)


class Forbidden(Error):
    """Not in this way."""

    status = 403


class CrossSite(Forbidden):
    """A web page of another site sent it, see `web.browsers`. `reason` says what shows that."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"Requests from other web sites are refused: {reason}; see --allow-origin.")


class NotFound(Error):
    """Nothing by that name, which is None where a path leads nowhere."""

    status = 404

    def __init__(self, message: str = "There is no object by that name.", *, name: str | None = None) -> None:
        super().__init__(message)
        self.name = name


class MethodNotAllowed(Error):
    """The path exists, but not for this method."""

    status = 405

    def __init__(self, method: str, allowed: Iterable[str]) -> None:
        self.allowed = tuple(allowed)
        super().__init__(f"{method} is not among the methods of this path, which are {', '.join(self.allowed)}.")

    @property
    def fields(self) -> tuple[tuple[str, str], ...]:
        return (("Allow", ", ".join(self.allowed)),)


class RequestTimeout(Error):
    """The client fell silent in the middle of a request."""

    status = 408
    closes = True


class Gone(Error):
    """It was here, and somebody had it, or its time was over."""

    status = 410


class PreconditionFailed(Error):
    """A condition that the client set does not hold (RFC 9110, section 13)."""

    status = 412


class AlreadyExists(PreconditionFailed):
    """The name is taken, and the caller asked not to replace what has it."""

    def __init__(self, name: str) -> None:
        super().__init__("There is an object by that name.")
        self.name = name


class TooLarge(Error):
    """More bytes than `limit` allows."""

    status = 413

    def __init__(self, limit: int) -> None:
        super().__init__(f"At most {limit} bytes are taken.")
        self.limit = limit


class TargetTooLong(Error):
    status = 414
    closes = True


class RangeNotSatisfiable(Error):
    """No byte of the range lies inside the object of `size` bytes."""

    status = 416

    def __init__(self, size: int) -> None:
        super().__init__(f"The range lies outside of the object's {size} bytes.")
        self.size = size

    @property
    def fields(self) -> tuple[tuple[str, str], ...]:
        return (("Content-Range", f"bytes */{self.size}"),)


class ExpectationFailed(Error):
    status = 417


class MisdirectedRequest(Error):
    """The request asks for a `host` that this server does not answer for (RFC 9110, section 15.5.20)."""

    status = 421

    def __init__(self, host: str) -> None:
        super().__init__(
            f"The server does not answer for the host {host[:200]!r} on a loopback address; --host NAME adds a host."
        )
        self.host = host


class TooManyGuesses(Error):
    """Too many wrong passwords in a short time; the next may come in `retry_after` seconds."""

    status = 429

    def __init__(self, retry_after: int) -> None:
        super().__init__("Too many wrong passwords came within a minute.")
        self.retry_after = retry_after

    @property
    def fields(self) -> tuple[tuple[str, str], ...]:
        return (("Retry-After", str(self.retry_after)),)


class HeadTooLarge(Error):
    status = 431
    closes = True


class ClientGone(Error):
    """The client hung up. Its status is nginx's word for it, and for the log alone: nobody is there to be told."""

    status = 499
    closes = True


# What the server cannot do.


class CorruptObject(Error):
    """What is stored is not what was sent. `reason` says in which way."""

    status = 500
    label = "Corrupt Object"

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"The object is damaged: {reason}.")
        self.name = name
        self.reason = reason


class UnknownTransferCoding(Error):
    """A transfer coding other than chunked (RFC 9112, section 6.1)."""

    status = 501
    closes = True


class Unavailable(Error):
    """Not now, but soon."""

    status = 503

    # Seconds: a restarting memcached is back by then, and a thousand waiting clients do not stampede.
    retry_after = 5

    @property
    def fields(self) -> tuple[tuple[str, str], ...]:
        return (("Retry-After", str(self.retry_after)),)


class StoreUnavailable(Unavailable):
    """The bytes cannot be reached for now. `node` is the server that does not answer, where it is one's fault."""

    def __init__(self, message: str = "The store cannot be reached for now.", *, node: str | None = None) -> None:
        super().__init__(message)
        self.node = node


class Overloaded(Unavailable):
    """There is no room for another connection."""

    closes = True


class VersionNotSupported(Error):
    status = 505
    closes = True


class StorageFull(Error):
    """No room for the bytes (ENOSPC, EDQUOT)."""

    status = 507


class StoreFailed(Error):
    """The store cannot be read or written, for a reason outside of this program: EIO, EACCES, a damaged database.

    The cause travels along with `raise … from` and is one line in the log.
    """

    status = 500

    def __init__(self, message: str = "The store failed; the server's log says why.") -> None:
        super().__init__(message)


class InternalError(Error):
    """Whatever else went wrong: a defect of this program."""


# What an operator did.


class UsageError(Error):
    """An option, or a value in the configuration, that cannot be meant. Exit status 2."""


class StartError(Error):
    """Something outside the configuration keeps the daemon from starting. Exit status 1."""


class CheckError(Error):
    """Something outside the configuration keeps a store from being checked. Exit status 2: 1 is for what was found."""


def _names(family: type[Error]) -> tuple[str, ...]:
    return tuple(name for each in family.__subclasses__() for name in (each.__name__, *_names(each)))


# What an error may be called.
ERROR_NAMES = _names(Error)
