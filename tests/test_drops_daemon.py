"""Drops in daemons of their own: workers and daemons that share them, and kills at random moments."""

from __future__ import annotations

import contextlib
import http.client
import os
import select
import signal
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import requests

from tests.daemon.process import PATIENCE, Daemon, running
from tests.runner.marks import long
from tests.support import TempCase, find_program, in_threads

PATH = "/vimeo/api/v1.0/file"


def put(daemon: Daemon, data: bytes) -> str:
    """Returns the id."""
    answer = requests.put(daemon.url + PATH, files={"file": ("name", data)}, timeout=PATIENCE)
    answer.raise_for_status()
    return str(answer.json()["url"]).rpartition("/")[2]


class DropsDaemonTest(TempCase):
    def setUp(self) -> None:
        super().setUp()
        self.store = self.directory / "store"

    def running(self, *arguments: str) -> contextlib.AbstractContextManager[Daemon]:
        return running("--store", str(self.store), "--mount", "drops=/vimeo/api/v1.0", *arguments)

    def test_one_of_many_clients_of_workers_and_daemons_gets_each_drop(self) -> None:
        with self.running("--workers", "2") as first, self.running("--workers", "2") as second:
            ids = [put(first, os.urandom(10_000)) for _ in range(10)]

            def race(number: int) -> list[int]:
                daemon = (first, second)[number % 2]
                return [requests.get(f"{daemon.url}{PATH}/{id_}", timeout=PATIENCE).status_code for id_ in ids]

            results = in_threads(16, race)

        for statuses in zip(*results):
            self.assertEqual([200] + [410] * 15, sorted(statuses))

    def test_passwords_work_where_setpriority_fails(self) -> None:
        # As a service manager has it that filters system calls.
        before = [find_program("strace"), "-D", "-f", "-qq", "-o", "/dev/null", "-e", "inject=setpriority:error=EPERM"]
        with running("--store", str(self.store), "--mount", "drops=/d", before=before) as daemon:
            form = {"files": {"file": ("name", b"tea")}, "data": {"password": "right"}}
            link = requests.put(f"{daemon.url}/d/file", timeout=PATIENCE, **form).json()["url"]

            statuses = [requests.get(link, params={"password": each}).status_code for each in ("wrong", "right")]

        self.assertEqual([401, 200], statuses)

    def test_bytes_of_downloaded_drops_are_removed_after_a_kill_too(self) -> None:
        with self.running() as daemon:
            ids = [put(daemon, b"tea") for _ in range(20)]
            for id_ in ids:
                requests.get(f"{daemon.url}{PATH}/{id_}", timeout=PATIENCE)
            self.wait_until("all are gone", lambda: set(self.states().values()) == {3})
            daemon.kill()
        with self.running() as daemon:
            self.wait_until("the bytes are gone", lambda: not self.files_below(self.store / "drops"))
            answers = [requests.get(f"{daemon.url}{PATH}/{id_}", timeout=PATIENCE) for id_ in ids]

        self.assertEqual({410}, {answer.status_code for answer in answers})

    def test_claim_of_a_killed_daemon_is_released_at_the_next_start(self) -> None:
        data = os.urandom(10_000_000)
        with self.running() as daemon:
            id_ = put(daemon, data)
            client = http.client.HTTPConnection("127.0.0.1", daemon.ports[0], timeout=PATIENCE)
            self.addCleanup(client.close)
            client.request("GET", f"{PATH}/{id_}")
            beginning = client.getresponse().read(1000)
            gone = requests.get(f"{daemon.url}{PATH}/{id_}", timeout=PATIENCE).status_code
            daemon.kill()
        with self.running() as daemon:
            self.wait_until("it is available", lambda: self.states()[id_] == 1)
            answer = requests.get(f"{daemon.url}{PATH}/{id_}", timeout=PATIENCE)

        self.assertEqual((data[:1000], 410), (beginning, gone))
        self.assertTrue(answer.content == data)

    def fetch_while_locked(self, daemon: Daemon) -> tuple[str, sqlite3.Connection]:
        """Fetch a drop whose end cannot be written before the connection that is returned rolls back."""
        data = os.urandom(10_000_000)
        id_ = put(daemon, data)
        other = sqlite3.connect(self.store / "drops.sqlite", timeout=PATIENCE, isolation_level=None)
        self.addCleanup(other.close)
        with requests.get(f"{daemon.url}{PATH}/{id_}", stream=True, timeout=PATIENCE) as answer:
            # It is claimed, and most of it is yet to come.
            other.execute("BEGIN IMMEDIATE")
            self.assertTrue(answer.content == data)
        return id_, other

    def assert_stays(self, pid: int) -> None:
        """The process does not end within a second and a half: draining takes it less."""
        descriptor = os.pidfd_open(pid)
        self.addCleanup(os.close, descriptor)
        self.assertEqual([], select.select([descriptor], [], [], 1.5)[0])

    def test_drop_downloaded_right_before_a_graceful_stop_stays_gone(self) -> None:
        with self.running("--workers", "1") as daemon:
            id_, lock = self.fetch_while_locked(daemon)
            daemon.process.send_signal(signal.SIGTERM)
            self.assert_stays(daemon.worker)
            lock.execute("ROLLBACK")
            status = daemon.process.wait(PATIENCE)
        with self.running() as daemon:
            again = requests.get(f"{daemon.url}{PATH}/{id_}", timeout=PATIENCE)

        self.assertEqual((0, 410), (status, again.status_code))

    def test_drop_downloaded_right_before_a_reload_stays_gone(self) -> None:
        with self.running("--workers", "1") as daemon:
            old = daemon.worker
            id_, lock = self.fetch_while_locked(daemon)
            daemon.process.send_signal(signal.SIGHUP)
            self.wait_until("another worker serves", lambda: any("reloaded" in line for line in daemon.lines()))
            self.assert_stays(old)
            lock.execute("ROLLBACK")
            self.wait_until("the old one has ended", lambda: old not in daemon.workers())
            again = requests.get(f"{daemon.url}{PATH}/{id_}", timeout=PATIENCE)

        self.assertEqual((410, 3), (again.status_code, self.states()[id_]))

    @contextlib.contextmanager
    def failing_syncs(self, pid: int) -> Iterator[None]:
        """The first sync of each thread of a process fails, for the length of a block."""
        fault = "inject=fsync,fdatasync:error=EIO:when=1"
        command = [find_program("strace"), "-f", "-o", "/dev/null", "-e", fault, "-p", str(pid)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
            assert strace.stderr is not None
            self.assertIn("attached", strace.stderr.readline())
            yield
            strace.terminate()

    def test_end_of_a_drop_is_written_again_after_the_disk_failed(self) -> None:
        data = os.urandom(10_000_000)
        with self.running("--workers", "1") as daemon:
            id_ = put(daemon, data)
            url = f"{daemon.url}{PATH}/{id_}"
            # It is claimed before syncs fail, and most of it is yet to come.
            with requests.get(url, stream=True, timeout=PATIENCE) as answer, self.failing_syncs(daemon.worker):
                self.assertTrue(answer.content == data)
                self.wait_until("that is logged", lambda: self.warnings(daemon) != [])
            again = requests.get(url, timeout=PATIENCE).status_code
            self.wait_until("it is written", lambda: self.states()[id_] == 3)
            warnings = self.warnings(daemon)

        self.assertEqual(410, again)
        self.assertEqual(1, len(warnings), warnings)

    def warnings(self, daemon: Daemon) -> list[str]:
        return [line for line in daemon.lines() if "cannot record the state of drops" in line]

    def test_ten_wrong_passwords_are_judged_however_many_come_at_once(self) -> None:
        with self.running("--workers", "2") as daemon:
            form = {"files": {"file": ("name", b"tea")}, "data": {"password": "right"}}
            link = requests.put(daemon.url + PATH, timeout=PATIENCE, **form).json()["url"]

            def guess(number: int) -> int:
                return requests.get(link, params={"password": f"wrong {number}"}, timeout=PATIENCE).status_code

            statuses = in_threads(40, guess)
            right = requests.get(link, params={"password": "right"}, timeout=PATIENCE)

        self.assertEqual([401] * 10 + [429] * 30, sorted(statuses))
        self.assertEqual(429, right.status_code)
        self.assertIn(int(right.headers["Retry-After"]), range(1, 61))

    def test_one_of_many_right_passwords_gets_the_drop_and_none_gets_429(self) -> None:
        with self.running("--workers", "12") as daemon:
            form = {"files": {"file": ("name", b"tea")}, "data": {"password": "right"}}
            link = requests.put(daemon.url + PATH, timeout=PATIENCE, **form).json()["url"]

            statuses = in_threads(
                14, lambda _: requests.get(link, params={"password": "right"}, timeout=PATIENCE).status_code
            )

        self.assertEqual([200] + [410] * 13, sorted(statuses))

    @long("a storm of kills")
    def test_kill_during_uploads_and_downloads_leaves_each_drop_whole_or_gone(self) -> None:
        sent: dict[str, bytes] = {}
        fetched: set[str] = set()
        enough = threading.Semaphore(0)

        def client(number: int) -> None:
            with contextlib.suppress(requests.RequestException):
                for step in range(1000):
                    data = f"{number} {step} ".encode() * (100 if number % 3 else 300_000)
                    id_ = put(daemon, data)
                    sent[id_] = data
                    if step % 2:
                        answer = requests.get(f"{daemon.url}{PATH}/{id_}", timeout=PATIENCE)
                        if answer.status_code == 200 and answer.content == data:
                            fetched.add(id_)
                    enough.release()

        with self.running() as daemon:
            clients = [threading.Thread(target=client, args=(number,)) for number in range(50)]
            for each in clients:
                each.start()
            for _ in range(150):
                self.assertTrue(enough.acquire(timeout=PATIENCE))
            daemon.kill()
            for each in clients:
                each.join()
        with self.running() as daemon:
            self.wait_until("nothing is half-way", lambda: set(self.states().values()) <= {1, 3})
            self.wait_until("bytes and drops agree", self.bytes_and_drops_agree)
            states = self.states()
            answers = {id_: requests.get(f"{daemon.url}{PATH}/{id_}", timeout=PATIENCE) for id_ in states}

        self.assertLessEqual(set(sent), set(states))
        for id_, answer in answers.items():
            self.assertEqual({1: 200, 3: 410}[states[id_]], answer.status_code)
            if answer.status_code == 200 and id_ in sent:
                self.assertTrue(answer.content == sent[id_])
        # Whoever had not fetched it finds it there.
        for id_ in set(sent) - fetched:
            self.assertIn(answers[id_].status_code, (200, 410))
        self.assertGreater(sum(answer.status_code == 200 for answer in answers.values()), 20)

    def shift_times(self, seconds: float) -> None:
        """As if the clock were ahead by so many seconds, or back again with a negative number."""
        with self.database() as other, other:
            other.execute("UPDATE drops SET created = created - ?, changed = changed - ?", (seconds, seconds))
            other.execute("UPDATE clock SET seen = seen - ?", (seconds,))

    def test_one_start_with_the_clock_8_days_ahead_loses_no_drop(self) -> None:
        with self.running() as daemon:
            id_ = put(daemon, b"tea")
            self.wait_until("the clock was seen", self.is_clock_known)
            daemon.stop()
        self.shift_times(8 * 24 * 3600)
        with self.running() as daemon:
            self.wait_until("it waits", lambda: any("the clock is 192.0 h ahead" in line for line in daemon.lines()))
            # The landing page takes nothing.
            found = requests.get(f"{daemon.url}{PATH.replace('file', 'drop')}/{id_}", timeout=PATIENCE).status_code
            daemon.stop()
        self.shift_times(-8 * 24 * 3600)
        with self.running() as daemon:
            answer = requests.get(f"{daemon.url}{PATH}/{id_}", timeout=PATIENCE)

        self.assertEqual((200, 200, b"tea"), (found, answer.status_code, answer.content))

    def is_clock_known(self) -> bool:
        with self.database() as other:
            return other.execute("SELECT seen FROM clock").fetchone() != (None,)

    def bytes_and_drops_agree(self) -> bool:
        available = {id_ for id_, state in self.states().items() if state == 1}
        return available == {Path(path).name for path in self.files_below(self.store / "drops")}

    def states(self) -> dict[str, int]:
        with self.database() as connection:
            return dict(connection.execute("SELECT id, state FROM drops"))

    @contextlib.contextmanager
    def database(self) -> Iterator[sqlite3.Connection]:
        with contextlib.closing(sqlite3.connect(self.store / "drops.sqlite", timeout=PATIENCE)) as connection:
            yield connection
