"""The servers that are measured, each on the server's core: the daemon, and others that are installed."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.bench.machine import SERVER_CORE, pinned
from tests.daemon.process import PATIENCE, Daemon, clean_environment
from tests.support import find_program, free_port

_NGINX = """
daemon off;
{user}
worker_processes 1;
pid {directory}/nginx.pid;
error_log {directory}/nginx.log;
events {{ worker_connections 4096; }}
http {{
  access_log {access_log};
  sendfile on;
  tcp_nopush on;
  keepalive_requests 1000000000;
  server {{ listen 127.0.0.1:{port}; root {root}; {location} }}
}}
"""


@contextlib.contextmanager
def ours(directory: Path, *arguments: str, workers: int = 1, before: Sequence[str] | None = None) -> Iterator[Daemon]:
    """Run the daemon with its log in a file. `before` is a command prefix, by default one for the server's core."""
    port = free_port()
    where = ("--listen", f"127.0.0.1:{port}", "--store", str(directory / "store"), "--workers", str(workers))
    daemon = Daemon(*where, *arguments, before=pinned(SERVER_CORE) if before is None else before)
    try:
        wait_until_listening(port)
        # At this log level, no line names the port.
        daemon.ports = [port]
        yield daemon
    finally:
        daemon.kill()
        daemon.log.close()


class Other(NamedTuple):
    """Another server."""

    url: str
    pid: int


@contextlib.contextmanager
def nginx(
    directory: Path, root: Path, *, access_log: str = "off", location: str = "", before: Sequence[str] | None = None
) -> Iterator[Other]:
    """Run nginx with one worker, configured for speed. `location` is one more; `before` is as for `ours`."""
    port = free_port()
    configuration = directory / "nginx.conf"
    # As root, its worker would be another user, who cannot read the store.
    user = "user root;" if os.getuid() == 0 else ""
    text = _NGINX.format(directory=directory, user=user, port=port, root=root, access_log=access_log, location=location)
    configuration.write_text(text)
    with run_server([find_program("nginx"), "-c", str(configuration)], port, directory, before=before) as server:
        yield server


@contextlib.contextmanager
def stock(directory: Path, root: Path) -> Iterator[Other]:
    """Run `python3 -m http.server` with keep-alive."""
    port = free_port()
    options = ["--protocol", "HTTP/1.1", "--bind", "127.0.0.1", "-d", str(root)]
    command = [sys.executable, "-m", "http.server", *options, str(port)]
    with run_server(command, port, directory) as server:
        yield server


@contextlib.contextmanager
def copyparty(directory: Path, root: Path) -> Iterator[Other]:
    """Run copyparty, which may read and write in `root`, without its background jobs."""
    port = free_port()
    home = directory / "copyparty"
    home.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "copyparty", "-q", "-i", "127.0.0.1", "-p", str(port), "-v", f"{root}::rw"]
    command += ["--no-thumb", "--no-crt"]
    with run_server(command, port, directory, HOME=str(home), XDG_CONFIG_HOME=str(home)) as server:
        yield server


def installed() -> dict[str, bool]:
    """Return which other servers are installed."""
    with_copyparty = subprocess.run([sys.executable, "-c", "import copyparty"], capture_output=True, check=False)
    has_nginx = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin") is not None
    return {"nginx": has_nginx, "copyparty": with_copyparty.returncode == 0}


def wait_until_listening(port: int) -> None:
    deadline = time.monotonic() + PATIENCE
    pause = threading.Event()
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        pause.wait(0.05)
    raise AssertionError(f"no server listens on port {port}")


@contextlib.contextmanager
def run_server(
    command: list[str], port: int, directory: Path, *, before: Sequence[str] | None = None, **environment: str
) -> Iterator[Other]:
    """Run a program that listens on a port of loopback. `before` is as for `ours`."""
    with (
        (directory / "others.log").open("ab") as log,
        subprocess.Popen(
            [*(pinned(SERVER_CORE) if before is None else before), *command],
            stdout=log,
            stderr=log,
            cwd=directory,
            env={**clean_environment(), **environment},
        ) as process,
    ):
        try:
            wait_until_listening(port)
            yield Other(f"http://127.0.0.1:{port}", process.pid)
        finally:
            process.terminate()
