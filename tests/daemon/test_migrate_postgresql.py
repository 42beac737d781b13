"""The command `filestoraged migrate` with a real PostgreSQL on one side."""

from __future__ import annotations

import contextlib
import re
import sqlite3
import threading
from collections.abc import Mapping
from pathlib import Path

from filestoraged.errors import Gone
from filestoraged.store import layout
from tests.daemon.migrated_databases import (
    POT,
    TEA,
    DatabasesContract,
    DropsContract,
    assert_only_the_claimed_one_is_copied,
)
from tests.daemon.migrations import MigrationCase
from tests.postgresql import PostgresAccess, PostgresCase
from tests.runner.marks import long
from tests.support import PATIENCE

# 100,000 keys with values of 1000 bytes.
MANY_KEYS = """WITH RECURSIVE numbers (number) AS
    (SELECT 0 UNION ALL SELECT number + 1 FROM numbers WHERE number < 99999)
    INSERT INTO pairs SELECT CAST(printf('key %06d', number) AS BLOB), CAST(hex(zeroblob(500)) AS BLOB) FROM numbers"""


class PostgresSide:
    """The side `remote` has its databases in PostgreSQL, a new one for each test."""

    remote: str
    server: PostgresAccess

    def side_options(self, name: str) -> Mapping[str, str]:
        return {"database": self.server.url(self.server.create_database())} if name == self.remote else {}


class FromPostgresTest(PostgresSide, PostgresCase, MigrationCase):
    remote = "old"

    def test_keys_drops_and_locks_are_copied(self) -> None:
        keys = self.old.keys()
        keys.set("a", b"1").result()
        keys.set("b\0", b"2.0").result()
        keys.commit().result()
        keys.set("a", b"3").result()
        keys.set("a", b"4").result()
        drops = self.old.drops()
        available, gone = self.old.put_drop(drops, POT, "t\u00e9.txt", b"kept"), self.old.put_drop(drops, TEA)
        drops.finish(drops.claim(gone).result()).result()
        locks = self.old.locks()
        lock = locks.lock("pets", "a\0.bin", "ann").result().lock
        locks.release("pets", locks.lock("pets", "b.bin", "ann").result().lock.id).result()

        done = self.migrate()
        again = self.migrate()
        verified = self.migrate("--verify")

        self.assertEqual([0, 0, 0], [done.status, again.status, verified.status], (done, again, verified))
        self.assertIn("equal 2 keys, 1 drops, 1 locks", verified.out)
        copied = self.new.keys()
        self.assertEqual((b"1", b"2.0", 2), (copied.get("a"), copied.get("b\0"), copied.queued))
        copied.commit().result()
        self.assertEqual(b"4", copied.get("a"))
        self.assertEqual(drops.get(available), self.new.drops().get(available))
        with self.assertRaises(Gone):
            self.new.drops().get(gone)
        self.assertEqual([lock], list(self.new.locks().list("pets", 0, 10)))
        self.assertEqual(3, self.new.locks().lock("pets", "c.bin", "ann").result().lock.id)

    def test_names_are_copied_with_their_bytes_and_counts(self) -> None:
        names = self.old.names()
        oid = self.old.put_name(names, "s", "a/\u00e9", TEA)
        self.old.put_name(names, "s", "b", TEA)
        self.old.put_name(names, "t", "c", POT)
        names.remove("t", "c").result()
        kept = names.listing("s").page("", 10)

        done = self.migrate()
        verified = self.migrate("--verify")

        self.assertEqual([0, 0], [done.status, verified.status], (done, verified))
        self.assertIn("equal 0 keys, 0 drops, 0 locks, 2 names", verified.out)
        copied = self.new.names()
        self.assertEqual(kept, copied.listing("s").page("", 10))
        self.assertEqual((["s"], 1), (list(copied.list_spaces("", 10)), copied.count()))
        with self.new.space("s").get(oid) as stream:
            self.assertEqual(TEA, stream.read())
        for name in ("a/\u00e9", "b"):
            self.assertEqual([(1,)], copied.transactions.read("SELECT objects FROM areas WHERE objects > 0"))
            copied.remove("s", name).result()
        self.assertEqual(0, copied.count())

    def test_drop_in_use_is_skipped_and_copied_when_its_session_is_gone(self) -> None:
        drops = self.old.drops()
        claimed = self.old.put_drop(drops, TEA)
        drops.claim(claimed).result()
        arriving = drops.announce().result()

        skipped = self.migrate("--json").document
        drops.close()

        assert_only_the_claimed_one_is_copied(self, skipped, claimed, arriving)


