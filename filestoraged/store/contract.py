"""The contract of every backend: objects enter by `stage`, `write` and `commit` only.

An object is visible as a whole and durable, or not at all. One thread at a time uses a `Staging` or a `Blob`; many
threads use a `Store`.
"""

from __future__ import annotations

import io
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple, Protocol, TypeVar, cast

from filestoraged.digest import Bytes, Digest, Expected
from filestoraged.errors import Error, NotFound, TooLarge
from filestoraged.future import Future
from filestoraged.store.hashing import COPY_SIZE, HashThreads, OverlappedHasher

# In bytes. Smaller objects are staged in memory, and a local store commits them without that its caller waits.
SMALL = 64 * 1024

_Self = TypeVar("_Self", bound="_Closing")
_Result = TypeVar("_Result")


class _Closing(ABC):
    """A context manager that closes at the end of the block."""

    @abstractmethod
    def close(self) -> None:
        """Release all resources. A second call does nothing."""

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Sink(Protocol):
    """Receives the bytes of a blob. Both methods return how many bytes they accepted; a backend calls either."""

    def write(self, data: Bytes) -> int: ...

    def sendfile(self, descriptor: int, start: int, stop: int) -> int: ...


class BlobCache(Protocol):
    """Blobs in memory. It gives none whose object was removed or replaced."""

    def get(self, key: str) -> Blob | None: ...


class Blob(_Closing):
    """An object opened for reading. It stays readable until closed, even if the object is removed meanwhile."""

    size: int
    digest: str
    # Whole seconds since 1970 at which these bytes were stored under this name.
    modified: int
    # Whether `send` may wait for another machine before it hands over bytes.
    may_wait = False
    # The cache in memory in which later callers find this same blob, and its key there; None for none.
    cache: BlobCache | None = None
    key = ""
    # What a caller keeps with a shared blob for later callers, 600 bytes at most.
    memo: Any = None

    @abstractmethod
    def send(self, sink: Sink, start: int, stop: int) -> int:
        """Pass the bytes from `start` to `stop` to `sink`, or fewer if it accepts no more for now.

        Returns the position after the last byte passed, where the next call continues.
        """


class CopiedBlob(Blob):
    """An object whose bytes another machine has: they can be copied, and are in no file."""

    @abstractmethod
    def read_into(self, target: memoryview, start: int) -> int:
        """Copy bytes from `start` on. Returns how many, 0 at the end."""

    def buffered(self) -> BinaryIO:
        """Return a stream of the bytes, with lines and small reads. Closing it closes the blob."""
        return cast(BinaryIO, io.BufferedReader(_RawStream(self), COPY_SIZE))


class _RawStream(io.RawIOBase):
    def __init__(self, blob: CopiedBlob) -> None:
        self._blob = blob
        self._position = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self._blob.read_into(memoryview(buffer).cast("B"), self._position)
        self._position += count
        return count

    def close(self) -> None:
        self._blob.close()
        super().close()


