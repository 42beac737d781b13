"""Two configurations of a daemon, and what tests of `filestoraged migrate` put into one and find in the other."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from filestoraged.api.drops import open_drops
from filestoraged.api.kv import Keys, open_keys
from filestoraged.api.names import open_names
from filestoraged.api.repositories import open_locks
from filestoraged.daemon.values import parse_database
from filestoraged.store import layout
from filestoraged.store.databases import Databases, open_databases
from filestoraged.store.disk.store import DiskStore
from filestoraged.store.drop_tables import DROPS_SCHEMA
from filestoraged.store.drops import Drop, Drops
from filestoraged.store.kv import KEYS_SCHEMA, KeyValues
from filestoraged.store.locks import LOCKS_SCHEMA, Locks
from filestoraged.store.name_tables import NAMES_SCHEMA
from filestoraged.store.names import Link, Names
from filestoraged.store.path_identity import PathIdentities, root_identity
from filestoraged.store.postgresql.kv import PostgresKeys
from filestoraged.store.sqlite import database
from tests.daemon.process import PATIENCE, ROOT, clean_environment, fork_command
from tests.support import TempCase, changed, wait_until

COMMAND = (sys.executable, "-m", "filestoraged", "migrate")

DAY = 24 * 3600

_Opened = TypeVar("_Opened", Keys, Drops, Locks, Names)


class Done(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    errors: str

    @property
    def document(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.out)
        return found


class Side:
    """The store and the databases of one configuration, as a daemon's worker opens them."""

    def __init__(self, case: TempCase, name: str, options: Mapping[str, str]) -> None:
        self._case = case
        self.root = case.directory / name
        self.config = case.directory / f"{name}.conf"
        self._address = parse_database(options["database"]) if "database" in options else None
        lines = [f"{option} = {value}" for option, value in {"store": self.root, **options}.items()]
        self.config.write_text("\n".join(["[filestoraged]", *lines, ""]))

    def make(self) -> None:
        """Make the directory, as a daemon that starts."""
        self.disk.prepare()

    @property
    def disk(self) -> DiskStore:
        return DiskStore(self.root, cache_size=0)

    def repository(self, name: str) -> DiskStore:
        return self.disk.namespace(layout.REPOSITORIES).namespace(name)

    def make_restic(self, name: str, *files: bytes) -> None:
        """Make a repository of restic that has the files in each directory."""
        repository = self.disk.namespace(layout.RESTIC).namespace(name)
        repository.put(b"config", name=layout.RESTIC_CONFIG)
        for type_ in layout.RESTIC_DIRECTORIES:
            for data in files:
                repository.namespace(type_).put(data)

    @property
    def drop_bytes(self) -> DiskStore:
        return self.disk.namespace(layout.DROPS)

    def path(self, name: str) -> str:
        return str(self.root / name)

    def keys(self) -> KeyValues | PostgresKeys:
        if self._address is None:
            database.prepare(self.path(layout.KEYS_DATABASE), KEYS_SCHEMA)
        keys = self._closed_later(open_keys(self._databases))
        assert isinstance(keys, KeyValues | PostgresKeys)
        return keys

    def drops(self) -> Drops:
        if self._address is None:
            database.prepare(self.path(layout.DROPS_DATABASE), DROPS_SCHEMA)
        return self._closed_later(open_drops(self._databases, ttl=DAY))

    def locks(self) -> Locks:
        if self._address is None:
            database.prepare(self.path(layout.LOCKS_DATABASE), LOCKS_SCHEMA)
        return self._closed_later(open_locks(self._databases))

    def names(self) -> Names:
        if self._address is None:
            database.prepare(self.path(layout.NAMES_DATABASE), NAMES_SCHEMA)
        return self._closed_later(open_names(self._databases))

    def space(self, name: str) -> DiskStore:
        return self.disk.namespace(layout.NAMES).namespace(name)

    def put_name(self, names: Names, space: str, name: str, data: bytes) -> str:
        oid = self.space(space).put(data)
        names.put(space, name, Link(oid, len(data)), number=0).result()
        return oid

    @property
    def _databases(self) -> Databases:
        return open_databases(self._address, root_identity(str(self.root)), PathIdentities())

    def _closed_later(self, opened: _Opened) -> _Opened:
        self._case.addCleanup(opened.close)
        return opened

    def put_drop(self, drops: Drops, data: bytes, name: str = "tea.txt", password: bytes | None = None) -> str:
        id_ = drops.announce().result()
        with self.drop_bytes.stage(len(data)) as staging:
            staging.write(data)
            staging.commit(name=id_).result(PATIENCE)
        drops.publish(Drop(id_, name, password)).result()
        return id_

    def spoil(self, digest: str) -> str:
        """Damage an object of files. Returns its path within the store."""
        path = self.root / layout.object_path(digest)
        path.write_bytes(changed(path.read_bytes()))
        return layout.object_path(digest)


class MigrationCase(TempCase):
    """Gives each test an old and a new configuration; `options` are those of each besides its store."""

    options: Mapping[str, Mapping[str, str]] = {"old": {}, "new": {}}

    def setUp(self) -> None:
        super().setUp()
        self.old = Side(self, "old", self.side_options("old"))
        self.new = Side(self, "new", self.side_options("new"))
        self.old.make()

    def side_options(self, name: str) -> Mapping[str, str]:
        return self.options[name]

    def arguments(self, *more: str) -> list[str]:
        return ["--from", str(self.old.config), "--to", str(self.new.config), *more]

    def migrate(self, *more: str) -> Done:
        """Run the command to its end."""
        return Done(*fork_command("migrate", *self.arguments(*more), cwd=ROOT))

    def start(self, *more: str) -> subprocess.Popen[str]:
        """Start the command as a process of its own, which is killed after the test."""
        process = subprocess.Popen(
            [*COMMAND, *self.arguments(*more)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            env=clean_environment(),
            text=True,
        )
        self.addCleanup(_reap, process)
        return process

    def finish(self, process: subprocess.Popen[str]) -> Done:
        out, errors = process.communicate(timeout=2 * PATIENCE)
        return Done(process.returncode, out, errors)

    def start_and_stop_after_one_object(self, *more: str) -> subprocess.Popen[str]:
        """Start the command, and suspend it as soon as the new store has an object."""
        process = self.start(*more)
        self.wait_until_copied(lambda: bool(list(self.new.disk.list())))
        process.send_signal(signal.SIGSTOP)
        self.assertIsNone(process.poll())
        return process

    def wait_until_copied(self, condition: Callable[[], bool]) -> None:
        """Wait for what a command does that has just been started: on a busy machine, that alone takes seconds."""
        wait_until("something is copied", condition, PATIENCE)

    def assert_same_objects(self) -> None:
        old, new = (self.objects(side.root) for side in (self.old, self.new))
        self.assertEqual(old, new)

    def objects(self, root: Path) -> dict[str, bytes]:
        return {
            str(path.relative_to(root)): path.read_bytes()
            for path in sorted(root.rglob("*"))
            if path.is_file() and layout.is_shard(path.parent.name)
        }


def _reap(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()
