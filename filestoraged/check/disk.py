"""The directory of a store as a check reads it. One directory entry is in memory at a time; no link is followed."""

from __future__ import annotations

import errno
import os
import re
import sqlite3
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress

from filestoraged.check.databases import SqliteRegistry, SqliteStored, integrity_failure
from filestoraged.check.findings import DAMAGED, FOREIGN, HALF_MADE, UNREADABLE, Finding, read_failure
from filestoraged.check.inventory import (
    DIRECTORY_IN_PLACE,
    OBJECTS,
    UNKNOWN_NAME,
    CheckedStore,
    Item,
    ItemKind,
    ItemStatus,
    OpenItem,
    files_of,
    is_directory,
    is_in_shard,
)
from filestoraged.check.rows import (
    DROP_BYTES,
    NAMED_BYTES,
    NAMED_GRACE,
    UPLOAD_BYTES,
    UPLOADS,
    ComparedRows,
    RegistryUnreadable,
    RowRegistry,
)
from filestoraged.check.store_check import StoreCheck
from filestoraged.check.throttle import FileHasher, Throttle
from filestoraged.command_errors import CheckError
from filestoraged.errors import JournalDamaged, NotFound, StoreUnavailable
from filestoraged.store import layout
from filestoraged.store.area_tables import WRONG_SUMS
from filestoraged.store.contract import Usage
from filestoraged.store.disk.quarantine import Quarantine
from filestoraged.store.disk.staging_area import list_abandoned, sweep_area
from filestoraged.store.disk.store import DiskStore
from filestoraged.store.disk.volume import Volume
from filestoraged.store.permissions import PRIVATE
from filestoraged.store.sqlite.losses import find_losses
from filestoraged.store.sqlite.reading import describe

# A symbolic link must not lead to a foreign file, nor a pipe block.
_OPEN_FLAGS = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

_MISSING = (FileNotFoundError, NotADirectoryError)

# Directories whose contents are not checked.
_UNCHECKED = (layout.DROP_OWNERS, layout.UPLOAD_OWNERS, layout.QUARANTINE)

# Names in one page of the listing of a repository.
_PAGE = 10_000

_IS_LINK = "it is a symbolic link"
_NOT_A_FILE = "it is not a regular file"
_NOT_A_DIRECTORY = "it is not a directory"
_WRONG_SHARD = "its name belongs in another directory"


def check_disk(
    root: str,
    *,
    throttle: Throttle,
    drops: RowRegistry | None = None,
    has_drops: bool = True,
    uploads: RowRegistry | None = None,
    has_uploads: bool = True,
    names: RowRegistry | None = None,
    has_names: bool = True,
    algorithm: str,
    repair: bool = False,
    threads: int | None = None,
) -> StoreCheck:
    """The check of the store in the directory `root`. Without `has_drops`, another store has the drops' bytes.

    `drops` is the registry of drops, None for the one in `root`; `has_uploads` and `uploads` say the same of unfinished
    uploads, `has_names` and `names` of objects that names lead to.
    """
    local = {
        layout.DROPS_DATABASE: SqliteRegistry(f"{root}/{layout.DROPS_DATABASE}", throttle),
        layout.UPLOADS_DATABASE: SqliteRegistry(f"{root}/{layout.UPLOADS_DATABASE}", throttle, UPLOADS),
        layout.NAMES_DATABASE: SqliteStored(f"{root}/{layout.NAMES_DATABASE}", throttle),
    }
    rows = [ComparedRows(DROP_BYTES, drops or local[layout.DROPS_DATABASE], are_here=has_drops)]
    if has_uploads:
        rows.append(ComparedRows(UPLOAD_BYTES, uploads or local[layout.UPLOADS_DATABASE]))
    if has_names:
        rows.append(ComparedRows(NAMED_BYTES, names or local[layout.NAMES_DATABASE], grace=NAMED_GRACE))

    def open_store() -> CheckedDisk:
        store = CheckedDisk(root, throttle, local)
        store.replay(repair=repair)
        return store

    return StoreCheck(open_store, rows, algorithm=algorithm, throttle=throttle, repair=repair, threads=threads)


