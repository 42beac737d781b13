"""The daemon as the backup server of the real restic."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

from filestoraged.web.auth import hashed
from tests.daemon.process import Daemon, clean_environment, fork_command, running
from tests.nginx import make_certificate
from tests.runner.marks import long
from tests.store.s3.servers import Rclone, shared
from tests.support import TempCase, find_program, free_port, in_threads
from tests.test_faults import PrivateDiskCase
from tests.test_nginx import running_as_shipped

# Seconds for one command of restic.
_LIMIT = 120

MIB = 1024 * 1024


class ResticFailed(Exception):
    pass


class Client:
    """A machine that makes backups. Its cache is its own."""

    def __init__(self, directory: Path, repository: str, *options: str) -> None:
        directory.mkdir(exist_ok=True)
        self._directory = directory
        self._options = [*options, "--repo", repository]

    def run(self, *arguments: str) -> str:
        """Run restic, and return what it prints. Raises ResticFailed with all of its output."""
        process = self.start(*arguments)
        printed, _ = process.communicate(timeout=_LIMIT)
        if process.returncode:
            raise ResticFailed(f"{arguments}: {printed}")
        return printed

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        environment = {
            **clean_environment(),
            "HOME": str(self._directory),
            "RESTIC_CACHE_DIR": str(self._directory / "cache"),
            "RESTIC_PASSWORD": "sesame",
            "RESTIC_PROGRESS_FPS": "0.001",
        }
        return subprocess.Popen(
            [find_program("restic"), *self._options, *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


class ResticCase(TempCase):
    """A directory to be backed up, and the daemon's store."""

    def setUp(self) -> None:
        super().setUp()
        find_program("restic")
        self.store = self.directory / "store"
        self.repository = self.store / "restic" / "laptop"
        self.source = self.directory / "home"
        self.source.mkdir()

    def client(self, base: str, *options: str, name: str = "machine") -> Client:
        return Client(self.directory / name, f"rest:{base}/restic/laptop/", *options)

    def write_files(self, seed: int, *, size: int = MIB, count: int = 3) -> None:
        """Write random files, and some that are small, empty or equal."""
        generator = random.Random(seed)
        directory = self.source / str(seed)
        directory.mkdir()
        for number in range(count):
            (directory / f"large {number}").write_bytes(generator.randbytes(size))
        for number in range(20):
            (directory / f"small {number}").write_bytes(generator.randbytes(number * 100))
        (directory / "equal").write_bytes((directory / "large 0").read_bytes())

    def assert_restored(self, client: Client) -> None:
        target = self.directory / "restored"
        client.run("restore", "latest", "--target", str(target))

        same = subprocess.run(["diff", "--recursive", self.source, f"{target}{self.source}"], check=False)

        self.assertEqual(0, same.returncode)
        shutil.rmtree(target)

    def assert_whole(self, client: Client) -> None:
        """As restic says, and as we do."""
        self.assertIn("no errors were found", client.run("check", "--read-data"))
        self.assertEqual(0, fork_command("check", "--store", str(self.store), cwd=self.directory)[0])

    def packs(self) -> int:
        return len(list((self.repository / "data").glob("*/*")))

    def locks(self) -> list[str]:
        return os.listdir(self.repository / "locks") if (self.repository / "locks").is_dir() else []

    def begin_backup(self, daemon: Daemon, client: Client, *, kib_per_second: int) -> subprocess.Popen[str]:
        """Begin a slow one, and return when a part of it is stored."""
        process = client.start("--limit-upload", str(kib_per_second), "backup", str(self.source))
        daemon.lines_with("POST /restic/laptop/data/", count=2)
        self.assertIsNone(process.poll())
        return process

    def run_until_refused(self, status: str, client: Client, *arguments: str) -> None:
        """Run restic until it prints the status, and interrupt it: it would try again for 45 seconds."""
        process = client.start(*arguments)
        assert process.stdout is not None
        self.assertTrue(any(status in line for line in process.stdout))
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=_LIMIT)

    def make_repository(self) -> None:
        """Move a repository to the store that restic has made in a directory."""
        made = self.directory / "made"
        Client(self.directory / "machine", str(made)).run("init")
        self.repository.parent.mkdir(parents=True, exist_ok=True)
        made.rename(self.repository)


