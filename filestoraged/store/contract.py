"""What every backend promises: objects enter by `stage`, `write`, `commit` and by no other way.

An object is visible as a whole and durable, or not at all. Whoever holds a `Staging` or a `Blob` is one
thread; a `Store` is used by many.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Protocol, TypeVar

from filestoraged.digest import Bytes, Expected
from filestoraged.errors import TooLarge
from filestoraged.store.hashing import COPY_SIZE, HashThreads, OverlappedHasher

_Self = TypeVar("_Self", bound="_Closing")


class _Closing(ABC):
    """A with-block that closes."""

    @abstractmethod
    def close(self) -> None:
        """Give back what is held. Again is harmless."""

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Sink(Protocol):
    """Whoever takes the bytes of a blob, and says how many. Which of the two a backend calls is its own business."""

    def write(self, data: Bytes) -> int: ...

    def sendfile(self, descriptor: int, start: int, stop: int) -> int: ...


class Blob(_Closing):
    """An object opened for reading. It stays readable until closed, also when the object is removed meanwhile."""

    size: int
    digest: str
    # Whole seconds since 1970, when these bytes were stored under this name.
    modified: int

    @abstractmethod
    def send(self, sink: Sink, start: int, stop: int) -> int:
        """Hand the bytes from `start` on to `sink`, up to `stop` or until it takes no more for now.

        Returns up to where that was, for the next call to go on from. Never hands over other bytes.
        """


class Staging(_Closing):
    """Bytes received but not yet visible. Leaving the with-block without a commit discards them."""

    def __init__(self, store: Store, size: int | None, expected: Sequence[Expected]) -> None:
        """`size` is what the client declared, in bytes. Raises TooLarge where the store takes less."""
        limit = store.max_size
        if limit is not None and size is not None and size > limit:
            raise TooLarge(limit, size=size)
        self.size = 0
        self._limit = limit
        self._hasher = OverlappedHasher(store.algorithm, expected, store.hash_threads)

    def write(self, data: Bytes) -> None:
        """Take more bytes. The buffer may be reused afterwards. Raises TooLarge at the first byte too many."""
        self.size += len(data)
        if self._limit is not None and self.size > self._limit:
            raise TooLarge(self._limit)
        self._write(data)

    def commit(self, *, name: str | None = None) -> str:
        """Make the bytes visible and durable under `name`, or under their digest, which is returned.

        What was there is replaced: that heals an object that was damaged. Raises DigestMismatch.
        """
        digest = self._finish()
        self._publish(name, digest)
        return digest

    def commit_new(self, *, name: str | None = None) -> str:
        """Like `commit`, but raise AlreadyExists where there is an object of that name."""
        digest = self._finish()
        self._publish_new(name, digest)
        return digest

    def close(self) -> None:
        try:
            self._hasher.close()
        finally:
            self._discard()

    @abstractmethod
    def _write(self, data: Bytes) -> None:
        """Keep the bytes, and have them hashed."""

    def _finish(self) -> str:
        """All bytes have come. Returns their digest, or raises DigestMismatch."""
        return self._hasher.finish()

    @abstractmethod
    def _publish(self, name: str | None, digest: str) -> None: ...

    @abstractmethod
    def _publish_new(self, name: str | None, digest: str) -> None: ...

    @abstractmethod
    def _discard(self) -> None:
        """Drop what is not visible. Called once or more, also after a commit."""


class Store(ABC):
    """Objects by name. `algorithm` makes the names of those that are stored without one."""

    algorithm: str
    # Whether it asks other machines, which may keep whoever calls it waiting.
    remote = False
    # The size of the largest object taken, in bytes; None where only the room is a limit.
    max_size: int | None
    # Shared with the store's namespaces; a process with several stores passes the same one to all of them.
    hash_threads: HashThreads

    @abstractmethod
    def stage(self, size: int | None = None, *, expected: Sequence[Expected] = ()) -> Staging:
        """Begin an object, of `size` bytes where that is known, whose digests must be those `expected`.

        Raises TooLarge.
        """

    @abstractmethod
    def open(self, name: str, /) -> Blob:
        """Raises NotFound or CorruptObject."""

    @abstractmethod
    def remove(self, name: str, /) -> None:
        """Forget an object, durably. Raises NotFound."""

    def place(self, name: str) -> str | None:
        """Where an object's bytes lie as a file, below the directory of the outermost store; None where they do not."""
        return None

    @abstractmethod
    def namespace(self, name: str, *, algorithm: str | None = None) -> Store:
        """A store within this one that shares no object with it."""

    # Conveniences for those who use the package as a library.

    def put(
        self,
        source: bytes | bytearray | memoryview | str | os.PathLike[str] | BinaryIO,
        *,
        name: str | None = None,
    ) -> str:
        """Store bytes, the file at a path, or what is left of a binary stream. Returns the digest.

        Under a `name` of the caller's, raises AlreadyExists where it is taken, and ValueError where it is empty.
        """
        if name == "":
            raise ValueError("the name of an object cannot be empty")
        if isinstance(source, (str, os.PathLike)):
            with Path(source).open("rb") as stream:
                return self.put(stream, name=name)
        size = memoryview(source).nbytes if isinstance(source, (bytes, bytearray, memoryview)) else None
        with self.stage(size) as staging:
            for piece in _pieces(source):
                staging.write(piece)
            return staging.commit() if name is None else staging.commit_new(name=name)

    @abstractmethod
    def get(self, name: str, /) -> BinaryIO:
        """Open an object as a stream. Raises NotFound or CorruptObject."""

    def delete(self, name: str, /) -> None:
        """The same as `remove`. Raises NotFound."""
        self.remove(name)


def _pieces(source: bytes | bytearray | memoryview | BinaryIO) -> Iterator[Bytes]:
    if not isinstance(source, (bytes, bytearray, memoryview)):
        yield from iter(lambda: source.read(COPY_SIZE), b"")
        return
    view = memoryview(source)
    # A view that is not contiguous is copied; items of any format are taken as their bytes.
    flat = view.cast("B") if view.c_contiguous and view.nbytes else memoryview(view.tobytes())
    for start in range(0, len(flat), COPY_SIZE):
        yield flat[start : start + COPY_SIZE]
