"""The key-value database in a daemon of its own: workers, kills, failing and full disks, invalid files."""

from __future__ import annotations

import contextlib
import fcntl
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import requests

from tests.daemon.process import PATIENCE, ROOT, Daemon, clean_environment, running, traced
from tests.support import TempCase, in_threads
from tests.test_faults import PrivateDiskCase


class KvDaemonTest(TempCase):
    def running(self, *arguments: str) -> contextlib.AbstractContextManager[Daemon]:
        return running("--mount", "kv=/", "--store", str(self.directory / "store"), *arguments)

    def test_workers_share_queued_and_committed_keys(self) -> None:
        with self.running("--workers", "3") as daemon:

            def work(number: int) -> list[int]:
                # Each request has a connection of its own, and so any worker.
                statuses = [
                    requests.post(f"{daemon.url}/set", json={f"key{number}": step}).status_code for step in (1, 2)
                ]
                statuses.append(requests.post(f"{daemon.url}/commit").status_code)
                statuses += [requests.get(f"{daemon.url}/key{number}").json()[f"key{number}"] for _ in range(4)]
                return statuses

            results = in_threads(12, work)

        # The second is an update where another client has committed the first.
        self.assertEqual([[201, result[1], 204, 2, 2, 2, 2] for result in results], results)
        self.assertLessEqual({result[1] for result in results}, {200, 201})

    def test_kill_loses_no_answered_key(self) -> None:
        committed: dict[str, int] = {}
        queued: dict[str, int] = {}
        enough = threading.Semaphore(0)

        def client(number: int) -> None:
            key = f"key{number}"
            with contextlib.suppress(requests.RequestException), requests.Session() as session:
                for step in range(10_000):
                    session.post(f"{daemon.url}/set", json={key: step}, timeout=PATIENCE).raise_for_status()
                    queued[key] = step
                    if step % 3 == number % 3:
                        session.post(f"{daemon.url}/commit", timeout=PATIENCE).raise_for_status()
                        committed[key] = step
                    enough.release()

        with self.running() as daemon:
            clients = [threading.Thread(target=client, args=(number,)) for number in range(12)]
            for each in clients:
                each.start()
            for _ in range(200):
                self.assertTrue(enough.acquire(timeout=PATIENCE))
            daemon.kill()
            for each in clients:
                each.join()
        with self.running() as daemon:
            visible = {key: requests.get(f"{daemon.url}/{key}").json()[key] for key in committed}
            requests.post(f"{daemon.url}/commit")
            in_the_end = {key: requests.get(f"{daemon.url}/{key}").json()[key] for key in queued}

        for key, step in committed.items():
            self.assertGreaterEqual(visible[key], step)
        for key, step in queued.items():
            # One more may have been on its way.
            self.assertIn(in_the_end[key], (step, step + 1))

    def test_commit_with_a_failing_sync_fails_and_the_next_succeeds(self) -> None:
        self.announce("answering 500: OperationalError: disk I/O error$")
        with self.running("--workers", "1") as daemon:
            requests.post(f"{daemon.url}/set", json={"key": 1})
            with self.failing(daemon, "fdatasync,fsync:error=EIO"):
                refused = requests.post(f"{daemon.url}/commit")
                during = requests.get(f"{daemon.url}/key")
            taken = requests.post(f"{daemon.url}/commit")
            after = requests.get(f"{daemon.url}/key")
            logged = [line for line in daemon.lines() if "answering 500" in line]

        self.assertEqual([500, 404, 204, 200], [each.status_code for each in (refused, during, taken, after)])
        self.assertEqual({"key": 1}, after.json())
        self.assertEqual(1, len(logged))

    def test_keys_queued_before_a_failed_sync_are_in_the_database_before_the_next_write(self) -> None:
        self.announce("answering 500: OperationalError: disk I/O error$")
        database = self.directory / "store" / "kv.sqlite"
        with self.running("--workers", "1") as daemon:
            requests.post(f"{daemon.url}/set", json={"key": 1})
            with self.failing(daemon, "fdatasync,fsync:error=EIO"):
                requests.post(f"{daemon.url}/commit")
            before = queued_without_the_log(database)
            # Another process of the same store, which has not seen the failure.
            with self.running("--workers", "1") as other:
                requests.post(f"{other.url}/set", json={"other": 2})
            after = queued_without_the_log(database)

        self.assertEqual(([], [b"key"]), (before, after[:1]))

    def test_sync_without_space_answers_507(self) -> None:
        with self.running("--workers", "1") as daemon:
            requests.post(f"{daemon.url}/set", json={"key": 1})
            with self.failing(daemon, "fdatasync,fsync:error=EDQUOT"):
                refused = requests.post(f"{daemon.url}/commit")

        self.assertEqual(507, refused.status_code)

    def test_full_disk_answers_507_and_loses_nothing(self) -> None:
        with self.running("--workers", "1") as daemon:
            requests.post(f"{daemon.url}/set", json={"key": 1})
            with self.failing(daemon, "pwrite64:error=ENOSPC"):
                refused = [requests.post(f"{daemon.url}/set", json={"other": 1}), requests.post(f"{daemon.url}/commit")]
            taken = [requests.post(f"{daemon.url}/set", json={"other": 2}), requests.post(f"{daemon.url}/commit")]
            values = [requests.get(f"{daemon.url}/{key}").json() for key in ("key", "other")]

        self.assertEqual([507, 507], [each.status_code for each in refused])
        self.assertEqual([201, 204], [each.status_code for each in taken])
        self.assertEqual([{"key": 1}, {"other": 2}], values)

    def test_commit_is_synced_before_it_is_answered(self) -> None:
        trace = self.directory / "trace"
        with self.running("--workers", "1") as daemon:
            requests.post(f"{daemon.url}/set", json={"key": 1})
            with traced(daemon, "-e", "trace=fdatasync,fsync", "-o", str(trace)):
                self.assertEqual(204, requests.post(f"{daemon.url}/commit").status_code)
                synced = trace.read_text().count("sync(")

        self.assertGreaterEqual(synced, 1)

    def test_file_that_is_not_a_database_exits_1_with_one_sentence(self) -> None:
        store = self.directory / "store"
        store.mkdir()
        (store / "kv.sqlite").write_bytes(b"nonsense" * 1000)
        command = [sys.executable, "-m", "filestoraged", "--listen", "127.0.0.1:0", "--store", str(store)]

        ended = subprocess.run(
            command, cwd=ROOT, env=clean_environment(), capture_output=True, text=True, timeout=PATIENCE, check=False
        )

        self.assertEqual(1, ended.returncode)
        expected = f"filestoraged: cannot use the database '{store}/kv.sqlite': file is not a database\n"
        self.assertEqual(expected, ended.stderr)

    def test_writers_get_503_with_retry_after_5_seconds_while_another_process_holds_the_write_lock(self) -> None:
        store = self.directory / "store"
        with running("--store", str(store), "--workers", "1") as daemon:
            requests.post(f"{daemon.url}/kv/set", json={"key": 1})
            requests.post(f"{daemon.url}/kv/commit")

            def ask(number: int) -> requests.Response:
                if number == 0:
                    return requests.post(f"{daemon.url}/kv/set", json={"key": 2}, timeout=PATIENCE)
                if number == 1:
                    form = {"file": ("x", b"tea")}
                    return requests.put(f"{daemon.url}/vimeo/api/v1.0/file", files=form, timeout=PATIENCE)
                return requests.get(f"{daemon.url}{('/-/ready', '/kv/key')[number - 2]}", timeout=PATIENCE)

            with contextlib.ExitStack() as locks:
                for name in ("kv", "drops"):
                    lock = locks.enter_context((store / f"{name}.sqlite.turn").open("rb"))
                    fcntl.flock(lock, fcntl.LOCK_EX)
                held = in_threads(4, ask)
            free = in_threads(2, ask)

        self.assertEqual([503, 503, 503, 200], [answer.status_code for answer in held])
        self.assertEqual(["5", "5", "5"], [answer.headers["Retry-After"] for answer in held[:3]])
        self.assertEqual([200, 201], [answer.status_code for answer in free])

    def failing(self, daemon: Daemon, what: str) -> contextlib.AbstractContextManager[None]:
        return traced(daemon, "-o", "/dev/null", "-e", f"inject={what}")


class FullFromTheStartTest(PrivateDiskCase):
    def test_daemon_on_a_full_disk_starts_and_accepts_keys_when_space_is_free(self) -> None:
        store = self.disk("1M", "head -c 2M /dev/zero >filler", "--mount", "kv=/")
        refused = [requests.post(f"{self.daemon.url}/set", json={"key": 1}), requests.get(f"{self.daemon.url}/key")]
        (store.parent / "filler").unlink()

        taken = requests.post(f"{self.daemon.url}/set", json={"key": 1})
        committed = requests.post(f"{self.daemon.url}/commit")

        self.assertEqual([507, 507], [answer.status_code for answer in refused])
        self.assertEqual([201, 204], [taken.status_code, committed.status_code])
        self.assertEqual({"key": 1}, requests.get(f"{self.daemon.url}/key").json())


def queued_without_the_log(database: Path) -> list[bytes]:
    """The queued keys that the database has without its write-ahead log."""
    with contextlib.closing(sqlite3.connect(f"file:{database}?immutable=1", uri=True)) as shell:
        return [key for (key,) in shell.execute("SELECT key FROM queue ORDER BY id")]