class ToPostgresTest(DatabasesContract, DropsContract, PostgresSide, PostgresCase, MigrationCase):
    remote = "new"

    def test_names_are_copied_with_their_bytes_and_counts(self) -> None:
        names = self.old.names()
        oid = self.old.put_name(names, "s", "a/\u00e9", TEA)
        self.old.put_name(names, "s", "b", TEA)
        self.old.put_name(names, "t", "c", POT)
        names.remove("t", "c").result()
        kept = names.listing("s").page("", 10)

        done = self.migrate()
        verified = self.migrate("--verify")

        self.assertEqual([0, 0], [done.status, verified.status], (done, verified))
        self.assertIn("equal 0 keys, 0 drops, 0 locks, 2 names", verified.out)
        copied = self.new.names()
        self.assertEqual(kept, copied.listing("s").page("", 10))
        self.assertEqual((["s"], 1), (list(copied.list_spaces("", 10)), copied.count()))
        with self.new.space("s").get(oid) as stream:
            self.assertEqual(TEA, stream.read())
        for name in ("a/\u00e9", "b"):
            self.assertEqual([(1,)], copied.transactions.read("SELECT objects FROM areas WHERE objects > 0"))
            copied.remove("s", name).result()
        self.assertEqual(0, copied.count())

    def test_databases_alone_are_copied_where_both_share_a_directory(self) -> None:
        self.new.config.write_text(self.new.config.read_text().replace(str(self.new.root), str(self.old.root)))
        digest = self.old.disk.put(POT)
        id_ = self.old.put_drop(self.drops, TEA)
        arriving = "0" * 32
        with self.old.drop_bytes.stage() as staging:
            staging.commit(name=arriving).result(PATIENCE)

        done = self.migrate()

        self.assertEqual(0, done.status, done)
        self.assertIn("copied 0 objects", done.out)
        self.assertIn("copied 0 keys, 1 drops, 0 locks", done.out)
        self.assertEqual(id_, self.new.drops().get(id_).id)
        # Bytes of the source without a row are the source's.
        self.assertEqual([arriving, id_], sorted(self.old.drop_bytes.list()))
        self.assertEqual([digest], list(self.old.disk.list()))

    def test_database_that_cannot_be_reached_exits_2_before_anything_is_copied(self) -> None:
        self.old.disk.put(TEA)
        self.new.config.write_text(self.new.config.read_text().replace(f":{self.server.port}/", ":1/"))

        done = self.migrate()

        self.assertEqual((2, True), (done.status, "cannot reach the database postgresql://" in done.errors), done)
        self.assertNotIn("s3cret", done.errors)
        self.assertEqual([], list(self.new.disk.list()))

    @long("scale")
    def test_hundred_thousand_keys_are_copied_in_one_move_and_in_little_memory(self) -> None:
        self.old.keys().close()
        with contextlib.closing(sqlite3.connect(self.old.path(layout.KEYS_DATABASE))) as connection, connection:
            connection.execute(MANY_KEYS)

        process = self.start("--json")
        peak = 0
        while process.poll() is None:
            peak = max(peak, peak_of(process.pid))
            threading.Event().wait(0.01)
        done = self.finish(process)

        self.assertEqual((0, 100_000), (done.status, done.document["keys"]), done.errors)
        self.assertEqual(b"0" * 1000, self.new.keys().get("key 099999"))
        # In KiB. It takes 70 MiB; with 100 MB of keys in memory it would be 170 MiB.
        self.assertLess(peak, 120 * 1024)
        self.assertGreater(peak, 20 * 1024)


def peak_of(pid: int) -> int:
    """The most memory that a process has had so far, in KiB; 0 if it has ended."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for size in re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text()):
            return int(size)
    return 0