class BackupTest(ResticCase):
    def test_backups_are_restored_thinned_out_and_whole_with_and_without_a_daemon(self) -> None:
        with running("--store", str(self.store), "--workers", "2") as daemon:
            client = self.client(daemon.url)
            client.run("init")
            self.write_files(1)
            client.run("backup", str(self.source))
            self.write_files(2)
            shutil.rmtree(self.source / "1")
            client.run("backup", str(self.source))

            self.assert_restored(client)
            before = self.packs()
            client.run("forget", "--keep-last", "1", "--prune", "--max-unused", "0")
            self.assertLess(self.packs(), before)
            self.assert_whole(client)
            self.assertEqual([], self.locks())

        # The same directory without a daemon.
        self.assert_restored(Client(self.directory / "other", str(self.repository)))


class AppendOnlyTest(ResticCase):
    def setUp(self) -> None:
        super().setUp()
        self.tokens = self.directory / "tokens"
        self.tokens.write_text(
            "".join(
                f"{name} {scopes} {hashed(f'token-of-{name}').hex()}\n"
                for name, scopes in (
                    ("machine", "read:restic/laptop,write:restic/laptop"),
                    ("operator", "read:restic,write:restic,delete:restic"),
                )
            )
        )
        self.tokens.chmod(0o600)

    def test_token_without_delete_makes_backups_and_removes_none(self) -> None:
        self.make_repository()
        self.write_files(1)
        with running("--store", str(self.store), "--tokens", str(self.tokens)) as daemon:
            machine, operator = (
                self.client(daemon.url.replace("//", f"//{name}:token-of-{name}@"), name=name)
                for name in ("machine", "operator")
            )
            machine.run("backup", str(self.source))
            (snapshot,) = os.listdir(self.repository / "snapshots")

            self.run_until_refused("403 Forbidden", machine, "forget", snapshot, "--prune")

            self.assertEqual([snapshot], os.listdir(self.repository / "snapshots"))
            self.assertEqual([], self.locks())
            operator.run("forget", snapshot, "--prune")
            self.assertEqual(0, self.packs())


class ClientsTest(ResticCase):
    """Clients share a repository with others, and with what a killed one has left."""

    def setUp(self) -> None:
        super().setUp()
        self.make_repository()
        self.write_files(1, size=5 * MIB)

    def test_two_clients_share_a_repository(self) -> None:
        with running("--store", str(self.store), "--workers", "2") as daemon:
            clients = [self.client(daemon.url, name=name) for name in ("first", "second")]

            in_threads(2, lambda number: clients[number].run("backup", str(self.source), "--host", str(number)))

            self.assertEqual(2, len(os.listdir(self.repository / "snapshots")))
            self.assert_whole(clients[0])
            self.assert_restored(clients[1])

    def test_client_that_is_killed_leaves_a_lock_which_it_can_remove(self) -> None:
        with running("--store", str(self.store), "--workers", "2") as daemon:
            client = self.client(daemon.url, "--pack-size", "4")
            process = self.begin_backup(daemon, client, kib_per_second=5000)

            process.kill()
            process.communicate()
            self.assertEqual(1, len(self.locks()))
            client.run("unlock")

            self.assertEqual([], self.locks())
            self.assert_whole(client)
            client.run("backup", str(self.source))
            self.assert_restored(client)


class QuotaTest(ResticCase):
    def test_backup_that_reaches_the_quota_says_507_and_the_next_one_passes_once_there_is_room(self) -> None:
        self.make_repository()
        with running("--store", str(self.store), "--limit", "restic/*=quota:8M") as daemon:
            client = self.client(daemon.url, "--pack-size", "4")
            self.write_files(1)
            client.run("backup", str(self.source))
            (snapshot,) = os.listdir(self.repository / "snapshots")
            before = self.packs()
            self.write_files(2, size=2 * MIB)

            self.run_until_refused("507 Insufficient Storage", client, "backup", str(self.source))

            self.assertGreater(self.packs(), before)
            self.assertEqual([snapshot], os.listdir(self.repository / "snapshots"))
            self.assert_whole(client)
            client.run("forget", snapshot, "--prune")
            shutil.rmtree(self.source / "1")
            client.run("backup", str(self.source))
            self.assert_whole(client)
            self.assert_restored(client)


