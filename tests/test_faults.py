"""Faults on purpose, on a daemon of its own: kills, full and read-only disks, no descriptors left.

Nothing answered may be lost, nothing half-visible, and the daemon goes on serving.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import requests

from filestoraged.store.contract import SMALL
from filestoraged.store.disk.store import DiskStore
from tests.daemon.process import PATIENCE, ROOT, Daemon, clean_environment, running, traced
from tests.daemon.uploads import upload_until_killed
from tests.support import TempCase, find_program, in_threads, read_all, read_answer

HEALTH = b"GET /-/health HTTP/1.1\r\nHost: localhost\r\n\r\n"


class KilledDaemonTest(TempCase):
    def test_kill_during_uploads_keeps_every_answered_object_whole_and_no_other(self) -> None:
        store = self.directory / "store"
        with running("--store", str(store)) as daemon:
            answered = upload_until_killed(daemon, clients=100, enough=150)
        left = len(self.files_below(store / "staging"))
        with running("--store", str(store)) as daemon:
            log = "\n".join(daemon.lines())

        self.assertEqual([], self.files_below(store / "staging"))
        self.assertIn(f"swept {left} staging", log if left else f"swept {left} staging")
        visible = {path.name: path for path in store.glob("[0-9a-f][0-9a-f]/*")}
        self.assertLessEqual(set(answered), set(visible))
        for name, path in visible.items():
            self.assertEqual(name, hashlib.sha256(path.read_bytes()).hexdigest())


class PrivateDiskCase(TempCase):
    """A daemon in a mount namespace of its own, with a small disk that no other process sees."""

    def disk(self, size: str, first: str = ":", *arguments: str) -> Path:
        """Start the daemon on an empty disk of `size`, and return the path of its store, as seen from here.

        `first` is a command that is run in the disk before that. Without `arguments`, the daemon serves files.
        """
        mounted = self.directory / "disk"
        mounted.mkdir()
        script = f'mount -t tmpfs -o size={size} none "{mounted}" && (cd "{mounted}" && {first}; true) && exec "$@"'
        before = [find_program("unshare"), "--mount", "--map-root-user", "sh", "-c", script, "sh"]
        self.daemon = Daemon(
            *("--listen", "127.0.0.1:0", "--store", str(mounted / "store"), "--workers", "2"),
            *(arguments or ("--mount", "files=/")),
            before=before,
        )
        self.addCleanup(self.daemon.kill)
        self.daemon.wait_until_listening()
        return Path(f"/proc/{self.daemon.process.pid}/root{mounted}/store")

    def remount(self, options: str) -> None:
        enter = [find_program("nsenter"), "--target", str(self.daemon.process.pid), "--user", "--preserve-credentials"]
        subprocess.run(
            [*enter, "--mount", "mount", "-o", f"remount,{options}", str(self.directory / "disk")], check=True
        )

    def post(self, data: bytes) -> requests.Response:
        return requests.post(self.daemon.url, data=data, timeout=PATIENCE)


class FullDiskTest(PrivateDiskCase):
    def test_full_disk_answers_507_and_stores_the_next_upload_that_fits(self) -> None:
        store = self.disk("2M")

        too_much = self.post(b"x" * 3_000_000)
        small = self.post(b"tea")

        self.assertEqual((507, "Insufficient Storage"), (too_much.status_code, too_much.json()["error"]))
        self.assertNotIn(str(self.directory), too_much.text)
        self.assertEqual(200, small.status_code)
        digest = small.json()["hash"]
        self.assertEqual([f"{digest[:2]}/{digest}"], self.files_below(store))
        self.assertEqual(1, sum("WARNING" in line for line in self.daemon.lines_with("answering 507")))

    def test_names_are_removed_from_a_full_disk(self) -> None:
        self.disk("12M", ":", "--mount", "names=/names")
        urls = self.fill(f"{self.daemon.url}/names/s/{{}}".format)

        self.assertEqual({204}, {requests.delete(url, timeout=PATIENCE).status_code for url in urls})

    def test_objects_with_a_quota_are_removed_from_a_full_disk_and_make_room(self) -> None:
        self.disk("12M", ":", "--mount", "repositories=/data", "--limit", "data/*=quota:1G")
        self.fill(lambda _: f"{self.daemon.url}/data/pets")
        listed = requests.get(f"{self.daemon.url}/data/pets", timeout=PATIENCE).json()["objects"]
        urls = [f"{self.daemon.url}/data/pets/{each['oid']}" for each in listed]

        self.assertEqual({200}, {requests.delete(url, timeout=PATIENCE).status_code for url in urls})
        stored = requests.put(f"{self.daemon.url}/data/pets", os.urandom(1_000_000), timeout=PATIENCE)
        self.assertEqual(201, stored.status_code)

    def fill(self, url: Callable[[int], str]) -> list[str]:
        """Store files of each size until 20 in a row get 507. Returns the URLs that answered 201."""
        stored: list[str] = []
        number = 0
        for size in (100_000, 1000, 10):
            full = 0
            while full < 20:
                number += 1
                status = requests.put(url(number), os.urandom(size), timeout=PATIENCE).status_code
                full = full + 1 if status == 507 else 0
                stored += [url(number)] if status == 201 else []
        return stored


class ReadOnlyDiskTest(PrivateDiskCase):
    def test_read_only_disk_answers_500_and_still_serves_downloads(self) -> None:
        self.announce(r"answering 500: OSError: \[Errno 30\] Read-only file system")
        self.disk("2M")
        digest = self.post(b"tea").json()["hash"]
        self.remount("ro")

        refused = [self.post(b"coffee"), requests.delete(f"{self.daemon.url}/{digest}", timeout=PATIENCE)]
        fetched = requests.get(f"{self.daemon.url}/{digest}", timeout=PATIENCE)
        self.remount("rw")
        taken = self.post(b"coffee")

        self.assertEqual([500, 500], [answer.status_code for answer in refused])
        self.assertEqual({"Internal Server Error"}, {answer.json()["error"] for answer in refused})
        self.assertEqual(2, len(self.daemon.lines_with("answering 500", count=2)))
        self.assertEqual((200, b"tea"), (fetched.status_code, fetched.content))
        self.assertEqual(200, taken.status_code)


class NoDescriptorsTest(TempCase):
    """`tests/web/test_admission.py` shows that such a daemon is not kept busy, and does not fill its log."""

    def test_daemon_without_descriptors_refuses_or_delays_clients_and_recovers(self) -> None:
        limit = ["prlimit", "--nofile=88:88"]
        with running("--workers", "1", "--store", str(self.directory / "store"), before=limit) as daemon:
            crowd = []
            for _ in range(100):
                crowd.append(socket.create_connection(("127.0.0.1", daemon.ports[0])))
                # One that is idle would give way to the next.
                crowd[-1].sendall(HEALTH[:1])
            for connection in crowd[:20]:
                connection.sendall(HEALTH[1:])
                self.assertEqual(200, read_answer(connection).status)
            # It waits in the queue of the listener until no worker has had a place for it.
            self.assertEqual(503, read_answer(crowd[-1]).status)
            for connection in crowd:
                with connection, contextlib.suppress(ConnectionError):
                    connection.shutdown(socket.SHUT_WR)
                    # To the end: the daemon has closed it, and has a place again.
                    read_all(connection)
            answer = requests.post(daemon.url, data=b"tea", timeout=PATIENCE)
            # The connection limit fits the descriptors, so that they suffice for refusals.
            warnings = daemon.lines_with("WARNING turning connections away")

        self.assertEqual(200, answer.status_code)
        self.assertTrue(warnings)

    def test_daemon_with_as_many_descriptors_as_it_needs_serves_each_interface_and_with_one_less_exits_1(self) -> None:
        store = ("--workers", "1", "--store", str(self.directory / "store"))
        for limit in (40, 86):
            command = ["prlimit", f"--nofile={limit}:{limit}", sys.executable, "-m", "filestoraged", *store]
            done = subprocess.run(
                [*command, "--listen", "127.0.0.1:0"],
                cwd=ROOT,
                env=clean_environment(),
                capture_output=True,
                text=True,
                timeout=PATIENCE,
                check=False,
            )
            why = f"the limit of open descriptors is {limit}, and this configuration needs 87 at least"
            self.assertEqual((1, f"filestoraged: {why}\n"), (done.returncode, done.stderr))

        with running(*store, before=["prlimit", "--nofile=87:87"]) as daemon:
            drops, locks = f"{daemon.url}/vimeo/api/v1.0/file", f"{daemon.url}/data/r/locks"
            upload = {"Tus-Resumable": "1.0.0", "Upload-Length": "3", "Content-Type": "application/offset+octet-stream"}
            answers = [
                requests.post(daemon.url, data=bytes(1 << 20), timeout=PATIENCE),
                requests.put(f"{daemon.url}/data/r", data=bytes(1 << 20), timeout=PATIENCE),
                requests.post(f"{daemon.url}/kv/set", json={"tea": 1}, timeout=PATIENCE),
                requests.post(f"{daemon.url}/kv/commit", timeout=PATIENCE),
                requests.get(f"{daemon.url}/kv/tea", timeout=PATIENCE),
                requests.put(f"{daemon.url}/names/s/a", data=bytes(1 << 20), timeout=PATIENCE),
                requests.get(f"{daemon.url}/names/s/a", timeout=PATIENCE),
                dropped := requests.put(drops, files={"file": ("tea", bytes(1 << 20))}, timeout=PATIENCE),
                requests.get(dropped.json()["url"], timeout=PATIENCE),
                requests.post(f"{daemon.url}/uploads", b"tea", headers=upload, timeout=PATIENCE),
                requests.post(locks, json={"path": "cup"}, timeout=PATIENCE),
                requests.get(f"{daemon.url}/-/ready", timeout=PATIENCE),
                requests.get(f"{daemon.url}/-/metrics", timeout=PATIENCE),
            ]

        self.assertEqual(
            [200, 201, 201, 204, 200, 201, 200, 201, 200, 201, 201, 200, 200], [each.status_code for each in answers]
        )

    def test_descriptors_suffice_for_as_many_resumable_uploads_as_connections(self) -> None:
        limit = ["prlimit", "--nofile=1024:1024"]
        fields = {"Tus-Resumable": "1.0.0", "Upload-Length": "6"}

        with running("--workers", "1", "--store", str(self.directory / "store"), before=limit) as daemon:
            lines = [line for line in daemon.lines() if "limiting connections to" in line]
            count = int(lines[0].partition("limiting connections to ")[2].partition(":")[0])
            with requests.Session() as session:
                paths = [
                    session.post(f"{daemon.url}/uploads", headers=fields, timeout=PATIENCE).headers["Location"]
                    for _ in range(count)
                ]
            crowd = [socket.create_connection(("127.0.0.1", daemon.ports[0]), timeout=PATIENCE) for _ in paths]
            for connection, path in zip(crowd, paths, strict=True):
                connection.sendall(
                    f"PATCH {path} HTTP/1.1\r\nHost: localhost\r\nTus-Resumable: 1.0.0\r\nUpload-Offset: 0\r\n"
                    "Content-Type: application/offset+octet-stream\r\nContent-Length: 6\r\n"
                    "Expect: 100-continue\r\n\r\n".encode()
                )
            for connection in crowd:
                self.assertEqual(100, read_answer(connection).status)
            statuses = []
            for connection in crowd:
                connection.sendall(b"teapot")
                statuses.append(read_answer(connection).status)
                connection.close()

        self.assertEqual([204] * count, statuses)


@contextlib.contextmanager
def running_with_fault(what: str, *arguments: str) -> Iterator[Daemon]:
    """Run a daemon for which strace injects a fault."""
    find_program("strace")
    with running(*arguments) as daemon, traced(daemon, "-o", "/dev/null", "-e", f"inject={what}"):
        yield daemon


# With or without the paths.
# Of a change, of a checkpoint, and of the record that voids what failed.
BROKEN_DISK = (
    r"answering 500: OSError: \[Errno 5\] Input/output error"
    r"|a checkpoint of the journal failed|cannot sync the files of the journals|cannot void a group of the journal"
)


class BrokenSyscallTest(TempCase):
    """Errors that no real disk gives on cue. strace injects them, once in each thread.

    `tests/store/disk` has each step of an upload with each error, in process.
    """

    def failing(self, what: str, *more: str) -> AbstractContextManager[Daemon]:
        arguments = ("--store", str(self.directory / "store"), "--mount", "files=/", "--workers", "1", *more)
        return running_with_fault(what, *arguments)

    def test_failed_sync_or_name_of_the_only_upload_stores_nothing(self) -> None:
        self.announce(BROKEN_DISK)
        for fault, size, status in (
            ("fsync:error=EIO:when=1", 100_000, 500),
            # The second one is the directory's.
            ("fsync:error=ENOSPC:when=2", 100_000, 507),
            ("rename:error=EDQUOT:when=1", 100_000, 507),
            # Of the journal, and of an upload behind its record.
            ("fdatasync:error=EIO:when=1", 3, 500),
            ("rename:error=EDQUOT:when=1", 3, 507),
            # The first segment of the journal cannot be made.
            ("fsync:error=ENOSPC:when=1", 3, 507),
        ):
            with self.subTest(fault=fault, size=size), self.failing(fault, "--threads", "1") as daemon:
                if size > SMALL:
                    # The thread of the committer meets the fault, so that only that of the upload is left.
                    warm = [requests.post(daemon.url, data=b"warm", timeout=PATIENCE) for _ in range(2)]
                    requests.delete(f"{daemon.url}/{warm[-1].json()['hash']}", timeout=PATIENCE)
                broken = requests.post(daemon.url, data=bytes(size), timeout=PATIENCE)
                self.assertEqual(status, broken.status_code)
                self.assertEqual([], self.files_below(self.directory / "store"))
                again = requests.post(daemon.url, data=bytes(size), timeout=PATIENCE)

                self.assertEqual(200, again.status_code)
                requests.delete(f"{daemon.url}/{again.json()['hash']}", timeout=PATIENCE)

    def test_uploads_at_the_same_time_are_stored_if_and_only_if_they_are_answered(self) -> None:
        self.announce(BROKEN_DISK)
        for fault in (
            "fdatasync:error=EIO:when=3+5",
            "rename:error=EIO:when=2+3",
            "fdatasync,rename:error=EIO:when=2+4",
        ):
            with self.subTest(fault=fault), self.failing(fault) as daemon:

                def upload(client: int, fault: str = fault, url: str = daemon.url) -> list[tuple[str, int]]:
                    bodies = [f"{fault} {client} {number}".encode() for number in range(8)]
                    with requests.Session() as session:
                        codes = [session.post(url, data=body, timeout=PATIENCE).status_code for body in bodies]
                    return [(hashlib.sha256(body).hexdigest(), code) for body, code in zip(bodies, codes)]

                statuses = dict(pair for pairs in in_threads(16, upload) for pair in pairs)
                visible = {path.name for path in (self.directory / "store").glob("[0-9a-f][0-9a-f]/*")}

                self.assertLessEqual(set(statuses.values()), {200, 500})
                stored = {name for name, status in statuses.items() if status == 200}
                self.assertEqual(stored, visible & set(statuses))

    def test_removal_whose_sync_failed_answers_500_and_its_retry_removes_the_object(self) -> None:
        self.announce(BROKEN_DISK)
        with DiskStore(self.directory / "store") as store:
            stored = store.put(b"tea")

        with self.failing("fdatasync:error=EIO:when=1", "--threads", "1") as daemon:
            answers = [requests.delete(f"{daemon.url}/{stored}", timeout=PATIENCE).status_code for _ in range(3)]

        self.assertEqual([500, 200, 404], answers)


class TwoDaemonsTest(TempCase):
    def test_two_daemons_share_a_store_without_removing_uploads_of_each_other(self) -> None:
        store = ("--store", str(self.directory / "store"))

        with running(*store) as first:
            upload = socket.create_connection(("127.0.0.1", first.ports[0]), PATIENCE)
            upload.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
            self.assertEqual(100, read_answer(upload).status)
            with running(*store) as second:
                upload.sendall(b"tea")
                self.assertEqual(200, read_answer(upload).status)
                upload.close()
                digest = hashlib.sha256(b"tea").hexdigest()

                def put(number: int) -> int:
                    url = (first, second)[number % 2].url
                    status: int = requests.post(url, data=b"tea", timeout=PATIENCE).status_code
                    return status

                self.assertEqual([200] * 16, in_threads(16, put))
                self.assertEqual(b"tea", requests.get(f"{second.url}/{digest}", timeout=PATIENCE).content)


def setUpModule() -> None:
    # A hundred clients of this process beside the daemon's.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