class Staging(_Closing):
    """Bytes received and not yet visible. Leaving the with-block without a commit discards them."""

    def __init__(self, store: Store, size: int | None, expected: Sequence[Expected]) -> None:
        """`size` is the size that the client declared, in bytes. Raises TooLarge if it exceeds the store's maximum."""
        limit = store.max_size
        if limit is not None and size is not None and size > limit:
            raise TooLarge(limit, size=size)
        self.size = 0
        self._limit = limit
        self._hasher = OverlappedHasher(store.algorithm, expected, store.hash_threads)
        self._digest: Digest | None = None

    def write(self, data: Bytes) -> None:
        """Append bytes. The buffer may be reused afterwards. Raises TooLarge when the maximum is exceeded."""
        self.size += len(data)
        if self._limit is not None and self.size > self._limit:
            raise TooLarge(self._limit)
        self._write(data)

    def commit(self, *, name: str | None = None, replace: bool = True) -> Future[Digest]:
        """Make the bytes visible and durable under `name`, or under their digest: then the future is done.

        An existing object is replaced, which heals a damaged one; without `replace`, the future raises AlreadyExists.

        Raises DigestMismatch and what else is known at once. The future has the digest, or raises.
        """
        return self._publish(name, self.finish(), replace=replace)

    def finish(self) -> Digest:
        """The digest of the bytes, after the last of them. Raises DigestMismatch."""
        if self._digest is None:
            self._digest = self._finish()
        return self._digest

    def reserve(self, name: str | None = None) -> Future[int] | None:
        """Count the object, which `commit` does as well. None where that is not counted, or has no limit.

        For callers that must not wait: they await this before they call `commit`, with the same name. The future raises
        QuotaExceeded.
        """
        return None

    def close(self) -> None:
        try:
            self._hasher.close()
        finally:
            self._discard()

    @abstractmethod
    def _write(self, data: Bytes) -> None:
        """Store the bytes and pass them to the hasher."""

    def _finish(self) -> Digest:
        """Complete the hash after the last byte. Returns the digest. Raises DigestMismatch."""
        return self._hasher.finish()

    @abstractmethod
    def _publish(self, name: str | None, digest: Digest, *, replace: bool) -> Future[Digest]: ...

    @abstractmethod
    def _discard(self) -> None:
        """Remove bytes that are not visible. May be called again, and after a commit."""


class ObjectStatus(NamedTuple):
    """What a store knows of an object without reading its bytes."""

    name: str
    # In bytes.
    size: int
    # Whole seconds since 1970 at which these bytes were stored under this name.
    modified: int


class Usage(NamedTuple):
    """What a part of a store holds. `size` is in bytes."""

    objects: int = 0
    size: int = 0

    def plus(self, other: Usage) -> Usage:
        return Usage(self.objects + other.objects, self.size + other.size)


def never_pause() -> None:
    """The default `pause` of `Store.usage`: count without interruption."""


