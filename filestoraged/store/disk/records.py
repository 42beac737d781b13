"""The format of journals: records in groups, each group written by one write and synced by one sync.

A group fills whole blocks, so that no synced block is written again. Its checksum has a key that clients do not know:
bytes of an upload never pass for a group, nor does a group of an earlier epoch or of another journal.

    group     magic, epoch, sequence number, end of the group before, size, number of records; checksum; the records
    record    kind, length of its path, size of its bytes, time; the path; the bytes

All numbers are little-endian. Bytes and values: no files, no clocks.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Iterator, Sequence
from enum import IntEnum
from typing import NamedTuple

from filestoraged.digest import Bytes

# In bytes. A torn write never reaches into the block of another group.
BLOCK = 4096

_MAGIC = b"fsjrnl1\n"
_GROUP = struct.Struct("<8sQQqII")
_CHECKSUM_SIZE = 16
_HEAD_SIZE = _GROUP.size + _CHECKSUM_SIZE
_RECORD = struct.Struct("<BxHIq")
_VOID = struct.Struct("<Qq")
# In place of an index: all records of the group.
_WHOLE = -1


class RecordKind(IntEnum):
    # An object has the record's bytes from then on.
    STORED = 1
    # It is removed.
    REMOVED = 2
    # What is at the path is durable by itself. Earlier records of the path say nothing any more.
    SYNCED = 3
    # A record of this journal, or a whole group, says nothing: its operation failed.
    VOID = 4


class Record(NamedTuple):
    """An operation on the object at `path`, below the store. `time` is of the monotonic clock, in nanoseconds."""

    kind: RecordKind
    path: str
    time: int
    data: Bytes = b""


class Group(NamedTuple):
    """Records in the order of their times. `previous` is the time of the last record of the group before.

    `position` is where it was found in its segment.
    """

    sequence: int
    previous: int
    records: Sequence[Record]
    position: int = 0

    @property
    def time(self) -> int:
        return self.records[-1].time


class Format(NamedTuple):
    """The groups of one journal. `epoch` and `key` are those of the store's epoch, `token` is that of the process."""

    epoch: int
    key: bytes
    token: str

    def encode(self, group: Group) -> bytes:
        body = b"".join(_encoded(group.records))
        numbers = self.epoch, group.sequence, group.previous, len(body), len(group.records)
        head = _GROUP.pack(_MAGIC, *numbers)
        filling = bytes(-(_HEAD_SIZE + len(body)) % BLOCK)
        return b"".join((head, self._checksum(head, body), body, filling))

    def find(self, data: memoryview) -> Iterator[Group]:
        """The whole groups of a segment, in the order of their places."""
        position = 0
        while position < len(data):
            body = self._body(data[position:])
            if body is None:
                position += BLOCK
                continue
            _, _, sequence, previous, _, count = _GROUP.unpack_from(data, position)
            yield Group(sequence, previous, [*_decoded(body, count)], position)
            position += size_of_group(len(body))

    def _body(self, data: memoryview) -> memoryview | None:
        """The records of the group at the beginning of the data; None if no whole group is there."""
        if len(data) < _HEAD_SIZE or data[: len(_MAGIC)] != _MAGIC:
            return None
        head, checksum = data[: _GROUP.size], data[_GROUP.size : _HEAD_SIZE]
        _, epoch, _, _, size, _ = _GROUP.unpack(head)
        body = data[_HEAD_SIZE : _HEAD_SIZE + size]
        return body if epoch == self.epoch and checksum == self._checksum(head, body) else None

    def _checksum(self, head: Bytes, body: Bytes) -> bytes:
        hashed = hashlib.blake2b(head, digest_size=_CHECKSUM_SIZE, key=self.key, person=self.token.encode())
        hashed.update(body)
        return hashed.digest()


def void(sequence: int, index: int | None, time: int) -> Record:
    """A record that voids one of a group, or the whole group."""
    return Record(RecordKind.VOID, "", time, _VOID.pack(sequence, _WHOLE if index is None else index))


def size_of_group(size: int) -> int:
    """How many bytes a group takes whose records have `size` bytes."""
    return -(-(_HEAD_SIZE + size) // BLOCK) * BLOCK


def has_groups(data: memoryview) -> bool:
    """Whether a segment has the beginning of a group, of any epoch."""
    return any(data[position : position + len(_MAGIC)] == _MAGIC for position in range(0, len(data), BLOCK))


def first_missing(groups: Iterable[Group], covered: int) -> int | None:
    """The number of the first group of a journal that is missing and has records later than `covered`; None for none.

    A group is written when the one before is durable or void. So one that is missing before one that is there was
    damaged; a torn one is the last.
    """
    needed = sorted((group for group in groups if group.time > covered), key=lambda group: group.sequence)
    if not needed:
        return None
    begin = needed[0].sequence - (needed[0].previous > covered)
    missing = set(range(begin, needed[-1].sequence)).difference(group.sequence for group in needed)
    voids = _voids(needed)
    return next((number for number in sorted(missing) if (number, _WHOLE) not in voids), None)


def valid_records(groups: Iterable[Group], covered: int) -> list[Record]:
    """The records of one journal that say something, and are later than `covered`, in the order of their times."""
    found = sorted(groups, key=lambda group: group.sequence)
    voids = _voids(found)
    return [
        record
        for group in found
        for index, record in enumerate(group.records)
        if record.kind is not RecordKind.VOID
        and record.time > covered
        and voids.isdisjoint({(group.sequence, _WHOLE), (group.sequence, index)})
    ]


def _voids(groups: Iterable[Group]) -> set[tuple[int, int]]:
    """The numbers of groups with the index of the record that is void."""
    return {_VOID.unpack(each.data) for group in groups for each in group.records if each.kind is RecordKind.VOID}


def _encoded(records: Iterable[Record]) -> Iterator[Bytes]:
    for kind, path, time, data in records:
        name = path.encode()
        yield _RECORD.pack(kind, len(name), len(data), time)
        yield name
        yield data


def _decoded(body: memoryview, count: int) -> Iterator[Record]:
    position = 0
    for _ in range(count):
        kind, length, size, time = _RECORD.unpack_from(body, position)
        start = position + _RECORD.size
        position = start + length + size
        yield Record(
            RecordKind(kind), str(body[start : start + length], "utf-8"), time, body[start + length : position]
        )