@long("restic waits for seconds before it tries again; tests.test_faults kills a daemon that takes uploads")
class InterruptedTest(ResticCase):
    """Each interruption leaves a repository that is whole, and the next backup passes."""

    def setUp(self) -> None:
        super().setUp()
        self.make_repository()
        self.write_files(1, size=25 * MIB, count=4)
        self.port = free_port()

    @contextlib.contextmanager
    def serving(self) -> Iterator[Daemon]:
        # At the same port, where the client looks for it again.
        daemon = Daemon("--listen", f"127.0.0.1:{self.port}", "--store", str(self.store), "--workers", "2")
        try:
            yield daemon.wait_until_listening()
        finally:
            daemon.kill()
            daemon.log.close()

    def test_daemon_that_is_killed_and_started_again_gets_the_rest_of_the_backup(self) -> None:
        with self.serving() as daemon:
            client = self.client(daemon.url)
            process = self.begin_backup(daemon, client, kib_per_second=20_000)
        stored = self.packs()

        with self.serving():
            printed, _ = process.communicate(timeout=_LIMIT)

            self.assertEqual(0, process.returncode, printed)
            self.assertGreater(self.packs(), stored)
            self.assert_whole(client)
            self.assert_restored(client)

    def test_daemon_that_is_killed_every_second_gets_the_whole_backup(self) -> None:
        client = self.client(f"http://127.0.0.1:{self.port}")
        stop = threading.Event()
        # restic does not try again to open a repository.
        with self.serving() as daemon:
            process = self.begin_backup(daemon, client, kib_per_second=20_000)
        kills = 1
        while process.poll() is None:
            with self.serving():
                stop.wait(1.5)
            kills += 1

        printed, _ = process.communicate()
        self.assertEqual(0, process.returncode, printed)
        self.assertGreater(kills, 2)
        with self.serving():
            self.assert_whole(client)
            self.assert_restored(client)


@long("restic tries for a while to store what does not fit; tests.test_faults fills a disk with one request")
class FullDiskTest(ResticCase, PrivateDiskCase):
    def test_restic_says_that_the_disk_is_full_and_the_next_backup_passes(self) -> None:
        store = self.disk("60M", ":", "--mount", "restic=/restic")
        client = self.client(self.daemon.url)
        client.run("init")
        self.write_files(1, size=25 * MIB, count=4)

        self.run_until_refused("507 Insufficient Storage", client, "backup", str(self.source))

        client.run("unlock", "--remove-all")
        self.assertIn("no errors were found", client.run("check", "--read-data"))
        self.remount("size=300M")
        client.run("backup", str(self.source))
        self.assertIn("no errors were found", client.run("check", "--read-data"))
        self.assert_restored(client)
        self.assertTrue((store / "restic" / "laptop" / "config").exists())


@long("starts an S3 store; tests.test_backends has the requests")
class S3Test(ResticCase):
    def test_repository_lies_in_an_s3_store_under_the_same_names(self) -> None:
        bucket = shared(Rclone).make_bucket()
        options = ("--store", str(self.store), "--s3", bucket.url)
        self.write_files(1, size=20 * MIB)
        with running(*options, environment=bucket.server.environment) as daemon:
            client = self.client(daemon.url)
            client.run("init")
            client.run("backup", str(self.source))
            self.write_files(2)
            client.run("backup", str(self.source))
            self.assert_restored(client)
            client.run("forget", "--keep-last", "1", "--prune")
            self.assertIn("no errors were found", client.run("check", "--read-data"))
        # The keys are the paths in a directory.
        for key in sorted(bucket.keys()):
            path = self.directory / "copied" / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(bucket.get(key))

        self.assert_restored(Client(self.directory / "other", str(self.directory / "copied/restic/laptop")))


@long("starts nginx and restic; tests.test_nginx has downloads through nginx")
class NginxTest(ResticCase):
    def test_backup_passes_through_nginx_with_tls_as_shipped(self) -> None:
        certificate = make_certificate(self.directory)
        self.write_files(1, size=20 * MIB)
        with running("--store", str(self.store), "--accel", "/stored") as daemon:
            upstream = f"127.0.0.1:{daemon.ports[0]}"
            with running_as_shipped(self.directory, upstream, self.store, certificate=certificate) as url:
                client = self.client(url, "--cacert", str(certificate))
                client.run("init")
                client.run("backup", str(self.source))

                self.assert_restored(client)
                self.assert_whole(client)
                # nginx sends the bytes of packs.
                self.assertTrue(daemon.lines_with("GET /restic/laptop/data/"))
