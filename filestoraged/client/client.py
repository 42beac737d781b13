"""The client as a library: one object for one daemon."""

from __future__ import annotations

import builtins
import contextlib
import os
import stat
import threading
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple, cast
from urllib.parse import quote

from filestoraged.client import saving
from filestoraged.client.download import Download
from filestoraged.client.hashing import BackgroundHash, algorithms_of
from filestoraged.client.location import (
    DaemonURL,
    DropReference,
    ObjectReference,
    parse_drop,
    parse_location,
    parse_object,
)
from filestoraged.client.names import NamedObject, NameReference, NameRequests, condition_fields, parse_name
from filestoraged.client.refusals import ServerUnreachable, UnexpectedResponse, line_of
from filestoraged.client.retries import PASSING, Retries
from filestoraged.client.saving import Saved
from filestoraged.client.sources import BytesSource, FileSource, HashedSource, Progress, Source, pieces
from filestoraged.client.transport import TIMEOUT, ClientResponse, ClientTransport
from filestoraged.client.uploader import DEFAULT_MOUNTS, Stored, Uploader, spooled
from filestoraged.command_errors import UsageError
from filestoraged.digest import Bytes, Digest, parse_digest
from filestoraged.errors import Gone, NotFound, quoted
from filestoraged.net.connection import ServerAddress
from filestoraged.wire.dates import parse_timestamp
from filestoraged.wire.parameters import attachment
from filestoraged.wire.tus import MAX_SIZE

# A path, bytes, or a binary file that is read to its end.
Content = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO

# Pages without entries, one behind the other: all objects of a page may be removed while the daemon looks them up.
_MAX_EMPTY_PAGES = 100


class Entry(NamedTuple):
    """An object in a listing. `size` is in bytes, `modified` a time such as 2026-11-22T10:00:00Z."""

    oid: Digest
    size: int
    modified: str


