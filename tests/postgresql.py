"""A real PostgreSQL for tests: a server on a free port, without syncs, and a database for each test."""

from __future__ import annotations

import contextlib
import glob
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import unittest
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psycopg

from tests.daemon.process import kill_all
from tests.runner.shared import is_shared, shared
from tests.support import TempCase, free_port

# Until a server answers, or has ended.
PATIENCE = 40.0

USER, PASSWORD = "fred", "s3cret-of-the-database"


class PostgresAccess:
    """A server that somebody has started, and its databases."""

    def __init__(self, port: int) -> None:
        self.port = port

    def url(
        self, database: str = "postgres", *, port: int | None = None, password: str = PASSWORD, more: str = ""
    ) -> str:
        return f"postgresql://{USER}:{password}@127.0.0.1:{port or self.port}/{database}{more}"

    def connect(self, database: str = "postgres") -> psycopg.Connection[Any]:
        return psycopg.connect(self.url(database), autocommit=True, connect_timeout=round(PATIENCE))

    def create_database(self) -> str:
        """Make an empty database. Returns its name."""
        name = f"test{secrets.token_hex(8)}"
        with self.connect() as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return name

    def drop_database(self, name: str) -> None:
        with self.connect() as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


class PostgresServer(PostgresAccess):
    """A server of its own in a temporary directory, run by an unprivileged user: as root it refuses to run."""

    def __init__(self, *settings: str, sync: bool = False) -> None:
        """`settings` are lines of its configuration. With `sync`, what it has committed survives its kill."""
        super().__init__(free_port())
        self.directory = Path(tempfile.mkdtemp(prefix="filestoraged-pg-"))
        self._settings = [
            f"port = {self.port}",
            "listen_addresses = '127.0.0.1'",
            "unix_socket_directories = ''",
            "shared_buffers = 32MB",
            "max_connections = 100",
            f"fsync = {'on' if sync else 'off'}",
            *settings,
        ]
        self.process: subprocess.Popen[bytes] | None = None
        if os.geteuid() == 0:
            account = pwd.getpwnam("nobody")
            os.chown(self.directory, account.pw_uid, account.pw_gid)
        self._initialize()

    def _initialize(self) -> None:
        password = self.directory / "password"
        password.write_text(PASSWORD)
        password.chmod(0o644)
        options = ["--no-sync", "--auth=scram-sha-256", f"--username={USER}", f"--pwfile={password}", "--encoding=UTF8"]
        command = as_server_user(server_program("initdb"), "-D", str(self.data), "--locale=C", *options)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd="/")
        with (self.data / "postgresql.conf").open("a") as file:
            file.write("\n".join(self._settings) + "\n")

    @property
    def data(self) -> Path:
        return self.directory / "data"

    def start(self) -> PostgresServer:
        command = as_server_user(server_program("postgres"), "-D", str(self.data))
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd="/")
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                self.connect().close()
                return self
            except psycopg.OperationalError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError((self.directory / "log").read_text()) from None
                threading.Event().wait(0.02)

    def pids(self) -> list[int]:
        """The process ids of the server and of all its processes."""
        assert self.process is not None
        pid = self.process.pid
        return [pid, *(int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]

    def signal_all(self, number: int) -> None:
        """Send a signal to all processes of the server."""
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def kill(self) -> None:
        """End it as a crash does. Its shared memory can be used again by then."""
        assert self.process is not None
        kill_all(self.pids())
        self.process.wait(PATIENCE)
        (self.data / "postmaster.pid").unlink(missing_ok=True)

    def stop(self) -> None:
        """End it, whatever its clients do."""
        if self.process is not None and self.process.poll() is None:
            self.signal_all(signal.SIGCONT)
            self.process.send_signal(signal.SIGQUIT)
            self.process.wait(PATIENCE)

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)


class PostgresCase(TempCase):
    """Gives each test a database: of the server of the run, or of one of the class, where that has settings."""

    settings: Sequence[str] = ()
    server: PostgresAccess

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        if is_shared() and not cls.settings:
            cls.server = PostgresAccess(shared("postgresql", _start_shared))
        else:
            server = PostgresServer(*cls.settings)
            cls.addClassCleanup(server.remove)
            cls.server = server.start()

    def setUp(self) -> None:
        super().setUp()
        self.database = self.server.create_database()
        self.addCleanup(self.server.drop_database, self.database)
        # The daemon's own time-out is short for a busy machine, and no test of other things is to meet it.
        self.url = self.server.url(self.database, more=f"?connect_timeout={PATIENCE:.0f}")

    def query(self, statement: str, *values: Any) -> list[Any]:
        """Run a statement as another program would."""
        with self.server.connect(self.database) as connection:
            connection.execute("SET search_path = filestoraged")
            cursor = connection.execute(statement, values)
            return cursor.fetchall() if cursor.description else []


def start_postgres(case: unittest.TestCase, *settings: str, sync: bool = False) -> PostgresServer:
    """A server for one test."""
    server = PostgresServer(*settings, sync=sync)
    case.addCleanup(server.remove)
    return server.start()


def _start_shared() -> tuple[int, Callable[[], None]]:
    # Several units use it at a time.
    server = PostgresServer("max_connections = 300").start()
    return server.port, server.remove


def server_program(name: str) -> str:
    """The newest installed one: Debian has no links to them in its path."""
    found = sorted(glob.glob(f"/usr/lib/postgresql/*/bin/{name}"), key=lambda path: int(path.split("/")[4]))
    return found[-1] if found else name


def as_server_user(*command: str) -> list[str]:
    # The signal ends a server whose tests were killed.
    if os.geteuid() != 0:
        return ["setpriv", "--pdeathsig", "QUIT", *command]
    return ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "--pdeathsig", "QUIT", *command]
