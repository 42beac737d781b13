"""The store as the daemon finds it at its start: full, on two file systems, read-only, too open, with rests in it."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess

import requests

from filestoraged.command_errors import StartError
from filestoraged.daemon.config import Config
from filestoraged.daemon.interfaces import INTERFACES, OPERATIONS
from filestoraged.daemon.services import Services
from filestoraged.web.metrics import Metrics
from tests.daemon.process import PATIENCE, Daemon, running
from tests.support import TempCase, find_program

TEA = b"tea"
DIGEST = hashlib.sha256(TEA).hexdigest()


class MountCase(TempCase):
    """A daemon in a mount namespace of its own, where a script runs before it starts."""

    def setUp(self) -> None:
        super().setUp()
        self.store = self.directory / "disk" / "store"
        self.store.mkdir(parents=True)

    def start(self, script: str, *arguments: str) -> Daemon:
        script = f'cd "{self.directory}/disk" && {script} && exec "$@"'
        before = [find_program("unshare"), "--mount", "--map-root-user", "sh", "-ec", script, "sh"]
        where = ("--listen", "127.0.0.1:0", "--store", str(self.store))
        daemon = Daemon(*where, *arguments, before=before)
        self.addCleanup(daemon.log.close)
        self.addCleanup(daemon.kill)
        return daemon

    def refusal(self, script: str, *arguments: str) -> tuple[int, list[str]]:
        """The exit status of a daemon that does not start, and what it says."""
        daemon = self.start(script, *arguments)
        return daemon.process.wait(PATIENCE), daemon.lines()


class FullDiskTest(MountCase):
    def test_daemon_on_a_full_disk_serves_and_removes_objects(self) -> None:
        place = f"{DIGEST[:2]}/{DIGEST}"
        fill = "dd if=/dev/zero of=/proc/self/cwd/filler bs=1k 2>/dev/null || true"
        inodes = "i=0; while touch n$i; do i=$((i + 1)); done 2>/dev/null || true"
        for full in (fill, inodes):
            with self.subTest(full=full):
                script = (
                    "mount -t tmpfs -o size=64k,nr_inodes=40 none . && cd . && cd $PWD"
                    f" && mkdir -p store/{DIGEST[:2]} && printf tea > store/{place} && ({full})"
                )
                daemon = self.start(script, "--mount", "files=/", "--workers", "1").wait_until_listening()

                fetched = requests.get(f"{daemon.url}/{DIGEST}", timeout=PATIENCE)
                refused = requests.post(daemon.url, data=bytes(100_000), timeout=PATIENCE)
                removed = requests.delete(f"{daemon.url}/{DIGEST}", timeout=PATIENCE)

                self.assertEqual((200, TEA), (fetched.status_code, fetched.content))
                self.assertEqual(507, refused.status_code)
                self.assertEqual(200, removed.status_code)
                daemon.kill()

    def test_full_disk_is_logged_at_the_start(self) -> None:
        script = "mount -t tmpfs -o nr_inodes=4 none . && cd $PWD && mkdir store && touch a b"

        daemon = self.start(script, "--mount", "files=/", "--workers", "1").wait_until_listening()

        (line,) = [line for line in daemon.lines() if "is full" in line]
        self.assertIn("No space left on device", line)


class TwoFileSystemsTest(MountCase):
    def assert_refused(self, script: str, part: str, *arguments: str) -> None:
        status, lines = self.refusal(script, *arguments)

        sentence = f"filestoraged: cannot rename files from '{self.store}/staging' to '{self.store}{part}':"
        self.assertEqual((1, 1), (status, len(lines)), lines)
        self.assertTrue(lines[0].startswith(sentence), lines)

    def test_stagings_on_another_file_system_are_refused_in_one_sentence(self) -> None:
        (self.store / "staging").mkdir()

        self.assert_refused("mount -t tmpfs none store/staging", "", "--mount", "files=/")

    def test_stagings_on_another_mount_of_the_same_file_system_are_refused(self) -> None:
        (self.store / "staging").mkdir()

        self.assert_refused("mount --bind store/staging store/staging", "", "--mount", "files=/")

    def test_drops_and_repositories_on_another_file_system_are_refused_where_they_are_served(self) -> None:
        for name in ("drops", "repositories"):
            (self.store / name).mkdir()
            script = f"mount -t tmpfs none store/{name}"

            self.assert_refused(script, f"/{name}")
            self.start(script, "--mount", "files=/").wait_until_listening().kill()

    def test_trial_leaves_nothing(self) -> None:
        (self.store / "drops").mkdir()

        self.start("true", "--mount", "files=/", "--mount", "drops=/drops").wait_until_listening()

        self.assertEqual([], self.files_below(self.store))
        self.assertEqual([], os.listdir(self.store / "staging"))


class UnwritableTest(MountCase):
    def test_read_only_store_is_refused_in_one_sentence(self) -> None:
        status, lines = self.refusal("mount --bind store store && mount -o remount,bind,ro store")

        self.assertEqual((1, 1), (status, len(lines)), lines)
        self.assertIn(f"cannot write the store '{self.store}'", lines[0])


class LinksTest(TempCase):
    """What the daemon keeps for itself in the store is reached by no symbolic link."""

    def setUp(self) -> None:
        super().setUp()
        self.store = self.directory / "store"
        self.outside = self.directory / "outside"
        self.make_store()

    def make_store(self) -> None:
        shutil.rmtree(self.store, ignore_errors=True)
        self.store.mkdir()

    def start(self) -> None:
        config = Config(store=str(self.store), workers=1)
        services = Services(config, Metrics((*INTERFACES, OPERATIONS)), [config.mounts])
        self.addCleanup(services.close)

    def assert_refused(self, name: str, why: str) -> None:
        with self.assertRaises(StartError) as caught:
            self.start()

        self.assertIn(f"'{self.store / name}' {why}", str(caught.exception))

    def test_link_in_place_of_a_directory_is_refused_and_its_target_stays_untouched(self) -> None:
        for name in ("staging", "drops", "drops.owners", "uploads", "uploads.owners", "quarantine"):
            self.make_store()
            (self.store / name).symlink_to(self.outside)
            with self.subTest(name=name, target="missing"):
                self.assert_refused(name, "is a symbolic link")
                self.assertFalse(self.outside.exists())
            (self.outside / "token").mkdir(parents=True)
            (self.outside / "file").write_bytes(TEA)
            with self.subTest(name=name, target="a directory"):
                self.assert_refused(name, "is a symbolic link")
                self.assertEqual(["file", "token"], sorted(os.listdir(self.outside)))
            shutil.rmtree(self.outside)

    def test_link_in_place_of_a_file_is_refused_and_its_target_stays_untouched(self) -> None:
        databases = ("kv.sqlite", "drops.sqlite", "locks.sqlite", "uploads.sqlite")
        beside = [name + suffix for name in databases for suffix in ("", "-wal", "-shm", "-journal", ".turn")]
        for name in (*beside, "drops.sqlite.janitor", "uploads.sqlite.janitor"):
            self.make_store()
            (self.store / name).symlink_to(self.outside)
            with self.subTest(name=name, target="missing"):
                self.assert_refused(name, "is a symbolic link")
                self.assertFalse(self.outside.exists())
            self.outside.touch()
            with self.subTest(name=name, target="an empty file"):
                self.assert_refused(name, "is a symbolic link")
                self.assertEqual(b"", self.outside.read_bytes())
            self.outside.unlink()

    def test_file_in_place_of_a_directory_is_refused_by_name(self) -> None:
        for name in ("staging", "drops", "drops.owners", "uploads", "uploads.owners", "quarantine", "repositories"):
            self.make_store()
            (self.store / name).touch()
            with self.subTest(name=name):
                self.assert_refused(name, "is not a directory")

    def test_directory_in_place_of_a_file_is_refused_by_name(self) -> None:
        for name in ("kv.sqlite", "locks.sqlite.turn", "drops.sqlite.janitor"):
            self.make_store()
            (self.store / name).mkdir()
            with self.subTest(name=name):
                self.assert_refused(name, "is not a regular file")

    def test_repositories_that_are_a_dangling_link_are_refused_by_name(self) -> None:
        (self.store / "repositories").symlink_to(self.outside)

        self.assert_refused("repositories", "is not a directory")


class RestsTest(TempCase):
    def test_directory_within_a_staging_area_does_not_stop_the_start(self) -> None:
        store = self.directory / "store"
        area = store / "staging" / "0123456789abcdef"
        (area / "directory").mkdir(parents=True)
        (area / "0").write_bytes(b"half")
        (store / "staging" / "file").touch()

        with running("--store", str(store), "--workers", "1") as daemon:
            answer = requests.post(daemon.url, data=TEA, timeout=PATIENCE)
            warnings = [line for line in daemon.lines() if "cannot remove stagings of a crashed process" in line]

        self.assertEqual(200, answer.status_code)
        self.assertEqual(["directory"], os.listdir(area))
        self.assertIn(str(area), warnings[0])


class LostTest(TempCase):
    """Databases that lost something after a daemon was killed. The next start says so, once, and serves."""

    def setUp(self) -> None:
        super().setUp()
        self.log = self.directory / "kv.sqlite-wal"
        self.start_and_commit()

    def test_truncated_log_is_logged_with_the_number_of_frames(self) -> None:
        os.truncate(self.log, self.log.stat().st_size - 5000)

        (line,) = self.start_and_commit()

        self.assertRegex(line, f"WARNING .*{self.log}: it is damaged; SQLite skips [1-9]")
        self.assertEqual([], self.start_and_commit())

    def test_empty_database_is_logged(self) -> None:
        os.truncate(self.directory / "kv.sqlite", 0)

        (line,) = self.start_and_commit()

        self.assertRegex(line, f"WARNING .*{self.directory}/kv.sqlite: it is empty")
        self.assertEqual([], self.start_and_commit())

    def test_kill_alone_is_not_logged(self) -> None:
        self.assertGreater(self.log.stat().st_size, 0)

        self.assertEqual([], self.start_and_commit())

    def start_and_commit(self) -> list[str]:
        """Start a daemon, write to it, and kill it. Returns its warnings."""
        with running("--store", str(self.directory), "--mount", "kv=/", "--workers", "1") as daemon:
            for number in range(3):
                requests.post(f"{daemon.url}/set", json={f"{number}": "x" * 3000}, timeout=PATIENCE).raise_for_status()
                requests.post(f"{daemon.url}/commit", timeout=PATIENCE).raise_for_status()
            return [line for line in daemon.lines() if "WARNING" in line]


class ModesTest(TempCase):
    """Who may read what the daemon makes."""

    def setUp(self) -> None:
        super().setUp()
        self.store = self.directory / "above" / "store"

    def store_things(self, umask: int, *arguments: str) -> list[str]:
        """Run a daemon, store something by each interface, and return what it says."""
        before = ["sh", "-c", f'umask {umask:03o} && exec "$@"', "sh"]
        with running("--store", str(self.store), "--workers", "1", *arguments, before=before) as daemon:
            requests.post(daemon.url, data=TEA, timeout=PATIENCE)
            requests.put(f"{daemon.url}/data/pets", data=TEA, timeout=PATIENCE)
            link = f"{daemon.url}/vimeo/api/v1.0/file"
            stored = requests.put(link, files={"file": ("cup.txt", TEA)}, timeout=PATIENCE)
            self.assertEqual(201, stored.status_code)
            self.modes = {
                str(path.relative_to(self.store)): stat.S_IMODE(path.stat().st_mode) for path in self.store.rglob("*")
            }
            self.modes["."] = stat.S_IMODE(self.store.stat().st_mode)
            return daemon.lines()

    def own(self, name: str) -> bool:
        """Whether only the daemon uses the file, whatever --accel says. SQLite makes the files of the databases."""
        return name.startswith(("staging", "drops.owners", "journal"))

    def test_files_are_accessible_to_the_daemons_user_alone_with_any_umask(self) -> None:
        for umask in (0o000, 0o022, 0o077, 0o277):
            with self.subTest(umask=umask):
                self.store_things(umask)

                for name, mode in self.modes.items():
                    if ".sqlite" not in name:
                        self.assertEqual(0o700 if (self.store / name).is_dir() else 0o600, mode, name)
                self.assertEqual(0o700, stat.S_IMODE(self.store.parent.stat().st_mode))
                subprocess.run(["rm", "-r", str(self.store.parent)], check=True)

    def test_accel_lets_the_group_read_objects_alone_with_any_umask(self) -> None:
        for umask in (0o000, 0o077):
            with self.subTest(umask=umask):
                self.store_things(umask, "--accel", "/stored")

                for name, mode in self.modes.items():
                    directory, file = (0o700, 0o600) if self.own(name) else (0o750, 0o640)
                    if ".sqlite" not in name:
                        self.assertEqual(directory if (self.store / name).is_dir() else file, mode, name)
                subprocess.run(["rm", "-r", str(self.store.parent)], check=True)

    def test_open_mode_of_an_existing_store_is_logged_once_and_not_changed(self) -> None:
        self.store.mkdir(parents=True)
        self.store.chmod(0o755)

        lines = self.store_things(0o022)

        (line,) = [line for line in lines if "mode 0755" in line]
        self.assertIn("WARNING", line)
        self.assertIn(f"chmod -R go-rwx {self.store}", line)
        self.assertEqual(0o755, self.modes["."])

    def test_mode_of_a_store_created_by_systemd_is_not_logged(self) -> None:
        self.store.mkdir(parents=True)
        for mode in (0o700, 0o750):
            self.store.chmod(mode)

            self.assertFalse([line for line in self.store_things(0o027) if "has mode" in line])

    def test_store_that_nginx_cannot_read_is_logged_with_accel(self) -> None:
        self.store.mkdir(parents=True, mode=0o700)

        (line,) = [line for line in self.store_things(0o022, "--accel", "/stored") if "mode 0700" in line]

        self.assertIn("--accel needs 0750", line)
