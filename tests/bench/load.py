"""Clients, all on the client's core: wrk for many small requests, sockets for a few large ones."""

from __future__ import annotations

import re
import resource
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tests.bench.machine import CLIENT_CORE, pinned
from tests.daemon.process import PATIENCE
from tests.support import find_program

# Uploads of unique bytes: they begin with a mark and a number.
_UPLOADS = """
local sent, padding = 0, string.rep("x", {size})
request = function()
  sent = sent + 1
  local mark = string.format("%s %d ", "{mark}", sent)
  return wrk.format("{method}", "{path}" .. ({named} and string.gsub(mark, " ", "-") or ""), nil,
                    mark .. string.sub(padding, #mark + 1))
end
"""

# Requests of a list of paths in turn.
_PATHS = """
local paths, asked = {{}}, 0
init = function()
  for line in io.lines("{file}") do paths[#paths + 1] = wrk.format("{method}", line) end
end
request = function()
  asked = asked % #paths + 1
  return paths[asked]
end
"""


class Load(NamedTuple):
    """The result of wrk, or of bare threads. Times are in seconds: of a half, of all but a hundredth, the longest."""

    rate: float
    p50: float
    p99: float
    slowest: float
    requests: int
    # CPU time of wrk, as a share of one core.
    client_share: float = 0.0


def run_wrk(
    url: str, clients: int, seconds: int, *arguments: str, core: int | None = CLIENT_CORE, refused: bool = False
) -> Load:
    """Request `url` repeatedly. Raises AssertionError for a response other than 2xx and for a socket error.

    With `refused`, other responses are as good.
    """
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    pin = [] if core is None else pinned(core)
    command = [*pin, find_program("wrk"), "-t1", f"-c{clients}", f"-d{seconds}s", "--latency", *arguments, url]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    after, elapsed = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic() - started
    if ("Non-2xx" in output and not refused) or "Socket errors" in output:
        raise AssertionError(output)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    (rate,) = re.findall(r"Requests/sec:\s+([0-9.]+)", output)
    (count,) = re.findall(r"(\d+) requests in", output)
    p50, p99 = (_seconds(each) for each in re.findall(r"(?:50|99)%\s+([0-9.]+[a-z]+)", output))
    (slowest,) = re.findall(r"Latency(?:\s+[0-9.]+[a-z]+){2}\s+([0-9.]+[a-z]+)", output)
    return Load(float(rate), p50, p99, _seconds(slowest), int(count), used / elapsed)


def uploads(directory: Path, size: int, *, method: str = "POST", path: str = "/", named: bool = False) -> Sequence[str]:
    """Return arguments for wrk that upload `size` unique bytes, each to a path of its own below `path` if `named`."""
    mark = str(time.monotonic_ns())
    flag = "true" if named else "false"
    return script(directory, "uploads", _UPLOADS.format(size=size, mark=mark, method=method, path=path, named=flag))


def many_paths(directory: Path, name: str, paths: list[str], *, method: str = "GET") -> Sequence[str]:
    """Return arguments for wrk that request these paths in turn."""
    file = directory / f"{name}.paths"
    file.write_text("\n".join(paths) + "\n")
    return script(directory, name, _PATHS.format(file=file, method=method))


def script(directory: Path, name: str, text: str) -> Sequence[str]:
    """Return arguments for wrk that run this script."""
    path = directory / f"{name}.lua"
    path.write_text(text)
    return ("-s", str(path))


def fetch(port: int, path: str) -> float:
    """Fetch a large object and discard it. Returns the seconds."""
    buffer = bytearray(1024 * 1024)
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as connection:
        started = time.monotonic()
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        while connection.recv_into(buffer):
            pass
        return time.monotonic() - started


def upload(port: int, path: str, file: Path) -> tuple[float, bytes]:
    """Upload a file. Returns the seconds until the response, and the response."""
    with file.open("rb") as stream, socket.create_connection(("127.0.0.1", port), PATIENCE) as connection:
        started = time.monotonic()
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {file.stat().st_size}\r\n"
        connection.sendall(f"{head}Accept: text/plain\r\nConnection: close\r\n\r\n".encode())
        connection.sendfile(stream)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
        return time.monotonic() - started, answer


def ask(connection: socket.socket, request: bytes) -> bytes:
    connection.sendall(request)
    return connection.recv(65536)


def _seconds(text: str) -> float:
    ((number, unit),) = re.findall(r"^([0-9.]+)([a-z]+)$", text)
    return float(number) * {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}[unit]
