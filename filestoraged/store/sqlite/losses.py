"""What SQLite loses without a word when it opens a database: frames of a damaged log, and what an emptied file had.

SQLite takes a log up to its last commit before the first frame that is not valid, and ignores the rest, since a crash
leaves such a rest as well. It takes a database without bytes for a new one. This module reads the files before SQLite
does, and tells damage from a crash. It changes nothing and needs no lock.

- After a kill, the page cache still has all that was written. So the index of the log (`-shm`) tells which frames the
  log must have.
- After a power cut, frames that were not synced may be missing, in any order. But a transaction is synced before the
  next one begins. So the log is damaged if behind a frame that is not valid there is an intact commit, and behind that
  a frame whose checksum continues the commit's. A header is synced before its frames are written.

What may be the trace of a crash is not reported: after a power cut, a log that was cut off, or that is damaged in its
last transaction, or among transactions that are not synced.

The formats are those of SQLite, "WAL-mode File Format".
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import math
import os
import stat
import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from filestoraged.clock import SYSTEM_CLOCK, Clock
from filestoraged.store import layout
from filestoraged.store.sqlite.write_lock import is_of_this_boot

_VERSION = 3007000

# The log's header: magic, version, page size, number of checkpoints, salts, checksum. The magic says that
# checksums are of little-endian words; logs of big-endian machines are not judged.
_HEADER = struct.Struct(">IIII8sII")
_MAGIC = 0x377F0682

# A frame's header, before its page: page number, pages of the database after a commit or else 0, salts, checksum.
_FRAME = struct.Struct(">II8sII")

# The index's header: version, whether it is made, whether checksums are big-endian, number of frames, salts, checksum.
# It is there twice. Then comes the number of frames that were copied into the database.
_INDEX = struct.Struct("=I8xBB2xI12x8sII")
_COPIED = struct.Struct("=I")
_INDEX_SIZE = 2 * _INDEX.size + _COPIED.size

_PAGE_SIZES = tuple(1 << exponent for exponent in range(9, 17))
# That of databases that this program makes. Used if the log's header does not tell it.
_PAGE_SIZE = 4096

# Only commits of keys are synced, not sets: after a power cut, any number of these transactions may be missing.
_NOT_SYNCED = (layout.KEYS_DATABASE,)

# Frames that are read at once: about 1 MiB.
_BLOCK_FRAMES = 256

# A pair of words; a checksum adds up pairs.
_PAIR = struct.Struct("<II")
_WORD_MASK = 0xFFFF_FFFF

# A symbolic link must not lead to a foreign file, nor a pipe block.
_OPEN_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

_Checksum = tuple[int, int]


class Loss(NamedTuple):
    """`path` is that of the damaged file."""

    path: str
    reason: str


def find_losses(path: str, *, timeout: float = math.inf) -> list[Loss]:
    """What SQLite would lose if it opened the database at `path`, which may be missing.

    No connection to it may be open in this process: closing a file drops its locks. A log that takes more than
    `timeout` seconds to read is not judged.
    """
    with contextlib.suppress(OSError):
        emptied = _emptied(path)
        if emptied is not None:
            return [Loss(path, emptied)]
        lost = count_lost_frames(path, timeout=timeout)
        if lost:
            reason = f"it is damaged; SQLite skips {lost} of its frames, which have changes that were committed"
            return [Loss(layout.write_ahead_log(path), reason)]
    return []


def count_lost_frames(path: str, *, timeout: float = math.inf, clock: Clock = SYSTEM_CLOCK) -> int:
    """The frames that SQLite would skip although their transactions had ended. Raises OSError."""
    index = _read_index(path)
    is_complete = is_of_this_boot(path)
    scan = _scan(layout.write_ahead_log(path), clock.now() + timeout, clock)
    if scan is None or index != _read_index(path):
        # It takes too long, or another process writes to the log, which it opened before.
        return 0
    if index is not None and is_complete:
        return _missing(scan, index)
    if not scan.salts:
        return scan.last
    if os.path.basename(path) in _NOT_SYNCED:
        return 0
    return max(0, scan.acknowledged - scan.recovered)


class _Index(NamedTuple):
    """`frames` is the last commit; `copied` frames are in the database, too."""

    frames: int
    copied: int
    salts: bytes
    # All of it. It changes with each transaction.
    data: bytes


class _Scan(NamedTuple):
    """What a log has. Frames are numbered from 1, and all numbers are those of commits; 0 is none."""

    # Those of the header, empty if it is not valid.
    salts: bytes
    # The last one that SQLite takes.
    recovered: int
    # The last intact one that another frame continues; and the last intact one.
    acknowledged: int
    last: int


class _Frame(NamedTuple):
    is_commit: bool
    salts: bytes
    # Whether its salts and its checksum continue those of the frame before it, or of the header.
    continues: bool


def _missing(scan: _Scan, index: _Index) -> int:
    recovered = scan.recovered if scan.salts == index.salts else 0
    if recovered >= index.frames:
        return 0
    # With a part of the frames, SQLite reads older pages from the log than those that were copied.
    return index.frames - (recovered or index.copied)


def _read_index(path: str) -> _Index | None:
    """The index of the log; None if it is missing or not valid, as while SQLite makes it anew from the log."""
    try:
        with _open(layout.write_ahead_log_index(path)) as file:
            data = file.read(_INDEX_SIZE)
    except FileNotFoundError:
        return None
    header = data[: _INDEX.size]
    if len(data) < _INDEX_SIZE or not data[_INDEX.size :].startswith(header):
        return None
    version, is_made, is_big_endian, frames, salts, *checksum = _INDEX.unpack(header)
    if version != _VERSION or not is_made or is_big_endian or list(_checksum(header[:-8], (0, 0))) != checksum:
        return None
    (copied,) = _COPIED.unpack_from(data, 2 * _INDEX.size)
    return _Index(frames, copied, salts, data)


def _scan(path: str, deadline: float, clock: Clock) -> _Scan | None:
    """None if it was not read before the deadline, or begun anew meanwhile. Raises OSError."""
    salts, recovered, acknowledged, last = b"", 0, 0, 0
    with contextlib.suppress(FileNotFoundError), _open(path) as file:
        header = _read_header(file)
        generation = salts = header.salts
        is_valid, is_after_commit = bool(salts), False
        for number, frame in enumerate(_frames(file, header), 1):
            if clock.now() > deadline:
                return None
            if frame.continues and not generation:
                generation = frame.salts
            continues = frame.continues and frame.salts == generation
            is_valid = is_valid and continues
            if continues and is_after_commit:
                acknowledged = number - 1
            # A header that is partly on disk may have the mark of a commit from an earlier log.
            is_after_commit = frame.is_commit and continues
            if is_after_commit:
                last = number
                recovered = number if is_valid else recovered
        if os.pread(file.fileno(), _HEADER.size, 0) != header.data:
            return None
    return _Scan(salts, recovered, acknowledged, last)


class _Header(NamedTuple):
    data: bytes
    page_size: int
    salts: bytes
    checksum: _Checksum


def _read_header(file: BinaryIO) -> _Header:
    """The header of a log, without salts if it is not valid."""
    data = file.read(_HEADER.size)
    if len(data) == _HEADER.size:
        magic, version, page_size, _, salts, *checksum = _HEADER.unpack(data)
        is_known = magic == _MAGIC and version == _VERSION and page_size in _PAGE_SIZES
        if is_known and list(_checksum(data[:-8], (0, 0))) == checksum:
            return _Header(data, page_size, salts, (checksum[0], checksum[1]))
    return _Header(data, _PAGE_SIZE, b"", (0, 0))


def _frames(file: BinaryIO, header: _Header) -> Iterator[_Frame]:
    """All whole frames behind the header."""
    size = _FRAME.size + header.page_size
    # A checksum is linear: what it was before a frame adds to what it is after it, multiplied by these.
    zeros = bytes(_PAIR.size + header.page_size)
    (a, c), (b, d) = _checksum(zeros, (1, 0)), _checksum(zeros, (0, 1))
    salts, (first, second) = header.salts, header.checksum
    while block := file.read(_BLOCK_FRAMES * size):
        block = block[: len(block) // size * size]
        for start, own in zip(range(0, len(block), size), _frame_checksums(block, size), strict=True):
            page, pages, its_salts, *checksum = _FRAME.unpack_from(block, start)
            continued = [(own[0] + a * first + b * second) & _WORD_MASK, (own[1] + c * first + d * second) & _WORD_MASK]
            yield _Frame(pages > 0, its_salts, page > 0 and its_salts == salts and continued == checksum)
            salts, (first, second) = its_salts, checksum


def _frame_checksums(block: bytes, size: int) -> Iterator[_Checksum]:
    """The checksum of each frame in a block, as if none were before it: of 8 bytes of its header and of its page.

    All frames are summed at once, ten times as fast as one by one: each has 64 bits of one large number, of which a sum
    needs 34.
    """
    pairs = memoryview(block).cast("Q")
    step = size // _PAIR.size
    mask = int.from_bytes(_PAIR.pack(_WORD_MASK, 0) * (len(block) // size), "little")
    first = second = 0
    # Salts and checksum are left out.
    for number in (0, *range(3, step)):
        words = int.from_bytes(pairs[number::step].tobytes(), "little")
        first = (first + second + (words & mask)) & mask
        second = (second + first + (words >> 32 & mask)) & mask
    sums = (first | second << 32).to_bytes(len(block) // size * _PAIR.size, "little")
    return _PAIR.iter_unpack(sums)


def _checksum(data: bytes, checksum: _Checksum) -> _Checksum:
    """Continue a checksum."""
    first, second = checksum
    for one, two in _PAIR.iter_unpack(data):
        first = (first + second + one) & _WORD_MASK
        second = (second + first + two) & _WORD_MASK
    return first, second


def _emptied(path: str) -> str | None:
    """How it is known that a database without bytes must have had some. None if it has bytes, or may be new."""
    size = _size(path)
    if size:
        return None
    if (_size(layout.write_ahead_log(path)) or 0) > _HEADER.size + _FRAME.size:
        # SQLite writes to a database before it makes a log.
        return f"it is {'missing' if size is None else 'empty'}, although it has a log; what it had is lost"
    # A missing one is made when its interface is first mounted.
    if size is not None and _has_contents(os.path.dirname(os.path.abspath(path))):
        return "it is empty, although the store is not; what it had is lost, unless it was never used"
    return None


def _has_contents(root: str) -> bool:
    """Whether a store has another database, an object, or the bytes of a drop."""
    if any(_size(f"{root}/{name}") for name in layout.DATABASES):
        return True
    above = (f"{root}/{layout.REPOSITORIES}", f"{root}/{layout.NAMES}")
    directories = (root, f"{root}/{layout.DROPS}", *(f"{each}/{name}" for each in above for name in _names(each)))
    shards = (f"{each}/{name}" for each in directories for name in _names(each) if layout.is_shard(name))
    # What restic makes first in a repository has no shards: its config and its key.
    made = f"{root}/{layout.RESTIC}"
    flat = (f"{made}/{name}/{each}" for name in _names(made) for each in layout.RESTIC_DIRECTORIES)
    return any(map(_names, itertools.chain(shards, flat)))


def _names(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _size(path: str) -> int | None:
    """The size in bytes, None for a missing file. Raises OSError, also for what is not a regular file."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return None
    _require_file(status)
    return status.st_size


def _open(path: str) -> BinaryIO:
    """Raises OSError, also for what is not a regular file."""
    descriptor = os.open(path, _OPEN_FLAGS)
    try:
        _require_file(os.fstat(descriptor))
    except OSError:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "rb")


def _require_file(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file")
