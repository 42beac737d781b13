"""Holds by lock files: one request at a time adds to an upload, in all workers and daemons that share the directory.

The lock file of an upload names its holder: a generation, and the owner lock of the process. A holder that was taken
over cannot be trusted to notice in time, so it writes each piece under the file's lock, and only if the generation is
still its own. `local_storage` makes holds.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from filestoraged.clock import Clock
from filestoraged.errors import StoreUnavailable, UploadLocked
from filestoraged.file_lock import try_lock_within, unlock
from filestoraged.store.uploads.storage import Change, Tail

# Seconds between two notes in the file's time that a holder is active.
_NOTE_INTERVAL = 0.1

# Seconds that a holder waits for the file's lock, and pauses between attempts. Others have it for microseconds, except
# a process that was stopped.
_LOCK_TIMEOUT = 5.0
_LOCK_PAUSE = 0.002

# The content of a lock file: a generation, a token, a Tail; and its size in bytes.
_CONTENT = re.compile(rb"([0-9]{1,18}) ([0-9a-f]{16}|-) ([012]) *$")
_MAX_CONTENT = 64


class LockHolder(NamedTuple):
    """The content of a lock file. `token` is empty while the upload has no holder."""

    generation: int
    token: str
    tail: Tail


class FileHold:
    """A `Hold`."""

    def __init__(
        self,
        path: str,
        descriptor: int,
        generation: int,
        token: str,
        *,
        has_tail: bool,
        apply: Callable[[Change], None],
        clock: Clock,
    ) -> None:
        """`apply` makes a change in a transaction."""
        self._apply = apply
        self._path = path
        self._descriptor = descriptor
        self._generation = generation
        self._token = token
        self._clock = clock
        self._noted = clock.now()
        # Whether it was taken over from a holder whose bytes beyond the recorded ones are to be counted.
        self.has_tail = has_tail

    def set_tail(self, tail: Tail) -> None:
        with self.kept():
            write_holder(self._descriptor, LockHolder(self._generation, self._token, tail))

    def change(self, change: Change) -> None:
        with self.kept():
            self._apply(change)

    def confirm(self) -> None:
        with self.kept():
            pass

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """A block in which no other request takes the hold over. Raises UploadLocked where one has."""
        _lock(self._descriptor, self._clock)
        try:
            if read_holder(self._descriptor).generation != self._generation:
                raise UploadLocked
            self.note_activity()
            yield
        finally:
            unlock(self._descriptor)

    def note_activity(self) -> None:
        now = self._clock.now()
        if now - self._noted >= _NOTE_INTERVAL:
            self._noted = now
            os.utime(self._descriptor)

    def end(self, change: Change | None = None) -> None:
        if change is not None:
            self.change(change)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor < 0:
            return
        try:
            _lock(descriptor, self._clock)
            if read_holder(descriptor).generation == self._generation:
                # The next generation: a thread that was forgotten with this hold must not write any more.
                write_holder(descriptor, LockHolder(self._generation + 1, "", Tail.CUT_OFF))
        finally:
            os.close(descriptor)


def _lock(descriptor: int, clock: Clock) -> None:
    """Lock the file. Raises StoreUnavailable where a process that was stopped has it."""
    if not try_lock_within(descriptor, _LOCK_TIMEOUT, clock, pause=_LOCK_PAUSE):
        raise StoreUnavailable("The upload is locked by another process; retry later.")


def read_holder(descriptor: int) -> LockHolder:
    """The content of a lock file; an empty one is new, and one that a crash has torn has no holder."""
    matched = _CONTENT.match(os.pread(descriptor, _MAX_CONTENT, 0))
    if matched is None:
        return LockHolder(0, "", Tail.CUT_OFF)
    generation, token, tail = matched.groups()
    return LockHolder(int(generation), token.decode().strip("-"), Tail(int(tail)))


def write_holder(descriptor: int, holder: LockHolder) -> None:
    content = f"{holder.generation} {holder.token or '-'} {int(holder.tail)}"
    # Always of one length, and so written over whole.
    os.pwrite(descriptor, content.ljust(_MAX_CONTENT).encode("ascii"), 0)
