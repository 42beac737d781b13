"""A process of a simulated machine: the `System` of the stores in it, with its own descriptors and threads."""

from __future__ import annotations

import errno
import fcntl
import io
import os
import stat
from collections.abc import Callable, Sequence
from typing import BinaryIO, TypeVar

from filestoraged.digest import Bytes
from filestoraged.future import Future
from tests.store.simulation.inodes import Directory, File, Inode
from tests.store.simulation.machine import Call, Machine, error
from tests.store.simulation.open_files import OpenFile, SimulatedEntries, SimulatedEntry, status_of
from tests.store.simulation.scheduler import Killed, SimulatedLock, SimulatedQueue, SimulatedThread

_Result = TypeVar("_Result")


class Process:
    """Its threads are those that `start_thread` starts, and the test's own while none of them runs."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.number = machine.adopt(self)
        self.is_dead = False
        self._files = machine.files
        self._opened: dict[int, OpenFile] = {}

    @property
    def descriptors(self) -> Sequence[int]:
        return [*self._opened]

    def kill(self) -> None:
        """End it: its descriptors and locks are gone; what the kernel has in memory stays."""
        self.is_dead = True
        self.machine.scheduler.kill(self)
        for fd in self.descriptors:
            self._close(fd)

    # Time and threads.

    def getpid(self) -> int:
        return self.number

    def urandom(self, size: int, /) -> bytes:
        return self.machine.random.randbytes(size)

    def release(self) -> str:
        return self.machine.release

    def time_ns(self) -> int:
        return self.machine.now

    def monotonic(self) -> float:
        return self.machine.uptime

    def monotonic_ns(self) -> int:
        return self.machine.now

    def sleep(self, seconds: float, /) -> None:
        self.machine.pass_time(seconds)
        self._enter("sleep", seconds)

    def start_thread(self, run: Callable[[], object], *, name: str) -> SimulatedThread:
        def main() -> None:
            run()

        return SimulatedThread(self.machine.scheduler, self.machine.scheduler.start(self, main, name))

    def lock(self) -> SimulatedLock:
        return self.machine.scheduler.lock()

    def queue(self) -> SimulatedQueue:
        return self.machine.scheduler.queue()

    def result_of(self, future: Future[_Result]) -> _Result:
        self.machine.scheduler.wait(future.done)
        return future.result(0)

    # Calls on paths.

    def open(self, path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        self._enter("create" if flags & os.O_CREAT else "open", path, flags, dir_fd)
        start = self._directory(dir_fd)
        inode = self._create(path, flags, mode, start) if flags & os.O_CREAT else self._files.look_up(path, start)
        if flags & os.O_DIRECTORY and not isinstance(inode, Directory):
            raise error(errno.ENOTDIR, path)
        if isinstance(inode, Directory) and flags & (os.O_WRONLY | os.O_RDWR):
            raise error(errno.EISDIR, path)
        if flags & os.O_TRUNC and isinstance(inode, File):
            self._truncate(inode, 0)
        inode.opened += 1
        fd = next(number for number in range(3, 1_000_000) if number not in self._opened)
        self._opened[fd] = OpenFile(inode, flags, inode.errors, self._files.errors)
        return fd

    def stat(self, path: str) -> os.stat_result:
        self._enter("stat", path)
        return status_of(self._files.look_up(path))

    def lstat(self, path: str) -> os.stat_result:
        self._enter("lstat", path)
        return status_of(self._files.look_up(path))

    def access(self, path: str, mode: int) -> bool:
        self._enter("access", path)
        try:
            self._files.look_up(path)
        except OSError:
            return False
        return True

    def link(self, src: str, dst: str, *, follow_symlinks: bool = True) -> None:
        self._change("link", src, dst)
        inode = self._files.look_up(src)
        parent, name = self._place(dst)
        if name in parent.entries:
            raise error(errno.EEXIST, src, dst)
        if isinstance(inode, Directory):
            raise error(errno.EPERM, src, dst)
        self._files.add(parent, name, inode, self.machine.file_time)

    def rename(self, src: str, dst: str) -> None:
        self._change("rename", src, dst)
        old = self._files.parent(src)
        new = self._files.parent(dst)
        self._files.rename(old, new, self.machine.file_time)

    def unlink(self, path: str, *, dir_fd: int | None = None) -> None:
        self._change("unlink", path, dir_fd)
        inode = self._files.look_up(path, self._directory(dir_fd))
        if isinstance(inode, Directory):
            raise error(errno.EISDIR, path)
        self._files.remove(*self._files.parent(path, self._directory(dir_fd)), self.machine.file_time)

    def mkdir(self, path: str, mode: int = 0o777) -> None:
        self._change("mkdir", path)
        parent, name = self._place(path)
        if name in parent.entries:
            raise error(errno.EEXIST, path)
        time = self.machine.file_time
        self._files.add(parent, name, self._files.new_directory(mode & ~0o022, time), time)

    def rmdir(self, path: str) -> None:
        self._change("rmdir", path)
        inode = self._files.look_up(path)
        if not isinstance(inode, Directory):
            raise error(errno.ENOTDIR, path)
        if inode.entries:
            raise error(errno.ENOTEMPTY, path)
        self._files.remove(*self._files.parent(path), self.machine.file_time)

    def chmod(self, path: str, mode: int) -> None:
        self._change("chmod", path, mode)
        self._set_mode(self._files.look_up(path), mode)

    def removexattr(self, path: str, attribute: str) -> None:
        self._change("removexattr", path)
        self._files.look_up(path)
        raise error(errno.ENODATA, path)

    def listdir(self, path: str | int) -> list[str]:
        self._enter("listdir", path)
        inode = self._files.look_up(path) if isinstance(path, str) else self._file(path).inode
        if not isinstance(inode, Directory):
            raise error(errno.ENOTDIR, str(path))
        if not isinstance(path, str):
            self._whole_file(path)
        return [*inode.entries]

    def scandir(self, path: str) -> SimulatedEntries:
        return SimulatedEntries([SimulatedEntry(self.lstat, path, name) for name in self.listdir(path)])

    # Calls on descriptors.

    def close(self, fd: int) -> None:
        if self.is_dead or self.machine.scheduler.is_killed:
            # Its next call raises Killed. A finalizer, which may call this at any time, cannot.
            return
        self._enter("close", fd)
        self._file(fd)
        self._close(fd)

    def fdopen(self, fd: int) -> BinaryIO:
        data = self.pread(fd, self.fstat(fd).st_size, 0)
        self.close(fd)
        return io.BytesIO(data)

    def fstat(self, fd: int) -> os.stat_result:
        self._enter("fstat", fd)
        return status_of(self._file(fd).inode)

    def fstatvfs(self, fd: int, /) -> os.statvfs_result:
        self._enter("fstatvfs", fd)
        self._file(fd)
        flags = os.ST_RDONLY if self._files.is_aborted else 0
        return os.statvfs_result((4096, 4096, 10**6, 10**6, 10**6, 10**6, 10**6, 10**6, flags, 255))

    def fchmod(self, fd: int, mode: int) -> None:
        self._change("fchmod", fd, mode)
        self._set_mode(self._whole_file(fd).inode, mode)

    def flock(self, fd: int, operation: int, /) -> None:
        self._enter("flock", fd, operation)
        file = self._whole_file(fd)
        locks, kind = file.inode.locks, operation & ~fcntl.LOCK_NB
        locks.pop(file, None)
        if kind == fcntl.LOCK_UN:
            return

        def is_free() -> bool:
            return not locks or (kind == fcntl.LOCK_SH and fcntl.LOCK_EX not in locks.values())

        if not is_free():
            if operation & fcntl.LOCK_NB:
                raise error(errno.EWOULDBLOCK)
            self.machine.scheduler.wait(is_free)
        locks[file] = kind

    def try_lock(self, fd: int, position: int) -> bool:
        self._enter("try_lock", fd, position)
        file = self._whole_file(fd)
        return file.inode.locked_bytes.setdefault(position, file) is file

    def unlock(self, fd: int, start: int, stop: int) -> None:
        self._enter("unlock", fd, start, stop)
        self._unlock(self._whole_file(fd), start, stop)

    def read(self, fd: int, length: int, /) -> bytes:
        self._enter("read", fd, length)
        file = self._whole_file(fd)
        data = file.read(length, file.offset)
        file.offset += len(data)
        return data

    def pread(self, fd: int, length: int, offset: int, /) -> bytes:
        self._enter("pread", fd, length, offset)
        return self._whole_file(fd).read(length, offset)

    def preadv(self, fd: int, buffers: Sequence[bytearray], offset: int, flags: int = 0, /) -> int:
        self._enter("preadv", fd, offset)
        file, position = self._whole_file(fd), offset
        for buffer in buffers:
            data = file.read(len(buffer), position)
            buffer[: len(data)] = data
            position += len(data)
        return position - offset

    def write(self, fd: int, data: Bytes, /) -> int:
        self._change("write", fd, bytes(data))
        file = self._whole_file(fd)
        written = self._write(file, data, file.offset)
        file.offset += written
        return written

    def pwrite(self, fd: int, data: Bytes, offset: int, /) -> int:
        self._change("pwrite", fd, bytes(data), offset)
        return self._write(self._whole_file(fd), data, offset)

    def fsync(self, fd: int) -> None:
        self._sync("fsync", fd)

    def fdatasync(self, fd: int) -> None:
        self._sync("fdatasync", fd)

    def syncfs(self, fd: int) -> None:
        number = self._note("syncfs", (fd,))
        file, covered = self._whole_file(fd), self._files.dirty()
        if not self._wait_for_disk():
            return
        if number and number != errno.EINTR:
            self._files.fail_some()
        if not number:
            for inode, changes in covered:
                inode.sync(changes)
        if file.all_errors != self._files.errors or number:
            file.all_errors = self._files.errors
            raise error(number or errno.EIO)

    # What they share.

    def _enter(self, call: str, *arguments: object) -> None:
        """Another thread may go on here. Raises Killed, and OSError if the call is to fail."""
        number = self._note(call, arguments)
        if number:
            raise error(number, *(each for each in arguments[:1] if isinstance(each, str)))

    def _change(self, call: str, *arguments: object) -> None:
        self._enter(call, *arguments)
        if self._files.is_aborted:
            raise error(errno.EROFS, *(each for each in arguments[:1] if isinstance(each, str)))

    def _note(self, call: str, arguments: tuple[object, ...]) -> int:
        machine = self.machine
        machine.scheduler.pause()
        if self.is_dead:
            raise Killed
        machine.pass_time()
        number = machine.faults.choose(call)
        actor = machine.scheduler.current
        failed = (os.strerror(number),) if number else ()
        machine.calls.append(Call(self.number, actor.name if actor else "test", call, (*arguments, *failed)))
        return number

    def _sync(self, call: str, fd: int) -> None:
        number = self._note(call, (fd,))
        file = self._whole_file(fd)
        inode, changes = file.inode, file.inode.changes
        if not self._wait_for_disk():
            return
        if number and isinstance(inode, File):
            inode.fail(self.machine.random)
            self._files.errors += 1
        if not number:
            inode.sync(changes)
        if number or file.errors != inode.errors:
            file.errors = inode.errors
            raise error(number or errno.EIO)

    def _wait_for_disk(self) -> bool:
        """Others go on meanwhile. Returns False if nothing is synced any more; raises OSError for the first to see."""
        machine = self.machine
        machine.scheduler.rest(machine.random.choice((0, 1, 5, 20)))
        if self.is_dead:
            raise Killed
        if self._files.is_aborted:
            return False
        if machine.faults.is_abort():
            self._files.is_aborted = True
            raise error(errno.EIO)
        return True

    def _file(self, fd: int) -> OpenFile:
        try:
            return self._opened[fd]
        except KeyError:
            raise error(errno.EBADF) from None

    def _whole_file(self, fd: int) -> OpenFile:
        """Raises OSError for a descriptor that only stands for a path."""
        file = self._file(fd)
        if file.flags & os.O_PATH:
            raise error(errno.EBADF)
        return file

    def _directory(self, fd: int | None) -> Directory | None:
        if fd is None:
            return None
        inode = self._file(fd).inode
        if not isinstance(inode, Directory):
            raise error(errno.ENOTDIR)
        return inode

    def _place(self, path: str) -> tuple[Directory, str]:
        """Where a new name goes. Raises FileNotFoundError in a directory that was removed."""
        parent, name = self._files.parent(path)
        if not parent.links:
            raise error(errno.ENOENT, path)
        return parent, name

    def _create(self, path: str, flags: int, mode: int, start: Directory | None) -> Inode:
        parent, name = self._files.parent(path, start)
        found = parent.entries.get(name)
        if found is not None:
            if flags & os.O_EXCL:
                raise error(errno.EEXIST, path)
            if isinstance(found, Directory):
                raise error(errno.EISDIR, path)
            return found
        if not parent.links:
            raise error(errno.ENOENT, path)
        if self._files.is_aborted:
            raise error(errno.EROFS, path)
        time = self.machine.file_time
        file = self._files.new_file(mode & ~0o022, time)
        self._files.add(parent, name, file, time)
        return file

    def _close(self, fd: int) -> None:
        file = self._opened.pop(fd)
        file.inode.locks.pop(file, None)
        self._unlock(file, 0, 1 << 64)
        file.inode.opened -= 1
        self._files.forget(file.inode)

    def _unlock(self, file: OpenFile, start: int, stop: int) -> None:
        locked = file.inode.locked_bytes
        for position in [each for each, owner in locked.items() if owner is file and start <= each < stop]:
            del locked[position]

    def _write(self, file: OpenFile, data: Bytes, offset: int) -> int:
        size = self.machine.faults.length(len(data))
        return file.write(bytes(data[:size]), offset, self.machine.file_time)

    def _truncate(self, inode: File, size: int) -> None:
        inode.truncate(size)
        inode.modified = inode.changed = self.machine.file_time

    def _set_mode(self, inode: Inode, mode: int) -> None:
        inode.mode = stat.S_IFMT(inode.mode) | (mode & 0o7777)
        inode.changed = self.machine.file_time
