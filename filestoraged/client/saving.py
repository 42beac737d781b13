"""A download to a file: under another name until it is complete and verified, so that no name leads to a part of it.

The part is beside its target, and stays where a download breaks off: the next one of the same object continues it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from filestoraged.client.download import Download
from filestoraged.client.hashing import BLOCK_SIZE, BackgroundHash
from filestoraged.client.refusals import TargetBusy, TargetExists
from filestoraged.client.sources import Progress
from filestoraged.digest import Digest
from filestoraged.errors import DISK_FULL, DigestMismatch, StorageFull
from filestoraged.file_lock import try_lock

# The largest drop, in bytes, of a daemon that has no other --drop-size; of one that tells no size, the largest at all.
MAX_DROP_SIZE = 16 * 1024 * 1024

# Bytes of a name that another machine suggests.
_MAX_NAME_SIZE = 240

# File systems without hard links.
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)


class Saved(NamedTuple):
    """A file that was downloaded. `size` is in bytes; `digest` is that of its name, of a drop its SHA-256.

    `suggested` is the name that the sender of a drop has given it.
    """

    path: str
    digest: Digest
    size: int
    suggested: str | None = None


# Begins a download behind the bytes that are hashed already.
Begin = Callable[[BackgroundHash | None], Download]


class PartFile:
    """What was received of a download so far. Leaving the with-block keeps it, unless it is placed or discarded."""

    def __init__(self, directory: str, identity: str) -> None:
        """`identity` tells what is downloaded. Raises TargetBusy, and OSError where the directory cannot be written."""
        # The name has no room for that of the target, which may have 255 bytes itself.
        mark = hashlib.sha256(os.fsencode(identity)).hexdigest()[:32]
        self._path = os.path.join(directory, f".filestoraged-{mark}.part")
        self._exists = True
        self.descriptor = _open_locked(self._path)

    def __enter__(self) -> PartFile:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            if self._exists and not os.fstat(self.descriptor).st_size:
                self.discard()
        os.close(self.descriptor)

    def hash_bytes(self, algorithms: Sequence[str]) -> BackgroundHash:
        """Hash the bytes that are there."""
        hashed = BackgroundHash(algorithms)
        try:
            while block := os.pread(self.descriptor, BLOCK_SIZE, hashed.position):
                hashed.update(block)
        except BaseException:
            # Its thread would wait for more.
            hashed.close()
            raise
        return hashed

    def digest(self, algorithm: str) -> Digest:
        return self.hash_bytes([algorithm]).digest(algorithm)

    def write(self, data: bytes, start: int) -> None:
        left = memoryview(data)
        while left:
            written = os.pwrite(self.descriptor, left, start)
            left, start = left[written:], start + written

    def clear(self) -> None:
        os.ftruncate(self.descriptor, 0)

    def discard(self) -> None:
        self._exists = False
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)

    def reserve(self, size: int) -> None:
        """Raise OSError unless the disk has room for so many bytes."""
        os.posix_fallocate(self.descriptor, 0, size)
        self.clear()

    def sync(self) -> None:
        """To be called before `place`: after a crash, the name must not lead to a part."""
        os.fsync(self.descriptor)

    def place(self, target: str, *, overwrite: bool) -> None:
        """Give the file its name. Raises TargetExists."""
        if overwrite:
            os.replace(self._path, target)
        else:
            self._place_new(target)
        self._exists = False

    def _place_new(self, target: str) -> None:
        try:
            # Unlike a rename, it fails where another program has made the file meanwhile.
            os.link(self._path, target)
        except FileExistsError as error:
            raise TargetExists("the file exists already") from error
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            check_target(target, overwrite=False)
            os.rename(self._path, target)
        else:
            os.unlink(self._path)


def check_target(path: str, *, overwrite: bool) -> None:
    """Refuse before the download what cannot be placed after it. Raises TargetExists, and OSError for other paths."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return
    if not overwrite:
        raise TargetExists("the file exists already")
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode)):
        # To replace `/dev/null` by a file would break other programs.
        raise TargetExists("a device or a pipe cannot be replaced")


def save_object(
    begin: Begin, target: str, digest: str, algorithms: Sequence[str], *, overwrite: bool, progress: Progress | None
) -> Saved:
    """Download an object to a file. `algorithms` may have made its digest. Raises DigestMismatch and StorageFull."""
    check_target(target, overwrite=overwrite)
    directory, name = os.path.split(target)
    with PartFile(directory, f"{digest} {name}") as part, _full_disk(part):
        known = part.hash_bytes(algorithms[:1])
        continued = known.position > 0
        try:
            _receive(begin(known), part, digest, algorithms, progress)
        except DigestMismatch:
            part.clear()
            if not continued:
                raise
            # What an earlier run has left may be wrong; the whole is asked for once.
            _receive(begin(None), part, digest, algorithms, progress)
        part.sync()
        part.place(target, overwrite=overwrite)
        return Saved(target, Digest(digest), os.fstat(part.descriptor).st_size)


