"""What a disk store asks of the operating system: files, time and threads.

All of it goes through one object, which is handed in at construction. `LINUX` is the real one: its methods that are
called often are the functions of the standard library themselves, so the object costs nothing. Tests hand in a model
of a file system that fails, tears and forgets; see tests/store/simulation.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import queue
import stat
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, BinaryIO, Protocol, TypeVar

from filestoraged.digest import Bytes
from filestoraged.future import Future
from filestoraged.store.serial_executor import Call, start_thread

_Result = TypeVar("_Result")

# `struct flock`: type, whence, start, length, and a process, which is 0 for locks of open files; see fcntl(2).
_FLOCK = struct.Struct("@hhqqi0q")


class DirectoryEntry(Protocol):
    """An entry of a directory, as `os.scandir` lists it."""

    @property
    def name(self) -> str: ...

    @property
    def path(self) -> str: ...

    def is_dir(self, *, follow_symlinks: bool = True) -> bool: ...

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result: ...


class Entries(AbstractContextManager["Entries"], Protocol):
    def __iter__(self) -> Iterator[DirectoryEntry]: ...


class Queue(Protocol):
    """As `queue.SimpleQueue`. Raises `queue.Empty`."""

    def put(self, item: Any, /) -> None: ...

    def get(self, block: bool = True, timeout: float | None = None) -> Any: ...

    def empty(self) -> bool: ...


class Thread(Protocol):
    def join(self) -> None: ...


class Files(Protocol):
    """System calls on files: the functions of `os` and `fcntl` by those names. All raise OSError."""

    # By path; a path is relative to the open directory `dir_fd`, if one is given.

    def open(self, path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int: ...

    def stat(self, path: str) -> os.stat_result: ...

    def lstat(self, path: str) -> os.stat_result: ...

    def link(self, src: str, dst: str, *, follow_symlinks: bool = True) -> None: ...

    def rename(self, src: str, dst: str) -> None: ...

    def unlink(self, path: str, *, dir_fd: int | None = None) -> None: ...

    def mkdir(self, path: str, mode: int = 0o777) -> None: ...

    def rmdir(self, path: str) -> None: ...

    def chmod(self, path: str, mode: int) -> None: ...

    def access(self, path: str, mode: int) -> bool: ...

    def removexattr(self, path: str, attribute: str) -> None: ...

    def listdir(self, path: str | int) -> list[str]: ...

    def scandir(self, path: str) -> Entries: ...

    # By descriptor.

    def close(self, fd: int) -> None: ...

    def fdopen(self, fd: int) -> BinaryIO:
        """A buffered stream that reads an open file, and closes it."""

    def fstat(self, fd: int) -> os.stat_result: ...

    def fstatvfs(self, fd: int, /) -> os.statvfs_result: ...

    def fchmod(self, fd: int, mode: int) -> None: ...

    def flock(self, fd: int, operation: int, /) -> None: ...

    def try_lock(self, fd: int, position: int) -> bool:
        """Lock one byte of a file, which need not exist, for the open file `fd`. Returns False if another one has it.

        The lock ends with `unlock`, and when the last copy of the descriptor is closed.
        """

    def unlock(self, fd: int, start: int, stop: int) -> None:
        """Give up the locks that the open file `fd` has on the bytes of that range."""

    def read(self, fd: int, length: int, /) -> bytes: ...

    def pread(self, fd: int, length: int, offset: int, /) -> bytes: ...

    def preadv(self, fd: int, buffers: Sequence[bytearray], offset: int, flags: int = 0, /) -> int: ...

    def write(self, fd: int, data: Bytes, /) -> int: ...

    def pwrite(self, fd: int, data: Bytes, offset: int, /) -> int: ...

    def fsync(self, fd: int) -> None: ...

    def fdatasync(self, fd: int) -> None: ...

    def syncfs(self, fd: int) -> None:
        """Write all that the file system of an open file has in memory, and wait for it; see syncfs(2)."""


class System(Files, Protocol):
    """Files, and what else the store asks for. Raises OSError. Any thread calls it."""

    def getpid(self) -> int: ...

    def urandom(self, size: int, /) -> bytes: ...

    def release(self) -> str:
        """The release of the kernel."""

    def time_ns(self) -> int: ...

    def monotonic(self) -> float: ...

    def monotonic_ns(self) -> int: ...

    def sleep(self, seconds: float, /) -> None: ...

    def start_thread(self, run: Call, *, name: str) -> Thread | None:
        """Start a daemon thread. Returns None if the system refuses another thread."""

    def lock(self) -> AbstractContextManager[object]:
        """A lock that may be held over a call of the system, as other locks may not: a simulation is to know of it."""

    def queue(self) -> Queue: ...

    def result_of(self, future: Future[_Result]) -> _Result:
        """Wait for a future, and return its result. Raises its error."""


class Linux:
    """The operating system itself."""

    open = staticmethod(os.open)
    stat = staticmethod(os.stat)
    lstat = staticmethod(os.lstat)
    link = staticmethod(os.link)
    rename = staticmethod(os.rename)
    unlink = staticmethod(os.unlink)
    mkdir = staticmethod(os.mkdir)
    rmdir = staticmethod(os.rmdir)
    chmod = staticmethod(os.chmod)
    access = staticmethod(os.access)
    removexattr = staticmethod(os.removexattr)
    close = staticmethod(os.close)
    fstat = staticmethod(os.fstat)
    fstatvfs = staticmethod(os.fstatvfs)
    fchmod = staticmethod(os.fchmod)
    flock = staticmethod(fcntl.flock)
    read = staticmethod(os.read)
    pread = staticmethod(os.pread)
    preadv = staticmethod(os.preadv)
    write = staticmethod(os.write)
    pwrite = staticmethod(os.pwrite)
    fsync = staticmethod(os.fsync)
    fdatasync = staticmethod(os.fdatasync)
    getpid = staticmethod(os.getpid)
    urandom = staticmethod(os.urandom)
    time_ns = staticmethod(time.time_ns)
    monotonic = staticmethod(time.monotonic)
    monotonic_ns = staticmethod(time.monotonic_ns)
    sleep = staticmethod(time.sleep)
    start_thread = staticmethod(start_thread)
    lock = staticmethod(threading.Lock)

    # Overloaded functions, whose types an assignment would lose.

    def listdir(self, path: str | int) -> list[str]:
        return os.listdir(path)

    def scandir(self, path: str) -> Entries:
        return os.scandir(path)

    def queue(self) -> Queue:
        return queue.SimpleQueue()

    def result_of(self, future: Future[_Result]) -> _Result:
        return future.result()

    def release(self) -> str:
        return os.uname().release

    def fdopen(self, fd: int) -> BinaryIO:
        return os.fdopen(fd, "rb")

    def try_lock(self, fd: int, position: int) -> bool:
        try:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, position, 1, 0))
        except BlockingIOError:
            return False
        return True

    def unlock(self, fd: int, start: int, stop: int) -> None:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, start, stop - start, 0))

    def syncfs(self, fd: int) -> None:
        _call("syncfs", fd)


_libc = ctypes.CDLL(None, use_errno=True)


def _call(name: str, *arguments: object) -> None:
    """Call a function of the C library that the standard library lacks. Raises OSError."""
    try:
        function = getattr(_libc, name)
    except AttributeError:
        number = errno.ENOSYS
    else:
        number = ctypes.get_errno() if function(*arguments) else 0
    if number:
        raise OSError(number, os.strerror(number))


LINUX: System = Linux()


def read_file(system: Files, path: str) -> bytes:
    """The content of a file. Raises OSError."""
    descriptor = system.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return b"".join(iter(lambda: system.read(descriptor, 65536), b""))
    finally:
        system.close(descriptor)


def write_at(system: Files, descriptor: int, data: Bytes, position: int) -> None:
    """Write all of the data at that position of a file. Raises OSError."""
    view = memoryview(data)
    while view:
        # A signal or a full disk may cut a write short. The next one raises the error, if there is one.
        written = system.pwrite(descriptor, view, position)
        position += written
        view = view[written:]


def listed(system: Files, path: str) -> Sequence[str]:
    """The names in a directory, none if it is missing. Raises other OSErrors."""
    try:
        return system.listdir(path)
    except (FileNotFoundError, NotADirectoryError):
        return ()


def is_directory(system: Files, path: str) -> bool:
    """As `os.path.isdir`."""
    try:
        return stat.S_ISDIR(system.stat(path).st_mode)
    except OSError:
        return False


def exists(system: Files, path: str) -> bool:
    """As `os.path.lexists`."""
    try:
        system.lstat(path)
    except OSError:
        return False
    return True
