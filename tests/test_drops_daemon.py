"""Drops in daemons of their own: workers and daemons that share them, and kills at random moments."""

from __future__ import annotations

import contextlib
import http.client
import os
import sqlite3
import threading
import time
from pathlib import Path
from typing import Dict, Iterator, List, Set

import requests

from tests.daemon.process import PATIENCE, Daemon, running
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

    def running(self, *arguments: str) -> "contextlib.AbstractContextManager[Daemon]":
        return running("--store", str(self.store), "--mount", "drops=/vimeo/api/v1.0", *arguments)

    def test_of_many_who_race_over_workers_and_daemons_one_gets_each(self) -> None:
        with self.running("--workers", "2") as first, self.running("--workers", "2") as second:
            ids = [put(first, os.urandom(10_000)) for _ in range(10)]

            def race(number: int) -> List[int]:
                daemon = (first, second)[number % 2]
                return [requests.get(f"{daemon.url}{PATH}/{id_}", timeout=PATIENCE).status_code for id_ in ids]

            results = in_threads(16, race)

        for statuses in zip(*results):
            self.assertEqual([200] + [410] * 15, sorted(statuses))

    def test_where_no_priority_can_be_lowered_passwords_still_work(self) -> None:
        # As a service manager has it that filters system calls.
        before = [find_program("strace"), "-D", "-f", "-qq", "-o", "/dev/null", "-e", "inject=setpriority:error=EPERM"]
        with running("--store", str(self.store), "--mount", "drops=/d", before=before) as daemon:
            form = {"files": {"file": ("name", b"tea")}, "data": {"password": "right"}}
            link = requests.put(f"{daemon.url}/d/file", timeout=PATIENCE, **form).json()["url"]

            statuses = [requests.get(link, params={"password": each}).status_code for each in ("wrong", "right")]

        self.assertEqual([401, 200], statuses)

    def test_fetched_bytes_are_gone_within_ten_seconds_also_after_a_kill(self) -> None:
        with self.running() as daemon:
            ids = [put(daemon, b"tea") for _ in range(20)]
            for id_ in ids:
                requests.get(f"{daemon.url}{PATH}/{id_}", timeout=PATIENCE)
            self.wait_until("all are gone", lambda: set(self.states().values()) == {3})
            daemon.kill()
        started = time.monotonic()
        with self.running() as daemon:
            self.wait_until("the bytes are gone", lambda: not self.files_below(self.store / "drops"))
            answers = [requests.get(f"{daemon.url}{PATH}/{id_}", timeout=PATIENCE) for id_ in ids]

        self.assertLess(time.monotonic() - started, 10)
        self.assertEqual({410}, {answer.status_code for answer in answers})

    def test_a_claim_of_a_daemon_that_died_is_found_at_the_next_start(self) -> None:
        data = os.urandom(10_000_000)
        with self.running() as daemon:
            id_ = put(daemon, data)
            client = http.client.HTTPConnection("127.0.0.1", daemon.ports[0], timeout=PATIENCE)
            client.request("GET", f"{PATH}/{id_}")
            beginning = client.getresponse().read(1000)
            gone = requests.get(f"{daemon.url}{PATH}/{id_}", timeout=PATIENCE).status_code
            daemon.kill()
        with self.running() as daemon:
            self.wait_until("it is available", lambda: self.states()[id_] == 1)
            answer = requests.get(f"{daemon.url}{PATH}/{id_}", timeout=PATIENCE)

        self.assertEqual((data[:1000], 410), (beginning, gone))
        self.assertTrue(answer.content == data)

    def test_a_kill_amid_uploads_and_downloads_leaves_each_whole_or_gone(self) -> None:
        sent: Dict[str, bytes] = {}
        fetched: Set[str] = set()
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

    def bytes_and_drops_agree(self) -> bool:
        available = {id_ for id_, state in self.states().items() if state == 1}
        return available == {Path(path).name for path in self.files_below(self.store / "drops")}

    def states(self) -> Dict[str, int]:
        with self.database() as connection:
            return dict(connection.execute("SELECT id, state FROM drops"))

    @contextlib.contextmanager
    def database(self) -> Iterator[sqlite3.Connection]:
        with contextlib.closing(sqlite3.connect(self.store / "drops.sqlite", timeout=PATIENCE)) as connection:
            yield connection
