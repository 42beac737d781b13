"""A file system in an image file, mounted by a loop device, whose power can be cut.

The cut is FS_IOC_SHUTDOWN without a flush of the log: from then on nothing reaches the image, and every call fails.
What no sync made durable, and the kernel did not write by itself, is lost, as after a power failure. What the kernel
has handed to the device is never lost, so a disk that loses its own cache is not imitated.

Each mount is a boot of the machine: with another boot id, and a monotonic clock that begins anywhere.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import random
import struct
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from tests.support import find_program, wait_until

# _IOR('X', 125, __u32) of <linux/fs.h>, the same for ext4 and XFS, and the flag that leaves the log as it is.
_FS_IOC_SHUTDOWN = 0x8004587D
_NOLOGFLUSH = struct.pack("I", 2)

# Nothing is left for the kernel to initialize after the mount, which else writes beside what is measured.
_MAKE = {
    "ext4": ("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"),
    "xfs": ("mkfs.xfs", "-q", "-f"),
}

# Of the image, in bytes, which is sparse: ext4 makes two million inodes.
_SIZE = 32 * 1024**3

# Nothing is written that was not synced: ext4 would else write its journal every 5 s, and sync a file that replaces
# another one. XFS writes its log every 30 s, which is longer than a round.
_OPTIONS = {"ext4": "loop,commit=120,noauto_da_alloc", "xfs": "loop"}

FILE_SYSTEMS = tuple(_MAKE)


# <linux/sched.h>
_CLONE_NEWNS = 0x00020000

_BOOT_ID = "/proc/sys/kernel/random/boot_id"

# The clock of a boot is at most so many seconds ahead of this machine's.
_MAX_AHEAD = 10**6


def unshare_mounts() -> None:
    """Give this process and its children mounts of their own, which the kernel removes when all of them have ended.

    Another program that copies all mounts, such as a container, would keep a file system that was shut down alive: it
    could not be mounted anew.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS):
        raise OSError(ctypes.get_errno(), "cannot unshare mounts; root is needed")
    _run("mount", "--make-rprivate", "/")


class Disk:
    """A new file system of the given kind in an image. As a context, removes it.

    With `options` of its own for the mount, a cut loses less. `before` is the prefix of commands that run in this boot.
    """

    def __init__(self, directory: Path, kind: str, options: str = "") -> None:
        self.path = directory / "mounted"
        self.image = directory / "image"
        self.before: tuple[str, ...] = ()
        self._kind = kind
        self._options = options or _OPTIONS[kind]
        self._boot = directory / "boot_id"

    def __enter__(self) -> Disk:
        self.path.mkdir(exist_ok=True)
        with self.image.open("wb") as image:
            image.truncate(_SIZE)
        program, *options = _MAKE[self._kind]
        _run(find_program(program), *options, str(self.image))
        return self

    def __exit__(self, *_: object) -> None:
        self.image.unlink()

    @contextlib.contextmanager
    def mounted(self) -> Iterator[None]:
        """Mount it for the length of a block, which replays its log after a cut."""
        self._boot.write_text(f"{uuid.uuid4()}\n")
        _run("mount", "--bind", str(self._boot), _BOOT_ID)
        ahead = random.randint(60 - int(time.monotonic()), _MAX_AHEAD)
        self.before = ("unshare", "--time", "--monotonic", str(ahead))
        try:
            _run("mount", "-t", self._kind, "-o", self._options, str(self.image), str(self.path))
            try:
                yield
            finally:
                self._unmount()
        finally:
            _run("umount", _BOOT_ID)

    def cut(self) -> None:
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, _FS_IOC_SHUTDOWN, _NOLOGFLUSH)
        finally:
            os.close(descriptor)

    def _unmount(self) -> None:
        try:
            # It is in use until the last process of the daemon that was killed has ended.
            wait_until(f"{self.path} is unmounted", self._is_unmounted)
        except AssertionError:
            _run("umount", "--lazy", str(self.path))
            raise

    def _is_unmounted(self) -> bool:
        return not subprocess.run(["umount", str(self.path)], stderr=subprocess.DEVNULL, check=False).returncode


def _run(*command: str) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
