"""The simulated file system beside the real one: the same calls have the same results; and what only it can show."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import unittest
from collections.abc import Callable
from functools import partial
from inspect import getclosurevars
from random import Random

from filestoraged.store.system import LINUX, Files, read_file
from tests.store.simulation.machine import Machine
from tests.store.simulation.process import Process
from tests.store.simulation.scheduler import Deadlock, Killed, SimulatedLock
from tests.support import TempCase

_NAMES = ("a", "b", "d", "e")
_FLAGS = (
    os.O_RDONLY,
    os.O_RDWR,
    os.O_RDONLY | os.O_DIRECTORY,
    os.O_PATH,
    os.O_WRONLY | os.O_CREAT | os.O_EXCL,
    os.O_RDWR | os.O_CREAT,
    os.O_RDWR | os.O_CREAT | os.O_TRUNC,
)

# In the place of a descriptor that was closed.
_CLOSED = 10**6

# A call on one system, by a function that any other system can be given to. The list has its descriptors.
_Step = Callable[[Files, str, list[int]], object]


class DifferentialTest(TempCase):
    def test_random_calls_have_the_results_of_the_real_system(self) -> None:
        for seed in range(150):
            random = Random(seed)
            root = self.directory / str(seed)
            root.mkdir(mode=0o755)
            simulated = Process(Machine(seed))
            simulated.mkdir("/root")
            opened: tuple[list[int], list[int]] = [], []
            for number in range(120):
                name, step = _step(random, len(opened[0]))

                real = _outcome(step, LINUX, str(root), opened[0])
                model = _outcome(step, simulated, "/root", opened[1])

                self.assertEqual(real, model, f"seed {seed}, call {number}: {name} {getclosurevars(step).nonlocals}")
            for fd in opened[0]:
                if fd != _CLOSED:
                    os.close(fd)


def _outcome(step: _Step, system: Files, root: str, opened: list[int]) -> object:
    try:
        return step(system, root, opened)
    except OSError as error:
        return errno.errorcode[error.errno or 0]


def _step(random: Random, count: int) -> tuple[str, _Step]:
    """A random call, of one of the kinds below. `count` descriptors are open."""
    kinds: list[Callable[[Random, int], _Step]] = [_open, _open, _on_paths, _on_paths, _in_directory, _look]
    if count:
        kinds += [_on_descriptor, _on_descriptor, _on_descriptor, _lock, _close]
    kind = random.choice(kinds)
    return kind.__name__, kind(random, count)


def _path(random: Random) -> str:
    return "/".join(random.choice(_NAMES) for _ in range(random.choice((1, 1, 2, 2, 3))))


def _open(random: Random, count: int) -> _Step:
    path, flags = _path(random), random.choice(_FLAGS)

    def step(system: Files, root: str, opened: list[int]) -> object:
        opened.append(system.open(f"{root}/{path}", flags, 0o600))
        return len(opened)

    return step


def _on_paths(random: Random, count: int) -> _Step:
    name = random.choice(("link", "rename", "rename", "unlink", "mkdir", "mkdir", "rmdir", "chmod"))
    paths = [_path(random) for _ in range(2 if name in ("link", "rename") else 1)]
    more = (0o700,) if name in ("mkdir", "chmod") else ()

    def step(system: Files, root: str, opened: list[int]) -> object:
        return getattr(system, name)(*(f"{root}/{path}" for path in paths), *more)

    return step


def _in_directory(random: Random, count: int) -> _Step:
    """A call relative to an open directory, or to a descriptor that is none."""
    name, target = random.choice(("unlink", "open")), _path(random)
    place = random.randrange(count) if count else 0
    flags = random.choice(_FLAGS)

    def step(system: Files, root: str, opened: list[int]) -> object:
        fd = opened[place] if opened else -1
        if name == "open":
            opened.append(system.open(target, flags, 0o600, dir_fd=fd))
            return None
        return system.unlink(target, dir_fd=fd)  # type: ignore[func-returns-value]

    return step


def _look(random: Random, count: int) -> _Step:
    name, path = random.choice(("stat", "lstat", "listdir", "scandir")), _path(random)

    def step(system: Files, root: str, opened: list[int]) -> object:
        if name == "listdir":
            return sorted(system.listdir(f"{root}/{path}"))
        if name == "scandir":
            with system.scandir(f"{root}/{path}") as entries:
                return sorted((each.name, each.is_dir(), _status(each.stat())) for each in entries)
        return _status(getattr(system, name)(f"{root}/{path}"))

    return step


def _on_descriptor(random: Random, count: int) -> _Step:
    place, size, offset = random.randrange(count), random.randrange(150), random.randrange(2000)
    data = random.randbytes(size)
    calls: dict[str, Callable[[Files, int], object]] = {
        "write": lambda system, fd: system.write(fd, data),
        "pwrite": lambda system, fd: system.pwrite(fd, data, offset),
        "read": lambda system, fd: system.read(fd, size),
        "pread": lambda system, fd: system.pread(fd, size, offset),
        "preadv": lambda system, fd: _read_into(system, fd, size, offset),
        "fsync": lambda system, fd: system.fsync(fd),
        "fdatasync": lambda system, fd: system.fdatasync(fd),
        "fchmod": lambda system, fd: system.fchmod(fd, 0o640),
        "fstat": lambda system, fd: _status(system.fstat(fd)),
        "listdir": lambda system, fd: sorted(system.listdir(fd)),
    }
    name = random.choice([*calls])

    def step(system: Files, root: str, opened: list[int]) -> object:
        return calls[name](system, opened[place])

    return step


def _lock(random: Random, count: int) -> _Step:
    place, operation = random.randrange(count), random.choice((fcntl.LOCK_SH, fcntl.LOCK_EX, fcntl.LOCK_UN))

    def step(system: Files, root: str, opened: list[int]) -> object:
        return system.flock(opened[place], operation | fcntl.LOCK_NB)  # type: ignore[func-returns-value]

    return step


def _close(random: Random, count: int) -> _Step:
    place = random.randrange(count)

    def step(system: Files, root: str, opened: list[int]) -> object:
        # The number stays among the others: later calls get a descriptor that is closed.
        fd, opened[place] = opened[place], _CLOSED
        return system.close(fd)  # type: ignore[func-returns-value]

    return step


def _read_into(system: Files, fd: int, size: int, offset: int) -> object:
    buffers = [bytearray(size), bytearray(10)]
    return system.preadv(fd, buffers, offset), buffers


def _status(status: os.stat_result) -> tuple[int, ...]:
    """What both agree about: the links of a directory depend on the file system, except that a removed one has none."""
    if stat.S_ISDIR(status.st_mode):
        return status.st_mode, bool(status.st_nlink)
    return status.st_mode, status.st_nlink, status.st_size


class PowerCutTest(unittest.TestCase):
    """What a power cut may leave, over many seeds: all that POSIX allows, and nothing else."""

    def outcomes(self, work: Callable[[Process], object], look: Callable[[Process], object]) -> set[object]:
        """What is seen after a power cut behind the work, with each of the seeds."""
        seen = set()
        for seed in range(300):
            machine = Machine(seed)
            process = Process(machine)
            process.mkdir("/d")
            _sync(process, "/")
            work(process)
            machine.cut_power()
            seen.add(look(Process(machine)))
        return seen

    def test_file_that_was_not_synced_is_missing_or_short_or_torn_or_has_holes(self) -> None:
        def work(process: Process) -> None:
            process.write(process.open("/d/a", os.O_WRONLY | os.O_CREAT, 0o600), b"x" * 1024)
            _sync(process, "/d")

        seen = self.outcomes(work, lambda process: read_file(process, "/d/a"))

        self.assertLessEqual({b"", b"x" * 1024, bytes(512) + b"x" * 512, bytes(1024)}, seen)
        self.assertTrue(any(len(each) % 512 for each in seen if isinstance(each, bytes)))

    def test_synced_file_is_whole_and_its_name_may_be_missing(self) -> None:
        def work(process: Process) -> None:
            fd = process.open("/d/a", os.O_WRONLY | os.O_CREAT, 0o600)
            process.write(fd, b"tea")
            process.fsync(fd)

        seen = self.outcomes(work, lambda process: read_file(process, "/d/a") if process.listdir("/d") else None)

        self.assertEqual({None, b"tea"}, seen)

    def test_rename_over_a_file_leaves_one_of_both_and_its_old_name_apart(self) -> None:
        def work(process: Process) -> None:
            process.mkdir("/e")
            for path, data in (("/d/a", b"old"), ("/e/b", b"new")):
                fd = process.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
                process.write(fd, data)
                process.fsync(fd)
            for path in ("/", "/d", "/e"):
                _sync(process, path)
            process.rename("/e/b", "/d/a")

        seen = self.outcomes(work, lambda process: (read_file(process, "/d/a"), bool(process.listdir("/e"))))

        self.assertEqual({(data, is_left) for data in (b"old", b"new") for is_left in (True, False)}, seen)

    def test_directories_are_durable_apart(self) -> None:
        def work(process: Process) -> None:
            for path in ("/a", "/b", "/c"):
                process.mkdir(path)
            process.rmdir("/c")

        seen = self.outcomes(work, lambda process: frozenset(process.listdir("/")) - {"d", "proc"})

        self.assertEqual(8, len(seen))

    def test_all_that_syncfs_covers_survives(self) -> None:
        def work(process: Process) -> None:
            process.mkdir("/d/e")
            fd = process.open("/d/e/a", os.O_WRONLY | os.O_CREAT, 0o600)
            process.write(fd, b"tea")
            process.syncfs(fd)
            process.write(fd, b"pot")

        seen = self.outcomes(work, lambda process: read_file(process, "/d/e/a")[:3])

        self.assertEqual({b"tea"}, seen)

    def test_bytes_of_a_failed_sync_are_in_memory_and_no_later_sync_writes_them(self) -> None:
        lost = 0
        for seed in range(100):
            machine = Machine(seed)
            process = Process(machine)
            fd = process.open("/a", os.O_RDWR | os.O_CREAT, 0o600)
            process.write(fd, b"tea")
            machine.faults.allow("fsync", chance=1.0)
            self.assertRaises(OSError, process.fsync, fd)
            machine.faults.stop()

            process.fsync(fd)
            _sync(process, "/")
            self.assertEqual(b"tea", process.pread(fd, 3, 0))
            machine.cut_power()

            lost += read_file(Process(machine), "/a") != b"tea"
        self.assertGreater(lost, 20)

    def test_failed_write_is_reported_once_to_each_descriptor_that_was_open(self) -> None:
        machine = Machine(1)
        process = Process(machine)
        first, second = (process.open("/a", os.O_RDWR | os.O_CREAT, 0o600) for _ in range(2))
        directory = process.open("/", os.O_RDONLY)
        process.write(first, b"tea")
        machine.faults.allow("fsync", chance=1.0)
        self.assertRaises(OSError, process.fsync, first)
        machine.faults.stop()

        process.fsync(first)
        for sync, fd in ((process.fsync, second), (process.syncfs, directory)):
            self.assertRaises(OSError, sync, fd)
            sync(fd)
        process.fsync(process.open("/a", os.O_RDONLY))


class ProcessTest(unittest.TestCase):
    def test_killed_process_loses_its_descriptors_and_locks_and_the_kernel_keeps_its_writes(self) -> None:
        machine = Machine(1)
        first, second = Process(machine), Process(machine)
        fd = first.open("/a", os.O_RDWR | os.O_CREAT, 0o600)
        first.write(fd, b"tea")
        first.flock(fd, fcntl.LOCK_EX)
        other = second.open("/a", os.O_RDONLY)
        with self.assertRaises(BlockingIOError):
            second.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)

        first.kill()

        second.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self.assertEqual(b"tea", second.read(other, 3))
        self.assertRaises(Killed, first.read, fd, 3)

    def test_each_boot_has_an_id_of_its_own(self) -> None:
        machine = Machine(1)
        ids = set()
        for _ in range(3):
            ids.add(read_file(Process(machine), "/proc/sys/kernel/random/boot_id"))
            machine.cut_power()

        self.assertEqual(3, len(ids))

    def test_threads_that_wait_for_each_other_are_a_deadlock(self) -> None:
        machine = Machine(1)
        process = Process(machine)
        one, other = process.lock(), process.lock()
        for locks in ((one, other), (other, one)):
            process.start_thread(partial(_take_both, process, *locks), name="thread")

        with self.assertRaises(Deadlock):
            machine.scheduler.run()


def _take_both(process: Process, first: SimulatedLock, second: SimulatedLock) -> None:
    with first:
        process.machine.scheduler.rest(3)
        with second:
            pass


def _sync(process: Process, path: str) -> None:
    fd = process.open(path, os.O_RDONLY)
    process.fsync(fd)
    process.close(fd)
