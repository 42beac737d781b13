"""What a disk store shares with its namespaces: directories, stagings, and group commit."""

from __future__ import annotations

import threading

from filestoraged.digest import Bytes
from filestoraged.errors import Error
from filestoraged.store.disk.committer import Change, Committer
from filestoraged.store.disk.directories import Directories
from filestoraged.store.disk.file_system import check_changes, open_file_system
from filestoraged.store.disk.small_blobs import SMALL
from filestoraged.store.disk.staged_file import StagedFile
from filestoraged.store.disk.staging_area import StagingArea
from filestoraged.store.path_identity import PathIdentity
from filestoraged.store.permissions import Permissions
from filestoraged.store.system import LINUX, System

# In bytes: what the stagings of a process hold in memory. Slow clients can occupy all of it; other stagings are then
# written to files from their first byte on.
_MAX_MEMORY = 32 * 1024 * 1024


class Volume:
    """One directory tree of one file system. Any thread calls it."""

    def __init__(
        self, root: str, permissions: Permissions, *, identity: PathIdentity | None = None, system: System = LINUX
    ) -> None:
        self.root = root
        self.system = system
        self.permissions = permissions
        self.directories = Directories(root, permissions, identity=identity, system=system)
        self.identity = self.directories.identity
        self.staging_area = StagingArea(self.directories, permissions)
        self.staging_memory = StagingMemory(_MAX_MEMORY)
        # The number of changes that threads commit alone at present. The lock guards it.
        self._alone = 0
        self._lock = threading.Lock()
        # None where each change is synced alone.
        self.committer: Committer | None = None

    def group_commits(self) -> None:
        """Commit small uploads and removals in groups, if the file system allows it. Call it after the fork.

        Raises OSError and StoreDetached; each change is then synced alone.
        """
        self.identity.check()
        file_system = open_file_system(self.root, system=self.system)
        if file_system is not None:
            self.committer = Committer(
                file_system, self.check_changes, check_root=self.identity.check, system=self.system
            )

    def commit(self, change: Change) -> None:
        """Commit a change, together with others if it can wait for them. Raises what is known at once."""
        if self.committer is None:
            self.commit_alone(change)
        else:
            self.committer.submit(change)

    def commit_alone(self, change: Change) -> None:
        """Commit a change by the calling thread. Raises what fails."""
        self._count_alone(1)
        try:
            self._require_root(change)
            change.commit_alone(self.check_changes)
        except OSError:
            # If the root is lost, the error is a consequence of that.
            self.identity.check()
            raise
        finally:
            self._count_alone(-1)

    @property
    def is_crowded(self) -> bool:
        """Whether other changes are in flight."""
        return self._alone > 0 or (self.committer is not None and self.committer.is_busy)

    def _count_alone(self, difference: int) -> None:
        with self._lock:
            self._alone += difference

    def _require_root(self, change: Change) -> None:
        try:
            self.identity.check()
        except Error as error:
            change.fail(error)
            raise

    def check_changes(self) -> None:
        """Raise OSError if the file system failed although a sync succeeded, and StoreDetached if the root is lost.

        Paths may have led elsewhere since the root was checked before the change. With the check before, a group of
        changes, or one alone, costs two calls of `stat`; the staging of an upload costs a third.
        """
        self.identity.check()
        check_changes(self.root, system=self.system)

    def stage_in_memory(self, size: int | None) -> MemoryStaging | None:
        """Reserve memory for `size` bytes, if that is known. Returns None if that is too much, or none is left."""
        reserved = size or 0
        if reserved > SMALL or not self.staging_memory.reserve(reserved):
            return None
        return MemoryStaging(self.staging_memory, reserved)

    def stage_file(self) -> StagedFile:
        return StagedFile(self.staging_area, self.directories)

    def stage_link(self, source: str) -> StagedFile:
        """Stage another name of an existing file. Raises OSError."""
        return StagedFile(self.staging_area, self.directories, source=source)

    def close(self) -> None:
        """Finish what is to be committed, and remove this process's staging area, unless it has stagings.

        Later changes are committed alone.
        """
        committer, self.committer = self.committer, None
        if committer is not None:
            committer.close()
        self.staging_area.release()


class StagingMemory:
    """The memory that the stagings of a process share. The lock guards the sum."""

    def __init__(self, size: int) -> None:
        """`size` is in bytes."""
        self._left = size
        self._lock = threading.Lock()

    def has(self, size: int) -> bool:
        """Whether so many bytes are left at present."""
        return size <= self._left

    def reserve(self, size: int) -> bool:
        """Reserve memory. Returns False if there is not enough."""
        with self._lock:
            if size > self._left:
                return False
            self._left -= size
            return True

    def release(self, size: int) -> None:
        with self._lock:
            self._left += size


class MemoryStaging:
    """Bytes in memory that is reserved for them. One thread at a time calls it."""

    __slots__ = ("_memory", "_reserved", "data")

    def __init__(self, memory: StagingMemory, reserved: int) -> None:
        """`reserved` bytes are reserved already."""
        self._memory = memory
        self._reserved = reserved
        self.data = bytearray()

    def append(self, data: Bytes) -> bool:
        """Returns False if no memory is left for the bytes."""
        missing = len(self.data) + len(data) - self._reserved
        if missing > 0:
            if not self._memory.reserve(missing):
                return False
            self._reserved += missing
        self.data += data
        return True

    def release(self) -> None:
        """Forget the bytes, and give the memory back. A second call does nothing."""
        reserved, self._reserved = self._reserved, 0
        self.data = bytearray()
        self._memory.release(reserved)
