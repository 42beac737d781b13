"""Drops in daemons of their own: workers and daemons that share them, kills and stops. Storms are in the proofs."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sqlite3
from collections.abc import Iterator

import requests

from tests.daemon.process import PATIENCE, Daemon, running
from tests.support import TempCase, in_threads

PATH = "/vimeo/api/v1.0/file"


def put(daemon: Daemon, data: bytes) -> str:
    """Returns the id."""
    answer = requests.put(daemon.url + PATH, files={"file": ("name", data)}, timeout=PATIENCE)
    answer.raise_for_status()
    return str(answer.json()["url"]).rpartition("/")[2]


def put_with_password(daemon: Daemon, path: str) -> str:
    """Returns the link of a drop whose password is `right`."""
    form = {"file": ("name", b"tea")}
    answer = requests.put(daemon.url + path, files=form, data={"password": "right"}, timeout=PATIENCE)
    return str(answer.json()["url"])


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

    def test_kill_leaves_downloaded_drops_gone_and_releases_the_claimed_one(self) -> None:
        data = os.urandom(10_000_000)
        with self.running() as daemon:
            ids = [put(daemon, b"tea") for _ in range(20)]
            for id_ in ids:
                requests.get(f"{daemon.url}{PATH}/{id_}", timeout=PATIENCE)
            self.wait_until("all are gone", lambda: set(self.states().values()) == {3})
            claimed = put(daemon, data)
            with requests.get(f"{daemon.url}{PATH}/{claimed}", stream=True, timeout=PATIENCE) as client:
                beginning = client.raw.read(1000)
                gone = requests.get(f"{daemon.url}{PATH}/{claimed}", timeout=PATIENCE).status_code
                daemon.kill()
        with self.running() as daemon:
            self.wait_until("it is available", lambda: self.states()[claimed] == 1)
            answer = requests.get(f"{daemon.url}{PATH}/{claimed}", timeout=PATIENCE)
            self.wait_until("the bytes are gone", lambda: not self.files_below(self.store / "drops"))
            answers = [requests.get(f"{daemon.url}{PATH}/{id_}", timeout=PATIENCE) for id_ in ids]

        self.assertEqual((data[:1000], 410), (beginning, gone))
        self.assertTrue(answer.content == data)
        self.assertEqual({410}, {answer.status_code for answer in answers})

    def test_drop_downloaded_right_before_a_graceful_stop_stays_gone(self) -> None:
        data = os.urandom(10_000_000)
        with self.running("--workers", "1") as daemon, self.database() as other:
            id_ = put(daemon, data)
            other.isolation_level = None
            with requests.get(f"{daemon.url}{PATH}/{id_}", stream=True, timeout=PATIENCE) as answer:
                # It is claimed, and most of it is yet to come; its end cannot be written before the rollback.
                other.execute("BEGIN IMMEDIATE")
                self.assertTrue(answer.content == data)
            with os.fdopen(os.pidfd_open(daemon.worker)) as worker:
                daemon.process.send_signal(signal.SIGTERM)
                # Draining takes it less.
                self.assertEqual([], select.select([worker], [], [], 1.5)[0])
            other.execute("ROLLBACK")
            status = daemon.process.wait(PATIENCE)
        with self.running() as daemon:
            again = requests.get(f"{daemon.url}{PATH}/{id_}", timeout=PATIENCE)

        self.assertEqual((0, 410), (status, again.status_code))

    def test_many_passwords_at_once_are_judged_one_after_the_other(self) -> None:
        with self.running("--workers", "12") as daemon:
            for what, expected in (("wrong", [401] * 10 + [429] * 30), ("right", [200] + [410] * 13)):
                link = put_with_password(daemon, PATH)

                def guess(number: int, link: str = link, what: str = what) -> int:
                    password = "right" if what == "right" else f"wrong {number}"
                    return int(requests.get(link, params={"password": password}, timeout=PATIENCE).status_code)

                with self.subTest(what):
                    self.assertEqual(expected, sorted(in_threads(len(expected), guess)))

    def states(self) -> dict[str, int]:
        with self.database() as connection:
            return dict(connection.execute("SELECT id, state FROM drops"))

    @contextlib.contextmanager
    def database(self) -> Iterator[sqlite3.Connection]:
        with contextlib.closing(sqlite3.connect(self.store / "drops.sqlite", timeout=PATIENCE)) as connection:
            yield connection
