"""Sockets that a service manager hands over, as systemd does."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from unittest import mock

from filestoraged.daemon.sockets import inherited_sockets
from tests.daemon.process import ROOT, Daemon, clean_environment
from tests.support import TempCase, read_answer

# Starts what it is told to with sockets that listen on the paths that it is told, from the third descriptor on.
LAUNCHER = """
import json, os, socket, sys
paths, names, kind = json.loads(sys.argv[1])
kept = []
for path in paths:
    listener = socket.socket(socket.AF_UNIX, getattr(socket, kind))
    listener.bind(path)
    if kind == "SOCK_STREAM":
        listener.listen(64)
    kept.append(listener)
copies = [os.dup(listener.fileno()) + 0 for listener in kept]
high = [os.dup2(copy, 100 + number) for number, copy in enumerate(copies)]
for number, descriptor in enumerate(high):
    os.dup2(descriptor, 3 + number, inheritable=True)
os.environ.update(LISTEN_FDS=str(len(paths)), LISTEN_PID=str(os.getpid()))
if names:
    os.environ["LISTEN_FDNAMES"] = names
os.closerange(3 + len(paths), 200)
os.execv(sys.argv[2], sys.argv[2:])
"""


def get(path: str, target: str) -> int:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(path)
        connection.sendall(f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        return read_answer(connection).status


class ActivationTest(TempCase):
    def start(self, count: int, names: str, *arguments: str, kind: str = "SOCK_STREAM") -> tuple[Daemon, list[str]]:
        paths = [str(self.directory / f"socket{number}") for number in range(count)]
        launch = [sys.executable, "-c", LAUNCHER, json.dumps([paths, names, kind])]
        daemon = Daemon("--store", str(self.directory / "store"), *arguments, before=launch)
        self.addCleanup(daemon.log.close)
        self.addCleanup(daemon.kill)
        return daemon, paths

    def test_socket_named_all_or_as_its_unit_serves_all_mounts(self) -> None:
        for names in ("all", "filestoraged.socket", ""):
            with self.subTest(names=names):
                daemon, (path,) = self.start(1, names)
                daemon.wait_until_listening()

                statuses = [get(path, target) for target in ("/-/health", "/-/ready", "/nothing", "/kv/nothing")]

                self.assertEqual([200, 200, 404, 404], statuses)
                # It has no other one.
                self.assertEqual(1, sum("listening on" in line for line in daemon.lines()))
                daemon.stop()
                # The socket is the service manager's.
                (self.directory / "socket0").unlink()

    def test_socket_name_lists_what_is_mounted_on_it(self) -> None:
        daemon, (first, second, third) = self.start(3, "files=/f,repositories:kv=/:operations", "--mount", "kv=/k")
        daemon.wait_until_listening()

        there = {
            path: [target for target in ("/-/ready", "/-/health") if get(path, target) == 200]
            for path in (first, second, third)
        }

        self.assertEqual(
            {first: ["/-/health"], second: ["/-/health"], third: ["/-/ready", "/-/health"]},
            there,
        )
        lines = "\n".join(daemon.lines())
        self.assertIn(f"unix:{first} for files at /f, repositories at /data", lines)
        self.assertIn(f"unix:{second} for kv at /", lines)
        self.assertIn(f"unix:{third} for operations", lines)

    def test_listen_address_is_served_beside_inherited_sockets(self) -> None:
        own = self.directory / "own"
        daemon, (path,) = self.start(1, "kv=/", "--listen", f"unix:{own}", "--listen", f"unix:{path_of(self)}")
        daemon.wait_until_listening()

        self.assertEqual([200, 200], [get(each, "/-/health") for each in (str(own), path)])

    def test_reload_keeps_inherited_sockets(self) -> None:
        daemon, (path,) = self.start(1, "")
        daemon.wait_until_listening()

        self.assertIn("STATUS=Serving on ", daemon.reload())

        self.assertEqual(200, get(path, "/-/health"))

    def test_invalid_socket_name_exits_2_and_names_the_setting(self) -> None:
        for names in ("fils", "files=x", "files,files", "files=/a,kv=/a"):
            with self.subTest(names=names):
                daemon, _ = self.start(1, names)

                self.assertEqual(2, daemon.process.wait(20))
                self.assertIn("FileDescriptorName=", daemon.lines()[-1])
                (self.directory / "socket0").unlink()

    def test_inherited_socket_that_does_not_listen_exits_1(self) -> None:
        daemon, _ = self.start(1, "", kind="SOCK_DGRAM")

        self.assertEqual(1, daemon.process.wait(20))

    def test_inherited_descriptor_that_is_not_open_exits_1_with_one_sentence(self) -> None:
        script = 'LISTEN_PID=$$ exec "$@"'
        command = ["sh", "-c", script, "sh", sys.executable, "-m", "filestoraged", "--listen", "127.0.0.1:0"]
        for count in ("1", "2", "1000000000000"):
            with self.subTest(count=count):
                environment = {**clean_environment(), "LISTEN_FDS": count}

                told = subprocess.run(command, cwd=ROOT, env=environment, check=False, capture_output=True, timeout=20)

                self.assertEqual((1, 1), (told.returncode, told.stderr.count(b"\n")), told.stderr)
                self.assertIn(b"descriptor 3, which is not open", told.stderr)

    def test_descriptors_for_another_process_are_left_alone(self) -> None:
        with mock.patch.dict(os.environ, LISTEN_FDS="1", LISTEN_PID="1", LISTEN_FDNAMES="files"):
            self.assertEqual([], inherited_sockets())


def path_of(case: ActivationTest) -> str:
    """The path of the first socket that is handed over."""
    return str(case.directory / "socket0")
