"""SIGHUP to a real daemon. Only real processes show who accepts on a shared socket, and that no client is refused.

`test_master.py` has what a reload reads, refuses and reports.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import time

import requests

from filestoraged.web.limits import Limits
from tests.daemon.process import PATIENCE, Daemon, running
from tests.support import TempCase, free_port, read_answer

# Seconds for which a worker that drains keeps an idle connection.
LAST_CALL = Limits().last_call


class ReloadTest(TempCase):
    def setUp(self) -> None:
        super().setUp()
        self.file = self.directory / "filestoraged.conf"
        self.configure()

    def configure(self, *lines: str) -> None:
        store = f"store = {self.directory / 'store'}"
        self.file.write_text("\n".join(["[filestoraged]", store, "workers = 2", *lines, ""]))

    def daemon(self) -> contextlib.AbstractContextManager[Daemon]:
        return running("--config", str(self.file))

    def reload(self, daemon: Daemon) -> None:
        self.assertIn("STATUS=Serving on ", daemon.reload())

    def test_reloads_under_load_refuse_and_break_no_request(self) -> None:
        with self.daemon() as daemon, Load(daemon.ports[0]) as load:
            for _ in range(3):
                self.reload(daemon)
                load.wait_for_more(100)

        self.assertEqual([], load.failures)

    def test_new_configuration_serves_on_the_same_port_and_a_former_worker_finishes_its_request(self) -> None:
        port = free_port()
        self.configure(f"admin-listen = 127.0.0.1:{port}")
        with self.daemon() as daemon, socket.create_connection(("127.0.0.1", daemon.ports[0]), PATIENCE) as upload:
            former = set(daemon.workers())
            upload.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
            self.assertEqual(100, read_answer(upload).status)

            self.configure("max-size = 3")
            self.reload(daemon)
            refused = requests.post(daemon.url, data=b"four", timeout=PATIENCE)
            upload.sendall(b"four")

            self.assertEqual((413, 200), (refused.status_code, read_answer(upload).status))
            upload.close()
            self.wait_until("they have left", lambda: len(daemon.workers()) == 2 and not former & set(daemon.workers()))
            self.assertRaises(ConnectionRefusedError, socket.create_connection, ("127.0.0.1", port))


class Load:
    """Clients that ask all the time, some by one connection for all, some by one for each."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._over = threading.Event()
        self._answered: list[int] = []
        self._progress = threading.Condition()
        self._threads = [threading.Thread(target=self._run, args=(keep,)) for keep in (True, True, False, False)]
        self.failures: list[str] = []

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def wait_for_more(self, count: int) -> None:
        wanted = len(self._answered) + count
        with self._progress:
            self._progress.wait_for(lambda: len(self._answered) >= wanted or self.failures, PATIENCE)

    def _run(self, keep: bool) -> None:
        client = http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE)
        former = time.monotonic()
        while not self._over.is_set() and not self.failures:
            began = time.monotonic()
            try:
                try:
                    client.request("POST", "/", b"tea", {} if keep else {"Connection": "close"})
                finally:
                    # It may have been idle since the request before, whose answer may have waited for this process.
                    idle = time.monotonic() - (former if keep else began)
                answer = client.getresponse()
                body = answer.read()
            except (OSError, http.client.HTTPException) as error:
                client.close()
                # A worker that drains may close a connection that this busy machine has kept idle for so long.
                if idle < LAST_CALL:
                    self.failures.append(repr(error))
                body = b""
            else:
                if answer.status != 200 or b"hash" not in body:
                    self.failures.append(f"{answer.status} {body!r}")
            former = began
            with self._progress:
                self._answered.append(1)
                self._progress.notify_all()
        client.close()