class CheckedDisk(CheckedStore):
    def __init__(
        self, root: str, throttle: Throttle, registries: Mapping[str, SqliteRegistry] = {}, *, page: int = _PAGE
    ) -> None:
        """`registries` are databases in the directory `root`, by their names, that others examine as well.

        A repository is listed in pages of so many names.
        """
        self._page = page
        self._root = os.path.abspath(root)
        self._throttle = throttle
        self._registries = registries
        self._hasher = FileHasher(throttle)
        self._volume = Volume(self._root, PRIVATE)
        # It has a journal of its own if objects are moved.
        weakref.finalize(self, self._volume.close)
        self._quarantine = Quarantine(self._volume)
        self._moved: list[Finding] = []

    def replay(self, *, repair: bool) -> None:
        """Replay the journals that a power cut has left, before anything is read. Raises CheckError.

        A journal that is damaged is moved to the quarantine, if the store is to be repaired.
        """
        if not os.path.lexists(f"{self._root}/{layout.JOURNAL}"):
            return
        while True:
            try:
                self._volume.join()
                return
            except JournalDamaged as error:
                if not repair:
                    raise CheckError(error.cause) from error
                self._move_journal(error)
            except OSError as error:
                if self._volume.has_dead_journals():
                    raise CheckError(
                        f"cannot replay the journals of the store {self._root!r} ({error.strerror}): run this as the"
                        " user that owns it, or start the daemon first"
                    ) from error
                return

    def _move_journal(self, error: JournalDamaged) -> None:
        path = os.path.relpath(error.path, self._root)
        try:
            descriptor = os.open(error.path, os.O_PATH | _OPEN_FLAGS)
            try:
                target = self._quarantine.move_unrecorded(path, descriptor)
            finally:
                os.close(descriptor)
        except OSError as failure:
            reason = failure.strerror or failure
            raise CheckError(f"cannot move the journal {path!r} to the quarantine: {reason}") from failure
        remedy = f"moved to {target}"
        self._moved.append(Finding(DAMAGED, path, f"the journal cannot be replayed: {error.reason}", remedy))

    def losses(self) -> Sequence[Finding]:
        found = (loss for name in layout.DATABASES for loss in find_losses(f"{self._root}/{name}"))
        return [*self._moved, *(Finding(DAMAGED, os.path.basename(loss.path), loss.reason) for loss in found)]

    def usages(self) -> Iterator[Usage]:
        for item in self.items():
            if item.kind in OBJECTS:
                with suppress(OSError):
                    yield Usage(1, os.stat(f"{self._root}/{item.path}", follow_symlinks=False).st_size)

    def status(self, path: str) -> ItemStatus:
        try:
            return _status(os.lstat(f"{self._root}/{path}"))
        except _MISSING as error:
            raise NotFound(name=path) from error

    def open(self, path: str) -> OpenFile:
        return self._open(path, os.O_RDONLY)

    def locate(self, path: str) -> OpenFile:
        return self._open(path, os.O_PATH)

    def _open(self, path: str, access: int) -> OpenFile:
        try:
            descriptor = os.open(f"{self._root}/{path}", access | _OPEN_FLAGS)
        except _MISSING as error:
            raise NotFound(name=path) from error
        return OpenFile(self._root, path, descriptor, self._hasher, self._quarantine)

    def failure(self, path: str, error: Exception) -> Finding:
        if not isinstance(error, OSError):
            raise error
        if error.errno == errno.ELOOP:
            return Finding(FOREIGN, path, _IS_LINK)
        return read_failure(path, error)

    def is_small_and_whole(self, path: str, algorithm: str, count: Callable[[int], None]) -> bool:
        """Whether a file is small, in the page cache, and has the digest that is its name."""
        try:
            descriptor = os.open(f"{self._root}/{path}", os.O_RDONLY | _OPEN_FLAGS)
        except OSError:
            return False
        try:
            return self._hasher.is_small_and_whole(descriptor, algorithm, os.path.basename(path), count)
        finally:
            os.close(descriptor)

    # The listing.

    def objects_of(self, repository: str) -> Iterator[Item]:
        path = f"{layout.REPOSITORIES}/{repository}"
        store = DiskStore(f"{self._root}/{path}")
        page = store.list(limit=self._page)
        while page:
            yield from (Item(ItemKind.OID, f"{path}/{layout.object_path(name)}") for name in page if len(name) == 64)
            page = store.list(page[-1], self._page)

    def items(self) -> Iterator[Item]:
        """All items. Raises OSError if the store itself cannot be listed."""
        with os.scandir(self._root) as entries:
            for entry in entries:
                name = entry.name
                if name == layout.LOST_AND_FOUND:
                    continue
                if is_directory(name) or name in _UNCHECKED:
                    yield from self._enter(entry, name)
                elif name in layout.DATABASES:
                    yield _file(entry, ItemKind.DATABASE, name)
                elif name != layout.JOURNAL and not layout.is_beside_database(name):
                    yield Item(ItemKind.FOREIGN, name, UNKNOWN_NAME)
                elif entry.is_symlink():
                    yield Item(ItemKind.FOREIGN, name, _IS_LINK)

    def _enter(self, entry: os.DirEntry[str], path: str) -> Iterator[Item]:
        if not entry.is_dir(follow_symlinks=False):
            # A link may lead to a file system that is not mounted at present.
            is_link = entry.is_symlink()
            yield Item(ItemKind.FOREIGN, path, _IS_LINK) if is_link else Item(ItemKind.OBSTACLE, path, _NOT_A_DIRECTORY)
        elif path == layout.STAGING:
            yield from self._list(path, _area)
        elif path not in _UNCHECKED:
            files = files_of(path)
            if files is None or files[0] is ItemKind.CONFIG:
                yield from self._list_directories(path)
            else:
                yield from self._list(path, lambda entry, path: _named_file(entry, path, *files))

    def _list_directories(self, directory: str) -> Iterator[Item]:
        """The items in a directory that has directories, and perhaps files beside them."""
        files = files_of(directory)
        for entry in self._entries(directory):
            if isinstance(entry, Item):
                yield entry
                continue
            path = f"{directory}/{entry.name}"
            # A file in place of a repository has the name of one.
            if is_directory(path) and (entry.is_dir(follow_symlinks=False) or layout.is_repository(entry.name)):
                yield from self._enter(entry, path)
            elif files is None:
                yield Item(ItemKind.FOREIGN, path, UNKNOWN_NAME)
            else:
                yield _named_file(entry, path, *files)

    def _list(self, directory: str, classify: Callable[[os.DirEntry[str], str], Item]) -> Iterator[Item]:
        for entry in self._entries(directory):
            yield entry if isinstance(entry, Item) else classify(entry, f"{directory}/{entry.name}")

    def _entries(self, path: str) -> Iterator[os.DirEntry[str] | Item]:
        try:
            with os.scandir(f"{self._root}/{path}") as entries:
                yield from entries
        except _MISSING:
            # Removed since it was listed.
            pass
        except OSError as error:
            yield Item(ItemKind.UNREADABLE, path, f"it cannot be listed: {error.strerror}")

    # What others do not have.

    def examine(self, item: Item, *, repair: bool) -> Iterator[Finding]:
        if item.kind is ItemKind.DATABASE:
            return self._examine_database(item.path)
        return self._examine_area(item.path, repair=repair)

    def _examine_database(self, name: str) -> Iterator[Finding]:
        try:
            registry = self._registries.get(name)
            failure = registry.damage if registry else integrity_failure(f"{self._root}/{name}", self._throttle)
            areas = registry.wrong_sums() if failure is None and isinstance(registry, SqliteStored) else []
        except FileNotFoundError:
            return
        except (sqlite3.OperationalError, OSError, StoreUnavailable, RegistryUnreadable) as error:
            yield Finding(UNREADABLE, name, f"it cannot be read: {describe(error)}")
            return
        if failure is not None:
            yield Finding(DAMAGED, name, f"SQLite reports: {failure}")
        yield from (Finding(DAMAGED, f"{name}/{area}", WRONG_SUMS) for area in areas)

    def _examine_area(self, area: str, *, repair: bool) -> Iterator[Finding]:
        path = f"{self._root}/{area}"
        try:
            names = list_abandoned(path)
        except OSError as error:
            yield Finding(UNREADABLE, area, f"it cannot be listed: {error.strerror}")
            return
        failure = ""
        # A process that starts may be about to lock an empty area.
        if repair and names:
            try:
                sweep_area(path)
            except OSError as error:
                failure = f", and it cannot be removed: {error.strerror}"
        for name in names:
            left = Finding(HALF_MADE, f"{area}/{name}", "the process that staged it has ended")
            if repair and not os.path.lexists(f"{path}/{name}"):
                yield left._replace(remedy="removed")
            else:
                yield left._replace(reason=left.reason + failure)


