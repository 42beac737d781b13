"""Replay: the files of a store get what journals say, for each object what the last record of all journals says.

At the start of an epoch that is all that processes of the last one have recorded and no checkpoint covers. It may be
repeated: a power cut during a replay leaves the journals as they were, and the next start does the same again.

In an epoch, a failed `syncfs` may have cost the bytes of any file that was written since the last checkpoint, also of
one that is recorded later. From then on, each checkpoint makes the files that no checkpoint covers anew, unless they
were removed meanwhile.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

from filestoraged.errors import JournalDamaged
from filestoraged.store import layout
from filestoraged.store.disk.directories import Directories
from filestoraged.store.disk.epoch import Checkpoint, Epoch
from filestoraged.store.disk.records import Format, Group, Record, RecordKind, first_missing, has_groups, valid_records
from filestoraged.store.disk.staging_area import StagedFile
from filestoraged.store.system import System, listed, read_file

log = logging.getLogger(__name__)


class JournalFiles(NamedTuple):
    """The segments of one process, which may be dead."""

    token: str
    paths: Sequence[str]


def find_journals(staging: str, *, system: System) -> list[JournalFiles]:
    """The journals in the directory of all staging areas. Raises OSError."""
    found = []
    for token in sorted(listed(system, staging)):
        names = sorted(filter(layout.is_segment, listed(system, f"{staging}/{token}")))
        if names:
            found.append(JournalFiles(token, [f"{staging}/{token}/{name}" for name in names]))
    return found


def read_journals(
    journals: Sequence[JournalFiles],
    epoch: Epoch | None,
    read_checkpoints: Callable[[], Sequence[Checkpoint]],
    *,
    system: System,
    are_written: bool = False,
) -> dict[str, Record]:
    """What is to be done, by path: the last record of each object that no checkpoint covers.

    The checkpoints are read behind the journals: what was written over meanwhile is covered by one of them. Of journals
    that `are_written` at the same time, some groups may be missed, and removals do not count: the group of one may have
    failed, and not be void yet.

    Raises JournalDamaged, and OSError.
    """
    contents = [(each, [*_read_segments(each, system)]) for each in journals]
    checkpoints = read_checkpoints()
    last: dict[str, Record] = {}
    for journal, segments in contents:
        if epoch is None:
            if any(map(has_groups, segments)):
                raise JournalDamaged(journal.paths[0], "its epoch is not known")
            continue
        format_ = Format(epoch.number, epoch.key, journal.token)
        covered = max((each.covers(journal.token) for each in checkpoints), default=0)
        found = [[*format_.find(each)] for each in segments]
        groups = [*itertools.chain(*found)]
        missing = None if are_written else first_missing(groups, covered)
        if missing is not None:
            raise JournalDamaged(_place_of(missing, journal, found), "records in its middle are missing")
        for record in valid_records(groups, covered):
            if are_written and record.kind is RecordKind.REMOVED:
                continue
            former = last.get(record.path)
            if former is None or former.time <= record.time:
                last[record.path] = record
    return last


def _read_segments(journal: JournalFiles, system: System) -> Iterator[memoryview]:
    for path in journal.paths:
        try:
            yield memoryview(read_file(system, path))
        except FileNotFoundError:
            # Another process has removed it, behind a checkpoint.
            yield memoryview(b"")


def _place_of(missing: int, journal: JournalFiles, found: Sequence[Sequence[Group]]) -> str:
    """The path of the segment in which a group is missing: that of the next one, unless that is its first."""
    paths = {group.sequence: (path, group) for path, groups in zip(journal.paths, found) for group in groups}
    path, following = paths[min(number for number in paths if number > missing)]
    before = paths.get(missing - 1)
    return path if following.position or before is None else before[0]


class Replay:
    """Applies records to the files of a store, for a caller that syncs the file system next. One thread calls it."""

    def __init__(self, directories: Directories, make_staging: Callable[[], StagedFile], *, system: System) -> None:
        self._directories = directories
        self._make_staging = make_staging
        self._system = system

    def apply(self, records: dict[str, Record]) -> int:
        """Make the files that differ from their records. Returns how many were made or removed. Raises OSError."""
        return self.write_all({path: record for path, record in records.items() if not self._is_applied(path, record)})

    def write_all(self, records: dict[str, Record]) -> int:
        """The same, where bytes in memory may not be those on the disk."""
        changed = 0
        for path, record in records.items():
            full = self._full(path)
            if record.kind is RecordKind.REMOVED:
                changed += self._remove(full)
            elif record.kind is RecordKind.STORED:
                self._write(full, record)
                changed += 1
        return changed

    def remake(self, records: dict[str, Record], lock: Callable[[str], AbstractContextManager[None]]) -> None:
        """Make the files anew that are still there. Raises OSError, and what `lock` raises, which locks a path.

        Each is synced before it gets its name: a checkpoint of another process may have covered the object meanwhile.
        """
        for path, record in records.items():
            if record.kind is RecordKind.STORED:
                full = self._full(path)
                with lock(path):
                    if self._is_there(full):
                        self._write(full, record, StagedFile.sync)

    def _full(self, path: str) -> str:
        return f"{self._directories.root}/{path}"

    def _is_there(self, path: str) -> bool:
        try:
            self._system.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def _is_applied(self, path: str, record: Record) -> bool:
        """Whether the file has the bytes of the record: a process that was killed has not cost what the kernel has."""
        if record.kind is not RecordKind.STORED:
            return False
        full = self._full(path)
        with contextlib.suppress(OSError):
            return self._system.lstat(full).st_size == len(record.data) and read_file(self._system, full) == record.data
        return False

    def _write(self, path: str, record: Record, sync: Callable[[StagedFile], None] = lambda _: None) -> None:
        file = self._make_staging()
        try:
            file.write(record.data)
            sync(file)
            self._directories.place(os.path.dirname(path), file.rename, path)
        finally:
            file.discard()

    def _remove(self, path: str) -> bool:
        try:
            self._system.unlink(path)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return False
        return True
