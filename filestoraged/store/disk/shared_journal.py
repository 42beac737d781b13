"""What a process has of the journals of a store: its part of the epoch, and the checkpoints that it makes for all."""

from __future__ import annotations

import contextlib
import errno
import logging
from collections.abc import Iterator

from filestoraged.errors import DISK_FULL, StoreUnavailable
from filestoraged.store import layout
from filestoraged.store.disk.directories import Directories
from filestoraged.store.disk.epoch import LOCK_PAUSE, LOCK_TIMEOUT, Checkpoint, Epoch, EpochFile
from filestoraged.store.disk.file_system import FileSystem
from filestoraged.store.disk.journal import Journal
from filestoraged.store.disk.records import Format
from filestoraged.store.disk.replay import Replay, find_journals, read_journals
from filestoraged.store.disk.staging_area import StagingArea
from filestoraged.store.system import Queue, System, exists

log = logging.getLogger(__name__)


class SharedJournal:
    """Any thread calls it.

    The lock serializes joining and checkpoints of the process, whose syncs report an error once. No round waits for it.
    """

    def __init__(self, directories: Directories, area: StagingArea, *, system: System) -> None:
        self._directories = directories
        self._area = area
        self._system = system
        self._lock = system.lock()
        # The process that joined, and what it joined by. A forked child joins anew.
        self._pid = 0
        self._epoch: Epoch | None = None
        self._file: EpochFile | None = None
        self._file_system: FileSystem | None = None
        # The token under which it has a mark; empty before its first record or checkpoint.
        self._token = ""
        # Whether its next checkpoint has to make files anew: another process may have been told of a failure before
        # this one opened the file system. And whether a sync of its own has failed.
        self._is_doubted = self._has_failed = False

    def join(self) -> None:
        """Have the store: replay the journals of the last epoch, if no other process has it.

        Raises JournalDamaged, and OSError.
        """
        with self._lock:
            self._join()

    def open_journal(self, full: Queue, size: int) -> tuple[Journal, EpochFile]:
        """Make the journal of this process; see `Journal`. Raises OSError, and Error.

        The thread of the committer locks paths by the file, and marks what is applied.
        """
        with self._lock:
            self.check()
            area = self._area.existing()
            epoch, file = self._joined()
            format_ = Format(epoch.number, epoch.key, area.token)
            return Journal(area.path, self._directories, format_, full, size=size, system=self._system), file

    def checkpoint(self) -> int:
        """Sync all files, and save what that covers. Returns up to which time it covers the records of this process.

        Raises OSError, and Error.
        """
        with self._lock:
            epoch, file = self._joined()
            time = self._system.monotonic_ns()
            living = self._area.living()
            marks = {token: mark for token, mark in file.marks().items() if token in living}
            self._sync(epoch, file)
            file.save(Checkpoint(time, marks), epoch)
            return marks.get(self._token, 0)

    def check(self) -> None:
        """Raise StoreUnavailable if the file of the epoch was removed."""
        if self._file is not None:
            self._file.check()

    @contextlib.contextmanager
    def locked(self, path: str, *, is_removal: bool = False) -> Iterator[None]:
        """A block in which no other thread or process changes the object. Raises OSError, and StoreUnavailable."""
        self.check()
        try:
            own = EpochFile(self._directories.root, system=self._system)
        except OSError as error:
            is_there = exists(self._system, f"{self._directories.root}/{layout.JOURNAL}")
            if not is_removal or is_there or error.errno not in DISK_FULL:
                raise
            # A full disk has no room for the file, but objects can be removed. Uploads cannot go on: one that fails
            # would take back what another one has stored.
            yield
            return
        try:
            until = self._system.monotonic() + LOCK_TIMEOUT
            while not own.try_lock(path):
                if self._system.monotonic() >= until:
                    raise StoreUnavailable("Another process is changing this object; retry later.")
                self._system.sleep(LOCK_PAUSE)
            yield
        finally:
            own.close()

    def close(self) -> None:
        """Leave the store, if this process has joined."""
        with self._lock:
            file, self._file = self._file, None
            if file is not None and self._pid == self._system.getpid():
                file.close()
            if self._file_system is not None:
                self._file_system.close()
            self._file_system, self._token = None, ""

    def _joined(self) -> tuple[Epoch, EpochFile]:
        """The epoch, in which this process has a mark from now on. Raises OSError, and JournalDamaged."""
        self._join()
        assert self._epoch is not None and self._file is not None
        token = self._area.own().token
        if token != self._token:
            self._file.begin_marks(token, self._system.monotonic_ns())
            self._token = token
        return self._epoch, self._file

    def _join(self) -> None:
        if self._file is not None and self._pid == self._system.getpid():
            return
        file = EpochFile(self._directories.root, system=self._system)
        try:
            file_system = FileSystem(self._directories.root, system=self._system)
            try:
                self._epoch = file.join(lambda former: self._recover(former, file, file_system))
            except BaseException:
                file_system.close()
                raise
        except BaseException:
            file.close()
            raise
        self._file, self._file_system, self._pid = file, file_system, self._system.getpid()
        self._token, self._is_doubted, self._has_failed = "", file.is_in_doubt(), False

    def _recover(self, former: Epoch | None, file: EpochFile, file_system: FileSystem) -> None:
        journals = find_journals(self._area.directory, system=self._system)
        if not journals:
            return
        living = self._area.living()
        if any(each.token in living for each in journals):
            raise OSError(errno.EBUSY, "a daemon lives that had the store before its file 'journal' was removed")
        records = read_journals(
            journals, former, lambda: [] if former is None else file.checkpoints(former), system=self._system
        )
        replay = self._replay()
        is_doubted = file.is_in_doubt() or (former is not None and file.has_failed(former))
        file.begin_doubt()
        # What the journals say may be in memory alone: a power cut would else leave parts of files, and no record.
        file_system.sync()
        changed = replay.write_all(records) if is_doubted else replay.apply(records)
        file_system.sync()
        if changed:
            log.info("replayed %d records of journals: %d files were made or removed", len(records), changed)

    def _sync(self, epoch: Epoch, file: EpochFile) -> None:
        """Sync all files. Where bytes could not be written, make them anew, and sync once more. Raises OSError."""
        file.begin_doubt()
        if not (self._is_doubted or self._has_failed or file.has_failed(epoch)):
            try:
                self._sync_once()
                file.end_doubt()
                return
            except OSError as error:
                log.error(
                    "cannot sync the files of the journals; syncing each apart until the next start: %s",
                    error,
                )
        if self._has_failed:
            # Not once: a file that was written before may get its name after the next checkpoint has begun.
            file.note_failure(epoch)
        self._remake(epoch, file)
        self._sync_once()
        self._is_doubted = False
        file.end_doubt()

    def _sync_once(self) -> None:
        assert self._file_system is not None
        try:
            self._file_system.sync()
        except OSError:
            self._has_failed = True
            raise

    def _remake(self, epoch: Epoch, file: EpochFile) -> None:
        journals = find_journals(self._area.directory, system=self._system)
        records = read_journals(journals, epoch, lambda: file.checkpoints(epoch), system=self._system, are_written=True)
        self._replay().remake(records, self.locked)

    def _replay(self) -> Replay:
        return Replay(self._directories, self._area.stage, system=self._system)