class Client:
    """A client of the daemon at a URL. It may be used as a with-block, at whose end its connections are closed.

    Any thread may call it: each request has a connection of its own, and idle ones are used again. It may be used on
    both sides of a fork. A `Download` belongs to one thread.

    Besides `OSError` for local files, all methods raise classes of `filestoraged.errors`: those that the daemon has
    answered, such as NotFound, Forbidden, TooLarge and StorageFull; Unavailable and ServerUnreachable where all retries
    have failed; DigestMismatch; UnexpectedResponse where no daemon answers; UsageError for an invalid argument.
    """

    def __init__(
        self,
        url: str = "http://localhost:8080",
        *,
        token: str | None = None,
        mounts: Mapping[str, str] | None = None,
        algorithm: str | None = None,
        cacert: str | None = None,
        timeout: float = TIMEOUT,
        retries: Retries | None = None,
        state_directory: str | None = None,
    ) -> None:
        """`url` is `http://HOST[:PORT][/PREFIX]`, `https://…` or `unix:/path`. No request is sent.

        `mounts` has the prefixes of interfaces that are not at their defaults. `algorithm` is the daemon's `--hash`; it
        is found out where it is not given. `cacert` is a file of certificates to trust instead of the system's.
        `timeout` is how many seconds the server may be silent. `state_directory` is where large uploads are noted, so
        that a later client with the same directory continues them; without it, they are continued by this client alone.
        """
        unknown = (mounts or {}).keys() - DEFAULT_MOUNTS.keys()
        if unknown:
            raise UsageError(f"unknown interface {min(unknown)!r}: expected one of {', '.join(DEFAULT_MOUNTS)}")
        self._mounts = {**DEFAULT_MOUNTS, **(mounts or {})}
        self._retries = retries or Retries()
        self._token, self._timeout, self._cacert = token, timeout, cacert
        self._transport = ClientTransport(parse_location(url), token=token, timeout=timeout, cacert=cacert)
        self._uploader = Uploader(
            self._transport, self._retries, self._mounts, algorithm=algorithm, state_directory=state_directory
        )
        self._names = NameRequests(self._transport, self._retries, self._mounts["names"], self._entries)
        # Transports by the endpoints of URLs that methods were given; the lock guards them.
        self._others: dict[ServerAddress, ClientTransport] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close idle connections. The client can still be used."""
        self._transport.close()
        with self._lock:
            for each in self._others.values():
                each.close()

    def put(self, content: Content, repository: str | None = None, *, progress: Progress | None = None) -> Stored:
        """Store content as an object of `files`, or of a repository.

        A regular file is sent again, or continued, where a connection breaks. Other content than paths and bytes is
        read to its end, 8 MiB at a time. Raises SourceChanged if a file is changed meanwhile.
        """
        if isinstance(content, (bytes, bytearray, memoryview)):
            return self._uploader.put(BytesSource(bytes(content)), repository, progress=progress)
        if not isinstance(content, (str, os.PathLike)):
            return self._uploader.put_stream(content, repository, progress=progress)
        with open(content, "rb", buffering=0) as file:
            if not _has_size(file.fileno()):
                return self._uploader.put_stream(file, repository, progress=progress)
            source = FileSource(file.fileno())
            key = (os.path.realpath(content), source.size, source.modified)
            return self._uploader.put(source, repository, key=key, progress=progress)

    def get(self, name: str, repository: str | None = None) -> Download:
        """Begin the download of an object by its digest, or by its URL. Iterate over the result for its bytes.

        DigestMismatch is raised behind the last block, if the bytes are not those of the name.
        """
        reference = parse_object(name)
        return self._begin(reference, repository, self._algorithms(reference, repository), None)

    def save(
        self,
        name: str,
        path: str | os.PathLike[str],
        repository: str | None = None,
        *,
        overwrite: bool = False,
        progress: Progress | None = None,
    ) -> Saved:
        """Download an object to a file. The file appears when it is complete and verified.

        A download that breaks off is continued, also by a later call. Raises TargetExists, TargetBusy, StorageFull.
        """
        reference = parse_object(name)
        algorithms = self._algorithms(reference, repository)

        def begin(known: BackgroundHash | None) -> Download:
            return self._begin(reference, repository, algorithms[:1], known)

        return saving.save_object(
            begin, os.fspath(path), reference.digest, algorithms, overwrite=overwrite, progress=progress
        )

    def delete(self, name: str, repository: str | None = None) -> None:
        """Remove an object by its digest, or by its URL. Raises NotFound."""
        transport, path = self._place(parse_object(name), repository)
        attempts = self._retries.begin()
        while True:
            try:
                with transport.request("DELETE", path) as response:
                    response.require_status(200)
                    response.discard()
                return
            except PASSING as error:
                attempts.wait(error)
                lost = isinstance(error, ServerUnreachable)
            except NotFound:
                # The answer to the last attempt was lost, and that one has removed it.
                if attempts.failed and lost:
                    return
                raise

    def repositories(self) -> Iterator[str]:
        """Yield the names of all repositories, in order. The request for a page is sent when it is needed."""
        yield from map(line_of, self._entries(self._mounts["repositories"], "repositories"))

    def list(self, repository: str) -> Iterator[Entry]:
        """Yield the objects of a repository by oid. The request for a page is sent when it is needed."""
        yield from map(_entry, self._entries(self._uploader.target(repository).path, "objects"))

    def put_name(
        self,
        space: str,
        name: str,
        content: Content,
        *,
        ttl: int | None = None,
        content_type: str | None = None,
        if_new: bool = False,
        if_oid: str | None = None,
        progress: Progress | None = None,
    ) -> NamedObject:
        """Let a name of a space lead to content. It expires after `ttl` seconds, if that is given.

        With `if_new` the name must not exist; with `if_oid` it must lead to the object with that oid. Raises
        PreconditionFailed otherwise: of several clients that require the same, one succeeds.
        """
        reference, condition = parse_name(f"{space}/{name}"), condition_fields(if_new=if_new, if_oid=if_oid)
        with _sent(content) as source:
            return self._names.put(
                source, reference, ttl=ttl, type_=content_type, condition=condition, progress=progress
            )

    def get_name(self, space: str, name: str) -> Download:
        """Begin the download of what a name leads to. Raises PreconditionFailed where the name is changed meanwhile."""
        reference = parse_name(f"{space}/{name}")
        return self._begin_name(reference, self._names.find(reference), None)

    def save_name(
        self,
        space: str,
        name: str,
        path: str | os.PathLike[str],
        *,
        overwrite: bool = False,
        progress: Progress | None = None,
    ) -> Saved:
        """Download what a name leads to into a file, as `save` does."""
        reference = parse_name(f"{space}/{name}")
        oid = self._names.find(reference)

        def begin(known: BackgroundHash | None) -> Download:
            return self._begin_name(reference, oid, known)

        return saving.save_object(begin, os.fspath(path), oid, ["sha256"], overwrite=overwrite, progress=progress)

    def delete_name(self, space: str, name: str, *, if_oid: str | None = None) -> None:
        """Remove a name; with `if_oid`, if it leads to that object. Raises NotFound and PreconditionFailed."""
        self._names.remove(parse_name(f"{space}/{name}"), condition_fields(if_oid=if_oid))

    def names(self, space: str, prefix: str = "") -> Iterator[NamedObject]:
        """Yield the names of a space that begin with a prefix, in the order of their bytes."""
        return self._names.list(space, prefix)

    def spaces(self) -> Iterator[str]:
        """Yield the spaces that have names, in order."""
        return self._names.spaces()

    def create_drop(
        self,
        content: Content,
        *,
        name: str | None = None,
        password: str | None = None,
        progress: Progress | None = None,
    ) -> str:
        """Store content as a drop, and return its link. `name` is that of the file by default.

        Raises TooLarge for more than the daemon's --drop-size, 16 MiB unless it says otherwise.
        """
        default = os.path.basename(content) if isinstance(content, (str, os.PathLike)) else "file"
        with _sent(content) as source:
            return self._create_drop(source, name or default, password, progress)

    def fetch_drop(self, link: str, *, password: str | None = None) -> Download:
        """Begin the download of a drop by its link or id. It can be downloaded once.

        Raises Gone, Unauthorized without the right password, and TooManyGuesses, which is not retried. If the download
        breaks off, the drop is available again, five times at most.
        """
        reference = parse_drop(link)
        return Download(
            lambda _: self._ask_drop(reference, password),
            self._retries,
            digest=None,
            algorithms=["sha256"],
            hashed=None,
            limit=saving.MAX_DROP_SIZE,
        )

    def save_drop(
        self,
        link: str,
        path: str | os.PathLike[str] | None = None,
        *,
        password: str | None = None,
        overwrite: bool = False,
        progress: Progress | None = None,
    ) -> Saved:
        """Download a drop to a file; without a `path` to one of its own name in the working directory, or NAME.1.

        It is asked for when the file can be written and the disk has room for 16 MiB, the largest drop by default. If
        another program makes the file meanwhile, the drop gets a name of its own beside it, as `path` of the result
        tells.
        """
        target = None if path is None else os.fspath(path)
        if target is not None:
            saving.check_target(target, overwrite=overwrite)
        directory = "" if target is None else os.path.dirname(target)
        attempts = self._retries.begin()
        with saving.room_for_drop(directory) as part:
            while True:
                try:
                    with self.fetch_drop(link, password=password) as download:
                        return saving.save_drop(
                            download, part, directory, target, overwrite=overwrite, progress=progress
                        )
                except ServerUnreachable as error:
                    attempts.wait(error)
                except Gone as error:
                    # The daemon may not have noticed yet that the last attempt broke off.
                    if not attempts.failed:
                        raise
                    attempts.wait(error)

    def _create_drop(self, source: Source, name: str, password: str | None, progress: Progress | None) -> str:
        boundary = os.urandom(16).hex()
        head, tail = _form(boundary, _drop_name(name), password)

        def body(hashed: HashedSource) -> Iterable[Bytes]:
            yield head
            yield from hashed.blocks(0)
            yield tail

        fields = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        path = f"{self._mounts['drops'].rstrip('/')}/file"
        size = len(head) + source.size + len(tail)
        with HashedSource(source, "sha256", progress) as hashed:
            link = self._uploader.send("PUT", path, fields, lambda: body(hashed), size).get("url")
        if link is None:
            raise UnexpectedResponse("the server is no filestoraged: its answer to a drop has no url")
        return line_of(link)

    def _ask_drop(self, reference: DropReference, password: str | None) -> ClientResponse:
        if reference.location is None:
            transport, path = self._transport, f"{self._mounts['drops'].rstrip('/')}/file/{reference.id}"
        else:
            transport, path = self._at(reference.location), reference.path
        if password is None:
            return transport.request("GET", path)
        if transport.has_token:
            # The field for a password has the token.
            return transport.request("GET", f"{path}?password={quote(password, safe='')}")
        # Proxies log queries.
        encoded = b64encode(f":{password}".encode()).decode()
        return transport.request("GET", path, {"Authorization": f"Basic {encoded}"})

    def _begin(
        self,
        reference: ObjectReference,
        repository: str | None,
        algorithms: Sequence[str],
        known: BackgroundHash | None,
    ) -> Download:
        transport, path = self._place(reference, repository)

        def ask(start: int) -> ClientResponse:
            fields = {"Range": f"bytes={start}-", "If-Range": f'"{reference.digest}"'} if start else {}
            return transport.request("GET", path, fields)

        return Download(ask, self._retries, digest=reference.digest, algorithms=algorithms, hashed=known)

    def _begin_name(self, reference: NameReference, oid: Digest, known: BackgroundHash | None) -> Download:
        path = self._names.path(reference)

        def ask(start: int) -> ClientResponse:
            # The bytes that were received before are of this object.
            fields = {"If-Match": f'"{oid}"', **({"Range": f"bytes={start}-"} if start else {})}
            return self._transport.request("GET", path, fields)

        return Download(ask, self._retries, digest=oid, algorithms=["sha256"], hashed=known)

    def _place(self, reference: ObjectReference, repository: str | None) -> tuple[ClientTransport, str]:
        """Return where an object is."""
        if reference.location is not None:
            return self._at(reference.location), reference.path
        return self._transport, f"{self._uploader.target(repository).path.rstrip('/')}/{reference.digest}"

    def _algorithms(self, reference: ObjectReference, repository: str | None) -> Sequence[str]:
        """Return the algorithms that may have made a digest, the most likely first."""
        if repository is not None:
            return ["sha256"]
        possible = algorithms_of(reference.digest)
        known = [name for name in possible if name == self._uploader.algorithm]
        return known or possible or ["sha256"]

    def _entries(self, path: str, key: str) -> Iterator[Any]:
        """Yield the entries of a listing, which its pages have under a key."""
        after, empty = "", 0
        while True:
            separator = "&" if "?" in path else "?"
            page = self._page(path + (f"{separator}after={quote(after, safe='')}" if after else ""))
            entries, following = page.get(key), page.get("next")
            if not isinstance(entries, builtins.list) or not (following is None or isinstance(following, str)):
                raise UnexpectedResponse(f"the server is no filestoraged: its listing has no {key}")
            yield from entries
            if following is None:
                return
            empty = 0 if entries else empty + 1
            if following.encode() <= after.encode() or empty > _MAX_EMPTY_PAGES:
                raise UnexpectedResponse("the server is no filestoraged: its listing does not end")
            after = following

    def _page(self, path: str) -> dict[str, Any]:
        def ask() -> dict[str, Any]:
            with self._transport.request("GET", path, {"Accept": "application/json"}) as response:
                return response.document()

        return self._retries.run(ask)

    def _at(self, location: DaemonURL) -> ClientTransport:
        """Return the transport for the origin of a URL. Only the client's own daemon gets its token."""
        with self._lock:
            if location.endpoint not in self._others:
                is_own = location.endpoint == self._transport.location.endpoint
                self._others[location.endpoint] = ClientTransport(
                    location, token=self._token if is_own else None, timeout=self._timeout, cacert=self._cacert
                )
            return self._others[location.endpoint]


