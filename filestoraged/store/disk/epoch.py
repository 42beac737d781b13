"""The file `ROOT/journal`, which the journals of all processes of a store share: epoch, marks, and locks of names.

An *epoch* begins where a process starts and no other one has the store. Until then, what journals say may be missing
in the files: the machine may have lost its power, or the file system was mounted anew. So that process replays the
journals of the last epoch, and begins another one, in which they say nothing. As long as a process of the epoch lives,
the kernel has the files as all of its processes left them.

    block 0, 1   the number and the key of the epoch; written in turns
    slots        one for each process: its token, its mark and its doubt; and two places for checkpoints, written in
                 turns

A *mark* is a time: all records of the process up to it are applied to the files. Others read it while the process
lives; it is not durable. A *checkpoint* is durable: what of each journal the files had, synced, at its time. It has
the marks of the processes that lived at that time; of all others it covers whatever was recorded before. So a stopped
process, whose mark stands still, does not keep others from checkpoints. Where two processes changed one object in
turns, a checkpoint that covers the later change covers the earlier.

A slot is in *doubt* while a sync of the file system has begun and not yet succeeded: the kernel reports once that it
could not write, and the process that was told may be killed before it has written the files anew.

Locks: a process has a shared lock on the file while it has the store, and a lock on the byte of its slot. A thread that
changes an object locks the byte that stands for its path, from before the time that it records until the change is
applied.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import os
import struct
import zlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

from filestoraged.errors import StoreUnavailable
from filestoraged.file_lock import SHARED, lock, try_lock, unlock
from filestoraged.store import layout
from filestoraged.store.disk.directories import sync
from filestoraged.store.permissions import PRIVATE, create_file
from filestoraged.store.system import System, write_at

_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
_CHECKSUM_SIZE = 16

_EPOCH = struct.Struct("<8sQ32s")
_EPOCH_MAGIC = b"fsepoch1"
# The byte behind the epoch: whether it was durable when others may have read it; and whether a sync has failed in it.
_SHUT, _OPEN, _FAILED = b"\0", b"\1", b"\2"

_BLOCK = 4096
_SLOTS = 2 * _BLOCK
_MARK = struct.Struct("<8sq")
# The byte behind the mark.
_SURE, _IN_DOUBT = b"\0", b"\1"
_CHECKPOINT = struct.Struct("<8sQQqI")
_CHECKPOINT_MAGIC = b"fscheck1"
# Of a checkpoint: it has the marks of twice as many processes as workers are allowed, which a reload needs, and more.
# Only what is written of it takes space.
_COPY_SIZE = 10 * _BLOCK
_SLOT_SIZE = _BLOCK + 2 * _COPY_SIZE
# Processes that may have one store.
_MAX_MARKS = (_COPY_SIZE - _CHECKPOINT.size - _CHECKSUM_SIZE) // _MARK.size

# A damaged one is not counted on from.
_MAX_GENERATION = 1 << 60

# Bytes that are locked, far behind the end of the file: of slots, and of paths.
_SLOT_LOCKS = 1 << 60
_PATH_LOCKS = 1 << 61


# Seconds between two attempts to lock a path, and until the last one: a stopped process, whose supervisor ends it after
# 15 s, has its locks as long.
LOCK_PAUSE = 0.001
LOCK_TIMEOUT = 20.0


class Epoch(NamedTuple):
    number: int
    key: bytes


class Checkpoint(NamedTuple):
    """`time`, and marks by token, in nanoseconds of the monotonic clock."""

    time: int
    marks: Mapping[str, int]

    def covers(self, token: str) -> int:
        """Up to which time it makes the records of a journal superfluous."""
        return self.marks.get(token, self.time)


class EpochFile:
    """In a process: an open file `ROOT/journal`, with the locks of that process. Closing it gives them up."""

    def __init__(self, root: str, *, system: System) -> None:
        """Raises OSError."""
        self._root = root
        self._system = system
        path = f"{root}/{layout.JOURNAL}"
        try:
            self._descriptor = system.open(path, _FLAGS)
        except FileNotFoundError:
            self._descriptor = _create(path, system)
        # Until the process has one, the first: who recovers has the store alone.
        self._slot = 0
        self._token = b""
        self._generation = 0

    def join(self, recover: Callable[[Epoch | None], None]) -> Epoch:
        """Have the store from now on. Where no process has it, `recover` is called, and another epoch begins.

        It waits while another process recovers. Raises OSError, and what `recover` raises.
        """
        while True:
            if try_lock(self._descriptor, flock=self._system.flock):
                former = self._read()
                recover(former)
                self._begin(former)
            # Not in one step: another process may recover in between, from nothing.
            lock(self._descriptor, SHARED, flock=self._system.flock)
            epoch = self._read()
            if epoch is not None and self._state(epoch) in (_OPEN, _FAILED):
                return epoch
            # The process that recovered has failed to begin an epoch.
            unlock(self._descriptor, flock=self._system.flock)

    def _read(self) -> Epoch | None:
        """The last epoch; None if the file has none, whole."""
        found = [self._read_epoch(number) for number in range(2)]
        return max((each for each in found if each is not None), default=None)

    def check(self) -> None:
        """Raise StoreUnavailable if the file was removed: other processes would not know of this one."""
        if not self._system.fstat(self._descriptor).st_nlink:
            raise StoreUnavailable("The store's journal was removed; it needs its operator.")

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            self._system.close(descriptor)

    # Paths are below the store.

    def try_lock(self, path: str) -> bool:
        """Lock a path against the open files of others. Returns False if one of them has it."""
        # Paths that have the same checksum wait for each other.
        return self._system.try_lock(self._descriptor, _PATH_LOCKS + zlib.crc32(path.encode()))

    def unlock_paths(self) -> None:
        self._system.unlock(self._descriptor, _PATH_LOCKS, 2 * _PATH_LOCKS)

    # Failures, doubts, marks and checkpoints.

    def note_failure(self, epoch: Epoch) -> None:
        """A sync has failed: what was written until then may be lost, and is read nevertheless. Raises OSError."""
        write_at(self._system, self._descriptor, _FAILED, self._state_of(epoch))

    def has_failed(self, epoch: Epoch) -> bool:
        return self._state(epoch) == _FAILED

    def begin_doubt(self) -> None:
        """Call it before a sync of the file system: a process that dies by a failed one has told. Raises OSError."""
        write_at(self._system, self._descriptor, _IN_DOUBT, self._position() + _MARK.size)

    def end_doubt(self) -> None:
        # If it fails, the files are made anew once more than they need to be.
        with contextlib.suppress(OSError):
            write_at(self._system, self._descriptor, _SURE, self._position() + _MARK.size)

    def is_in_doubt(self) -> bool:
        """Whether bytes of files may be lost although they are read: the slot of any process is in doubt."""
        return _IN_DOUBT in (self._doubt(slot) for slot in range(self._count()))

    def begin_marks(self, token: str, time: int) -> None:
        """Take a slot, before the process records anything."""
        self._slot = next(each for each in itertools.count() if self._try_slot(each))
        # The last checkpoint of the process that had the slot stays until this one has made another.
        self._generation = max((self._generation_of(copy) for copy in range(2)), default=0)
        if self._generation:
            self._renew(self._copy(self._generation % 2), _COPY_SIZE)
        self._token = bytes.fromhex(token)
        self.mark(time)

    def mark(self, time: int) -> None:
        """All that the process has recorded up to that time is applied. Raises OSError."""
        write_at(self._system, self._descriptor, _MARK.pack(self._token, time), self._position())

    def marks(self) -> dict[str, int]:
        """The marks of all slots, also of processes that are dead."""
        marks = {}
        for slot in range(self._count()):
            data = self._system.pread(self._descriptor, _MARK.size, _SLOTS + slot * _SLOT_SIZE)
            if len(data) == _MARK.size:
                token, time = _MARK.unpack(data)
                marks[token.hex()] = time
        return marks

    def save(self, checkpoint: Checkpoint, epoch: Epoch) -> None:
        """Make a checkpoint durable. All that it covers was synced before. Raises OSError."""
        if len(checkpoint.marks) > _MAX_MARKS:
            raise OSError(errno.EUSERS, "Too many processes have the store")
        generation = self._generation + 1
        numbers = epoch.number, generation, checkpoint.time, len(checkpoint.marks)
        data = _CHECKPOINT.pack(_CHECKPOINT_MAGIC, *numbers)
        data += b"".join(_MARK.pack(bytes.fromhex(token), time) for token, time in checkpoint.marks.items())
        write_at(self._system, self._descriptor, data + _checksum(data, epoch.key), self._copy(generation % 2))
        self._system.fdatasync(self._descriptor)
        # Where that fails, the next one goes to the same place: the other has the last that is durable.
        self._generation = generation

    def checkpoints(self, epoch: Epoch) -> list[Checkpoint]:
        """All that were saved in the epoch and are there, the last one of each slot among them."""
        places = itertools.product(range(self._count()), range(2))
        found = [
            _checkpoint(self._system.pread(self._descriptor, _COPY_SIZE, _SLOTS + slot * _SLOT_SIZE + start), epoch)
            for slot, start in ((slot, _BLOCK + copy * _COPY_SIZE) for slot, copy in places)
        ]
        return [each for each in found if each is not None]

    def _begin(self, former: Epoch | None) -> None:
        """Make another epoch durable. What the last one left in doubt is synced."""
        for slot in range(self._count()):
            write_at(self._system, self._descriptor, _SURE, _SLOTS + slot * _SLOT_SIZE + _MARK.size)
        if former is not None:
            self._renew(former.number % 2 * _BLOCK, _BLOCK)
        epoch = Epoch(1 if former is None else former.number + 1, self._system.urandom(32))
        data = _EPOCH.pack(_EPOCH_MAGIC, *epoch)
        write_at(self._system, self._descriptor, data + _checksum(data, b"") + _SHUT, epoch.number % 2 * _BLOCK)
        self._system.fsync(self._descriptor)
        sync(self._root, system=self._system)
        write_at(self._system, self._descriptor, _OPEN, self._state_of(epoch))

    def _renew(self, position: int, size: int) -> None:
        """Make durable what is there, before what is older is written over: the sync behind it may have failed.

        The kernel then has it in memory, and says nothing any more.
        """
        write_at(self._system, self._descriptor, self._system.pread(self._descriptor, size, position), position)
        self._system.fdatasync(self._descriptor)

    def _read_epoch(self, number: int) -> Epoch | None:
        data = self._system.pread(self._descriptor, _EPOCH.size + _CHECKSUM_SIZE, number % 2 * _BLOCK)
        head = data[: _EPOCH.size]
        if len(head) < _EPOCH.size or data[_EPOCH.size :] != _checksum(head, b""):
            return None
        _, number, key = _EPOCH.unpack(head)
        return Epoch(number, key)

    def _state(self, epoch: Epoch) -> bytes:
        return self._system.pread(self._descriptor, 1, self._state_of(epoch))

    def _state_of(self, epoch: Epoch) -> int:
        return epoch.number % 2 * _BLOCK + _EPOCH.size + _CHECKSUM_SIZE

    def _doubt(self, slot: int) -> bytes:
        return self._system.pread(self._descriptor, 1, _SLOTS + slot * _SLOT_SIZE + _MARK.size)

    def _try_slot(self, slot: int) -> bool:
        return self._system.try_lock(self._descriptor, _SLOT_LOCKS + slot)

    def _generation_of(self, copy: int) -> int:
        data = self._system.pread(self._descriptor, _CHECKPOINT.size, self._copy(copy))
        is_there = len(data) == _CHECKPOINT.size and data.startswith(_CHECKPOINT_MAGIC)
        return _CHECKPOINT.unpack(data)[2] % _MAX_GENERATION if is_there else 0

    def _position(self) -> int:
        return _SLOTS + self._slot * _SLOT_SIZE

    def _copy(self, number: int) -> int:
        return self._position() + _BLOCK + number * _COPY_SIZE

    def _count(self) -> int:
        """How many slots the file has."""
        return max(0, -(-(self._system.fstat(self._descriptor).st_size - _SLOTS) // _SLOT_SIZE))


def _checkpoint(data: bytes, epoch: Epoch) -> Checkpoint | None:
    if data[: len(_CHECKPOINT_MAGIC)] != _CHECKPOINT_MAGIC or len(data) < _CHECKPOINT.size:
        return None
    _, number, _, time, count = _CHECKPOINT.unpack_from(data)
    stop = _CHECKPOINT.size + min(count, _MAX_MARKS) * _MARK.size
    whole = data[stop : stop + _CHECKSUM_SIZE] == _checksum(data[:stop], epoch.key)
    if number != epoch.number or not whole:
        return None
    return Checkpoint(time, {token.hex(): mark for token, mark in _MARK.iter_unpack(data[_CHECKPOINT.size : stop])})


def _checksum(data: bytes, key: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=_CHECKSUM_SIZE, key=key).digest()


def _create(path: str, system: System) -> int:
    # It exists if another process has just made it.
    with contextlib.suppress(FileExistsError):
        system.close(create_file(path, PRIVATE.file, system=system))
    return system.open(path, _FLAGS)