class OpenFile(OpenItem):
    """A file or a directory, by a descriptor that keeps its inode from being reused."""

    def __init__(self, root: str, path: str, descriptor: int, hasher: FileHasher, quarantine: Quarantine) -> None:
        """Take over `descriptor`."""
        self._root = root
        self._path = path
        self._descriptor = descriptor
        self._hasher = hasher
        self._quarantine = quarantine
        self._found = os.fstat(descriptor)
        self.status = _status(self._found)

    def has_digest(self, digest: str, algorithms: list[str], count: Callable[[int], None]) -> bool:
        for number, algorithm in enumerate(algorithms):
            if self._hasher.digest(self._descriptor, algorithm, _ignore if number else count) == digest:
                algorithms.insert(0, algorithms.pop(number))
                return True
        return False

    def is_in_place(self) -> bool:
        try:
            return os.path.samestat(os.stat(f"{self._root}/{self._path}", follow_symlinks=False), self._found)
        except _MISSING:
            return False
        except OSError:
            # A directory that cannot be read does not mean that the file is missing.
            return True

    def move_aside(self, suffix: str = "") -> str | None:
        return self._quarantine.move(self._path, self._descriptor, suffix)

    def close(self) -> None:
        os.close(self._descriptor)


def _status(status: os.stat_result) -> ItemStatus:
    return ItemStatus(status.st_size, status.st_mtime, status.st_mode)


