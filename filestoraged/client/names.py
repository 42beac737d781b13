"""Names of objects at a daemon: changed by compare-and-swap, downloaded, listed and removed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

from filestoraged.client.refusals import ServerUnreachable, UnexpectedResponse, line_of
from filestoraged.client.retries import PASSING, Retries
from filestoraged.client.sources import HashedSource, Progress, Source
from filestoraged.client.transport import ClientTransport
from filestoraged.command_errors import UsageError
from filestoraged.digest import Digest, parse_digest
from filestoraged.errors import DigestMismatch, NotFound, PreconditionFailed, quoted
from filestoraged.wire.tus import MAX_SIZE

_SPACE = re.compile(r"(?!\.{1,2}\Z)[A-Za-z0-9._\-]{1,128}")

# What no name has: control characters, and what is no UTF-8 in an argument of a command. A name may have other
# characters that a terminal acts on, such as the spaces of file names.
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")

# Hexadecimal digits.
_OID_LENGTH = 64

_OCTETS = "application/octet-stream"

# Names of a page, of up to 5 KB each: JSON has three characters for each of the 1,024 bytes of a name, and six for each
# of the 255 characters of its type. A document has 4 MiB at most.
_PAGE = 800

# Characters that mean themselves in a path, besides those that `quote` never encodes.
_PATH_CHARS = "/!$&'()*+,;=:@"


class NameReference(NamedTuple):
    """A name, and the space that it is in."""

    space: str
    name: str

    def __str__(self) -> str:
        return f"{self.space}/{self.name}"


class NamedObject(NamedTuple):
    """What a name leads to. `size` is in bytes; times are such as 2026-11-22T10:00:00Z, `expires` None for never."""

    name: str
    oid: Digest
    size: int
    modified: str
    expires: str | None


def condition_fields(*, if_new: bool = False, if_oid: str | None = None) -> dict[str, str]:
    """What a change of a name requires: that the name does not exist, or that it leads to `if_oid`.

    Raises UsageError for what is no oid.
    """
    digest = None if if_oid is None else parse_digest(if_oid)
    if if_oid is not None and (digest is None or len(digest) != _OID_LENGTH):
        raise UsageError(f"invalid oid {quoted(if_oid)}: expected {_OID_LENGTH} hexadecimal digits")
    if if_new:
        return {"If-None-Match": "*"}
    return {} if digest is None else {"If-Match": f'"{digest}"'}


def parse_name(text: str) -> NameReference:
    """Read `SPACE/NAME`. Raises UsageError."""
    space, separator, name = text.partition("/")
    if not separator or not _SPACE.fullmatch(space):
        raise UsageError(f"invalid name {quoted(text)}: expected SPACE/NAME")
    _check_characters(name)
    if any(segment in ("", ".", "..") for segment in name.split("/")):
        raise UsageError(f"invalid name {quoted(text)}: expected segments that are neither empty nor . nor ..")
    return NameReference(space, name)


def _check_characters(text: str) -> None:
    if _FORBIDDEN.search(text):
        raise UsageError(f"invalid name {quoted(text)}: expected UTF-8 without control characters")


def is_name(text: str) -> bool:
    """Whether a text is a name in a space, and neither a digest nor a URL."""
    return "/" in text and "://" not in text


class NameRequests:
    """Any thread calls it. `entries` yields those of a listing at a path, which pages have under a key."""

    def __init__(
        self,
        transport: ClientTransport,
        retries: Retries,
        mount: str,
        entries: Callable[[str, str], Iterator[Any]],
    ) -> None:
        self._transport = transport
        self._retries = retries
        self._mount = mount.rstrip("/")
        self._entries = entries

    def path(self, reference: NameReference) -> str:
        return f"{self._mount}/{reference.space}/{quote(reference.name, safe=_PATH_CHARS)}"

    def put(
        self,
        source: Source,
        reference: NameReference,
        *,
        ttl: int | None,
        type_: str | None,
        condition: Mapping[str, str],
        progress: Progress | None,
    ) -> NamedObject:
        """Raises PreconditionFailed, also for a name that another client has changed."""
        path = self.path(reference) + ("" if ttl is None else f"?ttl={ttl}")
        fields = {"Content-Type": type_ or _OCTETS, **condition}
        with HashedSource(source, "sha256", progress) as hashed:
            stored = self._send(path, fields, hashed)
            if hashed.digest("sha256") != stored.oid:
                hashed.check()
                raise DigestMismatch("sha256", hashed.digest("sha256"), stored.oid)
            return stored

    def find(self, reference: NameReference) -> Digest:
        """The oid of what a name leads to. Raises NotFound."""

        def ask() -> Digest:
            with self._transport.request("HEAD", self.path(reference)) as response:
                response.discard()
                return _oid(response.fields.get("etag", "").strip('"'))

        return self._retries.run(ask)

    def remove(self, reference: NameReference, condition: Mapping[str, str]) -> None:
        """Raises NotFound and PreconditionFailed."""
        attempts = self._retries.begin()
        while True:
            try:
                with self._transport.request("DELETE", self.path(reference), condition) as response:
                    response.require_status(204)
                    response.discard()
                return
            except PASSING as error:
                attempts.wait(error)
                lost = isinstance(error, ServerUnreachable)
            except (NotFound, PreconditionFailed):
                # The answer to the last attempt was lost, and that one has removed it.
                if attempts.failed and lost and self._is_missing(reference):
                    return
                raise

    def list(self, space: str, prefix: str) -> Iterator[NamedObject]:
        """Yield the names that begin with a prefix. The request for a page is sent when it is needed."""
        if not _SPACE.fullmatch(space):
            raise UsageError(f"invalid space {quoted(space)}: expected 1 to 128 letters, digits and . _ -, not . or ..")
        _check_characters(prefix)
        query = urlencode({"limit": _PAGE, **({"prefix": prefix} if prefix else {})})
        yield from map(_named, self._entries(f"{self._mount}/{space}?{query}", "names"))

    def spaces(self) -> Iterator[str]:
        yield from map(line_of, self._entries(self._mount, "spaces"))

    def _send(self, path: str, fields: Mapping[str, str], source: HashedSource) -> NamedObject:
        attempts = self._retries.begin()
        lost = False
        while True:
            try:
                with self._transport.request("PUT", path, fields, body=source.blocks(0), size=source.size) as response:
                    return _named(response.document())
            except PASSING as error:
                attempts.wait(error)
                lost = lost or isinstance(error, ServerUnreachable)
            except PreconditionFailed:
                # The answer to an attempt was lost, and that one may have changed the name: then a change without
                # condition to the same bytes changes nothing more, and says what there is.
                same = {**fields, "If-Match": f'"{source.digest("sha256")}"'}
                if not lost or fields.get("If-Match") == same["If-Match"]:
                    raise
                same.pop("If-None-Match", None)
                fields, lost = same, False

    def _is_missing(self, reference: NameReference) -> bool:
        try:
            self.find(reference)
        except NotFound:
            return True
        return False


def _named(value: object) -> NamedObject:
    """Return an entry of a listing, or the answer to an upload. Raises UnexpectedResponse."""
    fields = value if isinstance(value, dict) else {}
    size, expires = fields.get("size"), fields.get("expires")
    # A boolean is an integer, too.
    if type(size) is not int or not 0 <= size <= MAX_SIZE:
        raise UnexpectedResponse(f"the server is no filestoraged: it answered {quoted(str(value))}")
    times = line_of(fields.get("modified")), None if expires is None else line_of(expires)
    return NamedObject(_name(fields.get("name")), _oid(fields.get("oid")), size, *times)


def _oid(value: object) -> Digest:
    digest = parse_digest(value) if isinstance(value, str) else None
    if digest is None or len(digest) != _OID_LENGTH:
        raise UnexpectedResponse("the server is no filestoraged: its answer has no oid")
    return digest


def _name(value: object) -> str:
    """Return a name. Programs that print it escape what a terminal acts on."""
    if not isinstance(value, str) or _FORBIDDEN.search(value):
        raise UnexpectedResponse(f"the server is no filestoraged: it answered {quoted(str(value))}")
    return value
