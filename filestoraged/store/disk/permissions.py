"""The permissions of files and directories that a disk store makes, whatever the umask.

The umask cannot be relied on in either direction: a shell's usual 0022 lets every user of the machine read, and 0077
keeps nginx from what `--accel` hands over to it. Databases, locks and the quarantine are always PRIVATE.
"""

from __future__ import annotations

import os
import stat
from typing import NamedTuple


class Permissions(NamedTuple):
    directory: int
    file: int


PRIVATE = Permissions(0o700, 0o600)
# For `--accel`: nginx reads objects as a member of the daemon's group.
GROUP_READABLE = Permissions(0o750, 0o640)

# Bits that no store needs: access for other users, and write access for the group. Read access for the group is not
# reported: systemd's StateDirectoryMode=0750 sets it anew at each start.
_TOO_OPEN = 0o027


def make_directory(path: str, mode: int) -> None:
    """Raises FileExistsError, and other OSErrors."""
    os.mkdir(path, mode)
    made = stat.S_IMODE(os.stat(path).st_mode)
    if made & mode != mode:
        # The setgid bit that a directory inherits stays.
        os.chmod(path, made | mode)


def create_file(path: str, mode: int) -> int:
    """Create an empty file and return a descriptor to write to it. Raises FileExistsError, and other OSErrors."""
    descriptor = create_file_as_allowed(path, mode)
    try:
        if os.fstat(descriptor).st_mode & mode != mode:
            os.fchmod(descriptor, mode)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def create_file_as_allowed(path: str, mode: int) -> int:
    """The same, with a system call less, where the umask is known to allow that mode."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)


def is_allowed(directory: str, mode: int) -> bool:
    """Whether a file that is created in an empty directory has that mode: the umask may take something away."""
    path = f"{directory}/mode"
    descriptor = create_file_as_allowed(path, mode)
    try:
        return os.fstat(descriptor).st_mode & mode == mode
    finally:
        os.close(descriptor)
        os.unlink(path)


def problem(root: str, modes: Permissions) -> str | None:
    """Return a warning for the operator if the mode of an existing store does not fit, else None. Raises OSError."""
    mode = stat.S_IMODE(os.stat(root).st_mode)
    if mode & _TOO_OPEN:
        closed = "o-rwx,g-w" if modes is GROUP_READABLE else "go-rwx"
        return (
            f"the store {root} has mode {mode:04o}, which gives other users of this machine access to it;"
            f" to remove that: chmod -R {closed} {root}"
        )
    if modes.directory & ~mode:
        return (
            f"the store {root} has mode {mode:04o}; --accel needs {modes.directory:04o}, unless nginx runs as the user"
            " that owns it"
        )
    return None