@contextlib.contextmanager
def room_for_drop(directory: str) -> Iterator[PartFile]:
    """Make a file for a drop before it is asked for: it comes once, and would be lost where it cannot be written."""
    with PartFile(directory, os.urandom(16).hex()) as part, _full_disk(part):
        try:
            part.reserve(MAX_DROP_SIZE)
            yield part
        finally:
            # What arrives of a drop that breaks off is of no use.
            part.discard()


def save_drop(
    download: Download,
    part: PartFile,
    directory: str,
    target: str | None,
    *,
    overwrite: bool,
    progress: Progress | None,
) -> Saved:
    """Download a drop to `target`, or to a free name in the directory.

    If a target cannot have it any more, it gets a free name, too: the drop will not come again.
    """
    part.clear()
    if download.size:
        # A drop may be larger than what there was room for: one that is given up now can be fetched again.
        part.reserve(download.size)
    _write(download, part, progress)
    part.sync()
    path = None if target is None else _place_at(part, target, overwrite=overwrite)
    path = path or _place_free(part, directory, download.name)
    return Saved(path, download.digest("sha256"), download.position, download.name)


def _place_at(part: PartFile, target: str, *, overwrite: bool) -> str | None:
    """Returns None if that failed."""
    try:
        part.place(target, overwrite=overwrite)
    except (TargetExists, OSError):
        return None
    return target


def _place_free(part: PartFile, directory: str, suggested: str | None) -> str:
    while True:
        path = free_name(directory, suggested)
        # Another process may take the name meanwhile.
        with contextlib.suppress(TargetExists):
            part.place(path, overwrite=False)
            return path


def free_name(directory: str, suggested: str | None) -> str:
    """Return the path of a file that does not exist, by the name that the sender has given it."""
    name = safe_name(suggested, "drop")
    paths = (os.path.join(directory, name + (f".{number}" if number else "")) for number in itertools.count())
    return next(path for path in paths if not os.path.lexists(path))


def _receive(
    download: Download, part: PartFile, digest: str, algorithms: Sequence[str], progress: Progress | None
) -> None:
    with download:
        try:
            _write(download, part, progress)
        except DigestMismatch:
            # The daemon may name its objects by another algorithm.
            if not any(part.digest(each) == digest for each in algorithms[1:]):
                raise


def _write(download: Download, part: PartFile, progress: Progress | None) -> None:
    position = download.position
    for block in download:
        part.write(block, position)
        position += len(block)
        if progress is not None:
            progress(position, download.size)


def safe_name(suggested: str | None, default: str) -> str:
    """Return a name that another machine suggests: no path, no hidden file, no option, no control characters."""
    name = "".join(each if each.isprintable() else "_" for each in (suggested or "").rpartition("/")[2])
    name = "_" + name[1:] if name.startswith((".", "-")) else name
    # File names have 255 bytes at most, and a number may follow.
    return name.encode("utf-8", "replace")[:_MAX_NAME_SIZE].decode("utf-8", "ignore") or default


@contextlib.contextmanager
def _full_disk(part: PartFile) -> Iterator[None]:
    """Leave no part on a full disk, where other programs need the room."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        part.discard()
        raise StorageFull(f"cannot write the file: {os.strerror(error.errno or 0)}") from error


def _open(path: str) -> int | None:
    """Make a part, or open one of this user. Returns None where the name was freed, for another attempt."""
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
    with contextlib.suppress(FileExistsError):
        return os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        descriptor = os.open(path, flags | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    if _is_own(os.fstat(descriptor)):
        return descriptor
    os.close(descriptor)
    try:
        os.unlink(path)
    except PermissionError as error:
        raise TargetBusy(f"another user has the file {os.path.basename(path)} beside it") from error
    return None


def _is_own(status: os.stat_result) -> bool:
    """Whether no other user can change the file.

    In a directory such as /tmp, others can make a file of that name, and change it after it was verified.
    """
    return stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid()


def _open_locked(path: str) -> int:
    while True:
        descriptor = _open(path)
        if descriptor is None:
            continue
        try:
            if not try_lock(descriptor):
                raise TargetBusy("another process downloads it to the same file")
        except BaseException:
            os.close(descriptor)
            raise
        with contextlib.suppress(FileNotFoundError):
            status = os.fstat(descriptor)
            if os.path.samestat(os.stat(path), status):
                if status.st_nlink == 1:
                    return descriptor
                # Another name leads to the file: planted by another user, or left by a kill while it got its name. Not
                # before the lock: a process that gives it its name now has both for a moment.
                os.unlink(path)
        # Another process has completed it since it was opened, and it has another name now.
        os.close(descriptor)
