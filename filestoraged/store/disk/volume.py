"""What a disk store shares with its namespaces: directories, stagings, and the way in which changes are committed."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from filestoraged.errors import DISK_FULL, Error
from filestoraged.store import layout
from filestoraged.store.contract import SMALL
from filestoraged.store.disk.changes import Change, Note
from filestoraged.store.disk.committer import Committer, JournalCommitter, ParallelCommitter, finish
from filestoraged.store.disk.directories import Directories
from filestoraged.store.disk.file_system import check_changes, has_journals
from filestoraged.store.disk.journal import SEGMENT_SIZE
from filestoraged.store.disk.records import RecordKind
from filestoraged.store.disk.replay import find_journals
from filestoraged.store.disk.shared_journal import SharedJournal
from filestoraged.store.disk.staging_area import StagingArea
from filestoraged.store.disk.staging_memory import StagingMemory
from filestoraged.store.path_identity import PathIdentity
from filestoraged.store.permissions import Permissions
from filestoraged.store.system import LINUX, System, exists, is_directory

log = logging.getLogger(__name__)

# In bytes: what the stagings of a process hold in memory. Slow clients can occupy all of it; other stagings are then
# written to files from their first byte on.
_MAX_MEMORY = 32 * 1024 * 1024


class Volume:
    """One directory tree of one file system. Any thread calls it."""

    def __init__(
        self,
        root: str,
        permissions: Permissions,
        *,
        identity: PathIdentity | None = None,
        segment_size: int = SEGMENT_SIZE,
        system: System = LINUX,
    ) -> None:
        """`segment_size` is that of segments of the journal, in bytes."""
        self.root = root
        self.system = system
        self.permissions = permissions
        self.directories = Directories(root, permissions, identity=identity, system=system)
        self.identity = self.directories.identity
        self.staging_area = StagingArea(self.directories, permissions)
        self.staging_memory = StagingMemory(_MAX_MEMORY, most=SMALL)
        self._segment_size = segment_size
        self._lock = system.lock()
        # The lock guards them. Made for the first change; the journal is None on a file system without journals.
        self._alone: Committer | None = None
        self._journal: JournalCommitter | None = None
        self._shared: SharedJournal | None = None
        # Whether its file system has journals; None before the first change.
        self._is_journaled: bool | None = None

    def join(self) -> None:
        """Replay the journals that a power cut has left. Call it before anything is read. Raises OSError and Error."""
        if has_journals(self.root, system=self.system) or exists(self.system, f"{self.root}/{layout.JOURNAL}"):
            self._share().join()

    def has_dead_journals(self) -> bool:
        """Whether journals of processes that are dead may have to be replayed. Raises OSError."""
        living = self.staging_area.living()
        journals = find_journals(self.staging_area.directory, system=self.system)
        return any(each.token not in living for each in journals)

    def sweep(self) -> int:
        """Remove stagings and journals of dead processes. Returns the number of stagings. Raises OSError and Error."""
        try:
            return self.staging_area.sweep(lambda: self._share().checkpoint())
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise
            # The next start sweeps them. Until then, objects can be read and removed.
            log.warning("cannot sweep the journals of dead processes: %s", error.strerror)
            return 0

    def probe(self) -> None:
        """Raise the error of the last checkpoint, if it failed."""
        journal = self._journal
        if journal is not None:
            journal.probe()

    def commit(self, change: Change, *, size: int = 0, is_recorded: bool = True) -> None:
        """Commit a change of `size` bytes, which `change.done` tells. Large ones are committed by the calling thread.

        A change that is not to be recorded, with its bytes, is synced by itself.
        """
        if size > SMALL:
            self.commit_alone(change)
            return
        try:
            committer = self._committer(is_recorded=is_recorded)
        except (OSError, Error) as error:
            change.fail(error)
        else:
            committer.submit(change)

    def commit_alone(self, change: Change) -> None:
        """Commit a change by the calling thread, without a record."""
        try:
            self.identity.check()
            with self._share().locked(change.path, is_removal=change.kind is RecordKind.REMOVED):
                try:
                    change.commit_alone()
                    self._note(change.path)
                    self.check_changes()
                except BaseException:
                    change.take_back()
                    raise
        except Exception as error:
            change.fail(self._cause(error))
        else:
            finish([change])

    @contextlib.contextmanager
    def changing(self, path: str) -> Iterator[None]:
        """A block that changes the object at `path` without a record, and syncs it. Raises OSError and Error."""
        with self._share().locked(path):
            yield
            self._note(path)
            self.check_changes()

    def check_changes(self) -> None:
        """Raise OSError if the file system failed although a sync succeeded, and StoreDetached if the root is lost.

        Paths may have led elsewhere since the root was checked before the change. With the check before, a change costs
        two calls of `stat`; the staging of an upload costs a third.
        """
        self.identity.check()
        check_changes(self.root, system=self.system)

    def close(self) -> None:
        """Finish what is to be committed, and remove this process's staging area, unless it has stagings.

        A later change begins all anew.
        """
        with self._lock:
            alone, self._alone = self._alone, None
        if alone is not None:
            # First: its changes are noted in the journal.
            alone.close()
        with self._lock:
            journal, self._journal = self._journal, None
            shared, self._shared = self._shared, None
        if journal is not None:
            journal.close()
        if shared is not None:
            shared.close()
        self.staging_area.release()

    def _committer(self, *, is_recorded: bool) -> Committer:
        """Raises OSError."""
        with self._lock:
            if is_recorded and self._has_journals():
                if self._journal is None:
                    self._journal = JournalCommitter(
                        self._share(), self.identity.check, size=self._segment_size, system=self.system
                    )
                return self._journal
            if self._alone is None:
                self._alone = ParallelCommitter(self.commit_alone, system=self.system)
            return self._alone

    def _note(self, path: str) -> None:
        """Record that an object is as it is now. Raises OSError and Error."""
        if self._has_journals():
            note = Note(path, self.directories)
            self._committer(is_recorded=True).submit(note)
            self.system.result_of(note.done)

    def _has_journals(self) -> bool:
        if self._is_journaled is None:
            self._make_root()
            self._is_journaled = has_journals(self.root, system=self.system)
        return self._is_journaled

    def _make_root(self) -> None:
        self.identity.check()
        if not is_directory(self.system, self.root):
            self.directories.make_root()

    def _share(self) -> SharedJournal:
        if self._shared is None:
            self._make_root()
            self._shared = SharedJournal(self.directories, self.staging_area, system=self.system)
        return self._shared

    def _cause(self, error: Exception) -> Exception:
        """The error of a change: if the root is lost, any other is a consequence of that."""
        try:
            self.identity.check()
        except Error as lost:
            return lost
        return error
