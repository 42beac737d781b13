"""SIGHUP: workers of the configuration as it is now take over one by one, and nobody who asks meanwhile is let down."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import threading
import time

import requests

from filestoraged.web.limits import Limits
from tests.daemon.process import KILLED_WORKER, PATIENCE, Daemon, running
from tests.support import Answer, TempCase, free_port, read_answer

HEALTH = b"GET /-/health HTTP/1.1\r\nHost: localhost\r\n\r\n"

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

    def reload(self, daemon: Daemon, says: str = "INFO reloaded") -> str:
        """Have it reload. Returns the line that says how that went."""
        before = len(daemon.lines())
        daemon.process.send_signal(signal.SIGHUP)
        self.wait_until(says, lambda: any(says in line for line in daemon.lines()[before:]))
        return next(line for line in daemon.lines()[before:] if says in line)

    def test_reload_starts_workers_with_the_new_configuration_on_the_same_port(self) -> None:
        with self.daemon() as daemon:
            workers, port = daemon.workers(), daemon.ports[0]
            self.assertEqual(200, requests.post(daemon.url, data=b"four", timeout=PATIENCE).status_code)

            self.configure("max-size = 3", "workers = 3")
            self.file.write_text(self.file.read_text().replace("workers = 2\n", ""))
            line = self.reload(daemon)

            self.assertIn("with 3 workers", line)
            self.wait_until("others", lambda: len(daemon.workers()) == 3 and not set(workers) & set(daemon.workers()))
            self.assertEqual(413, requests.post(daemon.url, data=b"five", timeout=PATIENCE).status_code)
            self.assertEqual(port, daemon.wait_until_listening().ports[-1])

    def test_invalid_configuration_is_refused_and_the_former_one_stays(self) -> None:
        self.announce("not reloaded, keeping the former configuration: ")
        not_a_directory = self.directory / "file"
        not_a_directory.touch()
        open_to_all = self.directory / "tokens"
        open_to_all.touch()
        open_to_all.chmod(0o666)
        for lines in (
            ["max-size = much"],
            ["no such line"],
            ["nonsense = 1"],
            [f"tokens = {self.directory}/none"],
            ["tokens = \0"],
            [f"tokens = {open_to_all}"],
            ["admin-listen = a..b:0"],
            [f"admin-listen = {'a' * 64}.example:0"],
            ["admin-listen = unix:\0"],
            ["max-connections = 0"],
        ):
            with self.subTest(lines=lines), self.daemon() as daemon:
                workers, before = daemon.workers(), len(daemon.lines())
                self.configure(*lines)

                self.reload(daemon, "ERROR not reloaded")

                self.assertEqual(1, len(daemon.lines()) - before, daemon.lines())
                self.assertEqual(workers, daemon.workers())
                self.assertEqual(200, requests.post(daemon.url, data=b"tea", timeout=PATIENCE).status_code)
            self.configure()

    def test_sigterm_ends_a_reload_that_waits_for_a_file(self) -> None:
        """Nothing is ever written to a FIFO, so that whatever opens it waits for ever."""
        os.mkfifo(self.directory / "fifo")
        with self.daemon() as daemon:
            self.configure(f"tokens = {self.directory / 'fifo'}")
            daemon.process.send_signal(signal.SIGHUP)
            self.wait_until("it waits", lambda: len(os.listdir(f"/proc/{daemon.process.pid}/task")) == 2)

            status = daemon.stop()

            self.assertEqual(0, status)

    def test_sigterm_ends_a_start_that_waits_for_a_file(self) -> None:
        os.mkfifo(self.directory / "fifo")
        self.configure(f"tokens = {self.directory / 'fifo'}")
        daemon = Daemon("--config", str(self.file), "--listen", "127.0.0.1:0")
        self.addCleanup(daemon.log.close)
        self.addCleanup(daemon.kill)
        self.wait_until("it waits", lambda: len(os.listdir(f"/proc/{daemon.process.pid}/task")) == 2)

        status = daemon.stop()

        self.assertEqual(0, status)

    def test_reload_with_an_unusable_store_is_refused(self) -> None:
        self.announce("not reloaded, keeping the former configuration: cannot write the store")
        with self.daemon() as daemon:
            (self.directory / "file").touch()
            self.file.write_text(f"[filestoraged]\nworkers = 2\nstore = {self.directory / 'file'}\n")

            line = self.reload(daemon, "ERROR not reloaded")

            self.assertIn("cannot write the store", line)
            self.assertEqual(200, requests.post(daemon.url, data=b"tea", timeout=PATIENCE).status_code)

    def test_reloads_under_load_refuse_and_break_no_request(self) -> None:
        with self.daemon() as daemon, Load(daemon.ports[0]) as load:
            for _ in range(5):
                self.reload(daemon)
                load.wait_for_more(300)

        self.assertEqual([], load.failures)

    def test_a_request_under_way_is_finished_by_the_worker_that_has_it(self) -> None:
        with self.daemon() as daemon, socket.create_connection(("127.0.0.1", daemon.ports[0]), PATIENCE) as upload:
            upload.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
            self.assertEqual(100, read_answer(upload).status)

            self.reload(daemon)
            upload.sendall(b"tea")

            self.assertEqual(200, read_answer(upload).status)
            self.wait_until("they have left", lambda: len(daemon.workers()) == 2)

    def test_idle_connection_gets_one_more_response_after_a_reload(self) -> None:
        with self.daemon() as daemon:
            attempts = (self.ask_after_reload(daemon) for _ in range(20))
            answer = next((each for each in attempts if each is not None), None)

        assert answer is not None
        self.assertEqual((200, "close"), (answer.status, answer.fields["connection"]))

    def ask_after_reload(self, daemon: Daemon) -> Answer | None:
        """Reload while a connection is idle, and use it then. None where that took longer than it is kept."""
        with socket.create_connection(("127.0.0.1", daemon.ports[0]), PATIENCE) as resting:
            resting.sendall(HEALTH)
            self.assertEqual(200, read_answer(resting).status)
            began = time.monotonic()
            self.reload(daemon)
            try:
                resting.sendall(HEALTH)
                return read_answer(resting)
            except (OSError, AssertionError):
                if time.monotonic() - began < LAST_CALL:
                    raise
                return None

    def test_reload_adds_and_removes_a_unix_socket(self) -> None:
        path = self.directory / "socket"
        with self.daemon() as daemon:
            self.configure(f"admin-listen = unix:{path}")
            self.reload(daemon)
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(str(path))
                connection.sendall(HEALTH)
                self.assertEqual(200, read_answer(connection).status)

            self.configure()
            self.reload(daemon)

            self.assertFalse(path.exists())
            self.assertEqual(200, requests.get(f"{daemon.url}/-/health", timeout=PATIENCE).status_code)

    def test_reload_with_more_workers_than_slots_is_refused(self) -> None:
        self.announce("not reloaded, keeping the former configuration: --workers 1000 exceeds 512")
        with self.daemon() as daemon:
            self.file.write_text(self.file.read_text().replace("workers = 2", "workers = 1000"))

            line = self.reload(daemon, "ERROR not reloaded")

            self.assertIn("--workers 1000 exceeds 512, the maximum until a restart", line)
            self.assertEqual(200, requests.post(daemon.url, data=b"tea", timeout=PATIENCE).status_code)

    def test_reload_removes_an_address_and_adds_it_again(self) -> None:
        def connects(port: int) -> bool:
            with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port), PATIENCE):
                return True
            return False

        with self.daemon() as daemon:
            port = free_port()
            for listens in (True, False, True):
                self.configure(*([f"admin-listen = 127.0.0.1:{port}"] if listens else []))
                self.reload(daemon)
                self.wait_until("it is so", lambda listens=listens: connects(port) == listens)  # type: ignore[misc]

    def test_reload_keeps_an_address_with_another_spelling_or_use(self) -> None:
        port, other = free_port(), free_port()
        self.configure(f"listen = 127.0.0.1:{port}")
        daemon = Daemon("--config", str(self.file))
        self.addCleanup(daemon.log.close)
        self.addCleanup(daemon.kill)
        daemon.wait_until_listening()
        for lines in (
            [f"listen = localhost:{port}"],
            [f"listen = 127.0.0.1:{other}", f"admin-listen = localhost:{port}"],
            [f"listen = 127.0.0.1:{port}"],
        ):
            self.configure(*lines)
            self.reload(daemon)
            self.assertEqual(200, requests.get(f"http://127.0.0.1:{port}/-/ready", timeout=PATIENCE).status_code)

    def test_reload_with_one_address_twice_is_refused(self) -> None:
        self.announce("not reloaded, keeping the former configuration: cannot listen on .* twice$")
        with self.daemon() as daemon:
            port = free_port()
            self.configure(f"admin-listen =\n    127.0.0.1:{port}\n    localhost:{port}")

            self.assertIn("not reloaded", self.reload(daemon, "ERROR not reloaded"))

    def test_worker_that_dies_after_a_reload_is_replaced_with_the_new_configuration(self) -> None:
        self.announce(KILLED_WORKER)
        with self.daemon() as daemon:
            self.configure("max-size = 3")
            self.reload(daemon)
            self.wait_until("they have left", lambda: len(daemon.workers()) == 2)

            for pid in daemon.workers():
                os.kill(pid, signal.SIGKILL)
            self.wait_until("replaced", lambda: sum("died after" in line for line in daemon.lines()) == 2)

            self.assertEqual(413, requests.post(daemon.url, data=b"five", timeout=PATIENCE).status_code)

    def test_reload_changes_the_log_level(self) -> None:
        with self.daemon() as daemon:
            old = daemon.workers()
            self.configure("log-level = warning")
            daemon.process.send_signal(signal.SIGHUP)
            self.wait_until("others", lambda: not set(old) & set(daemon.workers()))
            with requests.Session() as session:
                for _ in range(3):
                    # The line of one is written before the next is answered.
                    session.get(f"{daemon.url}/-/health", timeout=PATIENCE)

            self.assertFalse([line for line in daemon.lines() if "/-/health" in line])

    def test_the_service_manager_is_told(self) -> None:
        self.announce("not reloaded, keeping the former configuration: configuration .* unknown option 'nonse")
        path = str(self.directory / "notify")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.bind(path)
            manager.settimeout(PATIENCE)
            with running("--config", str(self.file), environment={"NOTIFY_SOCKET": path}) as daemon:
                manager.recv(1000)
                daemon.process.send_signal(signal.SIGHUP)
                told = [manager.recv(1000).decode().split("\n")[0] for _ in range(2)]
                self.configure("nonsense = 1")
                daemon.process.send_signal(signal.SIGHUP)
                refused = [manager.recv(1000).decode() for _ in range(2)][1]

        self.assertEqual(["RELOADING=1", "READY=1"], told)
        self.assertIn("nonsense", refused)


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
