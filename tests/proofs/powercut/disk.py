"""A file system in an image file, mounted by a loop device, whose power can be cut.

The cut is FS_IOC_SHUTDOWN without a flush of the log: from then on nothing reaches the image, and every call fails.
What no sync made durable, and the kernel did not write by itself, is lost, as after a power failure. What the kernel
has handed to the device is never lost, so a disk that loses its own cache is not imitated.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
import subprocess
import time
from pathlib import Path

from tests.support import find_program

# _IOR('X', 125, __u32) of <linux/fs.h>, the same for ext4 and XFS, and the flag that leaves the log as it is.
_FS_IOC_SHUTDOWN = 0x8004587D
_NOLOGFLUSH = struct.pack("I", 2)

_MAKE = {"ext4": ("mkfs.ext4", "-q", "-F"), "xfs": ("mkfs.xfs", "-q", "-f")}

# Nothing is written that was not synced: ext4 would else write its journal every 5 s, and sync a file that replaces
# another one. XFS writes its log every 30 s, which is longer than a round.
_OPTIONS = {"ext4": "loop,commit=120,noauto_da_alloc", "xfs": "loop"}

FILE_SYSTEMS = tuple(_MAKE)

# Seconds during which a file system may be in use by a process that was killed.
_BUSY_TIMEOUT = 20.0


# <linux/sched.h>
_CLONE_NEWNS = 0x00020000


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
    """A new file system of the given kind in an image of `size` bytes, which is sparse. As a context, removes it."""

    def __init__(self, directory: Path, kind: str, size: int) -> None:
        self.path = directory / "mounted"
        self.kind = kind
        self._image = directory / "image"
        self._size = size

    def __enter__(self) -> Disk:
        self.path.mkdir(exist_ok=True)
        with self._image.open("wb") as image:
            image.truncate(self._size)
        program, *options = _MAKE[self.kind]
        _run(find_program(program), *options, str(self._image))
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if os.path.ismount(self.path):
                self.unmount()
        finally:
            self._image.unlink()

    def mount(self) -> None:
        """Mount it, which replays its log after a cut."""
        _run("mount", "-t", self.kind, "-o", _OPTIONS[self.kind], str(self._image), str(self.path))

    def cut(self) -> None:
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, _FS_IOC_SHUTDOWN, _NOLOGFLUSH)
        finally:
            os.close(descriptor)

    def unmount(self) -> None:
        deadline = time.monotonic() + _BUSY_TIMEOUT
        while subprocess.run(["umount", str(self.path)], stderr=subprocess.DEVNULL, check=False).returncode:
            if time.monotonic() > deadline:
                _run("umount", "--lazy", str(self.path))
                raise AssertionError(f"{self.path} was in use {_BUSY_TIMEOUT:.0f} s after the daemon was killed")
            time.sleep(0.02)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
