"""Uploads: small content by one request, large content so that it goes on where a connection broke.

The digest that the daemon answers is compared with that of the bytes sent. Which algorithm names the objects of `files`
is the daemon's own matter: the first answer tells.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple

from filestoraged.client import resumable
from filestoraged.client.hashing import algorithms_of
from filestoraged.client.refusals import UnexpectedResponse
from filestoraged.client.resumable import ResumableUpload, UploadLost
from filestoraged.client.retries import Retries
from filestoraged.client.sources import BytesSource, FileSource, HashedSource, Piece, Progress, Source, pieces
from filestoraged.client.transport import ClientTransport
from filestoraged.client.upload_state import UploadState
from filestoraged.command_errors import UsageError
from filestoraged.digest import ALGORITHMS, Bytes, Digest, new_hash, parse_digest
from filestoraged.errors import DigestMismatch, Gone, quoted

# Prefixes of the interfaces at a daemon that has no `--mount`.
DEFAULT_MOUNTS = {
    "files": "/",
    "repositories": "/data",
    "drops": "/vimeo/api/v1.0",
    "uploads": "/uploads",
    "names": "/names",
}

# Bytes. Below, sending again what a broken connection has lost takes less time than the two more requests.
RESUMABLE_SIZE = 16 * 1024 * 1024

_REPOSITORY = re.compile(r"(?!\.{1,2}\Z)[A-Za-z0-9._\-]{1,128}")

_OCTETS = {"Content-Type": "application/octet-stream"}


class Stored(NamedTuple):
    """An object that the daemon has. `size` is in bytes; `repository` is None for an object of `files`."""

    digest: Digest
    size: int
    url: str
    repository: str | None = None


class Destination(NamedTuple):
    """Where objects go. `name` is the target of a resumable upload, `key` that of the digest in the answer."""

    name: str
    method: str
    path: str
    key: str
    repository: str | None


class Uploader:
    """Any thread calls it. What it learns of the daemon is the same for each of them."""

    def __init__(
        self,
        transport: ClientTransport,
        retries: Retries,
        mounts: Mapping[str, str],
        *,
        algorithm: str | None = None,
        state_directory: str | None = None,
    ) -> None:
        self._transport = transport
        self._retries = retries
        self._mounts = mounts
        # Of `files`; None until an answer has told.
        self.algorithm = algorithm
        self._state_directory = state_directory

    def put(
        self, source: Source, repository: str | None, *, key: Sequence[str | int] = (), progress: Progress | None = None
    ) -> Stored:
        """Store a source. With a `key`, which identifies it, a later run continues an upload that breaks off here."""
        target = self.target(repository)
        with HashedSource(source, self._expected_algorithm(target), progress) as hashed:
            sent = self._put_resumable(hashed, target, key) if source.size >= RESUMABLE_SIZE else None
            answer, announced = sent or (self._put_plain(hashed, target), None)
            return self._checked(hashed, target, answer, announced)

    def put_stream(self, stream: BinaryIO, repository: str | None, *, progress: Progress | None = None) -> Stored:
        """Store what a stream has until its end."""
        target = self.target(repository)
        parts = pieces(stream)
        first = next(parts)
        if first.is_last:
            return self.put(BytesSource(first.data), repository, progress=progress)
        everything = itertools.chain([first], parts)
        upload = self._create(target, None)
        if upload is None:
            # Without the interface, a lost connection costs the whole; only a file can be sent again.
            with spooled(piece.data for piece in everything) as source:
                return self.put(source, repository, progress=progress)
        return self._put_pieces(upload, everything, target, progress)

    def target(self, repository: str | None) -> Destination:
        """Raises UsageError for a name that no repository has."""
        if repository is None:
            return Destination("files", "POST", self._mounts["files"], "hash", None)
        if not _REPOSITORY.fullmatch(repository):
            raise UsageError(
                f"invalid repository {quoted(repository)}: expected 1 to 128 letters, digits and . _ -, not . or .."
            )
        path = f"{self._mounts['repositories'].rstrip('/')}/{repository}"
        return Destination(f"repositories/{repository}", "PUT", path, "oid", repository)

    def send(
        self, method: str, path: str, fields: Mapping[str, str], body: Callable[[], Iterable[Bytes]], size: int
    ) -> Mapping[str, Any]:
        """Send a body by one request, again after a lost connection. Returns the answer."""

        def ask() -> Mapping[str, Any]:
            with self._transport.request(method, path, fields, body=body(), size=size) as response:
                return response.document()

        return self._retries.run(ask)

    def _put_plain(self, source: HashedSource, target: Destination) -> Mapping[str, Any]:
        return self.send(target.method, target.path, _OCTETS, lambda: source.blocks(0), source.size)

    def _put_resumable(
        self, source: HashedSource, target: Destination, key: Sequence[str | int]
    ) -> tuple[Mapping[str, Any], str | None] | None:
        """Returns the answer, and the algorithm that it tells; None where the interface is not mounted."""
        directory = self._state_directory if key else None
        with UploadState(directory, [*key, str(self._transport.location), target.name]) as state:
            path = state.read()
            if path is not None:
                upload = ResumableUpload(self._transport, self._retries, path)
                try:
                    return self._finish(upload, source, upload.find_offset(), state)
                except UploadLost:
                    # It has expired since the last run.
                    state.forget()
            created = self._create(target, source.size)
            if created is None:
                return None
            state.write(created.path)
            try:
                return self._finish(created, source, 0, state)
            except UploadLost as error:
                raise Gone("The server has removed the upload while it was sent.") from error

    def _finish(
        self, upload: ResumableUpload, source: HashedSource, offset: int, state: UploadState
    ) -> tuple[Mapping[str, Any], str | None]:
        upload.send(source, offset)
        answer = upload.result()
        state.forget()
        return answer, upload.algorithm

    def _put_pieces(
        self, upload: ResumableUpload, parts: Iterator[Piece], target: Destination, progress: Progress | None
    ) -> Stored:
        algorithm = self._expected_algorithm(target)
        hashed = new_hash(algorithm)
        size = 0
        try:
            for piece in parts:
                hashed.update(piece.data)
                size = piece.start + len(piece.data)
                upload.send_piece(piece.data, piece.start, length=size if piece.is_last else None)
                if progress is not None:
                    progress(size, None)
        except UploadLost as error:
            raise Gone("The server has removed the upload while it was sent.") from error
        digest = _digest_of(upload.result(), target)
        # The daemon has compared a checksum of each piece. With another algorithm, that must do.
        if upload.algorithm in (None, algorithm):
            _require_equal(algorithm, Digest(hashed.hexdigest()), digest)
        return self._stored(digest, size, target)

    def _create(self, target: Destination, length: int | None) -> ResumableUpload | None:
        mount = self._mounts["uploads"].rstrip("/")
        return resumable.create(self._transport, self._retries, mount, length, {"target": target.name})

    def _expected_algorithm(self, target: Destination) -> str:
        return "sha256" if target.repository is not None else self.algorithm or "sha256"

    def _checked(
        self, source: HashedSource, target: Destination, answer: Mapping[str, Any], announced: str | None
    ) -> Stored:
        """Compare the digests. Raises DigestMismatch."""
        digest = _digest_of(answer, target)
        candidates = self._candidates(target, digest, announced)
        for algorithm in candidates:
            if source.digest(algorithm) == digest:
                if target.repository is None:
                    self.algorithm = algorithm
                return self._stored(digest, source.size, target)
        source.check()
        raise DigestMismatch(candidates[0], source.digest(candidates[0]), digest)

    def _candidates(self, target: Destination, digest: Digest, announced: str | None) -> Sequence[str]:
        """Return the algorithms that may have made a digest, at least one. `announced` is what the daemon has told."""
        if target.repository is not None:
            return ["sha256"]
        if announced in ALGORITHMS:
            return [announced]
        return [self.algorithm] if self.algorithm is not None else algorithms_of(digest) or ["sha256"]

    def _stored(self, digest: Digest, size: int, target: Destination) -> Stored:
        return Stored(digest, size, f"{self._transport.location}{target.path.rstrip('/')}/{digest}", target.repository)


@contextlib.contextmanager
def spooled(blocks: Iterable[bytes]) -> Iterator[FileSource]:
    """A temporary file with the blocks, as a source for the length of a with-block. Raises OSError."""
    with tempfile.TemporaryFile(prefix="filestoraged-") as file:
        for block in blocks:
            file.write(block)
        file.flush()
        yield FileSource(file.fileno())


def _digest_of(answer: Mapping[str, Any], target: Destination) -> Digest:
    text = answer.get(target.key)
    digest = parse_digest(text) if isinstance(text, str) else None
    if digest is None:
        raise UnexpectedResponse(f"the server is no filestoraged: its answer to an upload has no {target.key}")
    return digest


def _require_equal(algorithm: str, expected: Digest, actual: Digest) -> None:
    if expected != actual:
        raise DigestMismatch(algorithm, expected, actual)
