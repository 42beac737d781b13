"""The machine that is checked: its systemd, its journal, and the service, as one starts and asks it."""

from __future__ import annotations

import http.client
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import unittest
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from tests import support

ROOT = Path(__file__).resolve().parent.parent.parent
UNIT = "filestoraged.service"
CONFIGURATION = Path("/etc/filestoraged.conf")
STORE = Path("/var/lib/filestoraged")
PORT = 8080

# In seconds: nothing that is waited for takes as long.
PATIENCE = 10.0


def run(*command: str, check: bool = True, **settings: Any) -> subprocess.CompletedProcess[str]:
    """Run a command as root. What it printed is in the error, where it fails."""
    settings = {"stdin": subprocess.DEVNULL, "capture_output": True, "encoding": "utf-8", **settings}
    done = subprocess.run(command, check=False, **settings)
    if check and done.returncode:
        raise AssertionError(f"{shlex.join(command)}: status {done.returncode}: {done.stderr}{done.stdout}")
    return done


def systemctl(*arguments: str) -> str:
    return run("systemctl", *arguments).stdout


def show(name: str, unit: str = UNIT) -> str:
    """A property of a unit, as systemd has it now."""
    return systemctl("show", "--value", "--property", name, unit).strip()


def master() -> int:
    return int(show("MainPID"))


def children(pid: int) -> set[int]:
    return {int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def workers() -> set[int]:
    """The process ids of the workers that the master has now."""
    return children(master())


def processes(name: str) -> list[int]:
    """The ids of all processes of that name."""
    names = {path: path.read_text().strip() for path in Path("/proc").glob("[0-9]*/comm")}
    return [int(path.parent.name) for path, each in names.items() if each == name]


def is_alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def wait_until(what: str, condition: Callable[[], Any], patience: float = PATIENCE) -> Any:
    """Wait for something that others bring about, and return it. What fails meanwhile is not there yet."""
    return support.wait_until(what, condition, patience, passing=(OSError, http.client.HTTPException, AssertionError))


class Newcomer:
    """Who follows README.md, in a checkout of his own."""

    def __init__(self) -> None:
        text = (ROOT / "README.md").read_text(encoding="utf-8")
        (section,) = re.findall(r"^## Install as a service\n.*?^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
        self.commands: list[str] = [line for line in section.splitlines() if line]

    def command(self, pattern: str) -> str:
        """The one command of the README that matches."""
        (command,) = [each for each in self.commands if re.search(pattern, each)]
        return command

    def run(self, command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return run("runuser", "-u", "newcomer", "--", "bash", "-c", command, check=check, cwd=ROOT)


class Journal:
    """What the journal gets from now on."""

    def __init__(self) -> None:
        (last,) = self._read("--lines=1") or ({},)
        self._cursor = last.get("__CURSOR")

    def entries(self, unit: str = UNIT) -> list[dict[str, Any]]:
        """What the processes of a unit wrote, with all fields."""
        return [each for each in self._since() if each.get("_SYSTEMD_UNIT") == unit]

    def texts(self) -> list[str]:
        """Everybody's lines, without those of access."""
        lines = (f"{each.get('SYSLOG_IDENTIFIER')}: {each.get('MESSAGE')}" for each in self._since())
        return [line for line in lines if not re.search(r'"?(GET|PUT|POST|DELETE) /', line)]

    def find(self, pattern: str, unit: str = UNIT) -> list[dict[str, Any]]:
        return [each for each in self.entries(unit) if re.search(pattern, str(each["MESSAGE"]))]

    def _since(self) -> list[dict[str, Any]]:
        run("journalctl", "--sync")
        return self._read(f"--after-cursor={self._cursor}") if self._cursor else self._read()

    def _read(self, *arguments: str) -> list[dict[str, Any]]:
        lines = run("journalctl", "--output=json", "--all", "--no-pager", *arguments).stdout.splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]


class Answer(NamedTuple):
    status: int
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=PATIENCE)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(self.path)


def ask(
    method: str, path: str, body: Any = None, *, port: int = PORT, host: str = "127.0.0.1", unix: str = ""
) -> Answer:
    """Ask the service once, on a connection of its own."""
    connection = UnixConnection(unix) if unix else http.client.HTTPConnection(host, port, timeout=PATIENCE)
    try:
        connection.request(method, path, body)
        answer = connection.getresponse()
        return Answer(answer.status, answer.read())
    finally:
        connection.close()


def begin_upload(first: bytes, size: int) -> socket.socket:
    """Begin an upload of `size` bytes on a connection of its own, and wait until the first ones are there."""
    connection = socket.create_connection(("127.0.0.1", PORT), timeout=PATIENCE)
    connection.sendall(b"PUT /data/slow HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % size + first)
    wait_until("the upload has begun", lambda: list(STORE.glob("staging/*/*")))
    return connection


def is_served(port: int = PORT) -> bool:
    return ask("GET", "/-/health", port=port).status == 200


class ServiceCase(unittest.TestCase):
    """Each check finds the service as it was installed, with two workers, and leaves it so. `note` is for its line."""

    configuration = "[filestoraged]\nworkers = 2\n"
    note = ""

    def setUp(self) -> None:
        self.newcomer = Newcomer()
        self.configure(self.configuration)
        systemctl("restart", UNIT)
        self.journal = Journal()

    def configure(self, text: str) -> None:
        CONFIGURATION.write_text(text, encoding="utf-8")

    def put_unit(self, name: str, text: str) -> None:
        """Have a unit, or a drop-in, until the end of this check."""
        path = Path("/etc/systemd/system", name)
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        systemctl("daemon-reload")
        self.addCleanup(systemctl, "daemon-reload")
        self.addCleanup(path.unlink)

    def start_sockets(self, *names: str) -> None:
        """Have systemd listen, until the end of this check; the service waits for its first client."""
        systemctl("stop", UNIT)
        self.addCleanup(systemctl, "stop", *names, UNIT)
        systemctl("start", *names)

    def reload(self) -> None:
        """Reload, and wait until no worker is one of those before."""
        before = workers()
        systemctl("reload", UNIT)
        wait_until("the workers are replaced", lambda: len(workers()) == 2 and not workers() & before)
        wait_until("the reload is over", lambda: show("ActiveState") == "active")

    def kill(self, pid: int, number: int = signal.SIGKILL) -> None:
        os.kill(pid, number)