class Store(_Closing):
    """Objects by name. `algorithm` names objects that are stored without a name."""

    algorithm: str
    # Whether requests to it wait for other machines.
    remote = False
    # Whether `stage_file` may succeed, so that hashing a file while it arrives is of use.
    stages_files = False
    # Maximum size of an object, in bytes; None if only free space limits it.
    max_size: int | None
    # Shared with the store's namespaces. A process with several stores passes the same one to all of them.
    hash_threads: HashThreads

    @abstractmethod
    def stage(self, size: int | None = None, *, expected: Sequence[Expected] = ()) -> Staging:
        """Begin an object of `size` bytes, if known, whose digests must equal `expected`. Raises TooLarge."""

    def stage_file(self, path: str, size: int, hasher: OverlappedHasher) -> Staging | None:
        """Stage the bytes of a file without copying them: it is synced, has `size` bytes, and `hasher` has hashed them.

        The file keeps its own name. Returns None where the bytes have to be copied. Raises TooLarge.
        """
        return None

    def stage_new(self, size: int | None = None, *, expected: Sequence[Expected] = ()) -> Staging:
        """Like `stage`, for an object that is to replace no other one."""
        return self.stage(size, expected=expected)

    def require_room(self, size: int, names: Sequence[str] = ()) -> None:
        """Raise QuotaExceeded where an object of `size` bytes has no room; if it has one of the names, it may be there.

        The binding judgement is that of the commit.
        """

    @abstractmethod
    def open(self, name: str, /) -> Blob:
        """Open an object. Raises NotFound or CorruptObject."""

    @abstractmethod
    def stat(self, name: str, /) -> ObjectStatus:
        """Look up an object without reading its bytes. Raises NotFound or CorruptObject."""

    @abstractmethod
    def remove(self, name: str, /) -> None:
        """Remove an object, durably. Raises NotFound."""

    def remove_later(self, name: str, /) -> Future[None]:
        """Like `remove`, but may return before the removal is durable: then the future is done.

        Raises what is known at once; the future has the other exceptions of `remove`.
        """
        return completed(self.remove(name))

    def remove_all(self, names: Iterable[str]) -> Mapping[str, Exception]:
        """Remove many objects. Returns the errors of those that remain. A missing object is no error."""
        failures: dict[str, Exception] = {}
        for name in names:
            try:
                self.remove(name)
            except NotFound:
                pass
            except (Error, OSError) as error:
                failures[name] = error
        return failures

    def relative_path(self, name: str) -> str | None:
        """The path of an object's file below the outermost store's directory; None if no file holds its bytes."""
        return None

    @abstractmethod
    def namespace(self, name: str, *, algorithm: str | None = None) -> Store:
        """A store within this one. The two share no object."""

    @abstractmethod
    def list(self, after: str = "", limit: int = 1000) -> Sequence[str]:
        """The names of at most `limit` objects of this namespace that sort after `after`, in ascending order.

        An empty result is the end. Objects that are stored or removed meanwhile may be in it or not. Raises
        ListingUnsupported if the backend keeps no index of names.
        """

    def scan(self) -> Generator[ObjectStatus, None, None]:
        """All objects of this namespace in any order, a few in memory at a time. What `list` says of changes holds.

        To be closed if it is not read to its end. Raises ListingUnsupported.
        """
        names = self.list()
        while names:
            for name in names:
                try:
                    yield self.stat(name)
                except NotFound:
                    continue
            names = self.list(names[-1])

    @abstractmethod
    def list_namespaces(self, after: str = "", limit: int = 1000) -> Sequence[str]:
        """The names of at most `limit` namespaces of this one, as `list` returns those of objects.

        A namespace whose objects were all removed may be in it or not. Raises ListingUnsupported.
        """

    @abstractmethod
    def probe(self) -> None:
        """Check that the store can be written at present. Raises OSError, StorageFull or StoreUnavailable."""

    @abstractmethod
    def usage(self, pause: Callable[[], None] = never_pause) -> Mapping[str, Usage | None]:
        """Measure what each part of the store holds: each interface's share, or each server's.

        None stands for a server that does not answer. `pause` is called often; an exception of it ends the count.
        """

    @abstractmethod
    def sweep(self) -> int:
        """Remove the stagings of crashed processes. Returns their number. Raises OSError."""

    @abstractmethod
    def close(self) -> None:
        """Release idle connections and directories. Namespaces share them. The store remains usable."""

    # Shortcuts for use as a library.

    def put(
        self,
        source: bytes | bytearray | memoryview | str | os.PathLike[str] | BinaryIO,
        *,
        name: str | None = None,
    ) -> Digest:
        """Store bytes, the file at a path, or the rest of a binary stream. Returns the digest.

        With a `name`, raises AlreadyExists if an object has it, and ValueError if it is empty.
        """
        if name == "":
            raise ValueError("the name of an object cannot be empty")
        if isinstance(source, (str, os.PathLike)):
            with open(source, "rb") as stream:
                return self.put(stream, name=name)
        size = memoryview(source).nbytes if isinstance(source, (bytes, bytearray, memoryview)) else None
        with self.stage(size) as staging:
            for piece in _pieces(source):
                staging.write(piece)
            return staging.commit(name=name, replace=name is None).result()

    @abstractmethod
    def get(self, name: str, /) -> BinaryIO:
        """Open an object as a stream. Raises NotFound or CorruptObject."""

    def delete(self, name: str, /) -> None:
        """Alias of `remove`. Raises NotFound."""
        self.remove(name)


def completed(result: _Result) -> Future[_Result]:
    """A future that has a result already."""
    future: Future[_Result] = Future()
    future.set_result(result)
    return future


def _pieces(source: bytes | bytearray | memoryview | BinaryIO) -> Iterator[Bytes]:
    if not isinstance(source, (bytes, bytearray, memoryview)):
        yield from iter(lambda: source.read(COPY_SIZE), b"")
        return
    view = memoryview(source)
    # A non-contiguous view is copied. Items of any format become their bytes.
    flat = view.cast("B") if view.c_contiguous and view.nbytes else memoryview(view.tobytes())
    for start in range(0, len(flat), COPY_SIZE):
        yield flat[start : start + COPY_SIZE]
