"""A simulated machine: a file system in memory, a clock, processes that can be killed, and a power cord."""

from __future__ import annotations

import errno
import os
from random import Random
from typing import NamedTuple, Protocol

from tests.store.simulation.faults import Faults
from tests.store.simulation.inodes import Directory, File, Inode, walk
from tests.store.simulation.scheduler import Scheduler

# In nanoseconds: what a system call takes, and the tick of the clock that file times are taken from.
_CALL_TIME = 20_000
_TICK = 4_000_000

DEVICE = os.makedev(8, 1)


def error(number: int, *paths: str) -> OSError:
    return OSError(number, os.strerror(number), *paths)


class Call(NamedTuple):
    """A system call that was made: for the message of a failed history."""

    process: int
    thread: str
    name: str
    arguments: tuple[object, ...]

    def __str__(self) -> str:
        arguments = ", ".join(_short(each) for each in self.arguments)
        return f"process {self.process}, {self.thread}: {self.name}({arguments})"


class FileSystem:
    """Names and inodes. `random` decides what a power cut and a failed sync leave."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._numbers = 1
        self._free: list[int] = []
        self.root = Directory(self._new_number(), 0o755, 0)
        self.root.links = 1
        # Failed writes of any file; see `Inode.errors`.
        self.errors = 0
        # Whether the journal failed: nothing is changed any more, and nothing is synced.
        self.is_aborted = False

    def new_file(self, mode: int, time: int) -> File:
        return File(self._new_number(), mode & 0o7777, time)

    def new_directory(self, mode: int, time: int) -> Directory:
        return Directory(self._new_number(), mode & 0o7777, time)

    def add(self, parent: Directory, name: str, inode: Inode, time: int) -> None:
        parent.put(name, inode)
        parent.modified = parent.changed = inode.changed = time
        inode.links += 1

    def remove(self, parent: Directory, name: str, time: int) -> None:
        inode = parent.take(name)
        parent.modified = parent.changed = inode.changed = time
        inode.links -= 1
        self.forget(inode)

    def forget(self, inode: Inode) -> None:
        """Use the number again if nothing refers to it."""
        if not inode.links and not inode.opened:
            self._free.append(inode.number)

    def rename(self, place: tuple[Directory, str], target: tuple[Directory, str], time: int) -> None:
        """Give what is at a place another one, in one step: no power cut leaves neither of two files there."""
        (above, path), (parent, name) = place, target
        inode = above.entries.get(path)
        if inode is None:
            raise error(errno.ENOENT, path)
        if isinstance(inode, Directory) and _contains(inode, parent):
            raise error(errno.EINVAL, path)
        replaced = parent.entries.get(name)
        if replaced is inode:
            return
        if not parent.links:
            raise error(errno.ENOENT, path)
        if replaced is not None:
            _check_replacement(inode, replaced, above, path)
            replaced.links -= 1
            replaced.changed = time
            self.forget(replaced)
        parent.put(name, inode)
        inode.links += 1
        self.remove(above, path, time)
        parent.modified = parent.changed = time

    def look_up(self, path: str, start: Directory | None = None) -> Inode:
        """Raises FileNotFoundError and NotADirectoryError."""
        inode: Inode = start if start is not None and not path.startswith("/") else self.root
        if not path:
            raise error(errno.ENOENT, path)
        for name in path.split("/"):
            if name in ("", "."):
                continue
            if not isinstance(inode, Directory):
                raise error(errno.ENOTDIR, path)
            found = inode.entries.get(name)
            if found is None:
                raise error(errno.ENOENT, path)
            inode = found
        return inode

    def parent(self, path: str, start: Directory | None = None) -> tuple[Directory, str]:
        """The directory of a path's last name, and that name."""
        above, slash, name = path.rpartition("/")
        found = self.look_up(above or "/", start) if slash else start or self.root
        if not isinstance(found, Directory):
            raise error(errno.ENOTDIR, path)
        return found, name

    def dirty(self) -> list[tuple[Inode, int]]:
        """What a sync that begins now covers: inodes, and how many changes of each."""
        return [(inode, inode.changes) for inode in walk(self.root) if inode.is_dirty]

    def fail_some(self) -> None:
        """Writing the bytes of some files fails; all else is synced."""
        dirty = [inode for inode in walk(self.root) if isinstance(inode, File) and inode.is_dirty]
        for inode in self._random.sample(dirty, self._random.randint(0, len(dirty))):
            inode.fail(self._random)
        self.errors += 1

    def crash(self) -> None:
        """Forget what is not durable, in any order."""
        chance = self._random.choice((0.0, 1.0, 0.1, 0.5, 0.9))
        pending: list[Inode] = [self.root]
        seen: set[int] = set()
        self._numbers, self._free = 1, []
        while pending:
            inode = pending.pop()
            if id(inode) in seen:
                inode.links += not isinstance(inode, Directory)
                continue
            seen.add(id(inode))
            inode.crash(self._random, chance)
            inode.number, inode.links, inode.opened, inode.errors = self._new_number(), 1, 0, 0
            inode.locks.clear()
            inode.locked_bytes.clear()
            if isinstance(inode, Directory):
                pending += inode.entries.values()
        self.errors, self.is_aborted = 0, False

    def _new_number(self) -> int:
        if self._free:
            return self._free.pop()
        self._numbers += 1
        return self._numbers