def _named_file(entry: os.DirEntry[str], path: str, kind: ItemKind, name: re.Pattern[str]) -> Item:
    if not name.fullmatch(entry.name):
        return Item(ItemKind.FOREIGN, path, UNKNOWN_NAME)
    if not is_in_shard(os.path.dirname(path), entry.name):
        return Item(ItemKind.FOREIGN, path, _WRONG_SHARD)
    return _file(entry, kind, path)


def _file(entry: os.DirEntry[str], kind: ItemKind, path: str) -> Item:
    # A directory in place of an object is checked as one: no upload can replace it.
    if entry.is_file(follow_symlinks=False) or (kind in OBJECTS and entry.is_dir(follow_symlinks=False)):
        return Item(kind, path)
    if kind is ItemKind.CONFIG and entry.is_dir(follow_symlinks=False):
        return Item(kind, path, DIRECTORY_IN_PLACE)
    return Item(ItemKind.FOREIGN, path, _IS_LINK if entry.is_symlink() else _NOT_A_FILE)


def _area(entry: os.DirEntry[str], path: str) -> Item:
    if entry.is_dir(follow_symlinks=False):
        return Item(ItemKind.STAGING, path)
    return Item(ItemKind.FOREIGN, path, _IS_LINK if entry.is_symlink() else _NOT_A_DIRECTORY)


def _ignore(size: int) -> None:
    pass
