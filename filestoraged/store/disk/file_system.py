"""The file system of a store: whether one call makes all of its files durable, and that call, syncfs(2).

Since Linux 5.8, syncfs reports the failed writes of all files since the last call with the same open directory. On
ext4 and XFS, a file that was written before the call is whole behind it, and so is every name. Other file systems are
not used in this way.
"""

from __future__ import annotations

import errno
import os

from filestoraged.store.disk.directories import open_directory
from filestoraged.store.system import LINUX, Files, System, read_file

# The least release of Linux whose syncfs reports errors, see syncfs(2).
_REPORTS_ERRORS = (5, 8)

_TYPES = ("ext4", "xfs")

_MOUNTS = "/proc/self/mountinfo"

# An attribute that no directory has.
_NO_ATTRIBUTE = "user.filestoraged.none"
# The errors of removing it where nothing failed: there is no such attribute, the file system or a filter of calls
# supports none, this user may set none (a sticky directory of another user), or the directory is missing.
_TAKES_CHANGES = (
    errno.ENODATA,
    errno.EOPNOTSUPP,
    errno.ENOSYS,
    errno.EINVAL,
    errno.EPERM,
    errno.EACCES,
    errno.ENOENT,
)


class FileSystem:
    """Syncs the file system that contains the directory `root`. One thread at a time calls it.

    Open it in each process: the kernel reports an error once for each open directory.
    """

    def __init__(self, root: str, *, system: Files = LINUX) -> None:
        self._system = system
        self._descriptor = open_directory(root, system=system)

    def sync(self) -> None:
        """Make all files and names durable that were written before the call. Raises OSError."""
        self._system.syncfs(self._descriptor)
        # A file system that became read-only by an error is not synced, and the call succeeds.
        if self._system.fstatvfs(self._descriptor).f_flag & os.ST_RDONLY:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    def close(self) -> None:
        self._system.close(self._descriptor)


def check_changes(root: str, *, system: Files = LINUX) -> None:
    """Raise OSError if the file system of a directory takes no changes any more. Call it behind each sync.

    If ext4 cannot write its journal, it fails the sync of one process. Those of others, whose names are lost too,
    succeed: there is nothing left to write. From then on it refuses to begin a change, such as this one, which finds
    nothing to remove.
    """
    try:
        system.removexattr(root, _NO_ATTRIBUTE)
    except OSError as error:
        if error.errno not in _TAKES_CHANGES:
            raise


def has_journals(root: str, *, system: System = LINUX) -> bool:
    """Whether small changes of a store in that directory go to a journal. Raises OSError."""
    return _numbers(system.release()) >= _REPORTS_ERRORS and _type(system, root) in _TYPES


def _type(system: Files, path: str) -> str:
    """The type of the file system that contains a path; empty if it is not known. Raises OSError."""
    device = system.stat(path).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        mounts = read_file(system, _MOUNTS)
    except FileNotFoundError:
        return ""
    # Fields by proc(5): the third is the device, the type is behind a single dash.
    for fields in map(str.split, os.fsdecode(mounts).splitlines()):
        if fields[2:3] == [number] and "-" in fields[:-1]:
            return fields[fields.index("-") + 1]
    return ""


def _numbers(release: str) -> tuple[int, ...]:
    numbers = release.partition("-")[0].split(".")[:2]
    return tuple(int(number) for number in numbers if number.isdecimal())
