"""The modes of files and directories that a disk store makes, whatever the umask; and what files of others may not be.

The umask cannot be relied on in either direction: a shell's usual 0022 lets all users of the machine read, and 0077
keeps nginx from files that `--accel` refers it to. Databases, locks and the quarantine are always PRIVATE.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from typing import NamedTuple

from filestoraged.store.system import LINUX, Files


class Permissions(NamedTuple):
    directory: int
    file: int


PRIVATE = Permissions(0o700, 0o600)
# For `--accel`: nginx reads objects as a member of the daemon's group.
GROUP_READABLE = Permissions(0o750, 0o640)

# Bits that no store needs: access for other users, and write access for the group. Read access for the group is not
# reported: systemd's StateDirectoryMode=0750 sets it anew at each start.
_TOO_OPEN = 0o027


def make_directory(path: str, mode: int, *, system: Files = LINUX) -> None:
    """Make a directory with that mode. Raises FileExistsError and other OSErrors."""
    system.mkdir(path, mode)
    actual = stat.S_IMODE(system.stat(path).st_mode)
    if actual & mode != mode:
        # Keep the setgid bit that a directory inherits.
        system.chmod(path, actual | mode)


def create_file(path: str, mode: int, *, system: Files = LINUX) -> int:
    """Create an empty file. Returns a descriptor to write to it. Raises FileExistsError and other OSErrors."""
    descriptor = system.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        if system.fstat(descriptor).st_mode & mode != mode:
            system.fchmod(descriptor, mode)
    except BaseException:
        system.close(descriptor)
        raise
    return descriptor


def require_directory(path: str, *, system: Files = LINUX) -> None:
    """Raise OSError, which names it, if what is at `path` is a symbolic link or no directory. It may be missing."""
    _require(system, path, stat.S_ISDIR, errno.ENOTDIR, "is not a directory")


def require_file(path: str, *, system: Files = LINUX) -> None:
    """Raise OSError, which names it, if what is at `path` is a symbolic link or no regular file. It may be missing."""
    _require(system, path, stat.S_ISREG, errno.EINVAL, "is not a regular file")


def _require(system: Files, path: str, is_expected: Callable[[int], bool], number: int, otherwise: str) -> None:
    try:
        mode = system.lstat(path).st_mode
    except FileNotFoundError:
        return
    if stat.S_ISLNK(mode):
        raise OSError(errno.ELOOP, f"{path!r} is a symbolic link")
    if not is_expected(mode):
        raise OSError(number, f"{path!r} {otherwise}")


def open_own_directory(path: str, *, system: Files = LINUX) -> int:
    """Return a descriptor of a directory that is no symbolic link. Raises NotADirectoryError and other OSErrors."""
    return system.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def permission_warning(root: str, permissions: Permissions) -> str | None:
    """A warning for the operator if the mode of an existing store does not fit, else None. Raises OSError."""
    mode = stat.S_IMODE(os.stat(root).st_mode)
    if mode & _TOO_OPEN:
        closed = "o-rwx,g-w" if permissions is GROUP_READABLE else "go-rwx"
        return (
            f"the store {root} has mode {mode:04o}, which gives other users of this machine access to it;"
            f" to remove that: chmod -R {closed} {root}"
        )
    if permissions.directory & ~mode:
        return (
            f"the store {root} has mode {mode:04o}; --accel needs {permissions.directory:04o}, unless nginx runs as the"
            " user that owns it"
        )
    return None


def write_fault(descriptor: int) -> str | None:
    """Why a file of the operator's cannot be trusted, after its name; None where it can.

    Judged by the descriptor that is read: the path may lead to another file by then.
    """
    mode = _file_mode(descriptor)
    return f"has mode {mode:04o}, which lets every user of this machine change it" if mode & stat.S_IWOTH else None


def write_warning(descriptor: int) -> str | None:
    """Like `write_fault`, for a file that can be used: its group may change it."""
    mode = _file_mode(descriptor)
    return f"has mode {mode:04o}, which lets its group change it" if mode & stat.S_IWGRP else None


def _file_mode(descriptor: int) -> int:
    """The permissions of a file, none for a pipe or a terminal: what they pass on was written by their own user."""
    mode = os.fstat(descriptor).st_mode
    return stat.S_IMODE(mode) if stat.S_ISREG(mode) else 0