@contextlib.contextmanager
def _sent(content: Content) -> Iterator[Source]:
    """A source for one request, for the length of a with-block. A stream is copied to a temporary file."""
    if isinstance(content, (bytes, bytearray, memoryview)):
        yield BytesSource(bytes(content))
    elif not isinstance(content, (str, os.PathLike)):
        with spooled(piece.data for piece in pieces(content)) as source:
            yield source
    else:
        with open(content, "rb", buffering=0) as file:
            if _has_size(file.fileno()):
                yield FileSource(file.fileno())
            else:
                with _sent(file) as copied:
                    yield copied


def _has_size(descriptor: int) -> bool:
    """Whether a file has the size that it claims. Files of /proc claim to be empty."""
    status = os.fstat(descriptor)
    return stat.S_ISREG(status.st_mode) and (status.st_size > 0 or not os.pread(descriptor, 1, 0))


def _entry(value: object) -> Entry:
    """Return an object of a listing. Raises UnexpectedResponse."""
    fields = value if isinstance(value, dict) else {}
    oid, size, modified = line_of(fields.get("oid")), fields.get("size"), line_of(fields.get("modified"))
    # A boolean is an integer, too.
    is_size = type(size) is int and 0 <= size <= MAX_SIZE
    if parse_digest(oid) != oid or not is_size or parse_timestamp(modified) is None:
        raise UnexpectedResponse(f"the server is no filestoraged: its listing has {quoted(str(value))}")
    return Entry(Digest(oid), cast(int, size), modified)


def _form(boundary: str, name: str, password: str | None) -> tuple[bytes, bytes]:
    """Return what precedes and what follows the file in the form of a drop."""
    head = ""
    if password is not None:
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="password"\r\n\r\n{password}\r\n'
    # Unlike forms of browsers, with the extended parameter: it tells any name unambiguously.
    disposition = 'form-data; name="file"' + attachment(name).removeprefix("attachment")
    head += f"--{boundary}\r\nContent-Disposition: {disposition}\r\nContent-Type: application/octet-stream\r\n\r\n"
    return head.encode(), f"\r\n--{boundary}--\r\n".encode()


def _drop_name(name: str) -> str:
    """Return a name that a drop may have: UTF-8 without control characters, 255 bytes at most."""
    text = os.fsencode(os.path.basename(name)).decode("utf-8", "replace")
    printable = "".join(each if each.isprintable() else "_" for each in text)
    return printable.encode()[:255].decode("utf-8", "ignore") or "file"
