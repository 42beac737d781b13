"""Reads the bytes of one object, and copies them to another store, where they are verified as they pass.

An object is at the target whole or not at all. Errors of the source say something about one object, errors of the
target end the migration.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from filestoraged.check.findings import DAMAGED, FOREIGN, Finding, read_failure
from filestoraged.check.throttle import Throttle
from filestoraged.command_errors import CheckError
from filestoraged.digest import Bytes, Expected
from filestoraged.errors import (
    DISK_FULL,
    CorruptObject,
    DigestMismatch,
    Error,
    NotFound,
    StorageFull,
    TooLarge,
    Unavailable,
)
from filestoraged.migration.findings import TOO_LARGE, MigrationTotals
from filestoraged.migration.namespace_pairs import NamespacePair
from filestoraged.store.contract import Blob, Staging
from filestoraged.store.hashing import COPY_SIZE

_Result = TypeVar("_Result")

# Seconds before each further attempt where a server cannot be reached. Its client has waited and retried already.
_RETRY_PAUSES = (1.0, 2.0, 4.0, 8.0)


class TargetFailed(Exception):
    """The target cannot store an object for a reason that is not the object's. The cause is its error."""


class SourceDamaged(Exception):
    """The source has fewer bytes of an object than it says."""


class Transfer:
    """One thread uses it: it has one buffer for all objects."""

    def __init__(self, throttle: Throttle, totals: MigrationTotals) -> None:
        self._throttle = throttle
        self._totals = totals
        self._buffer = memoryview(bytearray(throttle.read_size(COPY_SIZE)))

    def copy(self, pair: NamespacePair, name: str) -> Finding | None:
        """Copy an object. Returns None if that is done, or if it was removed meanwhile.

        Raises CheckError if the target fails or a server remains out of reach, and CheckStopped.
        """
        path = pair.object_path(name)
        algorithms = pair.algorithms_of(name)
        if pair.is_named_by_digest and not algorithms:
            return Finding(FOREIGN, path, "no algorithm has digests of this length")
        expected = [[Expected(each, name)] for each in algorithms] or [[]]
        try:
            return self.patiently(lambda: self._copy_by_any(pair, name, expected))
        except NotFound:
            return None
        except TooLarge as error:
            return Finding(TOO_LARGE, path, f"the target accepts {error.limit} bytes at most")
        except (CorruptObject, SourceDamaged, OSError) as error:
            return source_failure(path, error)

    def read(self, blob: Blob, write: Callable[[Bytes], object]) -> None:
        """Pass all bytes of a blob to `write`, in pieces. Raises SourceDamaged, what `write` raises, and CheckStopped.

        The pieces are valid until `write` returns.
        """
        sink = _PieceSink(self._buffer, self._throttle, self._totals, write)
        position = 0
        try:
            while position < blob.size:
                following = blob.send(sink, position, blob.size)
                if following <= position:
                    raise SourceDamaged(f"it has {position} bytes instead of {blob.size}")
                position = following
        except BaseException:
            # Each object is counted once, however often it is read.
            self._totals.add_size(-sink.size)
            raise

    def patiently(self, function: Callable[[], _Result]) -> _Result:
        """Call a function until servers can be reached. Raises CheckError if the target fails, or none answers."""
        pauses = iter(_RETRY_PAUSES)
        while True:
            try:
                return function()
            except (Unavailable, TargetFailed) as error:
                pause = next(pauses, None)
                if pause is None or not _is_unavailable(error):
                    raise _final(error) from error
                self._throttle.sleep(pause)

    def _copy_by_any(self, pair: NamespacePair, name: str, expected: Sequence[Sequence[Expected]]) -> Finding | None:
        """Copy an object whose name is a digest by one of several algorithms."""
        for each in expected:
            # Each attempt is as long as reading the object; most stores have objects of one algorithm alone.
            with contextlib.suppress(DigestMismatch):
                self._copy(pair, name, each)
                return None
        return Finding(DAMAGED, pair.object_path(name), "its bytes have another digest")

    def _copy(self, pair: NamespacePair, name: str, expected: Sequence[Expected]) -> None:
        with pair.source.open(name) as blob:
            with at_target():
                staging = pair.target.stage(blob.size, expected=expected)
            with staging:
                self.read(blob, lambda data: _write(staging.write, data))
                self._commit(pair, name, staging, expected)
            self._totals.add_copied(blob.size)

    def _commit(self, pair: NamespacePair, name: str, staging: Staging, expected: Sequence[Expected]) -> None:
        # memcached finds an object by its digest only if it was not given another name.
        is_own_name = any(each.algorithm == pair.target.algorithm for each in expected)
        try:
            with at_target():
                # Later: small objects of several threads are synced together.
                staging.commit(name=None if is_own_name else name).result()
        except BaseException:
            self._totals.add_size(-staging.size)
            raise
        if pair.is_named_by_digest and not is_own_name:
            self._require_name(pair, name)

    def _require_name(self, pair: NamespacePair, name: str) -> None:
        with at_target():
            try:
                pair.target.stat(name)
            except NotFound as error:
                raise CheckError(
                    "the target does not keep names by another hash: give it that of the source"
                ) from error


