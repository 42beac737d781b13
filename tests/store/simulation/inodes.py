"""Files and directories of a simulated file system: what the kernel has in memory, and what the disk has.

Each inode keeps the changes that were not synced. A power cut applies any of them: POSIX orders nothing between the
bytes of a file, its size, and the entries of directories. Of one name in one directory, later states come later.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from random import Random

# In bytes. Disks write a sector whole or not at all, and a torn write may end at any byte on the way there.
SECTOR = 512

# The number of the change; a position and bytes, or a new size without bytes.
_Write = tuple[int, int, bytes | None]


class Inode:
    """`time` is in nanoseconds since 1970."""

    def __init__(self, number: int, mode: int, time: int) -> None:
        self.number = number
        self.mode = mode
        self.changed = self.modified = time
        # Names, and open descriptors.
        self.links = 0
        self.opened = 0
        # Failed writes of its bytes, each of which every open descriptor reports once.
        self.errors = 0
        # Locks by the open files that hold them; see flock(2).
        self.locks: dict[object, int] = {}
        # Locked bytes, by the open files that hold them; see F_OFD_SETLK in fcntl(2).
        self.locked_bytes: dict[int, object] = {}
        # The number of its changes so far. A sync covers those before its beginning.
        self.changes = 0

    @property
    def size(self) -> int:
        raise NotImplementedError

    @property
    def is_dirty(self) -> bool:
        raise NotImplementedError

    def sync(self, changes: int | None = None) -> None:
        """Make so many of its changes durable, or all."""
        raise NotImplementedError

    def crash(self, random: Random, chance: float) -> None:
        """Forget what is in memory. Each unsynced change has reached the disk with that chance."""
        raise NotImplementedError


class File(Inode):
    def __init__(self, number: int, mode: int, time: int) -> None:
        super().__init__(number, stat.S_IFREG | mode, time)
        self.data = bytearray()
        self._durable = bytearray()
        self._unsynced: list[_Write] = []

    @property
    def size(self) -> int:
        return len(self.data)

    @property
    def is_dirty(self) -> bool:
        return bool(self._unsynced)

    def write(self, offset: int, data: bytes) -> None:
        _put(self.data, offset, data)
        self._note(offset, data)

    def truncate(self, size: int) -> None:
        _resize(self.data, size)
        self._note(size, None)

    def sync(self, changes: int | None = None) -> None:
        covered = [each for each in self._unsynced if changes is None or each[0] < changes]
        for _, position, data in covered:
            _apply(self._durable, position, data)
        del self._unsynced[: len(covered)]

    def fail(self, random: Random) -> None:
        """Some of the bytes cannot be written. The kernel marks all pages as clean, and reports it once."""
        self._write_some(random, random.random())
        self.errors += 1

    def crash(self, random: Random, chance: float) -> None:
        self._write_some(random, chance)
        self.data = bytearray(self._durable)

    def _note(self, position: int, data: bytes | None) -> None:
        self._unsynced.append((self.changes, position, data))
        self.changes += 1

    def _write_some(self, random: Random, chance: float) -> None:
        before = len(self._durable)
        for _, position, data in self._unsynced:
            if random.random() < chance:
                _apply(self._durable, position, data)
            elif data is not None and random.random() < chance:
                self._tear(random, position, data)
        # The size is written apart from the bytes: a longer file has zeros where its bytes are missing.
        after = len(self.data)
        if self._unsynced and after > before:
            longest = random.choice((before, after, random.randint(before, after)))
            _resize(self._durable, after if random.random() < chance else longest)
        self._unsynced.clear()

    def _tear(self, random: Random, position: int, data: bytes) -> None:
        if random.random() < 0.5:
            _put(self._durable, position, data[: random.randrange(len(data) + 1)])
            return
        for start in range(0, len(data), SECTOR):
            if random.random() < 0.5:
                _put(self._durable, position + start, data[start : start + SECTOR])


class Directory(Inode):
    def __init__(self, number: int, mode: int, time: int) -> None:
        super().__init__(number, stat.S_IFDIR | mode, time)
        self.entries: dict[str, Inode] = {}
        self._durable: dict[str, Inode] = {}
        # By name: numbers of changes, and what the name led to from then on.
        self._unsynced: dict[str, list[tuple[int, Inode | None]]] = {}

    @property
    def size(self) -> int:
        return 4096

    @property
    def is_dirty(self) -> bool:
        return bool(self._unsynced)

    def put(self, name: str, inode: Inode) -> None:
        self.entries[name] = inode
        self._note(name, inode)

    def take(self, name: str) -> Inode:
        self._note(name, None)
        return self.entries.pop(name)

    def sync(self, changes: int | None = None) -> None:
        for name, states in [*self._unsynced.items()]:
            covered = [each for each in states if changes is None or each[0] < changes]
            if covered:
                self._set_durable(name, covered[-1][1])
                del states[: len(covered)]
                if not states:
                    del self._unsynced[name]

    def crash(self, random: Random, chance: float) -> None:
        for name, states in self._unsynced.items():
            reached = len(states) if random.random() < chance else random.randint(0, len(states))
            if chance and reached:
                self._set_durable(name, states[reached - 1][1])
        self._unsynced.clear()
        self.entries = dict(self._durable)

    def _note(self, name: str, inode: Inode | None) -> None:
        self._unsynced.setdefault(name, []).append((self.changes, inode))
        self.changes += 1

    def _set_durable(self, name: str, inode: Inode | None) -> None:
        if inode is None:
            self._durable.pop(name, None)
        else:
            self._durable[name] = inode


def walk(directory: Directory) -> Iterator[Inode]:
    """Each inode below the directory, and itself; a file with two names comes twice."""
    yield directory
    for inode in directory.entries.values():
        if isinstance(inode, Directory):
            yield from walk(inode)
        else:
            yield inode


def _apply(target: bytearray, position: int, data: bytes | None) -> None:
    if data is None:
        _resize(target, position)
    else:
        _put(target, position, data)


def _put(target: bytearray, offset: int, data: bytes) -> None:
    if offset > len(target):
        _resize(target, offset)
    target[offset : offset + len(data)] = data


def _resize(target: bytearray, size: int) -> None:
    if size < len(target):
        del target[size:]
    else:
        target.extend(bytes(size - len(target)))
