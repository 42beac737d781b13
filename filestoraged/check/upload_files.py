"""The files of unfinished uploads: those without a row in the registry, and rows without their file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress

from filestoraged.check.databases import UPLOADS, Registry, RegistryUnreadable, RowRegistry
from filestoraged.check.findings import MISSING, ORPHANED, UNREADABLE, Finding
from filestoraged.check.throttle import Throttle
from filestoraged.store import layout


class UploadFiles:
    """Many threads call it. Findings have paths within the store."""

    def __init__(self, root: str, throttle: Throttle, registry: RowRegistry | None = None) -> None:
        """Without a `registry`, it is the one in the directory."""
        self.registry = registry or Registry(f"{root}/{layout.UPLOADS_DATABASE}", throttle, UPLOADS)
        self._root = root
        self._throttle = throttle
        # The thread that takes the element reports that the registry cannot be read.
        self._unreported = iter((True,))

    def find_orphans(self, paths: list[str]) -> Iterator[Finding]:
        """Find files without a row, at most IDS_PER_QUERY. They were listed before their rows are queried."""
        if not paths or not self._is_sound():
            return
        ids = {path: os.path.basename(path).partition(".")[0] for path in paths}
        try:
            without_row = self.registry.without_row(list(ids.values()))
        except RegistryUnreadable as error:
            yield from self._report_unreadable(error)
            return
        for path, id_ in ids.items():
            # The bytes of a row that was removed were removed before it.
            if id_ in without_row and exists(f"{self._root}/{path}"):
                yield Finding(ORPHANED, path, "no upload has this id")

    def find_missing(self, _: object) -> Iterator[Finding]:
        """Find rows without bytes. The row must need them both before and after the file was looked up."""
        if not self._is_sound():
            return
        try:
            for id_ in self.registry.all_with_bytes():
                self._throttle.raise_if_stopped()
                path = layout.upload_path(id_)
                if not exists(f"{self._root}/{path}") and self.registry.needs_bytes(id_):
                    yield Finding(MISSING, path, "its upload has received bytes, but has none")
        except RegistryUnreadable as error:
            yield from self._report_unreadable(error)

    def _report_unreadable(self, error: RegistryUnreadable) -> Iterator[Finding]:
        """The registry was sound, and can no longer be read. Reported once."""
        for _ in self._unreported:
            yield Finding(UNREADABLE, self.registry.name, f"uploads cannot be compared with it: {error}")

    def _is_sound(self) -> bool:
        """Whether files can be compared with the registry. If not, the check of databases reports the registry."""
        with suppress(RegistryUnreadable):
            return self.registry.damage is None
        return False


def exists(path: str) -> bool:
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        # It cannot be looked up, which does not mean that it is missing.
        return True
    return True