class Mortal(Protocol):
    """A process."""

    def kill(self) -> None: ...


class Machine:
    """All is decided by `seed`: who runs, what fails, and what a power cut leaves."""

    def __init__(self, seed: int, *, file_system: str = "ext4", dirty: int = 0, switch_chance: float = 0.3) -> None:
        """`dirty` is what other programs have written and the disk has not, in bytes."""
        self.random = Random(seed)
        self.scheduler = Scheduler(self.random, switch_chance=switch_chance)
        self.faults = Faults(self.random)
        self.files = FileSystem(self.random)
        self.release = "6.1.0"
        self.calls: list[Call] = []
        # No whole second: some file systems have no others.
        self._now = 1_700_000_000_123_456_789
        self._booted = self._now
        self._processes: list[Mortal] = []
        self._file_system = file_system
        self._dirty = dirty
        self.boot_id = ""
        self._boot()

    @property
    def now(self) -> int:
        """Nanoseconds since 1970."""
        return self._now

    @property
    def file_time(self) -> int:
        return self._now // _TICK * _TICK

    @property
    def uptime(self) -> float:
        return (self._now - self._booted) / 1e9

    def pass_time(self, seconds: float = 0.0) -> None:
        self._now += int(seconds * 1e9) or _CALL_TIME

    def adopt(self, process: Mortal) -> int:
        """Returns the number of a new process."""
        self._processes.append(process)
        return len(self._processes)

    def cut_power(self) -> None:
        """End all processes at once, and forget what was not durable. The machine boots again."""
        self.kill_all()
        self.files.crash()
        self._boot()

    def kill_all(self) -> None:
        for process in self._processes:
            process.kill()
        self.scheduler.run()

    def write_file(self, path: str, data: bytes) -> None:
        """Put a file there, durably, as the system's own files are."""
        directory = self.files.root
        *above, name = path.strip("/").split("/")
        for each in above:
            below = directory.entries.get(each)
            if below is None:
                below = self.files.new_directory(0o755, self.file_time)
                self.files.add(directory, each, below, self.file_time)
            assert isinstance(below, Directory)
            directory.sync()
            directory = below
        file = self.files.new_file(0o644, self.file_time)
        file.write(0, data)
        file.sync()
        self.files.add(directory, name, file, self.file_time)
        directory.sync()

    def _boot(self) -> None:
        self.boot_id = f"{self.random.getrandbits(128):032x}"
        number = f"{os.major(DEVICE)}:{os.minor(DEVICE)}"
        self.write_file("/proc/self/mountinfo", f"1 0 {number} / / rw - {self._file_system} /dev/x rw\n".encode())
        self.write_file("/proc/meminfo", f"MemTotal: 1 kB\nDirty: {self._dirty // 1024} kB\nWriteback: 0 kB\n".encode())
        self.write_file("/proc/sys/kernel/random/boot_id", f"{self.boot_id}\n".encode())


def _short(value: object) -> str:
    text = (
        f"{len(value)} bytes" if isinstance(value, (bytes, bytearray, memoryview)) and len(value) > 20 else repr(value)
    )
    return text if len(text) < 120 else f"{text[:110]}…"


def _contains(directory: Directory, other: Directory) -> bool:
    return directory is other or any(
        isinstance(each, Directory) and _contains(each, other) for each in directory.entries.values()
    )


def _check_replacement(inode: Inode, replaced: Inode, above: Directory, path: str) -> None:
    if isinstance(replaced, Directory) and _contains(replaced, above):
        raise error(errno.ENOTEMPTY, path)
    if isinstance(inode, Directory) and not isinstance(replaced, Directory):
        raise error(errno.ENOTDIR, path)
    if not isinstance(inode, Directory) and isinstance(replaced, Directory):
        raise error(errno.EISDIR, path)
    if isinstance(replaced, Directory) and replaced.entries:
        raise error(errno.ENOTEMPTY, path)
