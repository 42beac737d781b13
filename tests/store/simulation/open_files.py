"""What system calls of a simulated process return: open files, entries of directories, and their status."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence

from tests.store.simulation.inodes import File, Inode
from tests.store.simulation.machine import DEVICE, error

_ACCESS = os.O_RDONLY | os.O_WRONLY | os.O_RDWR


class OpenFile:
    def __init__(self, inode: Inode, flags: int, errors: int, all_errors: int) -> None:
        """`errors` and `all_errors` are those of the inode and of the file system, which it does not report."""
        self.inode = inode
        self.flags = flags
        self.offset = 0
        self.errors = errors
        self.all_errors = all_errors

    def read(self, length: int, offset: int) -> bytes:
        if self.flags & _ACCESS == os.O_WRONLY:
            raise error(errno.EBADF)
        if not isinstance(self.inode, File):
            raise error(errno.EISDIR)
        return bytes(self.inode.data[offset : offset + length])

    def write(self, data: bytes, offset: int, time: int) -> int:
        if not self.flags & (os.O_WRONLY | os.O_RDWR) or not isinstance(self.inode, File):
            raise error(errno.EBADF)
        self.inode.write(offset, data)
        self.inode.modified = self.inode.changed = time
        return len(data)


class SimulatedEntry:
    def __init__(self, lstat: Callable[[str], os.stat_result], directory: str, name: str) -> None:
        self._lstat = lstat
        self.name = name
        self.path = f"{directory}/{name}"

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        try:
            return stat.S_ISDIR(self.stat().st_mode)
        except FileNotFoundError:
            return False

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        return self._lstat(self.path)


class SimulatedEntries:
    def __init__(self, entries: Sequence[SimulatedEntry]) -> None:
        self._entries = entries

    def __iter__(self) -> Iterator[SimulatedEntry]:
        return iter(self._entries)

    def __enter__(self) -> SimulatedEntries:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def status_of(inode: Inode) -> os.stat_result:
    seconds = inode.modified // 10**9, inode.modified // 10**9, inode.changed // 10**9
    more = {"st_mtime_ns": inode.modified, "st_ctime_ns": inode.changed, "st_mtime": inode.modified / 1e9}
    return os.stat_result((inode.mode, inode.number, DEVICE, inode.links, 0, 0, inode.size, *seconds), more)
