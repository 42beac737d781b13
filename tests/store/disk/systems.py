"""Systems on which disk stores have journals, or have none, wherever the temporary directory is."""

from __future__ import annotations

import errno
import os
import tempfile
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from filestoraged.digest import Digest
from filestoraged.future import Future
from filestoraged.store import layout
from filestoraged.store.disk.store import DiskStore
from filestoraged.store.system import Linux
from tests.store.simulation.process import Process
from tests.support import PATIENCE

_Result = TypeVar("_Result")

FULL = OSError(errno.ENOSPC, "No space left on device")


class PlainLinux(Linux):
    """A kernel whose syncfs reports no errors: stores have no journals."""

    def release(self) -> str:
        return "4.19.0"


class Disk(Linux):
    """A disk with journals, whose syncs a test holds back, observes, or lets fail. It syncs no whole file system."""

    def __init__(self) -> None:
        # Syncs of segments of a journal, and of the file system.
        self.syncs = 0
        self.checkpoints = 0
        self.failures: list[OSError] = []
        self.checkpoint_failures: list[OSError] = []
        self.before: Callable[[], None] = lambda: None
        self.before_checkpoint: Callable[[], None] = lambda: None
        # Whether segments take no bytes.
        self.is_full = False
        # Seconds by which the clock of timeouts is ahead.
        self.ahead = 0.0
        self.reached = threading.Event()
        self.is_open = threading.Event()
        self.is_open.set()

    def release(self) -> str:
        return "6.1.0"

    def open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        return _mounts() if path == "/proc/self/mountinfo" else os.open(path, flags, mode, dir_fd=dir_fd)

    def pwrite(self, fd: int, data: Any, offset: int, /) -> int:
        if self.is_full and _is_segment(fd):
            raise FULL
        return os.pwrite(fd, data, offset)

    def fdatasync(self, fd: Any) -> None:
        if _is_segment(fd):
            self.reached.set()
            self.is_open.wait(PATIENCE)
            self.before()
            self.syncs += 1
            if self.failures:
                raise self.failures.pop(0)
        os.fdatasync(fd)

    def syncfs(self, fd: int) -> None:
        self.before_checkpoint()
        self.checkpoints += 1
        if self.checkpoint_failures:
            raise self.checkpoint_failures.pop(0)

    def monotonic(self) -> float:
        return Linux.monotonic() + self.ahead

    def hold(self) -> None:
        self.reached.clear()
        self.is_open.clear()

    def go_on(self) -> None:
        self.is_open.set()


def put(process: Process, store: DiskStore, data: bytes, *, name: str | None = None) -> Digest:
    """As `store.put`, in a simulation, whose threads run meanwhile."""
    with store.stage(len(data)) as staging:
        staging.write(data)
        return finished(process, staging.commit(name=name))


def finished(process: Process, future: Future[_Result]) -> _Result:
    """The result of a future that threads of a simulation bring about."""
    process.machine.scheduler.run(future.done)
    return future.result(0)


def _is_segment(descriptor: int) -> bool:
    return layout.is_segment(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))


def _mounts() -> int:
    """A table of mounts, in which the temporary directory is on ext4."""
    device = os.stat(tempfile.gettempdir()).st_dev
    table = os.memfd_create("mountinfo", os.MFD_CLOEXEC)
    line = f"36 35 {os.major(device)}:{os.minor(device)} / /mnt rw - ext4 /dev/x rw\n"
    os.pwrite(table, line.encode(), 0)
    return table
