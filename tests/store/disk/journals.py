"""What tests of journals share: a store on a disk that a test controls, and copies of it as of a power cut."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from filestoraged.digest import Digest
from filestoraged.future import Future
from filestoraged.store import layout
from filestoraged.store.disk.store import DiskStore
from tests.runner.marks import on_disk
from tests.store.disk.systems import Disk
from tests.support import PATIENCE, TempCase

# Of a segment, in bytes.
SMALL_SEGMENT = 256 * 1024


@on_disk
class JournalCase(TempCase):
    segment_size = SMALL_SEGMENT

    def setUp(self) -> None:
        super().setUp()
        self.root = self.directory / "store"
        self.disk = Disk()
        self.store = self.open_store(self.root, self.disk)

    def open_store(self, root: Path, disk: Disk) -> DiskStore:
        store = DiskStore(root, segment_size=self.segment_size, system=disk)
        self.addCleanup(store.close)
        self.addCleanup(disk.go_on)
        store.prepare()
        return store

    def upload(self, data: bytes, *, name: str | None = None, replace: bool = True) -> Future[Digest]:
        with self.store.stage(len(data)) as staging:
            staging.write(data)
            return staging.commit(name=name, replace=replace)

    def hold(self) -> Future[Digest]:
        """Keep the committer in the sync of a first round, of one upload."""
        self.disk.hold()
        held = self.upload(b"held")
        self.assertTrue(self.disk.reached.wait(PATIENCE))
        return held

    def read(self, store: DiskStore, name: str) -> bytes:
        with store.get(name) as stream:
            return stream.read()

    def path(self, name: str, root: Path | None = None) -> Path:
        return (root or self.root) / layout.object_path(name)

    def segments(self, root: Path | None = None) -> list[Path]:
        return sorted((root or self.root).glob("staging/*/journal.*"))

    def checkpoint(self, store: DiskStore | None = None) -> None:
        shared = (store or self.store).volume._shared
        assert shared is not None
        shared.checkpoint()

    def cut_power(self) -> Path:
        """A copy of the store in which no process is alive. Returns its root."""
        number = len(os.listdir(self.directory))
        return Path(shutil.copytree(self.root, self.directory / f"copy{number}"))

    def recovered(self, root: Path) -> DiskStore:
        return self.open_store(root, Disk())
