"""A real HAProxy in front of several daemons, configured by systemd/haproxy.cfg, whose addresses alone are replaced."""

from __future__ import annotations

import contextlib
import csv
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.bench.servers import wait_until_listening
from tests.daemon.process import PATIENCE, ROOT, Daemon
from tests.support import find_program, free_port

# The names of the daemons in the file.
NAMES = ("one", "two", "three")


class BackendDaemon:
    """A daemon that keeps its addresses through `start`, `kill`, `hang` and `wake`."""

    def __init__(self, name: str, *options: str, environment: dict[str, str] | None = None) -> None:
        self.name = name
        self.port = free_port()
        self.admin_port = free_port()
        self._options = options
        self._environment = environment
        self._ended: list[str] = []
        self.daemon = self._run()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self._ended += self.daemon.lines()
        self.daemon = self._run()

    def lines(self) -> list[str]:
        """The lines of its log, of all its runs."""
        return [*self._ended, *self.daemon.lines()]

    def kill(self) -> None:
        self.daemon.kill()

    def hang(self) -> None:
        """Stop all its processes: connections stay open, new ones are accepted by the kernel, and nothing answers."""
        self._signal(signal.SIGSTOP)

    def wake(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        # The supervisor first: it would replace a worker that does not answer.
        for pid in (self.daemon.process.pid, *self.daemon.workers()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _run(self) -> Daemon:
        listeners = ("--listen", f"127.0.0.1:{self.port}", "--admin-listen", f"127.0.0.1:{self.admin_port}")
        daemon = Daemon(*listeners, "--trusted-proxy", "127.0.0.1", *self._options, environment=self._environment)
        return daemon.wait_until_listening()


@contextlib.contextmanager
def running_daemons(*options: str, environment: dict[str, str] | None = None) -> Iterator[list[BackendDaemon]]:
    """Three daemons with these options, for the length of a block; `{name}` in an option is the daemon's name."""
    with contextlib.ExitStack() as stack:
        daemons = []
        for name in NAMES:
            own = (option.replace("{name}", name) for option in options)
            daemons.append(BackendDaemon(name, *own, environment=environment))
            stack.callback(daemons[-1].kill)
        yield daemons


class HAProxy:
    """A running HAProxy in front of daemons."""

    def __init__(self, directory: Path, daemons: Sequence[BackendDaemon]) -> None:
        self.port = free_port()
        self._path = directory / "haproxy.cfg"
        self._socket = directory / "haproxy.sock"
        self._log = directory / "haproxy.log"
        self._path.write_text(self._configuration(daemons))
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [find_program("haproxy"), "-db", "-f", str(self._path)], stdout=log, stderr=log
            )
        wait_until_listening(self.port)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(PATIENCE)

    def lines(self) -> list[str]:
        return self._log.read_text(errors="replace").splitlines()

    def command(self, text: str) -> str:
        """Send a command to the admin socket; return the response."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(PATIENCE)
            connection.connect(str(self._socket))
            connection.sendall(f"{text}\n".encode())
            received = b""
            while data := connection.recv(65536):
                received += data
            return received.decode()

    def statistics(self, backend: str = "filestoraged") -> dict[str, dict[str, str]]:
        """The statistics of each daemon in a backend, by name."""
        rows = csv.DictReader(self.command("show stat").removeprefix("# ").splitlines())
        return {row["svname"]: row for row in rows if row["pxname"] == backend and row["svname"] in NAMES}

    def status(self, daemon: BackendDaemon) -> str:
        """Return `UP`, `DOWN`, `NOLB` (alive, and not ready) or `DRAIN`."""
        return self.statuses()[NAMES.index(daemon.name)]

    def statuses(self) -> list[str]:
        return [row["status"].split()[0] for row in self.statistics().values()]

    def answered(self) -> list[str]:
        """The names of the daemons that have answered requests."""
        return [name for name, row in self.statistics().items() if int(row["lbtot"])]

    def _configuration(self, daemons: Sequence[BackendDaemon]) -> str:
        configuration = (ROOT / "systemd" / "haproxy.cfg").read_text()
        for daemon in daemons:
            server = rf"server {daemon.name} 10\.0\.0\.1\d:8080"
            here = f"server {daemon.name} 127.0.0.1:{daemon.port} port {daemon.admin_port}"
            configuration, count = re.subn(server, here, configuration)
            assert count == 2, daemon.name
        for shown, here in (
            ("log /dev/log local0", "log stdout format raw local0"),
            # Twice as many descriptors may be more than this machine allows.
            ("maxconn 20000", "maxconn 2000"),
            ("user haproxy", ""),
            ("group haproxy", ""),
            ("stats socket /run/haproxy/admin.sock", f"stats socket {self._socket}"),
            ("bind :80\n", f"bind 127.0.0.1:{self.port}\n"),
        ):
            assert configuration.count(shown) == 1, shown
            configuration = configuration.replace(shown, here)
        return configuration


@contextlib.contextmanager
def running_haproxy(directory: Path, daemons: Sequence[BackendDaemon]) -> Iterator[HAProxy]:
    """HAProxy in front of these daemons, for the length of a block."""
    haproxy = HAProxy(directory, daemons)
    try:
        yield haproxy
    finally:
        haproxy.kill()