class _PieceSink:
    """Receives the bytes of a blob at the rate of the throttle."""

    def __init__(
        self,
        buffer: memoryview,
        throttle: Throttle,
        totals: MigrationTotals,
        write: Callable[[Bytes], object],
    ) -> None:
        self.size = 0
        self._buffer = buffer
        self._throttle = throttle
        self._totals = totals
        self._write = write

    def write(self, data: Bytes) -> int:
        # A view: a piece may be as large as the object.
        piece = memoryview(data)[: len(self._buffer)]
        return self._pass(piece)

    def sendfile(self, descriptor: int, start: int, stop: int) -> int:
        size = os.preadv(descriptor, (self._buffer[: stop - start],), start)
        return self._pass(self._buffer[:size])

    def _pass(self, piece: memoryview) -> int:
        if piece:
            self._write(piece)
            self.size += len(piece)
            self._totals.add_size(len(piece))
            self._throttle.pay(len(piece))
        return len(piece)


def source_failure(path: str, error: Exception) -> Finding:
    """The finding for an object that cannot be read. Raises CheckError if that is not the object's fault."""
    if isinstance(error, OSError):
        try:
            return read_failure(path, error)
        except OSError:
            raise CheckError(f"cannot read the source: {error.strerror}") from error
    return Finding(DAMAGED, path, error.reason if isinstance(error, CorruptObject) else str(error))


def _is_unavailable(error: Exception) -> bool:
    return isinstance(error.__cause__ if isinstance(error, TargetFailed) else error, Unavailable)


def _final(error: Exception) -> CheckError:
    """The error that ends the migration."""
    if not isinstance(error, TargetFailed):
        return CheckError(f"cannot reach the source: {reason_of(error)}")
    cause = error.__cause__
    if isinstance(cause, StorageFull) or (isinstance(cause, OSError) and cause.errno in DISK_FULL):
        return CheckError("the target is full; make room there, and run this again to continue")
    verb = "reach" if isinstance(cause, Unavailable) else "write"
    return CheckError(f"cannot {verb} the target: {reason_of(cause)}")


def reason_of(error: BaseException | None) -> str:
    """The innermost cause that is known, without a path."""
    cause = getattr(error, "__cause__", None) or error
    return str(getattr(cause, "strerror", None) or cause)


@contextlib.contextmanager
def at_target() -> Iterator[None]:
    """Tell errors of the target from those of the source. What the object causes is raised as it is."""
    try:
        yield
    except (TooLarge, DigestMismatch, CheckError):
        raise
    except (Error, OSError) as error:
        raise TargetFailed from error


def _write(write: Callable[[Bytes], object], data: Bytes) -> None:
    with at_target():
        write(data)
