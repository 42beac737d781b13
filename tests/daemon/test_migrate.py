"""The command `filestoraged migrate` between directories, as a user runs it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import sqlite3
import subprocess

from filestoraged.migration.findings import MIGRATION_KINDS
from filestoraged.store import layout
from tests.daemon.migrated_databases import DatabasesContract, DropsContract, assert_only_the_claimed_one_is_copied
from tests.daemon.migrations import COMMAND, MigrationCase
from tests.daemon.process import PATIENCE, ROOT, clean_environment, fork_command, running
from tests.daemon.test_check import run_on_terminal
from tests.store.memcached.servers import start_memcached
from tests.support import changed

# A mount namespace of its own.
UNSHARE = ("unshare", "--user", "--map-root-user", "--mount")

TEA = b"tea" * 10
POT = os.urandom(300_000)
MILK = os.urandom(70_000)


class ObjectsTest(MigrationCase):
    def test_files_and_repositories_are_copied_under_their_names(self) -> None:
        self.old.disk.put(TEA)
        self.old.disk.put(POT)
        self.old.disk.put(b"")
        self.old.repository("pets").put(POT)
        self.old.repository("maps").put(MILK)

        done = self.migrate()

        self.assertEqual((0, ""), (done.status, done.errors))
        self.assertRegex(done.out, r"^copied 5 objects, .* in \d+\.\d s, .*/s; 0 were there already; nothing found\n")
        self.assert_same_objects()
        self.assertEqual(5, len(self.objects(self.new.root)))

    def test_repositories_of_restic_are_copied_with_their_configs(self) -> None:
        for name in ("laptop", "desktop"):
            self.old.make_restic(name, TEA, POT)

        done = self.migrate("--json")
        again = self.migrate("--json")
        verified = self.migrate("--verify")

        self.assertEqual((0, 22), (done.status, done.document["copied"]), done)
        self.assertEqual((0, 22), (again.document["copied"], again.document["existing"]))
        self.assertEqual(0, verified.status, verified)
        old, new = (self.files_below(side.root / "restic") for side in (self.old, self.new))
        self.assertEqual((22, old), (len(old), new))

    def test_damaged_config_of_restic_is_found_by_verify(self) -> None:
        self.old.make_restic("laptop", TEA)
        self.migrate()
        (self.new.root / "restic/laptop/config").write_bytes(b"CONFIG")

        verified = self.migrate("--verify", "--json")

        self.assertEqual(1, verified.status)
        self.assertEqual(["restic/laptop/config"], [each["path"] for each in verified.document["findings"]])

    def test_second_run_copies_what_is_new_alone(self) -> None:
        self.old.disk.put(TEA)
        self.old.repository("pets").put(POT)
        self.migrate()
        self.old.repository("pets").put(MILK)

        found = self.migrate("--json").document

        self.assertEqual((1, 2), (found["copied"], found["existing"]))
        self.assertEqual((len(MILK), True), (found["bytes"], found["complete"]))
        self.assert_same_objects()

    def test_objects_keep_names_that_another_hash_gave_them(self) -> None:
        names = [hashlib.new(each, TEA).hexdigest() for each in ("md5", "sha512", "blake2b", "sha3_256", "blake2s")]
        for name in names:
            self.old.disk.put(TEA, name=name)

        done = self.migrate()

        self.assertEqual(0, done.status, done)
        self.assertEqual(sorted(names), list(self.new.disk.list()))
        self.assert_same_objects()

    def test_damaged_object_is_reported_and_not_copied(self) -> None:
        path = self.old.spoil(self.old.disk.put(POT))
        self.old.disk.put(TEA)

        done = self.migrate()
        again = self.migrate("--json")

        line, total, _ = done.out.splitlines()
        self.assertEqual((1, f"damaged    {path}: its bytes have another digest"), (done.status, line))
        self.assertTrue(total.endswith("; 1 damaged"), total)
        self.assertEqual([hashlib.sha256(TEA).hexdigest()], list(self.new.disk.list()))
        self.assertEqual((1, 0, 1), (again.status, again.document["copied"], again.document["found"]["damaged"]))

    def test_object_that_no_algorithm_names_is_foreign(self) -> None:
        name = "ab" * 17
        self.old.disk.put(TEA, name=name)

        done = self.migrate()

        self.assertEqual(1, done.status)
        self.assertIn(f"foreign    ab/{name}: no algorithm has digests of this length", done.out)
        self.assertEqual({}, self.objects(self.new.root))

    def test_object_that_is_cut_off_at_the_target_is_copied_again(self) -> None:
        digest = self.old.disk.put(POT)
        self.migrate()
        (self.new.root / layout.object_path(digest)).write_bytes(POT[:-1])

        found = self.migrate("--json").document

        self.assertEqual(1, found["copied"])
        self.assert_same_objects()

    def test_object_that_was_removed_from_the_source_is_counted_and_left(self) -> None:
        self.old.disk.put(TEA)
        digest = self.old.disk.put(POT)
        self.migrate()
        self.old.disk.remove(digest)

        done = self.migrate()

        self.assertEqual(0, done.status)
        self.assertIn("1 only at the target, which --delete removes", done.out)
        self.assertIn(digest, self.new.disk.list())

    def test_delete_removes_what_the_source_does_not_have(self) -> None:
        self.old.repository("pets").put(TEA)
        digest = self.old.repository("pets").put(POT)
        self.migrate()
        self.old.repository("pets").remove(digest)

        done = self.migrate("--delete")

        self.assertEqual(0, done.status)
        self.assertIn("1 removed from the target", done.out)
        self.assert_same_objects()

    def test_delete_removes_the_objects_of_a_repository_that_the_source_does_not_have(self) -> None:
        self.old.disk.put(TEA)
        self.migrate()
        self.new.repository("pets").put(POT)

        verified = self.migrate("--verify")
        self.migrate("--delete")

        self.assertIn("extra      repositories/pets/", verified.out)
        self.assert_same_objects()

    def test_delete_is_refused_where_the_source_has_no_objects(self) -> None:
        self.new.make()
        digest = self.new.disk.put(TEA)

        done = self.migrate("--delete")

        self.assertEqual((2, [digest]), (done.status, list(self.new.disk.list())))
        self.assertIn("the source has no objects", done.errors)


class MaxSizeTest(MigrationCase):
    options = {"old": {}, "new": {"max-size": "100000"}}

    def test_object_over_max_size_of_the_target_is_reported(self) -> None:
        digest = self.old.disk.put(POT)
        self.old.disk.put(MILK)

        done = self.migrate()

        expected = f"too large  {layout.object_path(digest)}: the target accepts 100000 bytes at most\n"
        self.assertEqual((1, True), (done.status, done.out.startswith(expected)), done.out)
        self.assertEqual([hashlib.sha256(MILK).hexdigest()], list(self.new.disk.list()))


class InterruptionTest(MigrationCase):
    def put_one_small_and_many_large_objects(self) -> None:
        """Twenty objects. The small one is copied at once, the others take half a minute with the limit below."""
        self.old.disk.put(TEA)
        for _ in range(19):
            self.old.disk.put(os.urandom(500_000))

    def test_run_that_was_killed_leaves_whole_objects_and_the_next_one_copies_the_rest(self) -> None:
        self.put_one_small_and_many_large_objects()
        process = self.start_and_stop_after_one_object("--limit", "300000")

        process.kill()
        process.wait()

        half = self.objects(self.new.root)
        self.assertLess(len(half), 20)
        for path, data in half.items():
            self.assertEqual(os.path.basename(path), hashlib.sha256(data).hexdigest())
        done = self.migrate("--json")
        self.assertEqual((0, 20 - len(half)), (done.status, done.document["copied"]))
        self.assert_same_objects()
        # What the killed run had staged is removed.
        self.assertEqual((0, ""), fork_command("check", "--store", str(self.new.root), cwd=ROOT)[::2])

    def test_signal_ends_the_run_with_status_2_and_the_totals(self) -> None:
        self.put_one_small_and_many_large_objects()
        process = self.start_and_stop_after_one_object("--limit", "300000", "--json")

        process.terminate()
        process.send_signal(signal.SIGCONT)
        done = self.finish(process)

        self.assertEqual((2, False, ""), (done.status, done.document["complete"], done.errors))

    def test_full_target_ends_the_run_and_the_next_one_goes_on(self) -> None:
        for _ in range(8):
            self.old.disk.put(os.urandom(200_000))
        self.new.root.mkdir()
        commands = (
            'mount -t tmpfs -o size=1M none "$0" || exit 70',
            '"$@"; echo "status $?"',
            'mount -o remount,size=16M "$0"',
            '"$@" --json',
            '"$@" --verify',
        )
        script = "\n".join(commands)

        done = subprocess.run(
            [*UNSHARE, "sh", "-c", script, str(self.new.root), *COMMAND, *self.arguments()],
            cwd=ROOT,
            env=clean_environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=4 * PATIENCE,
        )

        expected = "filestoraged: the target is full; make room there, and run this again to continue\n"
        self.assertEqual((0, expected), (done.returncode, done.stderr), done.stdout)
        self.assertIn("status 2", done.stdout)
        self.assertRegex(done.stdout, r"compared 8 objects, .*; nothing found")


class DatabasesTest(DatabasesContract, MigrationCase):
    def test_keys_of_a_large_commit_are_whole_while_they_are_moved(self) -> None:
        keys = self.old.keys()
        jobs = [keys.set(f"key {number}", b"1") for number in range(20_000)]
        for job in jobs:
            job.result()
        keys.commit().result()

        done = self.migrate()

        self.assertIn("copied 20000 keys", done.out)
        self.assertEqual(b"1", self.new.keys().get("key 19999"))

    def test_database_of_a_newer_version_is_refused(self) -> None:
        self.old.keys().close()
        with contextlib.closing(sqlite3.connect(self.old.path(layout.KEYS_DATABASE))) as connection:
            connection.execute("PRAGMA user_version = 99")

        done = self.migrate()

        self.assertEqual(2, done.status)
        self.assertIn("has version 99", done.errors)


class DropsTest(DropsContract, MigrationCase):
    def test_drop_in_use_is_skipped_and_copied_when_its_process_is_dead(self) -> None:
        claimed = self.old.put_drop(self.drops, TEA)
        self.drops.claim(claimed).result()
        arriving = self.drops.announce().result()

        skipped = self.migrate("--json").document
        # Its lock file is what says that a process is alive.
        for owner in (self.old.root / layout.DROP_OWNERS).iterdir():
            owner.unlink()

        assert_only_the_claimed_one_is_copied(self, skipped, claimed, arriving)


class VerifyTest(MigrationCase):
    def setUp(self) -> None:
        super().setUp()
        self.digest = self.old.disk.put(POT)
        self.old.repository("pets").put(TEA)
        self.drop = self.old.put_drop(self.old.drops(), MILK)
        keys = self.old.keys()
        keys.set("a", b"1").result()
        keys.set("b", b"1").result()
        keys.commit().result()
        self.old.locks().lock("pets", "a.bin", "ann").result()
        self.migrate()

    def test_equal_sides_exit_0_and_nothing_is_written(self) -> None:
        before = self.files_below(self.new.root)

        done = self.migrate("--verify")

        first, second = done.out.splitlines()
        self.assertEqual((0, ""), (done.status, done.errors))
        self.assertRegex(first, r"^compared 3 objects, .*; nothing found$")
        self.assertEqual("equal 2 keys, 1 drops, 1 locks, 0 names", second)
        self.assertEqual(before, self.files_below(self.new.root))

    def test_differences_of_objects_are_reported(self) -> None:
        path = self.new.spoil(self.digest)
        (self.new.root / layout.drop_path(self.drop)).write_bytes(changed(MILK))
        missing = self.old.repository("pets").put(MILK)
        extra = self.new.disk.put(TEA)

        done = self.migrate("--verify")

        self.assertEqual(1, done.status)
        self.assertEqual(
            [
                f"damaged    {path}: its bytes at the target are others",
                f"damaged    {layout.drop_path(self.drop)}: its bytes at the target are others",
                f"extra      {layout.object_path(extra)}: only the target has it",
                f"missing    repositories/pets/{layout.object_path(missing)}: the target does not have it",
            ],
            sorted(done.out.splitlines()[:-2], key=lambda line: (line.split()[0], "drops" in line)),
        )

    def test_differences_of_rows_are_counted(self) -> None:
        keys = self.old.keys()
        keys.set("a", b"2").result()
        keys.delete("b").result()
        keys.set("c", b"1").result()
        keys.commit().result()
        self.old.locks().lock("pets", "b.bin", "ann").result()

        done = self.migrate("--verify")

        self.assertEqual(1, done.status)
        for line in (
            "different  keys/pairs: 1 rows: they differ",
            "extra      keys/pairs: 1 rows: only the target has them",
            "missing    keys/pairs: 1 rows: only the source has them",
            "missing    locks/locks: 1 rows: only the source has them",
        ):
            self.assertIn(line, done.out)


class UsageTest(MigrationCase):
    def test_same_store_twice_exits_2(self) -> None:
        os.symlink(self.old.root, self.directory / "link")
        self.new.config.write_text(f"[filestoraged]\nstore = {self.directory / 'link'}\n")

        done = self.migrate()

        self.assertEqual((2, ""), (done.status, done.out))
        self.assertEqual("filestoraged: --from and --to keep everything in the same places\n", done.errors)

    def test_missing_store_and_missing_file_exit_2(self) -> None:
        shutil.rmtree(self.old.root)
        self.assertIn("there is no store", self.migrate().errors)
        self.old.config.unlink()

        done = self.migrate()

        self.assertEqual((2, True), (done.status, "cannot read the configuration" in done.errors))

    def test_target_that_cannot_be_written_exits_2(self) -> None:
        self.new.root.write_text("a file")

        done = self.migrate()

        self.assertEqual((2, True), (done.status, "cannot write the store" in done.errors))

    def test_verify_with_delete_exits_2(self) -> None:
        self.assertEqual(2, self.migrate("--verify", "--delete").status)

    def test_objects_of_memcached_cannot_be_copied_and_databases_are_left_alone(self) -> None:
        server = start_memcached(self)
        with self.old.config.open("a") as config:
            config.write(f"memcached = {server.address}\n")

        done = self.migrate()

        expected = f"filestoraged: cannot copy objects from memcached at {server.address}: it cannot list them\n"
        self.assertEqual((2, expected), (done.status, done.errors))


class MemcachedTargetTest(MigrationCase):
    def test_objects_are_copied_to_memcached_and_drops_to_the_directory(self) -> None:
        server = start_memcached(self)
        with self.new.config.open("a") as config:
            config.write(f"memcached = {server.address}\n")
        self.old.disk.put(POT)
        self.old.repository("pets").put(TEA)
        id_ = self.old.put_drop(self.old.drops(), MILK)

        first = self.migrate("--json").document
        second = self.migrate("--json").document
        verified = self.migrate("--verify")

        self.assertEqual((3, 0), (first["copied"], second["copied"]))
        self.assertEqual(0, verified.status, verified)
        self.assertEqual([f"drops/{layout.object_path(id_)}"], list(self.objects(self.new.root)))

    def test_repository_of_restic_cannot_be_kept_in_memcached(self) -> None:
        server = start_memcached(self)
        with self.new.config.open("a") as config:
            config.write(f"memcached = {server.address}\n")
        self.old.make_restic("laptop", TEA)

        done = self.migrate()

        self.assertEqual(2, done.status, done)
        self.assertIn("the target cannot keep restic/laptop", done.errors)

    def test_other_hash_is_refused_where_names_could_not_be_found_again(self) -> None:
        server = start_memcached(self)
        with self.new.config.open("a") as config:
            config.write(f"memcached = {server.address}\nhash = blake2b\n")
        self.old.disk.put(POT)

        done = self.migrate()

        expected = "filestoraged: the target does not keep names by another hash: give it that of the source\n"
        self.assertEqual((2, expected), (done.status, done.errors))


class DaemonTest(MigrationCase):
    def test_old_daemon_serves_meanwhile_and_the_new_one_has_everything(self) -> None:
        arguments = ("--config", str(self.old.config), "--workers", "1")
        with running(*arguments) as old:
            curl(f"{old.url}/", "--data-binary", "tea")
            curl(f"{old.url}/kv/set", "--data", '{"a": 1}')
            curl(f"{old.url}/kv/commit", "--request", "POST")
            link = curl(f"{old.url}/vimeo/api/v1.0/file", "--request", "PUT", "--form", "file=milk;filename=m")
            done = self.migrate()
            curl(f"{old.url}/kv/set", "--data", '{"a": 2}')
            curl(f"{old.url}/kv/commit", "--request", "POST")
            old.stop()
        again = self.migrate()

        with running("--config", str(self.new.config), "--workers", "1") as new:
            digest = hashlib.sha256(b"tea").hexdigest()
            path = link.rpartition("/")[2].rstrip('"}\n')
            answers = [
                curl(f"{new.url}/{digest}"),
                curl(f"{new.url}/kv/a"),
                curl(f"{new.url}/vimeo/api/v1.0/file/{path}"),
            ]

        self.assertEqual((0, 0), (done.status, again.status), done.errors + again.errors)
        self.assertEqual(["tea", '{"a": 2}\n', "milk"], answers)


class OutputTest(MigrationCase):
    def test_json_prints_one_document(self) -> None:
        path = self.old.spoil(self.old.disk.put(POT))

        document = self.migrate("--json").document

        finding = {"kind": "damaged", "path": path, "reason": "its bytes have another digest"}
        self.assertEqual([finding], document["findings"])
        self.assertEqual(set(MIGRATION_KINDS), set(document["found"]))

    def test_terminal_shows_a_bar_that_is_removed(self) -> None:
        for _ in range(10):
            self.old.disk.put(os.urandom(100_000))

        status, shown, _ = run_on_terminal(*COMMAND, *self.arguments("--limit", "250000"))

        self.assertEqual(0, status)
        self.assertRegex(shown, r"\[#*\.*\] \d+ %, .* left, .*/s")
        self.assertTrue(shown.endswith("\r\x1b[K"))

    def test_help_names_the_exit_statuses(self) -> None:
        done = subprocess.run([*COMMAND, "--help"], cwd=ROOT, capture_output=True, text=True, check=True)

        self.assertIn("Exit status: 0", done.stdout)


def curl(url: str, *arguments: str) -> str:
    return subprocess.run(
        ["curl", "--silent", "--fail", *arguments, url], capture_output=True, text=True, check=True, timeout=PATIENCE
    ).stdout
